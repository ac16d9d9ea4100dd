//! Which I/O partition is built when, and which one gets the functions that nobody has.
//!
//! A partition that ended is built anew when its number is free ([`crate::lives`]). It takes no
//! function from the other one. The ultravisor tells when a number is free, and a timer makes up for
//! news that is lost.
//!
//! Rule: a function that an I/O partition can drive stays nobody's only while none of them runs.
//! Whenever something may have changed, a running one gets the functions that nobody has: at the
//! start, after each try to build one, and after each look whether the number of one is free. The
//! partition runs already then, so that a function which the other one loses meanwhile is either there to be
//! seen, or comes to it from the ultravisor.

use crate::failure::Failure;
use crate::lives::{Lives, MOST};
use alloc::vec::Vec;
use partition_runtime::log;
use pv_abi::uv::database::{IO_A, IO_B};

/// The partitions: number and name.
const PARTITIONS: [(u32, &str); 2] = [(IO_A, "io-a"), (IO_B, "io-b")];

/// The system as this module needs it.
pub trait Ground {
    /// The system time, in nanoseconds.
    fn now(&mut self) -> u64;

    /// Wakes this partition at a system time.
    fn wake_at(&mut self, time: u64);

    /// Returns whether the number of an I/O partition has become free since the last call.
    fn is_told(&mut self) -> bool;

    /// Returns whether a number is free.
    ///
    /// # Errors
    /// [`Failure`] if that cannot be read now.
    fn is_free(&mut self, number: u32) -> Result<bool, Failure>;

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

    /// Builds and starts a partition with these functions, unless it runs.
    ///
    /// # Errors
    /// [`Failure`]. Nothing of the partition stays then.
    fn build(&mut self, member: &Member, functions: &[u32]) -> Result<(), Failure>;
}

/// The I/O partitions that are kept running.
#[derive(Default)]
pub struct Members {
    members: Vec<Member>,
    /// Number of refusals to give a function to an I/O partition, so far.
    refusals: u32,
}

/// An I/O partition.
pub struct Member {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
    /// Its lives so far.
    pub lives: Lives,
}

impl Members {
    /// Builds both, and deals out the functions that nobody has in turn.
    pub fn start(ground: &mut dyn Ground, functions: &[u32]) -> Self {
        let mut members = Vec::new();
        for (share, (number, name)) in PARTITIONS.into_iter().enumerate() {
            let own: Vec<u32> = functions.iter().copied().skip(share).step_by(2).collect();
            let mut member = Member { number, name, lives: Lives::new() };
            member.build(ground, &own);
            members.push(member);
        }
        let mut members = Self { members, refusals: 0 };
        // One that ran already, or was not built, did not get its share.
        members.give_unassigned(ground);
        members
    }

    /// Builds anew those that ended, when it is time, and sets the timer for the next look or build.
    pub fn keep(&mut self, ground: &mut dyn Ground) {
        loop {
            if ground.is_told() {
                self.members.iter_mut().for_each(|member| member.lives.look_at_once());
            }
            let now = ground.now();
            let mut is_looked = false;
            for member in &mut self.members {
                if member.lives.look().is_some_and(|look| look <= now) {
                    member.look(ground);
                    is_looked = true;
                }
            }
            let is_due = |member: &&mut Member| member.lives.due().is_some_and(|due| due <= now);
            let due = self.members.iter_mut().find(is_due);
            let is_built = due.is_some();
            if let Some(member) = due {
                member.build(ground, &[]);
            }
            if is_looked || is_built {
                self.give_unassigned(ground);
            }
            if !is_built {
                break;
            }
        }
        let times = |member: &Member| member.lives.due().or(member.lives.look());
        if let Some(next) = self.members.iter().filter_map(times).min() {
            ground.wake_at(next);
        }
    }

    /// Gives each function that nobody has to the first running partition that may have it.
    fn give_unassigned(&mut self, ground: &mut dyn Ground) {
        if !self.members.iter().any(|member| member.lives.is_running()) {
            return;
        }
        match ground.unassigned() {
            Ok(functions) => functions.into_iter().for_each(|function| self.give(ground, function)),
            Err(failure) => self.refused(&failure),
        }
    }

    fn give(&mut self, ground: &mut dyn Ground, function: u32) {
        let mut last = None;
        for member in self.members.iter().filter(|member| member.lives.is_running()) {
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
    /// Builds and starts the partition.
    fn build(&mut self, ground: &mut dyn Ground, functions: &[u32]) {
        match ground.build(self, functions) {
            Ok(()) => self.lives.began(ground.now()),
            Err(failure) => {
                log!("cannot start {}: {failure}", self.name);
                let is_tried = self.lives.failed(ground.now());
                self.tell(is_tried);
            }
        }
    }

    /// Notes if its number is free.
    fn look(&mut self, ground: &mut dyn Ground) {
        match ground.is_free(self.number) {
            Ok(true) => {
                let is_tried = self.lives.ended(ground.now());
                self.tell(is_tried);
            }
            Ok(false) => self.lives.looked(true, ground.now()),
            Err(failure) => {
                log!("{}: {failure}; it is looked at again", self.name);
                self.lives.looked(false, ground.now());
            }
        }
    }

    /// Logs that it stays away.
    fn tell(&self, is_tried: bool) {
        if !is_tried {
            log!(
                "{} failed {MOST} times in a row and stays away: `uvtool why {}` has the causes; \
                 restart the host to try again",
                self.name,
                self.name
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::{BTreeMap, BTreeSet};

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
        /// Those that cannot be built.
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
            Members::start(self, &functions)
        }

        /// A partition ends, and its functions are nobody's.
        fn ends(&mut self, number: u32) {
            self.there.remove(&number);
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

        fn is_free(&mut self, number: u32) -> Result<bool, Failure> {
            if self.is_cut { Err(failed()) } else { Ok(!self.there.contains_key(&number)) }
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
            if self.there.get(&number) == Some(&true) {
                return Ok(());
            }
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

    #[test]
    fn what_a_partition_had_that_stays_away_goes_to_the_other_one() {
        let mut host = Fake::with_functions(2);
        let mut members = host.start();
        host.broken.insert(IO_B);
        host.ends(IO_B);
        host.is_told = true;
        members.keep(&mut host);
        assert_eq!(host.owners(), [Some(IO_A); 2]);
        for _ in 1..MOST {
            host.now += 60 * SECOND;
            // It becomes nobody's while the other one is tried for the last times.
            host.functions.insert(1, None);
            members.keep(&mut host);
        }
        assert_eq!(host.owners(), [Some(IO_A); 2]);
        assert_eq!(host.builds.iter().filter(|&&number| number == IO_B).count() as u32, MOST + 1);
    }

    #[test]
    fn a_function_that_the_first_may_not_have_goes_to_the_second() {
        let mut host = Fake::with_functions(2);
        let mut members = host.start();
        // The first one has crashed, and its number is not free yet.
        host.there.insert(IO_A, false);
        host.functions.insert(0, None);
        host.is_told = true;
        members.keep(&mut host);
        assert_eq!(host.owners(), [Some(IO_B); 2]);
    }

    #[test]
    fn one_that_ended_is_built_anew_and_takes_nothing_from_the_other() {
        let mut host = Fake::with_functions(2);
        let mut members = host.start();
        host.there.remove(&IO_A);
        host.functions.insert(0, Some(IO_B));
        host.is_told = true;
        members.keep(&mut host);
        assert_eq!(host.builds, [IO_A, IO_B, IO_A]);
        assert_eq!(host.owners(), [Some(IO_B); 2]);
    }

    #[test]
    fn news_that_is_lost_is_made_up_for() {
        let mut host = Fake::with_functions(2);
        let mut members = host.start();
        members.keep(&mut host);
        // Nobody tells that one ended.
        host.ends(IO_B);
        host.now = host.wake.expect("a look at what runs");
        assert_eq!(host.now, 11 * SECOND);
        members.keep(&mut host);
        assert_eq!(
            (&host.builds[..], host.owners()),
            (&[IO_A, IO_B, IO_B][..], vec![Some(IO_A), Some(IO_A)])
        );
    }

    #[test]
    fn a_look_that_fails_is_tried_again() {
        let mut host = Fake::with_functions(2);
        let mut members = host.start();
        host.ends(IO_A);
        (host.is_told, host.is_cut) = (true, true);
        for _ in 0..3 {
            members.keep(&mut host);
            let next = host.wake.expect("another look");
            assert_eq!(next, host.now + SECOND);
            host.now = next;
        }
        host.is_cut = false;
        members.keep(&mut host);
        assert_eq!(host.builds, [IO_A, IO_B, IO_A]);
        assert!(host.owners().iter().all(Option::is_some));
    }
}
