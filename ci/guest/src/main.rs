//! A guest of a few pages: an ordinary kernel of the Xen x86-64 PV ABI, to test partitions with.
//!
//! The guest gets what any PV kernel gets (start info, a console ring, page tables, a table of
//! machine frames) and runs the program that its command line names; see [`command`]. It uses only
//! the ABI of stock kernels and none of the ultravisor's own calls, so its results hold for guests
//! in general. It runs in 4 MiB.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code))]

extern crate alloc;

mod calls;
mod command;
mod console;
#[cfg(target_os = "none")]
mod disk;
#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod flood;
#[cfg(target_os = "none")]
mod fuzz;
mod grants;
#[cfg(target_os = "none")]
mod instructions;
mod memory;
mod programs;
mod timers;
mod view;

#[cfg(not(target_os = "none"))]
fn main() {
    panic!("this program is a kernel: build it for x86_64-unknown-none");
}
