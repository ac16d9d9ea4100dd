//! The type of machine frame numbers.
//!
//! A frame number, an address and a page-table entry are all 64 bits wide, and each leads to the
//! others by a shift of 12. A number that was shifted once too often or not at all names another
//! partition's frame. So ring 0 holds frame numbers as [`Mfn`], and each way from one to the other
//! stands once, here.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// The number of a machine frame. Having one proves nothing about the frame: a partition may have
/// supplied the number, and no memory may be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use]
#[repr(transparent)]
pub struct Mfn(u64);

/// The address bits of a page-table entry and of CR3 (Intel SDM volume 3, section 4.5).
pub const ADDRESS: u64 = 0x000F_FFFF_FFFF_F000;

impl Mfn {
    /// Frame 0, which belongs to no partition. Calls and the monitor's records use it for no frame.
    pub const NONE: Self = Self(0);

    /// The frame with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The frame that holds a physical address.
    pub const fn of_address(address: u64) -> Self {
        Self(address >> 12)
    }

    /// The frame that a page-table entry or a value of CR3 names.
    pub const fn of_entry(entry: u64) -> Self {
        Self((entry & ADDRESS) >> 12)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Its first physical address, which is also the address part of an entry that names it.
    pub const fn address(self) -> u64 {
        self.0 << 12
    }

    /// The frame that lies `frames` after this one.
    pub const fn plus(self, frames: u64) -> Self {
        Self(self.0 + frames)
    }

    /// Returns whether it is [`Mfn::NONE`].
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_names_the_frame_in_its_address_bits() {
        for number in [1, 0x1234, (1 << 40) - 1] {
            let mfn = Mfn::new(number);
            for flags in [0, 0xfff, 0xfff << 52, 0xfff | 0xfff << 52] {
                assert_eq!(Mfn::of_entry(mfn.address() | flags), mfn);
            }
            assert_eq!(Mfn::of_address(mfn.address() + 4095), mfn);
        }
    }

    #[test]
    fn an_address_keeps_the_bits_that_no_entry_can_hold() {
        // Such an address names no memory. It must not become a low frame.
        assert_eq!(Mfn::of_address(1 << 52), Mfn::new(1 << 40));
        assert!(Mfn::of_entry(1 << 52).is_none());
    }
}
