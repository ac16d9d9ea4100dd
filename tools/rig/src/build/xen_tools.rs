//! Xen's own tools in the first domain, to create guests on Xen as a user would.
//!
//! The programs come from Debian's packages, unmodified, and travel in the RAM disk beside ours.
//! [`START`] does what Debian's init script does, except for the parts that no guest here needs
//! (QEMU as a backend of devices, hotplug).

use anyhow::Result;

use crate::build::debian;
use crate::image::command_image::FileToSend;
use crate::workspace;

/// Packages with the tools and the libraries they need.
const PACKAGES: [&str; 20] = [
    "libc6",
    "libgcc-s1",
    "liblzma5",
    "libuuid1",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxenhypfs1",
    "libxenmisc4.17",
    "libxenstore4",
    "libxentoolcore1",
    "libxentoollog1",
    "libyajl2",
    "libzstd1",
    "xen-utils-4.17",
    "xen-utils-common",
    "xenstore-utils",
    "zlib1g",
];
/// The tools: the command itself, Debian's default store daemon, the console's daemon and its
/// client, the program that registers the first domain, and one that writes to the store.
const PROGRAMS: [&str; 6] = [
    "usr/lib/xen-4.17/bin/xl",
    "usr/lib/xen-4.17/bin/oxenstored",
    "usr/lib/xen-4.17/bin/xen-init-dom0",
    "usr/lib/xen-4.17/bin/xenconsoled",
    "usr/lib/xen-4.17/bin/xenconsole",
    "usr/bin/xenstore-write",
];
/// A library that the C library loads by itself when a thread ends.
const LOADED_LATE: &str = "lib/x86_64-linux-gnu/libgcc_s.so.1";
/// Their settings, as Debian ships them.
const SETTINGS: [&str; 2] = ["etc/xen/oxenstored.conf", "etc/xen/xl.conf"];

/// The path of `xl`.
pub const XL: &str = "/usr/lib/xen-4.17/bin/xl";

/// Shell commands that start the daemons. `uvd` finds no ultravisor here and would look for one
/// every second, so it is stopped.
pub const START: &str = "\
set -e
kill -STOP $(pidof uvd)
mkdir -p /run/xen /run/xenstored /var/lib/xenstored /var/lib/xen /var/log/xen /var/lock
[ -e /var/run ] || ln -s /run /var/run
[ -e /proc/xen/capabilities ] || mount -t xenfs xenfs /proc/xen
bin=/usr/lib/xen-4.17/bin
$bin/oxenstored --pid-file /run/xenstore.pid
$bin/xen-init-dom0
$bin/xenconsoled --pid-file /run/xenconsoled.pid
";

/// The tools as files for the first domain, downloaded on first use.
///
/// # Errors
/// The packages cannot be downloaded.
pub fn files() -> Result<Vec<FileToSend>> {
    let tree = workspace::directory(workspace::build_dir()?.join("packages"))?.join("xen-tools");
    if !tree.exists() {
        debian::unpack(&PACKAGES, &tree)?;
    }
    let mut files = debian::programs(&tree, &PROGRAMS)?;
    let others = SETTINGS.iter().chain([&LOADED_LATE]);
    files
        .extend(others.map(|path| FileToSend { host: tree.join(path), guest: format!("/{path}") }));
    Ok(files)
}
