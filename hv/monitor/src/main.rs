//! The monitor: the only code in ring 0.
//!
//! The monitor switches between partitions and isolates them, and makes no policy. The resource
//! database has the resources and rights of each partition; the ultravisor partition writes the
//! database, and the monitor only reads it. See the book's architecture and soundness chapters.
//!
//! On a host target this crate is a stub, so that ordinary tools work on it.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

mod building;
mod ending;
mod platform;
mod reach;
mod recovery;

#[cfg(target_os = "none")]
use ring0::*;

/// The modules that exist on bare hardware only.
#[cfg(target_os = "none")]
#[path = ""]
mod ring0 {
    pub mod area;
    pub mod bounce;
    pub mod context;
    pub mod cpu;
    pub mod cpuid;
    pub mod create;
    pub mod database;
    pub mod debug_registers;
    pub mod delivery;
    pub mod descriptors;
    pub mod device;
    pub mod emulate;
    pub mod entry;
    pub mod failure;
    pub mod guest_memory;
    pub mod hardware;
    pub mod hypercall;
    pub mod lead_events;
    pub mod leave;
    pub mod lock;
    pub mod machine;
    pub mod model_registers;
    pub mod page_fault;
    pub mod partition;
    pub mod relinquish;
    pub mod roots;
    pub mod schedule;
    pub mod start;
    pub mod stay;
    pub mod syscall;
    pub mod time;
    pub mod trap;
    pub mod vcpu;
    pub mod view;
    pub mod walk;
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the monitor runs in ring 0: `cargo xtask run` boots it");
    std::process::exit(2);
}
