//! What `uvd` must not forget: definitions, the audit log, whose number was whose when.
//!
//! It lies in an embedded store that survives being killed at any moment. Rule: what is asked of
//! `uvd` does not fail because a disk does. A store that cannot be opened or written is left as
//! it is, `uvd` says so and goes on in memory with all it knows.

mod disk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use definition::Definition;
use disk::Disk;
use pv_abi::uv::command::LogRow;
use serde::{Deserialize, Serialize};
use uvd_protocol::End;

/// What is kept of a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it should be.
    pub definition: Definition,
    /// It was applied from a file, so a later apply may prune it.
    pub applied: bool,
    /// A policy is starting it anew: it is started when `uvd` finds it gone.
    pub restarting: bool,
    /// How its last run ended.
    pub last_end: Option<End>,
}

impl Record {
    /// A record of a new definition.
    pub fn new(definition: Definition, applied: bool) -> Self {
        Self { definition, applied, restarting: false, last_end: None }
    }
}

/// A change to the definitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edit {
    /// This is so now.
    Put(Record),
    /// This name is forgotten.
    Forget(String),
}

/// When a partition went by a name, in sequence numbers of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Its number.
    pub number: u32,
    /// The record that created it.
    pub first: u64,
    /// The record that ended that.
    pub last: Option<u64>,
}

/// Edits that a transaction decides on: they hold if it was committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Id of the transaction's request.
    pub request: u64,
    /// What holds then.
    pub edits: Vec<Edit>,
}

/// See the module's head.
pub struct State {
    records: BTreeMap<String, Record>,
    disk: Disk,
    path: PathBuf,
    persistent: bool,
}

impl State {
    /// The store in a file, which is made where there is none.
    pub fn open(path: &Path) -> Self {
        let opened = Disk::open(path).and_then(|disk| Ok((disk.records()?, disk)));
        let (records, disk, persistent) = match opened {
            Ok((records, disk)) => (records, disk, true),
            Err(error) => {
                say(path, &error, "move it away or repair the disk, then start uvd anew");
                (BTreeMap::new(), Disk::in_memory(), false)
            }
        };
        Self { records, disk, path: path.into(), persistent }
    }

    /// The definitions, by name.
    pub fn records(&self) -> &BTreeMap<String, Record> {
        &self.records
    }

    /// Whether a restart of `uvd` finds what is written now.
    #[cfg(test)]
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// Writes down what is to hold once the transaction is committed.
    pub fn stage(&mut self, staged: &Staged) {
        self.write(|disk| disk.stage(Some(staged)));
    }

    /// What was staged and not settled.
    pub fn staged(&self) -> Option<Staged> {
        self.disk.staged().ok().flatten()
    }

    /// The transaction that was staged for was committed, or not.
    pub fn settle(&mut self, staged: &Staged, committed: bool) {
        let edits = if committed { &staged.edits[..] } else { &[] };
        self.apply(edits);
        self.write(|disk| disk.edit(edits, true));
    }

    /// Changes definitions at once.
    pub fn edit(&mut self, edits: &[Edit]) {
        self.apply(edits);
        self.write(|disk| disk.edit(edits, false));
    }

    /// Changes one record, where there is one.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.records.get(name) {
            let mut record = record.clone();
            change(&mut record);
            if self.records.get(name) != Some(&record) {
                self.edit(&[Edit::Put(record)]);
            }
        }
    }

    /// Stores records of the log, and lives that began or ended with them.
    pub fn add_log(&mut self, rows: &[LogRow], lives: &[(String, Life)]) {
        if !rows.is_empty() || !lives.is_empty() {
            self.write(|disk| disk.add_log(rows, lives));
        }
    }

    /// The newest records, rising.
    pub fn log(&self, most: u64) -> Vec<LogRow> {
        self.read("the log", self.disk.log(most))
    }

    /// The last life by a name.
    pub fn life(&self, name: &str) -> Option<Life> {
        self.read("lives", self.disk.life(name))
    }

    /// Records about a partition during a life, rising.
    pub fn why(&self, life: &Life) -> Vec<LogRow> {
        let mut rows = self.read("the log", self.disk.rows(life.first, life.last));
        rows.retain(|row| row.partitions.contains(&life.number));
        rows
    }

    fn apply(&mut self, edits: &[Edit]) {
        for edit in edits {
            match edit {
                Edit::Put(record) => {
                    self.records.insert(record.definition.name.clone(), record.clone());
                }
                Edit::Forget(name) => {
                    self.records.remove(name);
                }
            }
        }
    }

    /// Writes; where the file takes no more, all goes on in memory.
    fn write(&mut self, write: impl Fn(&Disk) -> Result<(), disk::Error>) {
        let Err(error) = write(&self.disk) else {
            return;
        };
        if !self.persistent {
            crate::log(&format!("state: {error}; it is not kept"));
            return;
        }
        say(&self.path, &error, "make room, then start uvd anew");
        self.persistent = false;
        // After an error the store says nothing more until it is opened again.
        self.disk = Disk::in_memory();
        let kept = Disk::reopen(&self.path).and_then(|old| self.disk.copy(&old));
        if let Err(error) = kept {
            crate::log(&format!("state: {error}; the log that was stored is not at hand"));
        }
        let records: Vec<Edit> = self.records.values().cloned().map(Edit::Put).collect();
        if let Err(error) = self.disk.edit(&records, false).and_then(|()| write(&self.disk)) {
            crate::log(&format!("state: {error}; it is not kept"));
        }
    }

    fn read<T: Default>(&self, what: &str, read: Result<T, disk::Error>) -> T {
        read.unwrap_or_else(|error| {
            crate::log(&format!("state: {}: {what}: {error}", self.path.display()));
            T::default()
        })
    }
}

fn say(path: &Path, error: &disk::Error, way_out: &str) {
    let path = path.display();
    crate::log(&format!("state: {path}: {error}; uvd goes on without it: {way_out}"));
}

#[cfg(test)]
mod tests;
