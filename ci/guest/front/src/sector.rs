//! The contents of a written sector.

use alloc::vec::Vec;
use core::fmt;

/// Words of 32 bits in a sector.
pub const SECTOR_WORDS: usize = pv_abi::xen::block::SECTOR_BYTES / 4;
/// The first word of a written sector.
const MAGIC: u32 = 0x6b6f_6f63;
/// Words before the stream.
const HEAD: usize = 6;

/// The contents of a written sector.
///
/// Layout in words: magic, seed (2), sector (2), write, a stream of words that follows from these,
/// and the CRC-32 of all bytes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// The seed of the run.
    pub seed: u64,
    /// The sector's number.
    pub sector: u64,
    /// The number of the write, from 1.
    pub write: u32,
}

impl Cookie {
    /// The contents of the sector.
    #[must_use]
    pub fn contents(&self) -> [u32; SECTOR_WORDS] {
        let Self { seed, sector, write } = *self;
        let mut words = [0; SECTOR_WORDS];
        let (seed_words, sector_words) = (halves(seed), halves(sector));
        words[..HEAD].copy_from_slice(&[
            MAGIC,
            seed_words[0],
            seed_words[1],
            sector_words[0],
            sector_words[1],
            write,
        ]);
        let mut word = sector_words[0] ^ write.rotate_left(16) ^ seed_words[0];
        for place in &mut words[HEAD..SECTOR_WORDS - 1] {
            word = word.wrapping_mul(0x9e37_79b1).wrapping_add(0x7f4a_7c15);
            *place = word ^ (word >> 15);
        }
        words[SECTOR_WORDS - 1] = sum(&words[..SECTOR_WORDS - 1]);
        words
    }

    /// The cookie in a sector; `None` if the sector holds no cookie, or a damaged one.
    #[must_use]
    pub fn read(words: &[u32]) -> Option<Self> {
        let &[magic, a, b, c, d, write, ..] = words else {
            return None;
        };
        let (rest, last) = words.split_at_checked(SECTOR_WORDS - 1)?;
        (magic == MAGIC && last == [sum(rest)]).then_some(Self {
            seed: join(a, b),
            sector: join(c, d),
            write,
        })
    }
}

impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, sector, write } = self;
        write!(f, "write {write} of sector {sector} with seed {seed}")
    }
}

/// CRC-32 of the bytes of words.
pub fn sum(words: &[u32]) -> u32 {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    crc32fast::hash(&bytes)
}

const fn halves(value: u64) -> [u32; 2] {
    [(value & 0xffff_ffff) as u32, (value >> 32) as u32]
}

const fn join(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}
