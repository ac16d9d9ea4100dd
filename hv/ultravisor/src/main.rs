//! The ultravisor partition: holds the resource database, executes transactions, serves stores
//! and consoles.
//!
//! ```text
//! events -> host: which port?
//!     command channel -> transaction engine -> lead monitor (activate, start, stop, destroy)
//!     store ring      -> store -> devices (the backend's half of a negotiation)
//!     console ring    <-> serial line
//!     the monitor's events -> descriptor and log
//! ```
//!
//! The decisions are in pure crates: `resource-db`, `transaction`, `store`. This crate connects
//! them to rings, ports and the monitor.
//!
//! Rule: there is one event loop, without locks, and nothing in it blocks. The work and memory that
//! a guest can cause here are bounded, in bytes (`store::ledger`, `host`) and in time ([`budget`]).
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod command;
mod console;
mod devices;
mod disks;
mod genesis;
mod homes;
mod host;
mod inject;
mod io;
mod issues;
mod lead;
mod machine;
mod pipe;
mod services;
mod stores;
mod watch;

use partition_runtime::hypercall::{Shutdown, shutdown};
use partition_runtime::{StartBlock, entry, log};

entry!(run);

fn run(start: &'static StartBlock) -> ! {
    match genesis::host(start) {
        Ok(mut host) => host.serve(),
        Err(reason) => {
            log!("cannot start: {reason}");
            shutdown(Shutdown::Crash)
        }
    }
}
