//! The disk on which the command partition keeps its state.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::options::{BootOptions, MachineOptions};
use crate::workspace;

/// The slot of the disk's function on the first bus; other disks come in the slots before it.
pub const SLOT: u8 = 0x10;
/// Bytes of a new image.
const BYTES: u64 = 64 << 20;

/// The options of a boot on this machine: if it has a state disk, the boot partition is told, and
/// the image is made if it does not exist.
///
/// # Errors
/// The image cannot be made.
pub fn options(boot: &BootOptions, machine: &MachineOptions) -> Result<BootOptions> {
    let mut boot = boot.clone();
    if let Some(file) = &machine.state {
        if !file.exists() {
            make(file, None)?;
        }
        boot.boot_options = format!("{} state=00:{SLOT:02x}.0", boot.boot_options);
    }
    Ok(boot)
}

/// Makes an image with an ext4 file system, which has the files of a directory.
///
/// # Errors
/// The image cannot be written.
pub fn make(file: &Path, files: Option<&Path>) -> Result<()> {
    let image = File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
    image.set_len(BYTES)?;
    let mut make = Command::new("mkfs.ext4");
    make.args(["-q", "-F"]);
    if let Some(files) = files {
        make.arg("-d").arg(files);
    }
    workspace::run_command(make.arg(file), "making a file system; install the package e2fsprogs")
}
