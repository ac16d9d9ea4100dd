//! The RAM disk of a stock Linux guest for tests: a busybox, and an init that obeys the kernel's
//! command line (the head of `guest-init.sh` lists its words).
//!
//! The kernel is the guest kernel of [`crate::build::kernel`], unmodified. The kernel itself handles the
//! balloon, virtual CPUs that come and go, and requests to power off and reboot; for the last two
//! it starts `/sbin/poweroff` and `/sbin/reboot`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::build::kernel::Kernel;
use crate::image::command_image::{FileToSend, add_file};
use crate::image::cpio::Archive;
use crate::image::modules::{self, Modules};
use crate::workspace;

const BUSYBOX: &str = "/bin/busybox";
const INIT: &[u8] = include_bytes!("guest-init.sh");
/// Commands that end the machine by the system call. They do not ask init to do it, because init is
/// a script.
const END: [(&str, &[u8]); 3] = [
    ("sbin/poweroff", b"#!/bin/sh\nexec busybox poweroff -f\n"),
    ("sbin/reboot", b"#!/bin/sh\nexec busybox reboot -f\n"),
    ("sbin/halt", b"#!/bin/sh\nexec busybox halt -f\n"),
];
/// Applets that the commands above replace.
const REPLACED: [&str; 4] = ["busybox", "poweroff", "reboot", "halt"];

/// Builds the RAM disk with these kernel modules (loaded at the start) and files, and returns its
/// path.
///
/// # Errors
/// A module or a file is missing.
pub fn guest_initrd(kernel: &Kernel, modules: &[&str], files: &[FileToSend]) -> Result<PathBuf> {
    let image = archive(kernel, modules, files)?;
    let directory = workspace::directory(workspace::build_dir()?.join("guests"))?;
    workspace::write_named_by_content(&directory, "cpio", &image)
}

fn archive(kernel: &Kernel, modules: &[&str], files: &[FileToSend]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.character_device("dev/console", 5, 1);
    archive.character_device("dev/null", 1, 3);
    add_system(&mut archive, "init")?;
    add_modules(&mut archive, kernel, modules)?;
    for file in files {
        add_file(&mut archive, file)?;
    }
    Ok(archive.finish())
}

/// Adds what each guest needs, with the init script at `init`.
///
/// # Errors
/// This machine has no busybox.
pub(crate) fn add_system(archive: &mut Archive, init: &str) -> Result<()> {
    for path in ["bin", "sbin", "dev", "proc", "sys", "tmp", "run", "root", "etc"] {
        archive.directory(path);
    }
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
    archive.file(init, 0o755, INIT);
    archive.file("bin/busybox", 0o755, &workspace::read(Path::new(BUSYBOX))?);
    let applets = workspace::output(Command::new(BUSYBOX).arg("--list"), "listing the applets")?;
    for applet in applets.lines().filter(|name| !REPLACED.contains(name)) {
        archive.symlink(&format!("bin/{applet}"), "busybox");
    }
    for (path, script) in END {
        archive.file(path, 0o755, script);
        archive.symlink(&path.replace("sbin", "bin"), &format!("/{path}"));
    }
    Ok(())
}

/// Adds modules and their dependencies, unpacked, and the list by which init loads them.
fn add_modules(archive: &mut Archive, kernel: &Kernel, names: &[&str]) -> Result<()> {
    let mut list = String::new();
    for file in Modules::find(&kernel.modules)?.in_load_order(names)? {
        let path = format!("lib/modules/{}.ko", modules::stem(&file));
        archive.file(&path, 0o644, &modules::contents(&file)?);
        list.push_str(&format!("/{path}\n"));
    }
    archive.file("etc/modules", 0o644, list.as_bytes());
    Ok(())
}
