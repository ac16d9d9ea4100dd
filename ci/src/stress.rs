//! Ten minutes of Debian's `stress-ng` in the command partition.
//!
//! The program and the libraries it needs come from Debian's packages, unmodified, and travel in
//! the RAM disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xtask::command_image::FileToSend;
use xtask::options::BootOptions;
use xtask::{debian, workspace};

use crate::checks::{self, Check};
use crate::host::Host;

/// What runs, one after the other.
const STRESSORS: [&str; 14] = [
    "cpu", "fork", "vfork", "exec", "mmap", "mremap", "mprotect", "vm", "signal", "pipe", "switch",
    "timer", "fp", "clone",
];
/// Seconds for each: ten minutes in all.
const SECONDS: u64 = 43;
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];

/// What is checked on the machine with `stress-ng`.
pub const CHECKS: &[Check] = &[
    Check { name: "stressors", run: stressors },
    Check { name: "kernel-log", run: checks::kernel_log },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// A command partition of two virtual CPUs with `stress-ng` in it.
///
/// # Errors
/// The packages cannot be had.
pub fn options() -> Result<BootOptions> {
    let tree = workspace::directory(workspace::build_dir()?.join("packages"))?.join("stress-ng");
    if !tree.exists() {
        let packages = debian::closure("stress-ng")?;
        let packages: Vec<_> = packages.iter().map(String::as_str).collect();
        debian::unpack(&packages, &tree)?;
    }
    let mut files = vec![
        FileToSend { host: tree.join("usr/bin/stress-ng"), guest: "/usr/bin/stress-ng".into() },
        FileToSend { host: tree.join(LOADER), guest: format!("/{LOADER}") },
    ];
    for library in libraries(&tree)? {
        let name = library.file_name().unwrap_or_default().to_string_lossy();
        let guest = format!("/{}/{name}", LIBRARIES[0]);
        files.push(FileToSend { host: library, guest });
    }
    Ok(BootOptions { file: files, command_vcpus: Some(2), ..BootOptions::default() })
}

/// The libraries that the loader in `tree` would load for `stress-ng`.
fn libraries(tree: &Path) -> Result<Vec<PathBuf>> {
    let directories = LIBRARIES.map(|directory| tree.join(directory).display().to_string());
    let mut loader = Command::new(fs::canonicalize(tree.join(LOADER))?);
    loader.args(["--library-path", &directories.join(":"), "--list"]);
    loader.arg(tree.join("usr/bin/stress-ng"));
    let text = workspace::output(&mut loader, "asking for the libraries of stress-ng")?;
    Ok(text.lines().filter_map(library_in_line).collect())
}

/// `NAME => FILE (ADDRESS)`
fn library_in_line(line: &str) -> Option<PathBuf> {
    let (_, file) = line.split_once(" => ")?;
    Some(file.split_once(" (")?.0.into())
}

fn stressors(host: &mut Host) -> Result<()> {
    let mut failed = Vec::new();
    for stressor in STRESSORS {
        let seconds = format!("{SECONDS}s");
        let words = ["stress-ng", "--verify", &format!("--{stressor}"), "2", "-t", &seconds];
        let limit = Duration::from_secs(SECONDS * 3);
        let output = host.run(&words, b"", limit).with_context(|| stressor.to_owned())?;
        if output.status != 0 {
            failed.push(format!("{stressor}: status {}\n{}", output.status, output.stderr));
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_loaders_list() {
        let line = "\tlibm.so.6 => /t/lib/libm.so.6 (0x00007f0000000000)";
        assert_eq!(library_in_line(line), Some("/t/lib/libm.so.6".into()));
        assert_eq!(library_in_line("\t/lib64/ld-linux-x86-64.so.2 (0x0000)"), None);
    }
}
