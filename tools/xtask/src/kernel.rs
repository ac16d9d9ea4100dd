//! The guest kernel: Debian's, from its package, unmodified.
//!
//! The package is downloaded and unpacked, not installed. The ELF image inside its `bzImage` is
//! unpacked here, once and byte for byte, so that no boot pays for the decompression.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

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
        workspace::write_whole(&kernel.elf, &unpack(&workspace::read(&kernel.bzimage)?)?)?;
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

/// The ELF image of a kernel: `image` itself, or what its `bzImage` holds compressed.
///
/// # Errors
/// `image` is neither, is cut short, or is compressed in a way that no tool here undoes.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    if image.starts_with(b"\x7fELF") {
        return Ok(image.to_vec());
    }
    let payload = payload(image)?;
    let program = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => "xz",
        [0x1f, 0x8b, ..] => "gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [b'B', b'Z', b'h', ..] => "bzip2",
        _ => bail!("the kernel is compressed in a way that is not known here; give its ELF image"),
    };
    // A gzip stream ends with the length of what is unpacked; behind others the kernel's build
    // writes it.
    let behind = if program == "gzip" { 0 } else { 4 };
    let packed = payload.len().checked_sub(behind).and_then(|end| payload.get(..end));
    let elf = decompress(program, packed.context("the kernel image is cut short")?)?;
    ensure!(elf.starts_with(b"\x7fELF"), "what the kernel image holds is no ELF image");
    Ok(elf)
}

/// The compressed image in a `bzImage`, by its setup header (the kernel's
/// `Documentation/x86/boot.rst`).
fn payload(image: &[u8]) -> Result<&[u8]> {
    const NEITHER: &str = "the kernel is neither an ELF image nor a bzImage";
    let word = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes) as usize)
    };
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), NEITHER);
    let setup_sectors = match image[0x1f1] {
        0 => 4,
        count => usize::from(count),
    };
    let offset = word(0x248).context(NEITHER)?;
    let length = word(0x24c).context(NEITHER)?;
    let start = (setup_sectors + 1) * 512 + offset;
    image.get(start..start + length).context("the kernel image is cut short")
}

fn decompress(program: &str, payload: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program} to unpack the kernel; install it"))?;
    let mut input = child.stdin.take().context("no pipe")?;
    let out = thread::scope(|scope| {
        // A failure to write shows in the status.
        scope.spawn(move || input.write_all(payload));
        child.wait_with_output()
    })?;
    ensure!(out.status.success(), "{program} cannot unpack the kernel ({})", out.status);
    Ok(out.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `bzImage` with nothing but the fields that are read here.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).expect("short");
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(&[0; 16]);
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn payload_is_found() {
        assert_eq!(payload(&bzimage(b"compressed")).expect("whole"), b"compressed");
    }

    #[test]
    fn a_kernel_that_is_none_is_named_so() {
        let cut = bzimage(b"compressed");
        for image in [&b""[..], b"MZ", &[0; 700], &cut[..cut.len() - 5]] {
            let error = unpack(image).expect_err("no kernel").to_string();
            assert!(error.contains("neither") || error.contains("cut short"), "{error}");
        }
    }

    #[test]
    fn unpacked_kernels_are_passed_on() {
        assert_eq!(unpack(b"\x7fELF...").expect("an ELF image"), b"\x7fELF...");
    }

    fn packed(program: &str) -> Vec<u8> {
        let mut packer = Command::new(program);
        packer.arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = packer.spawn().expect("it is installed");
        child.stdin.take().expect("piped").write_all(b"\x7fELF kernel").expect("it reads");
        child.wait_with_output().expect("it ends").stdout
    }

    #[test]
    fn kernels_are_unpacked_with_and_without_a_length_behind() {
        let kernel = b"\x7fELF kernel";
        assert_eq!(unpack(&bzimage(&packed("gzip"))).expect("unpacks"), kernel);
        let with_length = [packed("xz"), vec![12, 0, 0, 0]].concat();
        assert_eq!(unpack(&bzimage(&with_length)).expect("unpacks"), kernel);
    }

    #[test]
    fn the_package_is_read_from_the_dependencies() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n";
        assert_eq!(text.lines().find_map(package_in_line), Some("linux-image-6.1.0-56-amd64"));
    }
}
