//! `cargo xtask bench`: instructions, counted exactly by QEMU's deterministic clock.
//!
//! Under `-icount shift=1` an instruction takes two ticks of the time-stamp counter, so counters
//! that are read inside the machine give instruction counts, and the speed of the host machine does
//! not matter. Each figure stands next to the figures of the same kernel on Debian's Xen and on no
//! hypervisor.

pub mod create;
pub mod io;
pub mod order;
pub mod paths;
pub mod scale;
pub mod stays;

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use harness_protocol::Words;

use rig::image::boot_image::{self, JUMP_MARK};
use rig::image::host::{self, Destination};
use rig::machine::Machine;
use rig::machine::exec::{self, Outcome, Streams};
use rig::options::{BootOptions, MachineOptions, Under};

/// Ticks of the counter for each instruction.
pub const TICKS: u64 = 2;
/// The time limit of one boot.
const LIMIT: Duration = Duration::from_secs(420);

/// What can be measured.
#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// Instructions from GRUB's jump to the shell
    Boot {
        /// Leave out the machine without a hypervisor
        #[arg(long)]
        only_hypervisors: bool,
    },
    /// Instructions and time of the creation of a minimal guest
    Create {
        /// For programs instead of people
        #[arg(long)]
        json: bool,
    },
    /// Instructions of a disk's operations, by part of the host
    Io(io::Options),
    /// Instructions of commands beside many minimal guests, by part of the host
    Scale(scale::Options),
    /// Find the functions that uvtool's commands execute, and write the order of its functions
    Order,
    /// Instructions of a kernel's paths: system call, fault, mappings, processes
    Paths {
        /// For programs instead of people
        #[arg(long)]
        json: bool,
    },
}

/// Measures and prints the result.
///
/// # Errors
/// A machine does not come up.
pub fn measure(what: &What) -> Result<ExitCode> {
    match what {
        What::Boot { only_hypervisors } => boot(*only_hypervisors).map(status),
        What::Create { json } => create::measure(*json).map(status),
        What::Io(options) => io::measure(options).map(status),
        What::Scale(options) => scale::measure(options).map(status),
        What::Order => order::write().map(|()| ExitCode::SUCCESS),
        What::Paths { json } => paths::measure(*json).map(|()| ExitCode::SUCCESS),
    }
}

fn status(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits until the memory that is free after the start is scrubbed, because the scrubbing belongs
/// to no command.
pub const SCRUBBED: &str = "set -e\nuntil uvtool resources --json | \
    grep -qE '\"unscrubbed_frames\": *0,?$'; do sleep 0.2; done\n";

/// The machine for all measurements.
pub(crate) fn machine() -> MachineOptions {
    MachineOptions { cpus: 1, icount: true, ..MachineOptions::default() }
}

/// Measures boots and prints the counts; returns `true` if a boot of our host takes fewer
/// instructions than one of Xen.
///
/// # Errors
/// A machine does not come up.
pub fn boot(only_hypervisors: bool) -> Result<bool> {
    println!("instructions from GRUB's jump to the shell (1 CPU, 2 GiB, QEMU -icount):");
    let ours = boot_instructions(Under::Ultravisor)?;
    println!("  ultravisor    {:>14}", grouped(ours));
    let xen = boot_instructions(Under::Xen)?;
    println!("  Debian's Xen  {:>14}", grouped(xen));
    if !only_hypervisors {
        println!("  no hypervisor {:>14}", grouped(boot_instructions(Under::Bare)?));
    }
    println!("ultravisor / Xen = {:.3}", ours as f64 / xen as f64);
    Ok(ours < xen)
}

/// Boots once and returns the number of instructions.
///
/// # Errors
/// The machine does not come up, or does not report its counter.
pub fn boot_instructions(under: Under) -> Result<u64> {
    let boot = BootOptions { under, ..BootOptions::default() };
    let image = boot_image::make(&host::payload(&boot, Destination::Qemu)?)?;
    let mut machine = Machine::start(&machine(), &image)?;
    let deadline = Some(Instant::now() + LIMIT);
    ensure_exited(exec::wait_ready(&mut machine, deadline)?)?;
    let words = Words::new(["cat", "/run/uv-shell-tsc"].map(str::to_owned).to_vec())?;
    let mut output = Output(Vec::new());
    ensure_exited(exec::run_command(&mut machine, words, deadline, &mut output)?)?;
    let shell: u64 = String::from_utf8_lossy(&output.0)
        .trim()
        .parse()
        .context("the command partition does not say when its shell started")?;
    let jump = jump(&machine.console()?)
        .context("GRUB did not print the time-stamp counter before it jumped")?;
    Ok(shell.saturating_sub(jump) / TICKS)
}

/// Runs a command on a fresh machine and returns its output.
///
/// # Errors
/// The machine does not come up, or the command fails.
pub(crate) fn output_of(
    machine: &MachineOptions,
    boot: &BootOptions,
    command: &[&str],
) -> Result<String> {
    output_within(LIMIT, machine, boot, command)
}

/// Does what [`output_of`] does, with another time limit for the boot and the command.
///
/// # Errors
/// The errors of [`output_of`].
pub(crate) fn output_within(
    limit: Duration,
    machine: &MachineOptions,
    boot: &BootOptions,
    command: &[&str],
) -> Result<String> {
    let image = boot_image::make(&host::payload(boot, Destination::Qemu)?)?;
    let mut machine = Machine::start(machine, &image)?;
    let deadline = Some(Instant::now() + limit);
    ensure_exited(exec::wait_ready(&mut machine, deadline)?)?;
    let mut output = Output(Vec::new());
    let words = Words::new(command.iter().copied())?;
    let outcome = exec::run_command(&mut machine, words, deadline, &mut output)?;
    let text = String::from_utf8_lossy(&output.0).into_owned();
    ensure_exited(outcome).with_context(|| format!("it printed {text:?}"))?;
    Ok(text)
}

fn ensure_exited(outcome: Outcome) -> Result<()> {
    ensure!(outcome == Outcome::Exited(0), "the machine did not do what it was to do: {outcome:?}");
    Ok(())
}

/// The counter that GRUB printed.
fn jump(console: &str) -> Option<u64> {
    let rest = console.split(JUMP_MARK).nth(1)?;
    let digits = rest.split(|c: char| !c.is_ascii_hexdigit()).next()?;
    u64::from_str_radix(digits, 16).ok()
}

/// The number and the count in a line `mark NUMBER COUNT` of a profile.
pub(crate) fn mark_in_line(line: &str) -> Option<(u8, u64)> {
    let (number, count) = line.strip_prefix("mark ")?.split_once(' ')?;
    Some((number.parse().ok()?, count.parse().ok()?))
}

/// A number with its thousands separated.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Keeps a command's standard output, and shows its standard error.
struct Output(Vec<u8>);

impl Streams for Output {
    fn output(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
    fn error(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        std::io::stderr().write_all(bytes)
    }
    fn start_input(&mut self, _: File) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_from_the_right() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_234), "1 234");
        assert_eq!(grouped(12_345_678), "12 345 678");
    }

    #[test]
    fn the_jump_is_found_behind_its_mark() {
        let console = format!("GRUB\r\n{JUMP_MARK}1f4\r\n[    0.000000] uv: Ultravisor");
        assert_eq!(jump(&console), Some(500));
        assert_eq!(jump("GRUB"), None);
    }
}
