//! A request under way: its pins, and the pieces of it that the disks have.

use crate::{Client, Disks, Pin, Tag, Unreached};
use alloc::vec::Vec;
use block_ring::{Features, Indirect, Kind, RawRequest, Refusal, Transfer, decode, decode_segment};
use extents::Layout;
use pv_abi::xen::block::{STATUS_ERROR, STATUS_NOT_SUPPORTED, STATUS_OK, Segment as GrantSegment};
use virtio::drive::{Medium, Outcome, Request, SECTOR_BYTES, Unsubmitted};
use virtio::queue::Segment;

/// Segments of an indirect request that are offered to clients: 128 KiB.
pub const SEGMENTS_OFFERED: usize = 32;
/// How often a flush is issued before the endpoint ends.
pub const FLUSH_TRIES: u8 = 3;
/// Bytes of a page.
const PAGE: u64 = 4096;

/// The operation of a request, with its place in the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Task {
    Read,
    Write,
    Flush,
    Discard,
}

/// Why a request goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A mistake of the client.
    Refused(Refusal),
    /// A grant that does not exist.
    Grant,
    /// There is no room for the pins of the request, so it begins later.
    NoRoom,
}

impl From<Unreached> for Stop {
    fn from(error: Unreached) -> Self {
        match error {
            Unreached::NoGrant => Self::Grant,
            Unreached::NoRoom => Self::NoRoom,
        }
    }
}

/// A request of an entry of the journal.
#[derive(Debug)]
pub(crate) struct Work {
    task: Task,
    /// Sectors of the endpoint. A flush has all sectors that the endpoint has when the flush
    /// begins, since the endpoint may grow meanwhile.
    sector: u64,
    sectors: u64,
    /// Sectors that the disks have got.
    submitted: u64,
    /// Pieces that are in flight.
    flying: u32,
    status: i16,
    /// Times that a flush has failed.
    failed: u8,
    pins: Vec<Pin>,
    segments: Vec<Segment>,
}

impl Work {
    /// An idle one, with room for the largest request.
    pub(crate) fn idle() -> Self {
        Self {
            task: Task::Flush,
            sector: 0,
            sectors: 0,
            submitted: 0,
            flying: 0,
            status: STATUS_OK,
            failed: 0,
            pins: Vec::with_capacity(SEGMENTS_OFFERED),
            segments: Vec::with_capacity(SEGMENTS_OFFERED),
        }
    }

    /// Begins a request: checks it, and pins its pages.
    pub(crate) fn begin(
        &mut self,
        raw: &RawRequest,
        features: &Features,
        client: &mut impl Client,
    ) -> Result<(), Stop> {
        (self.submitted, self.flying, self.failed, self.status) = (0, 0, 0, STATUS_OK);
        (self.sector, self.sectors) = (0, 0);
        match decode(raw, features).map_err(Stop::Refused)?.kind {
            Kind::Flush => {
                (self.task, self.sectors) = (Task::Flush, features.sectors);
                Ok(())
            }
            Kind::Discard { sector, sectors } => {
                (self.task, self.sector, self.sectors) = (Task::Discard, sector, sectors);
                Ok(())
            }
            Kind::Transfer(Transfer { write, sector, sectors, segments }) => {
                self.set_transfer(write, sector, sectors);
                self.pin(client, segments.as_slice())
            }
            Kind::Indirect(indirect) => self.begin_indirect(&indirect, features, client),
        }
    }

    fn set_transfer(&mut self, write: bool, sector: u64, sectors: u32) {
        self.task = if write { Task::Write } else { Task::Read };
        (self.sector, self.sectors) = (sector, sectors.into());
    }

    /// Copies the segments out of the client's page, and checks the copy. As many as are offered
    /// fit one page.
    fn begin_indirect(
        &mut self,
        indirect: &Indirect,
        features: &Features,
        client: &mut impl Client,
    ) -> Result<(), Stop> {
        let mut words = [0; SEGMENTS_OFFERED];
        let count = usize::from(indirect.segments);
        let (Some(words), [page, ..]) = (words.get_mut(..count), indirect.pages()) else {
            return Err(Stop::Refused(Refusal::Empty));
        };
        client.copy(*page, words)?;
        let checked = indirect.check(words.iter().copied(), features).map_err(Stop::Refused)?;
        self.set_transfer(indirect.write, indirect.sector, checked);
        let mut segments = [GrantSegment::default(); SEGMENTS_OFFERED];
        for (to, word) in segments.iter_mut().zip(words.iter()) {
            *to = decode_segment(*word);
        }
        self.pin(client, segments.get(..count).unwrap_or_default())
    }

    /// Pins the pages of checked segments, all or none.
    fn pin(&mut self, client: &mut impl Client, segments: &[GrantSegment]) -> Result<(), Stop> {
        let mut grants = [0; SEGMENTS_OFFERED];
        let grants = grants.get_mut(..segments.len()).ok_or(Stop::Refused(Refusal::Empty))?;
        grants.iter_mut().zip(segments).for_each(|(to, segment)| *to = segment.gref);
        client.pin(grants, self.task == Task::Read, &mut self.pins)?;
        for (segment, pin) in segments.iter().zip(&self.pins) {
            let first = u64::from(segment.first_sect) * u64::from(SECTOR_BYTES);
            let sectors = u32::from(segment.last_sect - segment.first_sect) + 1;
            let address = (pin.address / PAGE * PAGE) + first;
            self.segments.push(Segment { address, bytes: sectors * SECTOR_BYTES });
        }
        Ok(())
    }

    /// Drops all pins.
    pub(crate) fn unpin(&mut self, client: &mut impl Client) {
        self.segments.clear();
        if !self.pins.is_empty() {
            client.unpin(&self.pins);
            self.pins.clear();
        }
    }

    /// Number of pieces that are in flight.
    pub(crate) const fn flying(&self) -> u32 {
        self.flying
    }

    /// Whether the request is a flush.
    pub(crate) fn is_flush(&self) -> bool {
        self.task == Task::Flush
    }

    /// Gives the disks the pieces that they have not got yet. Returns `false` if a queue is full.
    pub(crate) fn submit(&mut self, layout: &Layout<'_>, disks: &mut impl Disks, tag: Tag) -> bool {
        if self.task == Task::Flush {
            return self.submit_flush(layout, disks, tag);
        }
        while self.submitted < self.sectors && self.status == STATUS_OK {
            let (sector, left) = (self.sector + self.submitted, self.sectors - self.submitted);
            let piece = layout.translate(sector, left).ok().and_then(|mut pieces| pieces.next());
            let medium = piece.and_then(|piece| disks.medium(piece.extent.device));
            let (Some(piece), Some(medium)) = (piece, medium) else {
                self.status = STATUS_ERROR;
                break;
            };
            let (device, start) = (piece.extent.device, piece.extent.start);
            if self.submitted == 0 && self.is_one_piece(piece.extent.sectors, &medium) {
                match disks.submit(device, self.transfer(start), &self.segments, tag) {
                    Ok(()) => (self.submitted, self.flying) = (self.sectors, 1),
                    Err(Unsubmitted::Full) => return false,
                    Err(Unsubmitted::Refused) => self.status = STATUS_ERROR,
                }
                break;
            }
            let mut segments = [Segment::default(); SEGMENTS_OFFERED];
            let (request, segments, sectors) = match self.task {
                Task::Discard if medium.discard_sectors == 0 => {
                    self.status = STATUS_NOT_SUPPORTED;
                    break;
                }
                Task::Discard => {
                    let sectors = discarded(start, piece.extent.sectors, &medium);
                    let count = u32::try_from(sectors).unwrap_or(u32::MAX);
                    (Request::Discard(start, count), &segments[..0], sectors)
                }
                Task::Read | Task::Write | Task::Flush => {
                    let most = medium.segments.min(segments.len());
                    let room = segments.get_mut(..most).unwrap_or_default();
                    let (used, sectors) = cut(
                        (&self.segments, self.submitted),
                        (piece.extent.sectors, medium.segment_bytes),
                        room,
                    );
                    (self.transfer(start), &segments[..used], sectors)
                }
            };
            match disks.submit(device, request, segments, tag) {
                Ok(()) if sectors > 0 => {
                    self.submitted += sectors;
                    self.flying += 1;
                }
                Err(Unsubmitted::Full) => return false,
                _ => self.status = STATUS_ERROR,
            }
        }
        true
    }

    /// Whether the whole request can be one piece of so many sectors, with its segments as they are.
    fn is_one_piece(&self, sectors: u64, medium: &Medium) -> bool {
        matches!(self.task, Task::Read | Task::Write)
            && sectors == self.sectors
            && self.segments.len() <= medium.segments
            && self.segments.iter().all(|segment| segment.bytes <= medium.segment_bytes)
    }

    /// A transfer of this task from a disk's sector on.
    fn transfer(&self, start: u64) -> Request {
        if self.task == Task::Read { Request::Read(start) } else { Request::Write(start) }
    }

    /// Flushes each disk of the endpoint once.
    fn submit_flush(&mut self, layout: &Layout<'_>, disks: &mut impl Disks, tag: Tag) -> bool {
        while self.submitted < self.sectors {
            let (sector, left) = (self.submitted, self.sectors - self.submitted);
            let piece = layout.translate(sector, left).ok().and_then(|mut pieces| pieces.next());
            // A layout never loses sectors.
            let Some(extent) = piece.map(|piece| piece.extent).filter(|one| one.sectors > 0) else {
                (self.submitted, self.status) = (self.sectors, STATUS_ERROR);
                break;
            };
            let device = extent.device;
            let known = sector > 0
                && layout
                    .translate(0, sector)
                    .is_ok_and(|mut before| before.any(|one| one.extent.device == device));
            let cached = disks.medium(device).is_none_or(|medium| medium.write_cache);
            if !known && cached {
                match disks.submit(device, Request::Flush, &[], tag) {
                    Ok(()) => self.flying += 1,
                    Err(Unsubmitted::Full) => return false,
                    Err(Unsubmitted::Refused) => self.status = STATUS_ERROR,
                }
            }
            self.submitted += extent.sectors;
        }
        true
    }

    /// Notes the end of a piece.
    pub(crate) fn ended(&mut self, outcome: Outcome) {
        self.flying = self.flying.saturating_sub(1);
        match outcome {
            Outcome::Done => {}
            // The client discards no more.
            Outcome::Unsupported if self.task == Task::Discard => {
                self.status = STATUS_NOT_SUPPORTED;
            }
            // What a disk does not have was not offered, or the endpoint's disks differ: an error.
            Outcome::Unsupported | Outcome::Failed => self.status = STATUS_ERROR,
        }
    }

    /// Whether all pieces are done, or nothing more is submitted after an error.
    pub(crate) fn is_done(&self) -> bool {
        let failed = self.status != STATUS_OK && self.task != Task::Flush;
        self.flying == 0 && (self.submitted >= self.sectors || failed)
    }

    /// The status of the answer, once it is done.
    pub(crate) const fn status(&self) -> i16 {
        self.status
    }

    /// If a flush has failed, prepares it to be issued again. Returns whether it was issued too
    /// often.
    pub(crate) fn flush_again(&mut self) -> Option<bool> {
        if self.task != Task::Flush || self.status == STATUS_OK {
            return None;
        }
        self.failed += 1;
        (self.submitted, self.status) = (0, STATUS_OK);
        Some(self.failed >= FLUSH_TRIES)
    }
}

/// The sectors of a discard that go to a disk in one piece. Where the rest follows, the piece ends with
/// a whole part of the disk, since a part in two pieces may be kept.
fn discarded(start: u64, sectors: u64, medium: &Medium) -> u64 {
    let most = u64::from(medium.discard_sectors);
    if sectors <= most {
        return sectors;
    }
    let over = start.saturating_add(most) % u64::from(medium.discard_part).max(1);
    if over < most { most - over } else { most }
}

/// Cuts the next piece out of a request's segments, from sector `skip` of the request on: at most
/// `sectors` sectors, with at most `bytes` in a segment. Returns the number of segments and of
/// sectors.
fn cut(
    (segments, skip): (&[Segment], u64),
    (sectors, bytes): (u64, u32),
    to: &mut [Segment],
) -> (usize, u64) {
    let size = u64::from(SECTOR_BYTES);
    let (mut skip, mut left, mut used) = (skip * size, sectors * size, 0);
    for segment in segments {
        let (mut address, mut rest) = (segment.address, u64::from(segment.bytes));
        let before = skip.min(rest);
        (skip, address, rest) = (skip - before, address + before, rest - before);
        while rest > 0 && left > 0 {
            let Some(place) = to.get_mut(used) else {
                return (used, sectors - left / size);
            };
            let now = rest.min(left).min(u64::from(bytes));
            *place = Segment { address, bytes: u32::try_from(now).unwrap_or(0) };
            (used, address, rest, left) = (used + 1, address + now, rest - now, left - now);
        }
    }
    (used, sectors - left / size)
}
