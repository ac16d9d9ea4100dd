//! The guest kernel: Debian's, from its package, unmodified.
//!
//! The package is downloaded and unpacked, not installed. The ELF image inside its `bzImage` is
//! unpacked here, once and byte for byte, so that no boot pays for the decompression.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::{debian, workspace};

/// A kernel and what belongs to it.
pub struct Kernel {
    /// What `uname -r` prints.
    pub release: String,
    /// The kernel as the package ships it.
    pub bzimage: PathBuf,
    /// The ELF image inside it.
    pub elf: PathBuf,
    /// The directory `lib/modules/<release>`.
    pub modules: PathBuf,
}

/// The guest kernel, downloaded on first use.
///
/// # Errors
/// It is not there yet and cannot be downloaded or unpacked.
pub fn guest_kernel() -> Result<Kernel> {
    let cache = workspace::directory(workspace::build_dir()?.join("kernel"))?;
    let current = cache.join("current");
    let package = match fs::read_to_string(&current) {
        Ok(package) if cache.join(&package).join("boot").is_dir() => package,
        _ => {
            let package = download(&cache)?;
            workspace::write_whole(&current, package.as_bytes())?;
            package
        }
    };
    let tree = cache.join(&package);
    let release = package.trim_start_matches("linux-image-").trim_end_matches("-unsigned");
    let kernel = Kernel {
        release: release.to_owned(),
        bzimage: tree.join("boot").join(format!("vmlinuz-{release}")),
        elf: tree.join("boot").join(format!("vmlinux-{release}")),
        modules: tree.join("lib/modules").join(release),
    };
    if !kernel.elf.exists() {
        workspace::write_whole(&kernel.elf, &kernel_image::load(&kernel.bzimage)?.elf)?;
    }
    Ok(kernel)
}

/// Debian's Xen, to compare with, downloaded on first use.
///
/// # Errors
/// It is not there yet and cannot be downloaded or unpacked.
pub fn xen() -> Result<PathBuf> {
    from_package("xen-hypervisor-4.17-amd64", "xen", "boot/xen-4.17-amd64.gz")
}

/// Debian's GRUB for PV guests, a kernel that finds and starts another, downloaded on first use.
///
/// # Errors
/// It is not there yet and cannot be downloaded or unpacked.
pub fn pv_grub() -> Result<PathBuf> {
    from_package("grub-xen-host", "grub-xen", "usr/lib/grub-xen/grub-x86_64-xen.bin")
}

/// A file of a package that is unpacked below `build/DIRECTORY`, downloaded on first use.
fn from_package(package: &str, directory: &str, file: &str) -> Result<PathBuf> {
    let tree = workspace::directory(workspace::build_dir()?.join(directory))?.join(package);
    let file = tree.join(file);
    if !file.exists() {
        debian::unpack(&[package], &tree)?;
    }
    Ok(file)
}

/// Downloads and unpacks the newest kernel package, and returns its name.
fn download(cache: &Path) -> Result<String> {
    let package = newest_package()?;
    debian::unpack(&[&package], &cache.join(&package))?;
    Ok(package)
}

/// The package that Debian's `linux-image-amd64` stands for now.
fn newest_package() -> Result<String> {
    const ASK: &str = "asking apt for the newest kernel";
    let depends = || {
        let mut apt = Command::new("apt-cache");
        workspace::output(apt.args(["depends", "linux-image-amd64"]), ASK)
    };
    let found = |text: &str| text.lines().find_map(package_in_line).map(str::to_owned);
    if let Some(package) = depends().ok().as_deref().and_then(found) {
        return Ok(package);
    }
    bail!(
        "apt knows no linux-image-amd64, so there is no guest kernel to download; run \
         `apt-get update` as root on Debian 12, or give a kernel with --kernel FILE"
    )
}

fn package_in_line(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix("Depends: ")?;
    name.starts_with("linux-image-").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_read_from_the_dependencies() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(text.lines().find_map(package_in_line), Some("linux-image-6.1.0-56-amd64"));
    }
}
