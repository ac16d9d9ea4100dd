//! The owner of every frame: the ranges that are reserved for the two partitions, and the rest.

use frame_record::{Kind, OWNER_IO};
use heapless::Vec;
use pv_abi::uv::database::{FIRMWARE, MONITOR};

use super::Found;
use crate::early_frames::FrameRange;
use crate::messages::refuse;
use crate::{memory, microcode_update, regions};

/// A reserved range of frames, and its owner.
#[derive(Clone, Copy)]
pub struct Reserved {
    pub first: u64,
    pub frames: u64,
    pub owner: u32,
    pub usage: u32,
}

/// All reserved ranges.
pub type Reservations = Vec<Reserved, 32>;

/// Reserves frames for `owner`. Returns the first frame.
pub fn reserve(set: &mut Reservations, frames: u64, align: u64, owner: u32, usage: u32) -> u64 {
    let Some(first) = memory::take_frames(frames, align) else {
        let mib = frames / 256 + 1;
        refuse(format_args!(
            "memory: {mib} MiB for partition {owner} could not be found in one piece; \
             give the machine at least 512 MiB"
        ))
    };
    record_owner(set, Reserved { first, frames, owner, usage });
    first
}

/// Writes the owner into the frame table.
pub fn record_owner(set: &mut Reservations, range: Reserved) {
    for mfn in range.first..range.first + range.frames {
        if let Some(frame) = memory::frame(mfn) {
            frame.set_owner(range.owner, Kind::Ram);
        }
    }
    if set.push(range).is_err() {
        refuse(format_args!("too many ranges of memory were set aside"));
    }
}

/// Gives all frames that are neither free RAM nor reserved to the monitor or the firmware.
pub fn claim_rest(found: &Found<'_>) {
    memory::taken_regions(|range| claim(found, range.first, range.frames, MONITOR));
    let free = |range| {
        if memory::free_also(range).is_none() {
            refuse(format_args!("{}", memory::Fault::Fragmented));
        }
    };
    free(memory::own_frames());
    for module in found.modules {
        let (first, frames) = (module.start >> 12, module.bytes.div_ceil(4096));
        match module.name() {
            // The part of the file that the CPUs need was copied.
            microcode_update::MODULE => free(FrameRange { first, frames }),
            _ => claim(found, first, frames, MONITOR),
        }
    }
    let mut next = 0;
    memory::free_regions(|range| {
        claim(found, next, range.first - next, 0);
        next = range.first + range.frames;
    });
    claim(found, next, found.frames.saturating_sub(next), 0);
    // Every frame that is not free has an owner, except frames that no module, image or firmware
    // RAM entry covers: boot information and the low megabyte, which stay the monitor's.
}

/// Makes `owner` the owner of the frames in the range that have none. If `owner` is 0, the monitor
/// gets frames of RAM, and the firmware gets the others.
fn claim(found: &Found<'_>, first: u64, frames: u64, owner: u32) {
    for mfn in first..first + frames {
        let Some(frame) = memory::frame(mfn) else {
            continue;
        };
        if frame.owner_word() == 0 {
            let ram = found
                .regions
                .iter()
                .any(|r| r.kind == regions::kind::RAM && (r.first..r.end()).contains(&mfn));
            let word = match owner {
                0 if ram => MONITOR,
                0 => FIRMWARE | OWNER_IO,
                owner => owner,
            };
            frame.set_owner(word, Kind::Private);
        }
    }
}
