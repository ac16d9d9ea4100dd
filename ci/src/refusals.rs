//! Machines that must not come up: each stops with one message that names the fault.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rig::image::boot_image::{self, Payload};
use rig::image::host;
use rig::image::host::Destination;
use rig::machine::qemu;
use rig::machine::{Event, Machine, NoEvent};
use rig::options::{BootOptions, MachineOptions};
use rig::workspace;

use crate::Results;

/// The longest time until the machine has stopped.
const LIMIT: Duration = Duration::from_secs(120);
/// The longest time from the message to the stop.
const SOON: Duration = Duration::from_secs(5);

/// A change to a module of the boot.
type Change = fn(&mut Payload, &str) -> Result<()>;

/// The part that all messages of a host that cannot start have.
const NO_START: &str = "cannot start";

/// Wrong modules: name, change, module, and parts of the message.
const MODULES: [(&str, Change, &str, &[&str]); 11] = [
    ("no-ultravisor", leave_out, "ultravisor", &[NO_START, "\"ultravisor\" is missing"]),
    ("no-boot", leave_out, "boot", &[NO_START, "\"boot\" is missing"]),
    ("no-kernel", leave_out, "command-kernel", &[NO_START, "command-kernel is missing"]),
    ("short-ultravisor", cut, "ultravisor", &[NO_START, "\"ultravisor\"", "truncated"]),
    ("short-boot", cut, "boot", &[NO_START, "\"boot\"", "truncated"]),
    ("short-kernel", cut, "command-kernel", &[NO_START, "command-kernel:", "truncated"]),
    ("corrupt-ultravisor", spoil, "ultravisor", &[NO_START, "\"ultravisor\"", "not a 64-bit ELF"]),
    ("corrupt-boot", spoil, "boot", &[NO_START, "\"boot\"", "not a 64-bit ELF"]),
    ("corrupt-kernel", spoil, "command-kernel", &[NO_START, "command-kernel:", "neither an ELF"]),
    ("corrupt-initrd", spoil, "command-initrd", &[NO_START, "command-initrd:", "no cpio archive"]),
    ("kernel-without-pv", without_pv, "command-kernel", &[NO_START, "command-kernel:", "Xen PV"]),
];

/// Machines that cannot hold a host: name, memory, CPU model, and parts of the message.
const MACHINES: [(&str, &str, &str, &[&str]); 4] = [
    ("too-little-memory", "96M", "max,-smap", &[NO_START, "memory:", "give the machine at least"]),
    ("too-little-for-command", "160M", "max,-smap", &[NO_START, "too little memory:", "free"]),
    ("no-nx", "2G", "qemu64,-nx", &["this CPU has no execute-disable bit (NX)"]),
    ("no-long-mode", "2G", "qemu32", &["this CPU has no", "64-bit"]),
];

/// A machine that must stop.
struct Refusal {
    name: &'static str,
    machine: MachineOptions,
    boot: BootOptions,
    /// The module to change, and the change.
    change: Option<(Change, &'static str)>,
    /// Texts that the message on the serial line must contain.
    says: &'static [&'static str],
}

impl Refusal {
    /// A usual machine, which the caller then changes.
    fn new(name: &'static str, says: &'static [&'static str]) -> Self {
        let (machine, boot) = (MachineOptions::default(), BootOptions::default());
        Self { name, machine, boot, change: None, says }
    }
}

fn all() -> Vec<Refusal> {
    let module = |(name, change, module, says)| Refusal {
        change: Some((change, module)),
        ..Refusal::new(name, says)
    };
    let machine = |(name, memory, model, says): (_, &str, &str, _)| {
        let (memory, cpu_model) = (memory.into(), model.into());
        let machine = MachineOptions { memory, cpu_model, ..MachineOptions::default() };
        Refusal { machine, ..Refusal::new(name, says) }
    };
    let mut all: Vec<_> = MODULES.into_iter().map(module).collect();
    all.extend(MACHINES.into_iter().map(machine));
    all.extend(options());
    all
}

/// Command lines with an unknown word.
fn options() -> [Refusal; 3] {
    const UNKNOWN: &[&str] = &["unknown option", "colour=blue"];
    let refusal = |name, boot| Refusal { boot, ..Refusal::new(name, UNKNOWN) };
    let word = || "colour=blue".to_owned();
    let usual = BootOptions::default;
    [
        refusal("monitor-option", BootOptions { monitor_options: word(), ..usual() }),
        refusal("ultravisor-option", BootOptions { ultravisor_options: word(), ..usual() }),
        refusal("boot-option", BootOptions { boot_options: word(), ..usual() }),
    ]
}

/// Runs the requested refusals.
pub fn run_scenarios(results: &mut Results) {
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
    if let Some((change, module)) = refusal.change {
        change(&mut payload, module)?;
    }
    let mut machine = Machine::start(&refusal.machine, &boot_image::make(&payload)?)?;
    let deadline = Instant::now() + LIMIT;
    let message = loop {
        if let Some(line) = message(&machine.console()?, refusal.says) {
            break line;
        }
        match machine.next_event(Some(deadline)) {
            Ok(Event::Console(_) | Event::Packet(_) | Event::Noise(_)) => {}
            Err(NoEvent::TimedOut) => bail!("the machine did not stop; {}", machine.console_tail()),
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
    let whole = console.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let line = whole.map(str::trim).find(|line| says.iter().all(|part| line.contains(part)))?;
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
                    "the machine goes on: {}",
                    machine.console_tail()
                );
                return Ok(());
            }
        }
    }
    let status = machine.ended()?.code();
    let tail = machine.console_tail();
    ensure!(status == Some(qemu::STATUS_STOPPED), "QEMU ended with {status:?}; {tail}");
    Ok(())
}

/// The file of the module `name`.
fn file_of<'a>(payload: &'a mut Payload, name: &str) -> Result<&'a mut PathBuf> {
    if let Payload::Host { modules, .. } = payload
        && let Some(module) = modules.iter_mut().find(|module| module.name == name)
    {
        return Ok(&mut module.file);
    }
    bail!("no file that is booted has the name {name}")
}

fn leave_out(payload: &mut Payload, name: &str) -> Result<()> {
    file_of(payload, name)?;
    if let Payload::Host { modules, .. } = payload {
        modules.retain(|module| module.name != name);
    }
    Ok(())
}

/// Replaces the bytes of a module.
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

/// Cuts off half of the module.
fn cut(payload: &mut Payload, name: &str) -> Result<()> {
    let bytes = bytes_of(payload, name)?;
    replace(payload, name, "short", &bytes[..bytes.len() / 2])
}

/// Makes the module begin with meaningless bytes.
fn spoil(payload: &mut Payload, name: &str) -> Result<()> {
    let mut bytes = bytes_of(payload, name)?;
    bytes.iter_mut().take(4096).for_each(|byte| *byte ^= 0x5a);
    replace(payload, name, "corrupt", &bytes)
}

/// Takes the monitor itself as the kernel: a valid ELF image that does not support the guest ABI.
fn without_pv(payload: &mut Payload, name: &str) -> Result<()> {
    let Payload::Host { monitor, .. } = &*payload else { bail!("no host is booted") };
    let bytes = workspace::read(monitor)?;
    replace(payload, name, "without-pv", &bytes)
}
