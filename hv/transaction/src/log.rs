//! The log: a ring of records in pages of the arena.
//!
//! ```text
//! byte 0   "UVLOG001"
//!      8   u32 offset of the oldest entry, u32 offset after the newest (both in the ring)
//!     64   the ring: entries of { u32 length, u32 CRC-32 of the payload, payload, zeros to 8 }
//! ```
//!
//! A payload is a postcard [`Entry`]: a record before its changes are made, then how it ended.
//! An entry is written whole before the offset after it moves, so that a log that ends in the
//! middle of an entry does not have that entry.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::mem::size_of;

use pv_abi::uv::command::LogRow;
use resource_db::{Database, WriteError};
use serde::{Deserialize, Serialize};

use crate::Change;
use alloc::string::{String, ToString};

const MAGIC: [u8; 8] = *b"UVLOG001";
const RING: u32 = 64;
const ENTRY_HEADER: u32 = 2 * size_of::<u32>() as u32;

/// How a record ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settled {
    /// Written ahead; not ended.
    Begun,
    /// Applied and activated.
    Committed,
    /// Not done, or undone.
    Refused,
    /// Applied and activated, until its owner completes it or fails.
    Pending,
    /// Was pending and is undone.
    RolledBack,
    /// The monitor did it by itself.
    Monitor,
}

impl Settled {
    /// The word in [`LogRow::outcome`].
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Committed => "committed",
            Self::Refused => "refused",
            Self::Pending => "pending",
            Self::RolledBack => "rolled back",
            Self::Monitor => "monitor",
        }
    }
}

/// A transaction in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Sequence number, rising by one.
    pub sequence: u64,
    /// System time in nanoseconds.
    pub time: u64,
    /// The partition that asked.
    pub who: u32,
    /// Id of its request.
    pub request: u64,
    /// Version of the database after it.
    pub version: u64,
    /// What is known when the record is written.
    pub settled: Settled,
    /// What is done, for people.
    pub what: String,
    /// Why, or why not.
    pub reason: String,
    /// Partitions it was about, by number.
    pub partitions: Vec<u32>,
    /// Redo and undo.
    pub changes: Vec<Change>,
}

impl Record {
    /// As a query shows it.
    #[must_use]
    pub fn row(&self) -> LogRow {
        LogRow {
            sequence: self.sequence,
            time: self.time,
            who: self.who,
            request: self.request,
            version: self.version,
            outcome: self.settled.word().to_string(),
            what: self.what.clone(),
            reason: self.reason.clone(),
            partitions: self.partitions.clone(),
        }
    }
}

/// What the ring holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    /// A record.
    Record(Record),
    /// How the record of that number ended, and why where it was refused.
    Settled(u64, Settled, String),
}

/// Where the ring's entries are. The ring itself is in the database's log pages.
#[derive(Debug)]
pub(crate) struct Log {
    /// Bytes of the ring, a multiple of 8.
    size: u32,
    start: u32,
    end: u32,
    /// Number of the next record.
    pub(crate) next: u64,
    /// Where the records are, oldest first, their numbers rising by one.
    places: VecDeque<Place>,
}

/// Where a record is, and the entry that says how it ended.
#[derive(Clone, Copy, Debug)]
struct Place {
    sequence: u64,
    record: u32,
    settled: Option<u32>,
}

/// The largest payload of an entry.
fn most(size: u32) -> u32 {
    size / 4
}

impl Log {
    /// Makes an empty log.
    pub(crate) fn create(database: &mut Database) -> Result<Self, WriteError> {
        let size = database.log_bytes().saturating_sub(RING) / 8 * 8;
        let log = Self { size, start: 0, end: 0, next: 1, places: VecDeque::new() };
        database.write_log(0, &MAGIC)?;
        log.save(database)?;
        Ok(log)
    }

    /// Takes over the log that is there.
    pub(crate) fn open(database: &mut Database) -> Result<Self, WriteError> {
        let mut head = [0; 16];
        database.read_log(0, &mut head)?;
        let word = |at: usize| -> u32 {
            head.get(at..at + 4)
                .map_or(0, |b| b.iter().rev().fold(0, |n, &b| n << 8 | u32::from(b)))
        };
        let size = database.log_bytes().saturating_sub(RING) / 8 * 8;
        let (start, end) = (word(8), word(12));
        let sound = start < size && end < size && start % 8 == 0 && end % 8 == 0;
        if !head.starts_with(&MAGIC) || !sound {
            return Self::create(database);
        }
        let mut log = Self { size, start, end, next: 1, places: VecDeque::new() };
        let mut at = start;
        while at != end {
            let Some((entry, next)) = log.entry_at(database, at) else {
                log.end = at;
                log.save(database)?;
                break;
            };
            match entry {
                Entry::Record(record) => {
                    log.next = record.sequence.saturating_add(1);
                    let (sequence, settled) = (record.sequence, None);
                    log.places.push_back(Place { sequence, record: at, settled });
                }
                Entry::Settled(sequence, ..) => log.place_settled(sequence, at),
            }
            at = next;
        }
        Ok(log)
    }

    fn save(&self, database: &mut Database) -> Result<(), WriteError> {
        database.write_log(8, &self.start.to_le_bytes())?;
        database.write_log(12, &self.end.to_le_bytes())
    }

    /// Appends a record; its number is put in.
    pub(crate) fn record(
        &mut self,
        database: &mut Database,
        mut record: Record,
    ) -> Result<u64, WriteError> {
        let sequence = self.next;
        record.sequence = sequence;
        let at = self.append(database, &Entry::Record(record))?;
        self.places.push_back(Place { sequence, record: at, settled: None });
        self.next += 1;
        Ok(sequence)
    }

    /// Appends how a record ended.
    pub(crate) fn settle(
        &mut self,
        database: &mut Database,
        sequence: u64,
        settled: Settled,
        why: &str,
    ) -> Result<(), WriteError> {
        let why = why.chars().take(1000).collect();
        let at = self.append(database, &Entry::Settled(sequence, settled, why))?;
        self.place_settled(sequence, at);
        Ok(())
    }

    fn place(&self, sequence: u64) -> Option<usize> {
        self.places.binary_search_by_key(&sequence, |place| place.sequence).ok()
    }

    fn place_settled(&mut self, sequence: u64, at: u32) {
        if let Some(place) = self.place(sequence).and_then(|index| self.places.get_mut(index)) {
            place.settled = Some(at);
        }
    }

    /// Appends an entry; returns where it is.
    fn append(&mut self, database: &mut Database, entry: &Entry) -> Result<u32, WriteError> {
        let payload = postcard::to_allocvec(entry).map_err(|_| WriteError::OutOfRange)?;
        let length = u32::try_from(payload.len()).map_err(|_| WriteError::OutOfRange)?;
        if length > most(self.size) {
            return Err(WriteError::Full((length / pv_abi::PAGE_SIZE as u32).max(1)));
        }
        let mut bytes = Vec::with_capacity(payload.len() + 16);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&payload).to_le_bytes());
        bytes.extend_from_slice(&payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        self.make_room(database, ENTRY_HEADER + length.next_multiple_of(8))?;
        let at = self.end;
        self.write(database, at, &bytes)?;
        self.end = (at + ENTRY_HEADER + length.next_multiple_of(8)) % self.size;
        database.write_log(12, &self.end.to_le_bytes())?;
        Ok(at)
    }

    /// Drops the oldest entries until `bytes` bytes fit.
    fn make_room(&mut self, database: &mut Database, bytes: u32) -> Result<(), WriteError> {
        loop {
            let used = (self.end + self.size - self.start) % self.size;
            if self.size - used > bytes {
                return database.write_log(8, &self.start.to_le_bytes());
            }
            let mut length = [0; 4];
            self.read(database, self.start, &mut length)?;
            let length = u32::from_le_bytes(length);
            if length > most(self.size) {
                // Nothing behind a damaged entry can be found again.
                (self.start, self.end) = (0, 0);
                self.places.clear();
                return self.save(database);
            }
            if self.places.front().is_some_and(|place| place.record == self.start) {
                self.places.pop_front();
            }
            self.start = (self.start + ENTRY_HEADER + length.next_multiple_of(8)) % self.size;
        }
    }

    fn entry_at(&self, database: &Database, at: u32) -> Option<(Entry, u32)> {
        let mut head = [0; ENTRY_HEADER as usize];
        self.read(database, at, &mut head).ok()?;
        let (length, sum) = head.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length);
        let sum = u32::from_le_bytes(sum.try_into().ok()?);
        if length > most(self.size) {
            return None;
        }
        let mut payload = vec![0; length as usize];
        self.read(database, (at + ENTRY_HEADER) % self.size, &mut payload).ok()?;
        if crc32fast::hash(&payload) != sum {
            return None;
        }
        let next = (at + ENTRY_HEADER + length.next_multiple_of(8)) % self.size;
        Some((postcard::from_bytes(&payload).ok()?, next))
    }

    fn write(&self, database: &mut Database, at: u32, bytes: &[u8]) -> Result<(), WriteError> {
        let room = (self.size - at) as usize;
        let (head, tail) = bytes.split_at(room.min(bytes.len()));
        database.write_log(RING + at, head)?;
        database.write_log(RING, tail)
    }

    fn read(&self, database: &Database, at: u32, out: &mut [u8]) -> Result<(), WriteError> {
        let room = ((self.size - at) as usize).min(out.len());
        let (head, tail) = out.split_at_mut(room);
        database.read_log(RING + at, head)?;
        database.read_log(RING, tail)
    }

    /// The records that are kept, oldest first, each as it ended.
    pub(crate) fn records(&self, database: &Database) -> Vec<Record> {
        self.records_from(database, 0).collect()
    }

    /// The oldest number that is kept, and the number the next record gets.
    pub(crate) fn bounds(&self) -> (u64, u64) {
        (self.places.front().map_or(self.next, |place| place.sequence), self.next)
    }

    /// The records from this number on, each as it ended; read as they are taken.
    pub(crate) fn records_from<'l>(
        &'l self,
        database: &'l Database<'_>,
        from: u64,
    ) -> impl DoubleEndedIterator<Item = Record> + use<'l> {
        let first = self.places.partition_point(|place| place.sequence < from);
        self.places.range(first..).filter_map(move |place| self.read_record(database, place))
    }

    fn read_record(&self, database: &Database, place: &Place) -> Option<Record> {
        let (Entry::Record(mut record), _) = self.entry_at(database, place.record)? else {
            return None;
        };
        let settled = place.settled.and_then(|at| self.entry_at(database, at));
        if let Some((Entry::Settled(_, settled, why), _)) = settled {
            record.settled = settled;
            if !why.is_empty() {
                record.reason = why;
            }
        }
        Some(record)
    }
}
