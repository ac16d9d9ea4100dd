//! The command line.

pub mod lifecycle;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use lifecycle::Lifecycle;
use uvd_protocol::{DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS, SOCKET};

/// Manages the partitions of this machine, and shows what it is and what runs on it.
///
/// Runs in the command partition, and asks the ultravisor through uvd.
#[derive(Debug, Parser)]
#[command(
    name = "uvtool",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXAMPLES
)]
pub struct Cli {
    /// How to ask.
    #[command(flatten)]
    pub how: How,
    /// What to do or show.
    #[command(subcommand)]
    pub command: Command,
}

/// How to ask and how to show.
#[derive(Args, Debug)]
pub struct How {
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Wait at most this long for an answer
    ///
    /// Queries wait 10 seconds without it, and what takes longer by its nature as long as it takes.
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<f64>,
    /// Socket that uvd listens on
    #[arg(long, global = true, value_name = "PATH", default_value = SOCKET)]
    pub socket: PathBuf,
}

impl How {
    /// The time to wait.
    pub fn timeout(&self) -> Duration {
        let usual = f64::from(DEFAULT_TIMEOUT_MS) / 1000.0;
        Duration::from_secs_f64(self.timeout.unwrap_or(usual))
    }
}

/// What to do or show.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Takes partitions through their lives.
    #[command(flatten)]
    Lifecycle(Lifecycle),
    /// Show the partitions, one line each
    #[command(after_help = "Examples:\n  uvtool list\n  uvtool list --all --json")]
    List {
        /// Pseudo-partitions too: those that own memory and never run
        #[arg(long, short)]
        all: bool,
    },
    /// Show all that is known of one partition
    #[command(after_help = "Examples:\n  uvtool info command\n  uvtool info 3 --json")]
    Info {
        /// Its name, or its number
        name: String,
    },
    /// Show memory by owner, CPUs and PCI functions; fails when the sums do not agree
    #[command(after_help = "The page map has entries of three tiers: 4 GiB, 4 MiB, 4 KiB.\n\n\
        Examples:\n  uvtool resources\n  uvtool resources --map\n  \
        uvtool resources --verify\n  uvtool resources --json > resources.json")]
    Resources {
        /// The ranges of the page map, too
        #[arg(long)]
        map: bool,
        /// Compare the page map with what the lead monitor holds, frame by frame, instead; fails
        /// when they disagree
        #[arg(long, conflicts_with = "map")]
        verify: bool,
    },
    /// Show the newest records of the audit log, oldest first
    #[command(after_help = "Times are seconds since the machine started.\n\n\
        Examples:\n  uvtool log\n  uvtool log -n 100")]
    Log {
        /// Records at most
        #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 20)]
        lines: u64,
    },
    /// Show what the partitions use, live; q ends
    #[command(after_help = "Examples:\n  uvtool top\n  uvtool top --rounds 2 --delay 5 | tail -5")]
    Top {
        /// Time between two looks
        #[arg(long, short, value_name = "SECONDS", value_parser = seconds, default_value = "2")]
        delay: f64,
        /// Looks; without it: until a key says to end
        #[arg(long, short = 'n', value_name = "N")]
        rounds: Option<u64>,
    },
    /// Look into a kernel image
    Kernel {
        /// What to do with it
        #[command(subcommand)]
        request: Kernel,
    },
    /// Show the versions of the parts
    Version,
    /// Ask for what the ultravisor must refuse, to see that it does
    #[command(hide = true)]
    Diag {
        /// What to ask for
        #[command(subcommand)]
        request: Diag,
    },
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  uvtool completion bash > /etc/bash_completion.d/uvtool")]
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// Requests of `uvtool kernel`.
#[derive(Debug, Subcommand)]
pub enum Kernel {
    /// Report the PV notes of a kernel and the sensitive instructions in it, by symbol
    #[command(after_help = "Example:\n  uvtool kernel check /boot/vmlinuz")]
    Check {
        /// bzImage or ELF
        file: PathBuf,
    },
}

/// Requests of `uvtool diag`.
#[derive(Debug, Subcommand)]
pub enum Diag {
    /// Give frames of a partition back
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

const EXAMPLES: &str = "\
Examples:
  uvtool list                   the partitions
  uvtool create --console web.toml
                                create a partition and show its console
  uvtool apply shop.toml        make many definitions true, all or none
  uvtool undo 17                undo a transaction of the log
  uvtool info command           all that is known of one
  uvtool resources              memory by owner, CPUs, PCI functions
  uvtool log -n 5               the last five records of the audit log
  uvtool list --json            for programs

Exit status: 0 done; 1 not done, with the reason on standard error; 2 wrong usage.";

/// A time to wait, in seconds.
fn seconds(text: &str) -> Result<f64, String> {
    let most = f64::from(MAX_TIMEOUT_MS) / 1000.0;
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= most => Ok(value),
        _ => Err(format!("takes a number of seconds above 0, at most {most}")),
    }
}

/// A frame number, decimal or hexadecimal.
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
    use clap::CommandFactory;

    fn usage_error(words: &[&str]) -> String {
        let error = Cli::try_parse_from([&["uvtool"], words].concat()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{words:?}");
        error.to_string()
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_stand_before_and_after_the_command() {
        for words in [["--json", "list", "-a"], ["list", "-a", "--json"]] {
            let cli = Cli::try_parse_from([&["uvtool"], &words[..]].concat()).unwrap();
            assert!(cli.how.json && matches!(cli.command, Command::List { all: true }));
        }
    }

    #[test]
    fn wrong_usage_is_status_2_and_says_what_would_work() {
        assert!(usage_error(&["lst"]).contains("list"));
        assert!(usage_error(&["info"]).contains("<NAME>"));
        assert!(usage_error(&["log", "-n", "x"]).contains("invalid value 'x'"));
        for time in ["0", "-1", "nan", "601", "x"] {
            let option = format!("--timeout={time}");
            assert!(usage_error(&["list", &option]).contains("at most 600"), "{time}");
        }
    }

    #[test]
    fn frame_numbers_are_decimal_or_hexadecimal() {
        assert_eq!((frame("34816"), frame("0x8800")), (Ok(34_816), Ok(34_816)));
        for bad in ["", "0x", "8800h", "-1"] {
            assert!(frame(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn help_teaches_with_examples() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.contains("uvtool log -n 5") && help.contains("Exit status"), "{help}");
    }
}
