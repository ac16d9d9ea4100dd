//! A disk, no matter which driver drives it.

use crate::queue::Segment;
use crate::registers::Fault;

/// Bytes of a sector: the unit of all sector numbers, whatever the device's block is.
pub const SECTOR_BYTES: u32 = 512;

/// The properties of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Medium {
    /// Number of sectors.
    pub sectors: u64,
    /// Bytes of a block, which the device writes as a whole.
    pub block_bytes: u32,
    /// Whether the disk is read-only.
    pub read_only: bool,
    /// Whether the disk has a write cache, which a flush empties.
    pub write_cache: bool,
    /// Maximum number of sectors of a discard; 0 if it cannot discard.
    pub discard_sectors: u32,
    /// Sectors of the parts in which a disk forgets, at least 1: the first begins with sector 0. A
    /// part that is discarded in pieces may be kept.
    pub discard_part: u32,
    /// Maximum number of segments of a request.
    pub segments: usize,
    /// Maximum number of bytes of a segment.
    pub segment_bytes: u32,
}

/// A request to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read from this sector on, into the segments.
    Read(u64),
    /// Write from this sector on, from the segments.
    Write(u64),
    /// Make all completed writes durable.
    Flush,
    /// Discard this number of sectors, from this sector on.
    Discard(u64, u32),
}

/// Why a request was not submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsubmitted {
    /// As many requests are in flight as fit. Submit the request after a completion.
    Full,
    /// The disk does not have this operation or these sectors, or the segments are not in memory of
    /// the disk.
    Refused,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The request is done.
    Done,
    /// The disk failed it.
    Failed,
    /// The disk does not have this operation.
    Unsupported,
}

/// A disk that is being driven, with one or more queues.
///
/// A request is named by its queue and its slot there, from its submission to its completion. The
/// memory of its segments is the disk's meanwhile.
pub trait Drive {
    /// The properties of the disk.
    fn medium(&self) -> &Medium;
    /// Number of queues.
    fn queues(&self) -> usize;
    /// Submits a request to a queue, and returns its slot. [`Drive::kick`] notifies the disk.
    ///
    /// # Errors
    /// See [`Unsubmitted`].
    fn submit(
        &mut self,
        queue: usize,
        request: Request,
        segments: &[Segment],
    ) -> Result<u16, Unsubmitted>;
    /// Notifies the disk of the requests that were submitted to a queue.
    fn kick(&mut self, queue: usize);
    /// The next completed request of a queue.
    ///
    /// # Errors
    /// The disk is broken: reset it.
    fn completed(&mut self, queue: usize) -> Result<Option<(u16, Outcome)>, Fault>;
    /// Asks the disk not to interrupt at completions. It may interrupt anyway.
    fn silence(&mut self) {}
    /// Lets the disk interrupt again. Returns whether it has completed something meanwhile, for which
    /// no interrupt comes.
    fn listen(&mut self) -> bool {
        false
    }
    /// Looks whether the disk says that it is broken. The look takes an exit of a virtual machine.
    ///
    /// # Errors
    /// The disk is broken: reset it.
    fn check(&self) -> Result<(), Fault>;
    /// Resets the disk: afterwards it reaches no memory, and no request is in flight. While the
    /// disk is not reset, calls `wait`, which returns `false` once the time is up.
    ///
    /// # Errors
    /// [`Fault::Reset`] or [`Fault::Gone`]: the requests in flight may still reach memory.
    fn reset(&mut self, wait: &mut dyn FnMut() -> bool) -> Result<(), Fault>;
}
