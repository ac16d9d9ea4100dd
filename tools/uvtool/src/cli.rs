//! The command line.
//!
//! A run uses one of two dozen commands, and ends before clap could have built the options of all
//! of them. So clap builds only the options of the command that the user names. For the same reason
//! each command has its own copy of the options that every command accepts; they are not
//! propagated. If an option stands both before and after the command's name, the later one counts.

pub mod disks;
pub mod io;
pub mod lifecycle;
pub mod questions;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgMatches, Args, FromArgMatches};
use disks::Disk;
use io::Io;
use lifecycle::*;
use questions::*;
use uvd_protocol::{DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS, SOCKET};

/// The parsed command line of `uvtool`.
#[derive(Debug)]
pub struct Cli {
    /// The options that every command accepts.
    pub how: How,
    /// The command, with its own options.
    pub command: Command,
}

impl Cli {
    /// Reads words, the first of which is the program's name.
    ///
    /// # Errors
    /// The words are no command line; a request for help or for the version is an error, too.
    pub fn try_parse_from(
        words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = words.into_iter().map(Into::into).collect();
        // A command that comes first is the only one that has to be known.
        let named = words.get(1).and_then(|word| word.to_str());
        let mut command = Self::with_commands(named.filter(|name| Command::NAMES.contains(name)));
        let mut matches = command.try_get_matches_from_mut(words)?;
        Self::read(&mut matches).map_err(|error| error.format(&mut command))
    }

    /// The command line with all commands.
    pub fn command() -> clap::Command {
        Self::with_commands(None)
    }

    /// The command line with the command named `only`, or with all commands.
    fn with_commands(only: Option<&str>) -> clap::Command {
        // Options come first: they bring the first line of their own help along.
        let command = How::augment_args(clap::Command::new("uvtool"))
            .mut_args(|option| option.global(false))
            .version(env!("CARGO_PKG_VERSION"))
            .about("Manages the partitions of this machine, and shows the machine's resources")
            .long_about(ABOUT)
            .subcommand_required(true)
            .arg_required_else_help(true)
            .after_help(EXAMPLES);
        Command::add(command, only)
    }

    fn read(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        let before = How::from_arg_matches_mut(matches)?;
        let missing = || clap::Error::new(clap::error::ErrorKind::MissingSubcommand);
        let (name, mut matches) = matches.remove_subcommand().ok_or_else(missing)?;
        let after = How::from_arg_matches_mut(&mut matches)?;
        let command = Command::read(&name, &mut matches)?.ok_or_else(missing)?;
        Ok(Self { how: after.or(before), command })
    }
}

/// Options that every command accepts: the form of the output, the time limit, the socket.
#[derive(Args, Debug)]
pub struct How {
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Maximum time that the command may take
    ///
    /// Without this option, a query waits 10 seconds for its answer, and a command that changes or
    /// follows something has no limit. If the time is up, the status is 124.
    #[arg(long, global = true, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<f64>,
    /// Socket that uvd listens on; the default is /run/uvd.sock
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl How {
    /// The time to wait.
    pub fn timeout(&self) -> Duration {
        let usual = f64::from(DEFAULT_TIMEOUT_MS) / 1000.0;
        Duration::from_secs_f64(self.timeout.unwrap_or(usual))
    }

    /// The socket that `uvd` listens on.
    pub fn socket(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new(SOCKET))
    }

    /// Takes each option from `self`, or from `other` if `self` lacks it.
    fn or(self, other: Self) -> Self {
        Self {
            json: self.json || other.json,
            timeout: self.timeout.or(other.timeout),
            socket: self.socket.or(other.socket),
        }
    }
}

/// Makes the enum of commands. A row has the type of the command's options, the command's name, and
/// a sentence that says what the command does.
macro_rules! commands {
    ($($options:ident = $name:literal $(, $hidden:ident)?: $about:literal;)*) => {
        /// A command, with its options.
        #[derive(Debug)]
        pub enum Command {
            $(#[doc = $about] $options($options),)*
        }

        impl Command {
            /// The names of all commands.
            const NAMES: &[&str] = &[$($name),*];

            /// Adds all commands to a command line, or only the command named `only`. clap asks for
            /// the options of a command once the command is used.
            fn add(mut command: clap::Command, only: Option<&str>) -> clap::Command {
                $(if only.is_none_or(|only| only == $name) {
                    command = command.subcommand(
                        clap::Command::new($name).about($about)$(.hide(stringify!($hidden) == "hidden"))?
                            .defer(|one| How::augment_args($options::augment_args(one)).about($about)),
                    );
                })*
                command
            }

            /// The command named `name`; `None` if no command has that name.
            fn read(name: &str, matches: &mut ArgMatches) -> Result<Option<Self>, clap::Error> {
                Ok(Some(match name {
                    $($name => Self::$options($options::from_arg_matches_mut(matches)?),)*
                    _ => return Ok(None),
                }))
            }
        }
    };
}

commands! {
    Create = "create": "Create a partition from its definition, and start it";
    Plan = "plan": "Show what `apply` would do, and change nothing";
    Apply = "apply": "Create, change and destroy partitions to match their definitions, in one transaction";
    Start = "start": "Start a partition that is defined and does not exist yet";
    Shutdown = "shutdown": "Ask a partition's kernel to power off";
    Reboot = "reboot": "Ask a partition's kernel to reboot";
    Destroy = "destroy": "Destroy a partition, running or not, and release all that it has";
    Pause = "pause": "Stop running a partition, which keeps all that it has";
    Unpause = "unpause": "Let a paused partition go on running";
    Rename = "rename": "Give a partition another name";
    Disk = "disk": "Attach and detach disks of partitions, and show them";
    Io = "io": "Show the I/O partitions, and move PCI functions between them while disks are used";
    Set = "set": "Change a partition while it runs, and its definition";
    Definitions = "definitions": "Show all definitions, whether their partitions run or not";
    Console = "console": "Attach to a partition's console; Ctrl-] detaches";
    Wait = "wait": "Wait until a partition has a state";
    Why = "why": "Show how a partition got into its state, and what the monitor did to it";
    Undo = "undo": "Apply the inverse of a transaction";
    List = "list": "Show the partitions, one line each";
    Info = "info": "Show all that is known about a partition";
    Resources = "resources": "Show memory by owner, CPUs and PCI functions; fails if the sums do not agree";
    Log = "log": "Show the newest records of the audit log, oldest first";
    Doctor = "doctor": "Show the CPU's leaks and the mitigations that are on; fails if guests cannot start";
    Top = "top": "Show what the partitions use, live; press q to end";
    Kernel = "kernel": "Examine a kernel image";
    Version = "version": "Show the versions of the parts";
    Diag = "diag", hidden: "Send requests that the ultravisor must refuse, to test that it does";
    Completion = "completion": "Print a completion script for a shell";
}

const ABOUT: &str = "\
Manages the partitions of this machine, and shows the machine's resources.

Runs in the command partition, and asks the ultravisor through uvd.";

const EXAMPLES: &str = "\
Examples:
  uvtool list                   the partitions
  uvtool create --console web.toml
                                create a partition and show its console
  uvtool apply shop.toml        make partitions match a file, all or none
  uvtool undo 17                undo a transaction of the log
  uvtool info command           all that is known about a partition
  uvtool resources              memory by owner, CPUs, PCI functions
  uvtool log -n 5               the last five records of the audit log
  uvtool list --json            for programs

Exit status: 0 done; 1 not done, with the reason on standard error; 2 wrong usage; 3 the \
partition that was watched crashed; 124 the time was up.
With --json, failures are JSON on standard error; uvtool.schema.json describes all output.";

/// Reads a time to wait, in seconds.
fn seconds(text: &str) -> Result<f64, String> {
    let most = f64::from(MAX_TIMEOUT_MS) / 1000.0;
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= most => Ok(value),
        _ => Err(format!("takes a number of seconds above 0, at most {most}")),
    }
}

#[cfg(test)]
mod ways_out;

#[cfg(test)]
mod tests {
    use super::*;

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
            assert!(cli.how.json && matches!(cli.command, Command::List(List { all: true })));
        }
    }

    #[test]
    fn the_last_place_where_an_option_is_given_counts() {
        let how = |words: &[&str]| Cli::try_parse_from([&["uvtool"], words].concat()).unwrap().how;
        assert_eq!((how(&["list"]).socket(), how(&["list"]).timeout), (Path::new(SOCKET), None));
        let both = how(&["--timeout", "3", "--socket", "/a", "list", "--timeout", "5"]);
        assert_eq!((both.timeout, both.socket(), both.json), (Some(5.0), Path::new("/a"), false));
        let below = how(&["kernel", "--socket", "/a", "check", "file", "--json"]);
        assert_eq!((below.socket(), below.json), (Path::new("/a"), true));
    }

    #[test]
    fn a_command_that_comes_first_is_read_as_among_all() {
        for name in Command::NAMES {
            for words in [&["uvtool", name, "--help"][..], &["uvtool", name, "--no-such"]] {
                let alone = Cli::try_parse_from(words.iter().copied()).unwrap_err();
                let among = Cli::command().try_get_matches_from(words.iter().copied()).unwrap_err();
                assert_eq!(alone.to_string(), among.to_string());
            }
        }
        // The first word may be the value of an option.
        let words = ["uvtool", "--socket", "list", "info", "web"];
        assert!(matches!(Cli::try_parse_from(words).unwrap().command, Command::Info(_)));
    }

    #[test]
    fn every_command_has_its_help() {
        for one in Cli::command().get_subcommands() {
            let error = Cli::try_parse_from(["uvtool", one.get_name(), "--help"]).unwrap_err();
            assert_eq!(error.exit_code(), 0, "{}", one.get_name());
            let (help, about) = (error.to_string(), one.get_about().unwrap().to_string());
            assert!(help.starts_with(&about) && help.contains("--timeout <SECONDS>"), "{help}");
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
    fn help_teaches_with_examples() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.starts_with("Manages the partitions of this machine"), "{help}");
        assert!(help.contains("uvtool log -n 5") && help.contains("Exit status"), "{help}");
    }
}
