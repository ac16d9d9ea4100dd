//! The disk of a stock Linux guest for tests: what a user's image has, as far as booting needs it.
//!
//! ```text
//! sector 0        an MBR with one Linux partition
//! sector 2048 on  ext4: /boot/grub/grub.cfg, /boot/vmlinuz, /boot/initrd.img, /sbin/init, a busybox
//! ```
//!
//! Kernel and modules are Debian's, unmodified, and PV GRUB finds `grub.cfg` by itself. The RAM disk
//! is that of [`crate::image::guest_image`], with the modules of the disk and of its file system.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::build::kernel::Kernel;
use crate::image::command_image::{FileToSend, add_file};
use crate::image::cpio::Archive;
use crate::image::guest_image;
use crate::interrupt::Scratch;
use crate::workspace;

/// The modules that a guest needs for its root file system. ext4 asks for its checksums by name only.
pub const MODULES: [&str; 3] = ["xen-blkfront", "crc32c_generic", "ext4"];
/// The label of the file system.
const LABEL: &str = "guest-root";
/// First sector of the partition, as partitioning tools choose it.
const START: u32 = 2048;
/// Bytes of a sector.
const SECTOR: u64 = 512;

/// Makes the image of a disk of this many sectors, from which a guest boots; the kernel gets the
/// words of `command_line` behind the device of its root file system.
///
/// # Errors
/// A file is missing, or all of them do not fit the disk.
pub fn make(
    disk: &Path,
    sectors: u32,
    kernel: &Kernel,
    command_line: &str,
    files: &[FileToSend],
) -> Result<()> {
    let tree = Scratch::new(disk.with_added_extension("tree"));
    let initrd = guest_image::guest_initrd(kernel, &MODULES, &[])?;
    let configuration = grub_configuration(kernel, command_line);
    let mut archive = Archive::new();
    guest_image::add_system(&mut archive, "sbin/init")?;
    archive.file("boot/grub/grub.cfg", 0o644, configuration.as_bytes());
    let boot = [(&kernel.bzimage, "/boot/vmlinuz"), (&initrd, "/boot/initrd.img")];
    let boot = boot.map(|(host, guest)| FileToSend { host: host.clone(), guest: guest.into() });
    for file in boot.iter().chain(files) {
        add_file(&mut archive, file)?;
    }
    unpack(&archive.finish(), tree.path())?;
    write_table(disk, sectors)?;
    make_file_system(disk, sectors, tree.path())
}

/// What Debian's `grub-mkconfig` writes, without its comments and without what the menu looks like.
fn grub_configuration(kernel: &Kernel, command_line: &str) -> String {
    format!(
        "set default=0\nset timeout=0\n\
         insmod gzio\ninsmod xzio\ninsmod part_msdos\ninsmod ext2\n\
         search --no-floppy --label --set=root {LABEL}\n\
         menuentry 'Debian GNU/Linux, with Linux {release}' {{\n\
         \techo 'Loading Linux {release} ...'\n\
         \tlinux /boot/vmlinuz root=/dev/xvda1 ro {command_line}\n\
         \techo 'Loading initial ramdisk ...'\n\
         \tinitrd /boot/initrd.img\n\
         }}\n",
        release = kernel.release,
    )
}

/// Unpacks an archive into a new directory.
fn unpack(archive: &[u8], tree: &Path) -> Result<()> {
    workspace::directory(tree.to_owned())?;
    let file = tree.with_added_extension("cpio");
    let file = Scratch::new(file);
    fs::write(file.path(), archive)?;
    let mut cpio = Command::new("cpio");
    cpio.args(["-i", "-d", "--quiet", "--no-absolute-filenames"]).current_dir(tree);
    cpio.stdin(Stdio::from(File::open(file.path())?));
    workspace::run_command(&mut cpio, "unpacking the files of a guest's disk")
}

/// Makes the file of a disk, with a partition table: a partition from [`START`] to the end.
fn write_table(disk: &Path, sectors: u32) -> Result<()> {
    ensure!(sectors > START, "a disk of {sectors} sectors has no room for a partition");
    let mut table = [0; SECTOR as usize];
    // An entry: flags, first sector as cylinders and heads, type, last sector, start, length.
    table[446 + 4] = 0x83;
    table[446 + 8..][..4].copy_from_slice(&START.to_le_bytes());
    table[446 + 12..][..4].copy_from_slice(&(sectors - START).to_le_bytes());
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    let make = || {
        let file = File::create(disk)?;
        file.set_len(u64::from(sectors) * SECTOR)?;
        file.write_all_at(&table, 0)
    };
    make().with_context(|| format!("cannot write {}", disk.display()))
}

/// Makes an ext4 file system with all that is in a directory.
fn make_file_system(disk: &Path, sectors: u32, tree: &Path) -> Result<()> {
    let offset = u64::from(START) * SECTOR;
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-L", LABEL, "-d"]).arg(tree);
    // GRUB 2.06 does not know these two, which are newer.
    mke2fs.args(["-O", "^metadata_csum_seed,^orphan_file"]);
    mke2fs.arg("-E").arg(format!("offset={offset},root_owner=0:0"));
    mke2fs.arg(disk).arg(format!("{}k", (sectors - START) / 2));
    // It is in a directory of programs of the administrator, which a user's PATH may lack.
    let path = std::env::var("PATH").unwrap_or_default();
    mke2fs.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    workspace::run_command(&mut mke2fs, "making the file system of a guest's disk")
}
