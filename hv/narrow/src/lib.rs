//! Explicit narrowing of numbers in ring 0.
//!
//! `as` drops high bits silently. More than once, a dropped bit made a check of one number guard
//! the use of another. So `clippy::cast_possible_truncation` is on in every crate that ring 0
//! links. A number whose high bits would be an error goes through `try_from`. These functions are
//! for the other cases: a register of 64 bits of which the ABI or the manual defines the low part,
//! and an index, for which `u64` and `usize` are the same.
//!
//! Rule: a function here drops only the bits that its name says.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// The same number, as an index or a count of bytes in memory. Types prove that no bit is lost:
/// this does not compile for a CPU with shorter addresses.
#[must_use]
#[inline(always)]
pub const fn size(number: u64) -> usize {
    usize::from_ne_bytes(number.to_ne_bytes())
}

/// Bits 0 to 31: `unsigned int` in a register, or the `e` part of the register.
#[must_use]
#[inline(always)]
pub const fn low_32(number: u64) -> u32 {
    (number & 0xffff_ffff) as u32
}

/// Bits 0 to 15: a selector or a port.
#[must_use]
#[inline(always)]
pub const fn low_16(number: u64) -> u16 {
    (number & 0xffff) as u16
}

/// Bits 0 to 7.
#[must_use]
#[inline(always)]
pub const fn low_8(number: u64) -> u8 {
    (number & 0xff) as u8
}

/// The index in a 4 KiB page of the 8-byte entry at `address`.
#[must_use]
#[inline(always)]
pub const fn entry_index(address: u64) -> usize {
    size((address & 4095) / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_the_one_that_is_named() {
        let number = 0x0123_4567_89ab_cdef;
        assert_eq!(low_32(number), 0x89ab_cdef);
        assert_eq!((low_16(number), low_8(number)), (0xcdef, 0xef));
        assert_eq!([size(number), size(u64::MAX)], [0x0123_4567_89ab_cdef, usize::MAX]);
        assert_eq!([0x1000, 0x1008, 0x1fff, u64::MAX].map(entry_index), [0, 1, 511, 511]);
    }
}
