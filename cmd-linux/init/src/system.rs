//! The few system calls that need `unsafe`: those that a child makes before its program runs, and
//! those for the loopback interface.
//!
//! Rule: between fork and exec only async-signal-safe system calls are made, and nothing is
//! allocated.
#![expect(unsafe_code, reason = "ioctl, and code between fork and exec")]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use linux_raw_sys::ioctl::{SIOCGIFFLAGS, SIOCSIFFLAGS, TIOCSCTTY};
use linux_raw_sys::net::{ifreq, net_device_flags};
use nix::sys::signal::SigSet;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

nix::ioctl_write_int_bad!(set_controlling_terminal, TIOCSCTTY as nix::libc::Ioctl);
nix::ioctl_readwrite_bad!(interface_flags, SIOCGIFFLAGS as nix::libc::Ioctl, ifreq);
nix::ioctl_readwrite_bad!(set_interface_flags, SIOCSIFFLAGS as nix::libc::Ioctl, ifreq);

/// Makes the command run in a session of its own, with its own process group, without our terminal,
/// and with no signal blocked. Otherwise it would inherit the blocked signals that we take through
/// a descriptor.
pub fn in_own_session(command: &mut Command) {
    // SAFETY: both calls are async-signal-safe; the empty set lies on the stack.
    unsafe {
        command.pre_exec(|| {
            SigSet::empty().thread_set_mask()?;
            nix::unistd::setsid()?;
            Ok(())
        });
    }
}

/// Makes the command run in a session of its own; its standard input, which must be a terminal,
/// becomes the controlling terminal.
pub fn with_terminal(command: &mut Command) {
    in_own_session(command);
    // SAFETY: the ioctl is async-signal-safe; it takes an integer and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            set_controlling_terminal(io::stdin().as_raw_fd(), 1)?;
            Ok(())
        });
    }
}

/// Brings the loopback interface up.
pub fn loopback_up() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all zeros is a valid value of it. all zeros is a value of it.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the name is the only member of its union.
    let name = unsafe { &mut request.ifr_ifrn.ifrn_name };
    for (to, from) in name.iter_mut().zip(b"lo") {
        *to = *from as _;
    }
    // SAFETY: request is a whole ifreq; the kernel reads the name and writes the flags.
    unsafe {
        interface_flags(socket.as_raw_fd(), &mut request)?;
        request.ifr_ifru.ifru_flags |= net_device_flags::IFF_UP as i16;
        set_interface_flags(socket.as_raw_fd(), &mut request)?;
    }
    Ok(())
}

/// Reads the time-stamp counter.
#[must_use]
pub fn time_stamp() -> u64 {
    // SAFETY: every x86-64 processor has the counter, and reading it has no effect.
    unsafe { core::arch::x86_64::_rdtsc() }
}
