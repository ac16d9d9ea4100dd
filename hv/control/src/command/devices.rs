//! Rows of answers about PCI functions, and the words for their addresses and reasons.

use alloc::vec::Vec;
use core::fmt;
use pv_abi::uv::devices::refused;
use serde::{Deserialize, Serialize};

/// A PCI function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRow {
    /// Its index in the device table, by which operations name it.
    pub index: u32,
    /// Segment << 16 | bus << 8 | device << 3 | function.
    pub address: u32,
    /// Vendor | device << 16.
    pub id: u32,
    /// Class << 8 | revision.
    pub class: u32,
    /// Subsystem vendor | subsystem << 16; 0 if it has none.
    pub subsystem: u32,
    /// Number of its MSI-X vectors.
    pub vectors: u16,
    /// Its memory BARs.
    pub bars: Vec<BarRow>,
    /// The reasons why the function cannot be given to a partition; see
    /// [`pv_abi::uv::devices::refused`]. 0 means that it can.
    pub refused: u32,
    /// Owner; 0 if free.
    pub owner: u32,
    /// The I/O partition that gets it once its owner has let go of it; 0 if it stays.
    pub next: u32,
}

/// A memory BAR.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BarRow {
    /// The number of its register, 0 to 5.
    pub register: u8,
    /// Physical address.
    pub address: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// A PCI address, shown as `segment:bus:device.function`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciAddress(pub u32);

impl PciAddress {
    /// Reads an address such as `00:05.0` or `0000:00:05.0`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (rest, function) = text.split_once('.')?;
        let mut parts = rest.rsplit(':');
        let hex = |text: &str, digits: usize, most: u32| {
            let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
            let number = (is_hex && text.len() <= digits).then(|| u32::from_str_radix(text, 16));
            number?.ok().filter(|number| *number <= most)
        };
        let device = hex(parts.next()?, 2, 0x1f)?;
        let bus = hex(parts.next()?, 2, 0xff)?;
        let segment = parts.next().map_or(Some(0), |text| hex(text, 4, 0xffff))?;
        let function = hex(function, 1, 7)?;
        let address = segment << 16 | bus << 8 | device << 3 | function;
        parts.next().is_none().then_some(Self(address))
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(value) = *self;
        let (segment, bus) = (value >> 16, value >> 8 & 0xff);
        write!(f, "{segment:04x}:{bus:02x}:{:02x}.{}", value >> 3 & 0x1f, value & 7)
    }
}

/// The reasons in [`DeviceRow::refused`], in words. A bit without words counts as one reason more.
pub fn refused_words(bits: u32) -> impl Iterator<Item = &'static str> {
    const REASONS: [(u32, &str); 5] = [
        (refused::BRIDGE, "it is a bridge"),
        (refused::SHARED_PAGE, "a page of its registers has registers of another function, too"),
        (
            refused::TABLE_BESIDE_REGISTERS,
            "a page of its interrupt table has other registers of the function, too",
        ),
        (
            refused::BAD_ADDRESS,
            "its registers overlap RAM or the monitor's registers, or have no address",
        ),
        (refused::NO_MEMORY, "it has no registers in memory"),
    ];
    let known = REASONS.iter().fold(0, |all, (bit, _)| all | bit);
    let words = REASONS.iter().filter(move |(bit, _)| bits & bit != 0).map(|(_, words)| *words);
    words.chain((bits & !known != 0).then_some("the monitor refuses it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn addresses_read_as_everywhere() {
        assert_eq!(PciAddress(0x0001_0000 | 2 << 8 | 31 << 3 | 7).to_string(), "0001:02:1f.7");
        assert_eq!(PciAddress(0).to_string(), "0000:00:00.0");
    }

    #[test]
    fn each_reason_has_words() {
        assert_eq!(refused_words(0).count(), 0);
        let two: Vec<_> = refused_words(refused::BRIDGE | refused::NO_MEMORY).collect();
        assert_eq!(two, ["it is a bridge", "it has no registers in memory"]);
        for bit in (0..32).map(|bit| 1 << bit) {
            assert_eq!(refused_words(bit).count(), 1, "{bit:#x}");
        }
        assert_eq!(refused_words(u32::MAX).count(), 6);
    }
}
