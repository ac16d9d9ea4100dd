//! A copy of the resource database, which the log keeps up to date.
//!
//! Rule: the copy knows which records it holds, so a record is applied once, in order; if a record
//! is missing, the copy is fetched again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use control::command::{RecordRow, Settled};
use pv_abi::PAGE_SIZE;
use pv_abi::uv::database::{ArenaHeader, ChannelEntry, PartitionDescriptor, state};
use pv_abi::uv::devices::DeviceEntry;
use pv_abi::uv::endpoints::{Endpoint, endpoint_state};
use resource_db::{Database, Owner};
use transaction::Change;

/// Words of a page.
const PAGE_WORDS: usize = PAGE_SIZE / 4;
/// Words of an entry of the channel table.
const CHANNEL_WORDS: usize = size_of::<ChannelEntry>() / 4;
/// Words of an entry of the endpoint table.
const ENDPOINT_WORDS: usize = size_of::<Endpoint>() / 4;
/// Words of an entry of the device table.
const DEVICE_WORDS: usize = size_of::<DeviceEntry>() / 4;
/// The header's word that names the root of the page map.
const ROOT_WORD: usize = std::mem::offset_of!(ArenaHeader, page_map_root) / 4;

/// A copy of the resource database, which the log's records keep up to date.
#[derive(Default)]
pub struct Replica {
    words: Vec<AtomicU32>,
    version: u64,
    next: u64,
    /// Free frames of RAM; `None` if the pages are not a database.
    free: Option<u64>,
}

impl Replica {
    /// Makes a copy from pages whose trailing zeros are left out; `next` is the next record it
    /// needs.
    pub fn new(pages: &[Vec<u8>], version: u64, next: u64) -> Self {
        let mut words = Vec::with_capacity(pages.len() * PAGE_WORDS);
        for (count, page) in (1..).zip(pages) {
            let (whole, rest) = page.as_chunks::<4>();
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            let page = whole.iter().chain([&last]).take(PAGE_WORDS);
            words.extend(page.map(|word| AtomicU32::new(u32::from_le_bytes(*word))));
            words.resize_with(count * PAGE_WORDS, AtomicU32::default);
        }
        let mut copy = Self { words, version, next, free: None };
        copy.free = copy.count_free();
        copy
    }

    fn count_free(&self) -> Option<u64> {
        let database = Database::open(&self.words).ok()?;
        let free = database.reader().entries(0).filter(|(range, _)| range.owner == Owner::FREE);
        Some(free.map(|(range, _)| range.frames).sum())
    }

    /// The next record that the copy needs.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The version of the copied database.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Applies a record; false if the copy cannot be used any more.
    pub fn apply(&mut self, record: &RecordRow) -> bool {
        if record.row.sequence < self.next {
            return true;
        }
        if record.row.sequence != self.next {
            return false;
        }
        self.next += 1;
        if record.row.outcome == Settled::Refused {
            return true;
        }
        // A record too long for an answer comes without its changes.
        if record.changes.is_empty() && !record.row.partitions.is_empty() {
            return false;
        }
        let Ok(mut database) = Database::open(&self.words) else {
            return false;
        };
        for bytes in &record.changes {
            let Ok(change) = postcard::from_bytes::<Change>(bytes) else {
                return false;
            };
            if change.apply(&mut database).is_err() {
                return false;
            }
            self.free = self.free.map(|free| after(free, &change));
        }
        true
    }

    /// Notes that all records of this version were applied.
    pub fn set_version(&mut self, version: u64) {
        self.version = version;
    }

    /// Free frames of RAM.
    pub fn free_frames(&self) -> Option<u64> {
        self.free
    }

    /// The numbers of all partitions.
    pub fn numbers(&self) -> Vec<u32> {
        Database::open(&self.words).map_or_else(|_| Vec::new(), |all| all.numbers().collect())
    }

    /// Returns the partitions among `numbers` that have a wanted name and are not being given up:
    /// the name of each, and the devices of its attached disks.
    pub fn disks(
        &self,
        numbers: &BTreeSet<u32>,
        is_wanted: impl Fn(&str) -> bool,
    ) -> BTreeMap<u32, (String, Vec<u32>)> {
        let mut found = BTreeMap::new();
        let Ok(database) = Database::open(&self.words) else {
            return found;
        };
        for number in numbers {
            let descriptor = database.reader().descriptor(*number);
            let there = descriptor.ok().filter(|one| one.state != state::DYING);
            if let Some(name) = there.map(|one| transaction::name_of(&one)).filter(|n| is_wanted(n))
            {
                found.insert(*number, (name, Vec::new()));
            }
        }
        let endpoints = if found.is_empty() { 0 } else { database.endpoints() };
        for endpoint in (0..endpoints).filter_map(|index| database.endpoint(index).ok()) {
            if let Some((_, devices)) = found.get_mut(&endpoint.client)
                && endpoint.state == endpoint_state::ATTACHED
            {
                devices.push(endpoint.device);
            }
        }
        found
    }

    /// Returns the pages on which this copy differs from another. Descriptors and tables are
    /// compared; the root stands for the whole page map, with its free frames. Generations and the
    /// log belong to the master alone and are not compared.
    pub fn differences(&self, other: &Self) -> Vec<u32> {
        let (Ok(ours), Ok(theirs)) = (Database::open(&self.words), Database::open(&other.words))
        else {
            return vec![0];
        };
        let mut pages = Vec::new();
        let (channels, devices) = (theirs.channel_pages(), theirs.device_pages());
        let endpoints = theirs.endpoint_pages();
        for page in 1..endpoints.end.max(channels.end) {
            // Words of each entry, and the word of its generation.
            let (entry, own) = match page {
                page if channels.contains(&page) => (CHANNEL_WORDS, 0),
                page if devices.contains(&page) => (DEVICE_WORDS, 0),
                page if endpoints.contains(&page) => (ENDPOINT_WORDS, 0),
                _ => (PAGE_WORDS, 1),
            };
            if self.page(page, entry, own) != other.page(page, entry, own) {
                pages.push(page);
            }
        }
        let same_free = self.free.is_some() && self.free == other.free;
        if !same_free || !ours.reader().ranges(0).eq(theirs.reader().ranges(0)) {
            pages.push(self.words.get(ROOT_WORD).map_or(0, |word| word.load(Ordering::Relaxed)));
        }
        pages
    }

    /// A page without its generations, which are word `own` of every `step` words.
    fn page(&self, page: u32, step: usize, own: usize) -> Vec<u32> {
        let first = page as usize * PAGE_WORDS;
        let words = self.words.get(first..first + PAGE_WORDS).unwrap_or_default();
        let words = words.iter().enumerate().filter(|(at, _)| at % step != own);
        words.map(|(_, word)| word.load(Ordering::Relaxed)).collect()
    }
}

/// The pages of the log, read from the first page of an arena; empty if the page does not say.
pub fn log_pages(header: &[u8]) -> Range<u32> {
    let word = |at: usize| {
        let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    let first = word(std::mem::offset_of!(ArenaHeader, log_first));
    first..first.saturating_add(word(std::mem::offset_of!(ArenaHeader, log_pages)))
}

/// The identity of the boot, read from the first page of an arena; 0 if the page does not say.
pub fn boot_identity(header: &[u8]) -> u64 {
    const AT: usize = std::mem::offset_of!(ArenaHeader, boot);
    // The page comes without its trailing zeros.
    let mut bytes = [0; 8];
    let there = header.get(AT..).unwrap_or_default();
    for (to, from) in bytes.iter_mut().zip(there) {
        *to = *from;
    }
    u64::from_le_bytes(bytes)
}

/// The number of free frames after a change; all frames of a range that changes owner have the same
/// owner before.
fn after(free: u64, change: &Change) -> u64 {
    let Change::Pages { frames, before, after, .. } = *change else {
        return free;
    };
    let is_free = |entry| Owner::from_entry(entry) == Owner::FREE;
    let frames_if = |condition: bool| if condition { frames } else { 0 };
    free.saturating_sub(frames_if(is_free(before))) + frames_if(is_free(after))
}

const _: () = {
    assert!(std::mem::offset_of!(PartitionDescriptor, generation) == 4);
    assert!(std::mem::offset_of!(ChannelEntry, generation) == 0);
    assert!(std::mem::offset_of!(DeviceEntry, generation) == 0);
    assert!(std::mem::offset_of!(Endpoint, generation) == 0);
};
