//! The initial RAM disk of the command partition: our init, `uvd`, `uvtool`, a busybox, and the
//! kernel modules for access to the ultravisor.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::build::kernel::Kernel;
use crate::image::cpio::Archive;
use crate::image::modules::{self, Modules};
use crate::workspace;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// How they are compiled; in the workspace's manifest.
const PROFILE: &str = "command";
const BUSYBOX: &str = "/bin/busybox";

/// The kernel modules that `uvd` and `/proc/xen` need, with their parameters.
pub(crate) const MODULES: [(&str, &str); 5] = [
    ("xen-evtchn", ""),
    ("xen-gntdev", ""),
    ("xen-gntalloc", ""),
    ("xen-privcmd", "unrestricted=1"),
    ("xenfs", ""),
];

/// The kernel modules that a state disk needs. Some kernels have the checksum built in by another
/// name, so it is left out where there is none.
const DISK_MODULES: [(&str, &str); 3] =
    [("crc32c_generic", ""), ("ext4", ""), ("xen-blkfront", "")];

/// The users: root, and one without privileges, for programs that refuse to run as root.
const USERS: &str =
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n";
const GROUPS: &str = "root:x:0:\nnogroup:x:65534:\n";

/// A host file for the command partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileToSend {
    /// Its path on this machine; a directory includes everything below it.
    pub host: PathBuf,
    /// Its absolute path in the command partition.
    pub guest: String,
}

impl std::str::FromStr for FileToSend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((host, guest)) = text.rsplit_once(':') else {
            return Err("give HOST:PATH".into());
        };
        if host.is_empty() || !guest.starts_with('/') || guest.ends_with('/') {
            return Err("give HOST:PATH with an absolute PATH that names the file".into());
        }
        Ok(Self { host: host.into(), guest: guest.into() })
    }
}

/// Builds our programs, statically linked, and returns their directory.
fn build_programs() -> Result<PathBuf> {
    build_packages(&["uv-init", "uvd", "uvtool"], "building the programs of the command partition")
}

/// Builds a program for tests or benchmarks, statically linked, and returns its path.
///
/// # Errors
/// The program does not build.
pub fn build_static(package: &str) -> Result<PathBuf> {
    Ok(build_packages(&[package], "building a static program")?.join(package))
}

fn build_packages(packages: &[&str], what: &str) -> Result<PathBuf> {
    let target_dir = workspace::root().join("target/cmd");
    let mut cargo = workspace::cargo("build");
    cargo.args(["--profile", PROFILE, "--target", TARGET]);
    cargo.args(packages.iter().flat_map(|package| ["-p", package]));
    cargo.env("CARGO_TARGET_DIR", &target_dir).env("RUSTFLAGS", "-C target-feature=+crt-static");
    workspace::run_command(&mut cargo, what)?;
    Ok(target_dir.join(TARGET).join(PROFILE))
}

/// Builds the RAM disk for `kernel`, with `files` in it.
///
/// # Errors
/// A program does not build, or a file is missing.
pub fn build(kernel: &Kernel, files: &[FileToSend]) -> Result<Vec<u8>> {
    let programs = build_programs()?;
    let mut archive = Archive::new();
    skeleton(&mut archive);
    add_busybox(&mut archive)?;
    for (name, path) in [("uv-init", "init"), ("uvd", "usr/bin/uvd"), ("uvtool", "usr/bin/uvtool")]
    {
        archive.file(path, 0o755, &workspace::read(&programs.join(name))?);
    }
    add_modules(&mut archive, kernel)?;
    let mut image = archive.finish();
    if !files.is_empty() {
        image.extend(archive_of(files)?);
    }
    Ok(image)
}

fn skeleton(archive: &mut Archive) {
    for path in ["dev", "proc", "sys", "run", "tmp", "root", "etc", "usr/bin", "var/lib/uvd"] {
        archive.directory(path);
    }
    for path in ["bin", "sbin", "usr/sbin"] {
        archive.symlink(path, "/usr/bin");
    }
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    archive.file("etc/passwd", 0o644, USERS.as_bytes());
    archive.file("etc/group", 0o644, GROUPS.as_bytes());
    archive.file("etc/hostname", 0o644, b"command\n");
}

fn add_busybox(archive: &mut Archive) -> Result<()> {
    archive.file("usr/bin/busybox", 0o755, &workspace::read(Path::new(BUSYBOX))?);
    let applets = workspace::output(Command::new(BUSYBOX).arg("--list"), "listing the applets")?;
    for applet in applets.lines().filter(|name| *name != "busybox") {
        archive.symlink(&format!("usr/bin/{applet}"), "busybox");
    }
    Ok(())
}

/// Modules of a kernel and the modules that they need, as files for the command partition, in load
/// order.
///
/// # Errors
/// A module is missing.
pub fn module_files(kernel: &Kernel, names: &[&str]) -> Result<Vec<FileToSend>> {
    let file =
        |host: PathBuf| FileToSend { guest: format!("/root/{}.ko", modules::stem(&host)), host };
    Ok(Modules::find(&kernel.modules)?.in_load_order(names)?.into_iter().map(file).collect())
}

/// Adds the modules, and the lists of them, which have a line for each in load order: the path, then
/// the parameters.
fn add_modules(archive: &mut Archive, kernel: &Kernel) -> Result<()> {
    let modules = Modules::find(&kernel.modules)?;
    add_list(archive, kernel, &modules, "etc/uv-modules", &MODULES)?;
    let wanted: Vec<_> = DISK_MODULES.into_iter().filter(|(name, _)| modules.has(name)).collect();
    add_list(archive, kernel, &modules, "etc/uv-disk-modules", &wanted)
}

fn add_list(
    archive: &mut Archive,
    kernel: &Kernel,
    modules: &Modules,
    path: &str,
    wanted: &[(&str, &str)],
) -> Result<()> {
    let mut list = String::new();
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    for file in modules.in_load_order(&names)? {
        let below = file.strip_prefix(&kernel.modules).context("a module outside its directory")?;
        let below = below.parent().unwrap_or(Path::new(""));
        let stem = modules::stem(&file);
        let path = format!("lib/modules/{}/{}/{stem}.ko", kernel.release, below.display());
        archive.file(&path, 0o644, &modules::contents(&file)?);
        let is_file = |(name, _): &&(&str, &str)| stem == *name;
        let parameters = wanted.iter().find(is_file).map_or("", |(_, parameters)| parameters);
        list.push_str(format!("/{path} {parameters}").trim_end());
        list.push('\n');
    }
    archive.file(path, 0o644, list.as_bytes());
    Ok(())
}

/// An archive with `files`.
///
/// # Errors
/// A file is missing.
pub fn archive_of(files: &[FileToSend]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for file in files {
        add_file(&mut archive, file)?;
    }
    Ok(archive.finish())
}

/// Adds a file, or a directory with everything below it.
pub(crate) fn add_file(archive: &mut Archive, file: &FileToSend) -> Result<()> {
    if !file.host.exists() {
        bail!("--file {}: there is no such file", file.host.display());
    }
    add_tree(archive, &file.host, &file.guest)
}

fn add_tree(archive: &mut Archive, host: &Path, guest: &str) -> Result<()> {
    let name = || format!("cannot read {}", host.display());
    // Symbolic links within a tree stay links; a file that is named itself is followed.
    if host.is_dir() {
        archive.directory(guest);
        for entry in fs::read_dir(host).with_context(name)? {
            let entry = entry?;
            let guest = format!("{guest}/{}", entry.file_name().to_string_lossy());
            match fs::read_link(entry.path()) {
                Ok(target) => archive.symlink(&guest, &target.to_string_lossy()),
                Err(_) => add_tree(archive, &entry.path(), &guest)?,
            }
        }
        return Ok(());
    }
    let permissions = fs::metadata(host).with_context(name)?.permissions().mode();
    archive.file(guest, permissions, &workspace::read(host)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_split_at_the_last_colon() {
        let file: FileToSend = "a:b:/root/c".parse().expect("well formed");
        assert_eq!((file.host, file.guest.as_str()), ("a:b".into(), "/root/c"));
        for bad in ["a", ":/b", "a:b", "a:/b/"] {
            assert!(bad.parse::<FileToSend>().is_err(), "{bad}");
        }
    }
}
