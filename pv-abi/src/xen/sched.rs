//! `sched_op`: yield, block, poll, shutdown (`sched.h`).

use super::domid::DomId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Let other virtual CPUs run.
pub const YIELD: u64 = 0;
/// Unmask upcalls and wait until an event is pending.
pub const BLOCK: u64 = 1;
/// Stop the domain: [`Shutdown`]. For a suspend, rdx is the frame of the start info page.
pub const SHUTDOWN: u64 = 2;
/// Wait until a port is pending, masked or not: [`Poll`].
pub const POLL: u64 = 3;
/// Stop another domain; not offered.
pub const REMOTE_SHUTDOWN: u64 = 4;
/// Set the reason without stopping: [`Shutdown`].
pub const SHUTDOWN_CODE: u64 = 5;
/// Set a watchdog: [`Watchdog`].
pub const WATCHDOG: u64 = 6;
/// Pin a virtual CPU for a while; not offered.
pub const PIN_OVERRIDE: u64 = 7;

/// Argument of [`SHUTDOWN`] (`sched_shutdown`); 4 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Shutdown {
    /// One of the `REASON_` constants.
    pub reason: u32,
}
/// The domain powered off.
pub const REASON_POWEROFF: u32 = 0;
/// The domain wants to reboot.
pub const REASON_REBOOT: u32 = 1;
/// The domain wants to be saved.
pub const REASON_SUSPEND: u32 = 2;
/// The domain crashed.
pub const REASON_CRASH: u32 = 3;
/// The domain's watchdog expired.
pub const REASON_WATCHDOG: u32 = 4;
/// The domain wants to restart in place.
pub const REASON_SOFT_RESET: u32 = 5;

/// Argument of [`POLL`] (`sched_poll`); 24 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Poll {
    /// Guest address of an array of ports (u32).
    pub ports: u64,
    /// Number of ports.
    pub nr_ports: u32,
    /// Padding.
    pub pad: u32,
    /// Absolute system time, in nanoseconds, of the timeout; 0 for none.
    pub timeout: u64,
}
/// Maximum number of ports of a poll.
pub const MAX_POLL_PORTS: u32 = 128;

/// Argument of [`WATCHDOG`] (`sched_watchdog`); 8 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Watchdog {
    /// The watchdog; 0 for a new one.
    pub id: u32,
    /// Seconds; 0 removes the watchdog.
    pub timeout: u32,
}

/// Argument of [`REMOTE_SHUTDOWN`] (`sched_remote_shutdown`); 8 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RemoteShutdown {
    /// The domain to stop.
    pub domain_id: DomId,
    /// Padding.
    pub pad: u16,
    /// The reason.
    pub reason: u32,
}

const _: () = {
    assert!(size_of::<Shutdown>() == 4);
    assert_offsets!(Shutdown { reason: 0 });
    assert!(size_of::<Poll>() == 24);
    assert!(core::mem::offset_of!(Poll, timeout) == 16);
    assert!(size_of::<Watchdog>() == 8);
    assert_offsets!(Watchdog { id: 0, timeout: 4 });
    assert!(size_of::<RemoteShutdown>() == 8);
    assert_offsets!(RemoteShutdown { domain_id: 0, pad: 2, reason: 4 });
};
