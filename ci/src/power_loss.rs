//! Power loss: what a guest was told is on its disk is there, wherever the power fails.
//!
//! QEMU writes down all writes and flushes of the machine's disk in their order (`blklogwrites`), in
//! the format of Linux' dm-log-writes (`Documentation/admin-guide/device-mapper/log-writes.rst`).
//! After the run, the log is played up to each of its flushes. What came before the flush before is
//! on the medium then, and of what came since a random part, or nothing. A discarded sector may hold
//! anything until it is written again.
//!
//! The guest ([`disks`]) numbers its requests, and each sector that it writes holds the number. For
//! each answered flush it prints which requests had been answered when it made the flush, and how
//! many it had made when the answer came. So a write with a higher number that is in the log came
//! after the answer, and the flush must hold from there on.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use block_front::Cookie;
use fuzz_programs::Random;
use rig::options::{BootOptions, MachineOptions};
use rig::workspace;

use crate::host::Host;
use crate::{Results, disks, number};

/// The machines: the name, and the options of the I/O partitions.
const MACHINES: [(&str, &str); 2] =
    [("power-loss/flushes", ""), ("power-loss/takeover", "inject=die-at:4:published:40")];
/// Bytes of a log at most; QEMU's file does not grow.
const LOG_BYTES: u64 = 4 << 30;
/// Bytes of a sector, in the log and on the disk.
const SECTOR: u64 = 512;
/// Random parts that are tried at each flush.
const PARTS: u32 = 4;
/// The fewest flushes of a run that shows something.
const FEWEST: usize = 10;

/// Runs the requested machines; they run only by name.
pub fn run_scenarios(results: &mut Results) {
    for (name, io_options) in MACHINES {
        if results.asked_for(name) {
            let start = Instant::now();
            results.note(name, start, loses_power(io_options));
        }
    }
}

fn loses_power(io_options: &str) -> Result<()> {
    let path = workspace::directory(workspace::build_dir()?.join("disks"))?.join("writes.log");
    let log = rig::interrupt::Scratch::new(path);
    File::create(log.path())?.set_len(LOG_BYTES)?;
    let machine = MachineOptions { disk_log: Some(log.path().to_owned()), ..disks::machine() };
    let options = BootOptions { io_options: io_options.into(), ..disks::options()? };
    let mut host = Host::boot(&machine, &options)?;
    let seed = number("SEED", 1)?;
    let printed = disks::check(&mut host, seed, &format!("disk {seed} 3000 rings=2 flushes=1"))?;
    let ends = usize::from(!io_options.is_empty());
    let ended = host.machine.console()?.matches("partition 4 stopped: cause").count();
    ensure!(ended == ends, "the I/O partition ended {ended} times, and {ends} were asked for");
    host.power_off()?;
    let flushed = flushed(&printed)?;
    let events = read_log(log.path(), seed)?;
    let held = play(&events, &flushed, seed)?;
    println!(
        "       {} flushes of the guest, {held} of them held at flushes of the disk",
        flushed.len()
    );
    ensure!(flushed.len() >= FEWEST && held >= FEWEST, "too few flushes");
    Ok(())
}

/// A flush that a guest was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flushed {
    /// Requests up to this number had been answered when it was made.
    covers: u32,
    /// Requests up to this number had been made when it was answered.
    made: u32,
}

/// The answered flushes, in the order of their answers.
fn flushed(printed: &str) -> Result<Vec<Flushed>> {
    let lines = printed.lines().filter_map(|line| line.strip_prefix("disk: flush covers "));
    let one = |line: &str| {
        let (covers, made) = line.trim().split_once(" of ")?;
        Some(Flushed { covers: covers.parse().ok()?, made: made.parse().ok()? })
    };
    lines.map(|line| one(line).with_context(|| format!("{line:?} is no flush"))).collect()
}

/// What a log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    /// Sectors, each with the number of the request that wrote it; 0 for what no request wrote.
    Write(Vec<(u64, u32)>),
    /// Sectors that hold anything from here on.
    Discard(Range<u64>),
    Flush,
}

/// The numbers of dm-log-writes: `drivers/md/dm-log-writes.c` of Linux.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1 << 0;
const DISCARD: u64 = 1 << 2;

/// Reads a log; sectors of other seeds count as nobody's.
fn read_log(path: &Path, seed: u64) -> Result<Vec<Event>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let words = |at: u64| -> Result<[u64; 4]> {
        let mut bytes = [0; 32];
        file.read_exact_at(&mut bytes, at)?;
        let words = bytes.as_chunks::<8>().0;
        Ok(std::array::from_fn(|word| u64::from_le_bytes(words[word])))
    };
    let [magic, version, count, size] = words(0)?;
    ensure!((magic, version) == (MAGIC, VERSION), "no log of writes, or of another version");
    ensure!(size & 0xffff_ffff == SECTOR, "a log with sectors of {size} bytes");
    let (mut events, mut at) = (Vec::new(), SECTOR);
    for _ in 0..count {
        let [sector, sectors, flags, _] = words(at)?;
        at += SECTOR;
        if flags & FLUSH != 0 {
            events.push(Event::Flush);
        }
        if sectors == 0 {
            continue;
        }
        if flags & DISCARD != 0 {
            // It has no data.
            events.push(Event::Discard(sector..sector.saturating_add(sectors)));
            continue;
        }
        let mut data = vec![0; usize::try_from(sectors * SECTOR)?];
        file.read_exact_at(&mut data, at)?;
        at += sectors * SECTOR;
        let numbers = data.chunks_exact(SECTOR as usize).map(|bytes| written_by(bytes, seed));
        events.push(Event::Write((sector..).zip(numbers).collect()));
    }
    Ok(events)
}

/// The number of the request that wrote a sector, or 0.
fn written_by(bytes: &[u8], seed: u64) -> u32 {
    let words: Vec<u32> =
        bytes.as_chunks().0.iter().map(|word: &[u8; 4]| u32::from_le_bytes(*word)).collect();
    Cookie::read(&words).filter(|cookie| cookie.seed == seed).map_or(0, |cookie| cookie.write)
}

/// Plays a log up to each flush; returns how many answered flushes had to hold somewhere.
///
/// # Errors
/// A sector is older than a flush that was answered; the message has all numbers.
fn play(events: &[Event], flushed: &[Flushed], seed: u64) -> Result<usize> {
    let by_number = written(events);
    let mut random = Random::new(seed);
    let (mut medium, mut since) = (BTreeMap::new(), Vec::new());
    // What the medium must hold with the places in the log, and the places of discards.
    let (mut due, mut discarded) = (BTreeMap::<u64, Due>::new(), BTreeMap::new());
    let (mut taken, mut holding, mut newest) = (0, 0, 0);
    for (index, event) in events.iter().enumerate() {
        match event {
            Event::Write(sectors) => {
                newest = sectors.iter().map(|(_, number)| *number).fold(newest, u32::max);
            }
            Event::Discard(sectors) => {
                discarded.extend(sectors.clone().map(|sector| (sector, index)));
                due.retain(|sector, due| !sectors.contains(sector) || due.place > index);
            }
            Event::Flush => {}
        }
        if *event != Event::Flush {
            since.push(event);
            continue;
        }
        let covered = flushed.iter().filter(|flush| flush.made < newest);
        holding = holding.max(covered.clone().count());
        let covers = covered.map(|flush| flush.covers).max().unwrap_or(0);
        for &(number, sector, place) in
            by_number[taken..].iter().take_while(|(number, ..)| *number <= covers)
        {
            taken += 1;
            match discarded.get(&sector) {
                Some(discard) if *discard > place => drop(due.remove(&sector)),
                _ => drop(due.insert(sector, Due { number, place })),
            }
        }
        for part in 0..=PARTS {
            let mut image = medium.clone();
            // The first part is nothing.
            let kept = since.iter().filter(|_| part != 0 && random.once_in(2));
            kept.for_each(|event| change(&mut image, event));
            is_there(&image, &due).with_context(|| {
                format!("the power fails before event {index} of the log, part {part}, seed {seed}")
            })?;
        }
        since.drain(..).for_each(|event| change(&mut medium, event));
    }
    Ok(holding)
}

/// What a sector must hold.
struct Due {
    /// The number of the request that wrote it, or a higher one.
    number: u32,
    /// The place of that write in the log.
    place: usize,
}

/// The writes of a log as numbers of requests, sectors and places in the log, in the order of the
/// numbers.
fn written(events: &[Event]) -> Vec<(u32, u64, usize)> {
    let mut all = Vec::new();
    for (place, event) in events.iter().enumerate() {
        if let Event::Write(sectors) = event {
            all.extend(sectors.iter().map(|&(sector, number)| (number, sector, place)));
        }
    }
    all.sort_unstable();
    all
}

/// Carries an event out on an image, which has the number of the last write of each sector.
fn change(image: &mut BTreeMap<u64, u32>, event: &Event) {
    match event {
        Event::Write(sectors) => image.extend(sectors.iter().copied()),
        Event::Discard(sectors) => image.retain(|sector, _| !sectors.contains(sector)),
        Event::Flush => {}
    }
}

/// Checks that no sector is older than it has to be.
fn is_there(image: &BTreeMap<u64, u32>, due: &BTreeMap<u64, Due>) -> Result<()> {
    for (sector, Due { number: least, .. }) in due {
        match image.get(sector) {
            Some(number) if number >= least => {}
            Some(number) => bail!("sector {sector} holds write {number} and must hold {least}"),
            None => bail!("sector {sector} was never written and must hold write {least}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(first: u64, number: u32) -> Event {
        Event::Write((first..first + 2).map(|sector| (sector, number)).collect())
    }

    /// Two writes, a flush that covers both, and a later write.
    fn log() -> Vec<Event> {
        vec![write(0, 1), write(8, 2), Event::Flush, write(0, 4), Event::Flush]
    }

    const ANSWERED: [Flushed; 1] = [Flushed { covers: 2, made: 3 }];

    #[test]
    fn what_was_flushed_is_there() {
        assert_eq!(play(&log(), &ANSWERED, 1).unwrap(), 1);
    }

    #[test]
    fn a_flush_that_the_disk_never_saw_is_found() {
        let mut events = log();
        events.remove(2);
        let error = format!("{:#}", play(&events, &ANSWERED, 1).unwrap_err());
        assert!(error.contains("never written and must hold write 1"), "{error}");
    }

    #[test]
    fn what_was_discarded_may_be_gone_and_what_is_written_later_is_not() {
        // Discards of the first two sectors, at each place behind their write.
        for place in 1..log().len() {
            let mut events = log();
            events.insert(place, Event::Discard(0..2));
            assert_eq!(play(&events, &ANSWERED, 1).unwrap(), 1, "{place}");
        }
        let mut events = log();
        events.insert(1, Event::Discard(8..10));
        events.swap(0, 1);
        assert_eq!(play(&events, &ANSWERED, 1).unwrap(), 1, "a discard before the write");
        // The write behind the discard is due, and reaches no medium before the last flush.
        let events = [
            Event::Discard(0..2),
            write(8, 2),
            Event::Flush,
            write(16, 4),
            write(0, 1),
            Event::Flush,
        ];
        let error = format!("{:#}", play(&events, &ANSWERED, 1).unwrap_err());
        assert!(error.contains("sector 0") && error.contains("must hold write 1"), "{error}");
    }

    #[test]
    fn a_write_that_was_answered_before_it_was_made_is_found() {
        let mut events = log();
        events.swap(1, 2);
        let error = format!("{:#}", play(&events, &ANSWERED, 1).unwrap_err());
        assert!(error.contains("sector 8") && error.contains("must hold write 2"), "{error}");
    }

    #[test]
    fn a_flush_holds_only_from_its_answer_on() {
        // The write of request 4 shows nothing of a flush that was answered after it was made.
        let late = [Flushed { covers: 2, made: 4 }];
        let events = [write(0, 4), write(0, 1), write(8, 2), Event::Flush];
        assert_eq!(play(&events, &late, 1).unwrap(), 0);
    }

    #[test]
    fn flushes_are_read_from_what_the_guest_prints() {
        let text = "disk: connected\ndisk: flush covers 12 of 40\ndisk: at 50 requests\n";
        assert_eq!(flushed(text).unwrap(), [Flushed { covers: 12, made: 40 }]);
        assert!(flushed("disk: flush covers 12\n").is_err());
    }

    #[test]
    fn a_log_is_read_as_qemu_writes_it() {
        let contents = Cookie { seed: 7, sector: 16, write: 3 }.contents();
        let mut bytes = vec![0_u8; 6 * 512];
        let mut put = |at: usize, words: &[u64]| {
            for (place, word) in bytes[at..].as_chunks_mut().0.iter_mut().zip(words) {
                *place = word.to_le_bytes();
            }
        };
        put(0, &[MAGIC, VERSION, 3, SECTOR]);
        put(512, &[16, 2, 0, 0]);
        put(4 * 512, &[40, 3, DISCARD, 0]);
        put(5 * 512, &[0, 0, FLUSH, 0]);
        for (place, word) in bytes[1024..].as_chunks_mut().0.iter_mut().zip(contents) {
            *place = word.to_le_bytes();
        }
        let path = std::env::temp_dir().join(format!("ci-log-{}", std::process::id()));
        let file = rig::interrupt::Scratch::new(path);
        std::fs::write(file.path(), bytes).unwrap();
        let rest = [Event::Discard(40..43), Event::Flush];
        let expected = [&[Event::Write(vec![(16, 3), (17, 0)])], &rest[..]].concat();
        assert_eq!(read_log(file.path(), 7).unwrap(), expected);
        let others = [&[Event::Write(vec![(16, 0), (17, 0)])], &rest[..]].concat();
        assert_eq!(read_log(file.path(), 8).unwrap(), others);
    }
}
