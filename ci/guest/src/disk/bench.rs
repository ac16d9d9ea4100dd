//! The front end of a benchmark: each load of [`block_front::LOADS`] between two marks.

use super::connection::Connection;
use super::machine::Ground;
use super::{SECOND, bind_timer, wait_until};
use crate::{calls, memory, println};
use alloc::format;
use alloc::string::String;
use block_front::{LOADS, Lean, Machine, Rubbish, SLOTS};
use core::sync::atomic::Ordering;

/// What the command line asks for.
struct Options {
    /// Operations of one page in a load.
    count: u64,
    /// System time in seconds at which the first load begins; the next ones follow after `gap` seconds
    /// each. Guests with the same times work at the same time. If it is 0, a pause of `gap` seconds is
    /// before each load.
    begin: u64,
    gap: u64,
    /// Whether the back end may keep the pages mapped.
    persistent: bool,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self { count: 100, begin: 0, gap: 0, persistent: false };
        for word in words {
            let (name, value) = word.split_once('=').unwrap_or(("count", word));
            let value = value.parse().map_err(|_| format!("`{word}` has no number"))?;
            match name {
                "count" => options.count = value,
                "at" => options.begin = value,
                "gap" => options.gap = value,
                "persistent" => options.persistent = value != 0,
                _ => return Err(format!("`{word}` is no option: at=, gap=, persistent=")),
            }
        }
        Ok(options)
    }
}

/// Makes all loads; returns the last line to print.
pub fn run(words: &[&str]) -> Result<String, String> {
    let options = Options::parse(words)?;
    bind_timer();
    let mut connection = Connection::find(None)?;
    let mut ground = Ground::make(connection.partner, 1);
    let persistent = Rubbish { node: "feature-persistent", value: "1".into() };
    let node = options.persistent.then_some(&persistent);
    let (offer, rings) = connection.connect_with(&mut ground, 1, node)?;
    let [ring] = rings[..] else { return Err("there is no ring".into()) };
    let port = *ground.ports.first().ok_or("there is no port")?;
    println!("disk-bench: connected, {} sectors", offer.sectors);
    let mut lean = Lean::new(&ground, ring, offer.sectors, ground.data_pages());
    let wait = || wait_for(port);
    for (number, load) in (0..).zip(&LOADS) {
        lean.prepare(&ground, load);
        let told = |fault| format!("{load:?}: {fault}");
        // What happens once is over before the first mark.
        lean.run(&ground, SLOTS.into(), wait).map_err(told)?;
        let begin = match options.begin {
            0 => ground.now() + options.gap * SECOND,
            begin => (begin + number * options.gap) * SECOND,
        };
        if options.begin != 0 && ground.now() > begin {
            return Err(format!("{load:?} begins too late, at {} ns", ground.now()));
        }
        while ground.now() < begin {
            wait_until(begin);
        }
        marks::pass::<{ marks::BEGIN }>();
        let made = lean.run(&ground, load.operations(options.count), wait);
        marks::pass::<{ marks::END }>();
        made.map_err(told)?;
    }
    connection.close(&ground)?;
    Ok(format!("{} loads of {} operations, 0 errors", LOADS.len(), options.count))
}

/// Waits for the event of a port, with fewer instructions than [`memory::wait`].
fn wait_for(port: u32) {
    memory::upcall_mask().store(1, Ordering::Release);
    while memory::upcall_pending().swap(0, Ordering::AcqRel) == 0 {
        calls::block();
    }
    memory::selector().swap(0, Ordering::AcqRel);
    if let Some(word) = memory::pending().get(port as usize / 64) {
        word.fetch_and(!(1 << (port % 64)), Ordering::AcqRel);
    }
}
