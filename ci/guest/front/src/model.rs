//! The expected contents of each sector, and the requests in flight that use it.

use crate::sector::{SECTOR_WORDS, sum};
use crate::{Cookie, Fault};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// Number of sectors that a run uses: all of a small disk, or the begin and the end of a large one.
pub const WINDOW: usize = 8192;

/// The middle of the window is at a multiple of this number of sectors, so that disks of larger
/// sectors can be used.
const SECTORS_OF_PAGE: usize = pv_abi::xen::block::PAGE_SECTORS as usize;

/// The known contents of a sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Known {
    /// Nothing. The first read decides.
    #[default]
    Unseen,
    /// The sector was discarded, so it may hold anything.
    Undefined,
    /// The sector was read, and nothing has written it since: the CRC-32 of its bytes.
    Sum(u32),
    /// The number of the last write to the sector.
    Write(u32),
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unseen | Self::Undefined => f.write_str("anything"),
            Self::Sum(sum) => write!(f, "the contents that were read before, with CRC {sum:#x}"),
            Self::Write(number) => write!(f, "write {number}"),
        }
    }
}

/// The sectors that a run uses, by their places in its window.
#[derive(Debug)]
pub struct Model {
    seed: u64,
    /// Sectors of the disk.
    sectors: u64,
    known: Vec<Known>,
    /// Reads in flight of each sector, or [`ALONE`].
    users: Vec<u8>,
}

/// In [`Model::users`]: a write or a discard.
const ALONE: u8 = u8::MAX;

impl Model {
    /// A model of a disk with unknown contents. At most `most` of its sectors are used.
    #[must_use]
    pub fn new(seed: u64, sectors: u64, most: usize) -> Self {
        let window = usize::try_from(sectors).map_or(most, |sectors| sectors.min(most));
        Self { seed, sectors, known: vec![Known::Unseen; window], users: vec![0; window] }
    }

    /// Number of places.
    #[must_use]
    pub const fn places(&self) -> usize {
        self.known.len()
    }

    /// The sector at a place. Neighbours are neighbours on the disk, except those at
    /// [`Model::middle`].
    #[must_use]
    pub fn sector(&self, place: usize) -> u64 {
        if place < self.middle() {
            place as u64
        } else {
            self.sectors - (self.places() - place) as u64
        }
    }

    /// The place at which the end of the disk begins.
    #[must_use]
    pub const fn middle(&self) -> usize {
        self.places() / 2 / SECTORS_OF_PAGE * SECTORS_OF_PAGE
    }

    /// Takes places for a request, if nothing in flight is in the way.
    pub fn take(&mut self, places: Range<usize>, alone: bool) -> bool {
        let Some(users) = self.users.get_mut(places) else {
            return false;
        };
        let most = if alone { 0 } else { ALONE - 2 };
        if users.iter().any(|users| *users > most) {
            return false;
        }
        users.iter_mut().for_each(|users| *users = if alone { ALONE } else { *users + 1 });
        true
    }

    /// Returns the places of a request.
    pub fn put(&mut self, places: Range<usize>) {
        for users in self.users.get_mut(places).unwrap_or_default() {
            *users = if *users == ALONE { 0 } else { users.saturating_sub(1) };
        }
    }

    /// Records the contents that sectors have from now on.
    pub fn set(&mut self, places: Range<usize>, known: Known) {
        self.known.get_mut(places).unwrap_or_default().fill(known);
    }

    /// The words that write number `write` puts into the sector at a place.
    #[must_use]
    pub fn contents(&self, place: usize, write: u32) -> [u32; SECTOR_WORDS] {
        Cookie { seed: self.seed, sector: self.sector(place), write }.contents()
    }

    /// Checks words that were read from the sector at a place.
    ///
    /// # Errors
    /// [`Fault::Contents`].
    pub fn check(&mut self, place: usize, words: &[u32; SECTOR_WORDS]) -> Result<(), Fault> {
        let known = self.known[place];
        let right = match known {
            Known::Undefined => true,
            Known::Unseen => {
                self.known[place] = Known::Sum(sum(words));
                true
            }
            Known::Sum(before) => sum(words) == before,
            Known::Write(write) => *words == self.contents(place, write),
        };
        if right {
            return Ok(());
        }
        Err(Fault::Contents { sector: self.sector(place), known, found: Cookie::read(words) })
    }
}
