//! Decides when the boot partition builds an I/O partition, and which I/O partition gets the
//! functions that have no owner.
//!
//! The boot partition keeps [`WANTED`] I/O partitions running, each with one of the numbers in
//! [`IO_PARTITIONS`]. If an I/O partition ends, it keeps its number until a successor has reset the
//! functions that it drove. So the boot partition builds the next I/O partition with the next free
//! number. [`crate::lives`] says how long the boot partition waits before that. No partition takes
//! a function from another.
//!
//! The ultravisor reports when an I/O partition has ended, and when its number is free. Because a
//! report may be lost, this module also looks up the state of each running or dead partition every
//! [`LOOKS`], and again after [`SOON`] if the lookup failed.
//!
//! Rule: a function that an I/O partition can drive has no owner only while no I/O partition runs.
//! Whenever something may have changed, a running I/O partition gets the functions without an
//! owner: at the start, after each try to build a partition, and after each lookup. A new partition
//! runs before this step. So if another partition loses a function meanwhile, this step finds the
//! function, or the ultravisor itself gives it to a running partition.

use crate::failure::Failure;
use crate::lives::{Row, WANTED};
use alloc::vec::Vec;
use partition_runtime::log;
use pv_abi::uv::database::IO_PARTITIONS;

/// Nanoseconds from one look at a partition to the next.
const LOOKS: u64 = 10_000_000_000;
/// Nanoseconds to the next look after one that failed.
const SOON: u64 = 1_000_000_000;

/// What the database says of the number of an I/O partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No partition has it.
    Free,
    /// A partition has it that runs, or that somebody else has stopped.
    Runs,
    /// A partition has it that has ended, and is not gone.
    Ended,
}

/// The system as this module needs it.
pub trait Ground {
    /// The system time, in nanoseconds.
    fn now(&mut self) -> u64;

    /// Wakes this partition at a system time.
    fn wake_at(&mut self, time: u64);

    /// Returns whether an I/O partition has ended, or is gone, since the last call.
    fn is_told(&mut self) -> bool;

    /// Returns what the database says of a number.
    ///
    /// # Errors
    /// [`Failure`] if that cannot be read now.
    fn standing(&mut self, number: u32) -> Result<Standing, Failure>;

    /// The functions that an I/O partition can drive, and that nobody has.
    ///
    /// # Errors
    /// [`Failure`] if they cannot be read now.
    fn unassigned(&mut self) -> Result<Vec<u32>, Failure>;

    /// Gives a partition a function.
    ///
    /// # Errors
    /// [`Failure`] if the ultravisor refuses.
    fn assign(&mut self, number: u32, function: u32) -> Result<(), Failure>;

    /// Builds and starts a partition with these functions.
    ///
    /// # Errors
    /// [`Failure`]. Nothing of the partition stays then.
    fn build(&mut self, member: &Member, functions: &[u32]) -> Result<(), Failure>;
}

/// The I/O partitions that are kept running.
#[derive(Default)]
pub struct Members {
    members: Vec<Member>,
    /// The place of the number that is tried next.
    next: usize,
    row: Row,
    /// Number of refusals to give a function to an I/O partition, so far.
    refusals: u32,
}

/// A number that an I/O partition may have.
pub struct Member {
    /// The number.
    pub number: u32,
    /// The partition's name.
    pub name: &'static str,
    /// Number of its earlier lives.
    pub restarts: u32,
    state: State,
}

/// The state of a number, as far as this partition knows. Times are system times.
#[derive(Clone, Copy)]
enum State {
    Free,
    /// A partition runs since then; and the time of the next look.
    Runs {
        since: u64,
        look: u64,
    },
    /// A partition has ended, and is not gone; the time of the next look.
    Ended {
        look: u64,
    },
}

impl Members {
    /// Builds as many as are missing, and deals out the functions that nobody has in turn.
    pub fn start(ground: &mut dyn Ground, functions: &[u32], row: Row) -> Self {
        let members = IO_PARTITIONS.into_iter().map(|(number, name)| {
            let (restarts, state) = (0, State::Ended { look: 0 });
            Member { number, name, restarts, state }
        });
        let mut all = Self { members: members.collect(), row, ..Self::default() };
        all.look(ground);
        let missing = WANTED.saturating_sub(all.running().count());
        for share in 0..missing {
            let own: Vec<u32> = functions.iter().copied().skip(share).step_by(missing).collect();
            all.build(ground, &own);
        }
        // One that ran already, or was not built, did not get its share.
        all.give_unassigned(ground);
        all
    }

    /// Builds one in the place of each that ended, when it is time, and sets the timer for the next
    /// look or build.
    pub fn keep(&mut self, ground: &mut dyn Ground) {
        loop {
            if ground.is_told() {
                self.members.iter_mut().for_each(|member| member.set_look(0));
            }
            let is_looked = self.look(ground);
            let is_built =
                self.due().is_some_and(|due| due <= ground.now()) && self.build(ground, &[]);
            if is_looked || is_built {
                self.give_unassigned(ground);
            }
            if !is_built {
                break;
            }
        }
        let looks = self.members.iter().filter_map(Member::look_time);
        if let Some(next) = looks.chain(self.due()).min() {
            ground.wake_at(next);
        }
    }

    /// Those that run, as far as this partition knows.
    fn running(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| matches!(member.state, State::Runs { .. }))
    }

    /// When one is built. Returns `None` if enough of them run, or no number is free.
    fn due(&self) -> Option<u64> {
        let is_free = |member: &Member| matches!(member.state, State::Free);
        let is_missing = self.running().count() < WANTED && self.members.iter().any(is_free);
        is_missing.then_some(self.row.due())
    }

    /// Looks at those whose time has come. Returns whether there was one.
    fn look(&mut self, ground: &mut dyn Ground) -> bool {
        let now = ground.now();
        let is_due = |member: &&mut Member| member.look_time().is_some_and(|look| look <= now);
        let mut is_looked = false;
        for member in self.members.iter_mut().filter(is_due) {
            member.look(ground, &mut self.row);
            is_looked = true;
        }
        is_looked
    }

    /// Builds one with the next free number. Returns whether there is such a number.
    fn build(&mut self, ground: &mut dyn Ground, functions: &[u32]) -> bool {
        let count = self.members.len();
        let is_free = |at: &usize| matches!(self.members[*at].state, State::Free);
        let Some(at) = (self.next..self.next + count).map(|at| at % count).find(is_free) else {
            return false;
        };
        self.next = at + 1;
        let member = &mut self.members[at];
        let built = ground.build(member, functions);
        let now = ground.now();
        match built {
            Ok(()) => {
                member.restarts = member.restarts.saturating_add(1);
                member.state = State::Runs { since: now, look: now.saturating_add(LOOKS) };
            }
            Err(failure) => {
                log!("cannot start {}: {failure}", member.name);
                member.state = State::Ended { look: 0 };
                self.row.failed(now);
                member.tell(&self.row);
            }
        }
        true
    }

    /// Gives each function that nobody has to the first running partition that may have it.
    fn give_unassigned(&mut self, ground: &mut dyn Ground) {
        if self.running().next().is_none() {
            return;
        }
        match ground.unassigned() {
            Ok(functions) => functions.into_iter().for_each(|function| self.give(ground, function)),
            Err(failure) => self.refused(&failure),
        }
    }

    fn give(&mut self, ground: &mut dyn Ground, function: u32) {
        let mut last = None;
        for member in self.running() {
            match ground.assign(member.number, function) {
                Ok(()) => return,
                Err(failure) => last = Some(failure),
            }
        }
        if let Some(failure) = last {
            self.refused(&failure);
        }
    }

    /// Counts a refusal. Logs only a few of many, since each is tried again.
    fn refused(&mut self, failure: &Failure) {
        self.refusals = self.refusals.saturating_add(1);
        if self.refusals.is_power_of_two() {
            let refusals = self.refusals;
            log!("an I/O partition does not get a function, refusal {refusals}: {failure}");
        }
    }
}

impl Member {
    /// When to look at it, in system time. Returns `None` if its number is free: nobody else builds
    /// I/O partitions.
    const fn look_time(&self) -> Option<u64> {
        match self.state {
            State::Free => None,
            State::Runs { look, .. } | State::Ended { look } => Some(look),
        }
    }

    const fn set_look(&mut self, time: u64) {
        if let State::Runs { look, .. } | State::Ended { look } = &mut self.state {
            *look = time;
        }
    }

    /// Notes what the database says of its number.
    fn look(&mut self, ground: &mut dyn Ground, row: &mut Row) {
        let (standing, now) = (ground.standing(self.number), ground.now());
        let standing = match standing {
            Ok(standing) => standing,
            Err(failure) => {
                log!("{}: {failure}; it is looked at again", self.name);
                return self.set_look(now.saturating_add(SOON));
            }
        };
        let since = match self.state {
            State::Runs { since, .. } => Some(since),
            State::Free | State::Ended { .. } => None,
        };
        let look = now.saturating_add(LOOKS);
        self.state = match standing {
            Standing::Free => State::Free,
            Standing::Runs => State::Runs { since: since.unwrap_or(now), look },
            Standing::Ended => State::Ended { look },
        };
        if let Some(since) = since.filter(|_| standing != Standing::Runs) {
            row.ended(since, now);
            self.tell(row);
        }
    }

    /// Logs that I/O partitions fail again and again, if the last failure was one to tell.
    fn tell(&self, row: &Row) {
        if let Some(failures) = row.many() {
            log!(
                "I/O partitions failed {failures} times in a row; one is tried each minute: `uvtool \
                 why {}` has the cause of the last",
                self.name
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::{BTreeMap, BTreeSet};
    use pv_abi::uv::database::{IO_A, IO_B, IO_C, IO_D};

    const SECOND: u64 = 1_000_000_000;

    /// A host with functions and the numbers of its I/O partitions.
    #[derive(Default)]
    struct Fake {
        now: u64,
        wake: Option<u64>,
        is_told: bool,
        /// Whether the channel to the ultravisor fails.
        is_cut: bool,
        /// The partitions that are there, and whether each runs; the others' numbers are free.
        there: BTreeMap<u32, bool>,
        /// Whether partitions that end keep their numbers.
        keeps: bool,
        /// The numbers of the partitions that cannot be built.
        broken: BTreeSet<u32>,
        /// The owner of each function, if it has one.
        functions: BTreeMap<u32, Option<u32>>,
        builds: Vec<u32>,
    }

    fn failed() -> Failure {
        Failure::Answer("a test")
    }

    impl Fake {
        fn with_functions(count: u32) -> Self {
            let functions = (0..count).map(|function| (function, None)).collect();
            Self { now: SECOND, functions, ..Self::default() }
        }

        fn start(&mut self) -> Members {
            let functions = self.unassigned().unwrap();
            Members::start(self, &functions, Row::default())
        }

        /// A partition ends, and its functions are nobody's.
        fn ends(&mut self, number: u32) {
            self.is_told = true;
            self.there.remove(&number);
            if self.keeps {
                self.there.insert(number, false);
            }
            for owner in self.functions.values_mut().filter(|owner| **owner == Some(number)) {
                *owner = None;
            }
        }

        fn owners(&self) -> Vec<Option<u32>> {
            self.functions.values().copied().collect()
        }
    }

    impl Ground for Fake {
        fn now(&mut self) -> u64 {
            self.now
        }

        fn wake_at(&mut self, time: u64) {
            self.wake = Some(time);
        }

        fn is_told(&mut self) -> bool {
            core::mem::take(&mut self.is_told)
        }

        fn standing(&mut self, number: u32) -> Result<Standing, Failure> {
            match self.there.get(&number) {
                _ if self.is_cut => Err(failed()),
                None => Ok(Standing::Free),
                Some(true) => Ok(Standing::Runs),
                Some(false) => Ok(Standing::Ended),
            }
        }

        fn unassigned(&mut self) -> Result<Vec<u32>, Failure> {
            if self.is_cut {
                return Err(failed());
            }
            let nobodys = self.functions.iter().filter(|(_, owner)| owner.is_none());
            Ok(nobodys.map(|(&function, _)| function).collect())
        }

        fn assign(&mut self, number: u32, function: u32) -> Result<(), Failure> {
            if self.there.get(&number) != Some(&true) {
                return Err(failed());
            }
            self.functions.insert(function, Some(number));
            Ok(())
        }

        fn build(&mut self, member: &Member, functions: &[u32]) -> Result<(), Failure> {
            let number = member.number;
            assert!(!self.there.contains_key(&number), "{number} is there");
            self.builds.push(number);
            if self.broken.contains(&number) {
                return Err(failed());
            }
            self.there.insert(number, true);
            functions.iter().try_for_each(|&function| self.assign(number, function))
        }
    }

    #[test]
    fn functions_are_dealt_out_in_turn() {
        let mut host = Fake::with_functions(3);
        host.start();
        assert_eq!(host.owners(), [Some(IO_A), Some(IO_B), Some(IO_A)]);
    }

    #[test]
    fn a_partition_that_runs_already_gets_what_nobody_has() {
        let mut host = Fake::with_functions(2);
        host.there.extend([(IO_A, true), (IO_B, true)]);
        host.start();
        assert_eq!((host.owners(), &host.builds[..]), (vec![Some(IO_A); 2], &[][..]));
    }

    #[test]
    fn a_partition_gets_the_share_of_one_that_cannot_be_built() {
        let mut host = Fake::with_functions(3);
        host.broken.insert(IO_A);
        host.start();
        assert_eq!(host.owners(), [Some(IO_B); 3]);
    }

    /// The numbers of the partitions that run.
    fn running(host: &Fake) -> Vec<u32> {
        let running = host.there.iter().filter(|(_, runs)| **runs);
        running.map(|(&number, _)| number).collect()
    }

    #[test]
    fn one_that_ended_is_made_good_with_the_next_number_and_takes_nothing_from_the_other() {
        let mut host = Fake::with_functions(2);
        let mut members = host.start();
        host.ends(IO_A);
        host.functions.insert(0, Some(IO_B));
        members.keep(&mut host);
        assert_eq!((&host.builds[..], running(&host)), (&[IO_A, IO_B, IO_C][..], vec![IO_B, IO_C]));
        assert_eq!(host.owners(), [Some(IO_B); 2]);
        // The numbers are had in turn.
        for (ends, built) in [(IO_B, IO_D), (IO_C, IO_A), (IO_D, IO_B)] {
            host.now += 60 * SECOND;
            host.ends(ends);
            members.keep(&mut host);
            assert_eq!(host.builds.last(), Some(&built));
            assert_eq!(running(&host).len(), 2);
        }
        let restarts: Vec<u32> = members.members.iter().map(|member| member.restarts).collect();
        assert_eq!(restarts, [2, 2, 1, 1]);
    }

    #[test]
    fn both_that_die_at_once_are_made_good_before_their_numbers_are_free() {
        let mut host = Fake { keeps: true, ..Fake::with_functions(3) };
        let mut members = host.start();
        host.ends(IO_A);
        host.ends(IO_B);
        members.keep(&mut host);
        assert_eq!(running(&host), [IO_C, IO_D]);
        assert_eq!(host.owners(), [Some(IO_C); 3]);
        // Their functions are reset now, and their numbers are free again.
        (host.keeps, host.is_told) = (false, true);
        host.there.retain(|_, runs| *runs);
        members.keep(&mut host);
        assert_eq!(host.builds, [IO_A, IO_B, IO_C, IO_D]);
        host.ends(IO_C);
        members.keep(&mut host);
        assert_eq!(host.builds.len(), 4, "the third early death is waited for");
        host.now = host.wake.expect("the next build");
        members.keep(&mut host);
        assert_eq!(running(&host), [IO_A, IO_D]);
    }

    #[test]
    fn with_no_number_free_it_waits_for_one() {
        let mut host = Fake { keeps: true, ..Fake::with_functions(1) };
        let mut members = host.start();
        for _ in 0..2 {
            running(&host).into_iter().for_each(|number| host.ends(number));
            host.now += 60 * SECOND;
            members.keep(&mut host);
        }
        assert_eq!((running(&host), host.there.len()), (vec![], 4));
        // Only a look is due.
        assert_eq!(host.wake, Some(host.now + 10 * SECOND));
        host.there.remove(&IO_B);
        host.is_told = true;
        members.keep(&mut host);
        assert_eq!((running(&host), host.owners()), (vec![IO_B], vec![Some(IO_B)]));
    }

    #[test]
    fn what_a_partition_had_goes_to_the_other_one_and_builds_are_tried_for_ever() {
        let mut host = Fake::with_functions(2);
        let mut members = host.start();
        host.broken.extend([IO_A, IO_B, IO_C, IO_D]);
        host.ends(IO_B);
        members.keep(&mut host);
        assert_eq!(host.owners(), [Some(IO_A); 2]);
        for tries in 1..40 {
            assert_eq!(host.builds.len(), 2 + tries);
            // It becomes nobody's while others are tried.
            host.functions.insert(1, None);
            let wait = host.wake.expect("another build") - host.now;
            assert!(wait <= 60 * SECOND, "{wait}");
            host.now += 60 * SECOND;
            members.keep(&mut host);
            assert_eq!(host.owners(), [Some(IO_A); 2]);
        }
        host.broken.clear();
        host.now += 60 * SECOND;
        members.keep(&mut host);
        assert_eq!(running(&host).len(), 2);
    }

    #[test]
    fn a_function_that_the_first_may_not_have_goes_to_the_second() {
        let mut host = Fake::with_functions(2);
        let mut members = host.start();
        // The first one has crashed, which nobody has told yet.
        host.there.insert(IO_A, false);
        host.functions.insert(0, None);
        members.members[1].set_look(0);
        members.keep(&mut host);
        assert_eq!(host.owners(), [Some(IO_B); 2]);
    }

    #[test]
    fn news_that_is_lost_is_made_up_for() {
        let mut host = Fake::with_functions(2);
        let mut members = host.start();
        members.keep(&mut host);
        // Nobody tells that one ended.
        host.ends(IO_B);
        host.is_told = false;
        host.now = host.wake.expect("a look at what runs");
        assert_eq!(host.now, 11 * SECOND);
        members.keep(&mut host);
        assert_eq!((running(&host), host.owners()), (vec![IO_A, IO_C], vec![Some(IO_A); 2]));
    }

    #[test]
    fn a_look_that_fails_is_tried_again() {
        let mut host = Fake::with_functions(2);
        let mut members = host.start();
        host.ends(IO_A);
        host.is_cut = true;
        for _ in 0..3 {
            members.keep(&mut host);
            let next = host.wake.expect("another look");
            assert_eq!(next, host.now + SECOND);
            host.now = next;
        }
        host.is_cut = false;
        members.keep(&mut host);
        assert_eq!(host.builds, [IO_A, IO_B, IO_C]);
        assert!(host.owners().iter().all(Option::is_some));
    }
}
