//! Paths in the source tree, and ways to run a child process.
//!
//! Rule: a cargo that `cargo xtask` starts sees none of the outer cargo's environment (toolchain
//! choice, flags, target directory), so that the same command builds the same thing from a shell,
//! from an editor and from CI.

use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::interrupt::{self, OnSignal, Process};

/// The root of the workspace, as an absolute path.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// The directory of everything that xtask makes and keeps, such as kernel, images and logs. Git
/// ignores it.
///
/// # Errors
/// The directory cannot be created.
pub fn build_dir() -> Result<PathBuf> {
    directory(root().join("build"))
}

/// Makes a directory and its parents, and returns its path.
///
/// # Errors
/// The directory cannot be created.
pub fn directory(path: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}

/// Reads a file; the error names it.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file unless it has these bytes already, so that its modification time is that of the
/// last change.
///
/// # Errors
/// The file cannot be written.
pub fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    write_whole(path, bytes)
}

/// Writes a file atomically: a reader sees either the whole new contents or the old ones.
///
/// # Errors
/// The file cannot be written.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_added_extension(format!("{}.part", std::process::id()));
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a file named by a hash of its bytes, removes the files that were unused for the longest
/// time, and returns its path. Users with other bytes do not disturb each other.
///
/// # Errors
/// The file cannot be written.
pub fn write_named_by_content(directory: &Path, extension: &str, bytes: &[u8]) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let path = directory.join(format!("{:016x}.{extension}", hasher.finish()));
    write_if_changed(&path, bytes)?;
    mark_used(&path);
    drop_old(directory, extension);
    Ok(path)
}

/// The most files of one kind in a cache.
const KEPT_FILES: usize = 8;

/// Marks `path` as used, so that [`drop_old`] removes it last.
pub fn mark_used(path: &Path) {
    let stamp = path.with_added_extension("used");
    // The stamp only sets the order of removal, so a failure does no harm.
    let _ = fs::write(stamp, b"");
}

/// Removes the files with this extension that were unused for the longest time. A running machine
/// keeps its files open.
pub fn drop_old(directory: &Path, extension: &str) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let last_use = |path: &Path| {
        let of = |path: &Path| fs::metadata(path).and_then(|facts| facts.modified()).ok();
        of(&path.with_added_extension("used")).max(of(path))
    };
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .map(|path| (last_use(&path), path))
        .collect();
    files.sort();
    for (_, file) in files.iter().rev().skip(KEPT_FILES) {
        let _ = fs::remove_file(file.with_added_extension("used"));
        let _ = fs::remove_file(file);
    }
}

/// Variables of the outer cargo and rustup that must not reach an inner cargo.
fn is_of_outer_cargo(name: &str) -> bool {
    const PREFIXES: [&str; 5] =
        ["RUSTC", "CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BUILD_", "CARGO_TARGET_"];
    const NAMES: [&str; 9] = [
        "CARGO",
        "CARGO_BIN_NAME",
        "CARGO_CRATE_NAME",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_PRIMARY_PACKAGE",
        "LD_LIBRARY_PATH",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|p| name.starts_with(p))
}

/// A command with the outer cargo's variables removed, in the root of the workspace.
pub fn clean_command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_of_outer_cargo) {
            command.env_remove(name);
        }
    }
    command.current_dir(root());
    command
}

/// A command for the cargo that started this xtask, with the user's toolchain choice, running
/// `task`.
///
/// If nobody watches its progress, it prints only warnings.
pub fn cargo(task: &str) -> Command {
    let mut command = clean_command("cargo");
    if let Some(name) = env::var_os("RUSTUP_TOOLCHAIN") {
        command.env("RUSTUP_TOOLCHAIN", name);
    }
    command.arg(task);
    quiet_unless_watched(&mut command);
    command
}

/// Adds `--quiet` where standard error is not a terminal.
pub fn quiet_unless_watched(cargo: &mut Command) {
    if !std::io::stderr().is_terminal() {
        cargo.arg("--quiet");
    }
}

/// Runs `command` to its end; its output goes to standard error, and `what` names it in an error.
///
/// # Errors
/// The program cannot be started or does not end with status 0.
pub fn run_command(command: &mut Command, what: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdout(std::io::stderr());
    let status = Process::start(command, OnSignal::Forward)
        .and_then(|mut process| process.wait())
        .with_context(|| format!("cannot start {program} ({what})"))?;
    if !status.success() {
        bail!("{what}: {program} ended with {status}");
    }
    Ok(())
}

/// Runs `command` and returns its standard output; an error includes its standard error.
///
/// # Errors
/// The program cannot be started or does not end with status 0.
pub fn output(command: &mut Command, what: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out =
        interrupt::output(command).with_context(|| format!("cannot start {program} ({what})"))?;
    if !out.status.success() {
        let reason = String::from_utf8_lossy(&out.stderr);
        bail!("{what}: {program} ended with {}: {}", out.status, reason.trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_cargo_is_removed_and_user_settings_stay() {
        for name in ["RUSTC", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO", "CARGO_TARGET_DIR"] {
            assert!(is_of_outer_cargo(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_NET_OFFLINE", "RUSTUP_HOME", "PATH", "HOME"] {
            assert!(!is_of_outer_cargo(name), "{name}");
        }
    }
}
