//! The state of the host on a disk: it outlives a loss of power, and partitions start with the host.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rig::build::hv_build;
use rig::image::state_disk;
use rig::options::{BootOptions, MachineOptions};
use rig::workspace;
use serde_json::Value;

use crate::Results;
use crate::guests::{must, try_to};
use crate::host::Host;

/// The guest's kernel lies on the disk, too: it is read again when the host starts.
const KERNEL: &str = "/var/lib/uvd/guest";

/// Runs the scenario if it is requested: two boots of one disk.
pub fn run_scenarios(results: &mut Results) {
    const NAME: &str = "state-disk/outlives-power-loss";
    if results.wanted(NAME) {
        let start = Instant::now();
        results.note(NAME, start, outlives_power_loss());
    }
}

fn image() -> Result<PathBuf> {
    let directory = workspace::directory(workspace::build_dir()?.join("disks"))?;
    Ok(directory.join("state.img"))
}

/// Makes the disk, and returns a machine that has it.
fn machine() -> Result<MachineOptions> {
    let files = workspace::directory(workspace::build_dir()?.join("state-files"))?;
    let kernel = workspace::read(&hv_build::guest()?)?;
    workspace::write_if_changed(&files.join("guest"), &kernel)?;
    let image = image()?;
    state_disk::make(&image, Some(&files))?;
    Ok(MachineOptions { state: Some(image), ..MachineOptions::default() })
}

fn boot(machine: &MachineOptions) -> Result<Host> {
    Host::boot(machine, &BootOptions::default())
}

/// A definition of a guest that does nothing, with these lines.
fn definition(name: &str, lines: &str) -> String {
    format!(
        "name = \"{name}\"\nkernel = \"{KERNEL}\"\nmemory = \"4M\"\ncommand_line = \"idle\"\n{lines}"
    )
}

fn create(host: &mut Host, name: &str, lines: &str) -> Result<()> {
    let text = definition(name, lines);
    must(
        host,
        &format!("cat > /tmp/{name}.toml <<'END'\n{text}\nEND\nuvtool create /tmp/{name}.toml"),
    )
    .map(drop)
}

fn outlives_power_loss() -> Result<()> {
    let machine = machine()?;
    let mut host = boot(&machine)?;
    let mounted = must(&mut host, "uvtool list > /dev/null; grep /var/lib/uvd /proc/mounts")?;
    ensure!(mounted.starts_with("/dev/xvda /var/lib/uvd ext4 "), "mounted: {mounted}");
    create(&mut host, "late", "[autostart]\nenabled = true\norder = 20")?;
    create(&mut host, "early", "[autostart]\nenabled = true\norder = 10")?;
    create(&mut host, "other", "")?;
    // The power goes the moment that the last answer is there.
    drop(host);

    let mut host = boot(&machine)?;
    for name in ["early", "late"] {
        must(&mut host, &format!("uvtool wait {name} --until running --timeout 100"))?;
    }
    let list: Value = serde_json::from_str(&must(&mut host, "uvtool list --json")?)?;
    let rows = list.as_array().context("no partitions")?;
    let number = |name: &str| rows.iter().find(|row| row["name"] == name)?["number"].as_u64();
    ensure!(number("early") < number("late"), "the order of the starts: {list}");
    ensure!(number("other").is_none(), "it does not start with the host: {list}");
    let (status, text) = try_to(&mut host, "uvtool why other")?;
    ensure!(status == 0 && text.contains("boot"), "the log of the boot before: {text}");
    must(&mut host, "uvtool start other && uvtool wait other --until running --timeout 100")?;
    host.power_off()
}
