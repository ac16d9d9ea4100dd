//! The boot partition: holds the images of the system partitions and builds partitions.
//!
//! It starts with nothing but its start block, and keeps no state that outlives it: whatever an
//! earlier run left half done, the ultravisor rolled back. What it does to the database goes
//! through transactions on its command channel; the memory of a partition it can write only
//! while the database says *building*.
//!
//! ```text
//! modules, options -> Wishes -> create, assign memory -> Plan -> fill pages -> start
//! ```
//!
//! A failure ends in one line that names the thing and what to do, and a crash of this partition,
//! which stops a host that has no command partition.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code))]

extern crate alloc;

mod command;
mod failure;
mod link;
mod options;
mod ramdisk;
mod sizing;

use partition_runtime::hypercall::{Shutdown, shutdown};
use partition_runtime::{StartBlock, entry, log};

entry!(run);

fn run(start: &'static StartBlock) -> ! {
    match command::provide(start) {
        Ok(mut link) => loop {
            link.wait();
        },
        Err(failure) => {
            log!("cannot start the command partition: {failure}");
            shutdown(Shutdown::Crash)
        }
    }
}
