//! Why a partition was not built, as one line that names the object and the remedy.

use crate::options::OptionError;
use crate::ramdisk::RamdiskError;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use builder::{ImageError, KernelError, PlanError, SystemError};
use channel::ends::ChannelError;
use control::command::Refusal;
use core::fmt;
use partition_runtime::hypercall::Errno;

/// The way out of a failed build, unless a better one is known.
const ANEW: &str = "destroy it and create it anew";

/// Why the command partition, or a guest, was not built.
#[derive(Debug)]
pub enum Failure {
    /// There is no module with this name.
    NoModule(&'static str),
    /// The module `command-kernel` is not a kernel image.
    KernelImage(ImageError),
    /// The kernel cannot be laid out.
    Plan(PlanError),
    /// The module `io` is not an image of a Rust partition.
    System(SystemError),
    /// No memory of this many MiB is free in one piece.
    Apart(u64),
    /// The module `command-initrd` is not a RAM disk.
    Ramdisk(RamdiskError),
    /// The options of the module `boot` are wrong.
    Option(OptionError),
    /// There is too little memory: MiB needed and MiB free.
    Memory(u64, u64),
    /// The command channel failed: it has no pages, or for the inner reason.
    Channel(Option<ChannelError>),
    /// The ultravisor refused a request: which, and why.
    Refused(&'static str, Box<Refusal>),
    /// The ultravisor's answer to this request has the wrong type.
    Answer(&'static str),
    /// A partition's memory is in more ranges than this limit.
    Scattered(usize),
    /// The monitor refused a call.
    Monitor(&'static str, Errno),
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self::Plan(error.into())
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        Self::Plan(error)
    }
}

impl Failure {
    /// The reason why a guest was not built, and the way out. The reason names no module, because a
    /// guest's kernel does not come from a module.
    pub fn of_guest(&self) -> (String, &'static str) {
        match self {
            Self::Plan(error) => {
                let reason = fmt::from_fn(|f| error.reason(f)).to_string();
                (reason, error.way_out().unwrap_or(ANEW))
            }
            Self::Scattered(most) => (scattered(*most), ANEW),
            other => (other.to_string(), ANEW),
        }
    }
}

fn scattered(most: usize) -> String {
    format!("its memory is in more than {most} ranges")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoModule(name) => write!(
                f,
                "module {name} is missing; add a line `module2 FILE {name}` to GRUB's entry"
            ),
            Self::KernelImage(error) => write!(f, "module command-kernel: {error}"),
            Self::Plan(error) => write!(f, "module command-kernel: {error}"),
            Self::System(error) => write!(f, "module io: {error}"),
            Self::Apart(mib) => {
                write!(f, "no {mib} MiB are free in one piece; give the machine more memory")
            }
            Self::Ramdisk(error) => write!(f, "module command-initrd: {error}"),
            Self::Option(error) => write!(f, "options of module boot: {error}"),
            Self::Memory(wanted, free) => write!(
                f,
                "too little memory: {wanted} MiB wanted, {free} MiB free; give the machine more, \
                 or set command_memory"
            ),
            Self::Channel(None) => f.write_str("the start block has no command channel"),
            Self::Channel(Some(error)) => write!(f, "command channel: {error}"),
            Self::Refused(what, why) => write!(
                f,
                "{what} refused: {}: {}: {}; {}",
                why.object, why.field, why.reason, why.way_out
            ),
            Self::Answer(what) => write!(f, "{what}: the ultravisor's answer makes no sense"),
            Self::Scattered(most) => write!(f, "{}; {ANEW}", scattered(*most)),
            Self::Monitor(what, errno) => write!(f, "{what}: the monitor refused: {errno}"),
        }
    }
}

impl core::error::Error for Failure {}
