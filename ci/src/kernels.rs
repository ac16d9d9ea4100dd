//! `--kernel`: another kernel in place of the command partition's; also kernels with other layouts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pv_abi::xen::elfnote;
use rig::build::{hv_build, kernel};
use rig::image::command_image::FileToSend;
use rig::image::host::Destination;
use rig::image::{boot_image, guest_image, host};
use rig::machine::qemu;
use rig::machine::{Event, Machine, NoEvent};
use rig::options::{BootOptions, MachineOptions};
use rig::workspace;

use crate::host::Host;
use crate::{Results, guests};

/// The longest time until the kernel has powered off.
const LIMIT: Duration = Duration::from_secs(180);

type Scenario = fn() -> Result<()>;

const SCENARIOS: [(&str, Scenario); 3] = [
    ("other-kernel/power-off", power_off),
    ("other-kernel/command", command),
    ("other-kernel/notes-in-sections", notes_in_sections),
];

/// Suites of Debian whose kernels are tested only by name, because they have to be downloaded. Each
/// does the work of the command partition, with guests of its own kind.
const SUITES: [(&str, &str); 4] = [
    ("kernels/5.10", "bullseye"),
    ("kernels/6.1", "bookworm"),
    ("kernels/6.12", "trixie"),
    ("kernels/testing", "testing"),
];

/// Runs the requested scenarios.
pub fn run_scenarios(results: &mut Results) {
    for (name, suite) in SUITES {
        if !results.words.is_empty() && results.wanted(name) {
            let start = Instant::now();
            results.note(name, start, of_suite(suite));
        }
    }
    for (name, scenario) in SCENARIOS {
        if results.wanted(name) {
            let start = Instant::now();
            results.note(name, start, scenario());
        }
    }
}

/// Checks that a packed kernel with its own RAM disk does its work, and that the machine ends with
/// it.
fn power_off() -> Result<()> {
    let kernel = kernel::guest_kernel()?;
    let boot = BootOptions {
        initrd: Some(guest_image::guest_initrd(&kernel, &[], &[])?),
        kernel: Some(kernel.bzimage),
        append: "quiet guest.work=2 guest.then=poweroff".into(),
        ..BootOptions::default()
    };
    let image = boot_image::make(&host::payload(&boot, Destination::Qemu)?)?;
    let mut machine = Machine::start(&MachineOptions::default(), &image)?;
    wait_for_end(&mut machine)?;
    let status = machine.ended()?.code();
    let console = machine.console()?;
    for line in ["guest: round 2 of 2", "guest: powers off"] {
        ensure!(console.contains(line), "the console lacks {line:?}; {}", machine.console_tail());
    }
    ensure!(matches!(status, Some(0 | qemu::STATUS_POWER_OFF)), "QEMU ended with {status:?}");
    Ok(())
}

fn wait_for_end(machine: &mut Machine) -> Result<()> {
    let deadline = Some(Instant::now() + LIMIT);
    loop {
        match machine.next_event(deadline) {
            Ok(Event::Closed) | Err(NoEvent::Ended) => return Ok(()),
            Ok(_) => {}
            Err(NoEvent::TimedOut) => bail!("the machine did not end; {}", machine.console_tail()),
        }
    }
}

/// Checks that a kernel without its own RAM disk gets the command partition's, and accepts
/// commands.
fn command() -> Result<()> {
    let kernel = kernel::guest_kernel()?;
    let boot = BootOptions { kernel: Some(kernel.bzimage), ..BootOptions::default() };
    let mut host = Host::boot(&MachineOptions::default(), &boot)?;
    let release = host.sh("uname -r")?;
    ensure!(release == kernel.release, "uname -r is {release}, not {}", kernel.release);
    host.power_off()
}

/// Checks the kernel of a suite in place of the command partition's, and the lives of guests with
/// it.
fn of_suite(suite: &str) -> Result<()> {
    let kernel = kernel::of_suite(suite)?;
    let file = guests::debian_files(&kernel.bzimage)?;
    let boot = BootOptions {
        kernel: Some(kernel.bzimage),
        modules: Some(kernel.modules),
        command_memory: Some("1G".into()),
        file,
        ..BootOptions::default()
    };
    let machine = MachineOptions { cpus: 4, memory: "4G".into(), ..MachineOptions::default() };
    let mut host = Host::boot(&machine, &boot)?;
    let release = host.sh("uname -r")?;
    ensure!(release == kernel.release, "uname -r is {release}, not {}", kernel.release);
    guests::lives(&mut host)?;
    host.power_off()
}

/// Checks that a kernel whose notes are only in sections, and that has no entry note, starts as a
/// guest, and that `uvtool kernel check` and the boot partition agree.
fn notes_in_sections() -> Result<()> {
    let mut elf = workspace::read(&hv_build::guest()?)?;
    forget_segment_and_entry(&mut elf)?;
    let file = workspace::build_dir()?.join("notes-in-sections");
    workspace::write_if_changed(&file, &elf)?;
    let file = vec![FileToSend { host: file, guest: "/root/small".into() }];
    let mut host =
        Host::boot(&MachineOptions::default(), &BootOptions { file, ..BootOptions::default() })?;
    let check = host.sh("uvtool kernel check /root/small")?;
    ensure!(check.contains("PV start: yes") && !check.contains("ENTRY"), "{check}");
    host.sh("uvtool create --name small --kernel /root/small --memory 4M --console")?;
    host.power_off()
}

/// Turns the note segment of an ELF image into an unused one, and its note ENTRY into one without
/// meaning.
fn forget_segment_and_entry(elf: &mut [u8]) -> Result<()> {
    let entry = [4_u32, 8, elfnote::ENTRY].map(u32::to_le_bytes).concat();
    let entry = [&entry, &elfnote::OWNER[..]].concat();
    let at = elf.windows(entry.len()).position(|bytes| bytes == entry);
    elf[at.context("no note ENTRY")? + 8] = 99;
    let count = usize::from(elf[56]);
    let mut headers = elf[64..].chunks_exact_mut(56).take(count);
    headers.find(|header| header[0] == 4).context("no note segment")?[0] = 0;
    Ok(())
}
