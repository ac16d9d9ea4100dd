//! Random programs of calls and instructions, on the minimal guest in place of the command
//! partition. If the guest has three virtual CPUs (`FUZZ_VCPUS=3`), two of them run programs at
//! once, and programs may initialise and start the third.
//!
//! The guest may end itself, with a cause that the monitor records; the next programs of the seed
//! then run on a fresh machine. It is a failure if the monitor fails, if a CPU stays in ring 0, or
//! if the guest sees a frame that is not its own. The run is then shrunk to the needed steps, and
//! printed.
//!
//! The run is bounded by default. To change it, set `FUZZ_SECONDS`, `FUZZ_SEED` (the first; each
//! seed has [`PROGRAMS`]), `FUZZ_CPUS` (physical), `FUZZ_VCPUS` (see above), `FUZZ_SILENCE`
//! (seconds without a line after which a machine has failed; set more on a busy test host) and
//! `FUZZ_ICOUNT` (1: the same run, instruction by instruction), and run `cargo xtask test fuzz`.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use fuzz_programs::{Keep, OTHER_SLOTS, Program, SLOTS, shrink};
use pv_abi::uv::start::MODULE_COMMAND_LINE;
use rig::build::hv_build;
use rig::image::boot_image;
use rig::image::host::{self, Destination};
use rig::machine::{Event, Machine, NoEvent};
use rig::options::{BootOptions, MachineOptions};

use crate::{Results, boots, number, stay};

/// The time in seconds that CI spends on random programs.
const SECONDS: u64 = 75;
/// The time in seconds for the measurement of stays.
const STAY_SECONDS: u64 = 60;
/// Virtual CPUs of the guest. With two that run programs, far fewer programs run in the same time.
const VCPUS: u32 = 1;
/// Programs of a seed.
const PROGRAMS: u64 = 20_000;
/// Seconds that the console may be silent; normally a line comes every few dozen programs.
const SILENCE: u64 = 60;
/// The most machines that are booted to shrink a run.
const TRIES: u32 = 60;
/// The most bytes of a list of steps that fit a command line.
const LIST_BYTES: usize = MODULE_COMMAND_LINE - 64;

/// Runs random programs.
pub fn run_programs(results: &mut Results) {
    if results.wanted("fuzz/programs") {
        let start = Instant::now();
        let result = programs();
        results.note("fuzz/programs", start, result);
    }
}

/// Runs random programs on a machine that measures stays in ring 0.
pub fn run_stay(results: &mut Results) {
    if results.wanted("fuzz/stay") {
        let start = Instant::now();
        results.note("fuzz/stay", start, stay());
    }
}

/// Measures the longest stay in ring 0 while programs run; the other scenario judges how they end.
fn stay() -> Result<()> {
    let file = stay::file("fuzz")?;
    let guest = Guest { machine: stay::machine(file.path()), ..Guest::build()? };
    let end = Instant::now() + Duration::from_secs(STAY_SECONDS);
    let ran = guest.run(number("FUZZ_SEED", 1)?, PROGRAMS, 0, None, Some(end))?;
    println!("{} programs", ran.at);
    ensure!(ran.at > 0, "no program ran");
    stay::judge(file.path())
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// The guest ran all its programs.
    Done,
    /// The guest ended itself; the line says how.
    Itself(String),
    /// The run failed; the lines describe it.
    Failed(String),
}

/// A run that ended.
struct Ran {
    end: End,
    /// The last program that the guest reported.
    at: u64,
}

fn programs() -> Result<()> {
    let end = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS", SECONDS)?);
    let guest = Guest::build()?;
    let (mut seed, mut first) = (number("FUZZ_SEED", 1)?, 0);
    let (mut programs, mut ends) = (0, 0);
    while Instant::now() < end {
        let ran = guest.run(seed, PROGRAMS - first, first, None, Some(end))?;
        match &ran.end {
            End::Done => (programs, seed, first) = (programs + ran.at - first, seed + 1, 0),
            End::Itself(line) => {
                println!("seed {seed}: ended itself after program {}: {line}", ran.at);
                (programs, ends) = (programs + ran.at - first, ends + 1);
                // The program that ended it lies before the next number that it would have
                // reported.
                first = ran.at + STEP;
            }
            End::Failed(what) => {
                report(&guest, seed, first, ran.at, what)?;
                bail!("seed {seed}, programs from {first}, at {}: {what}", ran.at);
            }
        }
        if first >= PROGRAMS {
            (seed, first) = (seed + 1, 0);
        }
    }
    println!("{programs} programs; the guest ended itself {ends} times");
    ensure!(programs > 200, "too few programs ran: {programs}");
    Ok(())
}

/// The number of programs between two reports of the guest.
const STEP: u64 = 50;

/// Finds the needed steps and prints them.
fn report(guest: &Guest, seed: u64, first: u64, at: u64, what: &str) -> Result<()> {
    println!("seed {seed}, programs {first} to {}: {what}", at + STEP);
    // First try only the programs since the last report; if those do not fail, try all before them,
    // too.
    for from in [at, first] {
        let programs = from..at + STEP;
        let numbers: Vec<u32> = programs
            .clone()
            .flat_map(|index| {
                let program = Program::generate(seed, index);
                let slots: Vec<u64> = program.slots().map(|(slot, _)| slot).collect();
                slots.into_iter().map(move |slot| ((index - from) * SLOTS + slot) as u32)
            })
            .collect();
        let count = programs.end - programs.start;
        let mut left = TRIES;
        let mut fails = |kept: &[u32]| {
            let keep = Keep::only(kept, &numbers);
            // The whole list is one range. A list that is too long counts as needed.
            if kept.is_empty() || keep.to_string().len() > LIST_BYTES || left == 0 {
                return false;
            }
            left -= 1;
            let ran = guest.run(seed, count, from, Some(&keep), None);
            // Another kind of failure, such as a failed start, does not count.
            ran.is_ok_and(|ran| matches!(&ran.end, End::Failed(how) if kind(how) == kind(what)))
        };
        if fails(&numbers) {
            let needed = shrink(numbers.clone(), fails);
            print_steps(seed, from, &needed);
            println!(
                "again: --append 'fuzz {seed} {count} {from} {}'",
                Keep::only(&needed, &numbers)
            );
            return Ok(());
        }
    }
    println!("the failure does not happen again with the same programs");
    Ok(())
}

fn print_steps(seed: u64, from: u64, numbers: &[u32]) {
    for number in numbers {
        let (index, slot) = (from + u64::from(*number) / SLOTS, u64::from(*number) % SLOTS);
        let program = Program::generate(seed, index);
        if let Some((_, step)) = program.slots().find(|(number, _)| *number == slot) {
            let cpu = slot / OTHER_SLOTS;
            println!("program {index} step {slot} on virtual CPU {cpu}: {step}");
        }
    }
}

/// The guest, and the machine it runs on.
struct Guest {
    kernel: PathBuf,
    initrd: PathBuf,
    machine: MachineOptions,
    vcpus: u32,
}

impl Guest {
    fn build() -> Result<Self> {
        let initrd = boots::no_files()?;
        let icount = number("FUZZ_ICOUNT", 0)? != 0;
        let machine =
            MachineOptions { cpus: number("FUZZ_CPUS", 2)?, icount, ..MachineOptions::default() };
        Ok(Self {
            kernel: hv_build::guest()?,
            initrd,
            machine,
            vcpus: number("FUZZ_VCPUS", VCPUS)?,
        })
    }

    /// Runs programs of a seed, with all steps or only those to keep, until they are done or time
    /// is up.
    fn run(
        &self,
        seed: u64,
        count: u64,
        first: u64,
        keep: Option<&Keep>,
        end: Option<Instant>,
    ) -> Result<Ran> {
        let steps = keep.map(|keep| format!(" {keep}")).unwrap_or_default();
        let boot = BootOptions {
            kernel: Some(self.kernel.clone()),
            initrd: Some(self.initrd.clone()),
            append: format!("fuzz {seed} {count} {first}{steps}"),
            command_memory: Some("4M".into()),
            command_vcpus: Some(self.vcpus),
            ..BootOptions::default()
        };
        let image = boot_image::make(&host::payload(&boot, Destination::Qemu)?)?;
        let mut machine = Machine::start(&self.machine, &image)?;
        let late = wait(&mut machine, end)?;
        let places = if late == Late::Silent { machine.where_cpus_are() } else { String::new() };
        let round = late == Late::Silent && machine.goes_round_in_a_partition();
        let console = machine.console()?;
        let at = last_number(&console, ": at ").unwrap_or(first);
        let mut end = judge(&console, late, round);
        if let End::Failed(what) = &mut end {
            *what += &format!("\n{places}");
        }
        if late == Late::No
            && let End::Failed(what) = &mut end
            && let Some(signal) = machine.ended()?.signal()
        {
            // This is probably not the monitor's fault, but it means that a guest can crash QEMU.
            *what = format!("QEMU itself was ended by signal {signal}; {what}");
        }
        Ok(Ran { end, at })
    }
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Late {
    /// The machine ended.
    No,
    /// The time for the whole run is up.
    Enough,
    /// The machine was silent for too long.
    Silent,
}

fn wait(machine: &mut Machine, end: Option<Instant>) -> Result<Late> {
    let patience = Duration::from_secs(number("FUZZ_SILENCE", SILENCE)?);
    let mut watch = Watch::new(Instant::now(), patience, end);
    loop {
        let event = machine.next_event(Some(watch.silence));
        if let Some(late) = watch.saw(&event, Instant::now()) {
            return Ok(late);
        }
    }
}

/// The time at which a wait ends.
///
/// Rule: a wait ends for lack of time only right after a sign of life. At the end of its time, a
/// machine that hangs looks like a machine at work, so the reader waits for one more event, or
/// finds the machine silent.
struct Watch {
    /// How long the machine may be silent.
    patience: Duration,
    /// The end of the time for the whole run.
    end: Option<Instant>,
    /// The time from which on the machine counts as silent for too long.
    silence: Instant,
}

impl Watch {
    fn new(now: Instant, patience: Duration, end: Option<Instant>) -> Self {
        Self { patience, end, silence: now + patience }
    }

    /// Records an event, or the silence up to `silence`. Returns why the wait ends, if it does.
    fn saw(&mut self, event: &Result<Event, NoEvent>, now: Instant) -> Option<Late> {
        match event {
            Ok(Event::Closed) | Err(NoEvent::Ended) => return Some(Late::No),
            Err(NoEvent::TimedOut) => return Some(Late::Silent),
            Ok(_) => self.silence = now + self.patience,
        }
        self.end.is_some_and(|end| now >= end).then_some(Late::Enough)
    }
}

/// The number after the last `mark` of a line of the guest.
fn last_number(console: &str, mark: &str) -> Option<u64> {
    let lines = console.lines().rev().filter(|line| line.contains("fuzz "));
    lines.filter_map(|line| line.rsplit_once(mark)?.1.split(' ').next()?.parse().ok()).next()
}

/// Texts that must not appear on the console.
const BAD: [&str; 4] =
    ["the monitor failed", "ESCAPE", "partition 1 stopped", "partition 2 stopped"];

/// The kind of failure that a text describes.
fn kind(text: &str) -> Option<&'static str> {
    BAD.into_iter().find(|bad| text.contains(bad))
}

/// Judges how a run ended, from the console's text, the reason why the wait ended, and whether a
/// partition loops in ring 3. A guest whose programs overwrote its own locks loops for ever, and
/// that is no fault of the host.
fn judge(console: &str, late: Late, round: bool) -> End {
    let is_bad = |line: &&str| kind(line).is_some();
    let bad: Vec<_> = console.lines().skip_while(|line| !is_bad(line)).take(20).collect();
    if !bad.is_empty() {
        return End::Failed(bad.join("\n"));
    }
    let cause = |line: &&str| line.contains("virtual CPU 0 stopped") || line.starts_with("fault:");
    let stopped = console.lines().find(|line| line.contains("partition 3 stopped"));
    match (late, stopped) {
        (Late::Silent, _) if round => End::Itself("silent; the guest loops in ring 3".into()),
        (Late::Silent, _) => End::Failed("the machine is silent".into()),
        (Late::Enough, _) => End::Done,
        (Late::No, Some(line)) if line.contains("cause 1, detail 0x0") => End::Done,
        (Late::No, Some(line)) => {
            End::Itself(console.lines().rev().find(cause).unwrap_or(line).to_owned())
        }
        (Late::No, None) => End::Failed("the machine ended without a reason in its output".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = "[    0.0] uv: Ultravisor\n[partition 3] fuzz 1: at 50\n";

    #[test]
    fn ends_are_told_apart() {
        let judge = |text: &str, late| judge(&format!("{START}{text}"), late, false);
        let off = "[partition 1] ultravisor: partition 3 stopped: cause 1, detail 0x0\n";
        assert_eq!(judge(off, Late::No), End::Done);
        let crash = "uv: warning: partition 3: virtual CPU 0 stopped: cause 2\n\
            [partition 1] ultravisor: partition 3 stopped: cause 2, detail 0xd\n";
        assert!(matches!(judge(crash, Late::No), End::Itself(line) if line.contains("CPU 0")));
        let failed = "[ 1.0] uv: error: the monitor failed: exception 14\n";
        assert!(matches!(judge(failed, Late::No), End::Failed(_)));
        assert!(matches!(judge("", Late::Silent), End::Failed(_)));
        assert!(matches!(super::judge(START, Late::Silent, true), End::Itself(_)));
        assert!(matches!(judge("", Late::No), End::Failed(_)));
        let other = format!("ultravisor: partition 2 stopped: cause 2\n{off}");
        assert!(matches!(judge(&other, Late::No), End::Failed(_)));
    }

    #[test]
    fn a_machine_that_is_silent_when_its_time_is_up_is_not_done() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let line = || Ok(Event::Console(b"fuzz 1: at 50".to_vec()));
        let mut watch = Watch::new(start, Duration::from_secs(60), Some(after(70)));
        assert_eq!(watch.saw(&line(), after(20)), None);
        assert_eq!(watch.silence, after(80), "it is waited for, though its time ends before");
        assert_eq!(watch.saw(&Err(NoEvent::TimedOut), after(80)), Some(Late::Silent));
        assert_eq!(watch.saw(&line(), after(75)), Some(Late::Enough));
        let mut watch = Watch::new(start, Duration::from_secs(60), None);
        assert_eq!(watch.saw(&line(), after(1000)), None);
        assert_eq!(watch.saw(&Ok(Event::Closed), after(1001)), Some(Late::No));
    }

    #[test]
    fn numbers_are_read_from_the_last_line() {
        let text = format!("{START}[partition 3] fuzz 1: 1000 programs, 5 done\n");
        assert_eq!(last_number(&text, ": at "), Some(50));
        assert_eq!(last_number(&text, ": "), Some(1000));
        assert_eq!(last_number("", ": "), None);
    }
}
