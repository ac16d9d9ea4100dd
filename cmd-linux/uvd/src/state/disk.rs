//! Tables of the store, and what goes in and out of them.
//!
//! Values are JSON, so that a later version reads what an earlier one wrote. Rule: whatever
//! belongs together is one transaction of the store.

use std::collections::BTreeMap;
use std::path::Path;

use pv_abi::uv::command::LogRow;
use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Edit, Life, Record, Staged};

/// Definitions, by name.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("definitions");
/// The staged edits, under the empty name.
const STAGED: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("staged");
/// The audit log, by sequence number.
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// The last life by each name.
const LIVES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("lives");

/// Records of the log that are kept.
const MOST_ROWS: u64 = 20_000;
/// Lives that are kept.
const MOST_LIVES: u64 = 2_000;
/// A key that nothing has, written and removed by a check.
const PROBE: &str = "\0check";
/// Bytes that the store caches.
const CACHE: usize = 1 << 20;

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store's own reason.
    #[error("{0}")]
    Store(#[from] redb::Error),
    /// A value that is not what it should be.
    #[error("a value in it makes no sense: {0}")]
    Value(#[from] serde_json::Error),
}

/// Turns each of the store's errors into its common one.
fn common<T, E: Into<redb::Error>>(result: Result<T, E>) -> Result<T, Error> {
    result.map_err(|error| Error::Store(error.into()))
}

/// What is written together.
#[derive(Clone, Copy)]
pub struct Writing<'a> {
    /// Changes to the definitions.
    pub edits: &'a [Edit],
    /// The staged edits are these now, or none.
    pub staged: Option<Option<&'a Staged>>,
    /// Records of the log.
    pub rows: &'a [&'a LogRow],
    /// The last lives by these names.
    pub lives: &'a BTreeMap<String, Life>,
}

/// An open store.
pub struct Disk {
    database: Database,
}

impl Disk {
    /// The store in a file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if let Some(directory) = path.parent() {
            common(std::fs::create_dir_all(directory))?;
        }
        let database = common(Builder::new().set_cache_size(CACHE).create(path))?;
        let disk = Self { database };
        disk.make_tables()?;
        Ok(disk)
    }

    /// A store that is there, to read: nothing is made in it.
    pub fn reopen(path: &Path) -> Result<Self, Error> {
        Ok(Self { database: common(Builder::new().set_cache_size(CACHE).open(path))? })
    }

    /// An empty store in memory.
    pub fn in_memory() -> Self {
        let made = Builder::new().set_cache_size(CACHE).create_with_backend(InMemoryBackend::new());
        // Memory refuses nothing but memory, and then the process ends anyway.
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
        common(write.commit())
    }

    /// Goes over every page, reads every value and writes to every table, so that later nothing
    /// of what is in the file is met for the first time.
    pub fn exercise(&mut self) -> Result<(), Error> {
        common(self.database.check_integrity())?;
        self.records()?;
        self.staged()?;
        self.log(u64::MAX)?;
        self.lives()?;
        let write = common(self.database.begin_write())?;
        for table in [RECORDS, STAGED, LIVES] {
            let mut table = common(write.open_table(table))?;
            common(table.insert(PROBE, PROBE.as_bytes()))?;
            common(table.remove(PROBE))?;
        }
        {
            let mut table = common(write.open_table(LOG))?;
            common(table.insert(u64::MAX, PROBE.as_bytes()))?;
            common(table.remove(u64::MAX))?;
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
        if let Some(staged) = what.staged {
            let mut table = common(write.open_table(STAGED))?;
            match staged {
                Some(staged) => common(table.insert("", encode(staged)?.as_slice()))?,
                None => common(table.remove(""))?,
            };
        }
        if !what.rows.is_empty() {
            let mut table = common(write.open_table(LOG))?;
            for row in what.rows {
                common(table.insert(row.sequence, encode(row)?.as_slice()))?;
            }
            while common(table.len())? > MOST_ROWS {
                common(table.pop_first())?;
            }
        }
        if !what.lives.is_empty() {
            write_lives(&mut common(write.open_table(LIVES))?, what.lives)?;
        }
        common(write.commit())
    }

    pub fn staged(&self) -> Result<Option<Staged>, Error> {
        let read = common(self.database.begin_read())?;
        let table = common(read.open_table(STAGED))?;
        common(table.get(""))?.map(|value| decode(value.value())).transpose()
    }

    pub fn log(&self, most: u64) -> Result<Vec<LogRow>, Error> {
        let read = common(self.database.begin_read())?;
        let table = common(read.open_table(LOG))?;
        let mut rows = Vec::new();
        for entry in common(table.iter())?.rev().take(usize::try_from(most).unwrap_or(usize::MAX)) {
            rows.push(decode(common(entry)?.1.value())?);
        }
        rows.reverse();
        Ok(rows)
    }

    pub fn rows(&self, first: u64, last: u64) -> Result<Vec<LogRow>, Error> {
        let read = common(self.database.begin_read())?;
        let table = common(read.open_table(LOG))?;
        let mut rows = Vec::new();
        for entry in common(table.range(first..=last))? {
            rows.push(decode(common(entry)?.1.value())?);
        }
        Ok(rows)
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

    /// Takes over all of another store.
    pub fn copy(&self, from: &Self) -> Result<(), Error> {
        let edits: Vec<Edit> = from.records()?.into_values().map(Edit::Put).collect();
        let lives = from.lives()?;
        let (staged, rows) = (from.staged()?, from.log(u64::MAX)?);
        let rows: Vec<&LogRow> = rows.iter().collect();
        let staged = Some(staged.as_ref());
        self.write(&Writing { edits: &edits, staged, rows: &rows, lives: &lives })
    }
}

type Lives<'t> = redb::Table<'t, &'static str, &'static [u8]>;

fn write_lives(table: &mut Lives<'_>, lives: &BTreeMap<String, Life>) -> Result<(), Error> {
    for (name, life) in lives {
        common(table.insert(name.as_str(), encode(life)?.as_slice()))?;
    }
    if common(table.len())? > MOST_LIVES {
        common(table.retain(|_, value| decode::<Life>(value).is_ok_and(|one| one.last.is_none())))?;
    }
    Ok(())
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    Ok(serde_json::to_vec(value)?)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    Ok(serde_json::from_slice(bytes)?)
}
