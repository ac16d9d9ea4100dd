//! `uvtool resources`: the machine's resources, and their owners.
//!
//! Rule: sums are computed here from the rows, and compared with the page map; a difference is
//! shown and makes the command fail.

use std::borrow::Cow;

use control::command::{
    BarRow, CpuRow, DeviceRow, Heap, MapRow, MemoryRow, PciAddress, ResourcesAnswer, refused_words,
};
use pv_abi::uv::database::TIER_FRAMES;
use serde::Serialize;
use uvd_protocol::Sentence;

use super::{Names, View};
use crate::table::{Align, Table};
use crate::words::{
    self, byte_count, bytes, firmware_word, memory, pci_class_word, percent, percent_text,
    push_number, push_share,
};

/// The machine.
#[derive(Serialize)]
pub struct Resources<'n> {
    frames: u64,
    memory: Vec<Memory<'n>>,
    firmware: Vec<Firmware>,
    cpus: Vec<Cpu>,
    pci: Vec<Pci>,
    arena_pages: u32,
    arena_pages_used: u32,
    channels: u32,
    /// The heaps of the partitions that have all their memory from the start.
    heaps: Vec<HeapOf>,
    /// The most free frames that may not be scrubbed yet.
    unscrubbed_frames: u64,
    /// The longest turn of the ultravisor's loop since it started, and the number of turns above 5
    /// ms.
    longest_turn_ns: u64,
    long_turns: u64,
    /// The disagreements; empty if all sums agree.
    disagreements: Vec<String>,
    /// Ranges of the page map, if the user asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    map: Option<Vec<Range>>,
}

#[derive(Serialize)]
struct Memory<'n> {
    owner: Cow<'n, str>,
    number: u32,
    io: bool,
    entries_4gib: u64,
    entries_4mib: u64,
    entries_4kib: u64,
    frames: u64,
    bytes: u64,
    percent: Option<f64>,
}

#[derive(Serialize)]
struct Firmware {
    #[serde(rename = "type")]
    kind: String,
    frames: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Cpu {
    index: u32,
    apic_id: u32,
    online: bool,
    busy_percent: Option<f64>,
    busy_ns: u64,
    idle_ns: u64,
}

#[derive(Serialize)]
struct Pci {
    index: u32,
    address: String,
    vendor: String,
    device: String,
    /// Vendor and number of the subsystem.
    subsystem: Option<String>,
    class: String,
    /// Number of MSI-X vectors.
    vectors: u16,
    bars: Vec<Bar>,
    /// Reasons why the function cannot be given to a partition; empty if it can.
    refused: Vec<&'static str>,
    owner: String,
}

#[derive(Serialize)]
struct Bar {
    register: u8,
    address: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct HeapOf {
    partition: &'static str,
    bytes: u64,
    in_use_bytes: u64,
    most_bytes: u64,
}

#[derive(Serialize)]
struct Range {
    first_frame: u64,
    frames: u64,
    bytes: u64,
    owner: String,
    io: bool,
}

impl<'n> Resources<'n> {
    /// A view of the machine as the ultravisor describes it; `boot` is the heap of the boot
    /// partition, if known, and `map` the ranges, if requested.
    pub fn new(
        answer: &ResourcesAnswer,
        devices: &[DeviceRow],
        boot: Option<Heap>,
        names: &Names<'n>,
        map: Option<Vec<MapRow>>,
    ) -> Self {
        let mut disagreements = check(answer, names);
        disagreements.extend(map.as_ref().and_then(|rows| check_map(answer, rows, names)));
        let firmware = answer.firmware.iter().map(|(kind, frames)| Firmware {
            kind: firmware_word(*kind),
            frames: *frames,
            bytes: bytes(*frames),
        });
        Self {
            frames: answer.frames,
            memory: answer.memory.iter().map(|row| memory_row(row, answer.frames, names)).collect(),
            firmware: firmware.collect(),
            cpus: answer.cpus.iter().map(cpu).collect(),
            pci: devices.iter().map(|row| pci(row, names)).collect(),
            arena_pages: answer.arena.0,
            arena_pages_used: answer.arena.1,
            channels: answer.channels,
            heaps: [("ultravisor", Some(answer.heap)), ("boot", boot)]
                .into_iter()
                .filter_map(|(partition, heap)| heap.map(|heap| heap_of(partition, heap)))
                .collect(),
            unscrubbed_frames: answer.unscrubbed,
            longest_turn_ns: answer.turns.longest,
            long_turns: answer.turns.long,
            disagreements,
            map: map.map(|rows| rows.iter().map(|row| range(row, names)).collect()),
        }
    }

    fn memory_text(&self) -> String {
        let mut table = Table::new(&[
            ("OWNER", Align::Left),
            ("KIND", Align::Left),
            ("4-GIB", Align::Right),
            ("4-MIB", Align::Right),
            ("4-KIB", Align::Right),
            ("MEMORY", Align::Right),
            ("SHARE", Align::Right),
        ]);
        table.reserve(self.memory.len());
        for row in &self.memory {
            table
                .text(&row.owner)
                .text(if row.io { "I/O" } else { "RAM" })
                .pushed(|text| push_number(text, row.entries_4gib))
                .pushed(|text| push_number(text, row.entries_4mib))
                .pushed(|text| push_number(text, row.entries_4kib))
                .pushed(|text| words::Memory(row.frames).push_to(text))
                .pushed(|text| push_share(text, row.frames, self.frames));
        }
        let tier = |of: fn(&Memory<'_>) -> u64| sum(self.memory.iter().map(of)).to_string();
        let frames = sum(self.memory.iter().map(|row| row.frames));
        table.row([
            "sum".into(),
            String::new(),
            tier(|row| row.entries_4gib),
            tier(|row| row.entries_4mib),
            tier(|row| row.entries_4kib),
            memory(frames),
            percent_text(percent(frames, self.frames)),
        ]);
        format!("{table}{}", self.verdict())
    }

    fn verdict(&self) -> String {
        if self.disagreements.is_empty() {
            return format!(
                "Sums agree: {} frames in the page map, each with one owner.\n",
                self.frames
            );
        }
        self.disagreements.iter().map(|text| format!("Sums do not agree: {text}.\n")).collect()
    }

    fn firmware_text(&self) -> String {
        let mut table = Table::new(&[("FIRMWARE-TYPE", Align::Left), ("MEMORY", Align::Right)]);
        for row in &self.firmware {
            table.row([row.kind.clone(), memory(row.frames)]);
        }
        table.to_string()
    }

    fn cpu_text(&self) -> String {
        let mut table = Table::new(&[
            ("CPU", Align::Right),
            ("APIC", Align::Right),
            ("STATE", Align::Left),
            ("BUSY", Align::Right),
        ]);
        for row in &self.cpus {
            table.row([
                row.index.to_string(),
                row.apic_id.to_string(),
                if row.online { "online".into() } else { "offline".into() },
                percent_text(row.busy_percent),
            ]);
        }
        table.to_string()
    }

    fn pci_text(&self) -> String {
        let mut table = Table::new(&[
            ("PCI", Align::Right),
            ("ADDRESS", Align::Left),
            ("ID", Align::Left),
            ("CLASS", Align::Left),
            ("VECTORS", Align::Right),
            ("BARS", Align::Left),
            ("OWNER", Align::Left),
            ("NOT-GIVEN-BECAUSE", Align::Left),
        ]);
        let or_dash = |text: String| if text.is_empty() { "-".into() } else { text };
        for row in &self.pci {
            let bar = |bar: &Bar| format!("{}: {}", bar.register, byte_count(bar.bytes));
            table.row([
                row.index.to_string(),
                row.address.clone(),
                format!("{}:{}", row.vendor, row.device),
                row.class.clone(),
                row.vectors.to_string(),
                or_dash(row.bars.iter().map(bar).collect::<Vec<_>>().join(", ")),
                row.owner.clone(),
                or_dash(row.refused.join("; ")),
            ]);
        }
        table.to_string()
    }

    fn heap_text(&self) -> String {
        let mut table = Table::new(&[
            ("HEAP-OF", Align::Left),
            ("IN-USE", Align::Right),
            ("MOST", Align::Right),
            ("BYTES", Align::Right),
        ]);
        for row in &self.heaps {
            let sizes = [row.in_use_bytes, row.most_bytes, row.bytes].map(byte_count);
            let [in_use, most, bytes] = sizes;
            table.row([row.partition.into(), in_use, most, bytes]);
        }
        table.to_string()
    }

    fn map_text(&self) -> Option<String> {
        let mut table = Table::new(&[
            ("FIRST-FRAME", Align::Right),
            ("LAST-FRAME", Align::Right),
            ("MEMORY", Align::Right),
            ("KIND", Align::Left),
            ("OWNER", Align::Left),
        ]);
        for row in self.map.as_ref()? {
            table.row([
                format!("{:#x}", row.first_frame),
                format!("{:#x}", row.first_frame.saturating_add(row.frames).saturating_sub(1)),
                memory(row.frames),
                if row.io { "I/O".into() } else { "RAM".into() },
                row.owner.clone(),
            ]);
        }
        Some(table.to_string())
    }
}

impl View for Resources<'_> {
    fn text(&self) -> String {
        let mut parts =
            vec![self.memory_text(), self.firmware_text(), self.cpu_text(), self.pci_text()];
        parts.push(format!(
            "Database: {} of {} pages in use. Channels: {}.\n",
            self.arena_pages_used, self.arena_pages, self.channels
        ));
        parts.push(format!(
            "Free memory to be scrubbed yet: {}. Longest turn of the ultravisor: {} us, {} above 5 ms.\n",
            memory(self.unscrubbed_frames),
            self.longest_turn_ns / 1000,
            self.long_turns
        ));
        parts.push(self.heap_text());
        parts.extend(self.map_text());
        parts.join("\n")
    }

    fn problem(&self) -> Option<Sentence> {
        let first = self.disagreements.first()?;
        let problem = format!("resources: sums do not agree: {first}");
        Some(Sentence::new(problem, "see `uvtool log`"))
    }
}

const fn heap_of(partition: &'static str, heap: Heap) -> HeapOf {
    let Heap { bytes, in_use, most } = heap;
    HeapOf { partition, bytes, in_use_bytes: in_use, most_bytes: most }
}

/// The disagreements within an answer.
fn check(answer: &ResourcesAnswer, names: &Names<'_>) -> Vec<String> {
    let mut found = Vec::new();
    let owned = sum(answer.memory.iter().map(|row| row.frames));
    found.extend(difference("the owners", owned, answer.frames));
    let described = sum(answer.firmware.iter().map(|(_, frames)| *frames));
    found.extend(difference("the firmware's types", described, answer.frames));
    let mut beyond: u128 = 0;
    for row in &answer.memory {
        let entries = tier_frames(row);
        match entries.checked_sub(u128::from(row.frames)) {
            Some(more) => beyond += more,
            None => found.push(format!(
                "the entries of {} cover {entries} frames, it has {}",
                names.of(row.owner),
                row.frames
            )),
        }
    }
    // Only one entry, the last, may reach past the last frame.
    if beyond >= u128::from(TIER_FRAMES[0]) {
        found.push(format!("the entries cover {beyond} frames more than the owners have"));
    }
    found
}

/// The disagreements between the ranges and the owners' rows.
fn check_map(answer: &ResourcesAnswer, map: &[MapRow], names: &Names<'_>) -> Option<String> {
    let wrong = answer.memory.iter().find_map(|row| {
        let ranges = map.iter().filter(|range| (range.owner, range.io) == (row.owner, row.io));
        let frames = sum(ranges.map(|range| range.frames));
        (frames != row.frames).then_some((row, frames))
    })?;
    let (row, frames) = wrong;
    let owner = names.of(row.owner);
    Some(format!("the ranges of {owner} have {frames} frames, its row has {}", row.frames))
}

fn difference(what: &str, have: u64, frames: u64) -> Option<String> {
    let by = have.abs_diff(frames);
    let way = if have > frames { "more" } else { "fewer" };
    (by != 0).then(|| format!("{what} have {by} frames {way} than the page map's {frames}"))
}

fn tier_frames(row: &MemoryRow) -> u128 {
    let tiers = row.tiers.iter().zip(TIER_FRAMES);
    tiers.map(|(entries, frames)| u128::from(*entries) * u128::from(frames)).sum()
}

fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

fn memory_row<'n>(row: &MemoryRow, all: u64, names: &Names<'n>) -> Memory<'n> {
    let [entries_4gib, entries_4mib, entries_4kib] = row.tiers;
    Memory {
        owner: names.text_of(row.owner),
        number: row.owner,
        io: row.io,
        entries_4gib,
        entries_4mib,
        entries_4kib,
        frames: row.frames,
        bytes: bytes(row.frames),
        percent: percent(row.frames, all),
    }
}

fn cpu(row: &CpuRow) -> Cpu {
    Cpu {
        index: row.index,
        apic_id: row.apic_id,
        online: row.online,
        busy_percent: percent(row.busy, row.busy.saturating_add(row.idle)),
        busy_ns: row.busy,
        idle_ns: row.idle,
    }
}

fn pci(row: &DeviceRow, names: &Names<'_>) -> Pci {
    let halves = |id: u32| [id & 0xffff, id >> 16].map(|half| format!("{half:04x}"));
    let [vendor, device] = halves(row.id);
    let bar = |bar: &BarRow| Bar { register: bar.register, address: bar.address, bytes: bar.bytes };
    Pci {
        index: row.index,
        address: PciAddress(row.address).to_string(),
        vendor,
        device,
        subsystem: (row.subsystem != 0).then(|| halves(row.subsystem).join(":")),
        class: pci_class_word(row.class),
        vectors: row.vectors,
        bars: row.bars.iter().map(bar).collect(),
        refused: refused_words(row.refused).collect(),
        owner: names.of(row.owner),
    }
}

fn range(row: &MapRow, names: &Names<'_>) -> Range {
    Range {
        first_frame: row.first,
        frames: row.frames,
        bytes: bytes(row.frames),
        owner: names.of(row.owner),
        io: row.io,
    }
}

#[cfg(test)]
#[path = "resources_tests.rs"]
mod tests;
