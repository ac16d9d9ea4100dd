//! The description of the machine, from which the ultravisor makes the database.

use frame_record::Record;
use heapless::Vec;
use pv_abi::uv::database::FIRMWARE;
use pv_abi::uv::start::{Machine, MachineRegion, region_use};
use spin::Mutex;
use zerocopy::{FromZeros, IntoBytes};

use super::Found;
use super::layout::MACHINE_PAGES;
use super::owners::Reservations;
use crate::memory;
use crate::messages::refuse;

/// The machine description as bytes.
type Description = Vec<u8, { narrow::size(MACHINE_PAGES) * 4096 }>;

/// A static, since it is too large for a stack.
pub static DESCRIPTION: Mutex<Description> = Mutex::new(Description::new());
static REGIONS: Mutex<Vec<MachineRegion, 768>> = Mutex::new(Vec::new());

/// Describes the machine, for the ultravisor.
pub fn describe(found: &Found<'_>, set: &Reservations) {
    let mut regions = REGIONS.lock();
    for mfn in 0..found.frames {
        let found = classify(found, set, mfn);
        let goes_on = |last: &&mut MachineRegion| {
            **last == MachineRegion { first: last.first, frames: last.frames, ..found }
        };
        if let Some(last) = regions.last_mut().filter(goes_on) {
            last.frames += 1;
        } else if regions.push(found).is_err() {
            refuse(format_args!("the memory map has too many ranges"));
        }
    }
    let mut description = DESCRIPTION.lock();
    let mut header = Machine::new_zeroed();
    let counts = [regions.len(), found.cpus.len(), found.functions.len()];
    // No count exceeds the capacity of its list, since `Description` is full long before.
    [header.regions, header.cpus, header.pci] =
        counts.map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    header.frames = found.frames;
    header.tsc_khz = u32::try_from(found.clock.tsc_hertz / 1000).unwrap_or(u32::MAX);
    header.wall_clock = found.clock.wall_clock;
    header.arch_capabilities = found.seen.capabilities;
    header.microcode = found.seen.microcode;
    header.mitigations = found.mitigations;
    header.microcode_outcome = found.microcode.to_words();
    for (to, from) in header.command_line.iter_mut().zip(found.command_line.bytes()) {
        *to = from;
    }
    let mut add = |bytes: &[u8]| {
        if description.extend_from_slice(bytes).is_err() {
            refuse(format_args!("the machine has too many ranges, CPUs or PCI functions"));
        }
    };
    add(header.as_bytes());
    regions.iter().for_each(|region| add(region.as_bytes()));
    found.cpus.iter().for_each(|cpu| add(cpu.as_bytes()));
    found.functions.iter().for_each(|function| add(function.as_bytes()));
}

/// The description of a frame: its owner, use and firmware type.
fn classify(found: &Found<'_>, set: &Reservations, mfn: u64) -> MachineRegion {
    let firmware = found.regions.iter().find(|r| (r.first..r.end()).contains(&mfn));
    let firmware_type = firmware.map_or(0, |r| r.kind);
    let reserved = set.iter().find(|a| (a.first..a.first + a.frames).contains(&mfn));
    let word = memory::frame(mfn).map_or(FIRMWARE | frame_record::OWNER_IO, Record::owner_word);
    let usage = match reserved {
        Some(reserved) => reserved.usage,
        None if word & frame_record::OWNER_IO != 0 => region_use::IO,
        None => region_use::RAM,
    };
    let owner = word & frame_record::OWNER_NUMBER;
    MachineRegion { first: mfn, frames: 1, owner, usage, firmware_type, reserved: 0 }
}
