//! Consoles of guests: drained always, kept for a while, shown to whoever is attached.
//!
//! ```text
//! guest --ring--> line --> history --> readers, each at its own position
//! guest <--ring-- line <-- what they type, in the order it comes
//! ```
//!
//! A console belongs to a name, not to a number: it goes on when its partition is started anew.
//! Rule: a reader that does not read slows nobody; it is told how much it missed. What is mapped
//! of a guest is unmapped before the guest is destroyed, for its memory cannot be freed before.

pub mod history;
pub mod line;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::BorrowedFd;

use history::History;
use line::Line;
use uvd_protocol::End;

/// Bytes that may wait to be typed.
const MOST_TYPED: usize = 4096;
/// Bytes of output in one answer.
const PIECE: usize = 16 * 1024;

/// Who reads: a client and the id of its request.
pub type ReaderId = (u64, u64);

/// What a reader is told.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Output.
    Output(Vec<u8>),
    /// No more comes.
    Ended(Option<End>),
}

/// All consoles.
#[derive(Default)]
pub struct Consoles {
    all: BTreeMap<String, Console>,
    readers: BTreeMap<ReaderId, Reader>,
}

#[derive(Default)]
struct Console {
    line: Option<Line>,
    history: History,
    typed: VecDeque<u8>,
    /// It will print no more, until it is connected again.
    ended: Option<Option<End>>,
    /// It goes with its last reader.
    retired: bool,
}

struct Reader {
    name: String,
    at: u64,
    /// Ends where the history ended when it came.
    until: Option<u64>,
}

impl Consoles {
    /// Connects the console of a partition.
    pub fn connect(&mut self, name: &str, line: Line) {
        let console = self.all.entry(name.into()).or_default();
        console.line = Some(line);
        (console.ended, console.retired) = (None, false);
        console.drain();
    }

    /// Takes the last that was printed and disconnects. Readers stay.
    pub fn disconnect(&mut self, name: &str) {
        if let Some(console) = self.all.get_mut(name) {
            console.drain();
            console.line = None;
            console.typed.clear();
        }
    }

    /// Whether it is connected.
    pub fn is_connected(&self, name: &str) -> bool {
        self.all.get(name).is_some_and(|console| console.line.is_some())
    }

    /// Names of those that are connected.
    pub fn connected(&self) -> Vec<String> {
        let connected = self.all.iter().filter(|(_, console)| console.line.is_some());
        connected.map(|(name, _)| name.clone()).collect()
    }

    /// Its readers get what is left, and that it ended. A console may end before anyone reads.
    pub fn end(&mut self, name: &str, end: Option<End>) {
        if let Some(console) = self.all.get_mut(name) {
            console.drain();
            console.ended = Some(end);
        }
    }

    /// It goes by another name.
    pub fn rename(&mut self, from: &str, to: &str) {
        if let Some(console) = self.all.remove(from) {
            self.all.insert(to.into(), console);
        }
        for reader in self.readers.values_mut().filter(|reader| reader.name == from) {
            reader.name = to.into();
        }
    }

    /// Forgets a console that ended, once its readers have what is left.
    pub fn retire(&mut self, name: &str) {
        if let Some(console) = self.all.get_mut(name) {
            console.retired = true;
        }
        self.remove_retired();
    }

    /// Bytes that are kept.
    pub fn kept(&self, name: &str) -> u64 {
        self.all.get(name).map_or(0, |one| one.history.end() - one.history.start())
    }

    /// Attaches a reader.
    pub fn attach(&mut self, id: ReaderId, name: &str, history: bool, once: bool) {
        let console = self.all.entry(name.into()).or_default();
        console.drain();
        let (start, end) = (console.history.start(), console.history.end());
        let at = if history { start } else { end };
        self.readers.insert(id, Reader { name: name.into(), at, until: once.then_some(end) });
    }

    /// Detaches a reader; false: there is none.
    pub fn detach(&mut self, id: ReaderId) -> bool {
        self.readers.remove(&id).is_some()
    }

    /// A client has gone.
    pub fn client_gone(&mut self, client: u64) {
        self.readers.retain(|(of, _), _| *of != client);
    }

    /// Types on the console that a reader is attached to; what does not fit comes back.
    pub fn type_in(&mut self, id: ReaderId, bytes: &[u8]) -> Option<usize> {
        let reader = self.readers.get(&id)?;
        let console = self.all.get_mut(&reader.name)?;
        let fits = bytes.len().min(MOST_TYPED.saturating_sub(console.typed.len()));
        console.typed.extend(&bytes[..fits]);
        console.pass_typed();
        Some(bytes.len() - fits)
    }

    /// Serves all lines: their events are taken, what was printed is kept.
    pub fn turn(&mut self) {
        for console in self.all.values_mut() {
            console.drain();
            console.pass_typed();
        }
    }

    /// What to wait for.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.all.values().filter_map(|console| console.line.as_ref().map(Line::fd))
    }

    /// What there is to tell the readers whose client has room.
    pub fn news(&mut self, has_room: impl Fn(u64) -> bool) -> Vec<(ReaderId, News)> {
        let mut news = Vec::new();
        for (id, reader) in &mut self.readers {
            if !has_room(id.0) {
                continue;
            }
            match self.all.get(&reader.name) {
                Some(console) => news.extend(reader.next(console).map(|one| (*id, one))),
                None => news.push((*id, News::Ended(None))),
            }
        }
        for (id, one) in &news {
            if matches!(one, News::Ended(_)) {
                self.readers.remove(id);
            }
        }
        self.remove_retired();
        news
    }

    /// Whether a reader whose client has room would be told something.
    pub fn has_news(&self, has_room: impl Fn(u64) -> bool) -> bool {
        self.readers.iter().any(|((client, _), reader)| {
            has_room(*client) && self.all.get(&reader.name).is_none_or(|one| reader.is_due(one))
        })
    }

    fn remove_retired(&mut self) {
        let read = |name: &str| self.readers.values().any(|reader| reader.name == name);
        self.all.retain(|name, console| !console.retired || read(name));
    }
}

impl Console {
    fn drain(&mut self) {
        let Some(line) = &mut self.line else {
            return;
        };
        let mut bytes = Vec::new();
        line.drain(&mut bytes);
        self.history.push(&bytes);
    }

    fn pass_typed(&mut self) {
        if let Some(line) = &mut self.line
            && !self.typed.is_empty()
        {
            let passed = line.type_in(self.typed.make_contiguous());
            self.typed.drain(..passed);
        }
    }
}

impl Reader {
    fn is_due(&self, console: &Console) -> bool {
        self.until.is_some() || self.at < console.history.end() || console.ended.is_some()
    }

    fn next(&mut self, console: &Console) -> Option<News> {
        let history = &console.history;
        if self.at < history.start() && self.until.is_none() {
            let missed = history.start() - self.at;
            self.at = history.start();
            let note = format!("\r\n[{missed} bytes of output were not read in time]\r\n");
            return Some(News::Output(note.into_bytes()));
        }
        self.at = self.at.max(history.start());
        let end = self.until.unwrap_or(history.end()).min(history.end());
        let left = usize::try_from(end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        if left != 0 {
            let bytes = history.read(self.at, left.min(PIECE));
            self.at += bytes.len() as u64;
            return Some(News::Output(bytes));
        }
        match console.ended {
            Some(end) => Some(News::Ended(end)),
            None => self.until.is_some().then_some(News::Ended(None)),
        }
    }
}

#[cfg(test)]
mod tests;
