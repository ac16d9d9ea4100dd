//! The module `microcode` is found, matched with the CPU, and reported, whatever its contents.
//!
//! An emulated CPU ignores the register that loads an update, so no scenario reaches a new
//! revision; `hv/microcode` tests that on a model of a CPU. Here the file goes all the way from
//! GRUB to the register, and the result to the console and to `uvtool doctor`.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rig::image::cpio::Archive;
use rig::image::host::Destination;
use rig::image::{boot_image, host};
use rig::machine::Machine;
use rig::options::{BootOptions, MachineOptions};
use rig::workspace;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::Check;
use crate::host::Host;
use crate::leaks::ask_doctor;

/// The longest time until a partition runs.
const LIMIT: Duration = Duration::from_secs(120);

/// The value of leaf 1 `eax` of QEMU's SandyBridge.
const SANDY_BRIDGE: u32 = 0x2_06a1;
/// This model lacks the bit by which QEMU says that the machine is virtual.
const AS_ON_METAL: &str = "SandyBridge,-smap,-hypervisor";

/// Name, CPU model, the module's file, and the expected report.
type Scenario = (&'static str, &'static str, fn() -> Vec<u8>, &'static str);

/// Scenarios that end once the ultravisor has reported on the module.
const TOLD: [Scenario; 5] = [
    (
        "microcode/not-taken",
        AS_ON_METAL,
        || archive(&intel(0x2f, SANDY_BRIDGE)),
        "the CPU did not take the module's revision 0x2f",
    ),
    (
        "microcode/damaged",
        AS_ON_METAL,
        || [intel(0x2f, SANDY_BRIDGE), intel(0x30, SANDY_BRIDGE)[..60].to_vec()].concat(),
        "the module is damaged at byte 64; copy the file anew",
    ),
    (
        "microcode/other-cpu",
        AS_ON_METAL,
        || intel(0x2f, SANDY_BRIDGE + 1),
        "the module has no update for this CPU",
    ),
    (
        "microcode/other-manufacturer",
        "EPYC-Rome,-smap",
        || intel(0x2f, SANDY_BRIDGE),
        "the module has nothing of this CPU's manufacturer",
    ),
    (
        "microcode/older",
        "SandyBridge,-smap,-hypervisor,ucode-rev=0x3000000000",
        || intel(0x2f, SANDY_BRIDGE),
        "the module's revision 0x2f is not newer than the CPU's",
    ),
];

/// Runs the requested scenarios.
pub fn run_scenarios(results: &mut Results) {
    for (name, model, file, told) in TOLD {
        if results.wanted(name) {
            let start = Instant::now();
            results.note(name, start, is_told(name, model, &file(), told));
        }
    }
    let shown = Boot {
        name: "microcode-virtual",
        machine: MachineOptions {
            cpu_model: "SandyBridge,-smap".into(),
            ..MachineOptions::default()
        },
        boot: || options("virtual", &intel(0x2f, SANDY_BRIDGE)),
        checks: &[Check { name: "doctor", run: doctor }],
    };
    boots::run_wanted(&shown, results);
}

/// An Intel update for every platform of a CPU (SDM vol. 3, 10.11.1).
fn intel(revision: u32, signature: u32) -> Vec<u8> {
    let mut words = [1, revision, 0, signature, 0, 1, 0xff, 16, 64, 0, 0, 0, 7, 7, 7, 7];
    words[4] = words.iter().fold(0_u32, |sum, word| sum.wrapping_sub(*word));
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Puts a file of microcode into an archive, as distributions install it.
fn archive(file: &[u8]) -> Vec<u8> {
    let mut archive = Archive::new();
    archive.file("kernel/x86/microcode/GenuineIntel.bin", 0o644, file);
    archive.finish()
}

/// Writes a file of microcode, and returns boot options with the file as a module.
fn options(name: &str, file: &[u8]) -> Result<BootOptions> {
    let directory = workspace::directory(workspace::build_dir()?.join("microcode"))?;
    let path: PathBuf = directory.join(name);
    fs::write(&path, file)?;
    Ok(BootOptions { microcode: Some(path), ..BootOptions::default() })
}

/// Checks that the loader and the ultravisor report it, which shows that the host starts all the
/// same.
fn is_told(name: &str, model: &str, file: &[u8], told: &str) -> Result<()> {
    let options = options(name.rsplit('/').next().unwrap_or(name), file)?;
    let image = boot_image::make(&host::payload(&options, Destination::Qemu)?)?;
    let machine = MachineOptions { cpu_model: model.into(), ..MachineOptions::default() };
    let mut machine = Machine::start(&machine, &image)?;
    let says = |console: &str, start: &str| {
        console.lines().any(|line| line.contains(start) && line.contains(told))
    };
    let is_told = machine.sees(LIMIT, |console| says(console, "ultravisor: CPU: "))?;
    ensure!(is_told, "the ultravisor never prints {told:?}; {}", machine.console_tail());
    ensure!(says(&machine.console()?, "microcode: "), "the loader does not print {told:?}");
    Ok(())
}

/// Checks that in a virtual machine `uvtool doctor` leaves the update to the machine's host.
fn doctor(host: &mut Host) -> Result<()> {
    let (_, doctor) = ask_doctor(host)?;
    let told = "the module has revision 0x2f, which only the host of this virtual machine can load";
    ensure!(doctor["microcode_update"] == told && doctor["microcode"] == 1, "{doctor}");
    let text = host.sh("uvtool doctor || true")?;
    ensure!(text.contains(&format!("microcode  0x1: {told}")), "{text}");
    Ok(())
}
