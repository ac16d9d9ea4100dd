//! Every failover of a group, with an ultravisor that dies between any two of its steps and
//! successors that die at any time.

use std::collections::HashSet;

use failover::{Phase, Record, Refused, Server};

/// Servers of a model: number 0 is dead at the start, the others are started one after another.
const SERVERS: usize = 4;

fn server(number: usize) -> Server {
    Server {
        partition: 4 + u32::try_from(number % 2).unwrap(),
        start: u32::try_from(number).unwrap(),
    }
}

fn number(server: Server) -> usize {
    usize::try_from(server.start).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Machine {
    record: Record,
    /// A phase whose work is done and not noted.
    worked: Option<Phase>,
    epoch: u32,
    alive: [bool; SERVERS],
    fenced: [bool; SERVERS],
    device: usize,
    /// The server that reset the device since it got it.
    reset_by: Option<usize>,
    pinned: bool,
    ports: usize,
    attached: Option<usize>,
}

impl Machine {
    fn new() -> Self {
        Self {
            record: Record::begin(server(0), server(1), 10).unwrap(),
            worked: None,
            epoch: 10,
            alive: [false, true, true, true],
            fenced: [false; SERVERS],
            device: 0,
            reset_by: None,
            pinned: true,
            ports: 0,
            attached: None,
        }
    }

    /// Does a phase's work, and says what must not be.
    fn work(mut self, phase: Phase) -> Result<Self, &'static str> {
        let (from, to) = (number(self.record.from()), number(self.record.to()));
        let others_are_fenced = (0..to).all(|at| self.fenced[at] || (at != 0 && at != self.device));
        match phase {
            Phase::Epoch => self.epoch = self.record.epoch(),
            Phase::Fenced => self.fenced[from] = true,
            Phase::Moved if !self.fenced[self.device] && self.device != to => {
                return Err("moved from a server that may run");
            }
            Phase::Moved => {
                if self.device != to {
                    self.reset_by = None;
                }
                self.device = to;
            }
            Phase::Reset if self.device != to || !others_are_fenced => {
                return Err("reset under a server that may run");
            }
            Phase::Reset => self.reset_by = Some(to),
            Phase::Unpinned if self.reset_by != Some(self.device) => {
                return Err("unpinned before the reset");
            }
            Phase::Unpinned => self.pinned = false,
            Phase::RePointed => self.ports = to,
            Phase::Attached if self.pinned || self.ports != to || self.reset_by != Some(to) => {
                return Err("attached too early");
            }
            Phase::Attached => self.attached = Some(to),
        }
        self.worked = Some(phase);
        Ok(self)
    }

    fn steps(self) -> Vec<Result<Self, &'static str>> {
        let mut steps = Vec::new();
        let to = number(self.record.to());
        let needs_successor = |phase| phase == Phase::Reset || phase == Phase::Attached;
        if let Some(phase) = self.worked {
            // The ultravisor notes the work; or it dies, and the next one knows the record alone.
            let mut record = self.record;
            assert_eq!(record.note(phase, self.epoch), Ok(()));
            steps.push(Ok(Self { record, worked: None, ..self }));
            steps.push(Ok(Self { worked: None, ..self }));
        } else if let Some(phase) = self.record.next() {
            if self.alive[to] || !needs_successor(phase) {
                steps.push(self.work(phase));
            }
        } else if self.alive[to] && (self.attached != Some(to) || self.epoch != self.record.epoch())
        {
            steps.push(Err("done and not served"));
        }
        if self.alive[to] && to + 1 < SERVERS {
            let mut next = self;
            next.alive[to] = false;
            // A dead server serves nobody, and what it had in flight is pinned.
            next.attached = None;
            next.pinned = true;
            steps.push(Ok(next));
        }
        if !self.alive[to] && self.worked.is_none() && to + 1 < SERVERS {
            let record = self.record.successor_died(server(to + 1)).unwrap();
            steps.push(Ok(Self { record, ..self }));
        }
        steps
    }
}

#[test]
fn every_failover_ends_with_one_server_and_the_device_reset() {
    let mut seen = HashSet::new();
    let mut open = vec![Machine::new()];
    let mut ends = 0;
    while let Some(machine) = open.pop() {
        let steps = machine.steps();
        if steps.is_empty() {
            assert_eq!(machine.record.next(), None, "stuck: {machine:?}");
            assert_eq!(machine.attached, Some(number(machine.record.to())));
            ends += 1;
        }
        for step in steps {
            let next = step.unwrap_or_else(|what| panic!("{what}: {machine:?}"));
            if seen.insert(next) {
                open.push(next);
            }
        }
    }
    println!("{} states, {ends} ends", seen.len());
    assert!(seen.len() > 100 && ends > 0);
}

#[test]
fn phases_are_noted_in_order_and_in_their_epoch() {
    let mut record = Record::begin(server(0), server(1), 3).unwrap();
    assert_eq!(
        (record.epoch(), record.next(), record.holder()),
        (4, Some(Phase::Epoch), server(0))
    );
    assert_eq!(record.note(Phase::Fenced, 4), Err(Refused::NotYet { next: Phase::Epoch }));
    assert_eq!(record.note(Phase::Epoch, 3), Err(Refused::Stale { epoch: 4 }));
    for phase in Phase::ALL {
        assert_eq!(record.next(), Some(phase));
        // Twice, as after a death of the ultravisor.
        assert_eq!(record.note(phase, 4), Ok(()));
        assert_eq!(record.note(phase, 4), Ok(()));
        assert!(record.is_done(phase));
    }
    assert_eq!((record.next(), record.holder()), (None, server(1)));
    assert_eq!(record.note(Phase::Epoch, 4), Ok(()));
    assert_eq!(record.next(), None);
}

#[test]
fn a_failover_has_two_servers_and_an_epoch() {
    assert_eq!(Record::begin(server(1), server(1), 3), Err(Refused::SameServer));
    assert_eq!(Record::begin(server(0), server(1), u32::MAX), Err(Refused::EpochsUsedUp));
    let record = Record::begin(server(0), server(1), 3).unwrap();
    assert_eq!(record.successor_died(server(1)), Err(Refused::SameServer));
    assert_eq!(record.successor_died(server(2)).unwrap().epoch(), 5);
}
