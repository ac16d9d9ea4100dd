//! Deaths for tests: an I/O partition ends right after a step of its work.
//!
//! A successor must get along with a death between any two steps. The option
//! `inject=die-at:NUMBER:STEP:COUNT:HOW` ends partition NUMBER after it made a step for the COUNTth
//! time; without `:HOW` it crashes. A partition that is built again has the same options: deaths are
//! for its first life alone.
//!
//! The option `inject=die-often:NUMBER:SEED:HOW` ends the partition in each of its lives. The seed
//! chooses the order in which the steps come, one in each life, and how often a step is made before.
//! Without `:HOW` the way is random; with `all` for the number, each I/O partition ends like that.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use partition_runtime::events::Events;
use partition_runtime::hypercall::{Shutdown, shutdown};
use partition_runtime::log;
use partition_runtime::scribble::scribble;

/// A step, after which an I/O partition can be made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The ultravisor was told that a function is driven.
    Driving,
    /// A client's ring or a journal's page is mapped.
    Mapped,
    /// A client's port is bound.
    Bound,
    /// A word of a request stands in the journal, which does not name it as taken yet.
    Fetched,
    /// The journal names requests as taken.
    Taken,
    /// Pages of a request are pinned.
    Pinned,
    /// A disk's queue has a piece.
    Issued,
    /// A disk has ended a piece.
    Completed,
    /// Pins are dropped.
    Unpinned,
    /// Two lines of answers stand in the journal.
    Lines,
    /// The journal says that answers are being published.
    Publishing,
    /// A word of a response stands in the ring.
    Slots,
    /// The client can see responses.
    Published,
    /// The journal names the answered requests as taken no more.
    Cleared,
    /// The journal says that nothing is being published.
    Answered,
    /// The client's event is raised.
    Notified,
    /// An order to drive a function was read, and nothing is done for it yet.
    Ordered,
}

/// The steps by their names.
const STEPS: [(&str, Step); 17] = [
    ("driving", Step::Driving),
    ("mapped", Step::Mapped),
    ("bound", Step::Bound),
    ("fetched", Step::Fetched),
    ("taken", Step::Taken),
    ("pinned", Step::Pinned),
    ("issued", Step::Issued),
    ("completed", Step::Completed),
    ("unpinned", Step::Unpinned),
    ("lines", Step::Lines),
    ("publishing", Step::Publishing),
    ("slots", Step::Slots),
    ("published", Step::Published),
    ("cleared", Step::Cleared),
    ("answered", Step::Answered),
    ("notified", Step::Notified),
    ("ordered", Step::Ordered),
];

/// How a partition ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum How {
    /// It says that it crashes.
    #[default]
    Crash,
    /// It runs in a circle for ever.
    Loop,
    /// It waits for ever, whatever events come.
    Wait,
    /// It writes over all its memory that feeds no device, and goes on until it falls.
    Wild,
}

/// The ways by their names.
const WAYS: [(&str, How); 4] =
    [("crash", How::Crash), ("loop", How::Loop), ("wait", How::Wait), ("wild", How::Wild)];

/// A death that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// The partition.
    pub partition: u32,
    /// The step.
    pub step: Step,
    /// How many such steps it makes, not 0.
    pub count: u32,
    /// How it ends.
    pub how: How,
}

impl Death {
    /// Reads `NUMBER:STEP:COUNT` or `NUMBER:STEP:COUNT:HOW`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(':');
        let partition = words.next()?.parse().ok()?;
        let name = words.next()?;
        let step = STEPS.iter().find(|(known, _)| *known == name)?.1;
        let count = words.next()?.parse().ok().filter(|&count| count > 0)?;
        let how = match words.next() {
            None => How::Crash,
            Some(name) => WAYS.iter().find(|(known, _)| *known == name)?.1,
        };
        words.next().is_none().then_some(Self { partition, step, count, how })
    }
}

/// Deaths in every life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Often {
    /// The partition; `None` for all of them.
    partition: Option<u32>,
    seed: u64,
    /// How it ends; `None` for a random way.
    how: Option<How>,
}

impl Often {
    /// Maximum number of steps of one kind before a death.
    const STEPS_MOST: u64 = 300;
    /// The same for the steps of a batch, which has as many requests as a ring has slots.
    const BATCHES_MOST: u64 = 30;
    /// The same for events: a client that is busy asks for fewer than one in 30 batches.
    const EVENTS_MOST: u64 = 2;
    /// The pages that an attach of two rings maps; it binds half as many ports.
    const PAGES: u64 = 4;

    /// Maximum number of such steps before a death: as many as a client makes that attaches two
    /// rings and sends 2,000 requests, so that no life outlasts the client.
    const fn most(step: Step) -> u64 {
        match step {
            Step::Driving | Step::Ordered => 1,
            Step::Mapped => Self::PAGES,
            Step::Bound => Self::PAGES / 2,
            Step::Taken | Step::Publishing | Step::Published | Step::Cleared | Step::Answered => {
                Self::BATCHES_MOST
            }
            Step::Notified => Self::EVENTS_MOST,
            _ => Self::STEPS_MOST,
        }
    }

    /// Reads `NUMBER:SEED` or `NUMBER:SEED:HOW`, with `all` for any number.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (who, rest) = text.split_once(':')?;
        let partition = if who == "all" { None } else { Some(who.parse().ok()?) };
        let (seed, how) = match rest.split_once(':') {
            Some((seed, name)) => (seed, Some(WAYS.iter().find(|(known, _)| *known == name)?.1)),
            None => (rest, None),
        };
        Some(Self { partition, seed: seed.parse().ok()?, how })
    }

    /// The death of a partition in the life that follows `restarts` earlier lives. Two partitions
    /// with consecutive numbers that die in turn make all steps before a step comes again.
    #[must_use]
    pub fn death(&self, partition: u32, restarts: u32) -> Option<Death> {
        if self.partition.is_some_and(|one| one != partition) {
            return None;
        }
        let mut state = self.seed;
        let mut steps = STEPS;
        for last in (1..steps.len()).rev() {
            steps.swap(last, below(&mut state, last as u64 + 1) as usize);
        }
        let life = u64::from(partition) + 2 * u64::from(restarts);
        let (_, step) = steps[(life % steps.len() as u64) as usize];
        state = state.wrapping_add(life << 32);
        let count = below(&mut state, Self::most(step)) as u32 + 1;
        // Most of them are crashes, since only those are noticed at once.
        let random = match below(&mut state, 8) {
            0 => How::Loop,
            1 => How::Wait,
            2 => How::Wild,
            _ => How::Crash,
        };
        Some(Death { partition, step, count, how: self.how.unwrap_or(random) })
    }
}

/// Draws a number below `limit`, by the mixer of SplitMix64 (Steele, Lea, Flood: Fast splittable
/// pseudorandom number generators, 2014).
const fn below(state: &mut u64, limit: u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ mixed >> 31) % limit
}

/// The step of the death that is to come, or a number that no step has.
static STEP: AtomicU32 = AtomicU32::new(u32::MAX);
/// Such steps that are left.
static LEFT: AtomicU32 = AtomicU32::new(0);
/// How it ends.
static HOW: AtomicU32 = AtomicU32::new(0);

/// Prepares a death.
pub fn prepare(death: Death) {
    LEFT.store(death.count, Relaxed);
    HOW.store(death.how as u32, Relaxed);
    STEP.store(death.step as u32, Relaxed);
}

/// Whether a death is to come: only then the steps count.
pub fn is_prepared() -> bool {
    STEP.load(Relaxed) != u32::MAX
}

/// Notes that a step was made. Ends the partition if that is its death.
#[inline]
pub fn made(step: Step) {
    if STEP.load(Relaxed) == step as u32 {
        count(step);
    }
}

#[cold]
fn count(step: Step) {
    let left = LEFT.load(Relaxed).saturating_sub(1);
    LEFT.store(left, Relaxed);
    if left == 0 {
        let how = WAYS.iter().find(|(_, how)| *how as u32 == HOW.load(Relaxed));
        let (name, how) = how.copied().unwrap_or(("crash", How::Crash));
        log!("injected: it dies after the step {step:?}, {name}");
        end(how);
    }
}

fn end(how: How) {
    match how {
        How::Crash => shutdown(Shutdown::Crash),
        How::Loop => loop {
            core::hint::spin_loop();
        },
        How::Wait => {
            let mut events = Events::new();
            loop {
                let _ = events.wait();
            }
        }
        How::Wild => scribble(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_death_has_a_way_and_nothing_behind_it() {
        let death = Death { partition: 4, step: Step::Slots, count: 90, how: How::Crash };
        assert_eq!(Death::parse("4:slots:90"), Some(death));
        for (name, how) in WAYS {
            assert_eq!(Death::parse(&format!("4:slots:90:{name}")), Some(Death { how, ..death }));
        }
        for wrong in
            ["", "4", "4:slots", "4:slots:0", "4:slots:90:", "4:slots:90:loop:", "x:slots:1"]
        {
            assert_eq!(Death::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn random_deaths_come_at_all_steps_in_all_ways_and_come_again_with_their_seed() {
        let all = Often::parse("all:7").expect("all");
        let lives = || (0..1000).filter_map(|restarts| all.death(5, restarts));
        let names = |death: Death| (format!("{:?}", death.step), format!("{:?}", death.how));
        let seen: BTreeSet<_> = lives().map(names).collect();
        assert!(seen.len() >= STEPS.len() * WAYS.len() / 2, "{}", seen.len());
        assert!(lives().all(|death| death.count > 0 && death.partition == 5));
        let most = lives().all(|death| u64::from(death.count) <= Often::most(death.step));
        assert!(most && Often::most(Step::Ordered) == 1, "a life has one order to drive a disk");
        assert!(lives().eq(lives()));
        let other = Often::parse("all:8").expect("all");
        assert!((0..9).any(|life| other.death(5, life) != all.death(5, life)));
        let one = Often::parse("4:7:wild").expect("one");
        assert_eq!(
            (one.death(5, 3), one.death(4, 3).map(|death| death.how)),
            (None, Some(How::Wild))
        );
        assert_eq!(
            one.death(4, 3).map(|death| death.step),
            all.death(4, 3).map(|death| death.step)
        );
        for wrong in ["", "4", "all", "all:", "some:1", "4:x", "4:1:", "4:1:tea"] {
            assert_eq!(Often::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn two_that_die_in_turn_make_each_step_once() {
        for seed in 0..20 {
            let often = Often::parse(&format!("all:{seed}")).expect("all");
            let half = STEPS.len().div_ceil(2) as u32;
            let deaths = (0..half).flat_map(|life| [often.death(4, life), often.death(5, life)]);
            let steps = deaths.flatten().take(STEPS.len()).map(|death| format!("{:?}", death.step));
            assert_eq!(steps.collect::<BTreeSet<_>>().len(), STEPS.len(), "seed {seed}");
        }
    }
}
