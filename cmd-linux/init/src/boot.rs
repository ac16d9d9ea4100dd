//! Prepares the system once, before anything runs: file systems, kernel modules, names, loopback.
//!
//! Rule: a step that fails is reported, and the next step is tried. A shell on a half-made system
//! is worth more than none.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};

use crate::words::{self, Options};
use crate::{notice, system, warning};

/// The list of kernel modules: a path per line, in order; parameters follow the path.
const MODULES: &str = "/etc/uv-modules";
/// The list of those that a state disk needs, in the same form.
const DISK_MODULES: &str = "/etc/uv-disk-modules";
/// The command partition's host name.
const HOST_NAME: &str = "command";
/// Home of the shell and of commands.
pub const HOME: &str = "/root";

/// Source and type, target, flags, options.
const MOUNTS: [(&str, &str, MsFlags, &str); 6] = [
    ("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755"),
    ("proc", "/proc", NOTHING_RUNS, ""),
    ("sysfs", "/sys", NOTHING_RUNS, ""),
    ("devpts", "/dev/pts", MsFlags::MS_NOSUID, "gid=5,mode=0620,ptmxmode=0666"),
    ("tmpfs", "/run", MsFlags::MS_NOSUID, "mode=0755"),
    ("tmpfs", "/tmp", MsFlags::MS_NOSUID, "mode=1777"),
];
const NOTHING_RUNS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// Does all steps, and returns the options of the kernel command line.
pub fn prepare() -> Options {
    mount_all();
    // The kernel would otherwise drop messages of a burst. If this fails, only the kernel log
    // suffers.
    let _ = fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let (options, problems) = words::parse(&line);
    for problem in problems {
        warning!("{problem}");
    }
    let lists = [Some(MODULES), options.state.as_ref().map(|_| DISK_MODULES)];
    for list in lists.into_iter().flatten() {
        if let Ok(list) = fs::read_to_string(list) {
            load_modules(&list);
        }
    }
    if let Err(error) = nix::unistd::sethostname(HOST_NAME) {
        warning!("host name {HOST_NAME}: {}", error.desc());
    }
    if let Err(error) = system::loopback_up() {
        warning!("loopback interface: {error}");
    }
    if let Err(error) = fs::create_dir_all(HOME) {
        warning!("{HOME}: {error}");
    }
    options
}

fn mount_all() {
    let mut problems = Vec::new();
    for (kind, target, flags, options) in MOUNTS {
        let done = fs::create_dir_all(target)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
            .and_then(|()| mount(Some(kind), target, Some(kind), flags, Some(options)));
        // Busy means that the kernel has already mounted it (devtmpfs).
        if let Err(error) = done
            && error != Errno::EBUSY
        {
            problems.push(format!("{target}: mounting {kind}: {}", error.desc()));
        }
    }
    for problem in problems {
        warning!("{problem}");
    }
}

/// The paths and parameters in a list of modules; `#` begins a comment.
fn modules(list: &str) -> impl Iterator<Item = (&str, &str)> {
    list.lines().filter_map(|line| {
        let line = line.split('#').next().unwrap_or_default().trim();
        let (path, parameters) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        (!path.is_empty()).then(|| (path, parameters.trim()))
    })
}

fn load_modules(list: &str) {
    let mut loaded = 0;
    for (path, parameters) in modules(list) {
        match load_module(Path::new(path), parameters) {
            Ok(()) => loaded += 1,
            Err(error) => warning!("kernel module {path}: {error}"),
        }
    }
    notice!("{loaded} kernel modules loaded");
}

fn load_module(path: &Path, parameters: &str) -> std::io::Result<()> {
    let file = fs::File::open(path)?;
    let parameters = std::ffi::CString::new(parameters)?;
    match finit_module(&file, &parameters, ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(Errno::ENOENT) => Err(std::io::Error::other(
            "needs a symbol of a module that is not loaded; list that one before it",
        )),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_modules_has_paths_parameters_and_comments() {
        let list = "# in this order\n/lib/a.ko\n\n  /lib/b.ko unrestricted=1  x=2 # why\n/lib/c.ko";
        let modules: Vec<_> = modules(list).collect();
        assert_eq!(
            modules,
            [("/lib/a.ko", ""), ("/lib/b.ko", "unrestricted=1  x=2"), ("/lib/c.ko", "")]
        );
    }

    #[test]
    fn a_module_that_is_not_there_is_an_error() {
        assert!(load_module(Path::new("/no/such/module.ko"), "").is_err());
    }
}
