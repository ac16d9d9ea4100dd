//! The page map: three tiers of entries, kept as large as the owners allow.
//!
//! To set a range, the writer splits the entries at its two ends, writes whole entries between
//! them, and merges every index page that became uniform. So the shape of the map depends only on
//! who owns what, not on its history: undoing a change gives back the pages it took.
//!
//! Rule: the number of index pages that a change needs is known before the first word is written.

use alloc::collections::BTreeSet;
use alloc::vec;

use pv_abi::uv::database::{ENTRY_NUMBER, ENTRY_SUBALLOCATED, INDEX_ENTRIES, TIER_FRAMES};

use database_view::{MAX_FRAMES, Owner, ReadError};

use crate::database::{Database, WriteError, header};
use crate::words::WriteWords;

/// Frames from `first` to `end` that get the entry `entry`.
#[derive(Clone, Copy)]
struct Change {
    first: u64,
    end: u64,
    entry: u32,
}

/// See [`Database::set_owner`].
pub(crate) fn set_owner(
    database: &mut Database,
    first: u64,
    frames: u64,
    owner: Owner,
) -> Result<(), WriteError> {
    let limit = database.reader().frames();
    let end = first.checked_add(frames).ok_or(WriteError::OutOfRange)?;
    if frames == 0 || end > limit || owner.number > ENTRY_NUMBER {
        return Err(WriteError::OutOfRange);
    }
    // Nobody owns the part past the last frame, so it gets the last owner, which avoids a split.
    let end = if end == limit { MAX_FRAMES } else { end };
    let change = Change { first, end, entry: owner.entry() };
    let needed = pages_needed(database, &change, &mut BTreeSet::new())?;
    let available = database.free_pages();
    if needed > available {
        return Err(WriteError::Full(needed - available));
    }
    let root = database.header(header::ROOT)?;
    apply(database, root, 0, 0, &change)
}

/// See [`Database::reclaim`]: the writer had allocated a page that it did not use yet, or had not
/// yet freed a page that it stopped using.
pub(crate) fn reclaim(database: &mut Database) -> Result<(), WriteError> {
    let first = database.header(header::LOG_FIRST)? + database.header(header::LOG_PAGES)?;
    let end = database.header(header::FREE_FIRST)?;
    let mut used = BTreeSet::new();
    let mut tables = vec![(database.header(header::ROOT)?, 0)];
    while let Some((table, tier)) = tables.pop() {
        for slot in 0..INDEX_ENTRIES {
            let entry = database.words.load(table, slot).ok_or(ReadError::Malformed)?;
            let below = entry & ENTRY_NUMBER;
            if entry & ENTRY_SUBALLOCATED != 0 && used.insert(below) && tier + 2 < TIER_FRAMES.len()
            {
                tables.push((below, tier + 1));
            }
        }
    }
    database.set_header(header::FREE_CHAIN, 0)?;
    database.set_header(header::FREE_CHAINED, 0)?;
    for page in (first..end).filter(|page| !used.contains(page)) {
        database.give_page(page)?;
    }
    Ok(())
}

/// See [`Database::pages_for`].
pub(crate) fn pages_for(
    database: &Database,
    changes: impl Iterator<Item = (u64, u64, Owner)>,
) -> Result<u32, WriteError> {
    let limit = database.reader().frames();
    let (mut needed, mut split) = (0u32, BTreeSet::new());
    for (first, frames, owner) in changes {
        let end = first.checked_add(frames).ok_or(WriteError::OutOfRange)?;
        if frames == 0 || end > limit {
            return Err(WriteError::OutOfRange);
        }
        let end = if end == limit { MAX_FRAMES } else { end };
        let change = Change { first, end, entry: owner.entry() };
        needed = needed.saturating_add(pages_needed(database, &change, &mut split)?);
    }
    Ok(needed)
}

/// Index pages that the change's splits create, without those it frees. `split` contains the
/// entries, by tier, that are split already.
fn pages_needed(
    database: &Database,
    change: &Change,
    split: &mut BTreeSet<(usize, u64)>,
) -> Result<u32, WriteError> {
    let mut needed = 0;
    for boundary in [change.first, change.end] {
        if boundary % TIER_FRAMES[0] == 0 {
            continue;
        }
        let (entry, tier) = database.reader().walk(boundary)?;
        if entry == change.entry {
            continue;
        }
        for (level, size) in TIER_FRAMES.iter().enumerate().skip(tier) {
            if boundary % size != 0 && split.insert((level, boundary / size)) {
                needed += 1;
            }
        }
    }
    Ok(needed)
}

/// Writes the part of the change that lies under one index page, whose first entry starts at
/// frame `base`.
fn apply(
    database: &mut Database,
    table: u32,
    tier: usize,
    base: u64,
    change: &Change,
) -> Result<(), WriteError> {
    let size = *TIER_FRAMES.get(tier).ok_or(ReadError::Malformed)?;
    let last = base.saturating_add(size * INDEX_ENTRIES as u64).min(change.end);
    let mut frame = change.first.max(base);
    while frame < last {
        let slot = ((frame - base) / size) as usize;
        let start = base + slot as u64 * size;
        let next = start + size;
        let entry = database.words.load(table, slot).ok_or(ReadError::Malformed)?;
        if frame == start && next <= change.end {
            database.words.store(table, slot, change.entry).ok_or(ReadError::Malformed)?;
            release(database, entry, tier)?;
        } else if entry != change.entry {
            let below = descend(database, table, slot, entry)?;
            apply(database, below, tier + 1, start, change)?;
            merge(database, table, slot, below)?;
        }
        frame = next;
    }
    Ok(())
}

/// Returns the index page under an entry, and makes it if there is none.
fn descend(
    database: &mut Database,
    table: u32,
    slot: usize,
    entry: u32,
) -> Result<u32, WriteError> {
    if entry & ENTRY_SUBALLOCATED != 0 {
        return Ok(entry & ENTRY_NUMBER);
    }
    let page = database.take_page()?;
    database.fill(page, entry)?;
    database.words.store(table, slot, ENTRY_SUBALLOCATED | page).ok_or(ReadError::Malformed)?;
    Ok(page)
}

/// Replaces an index page whose entries are all equal by one entry.
fn merge(database: &mut Database, table: u32, slot: usize, below: u32) -> Result<(), WriteError> {
    let first = database.words.load(below, 0).ok_or(ReadError::Malformed)?;
    let alike = (1..INDEX_ENTRIES).all(|i| database.words.load(below, i) == Some(first));
    if first & ENTRY_SUBALLOCATED != 0 || !alike {
        return Ok(());
    }
    database.words.store(table, slot, first).ok_or(ReadError::Malformed)?;
    database.give_page(below)
}

/// Frees the index pages under an entry that no longer names them.
fn release(database: &mut Database, entry: u32, tier: usize) -> Result<(), WriteError> {
    if entry & ENTRY_SUBALLOCATED == 0 {
        return Ok(());
    }
    let page = entry & ENTRY_NUMBER;
    if tier + 2 < TIER_FRAMES.len() {
        for slot in 0..INDEX_ENTRIES {
            let below = database.words.load(page, slot).ok_or(ReadError::Malformed)?;
            release(database, below, tier + 1)?;
        }
    }
    database.give_page(page)
}
