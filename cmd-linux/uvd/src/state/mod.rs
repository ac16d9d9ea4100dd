//! The persistent state of `uvd`: definitions, the audit log, and which partition had which name
//! when.
//!
//! The state lies in an embedded store that survives a kill at any moment. Rule: a request to `uvd`
//! does not fail because a disk fails. If a file cannot be opened or written, it is left as it is,
//! and `uvd` logs this and goes on in memory with all the state it has. If a file's contents are
//! damaged, the file is kept under another name ([`check`]), and `uvd` begins a new one, which the
//! ultravisor's log fills.

pub mod check;
mod disk;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use check::Wrong;
use control::command::{LogRow, Settled};
use definition::Definition;
use disk::{Disk, Writing};
use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use uvd_protocol::{EarlierBoot, End};

/// A boot of the host, by its number among the boots that this store saw, from 1. 0 is for records
/// from before the store distinguished boots, and while the boot is not known yet.
pub type Boot = u64;

/// The most rows of the log that are queued.
const MOST_QUEUED: usize = 64;

/// The stored state of a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The definition.
    pub definition: Definition,
    /// Whether the partition was applied from a file, so that a later apply may prune it.
    pub applied: bool,
    /// Set while a policy restarts the partition. If `uvd` then finds that the partition does not
    /// exist, it starts it.
    pub restarting: bool,
    /// Set at the start of the host while the partition has not been started with it.
    #[serde(default)]
    pub autostarting: bool,
    /// How its last run ended.
    pub last_end: Option<End>,
    /// The least memory in bytes that its kernel needs; 0 if it is not known.
    #[serde(default)]
    pub least_memory: u64,
}

impl Record {
    /// A record of a new definition.
    pub fn new(definition: Definition, applied: bool) -> Self {
        let (restarting, autostarting, last_end, least_memory) = (false, false, None, 0);
        Self { definition, applied, restarting, autostarting, last_end, least_memory }
    }
}

/// The part of a record that a plan compares first. Such a record's partition has the memory that
/// its kernel needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The definition, encoded by [`uvd_protocol::packed`].
    pub bytes: Vec<u8>,
    /// See [`Record::applied`].
    pub applied: bool,
}

impl Kept {
    /// The kept part of a record; `None` if a plan has to look at the whole record.
    pub fn of(record: &Record) -> Option<Self> {
        let fits = record.definition.memory >= record.least_memory;
        fits.then(|| Self {
            bytes: uvd_protocol::packed(&record.definition),
            applied: record.applied,
        })
    }
}

/// A change to the definitions.
#[expect(clippy::large_enum_variant, reason = "most edits put a record")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Edit {
    /// This record replaces the one of its name.
    Put(Record),
    /// This name is forgotten.
    Forget(String),
}

/// The time in which a partition had a name, in sequence numbers of a boot's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// The boot.
    #[serde(default)]
    pub boot: Boot,
    /// The partition's number.
    pub number: u32,
    /// The record with which it began.
    pub first: u64,
    /// The record with which it ended.
    pub last: Option<u64>,
}

/// Edits that depend on a transaction: they hold if it is committed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The boot that the transaction belongs to.
    #[serde(default)]
    pub boot: Boot,
    /// Id of the transaction's request.
    pub request: u64,
    /// The transaction's record is this one or a later one.
    #[serde(default)]
    pub since: u64,
    /// The edits.
    pub edits: Vec<Edit>,
}

impl Staged {
    /// The key in the store; keys rise with boots and requests.
    fn key(&self) -> String {
        format!("{:020}/{:020}", self.boot, self.request)
    }
}

/// See the module's head.
pub struct State {
    records: BTreeMap<String, Record>,
    /// The kept parts of the records.
    kept: HashMap<String, Kept, RandomState>,
    /// Staged edits whose transaction is undecided.
    staged: Vec<Staged>,
    boot: Boot,
    disk: Disk,
    path: PathBuf,
    persistent: bool,
    queue: Queue,
}

impl State {
    /// Opens the store in a file, which is created if it does not exist.
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

    /// Notes that the host is in the boot with this identity; all later records belong to that
    /// boot. If the boot is new, the partitions that start with the host are marked first, so that
    /// a `uvd` that is killed meanwhile marks them again.
    pub fn begin_boot(&mut self, identity: u64) {
        if !self.read("boots", self.disk.knows(identity)) {
            self.mark_autostart();
        }
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

    /// Marks the partitions that start with the host. What a policy had to restart in an earlier boot
    /// is not restarted in this one.
    fn mark_autostart(&mut self) {
        let marked = |record: &Record| {
            let autostarting = record.definition.autostart.enabled;
            Record { restarting: false, autostarting, ..record.clone() }
        };
        let all = self.records.values().map(|record| (record, marked(record)));
        let changed = all.filter(|(record, marked)| *record != marked);
        let edits: Vec<Edit> = changed.map(|(_, marked)| Edit::Put(marked)).collect();
        if !edits.is_empty() {
            self.edit(&edits);
        }
    }

    /// The host's current boot.
    pub fn boot(&self) -> Boot {
        self.boot
    }

    /// The stored facts about a boot, if it is not the host's current boot.
    pub fn earlier(&self, boot: Boot) -> Option<EarlierBoot> {
        let met = || self.read("boots", self.disk.met(boot));
        (boot != self.boot).then(|| EarlierBoot { number: boot, now: self.boot, met: met() })
    }

    /// The definitions, by name.
    pub fn records(&self) -> &BTreeMap<String, Record> {
        &self.records
    }

    /// Edits that mark the records of these names as applied from a file.
    pub fn with_applied(&self, names: &[String]) -> Vec<Edit> {
        let records = names.iter().filter_map(|name| self.records.get(name));
        let applied = records.map(|record| Record { applied: true, ..record.clone() });
        applied.map(Edit::Put).collect()
    }

    /// The kept parts of the records, by name.
    pub fn kept(&self) -> &HashMap<String, Kept, RandomState> {
        &self.kept
    }

    /// Whether a restart of `uvd` finds the present state.
    #[cfg(test)]
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// Stores edits that hold once the transaction is committed.
    pub fn stage(&mut self, staged: &Staged) {
        self.staged.push(staged.clone());
        self.write(std::slice::from_ref(staged), &[]);
    }

    /// The staged edits that are not settled, in the order of their requests.
    pub fn staged(&self) -> &[Staged] {
        &self.staged
    }

    /// Settles staged edits after their transaction was committed or was not. The result is written
    /// with the next change, or by [`Self::store`]; until then the log gives the same answer.
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

    /// Changes one record, if it exists.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Record)) {
        if let Some(record) = self.records.get(name) {
            let mut record = record.clone();
            change(&mut record);
            if self.records.get(name) != Some(&record) {
                self.edit(&[Edit::Put(record)]);
            }
        }
    }

    /// Takes over records of the log, and the lives that began or ended with them; [`Self::store`]
    /// writes them.
    pub fn add_log(&mut self, rows: &[LogRow], lives: Vec<(String, Life)>) {
        self.queue.rows.extend(rows.iter().map(|row| (row.sequence, row.clone())));
        self.queue.lives.extend(lives);
    }

    /// Writes the queue.
    pub fn store(&mut self) {
        if !self.queue.settled.is_empty() || self.queue.written_rows() > 0 {
            self.write(&[], &[]);
        }
    }

    /// Records whose outcome was not known when they were taken over.
    pub fn unsettled(&self) -> Vec<u64> {
        let open = self.queue.rows.values().filter(|row| is_unsettled(row));
        open.map(|row| row.sequence).collect()
    }

    /// The newest records of this boot, in rising order.
    pub fn log(&self, most: u64) -> Vec<LogRow> {
        let mut rows = self.with_queued(self.disk.log(self.boot, most), 0, u64::MAX);
        rows.drain(..rows.len().saturating_sub(usize::try_from(most).unwrap_or(usize::MAX)));
        rows
    }

    /// The last life of a name.
    pub fn life(&self, name: &str) -> Option<Life> {
        let queued = self.queue.lives.get(name).copied();
        queued.or_else(|| self.read("lives", self.disk.life(name)))
    }

    /// The records about a partition during a life, in rising order.
    pub fn why(&self, life: &Life) -> Vec<LogRow> {
        let last = life.last.unwrap_or(u64::MAX);
        let mut rows = self.rows(life.boot, life.first, last);
        rows.retain(|row| row.partitions.contains(&life.number));
        rows
    }

    /// The outcome of a request of a boot, by the stored records of that boot.
    pub fn outcome(&self, boot: Boot, who: u32, request: u64) -> Option<Settled> {
        let rows = self.rows(boot, 0, u64::MAX);
        let row = rows.into_iter().rev().find(|row| (row.who, row.request) == (who, request));
        row.filter(|row| !is_unsettled(row)).map(|row| row.outcome)
    }

    /// Records of a boot from `first` to `last`, in rising order.
    fn rows(&self, boot: Boot, first: u64, last: u64) -> Vec<LogRow> {
        let stored = self.disk.rows(boot, first, last.max(first));
        if boot == self.boot {
            self.with_queued(stored, first, last)
        } else {
            self.read("the log", stored)
        }
    }

    /// The stored records, followed by the newer, queued ones from `first` to `last`.
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

    /// Writes these edits and the queue; if the file accepts no more, goes on in memory.
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
                // After an error the store refuses everything until it is opened again.
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

    /// Writes the whole state into a store in memory.
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

/// Changes that are written together with the next one.
#[derive(Default)]
struct Queue {
    edits: Vec<Edit>,
    /// Keys of staged edits whose transaction was decided.
    settled: Vec<String>,
    rows: BTreeMap<u64, LogRow>,
    lives: BTreeMap<String, Life>,
}

impl Queue {
    /// The number of queued rows to write next. These are the rows before the first whose outcome
    /// is unknown, because a later `uvd` requests all after the last that it finds. The number of
    /// rows that wait is bounded.
    fn written_rows(&self) -> usize {
        if self.rows.len() > MOST_QUEUED {
            return self.rows.len();
        }
        self.rows.values().position(is_unsettled).unwrap_or(self.rows.len())
    }
}

/// Whether the outcome of a record is unknown.
fn is_unsettled(row: &LogRow) -> bool {
    matches!(row.outcome, Settled::Begun | Settled::Pending)
}

/// Renames a damaged file; the error says why the file can be neither used nor renamed.
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
        "state: {path}: is damaged: {wrong}; uvd has renamed it to {aside}, and begins a new file \
         with the log of this boot; apply the definitions again with `uvtool apply FILE`"
    ));
    Ok(())
}

fn report(result: Result<(), disk::Error>) {
    if let Err(error) = result {
        crate::log(&format!("state: {error}; the change is not kept"));
    }
}

fn say(path: &Path, error: &dyn std::fmt::Display, way_out: &str) {
    let path = path.display();
    crate::log(&format!("state: {path}: {error}; uvd goes on without it: {way_out}"));
}

#[cfg(test)]
mod tests;
