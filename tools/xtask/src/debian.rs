//! Debian packages that are downloaded and unpacked, not installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::interrupt::Scratch;
use crate::workspace;

/// Downloads packages and unpacks them all into the directory `tree`, which appears when it is
/// complete.
///
/// # Errors
/// A package cannot be downloaded or unpacked.
pub fn unpack(packages: &[&str], tree: &Path) -> Result<()> {
    let work = tree.with_added_extension(format!("{}.part", std::process::id()));
    let work = Scratch::new(work);
    workspace::directory(work.path().to_owned())?;
    fetch(packages, work.path(), tree)
}

fn fetch(packages: &[&str], work: &Path, tree: &Path) -> Result<()> {
    eprintln!("xtask: downloading {}", packages.join(" "));
    let mut apt = Command::new("apt-get");
    // The download needs no rights; without this option apt warns that its sandbox user has none.
    apt.args(["download", "-q", "-o", "APT::Sandbox::User=root"]).args(packages).current_dir(work);
    workspace::run(&mut apt, "downloading Debian packages")?;
    let whole = work.join("tree");
    for entry in fs::read_dir(work)? {
        let deb = entry?.path();
        if deb.extension().is_some_and(|e| e == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").args([&deb, &whole]);
            workspace::run(&mut unpack, "unpacking a Debian package")?;
        }
    }
    fs::rename(&whole, tree).with_context(|| format!("cannot make {}", tree.display()))
}

/// The packages that `package` depends on, all the way down, and itself.
///
/// # Errors
/// Apt does not know it.
pub fn closure(package: &str) -> Result<Vec<String>> {
    let mut apt = Command::new("apt-cache");
    apt.args(["depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts"]);
    apt.args(["--no-breaks", "--no-replaces", "--no-enhances", package]);
    let text = workspace::output(&mut apt, "asking apt for dependencies; try `apt-get update`")?;
    Ok(names(&text))
}

/// The names of real packages: the lines that are not indented.
fn names(text: &str) -> Vec<String> {
    let name = |line: &&str| line.starts_with(|c: char| c.is_ascii_alphanumeric());
    let mut names: Vec<_> = text.lines().filter(name).map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_from_their_relations() {
        let text = "stress-ng\n  Depends: libc6\n |Depends: debconf\n<debconf-2.0>\nlibc6\n\
            \x20 Depends: libgcc-s1\nlibc6\n";
        assert_eq!(names(text), ["libc6", "stress-ng"]);
    }
}
