//! Ends of I/O partitions under the front end that checks every answer: it must notice nothing but a
//! stall.
//!
//! All of it runs by name. `disk-deaths/STEP` ends the I/O partition that has the disk after a step, and
//! `disk-deaths/HOW-STEP` does so in another way than by a crash. `disk-deaths/random` ends each life
//! of each I/O partition; `DEATHS` in the environment says how many there are at least, `SEED` chooses
//! others, and `HOW` (crash, loop, wait, wild) lets all of them end in one way.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rig::options::BootOptions;

use crate::host::Host;
use crate::{Results, disks, number};

/// The steps of an I/O partition, and how often it has made each when it ends. Some it makes once for
/// all requests that it finds in a ring, up to 32: 2,000 requests may have no more than 60 of them.
const STEPS: [(&str, u32); 17] = [
    ("ordered", 1),
    ("driving", 1),
    ("mapped", 2),
    ("bound", 2),
    ("fetched", 90),
    ("taken", 20),
    ("pinned", 90),
    ("issued", 90),
    ("completed", 90),
    ("unpinned", 90),
    ("lines", 90),
    ("publishing", 20),
    ("slots", 90),
    ("published", 20),
    ("cleared", 20),
    ("answered", 20),
    ("notified", 2),
];
/// How it ends.
const WAYS: [&str; 4] = ["crash", "loop", "wait", "wild"];
/// Deaths of a random run that sets no other number.
const DEATHS: usize = 16;
/// Requests of each guest in a random run.
const REQUESTS: u32 = 2000;
/// The time limit of what follows a death, on a machine that is emulated.
const LIMIT: Duration = Duration::from_secs(120);
/// The mark in the host's log of a death that an option asked for.
const MARK: &str = "injected: it dies after the step ";

/// Runs the requested scenarios.
pub fn run_scenarios(results: &mut Results) {
    for (step, count) in STEPS {
        for how in WAYS {
            let name = match how {
                "crash" => format!("disk-deaths/{step}"),
                _ => format!("disk-deaths/{how}-{step}"),
            };
            let start = Instant::now();
            if results.asked_for(&name) {
                results.note(&name, start, dies(&format!("{step}:{count}:{how}")));
            }
        }
    }
    let start = Instant::now();
    if results.asked_for("disk-deaths/random") {
        results.note("disk-deaths/random", start, die_often());
    }
}

/// Boots a host on the machine with the disk.
fn boot(io_options: String) -> Result<Host> {
    Host::boot(&disks::machine(), &BootOptions { io_options, ..disks::options()? })
}

/// Ends the first I/O partition once.
fn dies(death: &str) -> Result<()> {
    let mut host = boot(format!("inject=die-at:4:{death}"))?;
    let seed = number("SEED", 1)?;
    let printed = disks::check(&mut host, seed, &format!("disk {seed} 2000 rings=2"))?;
    let seen = Seen::of(&mut host, &[printed])?;
    seen.print();
    ensure!(seen.deaths == 1, "{death}: the I/O partition did not end");
    host.power_off()
}

/// Ends I/O partitions, until enough of them have ended.
fn die_often() -> Result<()> {
    let (deaths, seed) = (number("DEATHS", DEATHS)?, number("SEED", 1)?);
    let how = std::env::var("HOW").map(|how| format!(":{how}")).unwrap_or_default();
    let mut host = boot(format!("inject=die-often:all:{seed}{how}"))?;
    let mut printed = Vec::new();
    let mut dead = 0;
    for guest in seed.. {
        let program = format!("disk {guest} {REQUESTS} rings=2");
        printed.push(disks::check(&mut host, guest, &program)?);
        let before = dead;
        dead = host.machine.console()?.matches(MARK).count();
        println!("       {dead} deaths so far");
        ensure!(dead > before, "no I/O partition ends any more");
        if dead >= deaths {
            break;
        }
    }
    Seen::of(&mut host, &printed)?.print();
    host.power_off()
}

/// What was seen of deaths, from outside and by the guests.
struct Seen {
    deaths: usize,
    /// Deaths by step and way.
    kinds: BTreeMap<String, usize>,
    /// Milliseconds until each phase of a takeover, by the name of the phase.
    phases: BTreeMap<String, Vec<f64>>,
    /// Milliseconds in which a ring of a guest got no answer; only long ones are told.
    stalls: Vec<f64>,
    requests: u64,
}

impl Seen {
    /// Waits until all that died is gone, and reads the host's log and what the guests printed.
    fn of(host: &mut Host, printed: &[String]) -> Result<Self> {
        let gone = " is gone: noticed after ";
        let is_over =
            |console: &str| console.matches(gone).count() >= console.matches(MARK).count();
        let is_over = host.machine.sees(LIMIT, is_over)?;
        ensure!(
            is_over,
            "an I/O partition that ended is not gone: {}",
            host.machine.console_tail()
        );
        let console = host.machine.console()?;
        let mut seen = Self {
            deaths: console.matches(MARK).count(),
            kinds: BTreeMap::new(),
            phases: BTreeMap::new(),
            stalls: Vec::new(),
            requests: 0,
        };
        for line in console.lines() {
            if let Some((_, kind)) = line.split_once(MARK) {
                *seen.kinds.entry(kind.trim().to_owned()).or_default() += 1;
            }
            if let Some((_, phases)) = line.split_once(" is gone: ") {
                seen.take_phases(phases);
            }
        }
        for line in printed.iter().flat_map(|all| all.lines()) {
            if let Some((_, stall)) = line.split_once("disk: stall of ") {
                let nanoseconds = stall.split(' ').next().unwrap_or_default();
                seen.stalls.push(nanoseconds.parse::<f64>().context("a stall")? / 1e6);
            }
            if let Some((requests, _)) = line.split_once(" requests, ") {
                let requests = requests.trim_start_matches("disk: ");
                seen.requests += requests.parse::<u64>().context("a number of requests")?;
            }
        }
        Ok(seen)
    }

    /// Reads the times of a takeover: `noticed after 26.123 ms, …, gone after 363.456 ms`.
    fn take_phases(&mut self, line: &str) {
        for part in line.split(", ") {
            let Some((name, time)) = part.split_once(" after ") else { continue };
            // The number of functions, and who got them, is no part of the name.
            let name = if name.contains(" to ") { "moved" } else { name };
            let time = time.trim().trim_end_matches(" ms").parse();
            if let Ok(time) = time {
                self.phases.entry(name.to_owned()).or_default().push(time);
            }
        }
    }

    fn print(&self) {
        for (kind, times) in &self.kinds {
            println!("       {times:4} deaths: {kind}");
        }
        for name in ["noticed", "fenced", "moved", "reset confirmed", "gone"] {
            print_times(name, self.phases.get(name).map_or(&[], Vec::as_slice));
        }
        print_times("stall", &self.stalls);
        println!("       {} deaths, {} requests, 0 errors", self.deaths, self.requests);
    }
}

/// Prints the median, the 99th percentile and the greatest of times in milliseconds.
fn print_times(name: &str, times: &[f64]) {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let at = |percent: usize| times.get(times.len().saturating_sub(1) * percent / 100);
    if let (Some(median), Some(most_of_all), Some(longest)) = (at(50), at(99), at(100)) {
        println!(
            "       {name:15} {:4} times, ms: median {median:.1}, p99 {most_of_all:.1}, \
             longest {longest:.1}",
            times.len()
        );
    }
}
