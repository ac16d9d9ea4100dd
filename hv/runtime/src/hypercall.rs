//! Calls into the monitor: one instruction, and the meaning of negative results.
//!
//! The number is in rax, and up to five arguments in rdi, rsi, rdx, r10, r8; the result is in rax;
//! rcx and r11 are destroyed. The other modules have typed wrappers, which use this one.
#![expect(unsafe_code, reason = "the hypercall instruction")]

use core::fmt;
use pv_abi::xen::{hypercall as number, sched};

/// A negative result of the monitor: an errno of the Xen ABI (public `errno.h`), stored as a
/// positive number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Not permitted: the partition's rights do not cover the operation.
    pub const EPERM: Self = Self(1);
    /// There is no such thing.
    pub const ENOENT: Self = Self(2);
    /// The work is not finished: call again.
    pub const EAGAIN: Self = Self(11);
    /// Out of space.
    pub const ENOMEM: Self = Self(12);
    /// A bad address.
    pub const EFAULT: Self = Self(14);
    /// In use.
    pub const EBUSY: Self = Self(16);
    /// The device does not exist or does not have the operation; or a function owes a reset to the
    /// partition that is destroyed.
    pub const ENODEV: Self = Self(19);
    /// A bad argument.
    pub const EINVAL: Self = Self(22);
    /// There is no such operation.
    pub const ENOSYS: Self = Self(38);

    /// The errno's name, if it is one of those above.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::EPERM => "EPERM",
            Self::ENOENT => "ENOENT",
            Self::EAGAIN => "EAGAIN",
            Self::ENOMEM => "ENOMEM",
            Self::EFAULT => "EFAULT",
            Self::EBUSY => "EBUSY",
            Self::ENODEV => "ENODEV",
            Self::EINVAL => "EINVAL",
            Self::ENOSYS => "ENOSYS",
            _ => return None,
        })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl core::error::Error for Errno {}

/// Calls the monitor. A result that is not negative is a value; a negative one is an [`Errno`].
///
/// # Errors
/// The errno of the operation.
///
/// # Safety
/// The operation `number` with these arguments may read, write, map or unmap only memory of this
/// partition that the caller may access that way, and addresses must stay valid for the call.
pub unsafe fn call(number: u64, arguments: [u64; 5]) -> Result<u64, Errno> {
    // SAFETY: the caller's promise.
    let answer = unsafe { raw(number, arguments) };
    u64::try_from(answer).map_err(|_| Errno(i32::try_from(-answer).unwrap_or(i32::MAX)))
}

/// Executes the instruction.
#[cfg(target_os = "none")]
unsafe fn raw(number: u64, arguments: [u64; 5]) -> i64 {
    let [first, second, third, fourth, fifth] = arguments;
    let answer: i64;
    // SAFETY: the caller's promise covers memory; the registers that the ABI lets the monitor
    // change are declared.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") number => answer,
            inlateout("rdi") first => _,
            inlateout("rsi") second => _,
            inlateout("rdx") third => _,
            inlateout("r10") fourth => _,
            inlateout("r8") fifth => _,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

/// On a host there is no monitor.
#[cfg(not(target_os = "none"))]
unsafe fn raw(_number: u64, _arguments: [u64; 5]) -> i64 {
    -i64::from(Errno::ENOSYS.0)
}

/// Why a partition stops (public `sched.h`, `SHUTDOWN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// The work of the partition is done.
    PowerOff,
    /// The partition asks to be started again.
    Reboot,
    /// The partition cannot continue.
    Crash,
}

/// Stops this partition.
pub fn shutdown(reason: Shutdown) -> ! {
    let reason = match reason {
        Shutdown::PowerOff => sched::REASON_POWEROFF,
        Shutdown::Reboot => sched::REASON_REBOOT,
        Shutdown::Crash => sched::REASON_CRASH,
    };
    let argument = sched::Shutdown { reason };
    let argument = (&raw const argument) as u64;
    // SAFETY: the operation reads the argument and does not return.
    let _ = unsafe { call(number::SCHED_OP, [sched::SHUTDOWN, argument, 0, 0, 0]) };
    stopped(reason)
}

/// If the monitor refuses to stop the partition, the partition does nothing for ever.
#[cfg(target_os = "none")]
fn stopped(_reason: u32) -> ! {
    loop {
        yield_now();
    }
}

/// On a host there is nothing to stop.
#[cfg(not(target_os = "none"))]
fn stopped(reason: u32) -> ! {
    panic!("shut down: reason {reason}");
}

/// Lets other virtual CPUs run.
pub fn yield_now() {
    // SAFETY: the operation touches no memory.
    let _ = unsafe { call(number::SCHED_OP, [sched::YIELD, 0, 0, 0, 0]) };
}
