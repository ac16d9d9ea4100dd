//! Builds the loader, the monitor and the Rust partitions of the host for `x86_64-unknown-none`.
//!
//! Two toolchains can do it: a rustup toolchain with that target installed, or Debian's `rustc-web`
//! and `rust-web-src`, which build `core` as well. The flags are the same, so both give the same
//! kind of image: position-independent code, linked statically by GNU ld with the script that each
//! package's `build.rs` names, with frame pointers for backtraces.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

use crate::workspace;

const TARGET: &str = "x86_64-unknown-none";

const RUSTFLAGS: &str = "-C relocation-model=pic -C code-model=small -C linker=ld \
    -C linker-flavor=ld -C link-arg=-no-pie -C link-arg=-znoexecstack \
    -C force-frame-pointers=yes";

/// The images that run without an operating system, as ELF files with symbols.
#[derive(Clone, Debug)]
pub struct Images {
    /// The loader, which runs once in ring 0; GRUB starts it. The monitor's image is part of it.
    pub loader: PathBuf,
    /// The monitor, which runs in ring 0.
    pub monitor: PathBuf,
    /// The ultravisor partition.
    pub ultravisor: PathBuf,
    /// The boot partition.
    pub boot: PathBuf,
    /// The I/O partitions.
    pub io: PathBuf,
}

/// The source of `core` for the target.
enum Toolchain {
    /// A rustup toolchain with the target installed.
    Rustup,
    /// Debian's `/usr/bin/cargo` and its library sources.
    Debian,
}

/// Whether the user's own toolchain has the target installed.
pub fn has_prebuilt_core() -> bool {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "sysroot"]).current_dir(workspace::root());
    let Ok(sysroot) = workspace::output(&mut rustc, "asking rustc for its sysroot") else {
        return false;
    };
    Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir()
}

fn choose() -> Result<Toolchain> {
    if has_prebuilt_core() {
        return Ok(Toolchain::Rustup);
    }
    if Path::new("/usr/bin/cargo").exists() && Path::new("/usr/bin/rustc").exists() {
        return Ok(Toolchain::Debian);
    }
    bail!(
        "no Rust toolchain for {TARGET}: run `rustup target add {TARGET}`, or on Debian 12 \
         `apt-get install rustc-web cargo-web rust-web-src rust-web-clippy`"
    )
}

fn cargo(toolchain: &Toolchain, task: &str) -> Command {
    match toolchain {
        Toolchain::Rustup => workspace::cargo(task),
        Toolchain::Debian => {
            let mut command = workspace::clean_command("/usr/bin/cargo");
            let path = env::var("PATH").unwrap_or_default();
            command
                .env("PATH", format!("/usr/bin:{path}"))
                .env("RUSTC", "/usr/bin/rustc")
                .env("RUSTC_BOOTSTRAP", "1")
                .arg(task)
                .arg("-Zbuild-std=core,alloc,compiler_builtins")
                .arg("-Zbuild-std-features=compiler-builtins-mem");
            workspace::quiet_unless_watched(&mut command);
            command
        }
    }
}

/// Builds the images, at most once in this process, and returns their paths.
///
/// # Errors
/// There is no toolchain for the target, or the build fails.
pub fn build() -> Result<Images> {
    static BUILT: Mutex<Option<Images>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if built.is_none() {
        *built = Some(build_now()?);
    }
    built.clone().context("just built")
}

fn build_now() -> Result<Images> {
    let packages = ["-p", "monitor", "-p", "ultravisor", "-p", "boot", "-p", "ioserver"];
    let out = build_packages(&packages, &[], "building the monitor and the system partitions")?;
    let monitor = out.join("monitor");
    let embedded = strip(&monitor)?;
    let image = [("MONITOR_IMAGE", embedded.as_path())];
    build_packages(&["-p", "loader"], &image, "building the loader")?;
    Ok(Images {
        loader: out.join("loader"),
        monitor,
        ultravisor: out.join("ultravisor"),
        boot: out.join("boot"),
        io: out.join("ioserver"),
    })
}

/// Builds the minimal guest, a PV kernel for tests, and returns its path.
///
/// The guest is built separately, because it shares the partitions' runtime without their start-up
/// code.
///
/// # Errors
/// The errors of [`build`].
pub fn guest() -> Result<PathBuf> {
    let out = build_packages(&["-p", "minimal-guest"], &[], "building the minimal guest")?;
    Ok(out.join("minimal-guest"))
}

/// Builds packages for bare hardware, with files named by environment variables; returns the
/// directory of the images.
fn build_packages(packages: &[&str], files: &[(&str, &Path)], what: &str) -> Result<PathBuf> {
    let toolchain = choose()?;
    let name = match toolchain {
        Toolchain::Rustup => "the rustup toolchain's target",
        Toolchain::Debian => "Debian's rustc-web, building core",
    };
    eprintln!("xtask: building for {TARGET} with {name}");
    let target_dir = target_dir(&toolchain);
    let mut command = cargo_for_target(&toolchain, "build", packages);
    command.envs(files.iter().copied());
    workspace::run_command(&mut command, what)?;
    Ok(target_dir.join(TARGET).join("release"))
}

/// The build directory of a toolchain; the other toolchain cannot use its files.
fn target_dir(toolchain: &Toolchain) -> PathBuf {
    let name = match toolchain {
        Toolchain::Rustup => "hv-rustup",
        Toolchain::Debian => "hv",
    };
    workspace::root().join("target").join(name)
}

/// A cargo command for packages on bare hardware, with the flags for images.
fn cargo_for_target(toolchain: &Toolchain, task: &str, packages: &[&str]) -> Command {
    let mut command = cargo(toolchain, task);
    command
        .args(["--release", "--target", TARGET])
        .args(packages)
        .env("CARGO_TARGET_DIR", target_dir(toolchain))
        .env("RUSTFLAGS", RUSTFLAGS);
    command
}

/// Lints the code that runs without an operating system for its real target, because a host target
/// leaves out most of ring 0. A warning is an error.
///
/// # Errors
/// There is no toolchain for the target, or a lint fails.
pub fn lint() -> Result<()> {
    let toolchain = choose()?;
    let host: &[&str] =
        &["-p", "monitor", "-p", "loader", "-p", "ultravisor", "-p", "boot", "-p", "ioserver"];
    // The guest is linted separately, as it is built.
    for packages in [host, &["-p", "minimal-guest"]] {
        let mut clippy = cargo_for_target(&toolchain, "clippy", packages);
        clippy.args(["--", "-D", "warnings"]);
        workspace::run_command(&mut clippy, "lints")?;
    }
    Ok(())
}

/// Removes the line tables, which only a debugger reads, from an image; its symbols stay.
///
/// # Errors
/// objcopy fails, or the image cannot be written.
pub fn strip(image: &Path) -> Result<PathBuf> {
    let name = image.file_name().unwrap_or_default();
    let directory = workspace::directory(workspace::build_dir()?.join("stripped"))?;
    let scratch = directory.join(name).with_added_extension(std::process::id().to_string());
    let mut objcopy = Command::new("objcopy");
    objcopy.arg("--strip-debug").args([image, scratch.as_path()]);
    workspace::run_command(&mut objcopy, "removing line tables")?;
    let stripped = directory.join(name);
    workspace::write_if_changed(&stripped, &workspace::read(&scratch)?)?;
    std::fs::remove_file(&scratch)?;
    Ok(stripped)
}
