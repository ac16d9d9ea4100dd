//! Random operations of two partitions, checked from scratch after each one.

use crate::invariants::{Outside, check};
use crate::machine::{OWN_SLOT, Sim};
use crate::numbers::{
    drop_range, frame_of, get_base, get_descriptors, hold, map_foreign, pin, put_base,
    put_descriptors, reference, replace_entry_expect, unmap_entry_expect, unpin, update_descriptor,
    update_entry, update_entry_emulated,
};
use frames::Kind;
use page_tables::{Error, Machine, Operation, Request, Space, bits, release};
use proptest::prelude::*;
use std::sync::atomic::Ordering;

#[derive(Clone, Debug)]
pub enum Step {
    Update(u64, usize, u64, bool),
    Emulate(u64, usize, Operation),
    Pin(u8, u64),
    Unpin(u64),
    GetBase(u64),
    PutBase(usize),
    MapForeign(u64, usize, u64),
    Unmap(u64, usize),
    Replace(u64, usize, u64, usize),
    GetDescriptors(u64),
    PutDescriptors(usize),
    UpdateDescriptor(u64, usize, u64),
    Hold(u64, bool),
    Release(usize),
    /// Take a frame from its owner for the other partition.
    Give(u64),
    /// A CPU sets accessed and dirty bits.
    Hardware(u64, usize),
    Finish,
}

const INDEXES: [usize; 9] = [0, 1, 7, 8, 255, 256, 271, 272, 511];
/// First frame of each role in a partition: by level (4 to 1), then data, then the end.
const ROLES: [u64; 6] = [0, 2, 5, 9, 15, 28];

fn role(role: usize) -> impl Strategy<Value = u64> {
    (ROLES[role]..ROLES[role + 1]).prop_map(|n| n + 1)
}

fn value(role_of_target: usize) -> impl Strategy<Value = u64> {
    let target = prop_oneof![
        16 => role(role_of_target),
        2 => 0..66u64,
        1 => role(0),
        1 => role(3),
    ];
    let flags = prop_oneof![
        8 => Just(bits::P | bits::RW | bits::A | bits::D),
        4 => Just(bits::P | bits::US),
        2 => Just(bits::P | bits::NX | 1 << 52),
        1 => Just(0),
        1 => Just(bits::P | bits::G | bits::RW),
        1 => any::<u64>().prop_map(|bits| bits & !bits::ADDRESS),
    ];
    (target, flags).prop_map(|(target, flags)| target << 12 | flags)
}

/// Initial contents of memory: tables as a kernel could have filled them, nearly all of them valid,
/// so that deep trees are taken.
pub fn contents() -> impl Strategy<Value = Vec<(u64, usize, u64)>> {
    let flags = prop_oneof![
        300 => Just(bits::P | bits::RW | bits::A),
        300 => Just(bits::P | bits::NX),
        1 => Just(bits::P | bits::PCD),
    ];
    let entry = (0..4usize, flags).prop_flat_map(|(r, flags)| {
        let target = prop_oneof![500 => role(r + 1), 1 => 0..66u64];
        let index = prop::sample::select(&INDEXES[..]);
        (role(r), index, target.prop_map(move |target| target << 12 | flags))
    });
    prop::collection::vec(entry, 0..80)
}

/// A table, and a value for one of its entries; the roles mostly match.
fn write() -> impl Strategy<Value = (u64, usize, u64)> {
    let fitting = |r: usize| (role(r), prop::sample::select(&INDEXES[..]), value(r + 1));
    prop_oneof![
        2 => fitting(0),
        3 => fitting(1),
        3 => fitting(2),
        6 => fitting(3),
        1 => (1..29u64, prop::sample::select(&INDEXES[..]), value(4)),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        2 => Just(Operation::Exchange(0)),
        2 => Just(Operation::And(!bits::RW)),
        1 => Just(Operation::BitReset(5)),
        1 => Just(Operation::BitSet(1)),
        1 => Just(Operation::Or(bits::P)),
        1 => value(4).prop_map(Operation::Store),
        1 => value(4).prop_map(Operation::Or),
        1 => value(4).prop_map(|new| Operation::CompareExchange { expected: 0, new }),
    ]
}

pub fn step() -> impl Strategy<Value = Step> {
    let index = || prop::sample::select(&INDEXES[..]);
    prop_oneof![
        16 => (write(), any::<bool>()).prop_map(|((t, i, v), p)| Step::Update(t, i, v, p)),
        4 => (role(3), index(), operation()).prop_map(|(t, i, o)| Step::Emulate(t, i, o)),
        6 => (0..4usize).prop_flat_map(|r| role(r).prop_map(move |f| Step::Pin(4 - r as u8, f))),
        1 => (0..6u8, 1..29u64).prop_map(|(level, f)| Step::Pin(level, f)),
        4 => (1..16u64).prop_map(Step::Unpin),
        3 => role(0).prop_map(Step::GetBase),
        2 => (0..4usize).prop_map(Step::PutBase),
        3 => (role(3), index(), value(4)).prop_map(|(t, i, v)| Step::MapForeign(t, i, v)),
        3 => (role(3), index()).prop_map(|(t, i)| Step::Unmap(t, i)),
        3 => (role(3), index(), role(3), index())
            .prop_map(|(t, i, u, j)| Step::Replace(t, i, u, j)),
        1 => (1..29u64).prop_map(Step::GetDescriptors),
        1 => (0..4usize).prop_map(Step::PutDescriptors),
        1 => (1..29u64, index(), any::<u64>()).prop_map(|(f, i, d)| Step::UpdateDescriptor(f, i, d)),
        1 => (1..29u64, any::<bool>()).prop_map(|(f, w)| Step::Hold(f, w)),
        1 => (0..4usize).prop_map(Step::Release),
        1 => (1..29u64).prop_map(Step::Give),
        3 => (1..16u64, index()).prop_map(|(t, i)| Step::Hardware(t, i)),
        1 => Just(Step::Finish),
    ]
}

/// One partition, as the simulation runs it.
pub struct Player<'a> {
    pub sim: &'a Sim,
    pub space: Space,
    pub outside: Outside,
}

impl<'a> Player<'a> {
    pub fn new(sim: &'a Sim, partition: u32) -> Self {
        Self { sim, space: Space::new(partition, OWN_SLOT), outside: Outside::default() }
    }

    /// Puts `contents` into the partition's memory.
    pub fn fill(&self, contents: &[(u64, usize, u64)]) {
        for &(table, index, value) in contents {
            self.sim.poke(self.mine(table), index, self.value(value));
        }
    }

    fn me(&self) -> u32 {
        self.space.partition()
    }

    /// The frame that has `mfn`'s role in this partition.
    fn mine(&self, mfn: u64) -> u64 {
        mfn + if self.me() == 2 && mfn <= 28 { 28 } else { 0 }
    }

    fn value(&self, value: u64) -> u64 {
        value & !bits::ADDRESS | self.mine(frame_of(value)) << 12
    }

    fn other(&self) -> u32 {
        3 - self.me()
    }

    /// Runs a step. Returns true if it must run again.
    pub fn run(&mut self, step: &Step) -> bool {
        let result = self.attempt(step);
        self.sim.cache(self.me(), &self.bases());
        result == Err(Error::Again)
    }

    fn bases(&self) -> Vec<u64> {
        self.outside.bases.iter().map(|&(_, mfn)| mfn).collect()
    }

    fn attempt(&mut self, step: &Step) -> Result<(), Error> {
        let (sim, me) = (self.sim, self.me());
        match *step {
            Step::Update(table, index, new, preserve) => {
                let (table, new) = (self.mine(table), self.value(new));
                update_entry(
                    sim,
                    &mut self.space,
                    table,
                    Request { index, new, preserve_ad: preserve },
                )
                .map(drop)
            }
            Step::Emulate(table, index, operation) => {
                let table = self.mine(table);
                let operation = match operation {
                    Operation::Store(value) => Operation::Store(self.value(value)),
                    other => other,
                };
                update_entry_emulated(sim, &mut self.space, table, index, operation).map(drop)
            }
            Step::Pin(level, mfn) => {
                let mfn = self.mine(mfn);
                pin(sim, &mut self.space, level, mfn)
            }
            Step::Unpin(mfn) => {
                let mfn = self.mine(mfn);
                unpin(sim, &mut self.space, mfn)
            }
            Step::GetBase(mfn) => {
                let mfn = self.mine(mfn);
                get_base(sim, &mut self.space, mfn)?;
                self.outside.bases.push((me, mfn));
                Ok(())
            }
            Step::PutBase(n) => {
                if let Some(&(_, mfn)) = self.outside.bases.get(n) {
                    put_base(sim, &mut self.space, mfn)?;
                    self.outside.bases.remove(n);
                }
                Ok(())
            }
            Step::Finish => self.space.finish(sim),
            _ => self.attempt_other(step),
        }
    }

    fn attempt_other(&mut self, step: &Step) -> Result<(), Error> {
        let (sim, me) = (self.sim, self.me());
        match *step {
            Step::MapForeign(table, index, value) => self.map_foreign(table, index, value),
            Step::Unmap(table, index) => {
                let table = self.mine(table);
                let entry = sim.raw(table, index);
                let (mfn, writable) = (frame_of(entry), entry & bits::RW != 0);
                let what = unmap_entry_expect(sim, &mut self.space, table, index, mfn, writable)?;
                assert_eq!(sim.raw(table, index), 0);
                sim.flush_before_retype(self.space.partition(), sim.stamp());
                release(sim, what);
                Ok(())
            }
            Step::Replace(table, index, from_table, from) => {
                let (table, from_table) = (self.mine(table), self.mine(from_table));
                let entry = sim.raw(table, index);
                let (mfn, writable) = (frame_of(entry), entry & bits::RW != 0);
                let (to, from) = ((table, index), (from_table, from));
                let what = replace_entry_expect(sim, &mut self.space, to, from, mfn, writable)?;
                sim.flush_before_retype(self.space.partition(), sim.stamp());
                release(sim, what);
                Ok(())
            }
            Step::GetDescriptors(mfn) => {
                let mfn = self.mine(mfn);
                get_descriptors(sim, &mut self.space, mfn)?;
                self.outside.descriptors.push((me, mfn));
                Ok(())
            }
            Step::PutDescriptors(n) => {
                if n < self.outside.descriptors.len() {
                    let (_, mfn) = self.outside.descriptors.remove(n);
                    put_descriptors(sim, &self.space, mfn);
                }
                Ok(())
            }
            Step::UpdateDescriptor(mfn, index, value) => {
                let mfn = self.mine(mfn);
                update_descriptor(sim, &mut self.space, mfn, index, value)
            }
            Step::Hold(mfn, writable) => {
                let held = hold(sim, me, self.mine(mfn), writable)?;
                self.outside.held.push((held.mfn.number(), held.writable));
                Ok(())
            }
            Step::Release(n) => {
                if n < self.outside.held.len() {
                    let (mfn, writable) = self.outside.held.remove(n);
                    release(sim, reference(mfn, writable));
                }
                Ok(())
            }
            Step::Give(mfn) => {
                self.give(self.mine(mfn));
                Ok(())
            }
            Step::Hardware(table, index) => {
                self.hardware(self.mine(table), index);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn map_foreign(&mut self, table: u64, index: usize, value: u64) -> Result<(), Error> {
        let (table, other) = (self.mine(table), self.other());
        // A frame of the other partition.
        let target = frame_of(value) % 28 + if other == 2 { 29 } else { 1 };
        let value = value & !bits::ADDRESS | target << 12;
        map_foreign(self.sim, &mut self.space, table, index, value, other)?;
        self.outside.granted.push((self.me(), target, value & bits::RW != 0));
        Ok(())
    }

    fn give(&self, mfn: u64) {
        let frame = &self.sim.frames[mfn as usize];
        if frame.set_owner(self.me(), 0, Kind::Ram).is_err() {
            return;
        }
        self.sim.flush_now(self.me());
        for entry in &self.sim.tables[mfn as usize] {
            entry.store(0, Ordering::SeqCst);
        }
        frame.set_owner(0, self.other(), Kind::Ram).unwrap();
    }

    /// Acts as a CPU: sets bits in a present entry of a live table.
    fn hardware(&self, table: u64, index: usize) {
        if !self.sim.word(table).is_validated() || self.sim.word(table).ty().level().is_none() {
            return;
        }
        let monitor = page_tables::MONITOR_SLOTS.contains(&index);
        let entry = &self.sim.tables[table as usize][index];
        let old = entry.load(Ordering::SeqCst);
        if old & bits::P != 0 && !monitor {
            let new = old | bits::A | bits::D;
            let _ = entry.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// Destroys the partition: afterwards it refers to nothing.
    pub fn destroy(&mut self) {
        for (_, mfn) in std::mem::take(&mut self.outside.bases) {
            while put_base(self.sim, &mut self.space, mfn) == Err(Error::Again) {}
        }
        for (_, mfn) in std::mem::take(&mut self.outside.descriptors) {
            put_descriptors(self.sim, &self.space, mfn);
        }
        for (mfn, writable) in std::mem::take(&mut self.outside.held) {
            release(self.sim, reference(mfn, writable));
        }
        let mut next = 0;
        while drop_range(self.sim, &mut self.space, &mut next, 64) == Err(Error::Again) {}
        assert_eq!(self.space.tables(), 0);
    }

    /// Checks that the space counts the tables that the partition has.
    pub fn check_tables(&self) {
        let is_table = |mfn: &u64| {
            let word = self.sim.word(*mfn);
            let own = self.sim.frames[*mfn as usize].owner() == self.space.partition();
            own && word.ty().level().is_some() && (word.is_validated() || word.is_partial())
        };
        let tables = (0..crate::machine::FRAMES).filter(is_table).count() as u64;
        assert_eq!(self.space.tables(), tables, "partition {}", self.space.partition());
    }
}

/// The references of both partitions outside the tables.
pub fn outside(players: &[Player<'_>; 2]) -> Outside {
    let [a, b] = players;
    Outside {
        bases: [&a.outside.bases[..], &b.outside.bases].concat(),
        descriptors: [&a.outside.descriptors[..], &b.outside.descriptors].concat(),
        held: [&a.outside.held[..], &b.outside.held].concat(),
        granted: [&a.outside.granted[..], &b.outside.granted].concat(),
    }
}

/// After both are destroyed no frame has a reference.
pub fn destroy_all(sim: &Sim, players: &mut [Player<'_>; 2]) {
    for n in [0, 1] {
        players[n].destroy();
        check(sim, &outside(players));
        sim.check_caches();
    }
    for mfn in 0..crate::machine::FRAMES {
        assert_eq!(sim.word(mfn).references(), 0, "frame {mfn}: {:?}", sim.word(mfn));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn invariants_hold_after_every_step(
        contents in [contents(), contents()],
        steps in prop::collection::vec((0..2usize, step(), -1..4i64, prop::sample::select(&[0, 1, 3, 60][..])), 1..250),
    ) {
        let sim = Sim::new();
        let mut players = [Player::new(&sim, 1), Player::new(&sim, 2)];
        for n in [0, 1] {
            players[n].fill(&contents[n]);
        }
        for (who, step, budget, patience) in &steps {
            for _ in 0..=*patience {
                sim.budget.store(*budget, Ordering::Relaxed);
                let again = players[*who].run(step);
                check(&sim, &outside(&players));
                players.iter().for_each(Player::check_tables);
                sim.check_caches();
                if !again {
                    break;
                }
            }
        }
        sim.budget.store(0, Ordering::Relaxed);
        destroy_all(&sim, &mut players);
    }
}
