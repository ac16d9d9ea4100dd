//! Tracks input on its way to a partition's console: the bytes read, sent, and read by the
//! partition.

use std::time::{Duration, Instant};

use uvd_protocol::MAX_INPUT;

use super::{Input, Left};

/// The key that detaches: Ctrl-].
const DETACH: u8 = 0x1d;
/// The most bytes of input that wait in this process. A pipe is not read while they wait; further
/// keys are dropped and counted, so that Ctrl-] is still seen.
const MOST_WAITING: usize = 64 * 1024;
/// After the end of input, the console is left when it has printed nothing for this long …
const QUIET: Duration = Duration::from_millis(500);
/// … and after this long in any case.
const LAST: Duration = Duration::from_secs(5);

/// Input on its way to the partition.
pub struct Typing {
    input: Input,
    is_terminal: bool,
    is_attached: bool,
    /// Bytes that were read from standard input and not sent.
    waiting: Vec<u8>,
    /// The unanswered request, and its number of bytes.
    under_way: Option<(u64, usize)>,
    /// Bytes that were dropped, or that the partition did not read.
    lost: usize,
    leaving: Option<Leaving>,
    /// The time when the partition had read all input and no more could come.
    all_read: Option<Instant>,
}

/// Why no more input comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    Detach,
    EndOfInput,
}

/// The result of handling keys.
#[derive(Debug, PartialEq, Eq)]
pub enum Keys {
    /// All keys were taken, or the input ended.
    Typed,
    /// Some keys were dropped, because the partition does not read.
    Dropped,
    /// The user leaves once this many bytes are read.
    LeaveLater(usize),
    /// The user leaves at once.
    LeaveNow,
}

impl Typing {
    /// The state before anything is typed.
    pub fn new(input: Input, is_terminal: bool) -> Self {
        Self {
            input,
            is_terminal,
            is_attached: false,
            waiting: Vec::new(),
            under_way: None,
            lost: 0,
            leaving: None,
            all_read: None,
        }
    }

    /// Notes that the console is attached, so that input may be read.
    pub fn attached(&mut self) {
        self.is_attached = true;
    }

    /// Whether standard input should be read.
    pub fn takes_keys(&self) -> bool {
        let room = self.leaving.is_none() && self.waiting.len() < MOST_WAITING;
        let may_detach = self.is_terminal && self.leaving != Some(Leaving::EndOfInput);
        self.is_attached && self.input != Input::Ignored && (room || may_detach)
    }

    /// Handles bytes from standard input; an empty slice means the end.
    pub fn keys(&mut self, bytes: &[u8]) -> Keys {
        if bytes.is_empty() {
            self.leaving.get_or_insert(Leaving::EndOfInput);
            return Keys::Typed;
        }
        let detach = bytes.iter().position(|&byte| byte == DETACH);
        if self.leaving.is_some() {
            return if detach.is_some() { Keys::LeaveNow } else { Keys::Typed };
        }
        let typed = bytes.get(..detach.unwrap_or(bytes.len())).unwrap_or_default();
        let room = if self.is_terminal {
            MOST_WAITING.saturating_sub(self.waiting.len()).min(typed.len())
        } else {
            typed.len()
        };
        self.waiting.extend(typed.iter().take(room));
        self.lost += typed.len() - room;
        if detach.is_some() {
            self.leaving = Some(Leaving::Detach);
            if self.is_terminal && self.unread() != 0 {
                return Keys::LeaveLater(self.unread());
            }
        }
        if room < typed.len() { Keys::Dropped } else { Keys::Typed }
    }

    /// Takes the next piece to send, if none is under way. The caller then calls [`Self::sent`].
    pub fn next_piece(&mut self) -> Option<Vec<u8>> {
        if self.under_way.is_some() || self.waiting.is_empty() || !self.is_attached {
            return None;
        }
        let count = self.waiting.len().min(MAX_INPUT);
        Some(self.waiting.drain(..count).collect())
    }

    /// Notes that this request sent a piece of `count` bytes.
    pub fn sent(&mut self, request: u64, count: usize) {
        self.under_way = Some((request, count));
    }

    /// Notes that a request was answered, and whether the partition read its piece; false if the
    /// request had no piece.
    pub fn answered(&mut self, request: u64, read: bool) -> bool {
        match self.under_way.take_if(|(id, _)| *id == request) {
            Some((_, count)) => {
                self.lost += if read { 0 } else { count };
                true
            }
            None => false,
        }
    }

    /// Bytes that the partition may not have read.
    pub fn unread(&self) -> usize {
        self.waiting.len() + self.under_way.map_or(0, |(_, count)| count) + self.lost
    }

    /// The reason to leave the console now, or `None`; `active` is the time of the last input or
    /// output.
    pub fn is_to_leave(&mut self, now: Instant, active: Instant) -> Option<Left> {
        let leaving = self.leaving?;
        if self.under_way.is_some() || !self.waiting.is_empty() {
            return None;
        }
        self.all_read.get_or_insert(now);
        match leaving {
            Leaving::Detach => Some(Left::Detached),
            Leaving::EndOfInput => {
                let due = self.leave_at(active).is_some_and(|when| when <= now);
                due.then_some(Left::InputEnded)
            }
        }
    }

    /// The time to leave the console unless something happens; by then, the output that the last
    /// input caused has had time to appear.
    pub fn leave_at(&self, active: Instant) -> Option<Instant> {
        let all_read = self.all_read.filter(|_| self.input == Input::TypedToTheEnd)?;
        Some((active.max(all_read) + QUIET).min(all_read + LAST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typing(input: Input, is_terminal: bool) -> Typing {
        let mut typing = Typing::new(input, is_terminal);
        assert!(!typing.takes_keys(), "not before it is attached");
        typing.attached();
        typing
    }

    /// Sends and answers pieces until there are none; returns their bytes.
    fn deliver(typing: &mut Typing) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(piece) = typing.next_piece() {
            typing.sent(7, piece.len());
            assert_eq!(typing.next_piece(), None, "one at a time");
            assert!(!typing.answered(6, true) && typing.answered(7, true));
            all.extend(piece);
        }
        all
    }

    #[test]
    fn all_input_is_sent_in_pieces_before_the_console_is_left() {
        let now = Instant::now();
        let mut typing = typing(Input::TypedToTheEnd, false);
        let lines: Vec<u8> =
            (0..300).flat_map(|n| format!("line {n} of 300\n").into_bytes()).collect();
        assert_eq!(typing.keys(&lines), Keys::Typed);
        assert_eq!(typing.keys(b""), Keys::Typed);
        assert!(!typing.takes_keys());
        assert_eq!(typing.is_to_leave(now, now), None, "nothing is read yet");
        assert_eq!(typing.unread(), lines.len());
        assert_eq!(deliver(&mut typing), lines);
        assert_eq!(typing.is_to_leave(now, now), None, "its output has its chance");
        assert_eq!(typing.leave_at(now), Some(now + QUIET));
        assert_eq!(typing.leave_at(now + LAST), Some(now + LAST), "and not without end");
        assert_eq!(typing.is_to_leave(now + QUIET, now), Some(Left::InputEnded));
    }

    #[test]
    fn the_end_of_input_leaves_a_console_that_is_watched_attached() {
        let now = Instant::now();
        let mut typing = typing(Input::Typed, false);
        typing.keys(b"");
        assert_eq!(typing.is_to_leave(now, now), None);
        assert_eq!((typing.leave_at(now), typing.takes_keys()), (None, false));
    }

    #[test]
    fn what_stands_before_the_key_is_sent() {
        let now = Instant::now();
        for is_terminal in [false, true] {
            let mut typing = typing(Input::TypedToTheEnd, is_terminal);
            let keys = typing.keys(b"last words\n\x1dnot these");
            assert_eq!(keys, if is_terminal { Keys::LeaveLater(11) } else { Keys::Typed });
            assert_eq!(typing.takes_keys(), is_terminal);
            assert_eq!(typing.is_to_leave(now, now), None);
            assert_eq!(deliver(&mut typing), b"last words\n");
            assert_eq!(typing.is_to_leave(now, now), Some(Left::Detached));
        }
    }

    #[test]
    fn a_partition_that_does_not_read_keeps_a_pipe_waiting_and_lets_a_person_go() {
        let mut pipe = typing(Input::TypedToTheEnd, false);
        let mut person = typing(Input::TypedToTheEnd, true);
        let much = vec![b'x'; MOST_WAITING];
        assert_eq!((pipe.keys(&much), person.keys(&much)), (Keys::Typed, Keys::Typed));
        assert!(!pipe.takes_keys() && person.takes_keys());
        let piece = person.next_piece().unwrap();
        person.sent(1, piece.len());
        assert_eq!(person.keys(&much), Keys::Dropped);
        assert_eq!(person.unread(), 2 * MOST_WAITING);
        assert_eq!(person.keys(b"\x1d"), Keys::LeaveLater(2 * MOST_WAITING));
        assert_eq!(person.keys(b"x"), Keys::Typed);
        assert_eq!(person.keys(b"\x1d"), Keys::LeaveNow);
    }

    #[test]
    fn what_a_partition_did_not_read_is_counted() {
        let now = Instant::now();
        let mut typing = typing(Input::TypedToTheEnd, false);
        typing.keys(b"abc");
        let piece = typing.next_piece().unwrap();
        typing.sent(1, piece.len());
        assert!(typing.answered(1, false));
        typing.keys(b"\x1d");
        assert_eq!((typing.is_to_leave(now, now), typing.unread()), (Some(Left::Detached), 3));
    }
}
