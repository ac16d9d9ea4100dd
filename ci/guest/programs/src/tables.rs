//! Calls on page tables and descriptors.

use crate::calls::Call;
use crate::generate::{address, frame, wild};
use crate::random::Random;
use crate::word::{Frame, Word};
use alloc::vec::Vec;
use pv_abi::xen::domid;
use pv_abi::xen::hypercall as number;
use pv_abi::xen::mmu;

/// An entry, mostly of one of the program's own frames, with valid bits.
pub fn entry(random: &mut Random) -> Word {
    const BITS: [u64; 12] =
        [0, 1, 5, 7, 7, 7, 0x67, 0x27, 0x25, 0x87, 0x107, 0x8000_0000_0000_0007];
    let bits = random.of(&BITS);
    let odd = if random.once_in(6) { 1 << random.below(64) } else { 0 };
    Word::Entry(frame(random), bits ^ odd)
}

/// The number of a frame, or of one of the partition's pages.
pub fn frame_or_page(random: &mut Random) -> Word {
    if random.once_in(2) {
        Word::FrameNumber(frame(random))
    } else {
        Word::Number(random.below(1024))
    }
}

/// The partition that a call is about.
fn whom(random: &mut Random) -> Word {
    Word::Number(match random.below(8) {
        0 => random.below(16),
        1 => random.below(1 << 32),
        2 => u64::from(domid::SELF) | random.below(0x8000) << 16,
        3 => u64::from(random.of(&[domid::IO, domid::XEN, domid::INVALID, domid::IDLE])),
        _ => u64::from(domid::SELF),
    })
}

/// Arguments of a call with a list: the list, its length, the place of the count, and the
/// partition.
fn listed(random: &mut Random, number: u64, list: Vec<Word>, words: u64) -> Call {
    let count = list.len() as u64 / words;
    let claimed = match random.below(12) {
        0 => random.number(),
        1 => count | u64::from(mmu::UPDATE_PREEMPTED),
        _ => count,
    };
    let done = if random.once_in(4) { address(random) } else { Word::Number(0) };
    let args = [Word::Memory(0), Word::Number(claimed), done, whom(random), wild(random)];
    Call { number, args, memory: list }
}

/// `mmu_update` of entries in tables of every level, in tables in use, and in plain pages.
pub fn update(random: &mut Random) -> Call {
    let mut list = Vec::new();
    for _ in 0..=random.below(4) {
        let place = random.of(&[0, 8, 16, 24, 0x800, 0x880, 0xff8]);
        let command = random.of(&[0, 0, 0, 1, 2, 3]);
        let target = match random.below(8) {
            0 => frame(random),
            1 => Frame::Page(4 + random.below(12) as u8),
            _ => Frame::Page(random.below(4) as u8),
        };
        list.push(match random.below(10) {
            0 => Word::EntryOf(random.below(16) as u8, command),
            // The kernel's own tables are mapped for reading, and are never written.
            _ if matches!(target, Frame::Table(_)) => Word::Entry(target, 0x900 | command),
            _ => Word::Entry(target, place | command),
        });
        list.push(match (command, random.below(4)) {
            (1, _) => Word::Number(random.number()),
            (_, 0) => Word::Entry(Frame::Page(random.below(4) as u8), 7),
            _ => entry(random),
        });
    }
    listed(random, number::MMU_UPDATE, list, 2)
}

/// `mmuext_op` on pins, roots, flushes and descriptor tables.
pub fn extended(random: &mut Random) -> Call {
    let mut list = Vec::new();
    for _ in 0..=random.below(3) {
        let command = match random.below(3) {
            0 => random.below(22),
            1 => random.of(&[0, 1, 2, 3]),
            _ => random.of(&[4, 4, 5, 15, 13]),
        };
        let (first, second) = match command as u32 {
            mmu::EXT_NEW_BASEPTR => (Word::FrameNumber(root(random)), wild(random)),
            mmu::EXT_SET_LDT => {
                let page = crate::Place::Page(random.of(&[4, 4, 4, 3, 5, 11]));
                let place =
                    if random.once_in(4) { address(random) } else { Word::Address(page, 0) };
                (place, Word::Number(random.of(&[0, 1, 512, 8192, 8193])))
            }
            mmu::EXT_INVLPG_LOCAL..=mmu::EXT_INVLPG_ALL => (address(random), address(random)),
            _ => {
                let frame = if random.once_in(3) {
                    frame(random)
                } else {
                    Frame::Page(random.below(6) as u8)
                };
                (Word::FrameNumber(frame), wild(random))
            }
        };
        list.extend([Word::Number(command), first, second]);
    }
    listed(random, number::MMUEXT_OP, list, 3)
}

/// A root: the guest's own, one that programs make, or an invalid one.
fn root(random: &mut Random) -> Frame {
    random.of(&[Frame::Table(4), Frame::Page(3), Frame::Page(2), Frame::Page(5), Frame::Past(0)])
}

/// `update_va_mapping` of pages of the program, or of any address.
pub fn any_mapping(random: &mut Random) -> Call {
    let place = match random.below(3) {
        0 => address(random),
        _ => Word::Address(crate::Place::Page(random.below(16) as u8), 0),
    };
    let flags = match random.below(4) {
        0 => address(random),
        _ => Word::Number(random.of(&[0, 1, 2, 3, 5, 6])),
    };
    let args = [place, entry(random), flags, wild(random), wild(random)];
    let number = if random.once_in(12) {
        number::UPDATE_VA_MAPPING_OTHERDOMAIN
    } else {
        number::UPDATE_VA_MAPPING
    };
    Call { number, args, memory: Vec::new() }
}

/// A descriptor: a flat segment, a system descriptor, a gate, or a wild one.
fn descriptor(random: &mut Random) -> u64 {
    const KNOWN: [u64; 12] = [
        0x00cf_fa00_0000_ffff,
        0x00cf_f200_0000_ffff,
        0x00af_fa00_0000_ffff,
        0x00cf_9a00_0000_ffff,
        0x00cf_9200_0000_ffff,
        0x0000_8900_0000_0067,
        0x0000_8b00_0000_0067,
        0x0000_8200_0000_0fff,
        0x0000_ec00_0008_0000,
        0x0000_ee00_0008_0000,
        0x00ff_f600_0000_ffff,
        0,
    ];
    match random.below(4) {
        0 => random.bits(),
        1 => random.of(&KNOWN) ^ 1 << random.below(64),
        _ => random.of(&KNOWN),
    }
}

/// `update_descriptor`.
pub fn descriptor_call(random: &mut Random) -> Call {
    let target = if random.once_in(4) { frame(random) } else { Frame::Page(4) };
    let place = if matches!(target, Frame::Table(_)) { 0x900 } else { random.below(16) * 8 };
    let skew = if random.once_in(8) { random.below(8) } else { 0 };
    let number = number::UPDATE_DESCRIPTOR;
    let value = Word::Number(descriptor(random));
    let args = [Word::Entry(target, place ^ skew), value, wild(random), wild(random), wild(random)];
    Call { number, args, memory: Vec::new() }
}

/// `set_gdt`.
pub fn descriptors(random: &mut Random) -> Call {
    let mut list = Vec::new();
    for _ in 0..random.below(4) {
        let frame = if random.once_in(3) { frame(random) } else { Frame::Page(4) };
        list.push(Word::FrameNumber(frame));
    }
    let entries = random.of(&[0, 1, 16, 512, 513, 1024, 7168, 7169, u64::MAX]);
    let args = [Word::Memory(0), Word::Number(entries), wild(random), wild(random), wild(random)];
    Call { number: number::SET_GDT, args, memory: list }
}
