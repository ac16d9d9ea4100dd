//! `sched_op`: yield, block, poll, shutdown (`sched.h`).

use super::domid::DomId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Let others run.
pub const YIELD: u64 = 0;
/// Unmask upcalls and wait until an event is pending.
pub const BLOCK: u64 = 1;
/// Stop the domain: [`Shutdown`]. Of a suspend, rdx is the frame of the start info page.
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
/// Powered off.
pub const REASON_POWEROFF: u32 = 0;
/// Wants to start again.
pub const REASON_REBOOT: u32 = 1;
/// Wants to be saved.
pub const REASON_SUSPEND: u32 = 2;
/// Crashed.
pub const REASON_CRASH: u32 = 3;
/// Its watchdog expired.
pub const REASON_WATCHDOG: u32 = 4;
/// Wants to start again in place.
pub const REASON_SOFT_RESET: u32 = 5;

/// Argument of [`POLL`] (`sched_poll`); 24 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Poll {
    /// Guest address of an array of ports (u32).
    pub ports: u64,
    /// How many.
    pub nr_ports: u32,
    /// Padding.
    pub pad: u32,
    /// Absolute system time in nanoseconds to give up at; 0: never.
    pub timeout: u64,
}
/// Ports of a poll at most.
pub const MAX_POLL_PORTS: u32 = 128;

/// Argument of [`WATCHDOG`] (`sched_watchdog`); 8 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Watchdog {
    /// Which; 0: a new one.
    pub id: u32,
    /// Seconds; 0: remove it.
    pub timeout: u32,
}

/// Argument of [`REMOTE_SHUTDOWN`] (`sched_remote_shutdown`); 8 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RemoteShutdown {
    /// Whom.
    pub domain_id: DomId,
    /// Padding.
    pub pad: u16,
    /// Why.
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
