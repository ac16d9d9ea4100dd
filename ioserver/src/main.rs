//! The I/O partition: drives functions of the machine and serves disks to clients.
//!
//! ```text
//! I/O channel: orders of the ultravisor -> drivers, rings of clients
//!              <- reports
//! ```
//!
//! The boot partition keeps two of them running from one image, which serve together and one instead
//! of the other. An I/O partition decides nothing that outlives it: the ultravisor orders which
//! functions it drives and whom it serves, and repeats that after a new start.
//!
//! Rule: orders come from the ultravisor and are trusted to be consistent; answers of devices and
//! rings of clients are not trusted. What they send ends in an error of that device or that client.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code))]

extern crate alloc;

mod clients;
mod deaths;
mod dma;
mod function;
mod held;
mod link;
mod machine;
mod options;
mod server;

use partition_runtime::hypercall::{Shutdown, shutdown};
use partition_runtime::{StartBlock, entry, log};
use pv_abi::uv::database::IO_PARTITIONS;
use server::Server;

entry!(run);

fn run(start: &'static StartBlock) -> ! {
    let own = IO_PARTITIONS.iter().find(|(number, _)| *number == start.number);
    log::set_name(own.map_or("io", |(_, name)| name));
    // A partition that was built again has the same options.
    let options = options::read();
    if let Some(death) = options.death(start.number, start.restarts) {
        deaths::prepare(death);
    }
    match Server::new(start) {
        Ok(_) if options.dies_at_once(start.number, start.restarts) => {
            log!("injected: it dies");
            shutdown(Shutdown::Crash)
        }
        Ok(mut server) => server.serve(),
        Err(error) => {
            log!(
                "the I/O channel: {error}; install the module io of this version, and start the host again"
            );
            shutdown(Shutdown::Crash)
        }
    }
}
