//! A guest that boots from its own disk, as on Xen: PV GRUB is its kernel, finds `grub.cfg`, kernel and
//! RAM disk in an ext4 file system, and Linux finds the disk after it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rig::build::kernel;

use super::{Guest, ROOT, definition_from, functions, machine, options};
use crate::Results;
use crate::host::Host;

/// The path of PV GRUB in the command partition.
pub const GRUB: &str = "/root/grub-x86_64-xen.bin";
/// The time limit of a start. GRUB waits for its disk in a loop of yields, and unpacks the kernel by
/// itself.
const LIMIT: Duration = Duration::from_secs(900);

/// Runs the scenario that runs only by name, since GRUB takes minutes.
pub fn run_scenarios(results: &mut Results) {
    let name = "disk-boot/again";
    if results.asked_for(name) {
        let start = Instant::now();
        results.note(name, start, boots_again());
    }
}

/// The lines of a definition that starts PV GRUB.
fn grub() -> String {
    // GRUB holds the packed kernel and the unpacked kernel at the same time.
    format!("kernel = \"{GRUB}\"\nmemory = \"512M\"\n")
}

/// Checks that a guest whose kernel is PV GRUB comes up with the root file system of its disk.
pub fn boots(host: &mut Host) -> Result<()> {
    let release = kernel::guest_kernel()?.release;
    let check = host.sh(&format!("uvtool kernel check {GRUB}"))?;
    ensure!(check.contains("PV start: yes"), "{check}");
    start(host, &release)?.end()
}

/// Starts a guest that boots this kernel from its disk.
fn start<'h>(host: &'h mut Host, release: &str) -> Result<Guest<'h>> {
    let functions = functions(host)?;
    let disks = [("xvda", functions[ROOT as usize].as_str())];
    let definition = definition_from(&grub(), "disk", 1, &disks);
    let mut guest = Guest::start_from(host, "disk", &definition, LIMIT)?;
    let root = guest.step("root")?;
    ensure!(root == format!("{release} on /dev/xvda1 ext4"), "{root}");
    let console = guest.host.sh("uvtool console --once disk")?;
    ensure!(console.contains(&format!("Loading Linux {release}")), "{console}");
    Ok(guest)
}

/// Checks that a guest boots from its disk again, as Linux left the disk.
fn boots_again() -> Result<()> {
    let mut host = Host::boot(&machine(), &options()?)?;
    let mut guest = start(&mut host, &kernel::guest_kernel()?.release)?;
    guest.step("note first")?;
    // A reboot begins with PV GRUB.
    guest.type_in("reboot")?;
    guest.console("/^guest: ready/ {if (++n == 2) exit}")?;
    let noted = guest.step("noted")?;
    ensure!(noted == "first", "{noted}");
    guest.end()?;
    host.power_off()
}
