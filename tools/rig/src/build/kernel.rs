//! The guest kernel: Debian's, unmodified from its package.
//!
//! The package is downloaded and unpacked, not installed. The ELF image inside its `bzImage` is
//! unpacked here once, byte for byte, so that no boot pays for the decompression.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use kernel_image::confined::Unpacker;

use crate::build::debian;
use crate::image::command_image;
use crate::workspace;

/// A kernel and its files.
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
/// It has not been downloaded yet and cannot be downloaded or unpacked.
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
        let elf = Unpacker::default().elf(&kernel.bzimage, 0)?.to_vec()?;
        workspace::write_whole(&kernel.elf, &elf)?;
    }
    Ok(kernel)
}

/// The newest kernel of a Debian suite, `bullseye` or `testing`, downloaded on first use from the
/// archive that this machine uses.
///
/// # Errors
/// There is no such suite, or the kernel cannot be downloaded or unpacked.
pub fn of_suite(suite: &str) -> Result<Kernel> {
    let apt = debian::Suite::new(suite)?;
    let depends = |package: &str, starts: &[&str]| -> Result<Vec<String>> {
        let text = apt.depends(package)?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let wanted = names.filter(|name| starts.iter().any(|start| name.starts_with(start)));
        Ok(wanted.map(str::to_owned).collect())
    };
    let image = depends("linux-image-amd64", &["linux-image-"])?;
    let image = image.first().with_context(|| format!("{suite} has no linux-image-amd64"))?;
    // Newer kernels are split into several packages.
    let mut packages = depends(image, &["linux-binary-", "linux-modules-"])?;
    packages.push(image.clone());
    let cache = workspace::directory(workspace::build_dir()?.join("kernel"))?;
    let tree = cache.join(image);
    if !tree.exists() {
        apt.unpack(&packages, &tree)?;
    }
    let release = image.trim_start_matches("linux-image-");
    let inside = ["usr/lib/modules", "lib/modules"].map(|path| tree.join(path).join(release));
    let modules = inside.into_iter().find(|path| path.is_dir()).context("no modules")?;
    let places = [tree.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
    let bzimage = places.into_iter().find(|path| path.is_file()).context("no kernel")?;
    Ok(Kernel { release: release.to_owned(), elf: bzimage.clone(), bzimage, modules })
}

/// The kernel in a file, whose unpacked image is `elf`, with its modules. The modules are those
/// below `modules`; without that, those beside the file, as in a package, or those of this machine.
/// Returns `None` if the file is not a Linux kernel.
///
/// # Errors
/// It is a Linux kernel, and its modules are not found.
pub fn beside(file: &Path, elf: &[u8], modules: Option<&Path>) -> Result<Option<Kernel>> {
    let Some(release) = release(elf) else {
        ensure!(modules.is_none(), "--modules: {} is not a Linux kernel", file.display());
        return Ok(None);
    };
    let places = match modules {
        Some(directory) => vec![directory.to_owned(), directory.join(&release)],
        None => {
            let beside = file.parent().unwrap_or(Path::new("."));
            vec![beside.to_owned(), beside.join(".."), "/".into()]
        }
    };
    let below = ["", "lib/modules", "usr/lib/modules"];
    let mut all = places.iter().flat_map(|place| below.map(|path| place.join(path)));
    let found = all.find_map(|path| {
        let named = [path.join(&release), path].into_iter();
        named.filter(|path| path.ends_with(&release)).find(|path| path.join("kernel").is_dir())
    });
    if let Some(modules) = found {
        let (bzimage, elf) = (file.to_owned(), file.to_owned());
        return Ok(Some(Kernel { release, bzimage, elf, modules }));
    }
    let own = if modules.is_none() { guest_kernel().ok() } else { None };
    match own.filter(|kernel| kernel.release == release) {
        Some(kernel) => Ok(Some(kernel)),
        None => bail!(
            "--kernel {}: this is Linux {release}, and its modules are not {}; the command \
             partition's RAM disk needs {}: give the package's lib/modules/{release} with \
             --modules DIR, or another RAM disk with --initrd FILE",
            file.display(),
            modules.map_or("beside it".into(), |path| format!("in {}", path.display())),
            command_image::MODULES.map(|(name, _)| name).join(", ")
        ),
    }
}

/// Whether Linux of this release finds a second console on the store. Before 5.15, `hvc_xen` binds
/// its event to a port of the other end, and the probe fails (fixed in 5.15.137 and 6.1.60:
/// "hvc/xen: fix event channel handling for secondary consoles").
#[must_use]
pub fn has_second_console(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|digits| digits.parse::<u32>().ok());
    match (number(), number()) {
        (Some(major), Some(minor)) => (major, minor) >= (5, 15),
        // For a kernel other than Linux, a second console is assumed.
        _ => true,
    }
}

/// The output of `uname -r`, taken from the banner of a Linux kernel.
fn release(elf: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    let mut rest = elf;
    loop {
        let at = rest.windows(BANNER.len()).position(|bytes| bytes == BANNER)?;
        rest = &rest[at + BANNER.len()..];
        let word = rest.split(|byte| !byte.is_ascii_graphic()).next().unwrap_or_default();
        if word.first().is_some_and(u8::is_ascii_digit) && word.len() < 65 {
            return Some(String::from_utf8_lossy(word).into_owned());
        }
    }
}

/// Debian's Xen, for comparison, downloaded on first use.
///
/// # Errors
/// It has not been downloaded yet and cannot be downloaded or unpacked.
pub fn xen() -> Result<PathBuf> {
    from_package("xen-hypervisor-4.17-amd64", "xen", "boot/xen-4.17-amd64.gz")
}

/// Debian's GRUB for PV guests, a kernel that finds and starts another kernel, downloaded on first
/// use.
///
/// # Errors
/// It has not been downloaded yet and cannot be downloaded or unpacked.
pub fn pv_grub() -> Result<PathBuf> {
    from_package("grub-xen-host", "grub-xen", "usr/lib/grub-xen/grub-x86_64-xen.bin")
}

/// A file from a package that is unpacked below `build/DIRECTORY`, downloaded on first use.
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

    const ELF: &[u8] = b"\x7fELF %s version %s\0Linux version %s\0Linux version 6.9-x (a@b)\0";

    #[test]
    fn kernels_before_5_15_have_one_console() {
        for (release, expected) in
            [("5.10.0-32-amd64", false), ("4.19.0", false), ("5.15.137", true), ("6.1.0-56", true)]
        {
            assert_eq!(has_second_console(release), expected, "{release}");
        }
    }

    #[test]
    fn the_release_is_read_from_the_banner() {
        assert_eq!(release(ELF).as_deref(), Some("6.9-x"));
        assert_eq!(release(b"\x7fELF hello from a unikernel"), None);
    }

    #[test]
    fn modules_are_found_beside_their_kernel() {
        let root = std::env::temp_dir().join(format!("xtask-beside-{}", std::process::id()));
        let (file, modules) = (root.join("boot/vmlinuz-6.9-x"), root.join("lib/modules/6.9-x"));
        fs::create_dir_all(modules.join("kernel")).expect("space");
        fs::create_dir_all(root.join("boot")).expect("space");
        let found = |file: &Path, modules: Option<&Path>| {
            let kernel = beside(file, ELF, modules).expect("beside").expect("Linux");
            (kernel.release, fs::canonicalize(kernel.modules).expect("a directory"))
        };
        let expected = ("6.9-x".to_owned(), fs::canonicalize(&modules).expect("made above"));
        assert_eq!(found(&file, None), expected);
        assert_eq!(found(&modules.join("vmlinuz"), None), expected);
        for directory in [&root, &modules, &root.join("lib/modules")] {
            assert_eq!(found(Path::new("/elsewhere"), Some(directory)), expected);
        }
        let error = beside(Path::new("/elsewhere"), ELF, Some(&root.join("boot")));
        let error = error.err().expect("no modules").to_string();
        assert!(error.contains("6.9-x") && error.contains("xen-gntdev"), "{error}");
        assert!(beside(&file, b"no Linux", None).expect("no Linux").is_none());
        assert!(beside(&file, b"no Linux", Some(&root)).is_err());
        fs::remove_dir_all(root).expect("made above");
    }
}
