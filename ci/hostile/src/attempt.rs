//! One attempt: a call, the danger it stands for, and the required outcome.
//!
//! Rule: an attempt is data. Its call and its expected outcome are decided without a machine, so
//! that tests on any host can check them. Another module makes the call.

use std::fmt::Write;

use pv_abi::xen::errno;
use zerocopy::{Immutable, IntoBytes};

/// An argument of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg {
    /// This value is passed.
    Value(u64),
    /// The bytes are put into memory that the call may write, and their address is passed.
    Memory(Vec<u8>),
    /// Like [`Arg::Memory`], but the word at offset `pointer` becomes the address of the byte at
    /// offset `target`.
    Linked {
        /// The bytes to put into memory.
        bytes: Vec<u8>,
        /// Offset of the word.
        pointer: usize,
        /// Offset of the byte that the word points to.
        target: usize,
    },
}

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Self::Value(value)
    }
}

/// The bytes of a structure as an argument.
pub fn memory<T: IntoBytes + Immutable + ?Sized>(value: &T) -> Arg {
    Arg::Memory(value.as_bytes().to_vec())
}

/// A structure, followed by a list to which the structure's word at offset `pointer` points.
pub fn with_list<T: IntoBytes + Immutable>(value: &T, pointer: usize, list: &[u64]) -> Arg {
    let mut bytes = value.as_bytes().to_vec();
    let target = bytes.len();
    bytes.extend_from_slice(list.as_bytes());
    Arg::Linked { bytes, pointer, target }
}

/// A hypercall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The number of the call.
    pub number: u64,
    /// Its arguments, at most five; the others are 0.
    pub args: Vec<Arg>,
}

/// The result of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The value in rax.
    pub result: i64,
    /// The contents, after the call, of the first argument that is memory.
    pub memory: Vec<u8>,
}

/// The required outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// One of these errors.
    Refused(&'static [i64]),
    /// This value, which is a count of completed operations, or a harmless success.
    Value(i64),
    /// The call itself succeeds, and the signed 16-bit status at this offset of its memory is one
    /// of these.
    Status(usize, &'static [i16]),
}

impl Expected {
    /// Whether the outcome is as expected.
    pub fn held(self, outcome: &Outcome) -> bool {
        match self {
            Self::Refused(errors) => errors.contains(&outcome.result),
            Self::Value(value) => outcome.result == value,
            Self::Status(offset, statuses) => {
                outcome.result == 0
                    && status(outcome, offset).is_some_and(|status| statuses.contains(&status))
            }
        }
    }

    /// The expected outcome, in words.
    pub fn text(self) -> String {
        match self {
            Self::Refused(errors) => list(errors.iter().map(|error| name_of(*error))),
            Self::Value(value) => value.to_string(),
            Self::Status(_, statuses) => {
                list(statuses.iter().map(|status| format!("status {status}")))
            }
        }
    }

    /// The actual outcome, in the same words.
    pub fn outcome_text(self, outcome: &Outcome) -> String {
        match self {
            Self::Status(offset, _) if outcome.result == 0 => match status(outcome, offset) {
                Some(status) => format!("status {status}"),
                None => "no status".into(),
            },
            _ => name_of(outcome.result),
        }
    }
}

fn status(outcome: &Outcome, offset: usize) -> Option<i16> {
    let bytes = outcome.memory.get(offset..offset + 2)?;
    Some(i16::from_le_bytes(bytes.try_into().ok()?))
}

fn list(words: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for word in words {
        let separator = if text.is_empty() { "" } else { " or " };
        let _ = write!(text, "{separator}{word}");
    }
    text
}

/// The name of an error; other values are shown as numbers.
pub fn name_of(result: i64) -> String {
    errno::name(result).map_or_else(|| result.to_string(), Into::into)
}

/// A call, the danger it stands for, and the required outcome.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The name, which is unique.
    pub name: String,
    /// The danger it stands for: a Xen advisory if one fits, or else the rule it breaks.
    pub stands_for: &'static str,
    /// The call.
    pub call: Call,
    /// The required outcome.
    pub expected: Expected,
    /// The contents of the spare entry of the partition's own grant table during the call.
    pub grant: Option<u64>,
}

impl Attempt {
    /// An attempt that needs no grant.
    pub fn new(
        name: impl Into<String>,
        stands_for: &'static str,
        number: u64,
        args: impl IntoIterator<Item = Arg>,
        expected: Expected,
    ) -> Self {
        Self {
            name: name.into(),
            stands_for,
            call: Call { number, args: args.into_iter().collect() },
            expected,
            grant: None,
        }
    }
}

/// The refusals for a frame that belongs to another partition, or to nobody: not the caller's, or
/// no frame at all.
pub const NOT_YOURS: Expected = Expected::Refused(&[errno::EPERM, errno::EINVAL]);
/// The call is not permitted.
pub const FORBIDDEN: Expected = Expected::Refused(&[errno::EPERM]);
/// The arguments are invalid.
pub const INVALID: Expected = Expected::Refused(&[errno::EINVAL]);
/// The address is not one that the caller may name, or nothing is mapped there.
pub const FAULT: Expected = Expected::Refused(&[errno::EFAULT]);
/// The operation does not exist.
pub const NO_SUCH_CALL: Expected = Expected::Refused(&[errno::ENOSYS]);

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(result: i64, memory: &[u8]) -> Outcome {
        Outcome { result, memory: memory.to_vec() }
    }

    #[test]
    fn only_the_expected_refusal_holds() {
        assert!(NOT_YOURS.held(&outcome(-1, &[])));
        assert!(!NOT_YOURS.held(&outcome(0, &[])), "it was done");
        assert!(!NOT_YOURS.held(&outcome(-14, &[])), "refused for something else");
        assert!(Expected::Value(0).held(&outcome(0, &[])));
        assert!(!Expected::Value(0).held(&outcome(1, &[])));
    }

    #[test]
    fn a_status_is_read_where_it_lies() {
        let expected = Expected::Status(2, &[-8, -9]);
        assert!(expected.held(&outcome(0, &[0, 0, 0xf8, 0xff])));
        assert!(!expected.held(&outcome(0, &[0xf8, 0xff, 0, 0])), "status 0 is success");
        assert!(!expected.held(&outcome(-14, &[0, 0, 0xf8, 0xff])));
        assert!(!expected.held(&outcome(0, &[0, 0, 0xf8])), "too short");
    }

    #[test]
    fn words_tell_both_sides() {
        assert_eq!(NOT_YOURS.text(), "EPERM or EINVAL");
        assert_eq!(NOT_YOURS.outcome_text(&outcome(-200, &[])), "-200");
        let expected = Expected::Status(0, &[-8]);
        assert_eq!(expected.text(), "status -8");
        assert_eq!(expected.outcome_text(&outcome(0, &[0, 0])), "status 0");
    }
}
