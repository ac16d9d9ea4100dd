//! The tables of the store, and how values are written to and read from them.
//!
//! Values are JSON, so that a later version can read what an earlier one wrote. The ultravisor's
//! counters restart with each boot of the host, so keys name the boot, too. Rule: changes that
//! belong together are one transaction of the store.

use std::collections::BTreeMap;
use std::path::Path;

use control::command::LogRow;
use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    TableHandle,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Boot, Edit, Life, Record, Staged};

/// Definitions, by name.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("definitions");
/// Staged edits, by boot and request (see [`Staged::key`]).
const STAGED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("staged");
/// The audit log, by boot and sequence number.
const LOG: TableDefinition<'_, (Boot, u64), &[u8]> = TableDefinition::new("log-of-boots");
/// The audit log of versions that did not record boots, by sequence number.
const OLD_LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Boots of the host by their identities, numbered from 1 in the order in which `uvd` saw them.
const BOOTS: TableDefinition<'_, u64, Boot> = TableDefinition::new("boots");
/// The time at which `uvd` first saw each boot, in seconds since 1970.
const MET: TableDefinition<'_, Boot, u64> = TableDefinition::new("boots-met");
/// The last life of each name.
const LIVES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("lives");

/// The most records of the log that are kept.
const MOST_ROWS: u64 = 20_000;
/// The most lives that are kept, in addition to those of existing partitions.
const MOST_LIVES: u64 = 2_000;
/// The lives that are left after a removal of old ones.
const ENOUGH_LIVES: u64 = MOST_LIVES / 4 * 3;
/// The most boots that are remembered.
const MOST_BOOTS: usize = 1_000;
/// A key that no entry has; a check writes and removes it.
const PROBE: &str = "\0check";
/// Bytes of the store's cache.
const CACHE: usize = 1 << 20;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store's own reason.
    #[error("{0}")]
    Store(#[from] redb::Error),
    /// A value that cannot be decoded.
    #[error("a value in it makes no sense: {0}")]
    Value(#[from] serde_json::Error),
}

/// Turns each of the store's error types into the common one.
fn common<T, E: Into<redb::Error>>(result: Result<T, E>) -> Result<T, Error> {
    result.map_err(|error| Error::Store(error.into()))
}

/// Everything that is written together.
#[derive(Clone, Copy)]
pub struct Writing<'a> {
    /// Changes to the definitions.
    pub edits: &'a [Edit],
    /// Edits to stage.
    pub staged: &'a [Staged],
    /// Keys of staged edits whose transaction was decided.
    pub settled: &'a [String],
    /// The current boot.
    pub boot: Boot,
    /// Records of the log, each with its boot.
    pub rows: &'a [(Boot, &'a LogRow)],
    /// The last lives of these names.
    pub lives: &'a BTreeMap<String, Life>,
}

/// An open store.
pub struct Disk {
    database: Database,
}

impl Disk {
    /// Opens the store in a file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if let Some(directory) = path.parent() {
            common(std::fs::create_dir_all(directory))?;
        }
        let database = common(Builder::new().set_cache_size(CACHE).create(path))?;
        let disk = Self { database };
        disk.make_tables()?;
        Ok(disk)
    }

    /// Opens an existing store for reading, and creates nothing in it.
    pub fn reopen(path: &Path) -> Result<Self, Error> {
        Ok(Self { database: common(Builder::new().set_cache_size(CACHE).open(path))? })
    }

    /// An empty store in memory.
    pub fn in_memory() -> Self {
        let made = Builder::new().set_cache_size(CACHE).create_with_backend(InMemoryBackend::new());
        // A store in memory fails only if memory runs out, and then the process ends anyway.
        let disk = Self { database: made.unwrap_or_else(|error| panic!("memory: {error}")) };
        let _ = disk.make_tables();
        disk
    }

    fn make_tables(&self) -> Result<(), Error> {
        let write = common(self.database.begin_write())?;
        common(write.open_table(RECORDS))?;
        common(write.open_table(STAGED))?;
        common(write.open_table(LOG))?;
        common(write.open_table(LIVES))?;
        common(write.open_table(BOOTS))?;
        common(write.open_table(MET))?;
        take_over_old(&write)?;
        common(write.commit())
    }

    /// The number of a boot, by its identity. A boot that was not seen before gets the next number,
    /// and the time `now`, in seconds since 1970.
    pub fn boot(&self, identity: u64, now: u64) -> Result<Boot, Error> {
        let write = common(self.database.begin_write())?;
        let number = {
            let mut table = common(write.open_table(BOOTS))?;
            let known = common(table.get(identity))?.map(|number| number.value());
            match known {
                Some(number) => number,
                None => {
                    let mut all = Vec::new();
                    for entry in common(table.iter())? {
                        let (identity, number) = common(entry)?;
                        all.push((number.value(), identity.value()));
                    }
                    all.sort_unstable();
                    let number = all.last().map_or(1, |(last, _)| last.saturating_add(1));
                    let mut met = common(write.open_table(MET))?;
                    for (number, old) in &all[..(all.len() + 1).saturating_sub(MOST_BOOTS)] {
                        common(table.remove(old))?;
                        common(met.remove(number))?;
                    }
                    common(table.insert(identity, number))?;
                    common(met.insert(number, now))?;
                    number
                }
            }
        };
        common(write.commit())?;
        Ok(number)
    }

    /// Whether the boot with this identity was seen before.
    pub fn knows(&self, identity: u64) -> Result<bool, Error> {
        let read = common(self.database.begin_read())?;
        let table = common(read.open_table(BOOTS))?;
        Ok(common(table.get(identity))?.is_some())
    }

    /// The time at which a boot was first seen, in seconds since 1970, if it is known.
    pub fn met(&self, boot: Boot) -> Result<Option<u64>, Error> {
        let read = common(self.database.begin_read())?;
        let table = match read.open_table(MET) {
            // The version that made this store did not record it.
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            table => common(table)?,
        };
        let met = common(table.get(boot))?;
        Ok(met.map(|seconds| seconds.value()))
    }

    /// Walks every page, reads every value and writes to every table, so that nothing in the file
    /// is read for the first time later.
    pub fn exercise(&mut self) -> Result<(), Error> {
        common(self.database.check_integrity())?;
        self.records()?;
        self.staged()?;
        self.all_rows()?;
        self.lives()?;
        for (_, boot) in self.boots()? {
            self.met(boot)?;
        }
        let write = common(self.database.begin_write())?;
        for table in [RECORDS, STAGED, LIVES] {
            let mut table = common(write.open_table(table))?;
            common(table.insert(PROBE, PROBE.as_bytes()))?;
            common(table.remove(PROBE))?;
        }
        {
            let mut table = common(write.open_table(LOG))?;
            common(table.insert((Boot::MAX, u64::MAX), PROBE.as_bytes()))?;
            common(table.remove((Boot::MAX, u64::MAX)))?;
            let mut table = common(write.open_table(BOOTS))?;
            let there = common(table.insert(u64::MAX, Boot::MAX))?.map(|number| number.value());
            common(match there {
                Some(number) => table.insert(u64::MAX, number),
                None => table.remove(u64::MAX),
            })?;
            let mut table = common(write.open_table(MET))?;
            common(table.insert(Boot::MAX, 0))?;
            common(table.remove(Boot::MAX))?;
        }
        common(write.commit())
    }

    pub fn records(&self) -> Result<BTreeMap<String, Record>, Error> {
        let read = common(self.database.begin_read())?;
        let table = common(read.open_table(RECORDS))?;
        let mut records = BTreeMap::new();
        for entry in common(table.iter())? {
            let (name, value) = common(entry)?;
            records.insert(name.value().to_string(), decode(value.value())?);
        }
        Ok(records)
    }

    /// Writes all of it, or nothing.
    pub fn write(&self, what: &Writing<'_>) -> Result<(), Error> {
        let write = common(self.database.begin_write())?;
        if !what.edits.is_empty() {
            let mut table = common(write.open_table(RECORDS))?;
            for edit in what.edits {
                match edit {
                    Edit::Put(record) => {
                        let name = record.definition.name.as_str();
                        common(table.insert(name, encode(record)?.as_slice()))?;
                    }
                    Edit::Forget(name) => {
                        common(table.remove(name.as_str()))?;
                    }
                }
            }
        }
        if !what.staged.is_empty() || !what.settled.is_empty() {
            let mut table = common(write.open_table(STAGED))?;
            for staged in what.staged {
                common(table.insert(staged.key().as_str(), encode(staged)?.as_slice()))?;
            }
            for key in what.settled {
                common(table.remove(key.as_str()))?;
            }
        }
        if !what.rows.is_empty() {
            let mut table = common(write.open_table(LOG))?;
            for (boot, row) in what.rows {
                common(table.insert((*boot, row.sequence), encode(row)?.as_slice()))?;
            }
            while common(table.len())? > MOST_ROWS {
                common(table.pop_first())?;
            }
        }
        if !what.lives.is_empty() {
            write_lives(&mut common(write.open_table(LIVES))?, what.lives, what.boot)?;
        }
        common(write.commit())
    }

    /// All staged edits, in the order of their requests.
    pub fn staged(&self) -> Result<Vec<Staged>, Error> {
        let read = common(self.database.begin_read())?;
        let mut all = Vec::new();
        for entry in common(common(read.open_table(STAGED))?.iter())? {
            all.push(decode(common(entry)?.1.value())?);
        }
        Ok(all)
    }

    /// The newest records of a boot, in rising order.
    pub fn log(&self, boot: Boot, most: u64) -> Result<Vec<LogRow>, Error> {
        let read = common(self.database.begin_read())?;
        let table = common(read.open_table(LOG))?;
        let mut rows = Vec::new();
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        for entry in common(table.range((boot, 0)..=(boot, u64::MAX)))?.rev() {
            if rows.len() >= most {
                break;
            }
            rows.extend(decode_row(common(entry)?.1.value())?);
        }
        rows.reverse();
        Ok(rows)
    }

    /// Records of a boot, from one to another.
    pub fn rows(&self, boot: Boot, first: u64, last: u64) -> Result<Vec<LogRow>, Error> {
        let read = common(self.database.begin_read())?;
        let table = common(read.open_table(LOG))?;
        let mut rows = Vec::new();
        for entry in common(table.range((boot, first)..=(boot, last)))? {
            rows.extend(decode_row(common(entry)?.1.value())?);
        }
        Ok(rows)
    }

    fn all_rows(&self) -> Result<Vec<(Boot, LogRow)>, Error> {
        let read = common(self.database.begin_read())?;
        let mut rows = Vec::new();
        for entry in common(common(read.open_table(LOG))?.iter())? {
            let (key, value) = common(entry)?;
            rows.extend(decode_row(value.value())?.map(|row| (key.value().0, row)));
        }
        Ok(rows)
    }

    fn boots(&self) -> Result<Vec<(u64, Boot)>, Error> {
        let read = common(self.database.begin_read())?;
        let mut boots = Vec::new();
        for entry in common(common(read.open_table(BOOTS))?.iter())? {
            let (identity, number) = common(entry)?;
            boots.push((identity.value(), number.value()));
        }
        Ok(boots)
    }

    pub fn life(&self, name: &str) -> Result<Option<Life>, Error> {
        let read = common(self.database.begin_read())?;
        let table = common(read.open_table(LIVES))?;
        common(table.get(name))?.map(|value| decode(value.value())).transpose()
    }

    fn lives(&self) -> Result<BTreeMap<String, Life>, Error> {
        let read = common(self.database.begin_read())?;
        let mut lives = BTreeMap::new();
        for entry in common(common(read.open_table(LIVES))?.iter())? {
            let (name, value) = common(entry)?;
            lives.insert(name.value().to_string(), decode(value.value())?);
        }
        Ok(lives)
    }

    /// Copies all of another store.
    pub fn copy(&self, from: &Self) -> Result<(), Error> {
        let edits: Vec<Edit> = from.records()?.into_values().map(Edit::Put).collect();
        let (lives, staged, rows) = (from.lives()?, from.staged()?, from.all_rows()?);
        let rows: Vec<(Boot, &LogRow)> = rows.iter().map(|(boot, row)| (*boot, row)).collect();
        let boots = from.boots()?;
        let boot = boots.iter().map(|(_, number)| *number).max().unwrap_or(0);
        let (staged, settled) = (&staged[..], &[][..]);
        let what = Writing { edits: &edits, staged, settled, boot, rows: &rows, lives: &lives };
        self.write(&what)?;
        let write = common(self.database.begin_write())?;
        {
            let mut table = common(write.open_table(BOOTS))?;
            let mut met = common(write.open_table(MET))?;
            for (identity, number) in boots {
                common(table.insert(identity, number))?;
                if let Some(seconds) = from.met(number)? {
                    common(met.insert(number, seconds))?;
                }
            }
        }
        common(write.commit())
    }
}

/// Takes over the records of versions that did not record boots; they belong to boot 0, before all
/// others.
fn take_over_old(write: &redb::WriteTransaction) -> Result<(), Error> {
    let mut tables = common(write.list_tables())?;
    if tables.any(|table| table.name() == OLD_LOG.name()) {
        let mut new = common(write.open_table(LOG))?;
        for entry in common(common(write.open_table(OLD_LOG))?.iter())? {
            let (sequence, value) = common(entry)?;
            common(new.insert((0, sequence.value()), value.value()))?;
        }
        drop(new);
        common(write.delete_table(OLD_LOG))?;
    }
    let mut table = common(write.open_table(STAGED))?;
    let old = common(table.remove(""))?.map(|value| value.value().to_vec());
    if let Some(value) = old {
        let key = decode::<Staged>(&value)?.key();
        common(table.insert(key.as_str(), value.as_slice()))?;
    }
    Ok(())
}

type Lives<'t> = redb::Table<'t, &'static str, &'static [u8]>;

/// Writes lives; if there are too many, removes the oldest, but none of an existing partition.
fn write_lives(
    table: &mut Lives<'_>,
    lives: &BTreeMap<String, Life>,
    boot: Boot,
) -> Result<(), Error> {
    for (name, life) in lives {
        common(table.insert(name.as_str(), encode(life)?.as_slice()))?;
    }
    if common(table.len())? <= MOST_LIVES {
        return Ok(());
    }
    let mut over = Vec::new();
    for entry in common(table.iter())? {
        let (name, value) = common(entry)?;
        let life: Life = decode(value.value())?;
        if life.boot != boot || life.last.is_some() {
            over.push((life.boot, life.last.unwrap_or(life.first), name.value().to_string()));
        }
    }
    over.sort_unstable();
    let too_many = common(table.len())?.saturating_sub(ENOUGH_LIVES);
    for (_, _, name) in over.iter().take(usize::try_from(too_many).unwrap_or(usize::MAX)) {
        common(table.remove(name.as_str()))?;
    }
    Ok(())
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    Ok(serde_json::to_vec(value)?)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    Ok(serde_json::from_slice(bytes)?)
}

/// Decodes a record of the log. `None` is a record that this version does not know, such as one with
/// an outcome of a later version; the log goes on without it.
fn decode_row(bytes: &[u8]) -> Result<Option<LogRow>, Error> {
    match serde_json::from_slice(bytes) {
        Ok(row) => Ok(Some(row)),
        Err(error) if error.classify() == serde_json::error::Category::Data => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
impl Disk {
    /// Writes a record of the log as a later version may write it.
    pub fn write_row(&self, key: (Boot, u64), json: &str) {
        let write = self.database.begin_write().unwrap();
        write.open_table(LOG).unwrap().insert(key, json.as_bytes()).unwrap();
        write.commit().unwrap();
    }
}
