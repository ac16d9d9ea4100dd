//! Where things lie in the source tree, and how a child process is run.
//!
//! The rule kept here: a cargo that is started from `cargo xtask` sees none of the outer cargo's
//! environment (toolchain choice, flags, target directory), so that the same command builds the
//! same thing from a shell, from an editor and from CI.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The root of the workspace, as an absolute path.
pub fn root() -> PathBuf {
    let here = env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    here.ancestors().nth(2).map_or(here.clone(), PathBuf::from)
}

/// Variables of the outer cargo and rustup that must not reach an inner cargo.
fn is_of_outer_cargo(name: &str) -> bool {
    const PREFIXES: [&str; 5] = [
        "RUSTC",
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_BUILD_",
        "CARGO_TARGET_",
    ];
    const NAMES: [&str; 8] = [
        "CARGO",
        "CARGO_BIN_NAME",
        "CARGO_CRATE_NAME",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_PRIMARY_PACKAGE",
        "LD_LIBRARY_PATH",
        "RUSTFLAGS",
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

/// Runs `command` to its end with inherited output; an error names what failed.
pub fn run(command: &mut Command, what: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("cannot start {program} ({what})"))?;
    if !status.success() {
        bail!("{what}: {program} ended with {status}");
    }
    Ok(())
}

/// Runs `command` and returns its standard output; an error carries its standard error.
pub fn output(command: &mut Command, what: &str) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command
        .output()
        .with_context(|| format!("cannot start {program} ({what})"))?;
    if !out.status.success() {
        let reason = String::from_utf8_lossy(&out.stderr);
        bail!(
            "{what}: {program} ended with {}: {}",
            out.status,
            reason.trim()
        );
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_cargo_is_removed_and_user_settings_stay() {
        for name in [
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
            "CARGO",
            "CARGO_TARGET_DIR",
        ] {
            assert!(is_of_outer_cargo(name), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "RUSTUP_HOME",
            "PATH",
            "HOME",
        ] {
            assert!(!is_of_outer_cargo(name), "{name}");
        }
    }
}
