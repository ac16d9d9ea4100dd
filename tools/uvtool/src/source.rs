//! The source of answers: `uvd`, or answers that a test prepared.
//!
//! Rule: long answers come in pages, which are joined here. If the pages of an ultravisor make no
//! progress, that is an error, not an endless loop.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::progress::Progress;
use control::command::{
    Answer, Body, DeviceRow, Difference, DiskRow, Heap, IssuesAnswer, ListRow, LogRow, MapRow,
    Operation, PartitionRow, Query, Range, Refusal, ResourcesAnswer, Target, Transaction,
    VersionAnswer,
};
use uvd_protocol::{Failure, FrameError, Sentence};

/// Rows of the page map, or of the log, to request at a time.
const PAGE: u32 = 200;
/// The number of differences after which a comparison stops.
const MOST_DIFFERENCES: usize = 1000;

/// Why there is no answer.
#[derive(Debug)]
pub enum Error {
    /// The socket cannot be reached.
    Unreachable {
        /// Path of the socket.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// `uvd` closed the connection, or sent bytes that are not an answer.
    Conversation(FrameError),
    /// `uvd` did not answer.
    Silent(Duration),
    /// `uvd` or the ultravisor failed the request and gave a reason.
    Failure(Failure),
    /// The answer belongs to another request.
    Other(&'static str),
    /// The pages of an answer make no progress.
    Stuck(&'static str),
    /// A file that the user named is wrong.
    Given(Sentence),
    /// An option or argument is wrong.
    Usage(Sentence),
    /// A definition made of command-line options is wrong.
    Options(definition::Errors),
    /// A definition in a file is wrong.
    Definition(definition::Errors),
    /// The terminal, or another file of this process, failed.
    Terminal(io::Error),
    /// A partition that does not exist.
    NoSuchPartition {
        /// The requested name or number.
        name: String,
        /// Names of the existing partitions.
        there: String,
    },
}

impl Error {
    /// The error for people.
    pub fn sentence(&self) -> Sentence {
        const VERSION: &str = "use a uvtool of its version";
        let words = |problem: String, way_out: &str| Sentence::new(problem, way_out);
        match self {
            Self::Unreachable { path, error } => {
                words(format!("uvd: {}: {error}", path.display()), way_out(error.kind()))
            }
            Self::Conversation(error) => words(format!("uvd: {error}"), "see `dmesg | grep uvd`"),
            Self::Silent(limit) => words(
                format!("uvd: no answer within {limit:?}"),
                "ask again with a longer --timeout, or see `dmesg | grep uvd`",
            ),
            Self::Failure(failure) => failure.sentence(),
            Self::Other(what) => {
                words(format!("ultravisor: sent an answer without {what}"), VERSION)
            }
            Self::Stuck(what) => words(
                format!("ultravisor: {what}: a page of the answer makes no progress"),
                VERSION,
            ),
            Self::Given(sentence) | Self::Usage(sentence) => sentence.clone(),
            // The issues have ways out of their own.
            Self::Options(errors) | Self::Definition(errors) => words(errors.to_string(), ""),
            Self::Terminal(error) => words(format!("terminal: {error}"), ""),
            Self::NoSuchPartition { name, there } => words(
                format!("partition {name:?}: no such partition; there are {there}"),
                "`uvtool definitions` shows those that are not started",
            ),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.sentence().fmt(f)
    }
}

impl std::error::Error for Error {}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        Self::Conversation(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Terminal(error)
    }
}

fn way_out(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied => "run uvtool as root",
        _ => "is this the command partition, and does uvd run? See `dmesg | grep uvd`",
    }
}

/// An answer of the ultravisor.
#[derive(Debug)]
pub struct Answered {
    /// Version of the database after the request.
    pub version: u64,
    /// The answer.
    pub answer: Answer,
}

/// Collects all rows of an answer in pages. `ask` returns the rows after a number, and whether more
/// rows follow; `what` names the rows in the error for pages that make no progress.
fn pages<R>(
    what: &'static str,
    number: impl Fn(&R) -> u32,
    mut ask: impl FnMut(u32) -> Result<(Vec<R>, bool), Error>,
) -> Result<Vec<R>, Error> {
    let mut all: Vec<R> = Vec::new();
    loop {
        let after = all.last().map_or(0, &number);
        let (rows, more) = ask(after)?;
        let numbers = [after].into_iter().chain(rows.iter().map(&number));
        if !numbers.is_sorted_by(|a, b| a < b) || (more && rows.is_empty()) {
            return Err(Error::Stuck(what));
        }
        match all.is_empty() {
            true => all = rows,
            false => all.extend(rows),
        }
        if !more {
            return Ok(all);
        }
    }
}

/// Answers queries.
pub trait Source {
    /// Sends a request, and returns its answer.
    fn request(&mut self, body: Body) -> Result<Answered, Error>;

    /// Sends a query, and returns its answer.
    fn ask(&mut self, query: Query) -> Result<Answered, Error> {
        self.request(Body::Query(query))
    }

    /// Releases frames of a partition in a transaction of one operation; the inner error is the
    /// refusal.
    fn release(
        &mut self,
        partition: u32,
        first: u64,
        frames: u64,
    ) -> Result<Result<(), Refusal>, Error> {
        let transaction = Transaction {
            planned_at: None,
            pending: false,
            reason: "uvtool diag release".into(),
            operations: vec![Operation::ReleaseMemory {
                partition: Target::Number(partition),
                ranges: vec![Range { first, frames }],
            }],
        };
        match self.request(Body::Transaction(transaction)) {
            Ok(answered) => match answered.answer {
                Answer::Applied(_) => Ok(Ok(())),
                _ => Err(Error::Other("a transaction")),
            },
            Err(Error::Failure(Failure::Refused(refusal))) => Ok(Err(*refusal)),
            Err(error) => Err(error),
        }
    }

    /// Reads the versions.
    fn version(&mut self) -> Result<VersionAnswer, Error> {
        match self.ask(Query::Version)?.answer {
            Answer::Version(version) => Ok(version),
            _ => Err(Error::Other("versions")),
        }
    }

    /// Reads the CPU's leaks.
    fn issues(&mut self) -> Result<IssuesAnswer, Error> {
        match self.ask(Query::Issues)?.answer {
            Answer::Issues(issues) => Ok(issues),
            _ => Err(Error::Other("issues of the CPU")),
        }
    }

    /// Reads all partitions, by number.
    fn partitions(&mut self) -> Result<Vec<PartitionRow>, Error> {
        pages(
            "partitions",
            |row: &PartitionRow| row.number,
            |after| match self.ask(Query::Partitions { after })?.answer {
                Answer::Partitions { rows, more } => Ok((rows, more)),
                _ => Err(Error::Other("partitions")),
            },
        )
    }

    /// Reads the short rows of all partitions, by number.
    fn list(&mut self) -> Result<Vec<ListRow>, Error> {
        pages(
            "list",
            |row: &ListRow| row.number,
            |after| match self.ask(Query::List { after })?.answer {
                Answer::List { rows, more } => Ok((rows, more)),
                _ => Err(Error::Other("a list")),
            },
        )
    }

    /// Reads one partition, by name or number; if it does not exist, the error has the names of the
    /// existing partitions.
    fn partition(&mut self, name: &str) -> Result<PartitionRow, Error> {
        // No partition has a longer name, and a longer name may not fit a frame.
        if name.len() <= rules::MAX_NAME {
            let query = Query::Partition { name: name.into() };
            let Answer::Partitions { rows, .. } = self.ask(query)?.answer else {
                return Err(Error::Other("a partition"));
            };
            if let Some(row) = rows.into_iter().next() {
                return Ok(row);
            }
        }
        let there: Vec<String> = self.partitions()?.into_iter().map(|row| row.name).collect();
        Err(Error::NoSuchPartition { name: name.into(), there: there.join(", ") })
    }

    /// Reads the machine's resources.
    fn resources(&mut self) -> Result<ResourcesAnswer, Error> {
        match self.ask(Query::Resources)?.answer {
            Answer::Resources(resources) => Ok(resources),
            _ => Err(Error::Other("resources")),
        }
    }

    /// Reads the PCI functions, by index.
    fn devices(&mut self) -> Result<Vec<DeviceRow>, Error> {
        let mut all: Vec<DeviceRow> = Vec::new();
        loop {
            let first = u32::try_from(all.len()).unwrap_or(u32::MAX);
            let Answer::Devices { rows, more } = self.ask(Query::Devices { first })?.answer else {
                return Err(Error::Other("PCI functions"));
            };
            if !(first..).zip(&rows).all(|(index, row)| row.index == index)
                || (more && rows.is_empty())
            {
                return Err(Error::Stuck("PCI functions"));
            }
            all.extend(rows);
            if !more {
                return Ok(all);
            }
        }
    }

    /// Reads the disks of partitions, by index.
    fn disks(&mut self) -> Result<Vec<DiskRow>, Error> {
        let mut all: Vec<DiskRow> = Vec::new();
        loop {
            let first = all.last().map_or(0, |row| row.index.saturating_add(1));
            let Answer::Disks { rows, more } = self.ask(Query::Disks { first })?.answer else {
                return Err(Error::Other("disks"));
            };
            let indices = rows.iter().map(|row| row.index);
            if !indices.clone().is_sorted_by(|a, b| a < b)
                || indices.clone().any(|index| index < first)
                || (more && rows.is_empty())
            {
                return Err(Error::Stuck("disks"));
            }
            all.extend(rows);
            if !more {
                return Ok(all);
            }
        }
    }

    /// Reads the boot partition's use of its heap, if the source can tell.
    fn boot_heap(&mut self) -> Option<Heap> {
        None
    }

    /// Reads the nanoseconds that `uvd` spent on the consoles of partitions, by number, if the
    /// source can tell.
    fn console_times(&mut self) -> Vec<(u32, u64)> {
        Vec::new()
    }

    /// Reads the whole page map of a machine with this many frames.
    fn page_map(&mut self, frames: u64) -> Result<Vec<MapRow>, Error> {
        let mut all: Vec<MapRow> = Vec::new();
        let mut first = 0;
        while first < frames {
            let query = Query::PageMap { first, most: PAGE };
            let Answer::PageMap(rows) = self.ask(query)?.answer else {
                return Err(Error::Other("the page map"));
            };
            if rows.is_empty() {
                return Err(Error::Stuck("page map"));
            }
            for mut row in rows {
                if row.first != first || row.frames == 0 {
                    return Err(Error::Stuck("page map"));
                }
                // The last entry may reach past the last frame.
                row.frames = row.frames.min(frames - first);
                first += row.frames;
                append(&mut all, row);
            }
        }
        Ok(all)
    }

    /// Reads the differences between the database and the lead monitor, and the first frame that
    /// was not compared. If the differences are not too many, all frames are compared.
    fn compare(&mut self, frames: u64) -> Result<(Vec<Difference>, u64), Error> {
        let (mut all, mut first) = (Vec::new(), 0);
        let mut progress = Progress::new("comparing frames");
        while first < frames && all.len() < MOST_DIFFERENCES {
            let query = Query::Compare { first };
            let Answer::Compared { next, differences } = self.ask(query)?.answer else {
                return Err(Error::Other("a comparison"));
            };
            if next <= first {
                return Err(Error::Stuck("comparison"));
            }
            all.extend(differences);
            first = next;
            progress.done(first, frames);
        }
        Ok((all, first))
    }

    /// Reads at most `most` of the newest log records, oldest first.
    fn log(&mut self, most: u64) -> Result<Vec<LogRow>, Error> {
        let (_, oldest, next) = self.log_page(0, 1)?;
        let mut from = oldest.max(next.saturating_sub(most));
        let mut all = Vec::new();
        while from < next {
            let (rows, oldest, _) = self.log_page(from, PAGE)?;
            // The ring may have overwritten the record that comes next.
            from = from.max(oldest);
            let rows: Vec<LogRow> = rows.into_iter().filter(|row| row.sequence >= from).collect();
            let Some(last) = rows.last() else { break };
            from = last.sequence.saturating_add(1);
            all.extend(rows);
        }
        all.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        Ok(all)
    }

    /// Reads a page of the log: the records, the oldest kept number, and the next new number.
    fn log_page(&mut self, from: u64, most: u32) -> Result<(Vec<LogRow>, u64, u64), Error> {
        match self.ask(Query::Log { from, most })?.answer {
            Answer::Log { rows, oldest, next } => Ok((rows, oldest, next)),
            _ => Err(Error::Other("log records")),
        }
    }
}

/// Adds a range; if it continues the last range and has the same owner, the last range grows.
fn append(all: &mut Vec<MapRow>, row: MapRow) {
    match all.last_mut() {
        Some(last) if (last.owner, last.io) == (row.owner, row.io) => last.frames += row.frames,
        _ => all.push(row),
    }
}

#[cfg(test)]
mod tests;
