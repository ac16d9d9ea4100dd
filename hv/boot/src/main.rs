//! The boot partition: holds the images of the system partitions and builds partitions.
//!
//! The partition starts with only its start block, and keeps no state beyond its own life: the
//! ultravisor has rolled back the unfinished work of an earlier run. It changes the database only
//! through transactions on its command channel. It can write the memory of another partition only
//! while the database says *building*.
//!
//! ```text
//! at the start:  modules, options -> create, assign memory -> Plan -> fill pages -> start
//!                the same for the I/O partitions, if the machine has functions for them
//! then, guests:  build channel -> headers, notes -> Plan -> fill pages, piece by piece
//! an I/O partition has ended -> the same with the next free number
//! ```
//!
//! A failure at the start ends in one line that names the object and the remedy, and in a crash of
//! this partition. That stops a host that has no command partition. A failed build of a guest ends
//! in a refusal to the client.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code))]

extern crate alloc;

mod command;
mod failure;
mod guest;
mod io;
mod link;
mod lives;
mod members;
mod options;
mod ramdisk;
mod serve;
mod sizing;
mod state_disk;

use failure::Failure;
use io::IoPartitions;
use link::Link;
use partition_runtime::building::Foreign;
use partition_runtime::hypercall::{Shutdown, shutdown};
use partition_runtime::window::Window;
use partition_runtime::{StartBlock, entry, log};
use serve::Server;

/// Window pages through which partitions are written.
const PAGES: usize = 512;

entry!(start_and_serve);

fn start_and_serve(start: &'static StartBlock) -> ! {
    match provide(start) {
        Ok((mut link, mut foreign, mut io)) => serve(&mut link, &mut foreign, &mut io),
        Err(failure) => {
            log!("cannot start the command partition: {failure}");
            shutdown(Shutdown::Crash)
        }
    }
}

fn provide(start: &'static StartBlock) -> Result<(Link, Foreign, IoPartitions), Failure> {
    let no_window = Failure::Answer("taking the mapping window");
    let mut link = Link::open(start)?;
    let window = Window::take().as_mut().and_then(|window| Foreign::new(window, PAGES));
    let mut foreign = window.ok_or(no_window)?;
    command::provide(&mut link, &mut foreign)?;
    let io = io::provide(&mut link, &mut foreign);
    if let Some(disk) = command::options()?.state {
        state_disk::attach(&mut link, disk);
    }
    Ok((link, foreign, io))
}

/// Builds guests, and I/O partitions anew, for ever. No event that comes during a request is
/// missed: the ring is checked again before this waits.
fn serve(link: &mut Link, foreign: &mut Foreign, io: &mut IoPartitions) -> ! {
    let mut server = Server::open(link);
    if let Err(failure) = &server {
        log!("guests cannot be built: {failure}");
    }
    loop {
        if let Ok(server) = &mut server {
            server.serve(link, foreign);
        }
        io.keep(link, foreign);
        link.wait();
    }
}
