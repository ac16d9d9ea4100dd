//! The register ranges of a virtio function (4.1.4).
//!
//! A function has vendor-specific capabilities that name parts of its BARs. The list is the
//! device's, so it is followed for at most as many steps as fit configuration space, and a range is
//! accepted only if it lies inside of its BAR.

use core::fmt;

/// Number of BARs.
pub const BARS: usize = 6;

/// Offset of the first capability's offset, and of the status register, in configuration space.
const CAPABILITIES: u16 = 0x34;
const COMMAND_STATUS: u16 = 4;
/// In the word at [`COMMAND_STATUS`]: the function has capabilities.
const HAS_CAPABILITIES: u32 = 1 << 20;
/// Id of a vendor-specific capability.
const VENDOR_SPECIFIC: u8 = 9;
/// Most capabilities that fit 192 bytes.
const MOST: usize = 48;

/// Values of a capability's `cfg_type` (4.1.4).
mod part {
    pub const COMMON: u8 = 1;
    pub const NOTIFY: u8 = 2;
    pub const DEVICE: u8 = 4;
}

/// Bytes of the common configuration that this driver uses.
const COMMON_BYTES: u32 = 0x38;

/// A range of registers in a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The BAR.
    pub bar: usize,
    /// Offset of the first byte.
    pub offset: u32,
    /// Number of bytes.
    pub bytes: u32,
}

impl Range {
    /// Returns whether `bytes` bytes at `offset` are inside.
    #[must_use]
    pub fn holds(&self, offset: u32, bytes: u32) -> bool {
        offset.checked_add(bytes).is_some_and(|end| end <= self.bytes)
    }
}

/// The register ranges of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// The common configuration.
    pub common: Range,
    /// The registers that notify queues.
    pub notify: Range,
    /// Bytes between the places of two notify offsets.
    pub notify_step: u32,
    /// The registers that only this type of device has.
    pub device: Range,
}

/// Why a function cannot be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The function lacks a capability with this name, as a legacy function does.
    Missing(&'static str),
    /// The range with this name is not inside a memory BAR, too small or not aligned.
    Outside(&'static str),
    /// The status did not become 0 after a 0 was written to it.
    Reset,
    /// The function is gone, or answers with ones only.
    Gone,
    /// The function does not offer VIRTIO_F_VERSION_1, or does not accept the driver's features.
    Features,
    /// A queue does not exist, is too small, or is in use.
    Queue,
    /// The function does not accept this MSI-X vector.
    Vector(u16),
    /// The function reports that it needs a reset.
    NeedsReset,
    /// Its used ring names a request that is not in flight, or too many of them.
    UsedRing,
    /// The configuration makes no sense; this is the wrong field.
    Configuration(&'static str),
    /// The memory for its queues is too small.
    NoMemory,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(what) => write!(
                f,
                "it has no {what}: it is a legacy function; give the virtual machine a modern or \
                 transitional one"
            ),
            Self::Outside(what) => write!(f, "its {what} is not inside a memory BAR"),
            Self::Reset => f.write_str("its reset is not confirmed"),
            Self::Gone => f.write_str("it does not answer"),
            Self::Features => f.write_str("it does not accept the features of virtio 1"),
            Self::Queue => f.write_str("it has no usable queue"),
            Self::Vector(vector) => write!(f, "it does not accept interrupt vector {vector}"),
            Self::NeedsReset => f.write_str("it says that it needs a reset"),
            Self::UsedRing => f.write_str("it completed a request that it did not have"),
            Self::Configuration(field) => {
                write!(f, "its configuration makes no sense: {field}")
            }
            Self::NoMemory => f.write_str("the DMA region has no room for its queues"),
        }
    }
}

impl core::error::Error for Fault {}

/// Finds the register ranges. `read` returns the word at an offset of configuration space (a
/// multiple of 4, below 256), `bars` has the size of each memory BAR, or 0.
///
/// # Errors
/// [`Fault::Missing`] or [`Fault::Outside`].
pub fn find(read: impl Fn(u16) -> u32, bars: [u64; BARS]) -> Result<Ranges, Fault> {
    let (mut common, mut notify, mut device, mut step) = (None, None, None, 0);
    let mut next = 0;
    if read(COMMAND_STATUS) & HAS_CAPABILITIES != 0 {
        next = (read(CAPABILITIES) & 0xfc) as u16;
    }
    for _ in 0..MOST {
        // A capability lies behind the header, and those of virtio end before 256.
        if next < 0x40 {
            break;
        }
        let [id, following, length, kind] = read(next).to_le_bytes();
        let at = next;
        next = u16::from(following & 0xfc);
        if id != VENDOR_SPECIFIC || length < 16 || at + u16::from(length) > 256 {
            continue;
        }
        let place = match kind {
            part::COMMON => &mut common,
            part::NOTIFY if length >= 20 => &mut notify,
            part::DEVICE => &mut device,
            _ => continue,
        };
        // The first of a kind counts (4.1.4.1).
        if place.is_none() {
            let bar = (read(at + 4) & 0xff) as usize;
            *place = Some(Range { bar, offset: read(at + 8), bytes: read(at + 12) });
            if kind == part::NOTIFY {
                step = read(at + 16);
            }
        }
    }
    let inside = |range: Option<Range>, what, least, align: u32| {
        let range = range.ok_or(Fault::Missing(what))?;
        let size = bars.get(range.bar).copied().unwrap_or(0);
        let end = u64::from(range.offset) + u64::from(range.bytes);
        let fits = end <= size && range.bytes >= least && range.offset.is_multiple_of(align);
        if fits { Ok(range) } else { Err(Fault::Outside(what)) }
    };
    Ok(Ranges {
        common: inside(common, "common configuration", COMMON_BYTES, 4)?,
        notify: inside(notify, "notify range", 2, 2)?,
        notify_step: step,
        device: inside(device, "device configuration", 1, 4)?,
    })
}

/// Access to a function's registers. The numbers are little-endian; `bytes` is 1, 2 or 4, and
/// `offset` is a multiple of it inside of the range.
pub trait Registers {
    /// Reads a register.
    fn read(&self, range: Range, offset: u32, bytes: u32) -> u32;
    /// Writes a register.
    fn write(&mut self, range: Range, offset: u32, bytes: u32, value: u32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Space;
    use proptest::prelude::*;

    #[test]
    fn the_ranges_of_a_function_are_found() {
        let space = Space::virtio();
        let ranges = find(|at| space.read(at), space.bars).unwrap();
        assert_eq!(ranges.common, Range { bar: 4, offset: 0, bytes: 0x1000 });
        assert_eq!(ranges.device, Range { bar: 4, offset: 0x2000, bytes: 0x1000 });
        assert_eq!(ranges.notify, Range { bar: 4, offset: 0x3000, bytes: 0x1000 });
        assert_eq!(ranges.notify_step, 4);
    }

    #[test]
    fn a_range_outside_of_its_bar_is_refused() {
        let mut space = Space::virtio();
        space.bars[4] = 0x3fff;
        assert_eq!(find(|at| space.read(at), space.bars), Err(Fault::Outside("notify range")));
        space.bars[4] = 0;
        let refused = find(|at| space.read(at), space.bars);
        assert_eq!(refused, Err(Fault::Outside("common configuration")));
        let none = find(|_| 0, space.bars);
        assert_eq!(none, Err(Fault::Missing("common configuration")));
        assert!(find(|_| u32::MAX, [u64::MAX; BARS]).is_err());
    }

    proptest! {
        /// Whatever a device says, each range that is found is inside of its BAR.
        #[test]
        fn wild_capabilities_name_nothing_outside(
            damage in prop::collection::vec((0_usize..64, any::<u32>()), 0..20),
            size in 0_u64..0x8000,
        ) {
            let mut space = Space::virtio();
            damage.into_iter().for_each(|(at, word)| space.words[at] = word);
            space.bars = [size; BARS];
            if let Ok(ranges) = find(|at| space.read(at), space.bars) {
                for range in [ranges.common, ranges.notify, ranges.device] {
                    prop_assert!(u64::from(range.offset) + u64::from(range.bytes) <= size);
                }
            }
        }
    }
}
