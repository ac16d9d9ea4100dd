//! Checks that the loader is gone when partitions run: its mark is nowhere in the memory in which
//! it was.
//!
//! The same search on a machine whose loader has refused to start finds the mark. That shows that
//! the search works.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use handover::LOADER_MARK;
use rig::image::host::Destination;
use rig::image::{boot_image, host};
use rig::machine::Machine;
use rig::options::{BootOptions, MachineOptions};
use rig::workspace;

use crate::Results;

/// The longest time until a machine has printed the awaited text.
const LIMIT: Duration = Duration::from_secs(120);
/// Bytes of memory that are searched, from address 0. The loader lies at 2 MiB.
const BYTES: usize = 64 << 20;

/// The check of one machine.
type Scenario = fn() -> Result<()>;

/// Runs the requested scenarios.
pub fn run_scenarios(results: &mut Results) {
    let scenarios: [(&str, Scenario); 2] =
        [("loader/found-before", found_before), ("loader/gone-after", gone_after)];
    for (name, run) in scenarios {
        if results.wanted(name) {
            let start = Instant::now();
            results.note(name, start, run());
        }
    }
}

/// Checks that a loader that refuses its command line, and so stops, is found in memory.
fn found_before() -> Result<()> {
    let options = BootOptions { monitor_options: "colour=blue".into(), ..BootOptions::default() };
    // On a machine other than QEMU it cannot exit.
    let count = marks(&options, Destination::Machine, "cannot start")?;
    ensure!(count == 1, "{count} marks of the loader, where one is the loader's own");
    Ok(())
}

/// Checks that no loader is in memory once a partition has printed something.
fn gone_after() -> Result<()> {
    let count = marks(&BootOptions::default(), Destination::Qemu, "[partition 1]")?;
    ensure!(count == 0, "{count} marks of the loader are still in memory");
    Ok(())
}

/// Boots, stops the machine once its console says `text`, and counts the loader's marks.
fn marks(options: &BootOptions, destination: Destination, text: &str) -> Result<usize> {
    let image = boot_image::make(&host::payload(options, destination)?)?;
    let mut machine = Machine::start(&MachineOptions::default(), &image)?;
    let says = machine.sees(LIMIT, |console| console.contains(text))?;
    ensure!(says, "the machine never prints {text:?}; {}", machine.console_tail());
    machine.prompt.ask("stop")?;
    let directory = workspace::directory(workspace::build_dir()?.join("memory"))?;
    let file = directory.join(std::process::id().to_string());
    let answer = machine.prompt.ask(&format!("pmemsave 0 {BYTES} \"{}\"", file.display()))?;
    let memory = workspace::read(&file);
    fs::remove_file(&file)?;
    let memory = memory?;
    ensure!(memory.len() == BYTES, "QEMU saved {} bytes: {answer}", memory.len());
    Ok(memory.chunks_exact(LOADER_MARK.len()).filter(|chunk| *chunk == LOADER_MARK).count())
}
