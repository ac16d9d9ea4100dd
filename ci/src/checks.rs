//! What is checked on a host that is up, a dozen lines each.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xtask::command_image::FileToSend;
use xtask::kernel;
use xtask::options::BootOptions;

use crate::host::Host;
use crate::page_tables;

/// One check.
pub struct Check {
    /// What it is called.
    pub name: &'static str,
    /// Does it.
    pub run: fn(&mut Host) -> Result<()>,
}

const fn check(name: &'static str, run: fn(&mut Host) -> Result<()>) -> Check {
    Check { name, run }
}

/// What holds on every machine.
pub const EVERY: &[Check] = &[
    check("cpus", cpus),
    check("partitions", partitions),
    check("resources", resources),
    check("kernel-log", kernel_log),
    check("monitor-log", monitor_log),
];

/// What is checked on the usual machine.
pub const USUAL: &[Check] = &[
    check("kernel", unmodified_kernel),
    check("cpus", cpus),
    check("partitions", partitions),
    check("status", status),
    check("input", input),
    check("file", file),
    check("resources", resources),
    check("write-xor-execute", page_tables::write_xor_execute),
    check("monitor-out-of-reach", page_tables::monitor_out_of_reach),
    check("kernel-log", kernel_log),
    check("monitor-log", monitor_log),
];

/// What the usual machine is booted with.
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

/// The command partition has its CPUs, and they run at once.
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

/// Every byte value reaches a command, in order.
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

/// Every page is somebody's, and the monitor and the database agree on whose.
pub fn resources(host: &mut Host) -> Result<()> {
    host.sh("uvtool resources && uvtool resources --json")?;
    host.sh("uvtool resources --verify")?;
    Ok(())
}

/// Leaves of what `uvtool resources --json` printed what changes by transactions alone: not what
/// CPUs and heaps used meanwhile, nor how far the ultravisor's loop is.
pub fn keep_accounts(resources: &mut Value) -> Result<()> {
    let members = resources.as_object_mut().context("uvtool resources printed no object")?;
    for used in ["cpus", "heaps", "unscrubbed_frames", "longest_turn_ns", "long_turns"] {
        members.remove(used).with_context(|| format!("uvtool resources has no {used}"))?;
    }
    Ok(())
}

/// The kernel of the command partition complains of nothing.
pub fn kernel_log(host: &mut Host) -> Result<()> {
    let log = host.sh("dmesg")?;
    let bad = ["BUG", "WARN", "Oops", "unhandled", "Call Trace"];
    let lines: Vec<_> = log.lines().collect();
    let found = lines.iter().position(|line| bad.iter().any(|word| line.contains(word)));
    if let Some(at) = found {
        // What led there stands before it.
        let around = &lines[at.saturating_sub(20)..lines.len().min(at + 40)];
        bail!("the kernel log has:\n{}", around.join("\n"));
    }
    Ok(())
}

/// The monitor has no error to tell, and no warning.
pub fn monitor_log(host: &mut Host) -> Result<()> {
    let console = host.machine.console()?;
    let bad = ["uv: error", "uv: warn", "panic"];
    let found = console.lines().filter(|line| bad.iter().any(|word| line.contains(word)));
    let found: Vec<_> = found.collect();
    ensure!(found.is_empty(), "the monitor's log has:\n{}", found.join("\n"));
    Ok(())
}

const SOON: Duration = Duration::from_secs(30);
