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
    /// Partitions that an earlier apply defined and that are not in the files go, with their
    /// definitions
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
    /// Partitions that an earlier apply defined and that are not in the files go, with their
    /// definitions
    #[arg(long)]
    pub prune: bool,
    /// Only at the version of the database that `plan` printed, so that what was looked at is
    /// what is done
    #[arg(long, value_name = "VERSION")]
    pub at: Option<u64>,
    /// Do not ask before destroying anything
    #[arg(long, short)]
    pub yes: bool,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

/// Options of `uvtool start`.
#[derive(Args, Debug)]
pub struct Start {
    /// Its name
    pub name: String,
    /// Show its console, from its first byte, until it stops
    #[arg(long)]
    pub console: bool,
}

/// Options of `uvtool shutdown`.
#[derive(Args, Debug)]
pub struct Shutdown {
    /// Its name, or its number
    pub name: String,
    /// Wait until it has stopped
    #[arg(long)]
    pub wait: bool,
}

/// Options of `uvtool reboot`.
#[derive(Args, Debug)]
pub struct Reboot {
    /// Its name, or its number
    pub name: String,
}

/// Options of `uvtool destroy`.
#[derive(Args, Debug)]
pub struct Destroy {
    /// Its name, or its number
    pub name: String,
    /// Forget its definition, too
    #[arg(long)]
    pub forget: bool,
}

/// Options of `uvtool pause`.
#[derive(Args, Debug)]
pub struct Pause {
    /// Its name, or its number
    pub name: String,
}

/// Options of `uvtool unpause`.
#[derive(Args, Debug)]
pub struct Unpause {
    /// Its name, or its number
    pub name: String,
}

/// Options of `uvtool rename`.
#[derive(Args, Debug)]
pub struct Rename {
    /// Its name, or its number
    pub name: String,
    /// The new name
    pub to: String,
}

/// Options of `uvtool definitions`: none.
#[derive(Args, Debug)]
pub struct Definitions;

/// Options of `uvtool console`.
#[derive(Args, Debug)]
#[command(after_help = CONSOLE)]
pub struct Console {
    /// Its name, or its number
    pub name: String,
    /// Do not begin with what was printed before
    #[arg(long)]
    pub no_history: bool,
    /// Print what was printed before, and end
    #[arg(long, conflicts_with = "no_history")]
    pub once: bool,
    /// Show output until the partition stops, and type nothing
    #[arg(long, conflicts_with = "once")]
    pub follow: bool,
}

const CONSOLE: &str = "\
Standard input is typed, as fast as the partition reads it. At its end the console is left once \
the partition has read all of it and has printed nothing for half a second, or after five seconds. \
Ctrl-] detaches once what stands before it is read; at a terminal, a second Ctrl-] detaches at once.

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
    /// Its name, or its number
    pub name: String,
    /// What to wait for
    #[arg(long, value_enum, default_value = "stopped")]
    pub until: Until,
}

/// Options of `uvtool why`.
#[derive(Args, Debug)]
pub struct Why {
    /// Its name, also of one that is gone
    pub name: String,
}

/// Options of `uvtool undo`.
#[derive(Args, Debug)]
#[command(after_help = "The number is that of `uvtool log`.\n\nExample:\n  uvtool undo 17")]
pub struct Undo {
    /// Number of its record in the log
    pub record: u64,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub reason: String,
}

const CREATE: &str = "\
A definition is a TOML file, or an xl.cfg for what the two have in common; or give what differs \
from the defaults as options.

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
    /// Its name; with FILE: which one of those in it
    #[arg(long)]
    pub name: Option<String>,
    /// Kernel image: bzImage or ELF
    #[arg(long, value_name = "PATH", conflicts_with = "file", requires = "name")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "PATH", conflicts_with = "file")]
    pub initrd: Option<PathBuf>,
    /// For the kernel
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    pub command_line: Option<String>,
    /// Memory, as in 256M or 1G
    #[arg(long, value_name = "SIZE", conflicts_with = "file")]
    pub memory: Option<String>,
    /// Virtual CPUs
    #[arg(long, value_name = "N", conflicts_with = "file")]
    pub vcpus: Option<u32>,
    /// Leave it paused before its first instruction
    #[arg(long, conflicts_with = "console")]
    pub paused: bool,
    /// Show its console, from its first byte, until it stops; status 0: it powered off, 3: it
    /// crashed
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
    /// Its name, or its number
    pub name: String,
    /// Memory that its kernel is to use, as in 256M
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Virtual CPUs up
    #[arg(long, value_name = "N")]
    pub vcpus: Option<u32>,
    /// Relative share of CPU time, 1 to 65535
    #[arg(long, value_name = "N")]
    pub weight: Option<u32>,
    /// Percent of one CPU at most; 0: no cap
    #[arg(long, value_name = "PERCENT")]
    pub cap: Option<u32>,
    /// Physical CPUs, as in 0-2,5; `all`: every one
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<String>,
    /// Nothing else runs on its CPUs
    #[arg(long, value_name = "BOOL")]
    pub dedicated: Option<bool>,
    /// What happens when it powers off
    #[arg(long, value_enum, value_name = "POLICY")]
    pub on_poweroff: Option<Policy>,
    /// What happens when it reboots
    #[arg(long, value_enum, value_name = "POLICY")]
    pub on_reboot: Option<Policy>,
    /// What happens when it crashes
    #[arg(long, value_enum, value_name = "POLICY")]
    pub on_crash: Option<Policy>,
}

/// What happens with a partition that ended.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Policy {
    /// All it has is given back
    Destroy,
    /// It is started anew
    Restart,
    /// It stays as it is
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
    /// It runs
    Running,
    /// It powered off, crashed, or is gone
    Stopped,
    /// There is no such partition
    Gone,
    /// It is paused
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
