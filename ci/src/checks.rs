//! The checks on a running host, a dozen lines each.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rig::build::kernel;
use rig::image::command_image::FileToSend;
use rig::options::BootOptions;
use serde_json::Value;

use crate::host::Host;
use crate::page_tables;

/// One check.
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// Runs the check.
    pub run: fn(&mut Host) -> Result<()>,
}

const fn check(name: &'static str, run: fn(&mut Host) -> Result<()>) -> Check {
    Check { name, run }
}

/// Checks for every machine.
pub const EVERY: &[Check] = &[
    check("cpus", cpus),
    check("partitions", partitions),
    check("cpu-times", cpu_times),
    check("resources", resources),
    check("kernel-log", kernel_log),
    check("monitor-log", monitor_log),
];

/// Checks for the usual machine.
pub const USUAL: &[Check] = &[
    check("kernel", unmodified_kernel),
    check("cpus", cpus),
    check("partitions", partitions),
    check("status", status),
    check("input", input),
    check("file", file),
    check("cpu-times", cpu_times),
    check("resources", resources),
    check("write-xor-execute", page_tables::write_xor_execute),
    check("monitor-out-of-reach", page_tables::monitor_out_of_reach),
    check("kernel-log", kernel_log),
    check("monitor-log", monitor_log),
];

/// The boot options of the usual machine.
pub fn usual_options() -> BootOptions {
    let file = FileToSend { host: "/etc/debian_version".into(), guest: "/root/sent/file".into() };
    BootOptions { file: vec![file], ..BootOptions::default() }
}

fn unmodified_kernel(host: &mut Host) -> Result<()> {
    let expected = kernel::guest_kernel()?.release;
    let release = host.sh("uname -r")?;
    ensure!(release == expected, "uname -r is {release}, the package's is {expected}");
    let kind = host.sh("cat /sys/hypervisor/type")?;
    ensure!(kind == "xen", "/sys/hypervisor/type is {kind}");
    Ok(())
}

/// Checks that the command partition has its CPUs, and that they run at the same time.
fn cpus(host: &mut Host) -> Result<()> {
    let count = host.number("nproc")?;
    let cpus = u64::from(host.options.cpus);
    ensure!((1..=cpus).contains(&count), "{count} CPUs in the partition of a machine with {cpus}");
    host.sh("for i in $(seq $(nproc)); do taskset -c $((i-1)) true || exit 1; done")?;
    Ok(())
}

fn partitions(host: &mut Host) -> Result<()> {
    let list = host.sh("uvtool list")?;
    for name in ["ultravisor", "boot", "command"] {
        let line = list.lines().find(|line| line.split_whitespace().any(|word| word == name));
        ensure!(line.is_some(), "uvtool list has no partition {name}:\n{list}");
    }
    host.sh("uvtool list --json && uvtool info command && uvtool log && uvtool version")?;
    Ok(())
}

fn status(host: &mut Host) -> Result<()> {
    let output = host.run(&["sh", "-c", "echo out; echo err >&2; exit 7"], b"", SOON)?;
    ensure!(output.status == 7, "{output:?}");
    ensure!(output.stdout == "out\n" && output.stderr == "err\n", "{output:?}");
    Ok(())
}

/// Checks that every byte value reaches a command, in order.
fn input(host: &mut Host) -> Result<()> {
    let data = (0..=255).cycle().take(65_536).collect::<Vec<u8>>();
    let back = host.run(&["od", "-An", "-v", "-tu1", "-w256"], &data, SOON)?;
    let numbers: Vec<u8> = back.stdout.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    ensure!(numbers == data, "{} bytes sent, {} came back", data.len(), numbers.len());
    Ok(())
}

fn file(host: &mut Host) -> Result<()> {
    let expected = std::fs::read_to_string("/etc/debian_version")?;
    let found = host.sh("cat /root/sent/file")?;
    ensure!(found == expected.trim_end(), "the file has {found:?}");
    Ok(())
}

/// Checks that every page has an owner, and that the monitor and the database agree on it.
pub fn resources(host: &mut Host) -> Result<()> {
    host.sh("uvtool resources && uvtool resources --json")?;
    host.sh("uvtool resources --verify")?;
    Ok(())
}

/// Checks that the CPU times are possible: all partitions together ran at most as long as the CPUs
/// have been up, and each partition at most as long as its virtual CPUs could run.
pub fn cpu_times(host: &mut Host) -> Result<()> {
    let mut json =
        |command: &str| -> Result<Value> { Ok(serde_json::from_str(&host.sh(command)?)?) };
    // The list is made first, so the CPUs have been up at least until the end of the times in it.
    let (partitions, resources) = (json("uvtool list --json")?, json("uvtool resources --json")?);
    let rows = |value: &Value| value.as_array().cloned().context("uvtool printed no rows");
    let number = |row: &Value, field: &str| row[field].as_u64().with_context(|| field.to_owned());
    let (mut up, mut longest) = (0, 0);
    for cpu in rows(&resources["cpus"])? {
        let time = number(&cpu, "busy_ns")? + number(&cpu, "idle_ns")?;
        (up, longest) = (up + time, longest.max(time));
    }
    let mut ran = 0;
    for row in rows(&partitions)? {
        let (time, vcpus) = (number(&row, "cpu_time_ns")?, number(&row, "vcpus")?);
        ensure!(time <= vcpus * longest, "in {longest} ns, a partition ran too long: {row}");
        ran += time;
    }
    ensure!(ran <= up, "partitions ran for {ran} ns, and the CPUs were up for {up} ns");
    ensure!(ran > 0, "no partition ran");
    Ok(())
}

/// Keeps only those parts of the output of `uvtool resources --json` that only transactions change:
/// not the usage of CPUs and heaps, nor the counters of the ultravisor's loop.
pub fn keep_accounts(resources: &mut Value) -> Result<()> {
    let members = resources.as_object_mut().context("uvtool resources printed no object")?;
    for used in ["cpus", "heaps", "unscrubbed_frames", "longest_turn_ns", "long_turns"] {
        members.remove(used).with_context(|| format!("uvtool resources has no {used}"))?;
    }
    Ok(())
}

/// Checks that the command partition's kernel logged no complaint.
pub fn kernel_log(host: &mut Host) -> Result<()> {
    let log = host.sh("dmesg")?;
    let bad = ["BUG", "WARN", "Oops", "unhandled", "Call Trace"];
    let lines: Vec<_> = log.lines().collect();
    let found = lines.iter().position(|line| bad.iter().any(|word| line.contains(word)));
    if let Some(at) = found {
        // The lines before it show the cause.
        let around = &lines[at.saturating_sub(20)..lines.len().min(at + 40)];
        bail!("the kernel log has:\n{}", around.join("\n"));
    }
    Ok(())
}

/// Checks that the monitor logged no error and no warning.
pub fn monitor_log(host: &mut Host) -> Result<()> {
    let console = host.machine.console()?;
    let bad = ["uv: error", "uv: warn", "panic"];
    let found = console.lines().filter(|line| bad.iter().any(|word| line.contains(word)));
    let found: Vec<_> = found.collect();
    ensure!(found.is_empty(), "the monitor's log has:\n{}", found.join("\n"));
    Ok(())
}

const SOON: Duration = Duration::from_secs(30);
