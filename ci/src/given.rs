//! Tests a kernel that the user has, by name, such as Mini-OS or a Unikraft image, which no package
//! has.
//!
//! `KERNEL=FILE KERNEL_SAYS=TEXT [KERNEL_LINE=WORDS] cargo xtask test kernels/given`: the kernel
//! prints TEXT as a guest, goes through a guest's life beside the host, and prints TEXT in place of
//! the command partition. TEXT should be something that it prints late and in one piece.

use std::env;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rig::image::boot_image;
use rig::image::command_image::FileToSend;
use rig::image::host::{self, Destination};
use rig::machine::Machine;
use rig::options::{BootOptions, MachineOptions};

use crate::host::{DETACH, Host};
use crate::{Results, boots, checks};

const NAME: &str = "kernels/given";
/// The longest time until it prints the text.
const LIMIT: Duration = Duration::from_secs(180);

/// Runs the scenario, if it was requested by its whole name.
pub fn run_scenarios(results: &mut Results) {
    if results.asked_for(NAME) && results.words.iter().any(|word| word == NAME) {
        let start = Instant::now();
        results.note(NAME, start, given());
    }
}

fn given() -> Result<()> {
    let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let file = set("KERNEL")
        .context("set KERNEL to the kernel's file, and KERNEL_SAYS to a text that it prints")?;
    let says =
        set("KERNEL_SAYS").context("KERNEL_SAYS: a text that the kernel writes to its console")?;
    let append = set("KERNEL_LINE").unwrap_or_default();
    let kernel = PathBuf::from(file);
    let sent = FileToSend { host: kernel.clone(), guest: "/root/given".into() };
    let boot = BootOptions { file: vec![sent], ..BootOptions::default() };
    let mut host = Host::boot(&MachineOptions::default(), &boot)?;
    println!("{}", host.sh("uvtool kernel check /root/given")?);
    let create = "uvtool create --name given --kernel /root/given --memory 64M --console";
    let line = format!("{create} --command-line '{append}'");
    let says: &'static str = says.leak();
    // If the kernel has ended meanwhile, the key comes too late and does no harm.
    host.converse(&["sh", "-c", &line], &[(says, DETACH)], LIMIT)?;
    // A kernel that has nothing left to do is gone.
    let lives = "uvtool pause given && uvtool unpause given";
    host.sh(&format!("if uvtool info given; then {lives} && uvtool destroy --forget given; fi"))?;
    checks::resources(&mut host)?;
    checks::monitor_log(&mut host)?;
    host.power_off()?;
    in_command_place(kernel, append, says)
}

/// Checks that the kernel prints `says` in place of the command partition.
fn in_command_place(kernel: PathBuf, append: String, says: &str) -> Result<()> {
    let (kernel, initrd) = (Some(kernel), Some(boots::no_files()?));
    let boot = BootOptions { kernel, initrd, append, ..BootOptions::default() };
    let image = boot_image::make(&host::payload(&boot, Destination::Qemu)?)?;
    let mut machine = Machine::start(&MachineOptions::default(), &image)?;
    let said = machine.sees(LIMIT, |console| console.contains(says))?;
    ensure!(said, "the guest never prints {says:?}; {}", machine.console_tail());
    Ok(())
}
