//! Provides the Debian packages that building and booting the host needs.
//!
//! If packages are missing, they are installed, provided that this needs no password; otherwise the
//! error has the one command that the user has to run.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::build::hv_build;
use crate::{interrupt, workspace};

/// Packages for every toolchain.
const PACKAGES: [&str; 12] = [
    "binutils",
    "busybox-static",
    "cpio",
    "e2fsprogs",
    "grub-common",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "libc6-dev",
    "mtools",
    "ovmf",
    "qemu-system-x86",
    "xorriso",
];

/// Packages to build for a target without an installed toolchain that has its `core`.
const TOOLCHAIN_PACKAGES: [&str; 4] = ["cargo-web", "rust-web-clippy", "rust-web-src", "rustc-web"];

/// Makes sure that all packages are installed.
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
    workspace::run_command(apt().args(["update", "-q"]), "refreshing the package lists")?;
    let mut install = apt();
    install.args(["install", "-y", "-q", "--no-install-recommends"]).args(&missing);
    workspace::run_command(&mut install, "installing packages")
}

fn missing_packages() -> Vec<&'static str> {
    let toolchain: &[&str] =
        if hv_build::has_prebuilt_core() { &[] } else { TOOLCHAIN_PACKAGES.as_slice() };
    let wanted: Vec<_> = PACKAGES.iter().chain(toolchain).copied().collect();
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Package} ${Version} ${db:Status-Status}\n"]).args(&wanted);
    // The query fails if a package is unknown, but still lists the others.
    let listed = interrupt::output(&mut query).map(|out| out.stdout).unwrap_or_default();
    let listed = String::from_utf8_lossy(&listed);
    let usable: Vec<_> = listed.lines().filter_map(usable_package).collect();
    wanted.into_iter().filter(|name| !usable.contains(name)).collect()
}

/// The name in a line `NAME VERSION STATUS`, if the package is installed. A package of the
/// toolchain must also be as new as the sources need; Debian 12 had an older one before its
/// updates.
fn usable_package(line: &str) -> Option<&str> {
    let mut words = line.split(' ');
    let (name, version) = (words.next()?, words.next()?);
    let new_enough = !TOOLCHAIN_PACKAGES.contains(&name)
        || release(version) >= release(env!("CARGO_PKG_RUST_VERSION"));
    (words.next()? == "installed" && new_enough).then_some(name)
}

/// The first two numbers of a version.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Returns a function that makes an `apt-get` command with the right to install, if that is
/// possible without a password.
fn privileged_apt() -> Option<impl FnMut() -> Command> {
    let id = workspace::output(Command::new("id").arg("-u"), "asking for the user").ok()?;
    let root = id.trim() == "0";
    if !root {
        let mut sudo = Command::new("sudo");
        workspace::output(sudo.args(["-n", "true"]), "asking whether sudo needs a password")
            .ok()?;
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

/// Checks only that the programs exist, for systems other than Debian.
fn check_programs() -> Result<()> {
    const PROGRAMS: [&str; 5] =
        ["qemu-system-x86_64", "grub-mkrescue", "xorriso", "mformat", "busybox"];
    let missing: Vec<_> =
        PROGRAMS.into_iter().filter(|name| find_program(name).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "programs are missing: {}; install the packages of your system that have them",
        missing.join(", ")
    )
}

/// The path of the program `name`, if it is in `PATH`.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_toolchain_counts_as_missing() {
        assert_eq!(usable_package("cpio 2.13+dfsg-7.1 installed"), Some("cpio"));
        assert_eq!(usable_package("cpio 2.13+dfsg-7.1 config-files"), None);
        assert_eq!(usable_package("rustc-web 1.85.0+dfsg3-1~deb12u3 installed"), None);
        assert_eq!(usable_package("rustc-web 1.196.0+dfsg1-1 installed"), Some("rustc-web"));
        assert_eq!(usable_package("rustc-web  not-installed"), None);
    }
}
