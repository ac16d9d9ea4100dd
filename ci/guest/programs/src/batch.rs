//! Long batches: calls whose list repeats a few entries over gigabytes of addresses.
//!
//! The guest maps a few pages many times, so a list of any length that a call accepts lies in
//! memory that can be read and written.

use crate::calls;
use crate::generate::Step;
use crate::random::Random;
use crate::tables;
use crate::word::{Frame, Word};
use alloc::vec::Vec;
use pv_abi::xen::hypercall as number;
use pv_abi::xen::{domid, memory, mmu};

/// The most words in the repeated pattern, which fill a page.
pub const PATTERN_WORDS: usize = 512;

/// A call on a long list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The call's number.
    pub number: u64,
    /// Its arguments.
    pub args: [Word; 5],
    /// Words in memory outside the list.
    pub memory: Vec<Word>,
    /// The words of the repeated pattern.
    pub pattern: Vec<Word>,
}

/// The most entries of a list; the guest's tables cover this many. The program's timer ends a list
/// that takes too long.
const LONGEST: u64 = (1 << 32) - 1;

/// The most entries of a list that may stop that timer or hide its event: the calls of a multicall,
/// and copies to the page that is shared with the monitor.
const MOST_OF_HIDING: u64 = 1 << 14;

/// Chooses the number of entries of a list.
fn length(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.below(LONGEST),
        1 => u64::from(mmu::UPDATE_PREEMPTED) | random.below(100_000),
        2 => random.of(&[1 << 27, 1 << 30, (1 << 31) - 1, 1 << 31, LONGEST]),
        3..=4 => 1 << random.below(24),
        _ => random.of(&[256, 1000, 4096, 10_000, 65_536]),
    }
}

/// A call on a long list.
pub fn batch(random: &mut Random) -> Step {
    let length_of_list = length(random);
    let count = Word::Number(length_of_list);
    let one = Word::Number(0);
    let whom = Word::Number(domid::SELF.into());
    let (number, args, memory, pattern) = match random.below(8) {
        0..=1 => {
            let call = tables::update(random);
            (call.number, [Word::Batch, count, one, whom, one], Vec::new(), call.memory)
        }
        2 => {
            let pattern = flushes(random);
            (number::MMUEXT_OP, [Word::Batch, count, one, whom, one], Vec::new(), pattern)
        }
        3 => {
            let call = tables::extended(random);
            (call.number, [Word::Batch, count, one, whom, one], Vec::new(), call.memory)
        }
        4 => {
            let call = calls::grants(random);
            let [operation, ..] = call.args;
            let hides = call.memory.contains(&Word::FrameNumber(Frame::Shared));
            let most = if hides { MOST_OF_HIDING } else { LONGEST };
            let count = Word::Number(length_of_list.min(most));
            (call.number, [operation, Word::Batch, count, one, one], Vec::new(), call.memory)
        }
        5 => {
            let operation = random.of(&[
                memory::DECREASE_RESERVATION,
                memory::POPULATE_PHYSMAP,
                memory::INCREASE_RESERVATION,
            ]);
            let memory = [Word::Batch, count, Word::Number(0), whom].into();
            let pattern = (0..=random.below(4)).map(|_| tables::frame_or_page(random)).collect();
            let args = [Word::Number(operation), Word::Memory(0), one, one, one];
            (number::MEMORY_OP, args, memory, pattern)
        }
        _ => {
            let count = Word::Number(length(random).min(MOST_OF_HIDING));
            let args = [Word::Batch, count, one, one, one];
            (number::MULTICALL, args, Vec::new(), calls_in_one(random))
        }
    };
    Step::Batch(Batch { number, args, memory, pattern })
}

/// Operations of three words with the same meaning wherever the list begins.
fn flushes(random: &mut Random) -> Vec<Word> {
    let command = random.of(&[
        mmu::EXT_TLB_FLUSH_LOCAL,
        mmu::EXT_INVLPG_LOCAL,
        mmu::EXT_TLB_FLUSH_ALL,
        mmu::EXT_INVLPG_ALL,
        mmu::EXT_TLB_FLUSH_MULTI,
    ]);
    [Word::Number(command.into()); 3].into()
}

/// Calls without memory of their own, and calls on the list itself, for a multicall.
fn calls_in_one(random: &mut Random) -> Vec<Word> {
    let mut pattern = Vec::new();
    // The number of calls divides a page.
    for _ in 0..random.of(&[1, 2, 4, 8]) {
        let call = calls::call(random);
        let moved = |word: Word| match word {
            Word::Memory(_) => Word::Batch,
            other => other,
        };
        pattern.extend([Word::Number(call.number), Word::Number(0)]);
        pattern.extend(call.args.map(moved));
        pattern.push(Word::Number(0));
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_that_may_hide_the_timer_are_short() {
        let mut random = Random::new(5);
        let (mut hiding, mut long_grants) = (0, 0);
        for _ in 0..200_000 {
            let Step::Batch(Batch { number, args, pattern, .. }) = batch(&mut random) else {
                panic!("a batch")
            };
            if number != number::GRANT_TABLE_OP {
                continue;
            }
            let Word::Number(count) = args[2] else { panic!("a count") };
            let hides = pattern.contains(&Word::FrameNumber(Frame::Shared));
            assert!(!hides || count <= MOST_OF_HIDING);
            hiding += u64::from(hides);
            long_grants += u64::from(count > MOST_OF_HIDING);
        }
        assert!(hiding > 50 && long_grants > 5000, "{hiding}, {long_grants}");
    }
}
