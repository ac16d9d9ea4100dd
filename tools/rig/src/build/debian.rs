//! Downloads and unpacks Debian packages, without installing them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::image::command_image::FileToSend;
use crate::interrupt::Scratch;
use crate::workspace;

/// The path of the program loader, in a tree and in the command partition.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
/// The directories of libraries in a tree; in the command partition, all libraries go to the first
/// of these. The last has the private libraries of Ceph's, which fio links.
const LIBRARIES: [&str; 3] =
    ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/ceph"];

/// A suite of Debian other than this machine's. apt gets a configuration of its own for it. The
/// archive is the one that this machine uses.
pub struct Suite {
    options: Vec<String>,
}

impl Suite {
    /// Fetches the package lists of a suite.
    ///
    /// # Errors
    /// This machine has no archive of Debian, or the archive has no such suite.
    pub fn new(suite: &str) -> Result<Self> {
        let directory = workspace::build_dir()?.join("apt").join(suite);
        for path in ["lists/partial", "cache/archives/partial"] {
            workspace::directory(directory.join(path))?;
        }
        let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let archive = archive()?;
        let sources = directory.join("sources.list");
        let line = format!("deb [signed-by={key}] {archive} {suite} main\n");
        workspace::write_if_changed(&sources, line.as_bytes())?;
        let place = directory.display();
        let options = [
            format!("Dir::Etc::sourcelist={place}/sources.list"),
            "Dir::Etc::sourceparts=-".into(),
            format!("Dir::State::lists={place}/lists"),
            "Dir::State::status=/dev/null".into(),
            format!("Dir::Cache={place}/cache"),
            "Acquire::Languages=none".into(),
            "APT::Sandbox::User=root".into(),
        ];
        let options = options.into_iter().flat_map(|option| ["-o".into(), option]).collect();
        let suite = Self { options };
        workspace::run_command(
            suite.apt("apt-get").args(["update", "-q"]),
            "asking apt about a suite of Debian",
        )?;
        Ok(suite)
    }

    fn apt(&self, program: &str) -> Command {
        let mut apt = Command::new(program);
        apt.args(&self.options);
        apt
    }

    /// The relations of a package, as apt lists them.
    ///
    /// # Errors
    /// There is no such package.
    pub fn depends(&self, package: &str) -> Result<String> {
        workspace::output(self.apt("apt-cache").args(["depends", package]), "asking apt")
    }

    /// Does what [`unpack`] does, with packages of the suite.
    ///
    /// # Errors
    /// A package cannot be downloaded or unpacked.
    pub fn unpack(&self, packages: &[String], tree: &Path) -> Result<()> {
        let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
        unpack_by(self.apt("apt-get"), &packages, tree)
    }
}

/// The archive of this machine's Debian packages.
fn archive() -> Result<String> {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"]);
    let text = workspace::output(&mut apt, "asking apt for its archives")?;
    let found = text.lines().find_map(|line| line.strip_prefix("Debian "));
    Ok(found.context("apt has no archive of Debian; run `apt-get update` as root")?.to_owned())
}

/// Downloads packages and unpacks them all into the directory `tree`, which appears when it is
/// complete.
///
/// # Errors
/// A package cannot be downloaded or unpacked.
pub fn unpack(packages: &[&str], tree: &Path) -> Result<()> {
    unpack_by(Command::new("apt-get"), packages, tree)
}

fn unpack_by(apt: Command, packages: &[&str], tree: &Path) -> Result<()> {
    let work = tree.with_added_extension(format!("{}.part", std::process::id()));
    let work = Scratch::new(work);
    workspace::directory(work.path().to_owned())?;
    fetch(apt, packages, work.path(), tree)
}

fn fetch(mut apt: Command, packages: &[&str], work: &Path, tree: &Path) -> Result<()> {
    eprintln!("xtask: downloading {}", packages.join(" "));
    // The download needs no privileges; without this option, apt warns that its sandbox user has
    // none.
    apt.args(["download", "-q", "-o", "APT::Sandbox::User=root"]).args(packages).current_dir(work);
    workspace::run_command(&mut apt, "downloading Debian packages")?;
    let whole = work.join("tree");
    for entry in fs::read_dir(work)? {
        let deb = entry?.path();
        if deb.extension().is_some_and(|e| e == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").args([&deb, &whole]);
            workspace::run_command(&mut unpack, "unpacking a Debian package")?;
        }
    }
    fs::rename(&whole, tree).with_context(|| format!("cannot make {}", tree.display()))
}

/// The package, and all packages that it depends on, directly or indirectly.
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

/// The files of programs from unpacked packages for the command partition, at their usual paths,
/// with the loader and the libraries they need.
///
/// # Errors
/// A program or a library is missing.
pub fn programs(tree: &Path, programs: &[&str]) -> Result<Vec<FileToSend>> {
    let loader = loader(tree)?;
    let mut files = vec![FileToSend { host: loader.clone(), guest: format!("/{LOADER}") }];
    let directories = LIBRARIES.map(|directory| tree.join(directory).display().to_string());
    for program in programs {
        let host = tree.join(program);
        let mut list = Command::new(&loader);
        list.args(["--library-path", &directories.join(":"), "--list"]).arg(&host);
        let text = workspace::output(&mut list, "asking for the libraries of a program")?;
        files.push(FileToSend { host, guest: format!("/{program}") });
        files.extend(text.lines().filter_map(library_in_line).map(|host| {
            let name = host.file_name().unwrap_or_default().to_string_lossy();
            let guest = format!("/{}/{name}", LIBRARIES[0]);
            FileToSend { host, guest }
        }));
    }
    files.sort_by(|a, b| a.guest.cmp(&b.guest));
    files.dedup();
    Ok(files)
}

/// The loader in `tree`; it is not found by its usual name, which is a link that leads out of the
/// tree.
fn loader(tree: &Path) -> Result<PathBuf> {
    let named = tree.join(LOADER);
    let target = fs::read_link(&named).with_context(|| named.display().to_string())?;
    Ok(match target.strip_prefix("/") {
        Ok(inside) => tree.join(inside),
        Err(_) => named,
    })
}

/// The file in a line `NAME => FILE (ADDRESS)`; the loader itself has no such line.
fn library_in_line(line: &str) -> Option<PathBuf> {
    let (name, file) = line.split_once(" => ")?;
    let file = file.split_once(" (")?.0;
    (!name.contains("ld-linux")).then(|| file.into())
}

/// The names of real packages, which are the lines without indentation.
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

    #[test]
    fn libraries_are_read_from_the_loaders_list() {
        let line = "\tlibm.so.6 => /t/lib/libm.so.6 (0x00007f0000000000)";
        assert_eq!(library_in_line(line), Some("/t/lib/libm.so.6".into()));
        let loader = "\t/lib64/ld-linux-x86-64.so.2 => /t/lib/ld-linux-x86-64.so.2 (0x00007f)";
        assert_eq!(library_in_line(loader), None);
        assert_eq!(library_in_line("\tlinux-vdso.so.1 (0x0000)"), None);
    }
}
