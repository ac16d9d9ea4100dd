//! Options of the commands that take partitions through their lives.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Options of `uvtool plan`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  uvtool plan shop.toml")]
pub struct Plan {
    /// Files with definitions (TOML, or xl.cfg)
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Also destroy the partitions that an earlier apply defined and that are not in the files,
    /// and forget their definitions
    #[arg(long)]
    pub prune: bool,
}

/// Options of `uvtool apply`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  uvtool apply shop.toml\n  \
    uvtool apply --at 42 shop.toml\n  \
    uvtool apply --yes --prune --reason 'spring sale' shop.toml")]
pub struct Apply {
    /// Files with definitions (TOML, or xl.cfg)
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Also destroy the partitions that an earlier apply defined and that are not in the files,
    /// and forget their definitions
    #[arg(long)]
    pub prune: bool,
    /// Apply only if the database still has the version that `plan` printed, so that `apply`
    /// carries out the plan that you read
    #[arg(long, value_name = "VERSION")]
    pub at: Option<u64>,
    /// Destroy partitions without asking first
    #[arg(long, short)]
    pub yes: bool,
    /// Reason to record in the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

/// Options of `uvtool start`.
#[derive(Args, Debug)]
pub struct Start {
    /// Name of the partition
    pub name: String,
    /// Show the console, from its first byte, until the partition stops
    #[arg(long)]
    pub console: bool,
}

/// Options of `uvtool shutdown`.
#[derive(Args, Debug)]
pub struct Shutdown {
    /// Name or number of the partition
    pub name: String,
    /// Wait until the partition has stopped
    #[arg(long)]
    pub wait: bool,
}

/// Options of `uvtool reboot`.
#[derive(Args, Debug)]
pub struct Reboot {
    /// Name or number of the partition
    pub name: String,
}

/// Options of `uvtool destroy`.
#[derive(Args, Debug)]
pub struct Destroy {
    /// Name or number of the partition
    pub name: String,
    /// Also forget the partition's definition
    #[arg(long)]
    pub forget: bool,
}

/// Options of `uvtool pause`.
#[derive(Args, Debug)]
pub struct Pause {
    /// Name or number of the partition
    pub name: String,
}

/// Options of `uvtool unpause`.
#[derive(Args, Debug)]
pub struct Unpause {
    /// Name or number of the partition
    pub name: String,
}

/// Options of `uvtool rename`.
#[derive(Args, Debug)]
pub struct Rename {
    /// Name or number of the partition
    pub name: String,
    /// The new name
    pub to: String,
}

/// Options of `uvtool definitions`, which has none.
#[derive(Args, Debug)]
pub struct Definitions;

/// Options of `uvtool console`.
#[derive(Args, Debug)]
#[command(after_help = CONSOLE)]
pub struct Console {
    /// Name or number of the partition
    pub name: String,
    /// Leave out what the partition printed before
    #[arg(long)]
    pub no_history: bool,
    /// Print what the partition printed before, and end
    #[arg(long, conflicts_with = "no_history")]
    pub once: bool,
    /// Show output until the partition stops, and type nothing
    #[arg(long, conflicts_with = "once")]
    pub follow: bool,
}

const CONSOLE: &str = "\
Standard input is typed, as fast as the partition reads it. At its end the console is left once \
the partition has read all of it and has printed nothing for half a second, or after five seconds. \
Ctrl-] detaches once the partition has read the input before it; at a terminal, a second Ctrl-] \
detaches at once.

Status: 0 left, or the partition powered off or rebooted; 1 some input may not have been read; 3 it \
crashed; 124 the time of --timeout was up.

Examples:
  uvtool console web
  echo 'systemctl restart nginx' | uvtool console web
  uvtool console --follow web | grep -m 1 login:
  uvtool console --once web | tail";

/// Options of `uvtool wait`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  uvtool wait web --until stopped --timeout 60")]
pub struct Wait {
    /// Name or number of the partition
    pub name: String,
    /// State to wait for
    #[arg(long, value_enum, default_value = "stopped")]
    pub until: Until,
}

/// Options of `uvtool why`.
#[derive(Args, Debug)]
pub struct Why {
    /// Name of the partition, even if it is gone, or the number of a partition that exists
    pub name: String,
}

/// Options of `uvtool undo`.
#[derive(Args, Debug)]
#[command(
    after_help = "`uvtool log` shows the numbers of transactions.\n\nExample:\n  uvtool undo 17"
)]
pub struct Undo {
    /// Number of the transaction's record in the log
    pub record: u64,
    /// Reason to record in the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

const CREATE: &str = "\
A definition is a TOML file, or an xl.cfg whose settings exist here. Without a file, give the \
fields that differ from the defaults as options.

Examples:
  uvtool create web.toml
  uvtool create --console web.toml
  uvtool create --name test --kernel /boot/vmlinuz --initrd /boot/initrd.img --memory 256M";

/// Options of `uvtool create`.
#[derive(Args, Debug)]
#[command(after_help = CREATE)]
pub struct Create {
    /// File with the definition (TOML, or xl.cfg)
    #[arg(value_name = "FILE", required_unless_present = "kernel")]
    pub file: Option<PathBuf>,
    /// Name of the partition; with FILE, the definition in the file to use
    #[arg(long)]
    pub name: Option<String>,
    /// Kernel image: bzImage or ELF
    #[arg(long, value_name = "PATH", conflicts_with = "file", requires = "name")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "PATH", conflicts_with = "file")]
    pub initrd: Option<PathBuf>,
    /// Command line of the kernel
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    pub command_line: Option<String>,
    /// Memory, as in 256M or 1G
    #[arg(long, value_name = "SIZE", conflicts_with = "file")]
    pub memory: Option<String>,
    /// Virtual CPUs
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub vcpus: Option<u32>,
    /// Leave the partition paused before its first instruction
    #[arg(long, conflicts_with = "console")]
    pub paused: bool,
    /// Show the console, from its first byte, until the partition stops; the status is 0 if the
    /// partition powered off, and 3 if it crashed
    #[arg(long)]
    pub console: bool,
}

/// Options of `uvtool set`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  uvtool set web --memory 512M --vcpus 2\n  \
    uvtool set batch --weight 64 --cap 150\n  uvtool set db --cpus 2-3 --dedicated true")]
#[group(required = true, multiple = true, id = "setting", args = [
    "memory", "vcpus", "weight", "cap", "cpus", "dedicated", "on_poweroff", "on_reboot", "on_crash"
])]
pub struct Set {
    /// Name or number of the partition
    pub name: String,
    /// Memory that the kernel may use, as in 256M
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Virtual CPUs that are online
    #[arg(long, value_name = "N")]
    pub vcpus: Option<u32>,
    /// Relative share of CPU time, 1 to 65535
    #[arg(long, value_name = "N")]
    pub weight: Option<u32>,
    /// Maximum CPU time, in percent of one CPU; 0 means no cap
    #[arg(long, value_name = "PERCENT")]
    pub cap: Option<u32>,
    /// Physical CPUs that the partition may run on, as in 0-2,5, or `all`
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<String>,
    /// Keep other partitions off these CPUs
    #[arg(long, value_name = "BOOL")]
    pub dedicated: Option<bool>,
    /// What to do when the partition powers off
    #[arg(long, value_enum, value_name = "POLICY")]
    pub on_poweroff: Option<Policy>,
    /// What to do when the partition reboots
    #[arg(long, value_enum, value_name = "POLICY")]
    pub on_reboot: Option<Policy>,
    /// What to do when the partition crashes
    #[arg(long, value_enum, value_name = "POLICY")]
    pub on_crash: Option<Policy>,
}

/// What happens with a partition that ended.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Policy {
    /// Destroy the partition
    Destroy,
    /// Start the partition again
    Restart,
    /// Leave the partition as it is
    Preserve,
}

impl From<Policy> for definition::Policy {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Destroy => Self::Destroy,
            Policy::Restart => Self::Restart,
            Policy::Preserve => Self::Preserve,
        }
    }
}

/// What to wait for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Until {
    /// The partition runs
    Running,
    /// The partition powered off, crashed, or is gone
    Stopped,
    /// No partition has this name or number
    Gone,
    /// The partition is paused
    Paused,
}

impl From<Until> for uvd_protocol::Until {
    fn from(until: Until) -> Self {
        match until {
            Until::Running => Self::Running,
            Until::Stopped => Self::Stopped,
            Until::Gone => Self::Gone,
            Until::Paused => Self::Paused,
        }
    }
}
