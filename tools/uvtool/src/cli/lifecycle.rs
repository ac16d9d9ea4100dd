//! The commands that take partitions through their lives.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Commands about guest partitions.
#[derive(Debug, Subcommand)]
pub enum Lifecycle {
    /// Create a partition from its definition, and start it
    #[command(after_help = CREATE)]
    Create(Create),
    /// Show what `apply` would do, and change nothing
    #[command(after_help = "Example:\n  uvtool plan shop.toml")]
    Plan {
        /// Files with definitions (TOML, or xl.cfg)
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Defined partitions that are not in the files go
        #[arg(long)]
        prune: bool,
    },
    /// Make definitions true, all of them or none: create, change, destroy in one transaction
    #[command(after_help = "Examples:\n  uvtool apply shop.toml\n  \
        uvtool apply --at 42 shop.toml\n  \
        uvtool apply --yes --prune --reason 'spring sale' shop.toml")]
    Apply {
        /// Files with definitions (TOML, or xl.cfg)
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Defined partitions that are not in the files go
        #[arg(long)]
        prune: bool,
        /// Only at the version of the database that `plan` printed, so that what was looked at is
        /// what is done
        #[arg(long, value_name = "VERSION")]
        at: Option<u64>,
        /// Do not ask before destroying anything
        #[arg(long, short)]
        yes: bool,
        /// Why, for the audit log
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Start a partition that is defined and not there
    Start {
        /// Its name
        name: String,
        /// Show its console until it stops
        #[arg(long)]
        console: bool,
    },
    /// Ask a partition's kernel to power off
    Shutdown {
        /// Its name, or its number
        name: String,
        /// Wait until it has stopped
        #[arg(long)]
        wait: bool,
    },
    /// Ask a partition's kernel to reboot
    Reboot {
        /// Its name, or its number
        name: String,
    },
    /// Give back all that a partition has, running or not
    Destroy {
        /// Its name, or its number
        name: String,
        /// Forget its definition, too
        #[arg(long)]
        forget: bool,
    },
    /// Stop running a partition; it keeps everything
    Pause {
        /// Its name, or its number
        name: String,
    },
    /// Let a paused partition run on
    Unpause {
        /// Its name, or its number
        name: String,
    },
    /// Give a partition another name
    Rename {
        /// Its name, or its number
        name: String,
        /// The new name
        to: String,
    },
    /// Change a partition while it runs, and its definition
    #[command(after_help = "Examples:\n  uvtool set web --memory 512M --vcpus 2\n  \
        uvtool set batch --weight 64 --cap 150\n  uvtool set db --cpus 2-3 --dedicated true")]
    Set(Set),
    /// Show what is defined, whether it runs or not
    Definitions,
    /// Attach to a partition's console; Ctrl-] detaches
    #[command(after_help = "Examples:\n  uvtool console web\n  uvtool console --once web | tail")]
    Console {
        /// Its name, or its number
        name: String,
        /// Do not begin with what was printed before
        #[arg(long)]
        no_history: bool,
        /// Print what was printed before, and end
        #[arg(long, conflicts_with = "no_history")]
        once: bool,
    },
    /// Wait for a partition
    #[command(after_help = "Example:\n  uvtool wait web --until stopped --timeout 60")]
    Wait {
        /// Its name, or its number
        name: String,
        /// What to wait for
        #[arg(long, value_enum, default_value = "stopped")]
        until: Until,
    },
    /// Show how a partition came to be as it is, and what the monitor did to it
    Why {
        /// Its name, also of one that is gone
        name: String,
    },
    /// Apply the inverse of a transaction
    #[command(after_help = "The number is that of `uvtool log`.\n\nExample:\n  uvtool undo 17")]
    Undo {
        /// Number of its record in the log
        record: u64,
        /// Why, for the audit log
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
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
    /// Show its console until it stops; status 0: it powered off, 3: it crashed
    #[arg(long)]
    pub console: bool,
}

/// Options of `uvtool set`.
#[derive(Args, Debug)]
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
