//! The PCI functions of the machine: finds them, sizes their base address registers (BARs), and
//! keeps them from memory and from interrupts until an owner's driver wants otherwise.
//!
//! The rules: a BAR is sized only while its function neither decodes addresses nor masters the bus,
//! and every register that was changed for it is restored. Afterwards bus mastering, INTx, MSI and
//! MSI-X are off, which firmware may have left on. Bridges are left as they are, because the
//! devices behind a bridge must stay reachable. A function gets a reason in `refused`, and no
//! partition gets the function, if its registers could reach memory of another party, or share a
//! page with other registers.
//!
//! Facts of PCI are from the PCI Local Bus Specification 3.0 (6.1, 6.2.5, 6.7, 6.8) and the PCI
//! Express Base Specification (7.5.3). The crate `pci_types` (0.10) is sound, and would not make
//! this shorter: it does not enumerate, and it splits registers that the record keeps whole.

use heapless::Vec;
use pv_abi::uv::devices::{BARS, Bar, DeviceFunction, MAX_FUNCTIONS, flags, refused};
use zerocopy::FromZeros;

/// The value that a slot without a device reads as.
const ABSENT: u32 = 0xffff_ffff;

/// Offsets in configuration space.
const COMMAND: u16 = 0x04;
const CLASS: u16 = 0x08;
const HEADER_TYPE: u16 = 0x0c;
const FIRST_BAR: u16 = 0x10;
const SUBSYSTEM: u16 = 0x2c;
const CAPABILITIES: u16 = 0x34;
/// First offset that a capability may have.
const FIRST_CAPABILITY: u16 = 0x40;
/// Number of capabilities that fit between [`FIRST_CAPABILITY`] and the end.
const MAX_CAPABILITIES: usize = 48;

/// In the word of [`HEADER_TYPE`]: the device has more than one function.
const SEVERAL_FUNCTIONS: u32 = 0x80 << 16;
/// Bits of the command register: ports and memory are decoded, the bus is mastered, INTx is off.
const DECODING: u32 = 0b11;
const BUS_MASTER: u32 = 1 << 2;
const INTX_OFF: u32 = 1 << 10;
/// In the status half of the word of [`COMMAND`]: there are capabilities.
const HAS_CAPABILITIES: u32 = 1 << 20;
/// The class of bridges.
const CLASS_BRIDGE: u32 = 6;

const CAPABILITY_MSI: u32 = 0x05;
const CAPABILITY_EXPRESS: u32 = 0x10;
const CAPABILITY_MSIX: u32 = 0x11;
/// The bits that enable MSI and MSI-X, in the first word of their capabilities.
const MSI_ON: u32 = 1 << 16;
const MSIX_ON: u32 = 1 << 31;
/// In the device capabilities, the second word of the Express capability: function level reset.
const FUNCTION_RESET: u32 = 1 << 28;
/// Bytes of an entry of the MSI-X table.
const ENTRY_BYTES: u64 = 16;

/// The configuration space of segment 0.
pub trait Configuration {
    /// Reads the word at `offset` (a multiple of 4) of a function (bus << 8 | device << 3 |
    /// function).
    fn read(&self, function: u32, offset: u16) -> u32;
    /// Writes such a word.
    fn write(&self, function: u32, offset: u16, value: u32);
}

/// The records of functions.
pub type Functions = Vec<DeviceFunction, MAX_FUNCTIONS>;

/// Adds all functions of segment 0 to `found`, in order; functions beyond [`MAX_FUNCTIONS`] are
/// quiesced and not recorded. `is_bad` returns whether a BAR lies where no BAR may lie.
pub fn enumerate(space: &impl Configuration, is_bad: impl Fn(&Bar) -> bool, found: &mut Functions) {
    for device in 0..256 * 32u32 {
        let first = device << 3;
        if space.read(first, 0) == ABSENT {
            continue;
        }
        let several = space.read(first, HEADER_TYPE) & SEVERAL_FUNCTIONS != 0;
        for address in first..first + if several { 8 } else { 1 } {
            let id = space.read(address, 0);
            if id != ABSENT {
                let mut record = DeviceFunction { address, id, ..FromZeros::new_zeroed() };
                describe(space, &mut record);
                judge(&mut record, &is_bad);
                let _ = found.push(record);
            }
        }
    }
    mark_shared(found);
}

/// Quiesces a function, and fills its record except for reasons that depend on the machine.
fn describe(space: &impl Configuration, record: &mut DeviceFunction) {
    let read = |offset| space.read(record.address, offset);
    record.class = read(CLASS);
    let header_type = read(HEADER_TYPE) >> 16 & 0x7f;
    if header_type != 0 || record.class >> 24 == CLASS_BRIDGE {
        (record.flags, record.refused) = (flags::BRIDGE, refused::BRIDGE);
        return;
    }
    record.subsystem = read(SUBSYSTEM);
    // The status half of the word is written as zeros, which change nothing.
    let command = read(COMMAND) & 0xffff & !BUS_MASTER | INTX_OFF;
    space.write(record.address, COMMAND, command & !DECODING);
    size_bars(space, record);
    space.write(record.address, COMMAND, command);
    read_capabilities(space, record);
}

/// Sizes the BARs (6.2.5.1): the bits that an address may have read back as written.
fn size_bars(space: &impl Configuration, record: &mut DeviceFunction) {
    let probe = |index: usize| {
        let offset = FIRST_BAR + narrow::low_16(index as u64 * 4);
        let value = space.read(record.address, offset);
        space.write(record.address, offset, u32::MAX);
        let mask = space.read(record.address, offset);
        space.write(record.address, offset, value);
        (u64::from(value), u64::from(mask))
    };
    let mut next = 0;
    while next < BARS {
        let index = next;
        let (low, low_mask) = probe(index);
        let is_wide = low & 0b111 == 0b100 && index + 1 < BARS;
        let (high, high_mask) = if is_wide { probe(index + 1) } else { (0, 0xffff_ffff) };
        next += 1 + usize::from(is_wide);
        let (address, mask) = (high << 32 | low & !0xf, high_mask << 32 | low_mask & !0xf);
        let is_absent = address == 0 || !is_wide && low_mask & !0xf == 0;
        if low & 1 != 0 || is_absent {
            continue;
        }
        record.bars[index] = Bar { address, bytes: mask.wrapping_neg() };
        record.flags |= if is_wide { flags::BAR_64 << index } else { 0 };
        record.flags |= if low & 8 != 0 { flags::BAR_PREFETCHABLE << index } else { 0 };
    }
}

/// Turns MSI and MSI-X off, and records the capabilities that the monitor uses.
fn read_capabilities(space: &impl Configuration, record: &mut DeviceFunction) {
    let address = record.address;
    if space.read(address, COMMAND) & HAS_CAPABILITIES == 0 {
        return;
    }
    let mut next = space.read(address, CAPABILITIES);
    // A list that leads back into itself ends as well.
    for _ in 0..MAX_CAPABILITIES {
        let offset = u16::from(narrow::low_8(u64::from(next))) & !3;
        if offset < FIRST_CAPABILITY {
            return;
        }
        let word = space.read(address, offset);
        next = word >> 8;
        match word & 0xff {
            CAPABILITY_MSI => space.write(address, offset, word & !MSI_ON),
            CAPABILITY_MSIX if record.msix_capability == 0 => {
                space.write(address, offset, word & !MSIX_ON);
                record.msix_capability = offset;
                let [table, pending] = [4, 8].map(|word| space.read(address, offset + word));
                record_vectors(record, word >> 16 & 0x7ff, [table, pending]);
            }
            CAPABILITY_EXPRESS => {
                record.express_capability = offset;
                if space.read(address, offset + 4) & FUNCTION_RESET != 0 {
                    record.flags |= flags::FUNCTION_RESET;
                }
            }
            _ => {}
        }
    }
}

/// Records the MSI-X table of `last + 1` entries and its pending bits. `places` are their words in
/// the capability: an offset, and the number of the BAR in bits 2:0.
fn record_vectors(record: &mut DeviceFunction, last: u32, places: [u32; 2]) {
    let vectors = u64::from(last) + 1;
    let lengths = [vectors * ENTRY_BYTES, vectors.div_ceil(64) * 8];
    let address = |place: u32, bytes: u64| {
        let (bar, offset) = (record.bars.get((place & 7) as usize)?, u64::from(place & !7));
        (offset + bytes <= bar.bytes).then(|| bar.address.saturating_add(offset))
    };
    let [table, pending] = [0, 1].map(|at| address(places[at], lengths[at]));
    match (table, pending) {
        (Some(table), Some(pending)) => {
            (record.msix_table, record.msix_pending) = (table, pending);
            record.msix_vectors = narrow::low_16(vectors);
        }
        _ => record.refused |= refused::BAD_ADDRESS,
    }
}

/// Adds the reasons that a function has by itself and by its place in the machine.
fn judge(record: &mut DeviceFunction, is_bad: impl Fn(&Bar) -> bool) {
    let bars = || record.bars.iter().filter(|bar| bar.bytes > 0);
    let is_odd = |bar: &Bar| {
        let aligned = bar.bytes.is_power_of_two() && bar.address.is_multiple_of(bar.bytes);
        !aligned || bar.address.checked_add(bar.bytes).is_none()
    };
    let mut reasons = 0;
    if record.flags & flags::BRIDGE == 0 && bars().next().is_none() {
        reasons |= refused::NO_MEMORY;
    }
    if bars().any(|bar| is_odd(bar) || is_bad(bar)) {
        reasons |= refused::BAD_ADDRESS;
    }
    if record.msix_vectors > 0 && beside_registers(record) {
        reasons |= refused::TABLE_BESIDE_REGISTERS;
    }
    record.refused |= reasons;
}

/// Returns whether a page with the MSI-X table or its pending bits is also in a BAR that has
/// neither. Within one BAR the specification keeps other registers off such pages (6.8.2).
fn beside_registers(record: &DeviceFunction) -> bool {
    let vectors = u64::from(record.msix_vectors);
    let table = Bar { address: record.msix_table, bytes: vectors * ENTRY_BYTES };
    let pending = Bar { address: record.msix_pending, bytes: vectors.div_ceil(64) * 8 };
    let has = |bar: &Bar, part: &Bar| part.address.wrapping_sub(bar.address) < bar.bytes;
    let others = record.bars.iter().filter(|bar| !has(bar, &table) && !has(bar, &pending));
    others.clone().any(|bar| share_page(bar, &table) || share_page(bar, &pending))
}

/// Returns whether two ranges have a page in common.
fn share_page(a: &Bar, b: &Bar) -> bool {
    let pages = |range: &Bar| {
        let last = range.address.saturating_add(range.bytes.saturating_sub(1));
        (range.address / 4096, last / 4096)
    };
    let ((a_first, a_last), (b_first, b_last)) = (pages(a), pages(b));
    a.bytes > 0 && b.bytes > 0 && a_first <= b_last && b_first <= a_last
}

/// Marks functions whose pages of registers hold a BAR of another function too.
fn mark_shared(found: &mut Functions) {
    for index in 1..found.len() {
        let (before, rest) = found.split_at_mut(index);
        let Some(record) = rest.first_mut() else { return };
        for other in before {
            let meets = |bar: &Bar| other.bars.iter().any(|other| share_page(bar, other));
            if record.bars.iter().any(meets) {
                record.refused |= refused::SHARED_PAGE;
                other.refused |= refused::SHARED_PAGE;
            }
        }
    }
}

#[cfg(test)]
mod tests;
