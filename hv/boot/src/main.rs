//! The boot partition: holds the images of the system partitions and builds partitions.
//!
//! It starts with nothing but its start block, and keeps no state that outlives it: whatever an
//! earlier run left half done, the ultravisor rolled back. What it does to the database goes
//! through transactions on its command channel; the memory of a partition it can write only
//! while the database says *building*.
//!
//! ```text
//! at the start:  modules, options -> create, assign memory -> Plan -> fill pages -> start
//! then, guests:  build channel -> headers, notes -> Plan -> fill pages, piece by piece
//! ```
//!
//! A failure at the start ends in one line that names the thing and what to do, and a crash of this
//! partition, which stops a host that has no command partition. A build of a guest that fails ends
//! in a refusal to who asked for it.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code))]

extern crate alloc;

mod command;
mod failure;
mod guest;
mod link;
mod options;
mod ramdisk;
mod serve;
mod sizing;

use failure::Failure;
use link::Link;
use partition_runtime::building::Foreign;
use partition_runtime::hypercall::{Shutdown, shutdown};
use partition_runtime::window::Window;
use partition_runtime::{StartBlock, entry, log};
use serve::Server;

/// Window pages to write partitions through.
const PAGES: usize = 512;

entry!(run);

fn run(start: &'static StartBlock) -> ! {
    match provide(start) {
        Ok((mut link, mut foreign)) => serve(&mut link, &mut foreign),
        Err(failure) => {
            log!("cannot start the command partition: {failure}");
            shutdown(Shutdown::Crash)
        }
    }
}

fn provide(start: &'static StartBlock) -> Result<(Link, Foreign), Failure> {
    let no_window = Failure::Answer("taking the mapping window");
    let mut link = Link::open(start)?;
    let window = Window::take().as_mut().and_then(|window| Foreign::new(window, PAGES));
    let mut foreign = window.ok_or(no_window)?;
    command::provide(&mut link, &mut foreign)?;
    Ok((link, foreign))
}

/// Builds guests for ever. Events that come while a request is handled are not missed: the ring is
/// looked at again before this waits.
fn serve(link: &mut Link, foreign: &mut Foreign) -> ! {
    let mut server = Server::open(link);
    if let Err(failure) = &server {
        log!("guests cannot be built: {failure}");
    }
    loop {
        if let Ok(server) = &mut server {
            server.serve(link, foreign);
        }
        link.wait();
    }
}
