//! The Debian packages that building and booting the host takes.
//!
//! What is missing is installed where that needs no password; else the error is the one line that
//! a person has to run.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::{hv_build, workspace};

/// Needed whatever the toolchain.
const PACKAGES: [&str; 12] = [
    "binutils",
    "busybox-static",
    "cpio",
    "grub-common",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "libc6-dev",
    "mtools",
    "ovmf",
    "qemu-system-x86",
    "xorriso",
    "xz-utils",
];

/// Needed to build for a target whose `core` no installed toolchain has.
const TOOLCHAIN_PACKAGES: [&str; 3] = ["cargo-web", "rust-web-src", "rustc-web"];

/// Makes sure that all packages are there.
///
/// # Errors
/// Some are missing and cannot be installed; the message says what to run.
pub fn provision() -> Result<()> {
    if !Path::new("/usr/bin/dpkg-query").exists() {
        return check_programs();
    }
    let missing = missing_packages();
    if missing.is_empty() {
        return Ok(());
    }
    let Some(mut apt) = privileged_apt() else {
        bail!(
            "packages are missing; run: sudo apt-get install -y --no-install-recommends {}",
            missing.join(" ")
        );
    };
    eprintln!("xtask: installing {}", missing.join(" "));
    workspace::run(apt().args(["update", "-q"]), "refreshing the package lists")?;
    let mut install = apt();
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(&missing);
    workspace::run(&mut install, "installing packages")
}

fn missing_packages() -> Vec<&'static str> {
    let toolchain: &[&str] =
        if hv_build::has_prebuilt_core() { &[] } else { TOOLCHAIN_PACKAGES.as_slice() };
    let wanted: Vec<_> = PACKAGES.iter().chain(toolchain).copied().collect();
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(&wanted);
    // It fails where one package is unknown, and still lists the others.
    let listed = query.stderr(Stdio::null()).output().map(|out| out.stdout).unwrap_or_default();
    let listed = String::from_utf8_lossy(&listed);
    let installed: Vec<_> = listed.lines().filter_map(|l| l.strip_suffix(" installed")).collect();
    wanted.into_iter().filter(|name| !installed.contains(name)).collect()
}

/// How to start `apt-get` with the right to install, if there is a way without a password.
fn privileged_apt() -> Option<impl FnMut() -> Command> {
    let id = workspace::output(Command::new("id").arg("-u"), "asking who runs this").ok()?;
    let root = id.trim() == "0";
    if !root {
        let mut sudo = Command::new("sudo");
        workspace::output(sudo.args(["-n", "true"]), "asking for sudo").ok()?;
    }
    Some(move || {
        let mut apt = Command::new(if root { "env" } else { "sudo" });
        if !root {
            apt.args(["-n", "env"]);
        }
        apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        apt
    })
}

/// On a system that is not Debian, only the programs can be looked for.
fn check_programs() -> Result<()> {
    const PROGRAMS: [&str; 6] =
        ["qemu-system-x86_64", "grub-mkrescue", "xorriso", "mformat", "busybox", "xz"];
    let missing: Vec<_> =
        PROGRAMS.into_iter().filter(|name| find_program(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("programs are missing: {}; install what your system calls them", missing.join(", "))
}

/// Where `name` is on the path, if it is.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
