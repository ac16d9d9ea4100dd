//! `fuzz SEED COUNT [FIRST [STEPS [programs|steps]]]`: random programs of calls and instructions.
//!
//! Runs programs FIRST to FIRST + COUNT - 1 of a seed, each from the same initial state: pages,
//! tables, entries and ports are restored before it. STEPS (`0-3,17`) keeps only these steps,
//! counted over the run, with [`SLOTS`] for each program. The last word makes the guest announce
//! each program or step before it runs. If there are two virtual CPUs, the second one executes the
//! other steps of a program at the same time. A line every 1000 programs reports the progress:
//!
//! ```text
//! fuzz 1: 2000 programs, 7803 done, 12403 refused, 4711 trapped, digest 1b5c…
//! ```
//!
//! Lines go to the monitor's log, because a program may close the console's port. A program may
//! legally end the guest itself; the test that started the guest continues after it.

pub mod attempt;
mod other;
mod stage;
mod store;
mod time;

use crate::println;
use alloc::format;
use alloc::vec::Vec;
use attempt::Outcome;
use fuzz_programs::{Keep, OTHER_SLOTS, Program, SLOTS, Step};
use partition_runtime::hypercall::Shutdown;
use stage::{Actor, Stage};

/// The number of programs between two reports, by which a test can continue after the guest's end.
const TOLD: u64 = 50;

/// The outcomes of the steps so far.
#[derive(Default)]
struct Counts {
    done: u64,
    refused: u64,
    trapped: u64,
    digest: u64,
}

impl Counts {
    fn note(&mut self, outcome: Outcome) {
        let word = match outcome {
            Outcome::Returned(result) if (result as i64) < 0 && (result as i64) > -4096 => {
                self.refused += 1;
                result
            }
            Outcome::Returned(result) => {
                self.done += 1;
                result & 0xff
            }
            Outcome::Trapped(vector) => {
                self.trapped += 1;
                vector << 32
            }
        };
        self.digest = mix(self.digest, word);
    }
}

/// Adds a word to a digest.
fn mix(digest: u64, word: u64) -> u64 {
    (digest ^ word).wrapping_mul(0x0000_0100_0000_01b3)
}

fn say(text: &str) {
    crate::console::emergency(text);
}

/// Runs programs.
pub fn run_programs(words: &[&str]) -> Shutdown {
    let number = |index: usize, default: u64| {
        words.get(index).map_or(Some(default), |word| word.parse().ok())
    };
    let keep = words.get(3).map_or(Some(Keep::default()), |word| Keep::parse(word));
    let numbers = (number(0, 1), number(1, 1000), number(2, 0), keep);
    let (Some(seed), Some(count), Some(first), Some(keep)) = numbers else {
        println!("fuzz: give SEED COUNT [FIRST [STEPS]]");
        return Shutdown::Crash;
    };
    let traced = words.get(4).is_some();
    let steps_traced = words.get(4) == Some(&"steps");
    time::copy_clock();
    let mut stage = Stage::set();
    let mut actor = Actor::new(0);
    let mut counts = Counts::default();
    let two = other::start();
    say(&format!("fuzz {seed}: {} virtual CPUs\n", 1 + u32::from(two)));
    for index in first..first.saturating_add(count) {
        let program = Program::generate(seed, index);
        if traced || index.is_multiple_of(TOLD) {
            say(&format!("fuzz {seed}: at {index}\n"));
        }
        if !stage.restore(&mut actor) {
            say("fuzz: too few pages are left\n");
            return Shutdown::Reboot;
        }
        let kept = |slot: &u64| {
            let place = (index - first) * SLOTS + slot;
            u32::try_from(place).is_ok_and(|place| keep.has(place))
        };
        let (others, own): (Vec<_>, Vec<_>) = program
            .slots()
            .filter(|(slot, _)| kept(slot))
            .partition(|(slot, _)| *slot >= OTHER_SLOTS);
        let others: Vec<&Step> = others.into_iter().map(|(_, step)| step).collect();
        let beside = other::beside(&stage, others, || {
            for (slot, step) in own {
                if steps_traced {
                    say(&format!("step {slot}\n"));
                }
                counts.note(stage.perform(&mut actor, step));
            }
        });
        let Some(outcomes) = beside else {
            say("fuzz: the second virtual CPU does not end its steps\n");
            return Shutdown::Reboot;
        };
        for outcome in outcomes {
            counts.note(outcome);
        }
        if !stage.knows_its_frames() {
            say("fuzz: a program overwrote the guest's record of its frames\n");
            return Shutdown::Reboot;
        }
        if let Some(what) = stage.escaped() {
            say(&format!("fuzz {seed}: ESCAPE after program {index}: {what}\n"));
            return Shutdown::Crash;
        }
        let ran = index + 1 - first;
        if ran.is_multiple_of(1000) || ran == count {
            let Counts { done, refused, trapped, digest } = counts;
            say(&format!(
                "fuzz {seed}: {} programs, {done} done, {refused} refused, {trapped} trapped, \
                 digest {digest:016x}\n",
                index + 1
            ));
        }
    }
    Shutdown::PowerOff
}
