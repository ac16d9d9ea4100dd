//! Options of the commands that show something and change nothing.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::Shell;

use super::seconds;

/// Options of `uvtool list`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  uvtool list\n  uvtool list --all --json")]
pub struct List {
    /// Also show pseudo-partitions, which own memory and never run
    #[arg(long, short)]
    pub all: bool,
}

/// Options of `uvtool info`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  uvtool info command\n  uvtool info 3 --json")]
pub struct Info {
    /// Name or number of the partition
    pub name: String,
}

/// Options of `uvtool resources`.
#[derive(Args, Debug)]
#[command(after_help = "The page map has entries of three tiers: 4 GiB, 4 MiB, 4 KiB.\n\n\
    Examples:\n  uvtool resources\n  uvtool resources --map\n  \
    uvtool resources --verify\n  uvtool resources --json > resources.json")]
pub struct Resources {
    /// Also show the ranges of the page map
    #[arg(long)]
    pub map: bool,
    /// Instead compare the page map with what the lead monitor holds, frame by frame; the command
    /// fails if the two differ
    #[arg(long, conflicts_with = "map")]
    pub verify: bool,
}

/// Options of `uvtool log`.
#[derive(Args, Debug)]
#[command(after_help = "Times are seconds since the machine started.\n\n\
    Examples:\n  uvtool log\n  uvtool log -n 100")]
pub struct Log {
    /// Maximum number of records
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 20)]
    pub lines: u64,
}

/// Options of `uvtool top`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  uvtool top\n  uvtool top --rounds 2 --delay 5 | tail -5")]
pub struct Top {
    /// Time between two samples
    #[arg(long, short, value_name = "SECONDS", value_parser = seconds, default_value = "2")]
    pub delay: f64,
    /// Number of samples; without it, `top` goes on until you press q
    #[arg(long, short = 'n', value_name = "N")]
    pub rounds: Option<u64>,
}

/// Options of `uvtool kernel`.
#[derive(Args, Debug)]
pub struct Kernel {
    /// What to do with the kernel image
    #[command(subcommand)]
    pub request: KernelRequest,
}

/// Options of `uvtool doctor`.
#[derive(Args, Debug)]
#[command(after_help = "Issues that the CPU does not have are shown with --all.\n\n\
    Examples:\n  uvtool doctor\n  uvtool doctor --json")]
pub struct Doctor {
    /// Also show issues that the CPU does not have
    #[arg(long, short)]
    pub all: bool,
}

/// Options of `uvtool version`, which has none.
#[derive(Args, Debug)]
pub struct Version;

/// Options of `uvtool diag`.
#[derive(Args, Debug)]
pub struct Diag {
    /// Request to send
    #[command(subcommand)]
    pub request: DiagRequest,
}

/// Options of `uvtool completion`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  uvtool completion bash > /etc/bash_completion.d/uvtool")]
pub struct Completion {
    /// The shell
    pub shell: Shell,
}

/// Requests of `uvtool kernel`.
#[derive(Debug, Subcommand)]
pub enum KernelRequest {
    /// Report the PV notes of a kernel and the sensitive instructions in it, by symbol
    #[command(after_help = "Example:\n  uvtool kernel check /boot/vmlinuz")]
    Check {
        /// bzImage or ELF
        file: PathBuf,
    },
}

/// Requests of `uvtool diag`.
#[derive(Debug, Subcommand)]
pub enum DiagRequest {
    /// Release frames of a partition
    Release {
        /// Number of the partition
        #[arg(long, value_name = "N")]
        partition: u32,
        /// First frame; hexadecimal with 0x
        #[arg(long, value_name = "F", value_parser = frame)]
        first: u64,
        /// Number of frames
        #[arg(long, value_name = "N")]
        frames: u64,
    },
}

/// Reads a frame number, decimal or hexadecimal.
fn frame(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| "takes a frame number, as in 34816 or 0x8800".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_numbers_are_decimal_or_hexadecimal() {
        assert_eq!((frame("34816"), frame("0x8800")), (Ok(34_816), Ok(34_816)));
        for bad in ["", "0x", "8800h", "-1"] {
            assert!(frame(bad).is_err(), "{bad}");
        }
    }
}
