//! What `uvd` must not forget: definitions, the audit log, whose number was whose when.
//!
//! It lies in an embedded store that survives being killed at any moment. Rule: what is asked of
//! `uvd` does not fail because a disk does. A file that cannot be opened or written is left as
//! it is, `uvd` says so and goes on in memory with all it knows. A file with damaged contents is
//! kept under another name, whatever its bytes are ([`check`]), and `uvd` begins a new one, which
//! the ultravisor's log fills.

pub mod check;
mod disk;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use check::Wrong;
use definition::Definition;
use disk::{Disk, Writing};
use pv_abi::uv::command::LogRow;
use serde::{Deserialize, Serialize};
use uvd_protocol::{EarlierBoot, End};

/// A boot of the host: its number among those that this store met, rising from 1. 0: before the
/// store knew boots, or not known yet.
pub type Boot = u64;

/// Rows of the log that are queued at most.
const MOST_QUEUED: usize = 64;

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
    /// Bytes of memory that its kernel needs at least; 0: not known.
    #[serde(default)]
    pub least_memory: u64,
}

impl Record {
    /// A record of a new definition.
    pub fn new(definition: Definition, applied: bool) -> Self {
        Self { definition, applied, restarting: false, last_end: None, least_memory: 0 }
    }
}

/// What a plan looks at first of a record whose partition has the memory that its kernel needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The definition, as [`uvd_protocol::packed`] has it.
    pub bytes: Vec<u8>,
    /// See [`Record::applied`].
    pub applied: bool,
}

impl Kept {
    /// What is kept of a record; `None`: a plan has to look at all of it.
    pub fn of(record: &Record) -> Option<Self> {
        let fits = record.definition.memory >= record.least_memory;
        fits.then(|| Self {
            bytes: uvd_protocol::packed(&record.definition),
            applied: record.applied,
        })
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

/// When a partition went by a name, in sequence numbers of a boot's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// The boot.
    #[serde(default)]
    pub boot: Boot,
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
    /// The boot that the transaction is of.
    #[serde(default)]
    pub boot: Boot,
    /// Id of the transaction's request.
    pub request: u64,
    /// The transaction's record is not older than this one.
    #[serde(default)]
    pub since: u64,
    /// What holds then.
    pub edits: Vec<Edit>,
}

impl Staged {
    /// The key that it is stored under: keys rise with boots and requests.
    fn key(&self) -> String {
        format!("{:020}/{:020}", self.boot, self.request)
    }
}

/// See the module's head.
pub struct State {
    records: BTreeMap<String, Record>,
    /// Of the records.
    kept: HashMap<String, Kept>,
    /// Staged edits that were not decided on.
    staged: Vec<Staged>,
    boot: Boot,
    disk: Disk,
    path: PathBuf,
    persistent: bool,
    queue: Queue,
}

impl State {
    /// The store in a file, which is made where there is none.
    pub fn open(path: &Path) -> Self {
        let opened = usable(path).and_then(|()| {
            let opened = Disk::open(path);
            let opened = opened.and_then(|disk| Ok((disk.records()?, disk.staged()?, disk)));
            opened.map_err(|error| error.to_string())
        });
        let (records, staged, disk, persistent) = match opened {
            Ok((records, staged, disk)) => (records, staged, disk, true),
            Err(error) => {
                say(path, &error, "mend what is named, then start uvd anew");
                (BTreeMap::new(), Vec::new(), Disk::in_memory(), false)
            }
        };
        let (path, queue) = (path.into(), Queue::default());
        let of = |(name, record): (&String, &Record)| Some((name.clone(), Kept::of(record)?));
        let kept = records.iter().filter_map(of).collect();
        Self { records, kept, staged, boot: 0, disk, path, persistent, queue }
    }

    /// The host is in the boot with this identity: what comes from now on is of that boot.
    pub fn begin_boot(&mut self, identity: u64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let boot = self.read("boots", self.disk.boot(identity, now.as_secs()));
        if boot != self.boot {
            if !self.queue.rows.is_empty() || !self.queue.lives.is_empty() {
                self.write(&[], &[]);
                self.queue.rows.clear();
            }
            self.boot = boot;
        }
    }

    /// The boot that the host is in.
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// What is known of a boot, where it is not the one that the host is in.
    pub fn earlier(&self, boot: Boot) -> Option<EarlierBoot> {
        let met = || self.read("boots", self.disk.met(boot));
        (boot != self.boot).then(|| EarlierBoot { number: boot, now: self.boot, met: met() })
    }

    /// The definitions, by name.
    pub fn records(&self) -> &BTreeMap<String, Record> {
        &self.records
    }

    /// Edits by which the records of these names are of definitions that were applied from a file.
    pub fn with_applied(&self, names: &[String]) -> Vec<Edit> {
        let records = names.iter().filter_map(|name| self.records.get(name));
        let applied = records.map(|record| Record { applied: true, ..record.clone() });
        applied.map(Edit::Put).collect()
    }

    /// What is kept of the records in short, by name.
    pub fn kept(&self) -> &HashMap<String, Kept> {
        &self.kept
    }

    /// Whether a restart of `uvd` finds what is written now.
    #[cfg(test)]
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// Writes down what is to hold once the transaction is committed.
    pub fn stage(&mut self, staged: &Staged) {
        self.staged.push(staged.clone());
        self.write(std::slice::from_ref(staged), &[]);
    }

    /// What was staged and not settled, in the order of the requests.
    pub fn staged(&self) -> &[Staged] {
        &self.staged
    }

    /// The transaction that was staged for was committed, or not. It is written with what comes
    /// next, or by [`Self::store`]: until then the log says the same.
    pub fn settle(&mut self, staged: &Staged, committed: bool) {
        let edits = if committed { &staged.edits[..] } else { &[] };
        self.apply(edits);
        self.queue.edits.extend_from_slice(edits);
        self.queue.settled.push(staged.key());
        self.staged.retain(|one| one.key() != staged.key());
    }

    /// Changes definitions at once.
    pub fn edit(&mut self, edits: &[Edit]) {
        self.apply(edits);
        self.write(&[], edits);
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

    /// Takes over records of the log, and lives that began or ended with them; written by
    /// [`Self::store`].
    pub fn add_log(&mut self, rows: &[LogRow], lives: Vec<(String, Life)>) {
        self.queue.rows.extend(rows.iter().map(|row| (row.sequence, row.clone())));
        self.queue.lives.extend(lives);
    }

    /// Writes what is to be written.
    pub fn store(&mut self) {
        if !self.queue.settled.is_empty() || self.queue.written_rows() > 0 {
            self.write(&[], &[]);
        }
    }

    /// Records whose end was not known when they were taken over.
    pub fn unsettled(&self) -> Vec<u64> {
        let open = self.queue.rows.values().filter(|row| is_unsettled(row));
        open.map(|row| row.sequence).collect()
    }

    /// The newest records of this boot, rising.
    pub fn log(&self, most: u64) -> Vec<LogRow> {
        let mut rows = self.with_queued(self.disk.log(self.boot, most), 0, u64::MAX);
        rows.drain(..rows.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX)));
        rows
    }

    /// The last life by a name.
    pub fn life(&self, name: &str) -> Option<Life> {
        let queued = self.queue.lives.get(name).copied();
        queued.or_else(|| self.read("lives", self.disk.life(name)))
    }

    /// Records about a partition during a life, rising.
    pub fn why(&self, life: &Life) -> Vec<LogRow> {
        let last = life.last.unwrap_or(u64::MAX);
        let mut rows = self.rows(life.boot, life.first, last);
        rows.retain(|row| row.partitions.contains(&life.number));
        rows
    }

    /// How a request of a boot ended, by the records of that boot that are stored.
    pub fn outcome(&self, boot: Boot, who: u32, request: u64) -> Option<String> {
        let rows = self.rows(boot, 0, u64::MAX);
        let row = rows.into_iter().rev().find(|row| (row.who, row.request) == (who, request));
        row.filter(|row| !is_unsettled(row)).map(|row| row.outcome)
    }

    /// Records of a boot from one to another, rising.
    fn rows(&self, boot: Boot, first: u64, last: u64) -> Vec<LogRow> {
        let stored = self.disk.rows(boot, first, last.max(first));
        if boot == self.boot {
            self.with_queued(stored, first, last)
        } else {
            self.read("the log", stored)
        }
    }

    /// Stored records, and those from `first` to `last` that are queued, which are newer.
    fn with_queued(
        &self,
        stored: Result<Vec<LogRow>, disk::Error>,
        first: u64,
        last: u64,
    ) -> Vec<LogRow> {
        let stored = self.read("the log", stored);
        let mut rows: BTreeMap<_, _> = stored.into_iter().map(|row| (row.sequence, row)).collect();
        let queued = self.queue.rows.range(first..=last.max(first));
        rows.extend(queued.map(|(sequence, row)| (*sequence, row.clone())));
        rows.into_values().collect()
    }

    fn apply(&mut self, edits: &[Edit]) {
        for edit in edits {
            match edit {
                Edit::Put(record) => {
                    let name = &record.definition.name;
                    match Kept::of(record) {
                        Some(kept) => drop(self.kept.insert(name.clone(), kept)),
                        None => drop(self.kept.remove(name)),
                    }
                    self.records.insert(name.clone(), record.clone());
                }
                Edit::Forget(name) => {
                    self.records.remove(name);
                    self.kept.remove(name);
                }
            }
        }
    }

    /// Writes with what is queued; where the file takes no more, all goes on in memory.
    fn write(&mut self, staged: &[Staged], edits: &[Edit]) {
        self.queue.edits.extend_from_slice(edits);
        let rows = self.queue.rows.values().take(self.queue.written_rows());
        let rows: Vec<(Boot, &LogRow)> = rows.map(|row| (self.boot, row)).collect();
        let what = Writing {
            edits: &self.queue.edits,
            staged,
            settled: &self.queue.settled,
            boot: self.boot,
            rows: &rows,
            lives: &self.queue.lives,
        };
        let last = rows.last().map(|(_, row)| row.sequence);
        if let Err(error) = self.disk.write(&what) {
            if self.persistent {
                say(&self.path, &error, "make room, then start uvd anew");
                self.persistent = false;
                // After an error the store says nothing more until it is opened again.
                self.disk = Disk::in_memory();
                self.fill();
                report(self.disk.write(&what));
            } else {
                report(Err(error));
            }
        }
        let mut rows = std::mem::take(&mut self.queue.rows);
        rows.retain(|sequence, row| Some(*sequence) > last || is_unsettled(row));
        self.queue = Queue { rows, ..Queue::default() };
    }

    /// Puts all that is known into a store in memory.
    fn fill(&self) {
        if let Err(error) = Disk::reopen(&self.path).and_then(|old| self.disk.copy(&old)) {
            crate::log(&format!("state: {error}; the log that was stored is not at hand"));
        }
        let records: Vec<Edit> = self.records.values().cloned().map(Edit::Put).collect();
        let (lives, staged) = (BTreeMap::new(), &self.staged[..]);
        let (edits, settled, rows) = (&records[..], &self.queue.settled[..], &[][..]);
        let boot = self.boot;
        report(self.disk.write(&Writing { edits, staged, settled, boot, rows, lives: &lives }));
    }

    fn read<T: Default>(&self, what: &str, read: Result<T, disk::Error>) -> T {
        read.unwrap_or_else(|error| {
            crate::log(&format!("state: {}: {what}: {error}", self.path.display()));
            T::default()
        })
    }
}

/// What is written together with what comes next.
#[derive(Default)]
struct Queue {
    edits: Vec<Edit>,
    /// Keys of staged edits that were decided on.
    settled: Vec<String>,
    rows: BTreeMap<u64, LogRow>,
    lives: BTreeMap<String, Life>,
}

impl Queue {
    /// How many of its rows are written next: those before the first whose end is not known, for
    /// a later `uvd` asks for all after the last that it finds. They do not become too many.
    fn written_rows(&self) -> usize {
        if self.rows.len() > MOST_QUEUED {
            return self.rows.len();
        }
        self.rows.values().position(is_unsettled).unwrap_or(self.rows.len())
    }
}

/// Whether it is not known how a record ends.
fn is_unsettled(row: &LogRow) -> bool {
    matches!(row.outcome.as_str(), "begun" | "pending")
}

/// Sets a damaged file aside; why the file can be neither used nor set aside.
fn usable(path: &Path) -> Result<(), String> {
    let wrong = match check::check(path) {
        Ok(()) => return Ok(()),
        Err(Wrong::Unusable(why)) => return Err(why),
        Err(Wrong::Damaged(why)) => why,
    };
    let aside = check::set_aside(path)
        .map_err(|error| format!("is damaged ({wrong}), and cannot be renamed: {error}"))?;
    let (path, aside) = (path.display(), aside.display());
    crate::log(&format!(
        "state: {path}: is damaged: {wrong}; it is kept as {aside}, and uvd begins a new one: the \
         log comes from the ultravisor, definitions come by `uvtool apply FILE`"
    ));
    Ok(())
}

fn report(result: Result<(), disk::Error>) {
    if let Err(error) = result {
        crate::log(&format!("state: {error}; it is not kept"));
    }
}

fn say(path: &Path, error: &dyn std::fmt::Display, way_out: &str) {
    let path = path.display();
    crate::log(&format!("state: {path}: {error}; uvd goes on without it: {way_out}"));
}

#[cfg(test)]
mod tests;
