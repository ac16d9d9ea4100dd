//! Debian's `stress-ng` in the command partition.
//!
//! `STRESS_SECONDS` in the environment sets a longer time for each stressor than CI can spend: 43
//! gives ten minutes in all.
//!
//! The program and the libraries it needs come from Debian's packages, unmodified, and travel in
//! the RAM disk.

use std::time::Duration;

use anyhow::{Result, ensure};
use rig::build::debian;
use rig::options::BootOptions;
use rig::workspace;

use crate::checks::{self, Check};
use crate::host::Host;
use crate::number;

/// The stressors, which run one after the other.
const STRESSORS: [&str; 14] = [
    "cpu", "fork", "vfork", "exec", "mmap", "mremap", "mprotect", "vm", "signal", "pipe", "switch",
    "timer", "fp", "clone",
];
/// The stressors that refuse to run as root; they run as a user without privileges.
const NOT_AS_ROOT: [&str; 1] = ["exec"];
/// The number of processes of each stressor.
const WORKERS: &str = "2";
/// The time in seconds for each.
const SECONDS: u64 = 8;
const PROGRAM: &str = "/usr/bin/stress-ng";

/// The checks on the machine with `stress-ng`.
pub const CHECKS: &[Check] = &[
    Check { name: "stressors", run: stressors },
    Check { name: "kernel-log", run: checks::kernel_log },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// Downloads `stress-ng`, and returns boot options with it and two virtual CPUs.
///
/// # Errors
/// The packages cannot be downloaded.
pub fn options() -> Result<BootOptions> {
    let tree = workspace::directory(workspace::build_dir()?.join("packages"))?.join("stress-ng");
    if !tree.exists() {
        let packages = debian::closure("stress-ng")?;
        let packages: Vec<_> = packages.iter().map(String::as_str).collect();
        debian::unpack(&packages, &tree)?;
    }
    let file = debian::programs(&tree, &[PROGRAM.trim_start_matches('/')])?;
    Ok(BootOptions { file, command_vcpus: Some(2), ..BootOptions::default() })
}

fn stressors(host: &mut Host) -> Result<()> {
    let mut failed = Vec::new();
    for stressor in STRESSORS {
        if let Err(error) = run_stressor(host, stressor) {
            failed.push(format!("{stressor}: {error:#}"));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// Runs one stressor, which must complete at least one operation.
fn run_stressor(host: &mut Host, stressor: &str) -> Result<()> {
    let seconds = number("STRESS_SECONDS", SECONDS)?;
    let (option, time) = (format!("--{stressor}"), format!("{seconds}s"));
    let mut words = match NOT_AS_ROOT.contains(&stressor) {
        true => vec!["su", "-s", PROGRAM, "--", "nobody"],
        false => vec![PROGRAM],
    };
    words.extend(["--verify", "--metrics-brief", "--temp-path", "/tmp"]);
    words.extend([option.as_str(), WORKERS, "-t", &time]);
    let (option, size) = (format!("--{stressor}-bytes"), format!("{}m", seconds * 2));
    // With their default sizes, one operation of these takes longer than a run on a busy machine.
    if ["mmap", "mremap", "vm"].contains(&stressor) {
        words.extend([option.as_str(), &size]);
    }
    let output = host.run(&words, b"", Duration::from_secs(seconds * 3 + 30))?;
    ensure!(output.status == 0, "status {}\n{}", output.status, output.stderr);
    let said = output.stdout + &output.stderr;
    // stress-ng does not report a skipped stressor as an error.
    ensure!(operations(&said, stressor) > 0, "stress-ng did not run:\n{said}");
    Ok(())
}

/// The number of operations of the stressor in the table of metrics.
fn operations(said: &str, stressor: &str) -> u64 {
    let metrics = said.lines().filter(|line| line.contains(" metrc: "));
    let count = |line: &str| {
        let mut words = line.split(']').nth(1)?.split_whitespace();
        let name = words.next()?;
        words.next()?.parse::<u64>().ok().filter(|_| name == stressor)
    };
    metrics.filter_map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stressor_that_was_skipped_did_nothing() {
        let ran = "stress-ng: metrc: [9] stressor  bogo ops real time\n\
            stress-ng: metrc: [9]           (secs)\n\
            stress-ng: metrc: [9] exec       973    1.00\n";
        assert_eq!(operations(ran, "exec"), 973);
        let skipped = "stress-ng: info:  [9] exec stressor must not run as root\n\
            stress-ng: error: [9] No stress workers invoked (one or more were unsupported)\n";
        assert_eq!(operations(skipped, "exec"), 0);
        assert_eq!(operations(ran, "fork"), 0);
    }
}
