//! The log: a ring of records in pages of the arena.
//!
//! ```text
//! byte 0   "UVLOG001"
//!      8   u32 offset of the oldest entry, u32 offset after the newest (both in the ring)
//!     64   the ring: entries of { u32 length, u32 CRC-32 of the payload, payload, zeros to 8 }
//! ```
//!
//! A payload is a postcard [`Entry`]: a record before its changes are made, and later its outcome.
//! An entry is written whole before the end offset moves, so an interrupted write leaves no entry.
//!
//! The oldest entries make room for new ones. Before the place of an *open* record (begun, or
//! pending under its owner) is reused, the record is copied to the end: recovery must find it. All
//! pending records together take at most a quarter of the ring, so a new entry always finds room.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::mem::size_of;

use control::command::{LogRow, Outcome, Settled};
use resource_db::{Database, WriteError};
use serde::{Deserialize, Serialize};

use crate::Change;
use alloc::string::String;

const MAGIC: [u8; 8] = *b"UVLOG001";
const RING: u32 = 64;
const ENTRY_HEADER: u32 = 2 * size_of::<u32>() as u32;

/// A transaction in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Sequence number; each record's is one higher than the last.
    pub sequence: u64,
    /// System time in nanoseconds.
    pub time: u64,
    /// The partition that made the request.
    pub who: u32,
    /// Id of its request.
    pub request: u64,
    /// Version of the database after it.
    pub version: u64,
    /// How it has ended, as far as known when the record is written.
    pub settled: Settled,
    /// A sentence about its operations, for people.
    pub what: String,
    /// The reason for it, or for its refusal.
    pub reason: String,
    /// The numbers of the partitions that it concerns.
    pub partitions: Vec<u32>,
    /// Its changes, for redo and undo.
    pub changes: Vec<Change>,
    /// Checksum of the request's body, which distinguishes a retry from another request.
    pub sum: u32,
    /// The answer to the request, one outcome for each operation.
    pub outcomes: Vec<Outcome>,
}

impl Record {
    /// Returns whether the changes of the record are in the database.
    #[must_use]
    pub const fn is_applied(&self) -> bool {
        matches!(self.settled, Settled::Committed | Settled::Pending | Settled::Monitor)
    }

    /// The record as a query shows it.
    #[must_use]
    pub fn row(&self) -> LogRow {
        LogRow {
            sequence: self.sequence,
            time: self.time,
            who: self.who,
            request: self.request,
            version: self.version,
            outcome: self.settled,
            what: self.what.clone(),
            reason: self.reason.clone(),
            partitions: self.partitions.clone(),
        }
    }
}

/// An entry of the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    /// A record.
    Record(Record),
    /// The outcome of the records with these numbers, which end together, and the reason if they
    /// were refused.
    Settled(Vec<u64>, Settled, String),
}

/// The places of the ring's entries. The ring itself is in the database's log pages.
#[derive(Debug)]
pub(crate) struct Log {
    /// Bytes of the ring, a multiple of 8.
    size: u32,
    start: u32,
    end: u32,
    /// The number of the next record.
    pub(crate) next: u64,
    /// Every record from this number on is kept; of the earlier ones, only the open records are.
    whole_from: u64,
    /// The places of the records, by ascending number.
    places: VecDeque<Place>,
    /// Bytes of the entries of the open records, by number.
    open: BTreeMap<u64, u32>,
}

/// The place of a record, and of the entry with its outcome.
#[derive(Clone, Copy, Debug)]
struct Place {
    sequence: u64,
    record: u32,
    settled: Option<u32>,
}

/// The largest payload of an entry, which is also the most bytes of all records that stay open.
const fn most(size: u32) -> u32 {
    size / 4
}

/// How many of a record's `bytes` count as open, if it ended as `settled`.
const fn open_bytes(settled: Settled, bytes: u32) -> u32 {
    if matches!(settled, Settled::Begun | Settled::Pending) { bytes } else { 0 }
}

fn encoded(entry: &Entry) -> Result<Vec<u8>, WriteError> {
    let payload = postcard::to_allocvec(entry).map_err(|_| WriteError::OutOfRange)?;
    u32::try_from(payload.len()).map_err(|_| WriteError::OutOfRange)?;
    Ok(payload)
}

/// The error for an entry that is too long, of `bytes` bytes.
fn too_long(bytes: u32) -> WriteError {
    WriteError::Full((bytes / pv_abi::PAGE_SIZE as u32).max(1))
}

/// Bytes of an entry in the ring, with `payload` bytes of payload.
const fn entry_bytes(payload: u32) -> u32 {
    ENTRY_HEADER + payload.next_multiple_of(8)
}

impl Log {
    const fn empty(size: u32, start: u32, end: u32) -> Self {
        Self {
            size,
            start,
            end,
            next: 1,
            whole_from: 1,
            places: VecDeque::new(),
            open: BTreeMap::new(),
        }
    }

    /// Makes an empty log.
    pub(crate) fn create(database: &mut Database) -> Result<Self, WriteError> {
        let size = database.log_bytes().saturating_sub(RING) / 8 * 8;
        let log = Self::empty(size, 0, 0);
        database.write_log(0, &MAGIC)?;
        log.save(database)?;
        Ok(log)
    }

    /// Takes over an existing log.
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
        let mut log = Self::empty(size, start, end);
        let mut at = start;
        while at != end {
            let Some((entry, next)) = log.entry_at(database, at) else {
                log.end = at;
                log.save(database)?;
                break;
            };
            match entry {
                Entry::Record(record) => {
                    let bytes = (next + log.size - at) % log.size;
                    log.next = log.next.max(record.sequence.saturating_add(1));
                    log.place_record(record.sequence, at, open_bytes(record.settled, bytes));
                }
                Entry::Settled(sequences, settled, _) => log.place_settled(&sequences, settled, at),
            }
            at = next;
        }
        log.whole_from = log.next;
        for place in log.places.iter().rev() {
            if place.sequence + 1 != log.whole_from {
                break;
            }
            log.whole_from = place.sequence;
        }
        Ok(log)
    }

    fn save(&self, database: &mut Database) -> Result<(), WriteError> {
        database.write_log(8, &self.start.to_le_bytes())?;
        database.write_log(12, &self.end.to_le_bytes())
    }

    /// Maximum number of bytes of an entry.
    pub(crate) const fn most(&self) -> usize {
        most(self.size) as usize
    }

    /// Maximum number of ranges in a record of the ultravisor's own, beside a descriptor and texts.
    pub(crate) fn ranges_of_record(&self) -> usize {
        /// Maximum number of bytes of a range, and of everything beside the ranges.
        const BYTES: [u32; 2] = [24, 2048];
        let [range, beside] = BYTES;
        (most(self.size).saturating_sub(beside) / range).clamp(16, 1024) as usize
    }

    /// Appends a record, with its number filled in. A record that `stays` open counts against the
    /// part of the ring for open records.
    pub(crate) fn record(
        &mut self,
        database: &mut Database,
        mut record: Record,
        stays: bool,
    ) -> Result<u64, WriteError> {
        let (sequence, settled) = (self.next, record.settled);
        record.sequence = sequence;
        let payload = encoded(&Entry::Record(record))?;
        let bytes = entry_bytes(payload.len() as u32);
        let open: u32 = self.open.values().sum();
        if stays && open.saturating_add(bytes) > most(self.size) {
            return Err(too_long(bytes));
        }
        let at = self.append(database, &payload)?;
        self.place_record(sequence, at, open_bytes(settled, bytes));
        self.next += 1;
        Ok(sequence)
    }

    /// Appends the outcome of records in one entry, so that all of them end or none.
    pub(crate) fn settle(
        &mut self,
        database: &mut Database,
        sequences: &[u64],
        settled: Settled,
        why: &str,
    ) -> Result<(), WriteError> {
        let why = why.chars().take(1000).collect();
        let at =
            self.append(database, &encoded(&Entry::Settled(sequences.to_vec(), settled, why))?)?;
        self.place_settled(sequences, settled, at);
        Ok(())
    }

    /// Notes the place of a record: a new one at the end of the list, a copy in place of its
    /// original.
    fn place_record(&mut self, sequence: u64, record: u32, open: u32) {
        let place = Place { sequence, record, settled: None };
        self.set_open(sequence, open);
        match self.places.binary_search_by_key(&sequence, |place| place.sequence) {
            Ok(index) => self.places.range_mut(index..=index).for_each(|known| *known = place),
            Err(index) => self.places.insert(index, place),
        }
    }

    /// Notes how many bytes of a record are open; 0 if it has ended.
    fn set_open(&mut self, sequence: u64, open: u32) {
        match open {
            0 => drop(self.open.remove(&sequence)),
            _ => drop(self.open.insert(sequence, open)),
        }
    }

    fn place_settled(&mut self, sequences: &[u64], settled: Settled, at: u32) {
        for sequence in sequences {
            let index = self.places.binary_search_by_key(sequence, |place| place.sequence);
            if let Some(place) = index.ok().and_then(|index| self.places.get_mut(index)) {
                place.settled = Some(at);
                let open = self.open.get(sequence).map_or(0, |open| open_bytes(settled, *open));
                self.set_open(*sequence, open);
            }
        }
    }

    /// Makes room for an entry and appends it. Returns its place.
    fn append(&mut self, database: &mut Database, payload: &[u8]) -> Result<u32, WriteError> {
        let bytes = entry_bytes(payload.len() as u32);
        if payload.len() > most(self.size) as usize {
            return Err(too_long(bytes));
        }
        self.make_room(database, bytes)?;
        self.write_entry(database, payload)
    }

    /// Writes an entry after the newest.
    fn write_entry(&mut self, database: &mut Database, payload: &[u8]) -> Result<u32, WriteError> {
        let length = payload.len() as u32;
        let mut bytes = Vec::with_capacity(payload.len() + 16);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let at = self.end;
        self.write(database, at, &bytes)?;
        self.end = (at + entry_bytes(length)) % self.size;
        database.write_log(12, &self.end.to_le_bytes())?;
        Ok(at)
    }

    /// Drops the oldest entries until there is room for `bytes` bytes and for a copy of the largest
    /// open record, since open records are copied into that room.
    fn make_room(&mut self, database: &mut Database, bytes: u32) -> Result<(), WriteError> {
        let copy = self.open.values().copied().max().unwrap_or(0);
        let mut passed = 0;
        loop {
            let used = (self.end + self.size - self.start) % self.size;
            if self.size - used > bytes + copy {
                return Ok(());
            }
            let mut length = [0; 4];
            self.read(database, self.start, &mut length)?;
            let length = u32::from_le_bytes(length);
            if length > most(self.size) {
                // Entries behind a damaged one cannot be found again.
                (self.start, self.end) = (0, 0);
                self.whole_from = self.next;
                self.places.clear();
                self.open.clear();
                return self.save(database);
            }
            passed += entry_bytes(length);
            if passed > self.size {
                return Err(too_long(bytes));
            }
            self.drop_oldest(database, entry_bytes(length))?;
        }
    }

    /// Frees the place of the oldest entry, which has `bytes` bytes.
    fn drop_oldest(&mut self, database: &mut Database, bytes: u32) -> Result<(), WriteError> {
        // Records lie in the ring in the order of the list, except those that were copied.
        if self.is_record(database, self.start)
            && let Some(index) = self.places.iter().position(|place| place.record == self.start)
            && let Some(&place) = self.places.get(index)
        {
            let open = self.open.get(&place.sequence).copied().unwrap_or(0);
            if open == 0 {
                self.places.remove(index);
                self.whole_from = self.whole_from.max(place.sequence + 1);
            } else if let Some(record) = self.read_record(database, &place) {
                let at = self.write_entry(database, &encoded(&Entry::Record(record))?)?;
                self.place_record(place.sequence, at, open);
            }
        }
        self.start = (self.start + bytes) % self.size;
        database.write_log(8, &self.start.to_le_bytes())
    }

    /// Returns whether an entry is a record: the first byte of a postcard enum is its variant.
    fn is_record(&self, database: &Database, at: u32) -> bool {
        let mut variant = [1];
        let read = self.read(database, (at + ENTRY_HEADER) % self.size, &mut variant);
        read.is_ok() && variant == [0]
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
        let next = (at + entry_bytes(length)) % self.size;
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

    /// The kept records, oldest first, each as it ended.
    pub(crate) fn records(&self, database: &Database) -> Vec<Record> {
        self.records_from(database, 0).collect()
    }

    /// The number from which on every record is kept, and the number of the next record.
    pub(crate) fn bounds(&self) -> (u64, u64) {
        (self.whole_from, self.next)
    }

    /// The records from number `from` on, each as it ended. Each is read when the iterator reaches
    /// it.
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
