//! The monitor: the only code in ring 0.
//!
//! It switches between partitions and contains them, and decides nothing: what a partition has
//! and may do is what the resource database says, which the ultravisor partition writes and the
//! monitor only reads. See the book's architecture and soundness chapters.
//!
//! On a host target this crate is a stub, so that ordinary tools work on it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod area;
#[cfg(target_os = "none")]
mod bootstrap;
#[cfg(target_os = "none")]
mod bounce;
#[cfg(target_os = "none")]
mod context;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod cpuid;
#[cfg(target_os = "none")]
mod database;
#[cfg(target_os = "none")]
mod delivery;
#[cfg(target_os = "none")]
mod descriptors;
#[cfg(any(target_os = "none", test))]
mod elf;
#[cfg(target_os = "none")]
mod emulate;
#[cfg(target_os = "none")]
mod guest_memory;
#[cfg(target_os = "none")]
mod hardware;
#[cfg(target_os = "none")]
mod hypercall;
#[cfg(target_os = "none")]
mod lead_events;
#[cfg(target_os = "none")]
mod leave;
#[cfg(target_os = "none")]
mod lock;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod model_registers;
#[cfg(target_os = "none")]
mod page_fault;
#[cfg(target_os = "none")]
mod partition;
mod platform;
#[cfg(target_os = "none")]
mod relinquish;
#[cfg(target_os = "none")]
mod schedule;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod syscall;
#[cfg(target_os = "none")]
mod time;
#[cfg(target_os = "none")]
mod trap;
#[cfg(target_os = "none")]
mod vcpu;
#[cfg(target_os = "none")]
mod walk;

#[cfg(target_os = "none")]
pub use start::{start, start_secondary};

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the monitor runs in ring 0: `cargo xtask run` boots it");
    std::process::exit(2);
}
