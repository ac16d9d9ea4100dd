//! A block front end that checks every answer of its disk, and a hostile one.
//!
//! `disk SEED COUNT` makes this many random requests, `disk SEED 20s` makes requests for 20 seconds.
//! `disk-hostile SEED COUNT` attacks its back end this often, and checks after each attack that the
//! disk can be used. Options: `rings=N` (1), `depth=N` (32), `device=N` (the first), `flushes=1`
//! (prints what each answered flush covers).
//! `disk-bench COUNT` makes each load of `block_front::LOADS` between two marks. Options: `at=SECONDS`
//! and `gap=SECONDS` for the begins of the loads in system time, `persistent=1`.
//!
//! Rule: the checks are in the crate `block-front`, which has tests; this module has only the
//! pages, the store and the events.

mod attack;
mod bench;
mod connection;
mod machine;
mod store;

use crate::{calls, memory, println};
use alloc::format;
use alloc::string::String;
use block_front::{Counts, Flushed, Front, Goal, Model, PATIENCE, Step, WINDOW};
use connection::Connection;
use machine::Ground;
use partition_runtime::hypercall::Shutdown;
use partition_runtime::time;

const SECOND: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;

/// The options on the command line.
struct Options {
    seed: u64,
    /// Number of requests or attacks; seconds if there is an `s`.
    count: u64,
    is_time: bool,
    rings: usize,
    depth: u32,
    device: Option<u32>,
    flushes: u32,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self {
            seed: 1,
            count: 1000,
            is_time: false,
            rings: 1,
            depth: 32,
            device: None,
            flushes: 0,
        };
        let mut place = 0;
        for word in words {
            let bad = |_| format!("`{word}` is not a number");
            match word.split_once('=') {
                Some(("rings", number)) => options.rings = number.parse().map_err(bad)?,
                Some(("depth", number)) => options.depth = number.parse().map_err(bad)?,
                Some(("device", number)) => options.device = Some(number.parse().map_err(bad)?),
                Some(("flushes", number)) => options.flushes = number.parse().map_err(bad)?,
                Some(_) => {
                    return Err(format!(
                        "`{word}` is not an option; there are rings=, depth=, device=, flushes="
                    ));
                }
                None if place == 0 => options.seed = word.parse().map_err(bad)?,
                None => {
                    options.is_time = word.ends_with('s');
                    options.count = word.trim_end_matches('s').parse().map_err(bad)?;
                }
            }
            place += usize::from(!word.contains('='));
        }
        Ok(options)
    }
}

/// Runs the checking front end.
pub fn check(words: &[&str]) -> Shutdown {
    end("disk", Options::parse(words).and_then(|options| run(&options)))
}

/// Runs the front end of a benchmark.
pub fn measure(words: &[&str]) -> Shutdown {
    end("disk-bench", bench::run(words))
}

/// Runs the hostile front end.
pub fn be_hostile(words: &[&str]) -> Shutdown {
    end("disk-hostile", Options::parse(words).and_then(|options| attack::run(&options)))
}

fn end(name: &str, result: Result<String, String>) -> Shutdown {
    match result {
        Ok(text) => {
            println!("{name}: {text}");
            Shutdown::PowerOff
        }
        Err(text) => {
            println!("{name}: FAILED {text}");
            Shutdown::Crash
        }
    }
}

fn run(options: &Options) -> Result<String, String> {
    bind_timer();
    let mut connection = Connection::find(options.device)?;
    let mut ground = Ground::make(connection.partner, options.rings);
    let (offer, rings) = connection.connect(&mut ground, options.rings)?;
    println!("disk: connected, {} rings, {} sectors", rings.len(), offer.sectors);
    let goal = match options.is_time {
        true => Goal::Time(memory::now() + options.count * SECOND),
        false => Goal::Requests(options.count),
    };
    let model = Model::new(options.seed, offer.sectors, WINDOW);
    let how = (options.depth, goal);
    let pages = ground.data_pages();
    let mut front = Front::new(&ground, offer, model, options.seed, &rings, pages, how);
    drive(&mut front, &ground, &mut connection, (true, options.flushes != 0))?;
    let Counts { requests, reads, writes, flushes, longest_stall, .. } = *front.counts();
    connection.close(&ground)?;
    if rings.iter().any(|ring| front.has_more_answers(&ground, ring.number)) {
        return Err("a ring has an answer without a request".into());
    }
    let (whole, part) = (longest_stall / MILLISECOND, longest_stall % MILLISECOND / 1000);
    Ok(format!(
        "{requests} requests, {reads} reads, {writes} writes, {flushes} flushes, \
         longest stall {whole}.{part:03} ms, 0 errors"
    ))
}

/// Runs a front end to its end.
fn drive(
    front: &mut Front,
    ground: &Ground,
    connection: &mut Connection,
    (tell, tell_flushes): (bool, bool),
) -> Result<(), String> {
    let mut told = memory::now();
    loop {
        let step = front.step(ground).map_err(|fault| format!("{fault}"))?;
        for (ring, length) in front.take_stalls() {
            println!("disk: stall of {length} ns on ring {ring}");
        }
        for Flushed { covers, made } in front.take_flushes().into_iter().filter(|_| tell_flushes) {
            println!("disk: flush covers {covers} of {made}");
        }
        connection.must_be_connected()?;
        match step {
            Step::Again => {}
            Step::Done => return Ok(()),
            Step::Wait => wait_until(memory::now() + SECOND),
        }
        if tell && memory::now() > told + SECOND {
            told = memory::now();
            println!("disk: at {} requests", front.counts().requests);
        }
    }
}

fn bind_timer() {
    memory::unmask(calls::bind_timer().expect("the timer"));
}

/// Waits for an event, at most until a system time.
fn wait_until(end: u64) {
    time::set_timer(end).expect("setting the timer");
    memory::wait();
}

/// Waits until `look` returns a value.
fn wait_for<T>(
    what: &str,
    mut look: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let end = memory::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if memory::now() >= end {
            return Err(format!("{what} did not happen within {} s", PATIENCE / SECOND));
        }
        wait_until(memory::now() + 50 * MILLISECOND);
    }
}
