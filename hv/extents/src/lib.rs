//! The extents of an endpoint: the sectors of devices that make up its own sectors.
//!
//! An endpoint is a list of extents, in the order of its own sectors; a sector has 512 bytes. The
//! database holds the list, the transaction engine checks it with this crate, and the I/O partition
//! translates requests with it. Each caller keeps the list in memory of its own ([`OwnLayout`] does
//! that for it).
//!
//! # Rules
//! 1. A [`Layout`] exists only for a list that is inside its devices and does not cover a sector
//!    twice, so whoever holds a layout translates without a further check of the devices.
//! 2. Two endpoints have no sector in common ([`check_apart`]), unless both are shared.
//! 3. While an endpoint is attached it can only grow: each sector that a client could reach stays
//!    where it is ([`check_growth`]).
//! 4. A request is translated as a whole or refused as a whole ([`Layout::translate`]).
//!
//! A list has at most [`EXTENTS_MAX`] extents, which bounds every loop here.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;

/// Maximum number of extents of an endpoint.
pub const EXTENTS_MAX: usize = 64;

/// Consecutive sectors of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extent {
    /// The device.
    pub device: u32,
    /// First sector on the device.
    pub start: u64,
    /// Number of sectors, not 0.
    pub sectors: u64,
}

impl Extent {
    /// The sectors that this extent and another have in common.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> Option<Self> {
        if self.device != other.device {
            return None;
        }
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        let sectors = end.checked_sub(start).filter(|&sectors| sectors > 0)?;
        Some(Self { device: self.device, start, sectors })
    }

    /// The sector behind the last one. A layout's extents end inside their devices, so the sum does
    /// not saturate there.
    const fn end(&self) -> u64 {
        self.start.saturating_add(self.sectors)
    }
}

/// Why a list of extents, or a change of one, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The list is empty, or has more than [`EXTENTS_MAX`] extents.
    Count {
        /// Number of extents.
        extents: usize,
    },
    /// An extent has no sector.
    Empty {
        /// The extent's place in the list.
        at: usize,
    },
    /// The device of an extent does not exist.
    NoDevice {
        /// The extent's place in the list.
        at: usize,
    },
    /// An extent does not end inside its device.
    PastEnd {
        /// The extent's place in the list.
        at: usize,
        /// Sectors of the device.
        device_sectors: u64,
    },
    /// Two extents have sectors in common.
    Overlap {
        /// The sectors that both have.
        common: Extent,
    },
    /// The endpoint would have fewer sectors than it has, while it is attached.
    Shrinks {
        /// Sectors that it has.
        from: u64,
        /// Sectors that it would have.
        to: u64,
    },
    /// A sector of the endpoint would lie elsewhere, while it is attached.
    Moves {
        /// The first sector of the endpoint that would move.
        sector: u64,
    },
}

/// A request that is not inside its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outside {
    /// Sectors of the endpoint.
    pub sectors: u64,
}

/// A list of extents that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout<'e> {
    extents: &'e [Extent],
    sectors: u64,
}

impl<'e> Layout<'e> {
    /// Checks a list. `device_sectors` returns the number of sectors of a device, or `None` if there
    /// is no such device.
    ///
    /// # Errors
    /// The first extent that is refused, and why.
    pub fn new(
        extents: &'e [Extent],
        device_sectors: impl Fn(u32) -> Option<u64>,
    ) -> Result<Self, Refused> {
        if extents.is_empty() || extents.len() > EXTENTS_MAX {
            return Err(Refused::Count { extents: extents.len() });
        }
        let mut sectors = 0u64;
        for (at, extent) in extents.iter().enumerate() {
            let device_sectors = device_sectors(extent.device).ok_or(Refused::NoDevice { at })?;
            if extent.sectors == 0 {
                return Err(Refused::Empty { at });
            }
            let inside = |end: &u64| *end <= device_sectors;
            if extent.start.checked_add(extent.sectors).filter(inside).is_none() {
                return Err(Refused::PastEnd { at, device_sectors });
            }
            if let Some(common) = extents[..at].iter().find_map(|before| before.overlap(extent)) {
                return Err(Refused::Overlap { common });
            }
            // Extents that are apart on real devices can still be more than 2^64 sectors together.
            sectors = sectors
                .checked_add(extent.sectors)
                .ok_or(Refused::PastEnd { at, device_sectors })?;
        }
        Ok(Self { extents, sectors })
    }

    /// Number of sectors of the endpoint.
    #[must_use]
    pub const fn sectors(&self) -> u64 {
        self.sectors
    }

    /// The extents, in the order of the endpoint's sectors.
    #[must_use]
    pub const fn extents(&self) -> &'e [Extent] {
        self.extents
    }

    /// Translates `sectors` sectors from `sector` on into pieces, one for each extent that they
    /// touch. If `sectors` is 0, there are no pieces.
    ///
    /// # Errors
    /// They are not all inside the endpoint.
    pub fn translate(&self, sector: u64, sectors: u64) -> Result<Pieces<'e>, Outside> {
        match sector.checked_add(sectors) {
            Some(end) if end <= self.sectors => {
                let (extents, offset) = (self.extents, 0);
                Ok(Pieces { extents, skip: sector, left: sectors, offset })
            }
            _ => Err(Outside { sectors: self.sectors }),
        }
    }
}

/// A checked list in memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnLayout {
    extents: Box<[Extent]>,
    sectors: u64,
}

impl OwnLayout {
    /// Checks a list, and keeps it. See [`Layout::new`].
    ///
    /// # Errors
    /// The first extent that is refused, and why.
    pub fn new(
        extents: Box<[Extent]>,
        device_sectors: impl Fn(u32) -> Option<u64>,
    ) -> Result<Self, Refused> {
        let sectors = Layout::new(&extents, device_sectors)?.sectors;
        Ok(Self { extents, sectors })
    }

    /// The layout.
    #[must_use]
    pub const fn layout(&self) -> Layout<'_> {
        Layout { extents: &self.extents, sectors: self.sectors }
    }
}

/// A part of a request that lies in one extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Piece {
    /// The sectors of the device.
    pub extent: Extent,
    /// Sectors of the request before this part.
    pub offset: u64,
}

/// The pieces of a request, in the order of its sectors.
#[derive(Clone, Debug)]
pub struct Pieces<'e> {
    extents: &'e [Extent],
    /// Sectors of `extents` before the rest of the request.
    skip: u64,
    /// Sectors of the rest of the request.
    left: u64,
    /// Sectors of the request before its rest.
    offset: u64,
}

impl Iterator for Pieces<'_> {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        while self.left > 0 {
            let (first, rest) = self.extents.split_first()?;
            self.extents = rest;
            let Some(after) = first.sectors.checked_sub(self.skip).filter(|&after| after > 0)
            else {
                self.skip -= first.sectors;
                continue;
            };
            let sectors = after.min(self.left);
            let extent = Extent { device: first.device, start: first.start + self.skip, sectors };
            let piece = Piece { extent, offset: self.offset };
            self.skip = 0;
            self.left -= sectors;
            self.offset += sectors;
            return Some(piece);
        }
        None
    }
}

/// Checks that two endpoints have no sector in common. The caller does not ask where both endpoints
/// are shared.
///
/// # Errors
/// [`Refused::Overlap`] with the sectors that both have.
pub fn check_apart(one: &Layout<'_>, other: &Layout<'_>) -> Result<(), Refused> {
    for extent in one.extents {
        if let Some(common) = other.extents.iter().find_map(|other| extent.overlap(other)) {
            return Err(Refused::Overlap { common });
        }
    }
    Ok(())
}

/// Checks that a layout may replace another under an attached client.
///
/// # Errors
/// [`Refused::Shrinks`] or [`Refused::Moves`].
pub fn check_growth(from: &Layout<'_>, to: &Layout<'_>) -> Result<(), Refused> {
    if to.sectors < from.sectors {
        return Err(Refused::Shrinks { from: from.sectors, to: to.sectors });
    }
    let mut sector = 0;
    for old in from.extents {
        let Ok(pieces) = to.translate(sector, old.sectors) else {
            return Err(Refused::Moves { sector });
        };
        for piece in pieces {
            let extent = piece.extent;
            if (extent.device, extent.start) != (old.device, old.start + piece.offset) {
                return Err(Refused::Moves { sector: sector + piece.offset });
            }
        }
        sector += old.sectors;
    }
    Ok(())
}
