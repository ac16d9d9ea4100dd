//! The consoles of guests: always drained, kept for a while, and shown to attached readers.
//!
//! ```text
//! guest --ring--> line --> history --> readers, each at its own position
//! guest <--ring-- line <-- typed <-- what they type, in the order it comes
//! ```
//!
//! A console belongs to a name, not to a number: it continues when its partition is restarted.
//! Rule: a guest that prints or rings without end takes little time from others (see
//! [`service_time`]). A reader that does not read slows nobody, and is told how much it missed. A
//! client that types waits until the guest has read the input, or learns that the guest will not. A
//! guest's pages are unmapped before the guest is destroyed, because its memory cannot be freed
//! before.

mod bells;
pub mod history;
pub mod line;
mod service_time;
pub mod typed;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use bells::Bells;
use history::History;
use line::Line;
use service_time::ServiceTime;
use typed::{Answer, Typed, Unread};
use uvd_protocol::{End, From};

/// The most partitions of one name whose first byte is remembered.
const MOST_BEGINNINGS: usize = 16;
/// Bytes of output in one answer.
const PIECE: usize = 16 * 1024;

/// A reader: its client, and the id of its request.
pub type ReaderId = (u64, u64);

/// A message to a reader.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Output.
    Output(Vec<u8>),
    /// The console has ended.
    Ended(Option<End>),
}

/// All consoles.
#[derive(Default)]
pub struct Consoles {
    all: BTreeMap<String, Console>,
    readers: BTreeMap<ReaderId, Reader>,
    answers: Vec<Answer>,
    bells: Bells,
    /// Names of consoles that are removed with their last reader.
    retired: BTreeSet<String>,
    service: ServiceTime,
}

#[derive(Default)]
struct Console {
    line: Option<Line>,
    /// The number of the partition that `line` belongs to.
    number: u32,
    history: History,
    /// Where the output of each partition of this name begins, newest last.
    beginnings: VecDeque<(u32, u64)>,
    typed: Typed,
    /// Set when the console prints no more until it is connected again; the inner value says how
    /// the partition ended, if that is known.
    ended: Option<Option<End>>,
}

struct Reader {
    name: String,
    at: u64,
    /// The end of the history when the reader attached, at which the reader ends.
    until: Option<u64>,
}

impl Consoles {
    /// Connects the console of the partition with this number.
    pub fn connect(&mut self, name: &str, number: u32, line: Line) {
        self.bells.add(name, line.fd());
        let console = self.all.entry(name.into()).or_default();
        (console.line, console.number) = (Some(line), number);
        console.ended = None;
        console.begin(number);
        console.turn(&mut self.answers);
        self.retired.remove(name);
    }

    /// Takes the last printed bytes and disconnects. Readers stay attached.
    pub fn disconnect(&mut self, name: &str) {
        if let Some(console) = self.all.get_mut(name) {
            console.turn(&mut self.answers);
            if let Some(line) = console.line.take() {
                self.bells.remove(name, line.fd());
            }
            console.typed.ring_gone(&mut self.answers);
            self.service.forget(console.number);
        }
    }

    /// Whether the console is connected.
    pub fn is_connected(&self, name: &str) -> bool {
        self.all.get(name).is_some_and(|console| console.line.is_some())
    }

    /// Whether the console has output of the partition with this number.
    pub fn has_begun(&self, name: &str, number: u32) -> bool {
        self.all.get(name).is_some_and(|console| console.beginning(number).is_some())
    }

    /// Whether any kept output is from the partition with this number or a later one.
    pub fn shows(&self, name: &str, number: u32) -> bool {
        let console = self.all.get(name);
        console.is_some_and(|one| one.beginning(number).is_some_and(|at| at < one.history.end()))
    }

    /// Ends a console: its readers get the rest of the output, and then the end. A console may end
    /// before any reader attaches.
    pub fn end(&mut self, name: &str, end: Option<End>) {
        if let Some(console) = self.all.get_mut(name) {
            console.turn(&mut self.answers);
            console.ended = Some(end);
            console.typed.ended(&mut self.answers);
        }
    }

    /// Renames a console.
    pub fn rename(&mut self, from: &str, to: &str) {
        if let Some(console) = self.all.remove(from) {
            self.bells.rename(from, to);
            self.all.insert(to.into(), console);
            // An earlier console of this name, which may be about to be removed, is gone with this.
            self.retired.remove(to);
            if self.retired.remove(from) {
                self.retired.insert(to.into());
            }
        }
        for reader in self.readers.values_mut().filter(|reader| reader.name == from) {
            reader.name = to.into();
        }
    }

    /// Removes a console that ended, once its readers have the rest of the output.
    pub fn retire(&mut self, name: &str) {
        if self.all.contains_key(name) {
            self.retired.insert(name.into());
        }
        self.remove_retired();
    }

    /// Partitions whose console is connected, and nanoseconds spent on each of them.
    pub fn times(&self) -> impl Iterator<Item = (u32, u64)> {
        let connected = self.all.values().filter(|console| console.line.is_some());
        connected.map(|console| (console.number, self.service.spent(console.number)))
    }

    /// Bytes that are kept of a console.
    pub fn kept(&self, name: &str) -> u64 {
        self.all.get(name).map_or(0, |one| one.history.end() - one.history.start())
    }

    /// Attaches a reader.
    pub fn attach(&mut self, id: ReaderId, name: &str, from: From, once: bool) {
        let console = self.all.entry(name.into()).or_default();
        console.drain();
        let (start, end) = (console.history.start(), console.history.end());
        let at = match from {
            From::Oldest => start,
            From::Partition(number) => console.beginning(number).unwrap_or(start).max(start),
            From::Now => end,
        };
        self.readers.insert(id, Reader { name: name.into(), at, until: once.then_some(end) });
    }

    /// Detaches a reader; false if it is not attached.
    pub fn detach(&mut self, id: ReaderId) -> bool {
        let Some(reader) = self.readers.remove(&id) else {
            return false;
        };
        if let Some(console) = self.all.get_mut(&reader.name) {
            console.typed.detached(id, &mut self.answers);
        }
        true
    }

    /// Detaches the readers of a client that has gone.
    pub fn client_gone(&mut self, client: u64) {
        let attached = (client, 0)..=(client, u64::MAX);
        for (_, reader) in self.readers.extract_if(attached, |_, _| true) {
            if let Some(console) = self.all.get_mut(&reader.name) {
                console.typed.client_gone(client);
            }
        }
    }

    /// Types on the console that a reader is attached to. Unless it is refused here, the outcome
    /// comes later in the [answers](Self::answers).
    pub fn type_in(&mut self, id: ReaderId, request: u64, bytes: Vec<u8>) -> Result<(), Unread> {
        let console = self.readers.get(&id).and_then(|reader| self.all.get_mut(&reader.name));
        let console = console.ok_or(Unread::NotAttached)?;
        if console.ended.is_some() {
            return Err(Unread::Ended(bytes.len()));
        }
        console.typed.take(id, request, bytes)?;
        console.turn(&mut self.answers);
        Ok(())
    }

    /// Takes the answers to typed input.
    pub fn answers(&mut self) -> Vec<Answer> {
        std::mem::take(&mut self.answers)
    }

    /// Serves the lines whose guests rang, some at a time, lowest rank first, as far as the time
    /// budget allows: takes their events and keeps their output. The bells of the others keep
    /// ringing.
    pub fn turn(&mut self, now: Instant) {
        if !self.service.may_serve(now) {
            return;
        }
        let mut rung = self.bells.rung();
        rung.sort_by_key(|name| self.all.get(name).map(|one| self.service.rank(one.number)));
        for name in rung {
            if !self.service.may_serve(now) {
                return;
            }
            if let Some(console) = self.all.get_mut(&name) {
                let begin = Instant::now();
                console.turn(&mut self.answers);
                self.service.spend(console.number, begin.elapsed());
            }
        }
        self.service.may_serve(now);
    }

    /// The descriptor to wait for, which is readable when a guest rang. `None` while the consoles
    /// rest until [the deadline](Self::deadline).
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.service.rests().is_none().then(|| self.bells.fd())
    }

    /// The time at which consoles are served again, if they rest.
    pub fn deadline(&self) -> Option<Instant> {
        self.service.rests()
    }

    /// Takes the news for the readers whose client has room.
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
                self.detach(*id);
            }
        }
        self.remove_retired();
        news
    }

    /// Whether there is an answer to typed input, or news for a reader whose client has room.
    pub fn has_news(&self, has_room: impl Fn(u64) -> bool) -> bool {
        !self.answers.is_empty()
            || self.readers.iter().any(|((client, _), reader)| {
                has_room(*client) && self.all.get(&reader.name).is_none_or(|one| reader.is_due(one))
            })
    }

    fn remove_retired(&mut self) {
        let (bells, readers) = (&mut self.bells, &self.readers);
        let is_unread = |name: &String| !readers.values().any(|reader| reader.name == *name);
        for name in self.retired.extract_if(.., is_unread) {
            let console = self.all.remove(&name);
            if let Some(line) = console.and_then(|console| console.line) {
                bells.remove(&name, line.fd());
            }
        }
    }
}

impl Console {
    /// Takes the printed output.
    fn drain(&mut self) {
        let Some(line) = &mut self.line else {
            return;
        };
        let mut bytes = Vec::new();
        line.drain(&mut bytes);
        self.history.push(&bytes);
    }

    /// Moves bytes both ways.
    fn turn(&mut self, answers: &mut Vec<Answer>) {
        self.drain();
        if let Some(line) = &mut self.line {
            self.typed.pass(line, answers);
        }
    }

    /// Notes where the output of a partition begins. A partition that is connected again is already
    /// known.
    fn begin(&mut self, number: u32) {
        if self.beginning(number).is_none() {
            self.beginnings.push_back((number, self.history.end()));
            let over = self.beginnings.len().saturating_sub(MOST_BEGINNINGS);
            self.beginnings.drain(..over);
        }
    }

    fn beginning(&self, number: u32) -> Option<u64> {
        let beginning = self.beginnings.iter().find(|(of, _)| *of == number);
        beginning.map(|(_, at)| *at)
    }
}

impl Reader {
    fn is_due(&self, console: &Console) -> bool {
        self.until.is_some() || self.at < console.history.end() || console.ended.is_some()
    }

    fn next(&mut self, console: &Console) -> Option<News> {
        let history = &console.history;
        let oldest = history.start().min(self.until.unwrap_or(u64::MAX));
        if self.at < oldest {
            let missed = oldest - self.at;
            self.at = oldest;
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
