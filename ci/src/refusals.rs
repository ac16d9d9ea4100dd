//! Machines that must not come up: each stops with one message that names what is wrong.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use xtask::boot_image::{self, Payload};
use xtask::host::Destination;
use xtask::machine::{Event, Machine, NoEvent};
use xtask::options::{BootOptions, MachineOptions};
use xtask::{host, qemu, workspace};

use crate::Results;

/// How long it may take until the machine has stopped.
const LIMIT: Duration = Duration::from_secs(120);
/// How long it may take from the message to the stop.
const SOON: Duration = Duration::from_secs(5);

/// A change to what is booted.
type Change = fn(&mut Payload) -> Result<()>;

/// One machine that must stop.
struct Refusal {
    name: &'static str,
    machine: MachineOptions,
    boot: BootOptions,
    change: Change,
    /// What the message on the serial line must contain.
    says: &'static [&'static str],
}

fn all() -> Vec<Refusal> {
    let usual = || Refusal {
        name: "",
        machine: MachineOptions::default(),
        boot: BootOptions::default(),
        change: |_| Ok(()),
        says: &[],
    };
    let refusal = |name, change: Change, says| Refusal {
        name,
        change,
        says,
        ..usual()
    };
    let machine = |name, machine, says| Refusal {
        name,
        machine,
        says,
        ..usual()
    };
    let boot = |name, boot, says| Refusal {
        name,
        boot,
        says,
        ..usual()
    };
    let options = MachineOptions::default;
    vec![
        refusal(
            "no-ultravisor",
            |p| leave_out(p, "ultravisor"),
            &["ultravisor"],
        ),
        refusal("no-boot", |p| leave_out(p, "boot"), &["boot"]),
        refusal(
            "no-kernel",
            |p| leave_out(p, "command-kernel"),
            &["command-kernel"],
        ),
        refusal(
            "short-ultravisor",
            |p| cut(p, "ultravisor"),
            &["ultravisor"],
        ),
        refusal("short-boot", |p| cut(p, "boot"), &["boot"]),
        refusal(
            "short-kernel",
            |p| cut(p, "command-kernel"),
            &["command-kernel"],
        ),
        refusal(
            "corrupt-ultravisor",
            |p| spoil(p, "ultravisor"),
            &["ultravisor"],
        ),
        refusal("corrupt-boot", |p| spoil(p, "boot"), &["boot"]),
        refusal(
            "corrupt-kernel",
            |p| spoil(p, "command-kernel"),
            &["command-kernel"],
        ),
        refusal(
            "corrupt-initrd",
            |p| spoil(p, "command-initrd"),
            &["command-initrd"],
        ),
        refusal("kernel-without-pv", without_pv, &["command-kernel", "PV"]),
        machine(
            "too-little-memory",
            MachineOptions {
                memory: "96M".into(),
                ..options()
            },
            &["memory"],
        ),
        machine(
            "no-nx",
            MachineOptions {
                cpu_model: "qemu64,-nx".into(),
                ..options()
            },
            &["NX"],
        ),
        boot(
            "unknown-monitor-option",
            BootOptions {
                monitor_options: "colour=blue".into(),
                ..BootOptions::default()
            },
            &["colour"],
        ),
        boot(
            "unknown-boot-option",
            BootOptions {
                boot_options: "colour=blue".into(),
                ..BootOptions::default()
            },
            &["colour"],
        ),
    ]
}

/// Runs the refusals that were asked for.
pub fn run(results: &mut Results) {
    for refusal in all() {
        let name = format!("refusal/{}", refusal.name);
        if results.wanted(&name) {
            let start = Instant::now();
            let result = check(&refusal);
            if let Ok(message) = &result {
                println!("{message}");
            }
            results.note(&name, start, result.map(drop));
        }
    }
}

/// Boots the machine and returns the line that says why it stopped.
fn check(refusal: &Refusal) -> Result<String> {
    let mut payload = host::payload(&refusal.boot, Destination::Qemu)?;
    (refusal.change)(&mut payload)?;
    let mut machine = Machine::start(&refusal.machine, &boot_image::make(&payload)?)?;
    let deadline = Instant::now() + LIMIT;
    let message = loop {
        if let Some(line) = message(&machine.console()?, refusal.says) {
            break line;
        }
        match machine.next_event(Some(deadline)) {
            Ok(Event::Console(_) | Event::Packet(_) | Event::Noise(_)) => {}
            Err(NoEvent::TimedOut) => bail!("it did not stop; {}", machine.console_tail()),
            Ok(Event::Closed) | Err(NoEvent::Ended) => {
                let (says, tail) = (refusal.says, machine.console_tail());
                bail!("no line says all of {says:?}; {tail}")
            }
        }
    };
    stopped(&mut machine)?;
    Ok(message)
}

/// The whole line of the console that has all of these parts.
fn message(console: &str, says: &[&str]) -> Option<String> {
    let whole = console
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    let line = whole
        .map(str::trim)
        .find(|line| says.iter().all(|part| line.contains(part)))?;
    Some(line.to_owned())
}

/// Waits until the machine has left QEMU with an error, or its CPU has halted for good.
fn stopped(machine: &mut Machine) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        match machine.next_event(Some(deadline)) {
            Ok(Event::Closed) | Err(NoEvent::Ended) => break,
            Ok(_) => {}
            Err(NoEvent::TimedOut) => {
                let registers = machine.prompt.ask("info registers")?;
                ensure!(
                    registers.contains("HLT=1"),
                    "it goes on: {}",
                    machine.console_tail()
                );
                return Ok(());
            }
        }
    }
    let status = machine.ended()?.code();
    let tail = machine.console_tail();
    ensure!(
        status == Some(qemu::STATUS_STOPPED),
        "QEMU ended with {status:?}; {tail}"
    );
    Ok(())
}

/// The file of the module `name`.
fn file_of<'a>(payload: &'a mut Payload, name: &str) -> Result<&'a mut PathBuf> {
    if let Payload::Host { modules, .. } = payload
        && let Some(module) = modules.iter_mut().find(|module| module.name == name)
    {
        return Ok(&mut module.file);
    }
    bail!("nothing that is booted is called {name}")
}

fn leave_out(payload: &mut Payload, name: &str) -> Result<()> {
    file_of(payload, name)?;
    if let Payload::Host { modules, .. } = payload {
        modules.retain(|module| module.name != name);
    }
    Ok(())
}

/// Puts other bytes in the place of a module's.
fn replace(payload: &mut Payload, name: &str, how: &str, bytes: &[u8]) -> Result<()> {
    let directory = workspace::directory(workspace::build_dir()?.join("refusals"))?;
    let changed = directory.join(format!("{how}-{name}"));
    workspace::write_if_changed(&changed, bytes)?;
    *file_of(payload, name)? = changed;
    Ok(())
}

fn bytes_of(payload: &mut Payload, name: &str) -> Result<Vec<u8>> {
    let file: &Path = file_of(payload, name)?;
    workspace::read(file)
}

/// Half of the module is missing.
fn cut(payload: &mut Payload, name: &str) -> Result<()> {
    let bytes = bytes_of(payload, name)?;
    replace(payload, name, "short", &bytes[..bytes.len() / 2])
}

/// The module begins with bytes that mean nothing.
fn spoil(payload: &mut Payload, name: &str) -> Result<()> {
    let mut bytes = bytes_of(payload, name)?;
    bytes.iter_mut().take(4096).for_each(|byte| *byte ^= 0x5a);
    replace(payload, name, "corrupt", &bytes)
}

/// A kernel that is a proper ELF image, and knows nothing of the guest ABI: the monitor itself.
fn without_pv(payload: &mut Payload) -> Result<()> {
    let Payload::Host { monitor, .. } = &*payload else {
        bail!("no host is booted")
    };
    let bytes = workspace::read(monitor)?;
    replace(payload, "command-kernel", "without-pv", &bytes)
}
