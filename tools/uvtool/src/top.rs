//! `uvtool top`: a live screen of the resources that partitions use.
//!
//! Rule: shares refer to the time between two samples, so the first sample shows none.

use std::collections::HashMap;
use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use control::command::{PartitionRow, ResourcesAnswer};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pv_abi::uv::database::{UNASSIGNED, kind};

use crate::source::{Error, Source};
use crate::table::{Align, Table};
use crate::terminal::Screen;
use crate::words::{Memory, Seconds, Word, bytes, memory, state_word};

/// Shows the screen every `delay`, `rounds` times (`None`: until the user presses a key that ends
/// it). On a terminal each screen replaces the one before; elsewhere the screens follow one
/// another. In JSON, each sample is one line. Returns false if the time `until` ended it.
pub fn top(
    source: &mut impl Source,
    delay: Duration,
    rounds: Option<u64>,
    json: bool,
    until: Option<Instant>,
) -> Result<bool, Error> {
    let screen = (!json && std::io::stdout().is_terminal()).then(Screen::take);
    let mut before: Option<Sample> = None;
    let mut round = 0;
    loop {
        let look = Sample::read(source)?;
        let text = match json {
            true => crate::answer::json_line(&look.shares(before.as_ref())),
            false => look.text(before.as_ref()),
        };
        match &screen {
            Some(screen) => screen.show(&text),
            None => {
                if crate::print(text.as_bytes()) != std::process::ExitCode::SUCCESS {
                    return Ok(true);
                }
            }
        }
        before = Some(look);
        round += 1;
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let pause_for = left.map_or(delay, |left| left.min(delay));
        if rounds.is_some_and(|rounds| round >= rounds) || pause(screen.as_ref(), pause_for)? {
            return Ok(true);
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            return Ok(false);
        }
    }
}

/// Waits for the next sample; true if a key ends the screen.
fn pause(screen: Option<&Screen>, delay: Duration) -> Result<bool, Error> {
    if !screen.is_some_and(Screen::has_keys) {
        std::thread::sleep(delay);
        return Ok(false);
    }
    let input = std::io::stdin();
    let until = Instant::now() + delay;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
        let mut key = [0];
        let read = std::io::stdin().lock().read(&mut key)?;
        // q, Ctrl-C, Ctrl-D, escape, or no keyboard any more.
        if read == 0 || matches!(key[0], b'q' | 3 | 4 | 27) {
            return Ok(true);
        }
    }
}

/// A sample of the machine's state.
struct Sample {
    at: Instant,
    rows: Vec<PartitionRow>,
    /// Nanoseconds that `uvd` spent on consoles, by number.
    consoles: HashMap<u32, u64>,
    machine: ResourcesAnswer,
}

impl Sample {
    fn read(source: &mut impl Source) -> Result<Self, Error> {
        let mut rows = source.partitions()?;
        rows.retain(|row| row.kind != kind::PSEUDO);
        let consoles = source.console_times().into_iter().collect();
        Ok(Self { at: Instant::now(), rows, consoles, machine: source.resources()? })
    }

    /// The row of the same partition in this sample. A number is used again, but not the version at
    /// which its partition was created, so both must agree.
    fn same(&self, row: &PartitionRow) -> Option<&PartitionRow> {
        let at = self.rows.binary_search_by_key(&row.number, |row| row.number).ok()?;
        self.rows.get(at).filter(|was| was.created_at == row.created_at)
    }

    /// Nanoseconds that `uvd` spent on the console of a partition.
    fn console_time(&self, row: &PartitionRow) -> u64 {
        self.consoles.get(&row.number).copied().unwrap_or(0)
    }

    /// Percent of one CPU that `uvd` spent on a partition's console since `before`.
    fn console_share(&self, before: Option<&Self>, row: &PartitionRow) -> f64 {
        let elapsed = before.map(|before| self.at.duration_since(before.at).as_nanos());
        let was = before.filter(|look| look.same(row).is_some());
        percent(self.console_time(row), was.map(|look| look.console_time(row)), elapsed)
    }

    /// The shares of all partitions, for programs.
    fn shares(&self, before: Option<&Self>) -> Shares {
        let elapsed = before.map(|before| self.at.duration_since(before.at).as_nanos());
        let partitions = self.rows.iter().map(|row| {
            let was = before.and_then(|look| look.same(row));
            Share {
                name: row.name.clone(),
                number: row.number,
                state: state_word(row.state),
                cpu_percent: percent(row.cpu_time, was.map(|was| was.cpu_time), elapsed),
                wait_percent: percent(row.wait_time, was.map(|was| was.wait_time), elapsed),
                service_percent: percent(
                    row.service_time,
                    was.map(|was| was.service_time),
                    elapsed,
                ),
                console_percent: self.console_share(before, row),
                cpu_time_ns: row.cpu_time,
                vcpus: row.vcpus,
                vcpus_up: row.vcpus_up,
                memory_bytes: bytes(row.memory_frames),
                cpu_weight: row.cpu_weight,
                cpu_cap_percent: (row.cpu_cap != 0).then_some(row.cpu_cap),
            }
        });
        Shares { partitions: partitions.collect() }
    }

    /// The screen: a line about the machine, then the partitions, busiest first.
    fn text(&self, before: Option<&Self>) -> String {
        let elapsed = before.map(|before| self.at.duration_since(before.at).as_nanos());
        let mut lines: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let was = before.and_then(|look| look.same(row));
                (percent(row.cpu_time, was.map(|was| was.cpu_time), elapsed), was, row)
            })
            .collect();
        lines.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.2.number.cmp(&b.2.number)));
        let mut table = Table::new(&HEADINGS);
        for (cpu, was, row) in lines {
            let wait = percent(row.wait_time, was.map(|was| was.wait_time), elapsed);
            let service = percent(row.service_time, was.map(|was| was.service_time), elapsed);
            table
                .cell(&row.name)
                .cell(row.number)
                .cell(state_word(row.state))
                .cell(format_args!("{cpu:.1}"))
                .cell(format_args!("{wait:.1}"))
                .cell(format_args!("{service:.1}"))
                .cell(format_args!("{:.1}", self.console_share(before, row)))
                .cell(Seconds(row.cpu_time))
                .cell(format_args!("{}/{}", row.vcpus_up, row.vcpus))
                .cell(Memory(row.memory_frames))
                .cell(row.cpu_weight);
            match row.cpu_cap {
                0 => table.cell("-"),
                cap => table.cell(cap),
            };
        }
        format!("{}\n{table}", self.machine_line(before, elapsed))
    }

    fn machine_line(&self, before: Option<&Self>, elapsed: Option<u128>) -> String {
        let busy = |look: &Self| look.machine.cpus.iter().map(|cpu| cpu.busy).sum::<u64>();
        let cpu = percent(busy(self), before.map(busy), elapsed);
        let online = self.machine.cpus.iter().filter(|cpu| cpu.online).count();
        let rows = self.machine.memory.iter().filter(|row| !row.io && row.owner == UNASSIGNED);
        let free: u64 = rows.map(|row| row.frames).sum();
        let count = self.rows.len();
        let free = memory(free);
        format!("{count} partitions; {online} CPUs, {cpu:.1} % used; {free} free; q ends\n")
    }
}

/// A sample, for programs.
#[derive(serde::Serialize)]
pub struct Shares {
    partitions: Vec<Share>,
}

#[derive(serde::Serialize)]
struct Share {
    name: String,
    number: u32,
    state: Word,
    cpu_percent: f64,
    wait_percent: f64,
    service_percent: f64,
    console_percent: f64,
    cpu_time_ns: u64,
    vcpus: u32,
    vcpus_up: u32,
    memory_bytes: u64,
    cpu_weight: u32,
    cpu_cap_percent: Option<u32>,
}

const HEADINGS: [(&str, Align); 12] = [
    ("NAME", Align::Left),
    ("NUMBER", Align::Right),
    ("STATE", Align::Left),
    ("CPU%", Align::Right),
    ("WAIT%", Align::Right),
    ("SERVICE%", Align::Right),
    ("CONSOLE%", Align::Right),
    ("CPU-TIME", Align::Right),
    ("VCPUS", Align::Right),
    ("MEMORY", Align::Right),
    ("WEIGHT", Align::Right),
    ("CAP", Align::Right),
];

/// Percent of one CPU between two samples.
fn percent(now: u64, before: Option<u64>, elapsed: Option<u128>) -> f64 {
    match (before, elapsed) {
        (Some(before), Some(elapsed)) if elapsed > 0 => {
            now.saturating_sub(before) as f64 * 100.0 / elapsed as f64
        }
        _ => 0.0,
    }
}

/// The view of the sample rows, for the test of the schema.
#[cfg(test)]
pub fn sample() -> Shares {
    let (rows, machine) = (crate::view::samples::partitions(), crate::view::samples::resources());
    Sample { at: Instant::now(), rows, consoles: HashMap::new(), machine }.shares(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples;

    fn look(at: Instant, factor: u64) -> Sample {
        let mut rows = samples::partitions();
        rows.retain(|row| row.kind != kind::PSEUDO);
        for row in &mut rows {
            row.cpu_time = u64::from(row.number) * factor;
        }
        let consoles = HashMap::from([(16, factor * 2)]);
        Sample { at, rows, consoles, machine: samples::resources() }
    }

    #[test]
    fn shares_are_of_the_time_between_two_looks_and_the_busiest_is_first() {
        let start = Instant::now();
        let first = look(start, 0);
        let second = look(start + Duration::from_secs(1), 10_000_000);
        let text = second.text(Some(&first));
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert!(lines[0].starts_with("NAME"), "{text}");
        assert!(lines[1].starts_with("web") && lines[1].contains(" 16.0 "), "{text}");
        assert!(lines[0].contains("CONSOLE%") && lines[1].contains(" 2.0 "), "{text}");
        assert!(lines[2].starts_with("command") && lines[2].contains(" 3.0 "), "{text}");
    }

    #[test]
    fn the_first_look_and_a_number_that_came_again_have_no_share() {
        let start = Instant::now();
        let first = look(start, 50_000_000);
        assert!(first.text(None).contains(" 0.0 "));
        let mut second = look(start + Duration::from_secs(1), 60_000_000);
        for row in &mut second.rows {
            row.created_at += 1;
        }
        let text = second.text(Some(&first));
        assert!(!text.contains(" 16.0 "), "{text}");
    }
}
