//! Messages to the store: well-formed ones of all kinds, spoilt ones, and a ring whose indices are
//! out of step.

use crate::generate::Step;
use crate::random::Random;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use pv_abi::xen::store::{
    self as kind, ABS_PATH_MAX, Header, PAYLOAD_MAX, REL_PATH_MAX, RING_BYTES,
};

/// The transaction that a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// The transaction with this number; 0 means none.
    Number(u32),
    /// One of the transactions that the guest opened last.
    Open(u8),
}

/// A message to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The message type.
    pub kind: u32,
    /// The number that the reply repeats.
    pub id: u32,
    /// The transaction.
    pub transaction: Transaction,
    /// The length in the header.
    pub length: u32,
    /// The bytes after the header.
    pub payload: Vec<u8>,
    /// The number of bytes left out at the end. The next request completes them with zeros.
    pub cut: u16,
}

/// A change that a request makes to the indices of the ring once its messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    /// Leaves the indices as they are.
    None,
    /// Adds this to the count of bytes produced.
    Produced(u32),
    /// Adds this to the count of reply bytes consumed.
    Consumed(u32),
}

/// Several messages, written one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requests {
    /// The messages.
    pub messages: Vec<Message>,
    /// How often the whole sequence is written.
    pub times: u16,
    /// Whether the guest reads replies afterwards.
    pub read: bool,
    /// The change of the indices.
    pub skew: Skew,
}

/// Frequent kinds, which use memory or time of the server.
const FREQUENT: [u32; 14] = [
    kind::WRITE,
    kind::WRITE,
    kind::WRITE,
    kind::WATCH,
    kind::WATCH,
    kind::TRANSACTION_START,
    kind::TRANSACTION_START,
    kind::TRANSACTION_END,
    kind::MKDIR,
    kind::RM,
    kind::DIRECTORY,
    kind::READ,
    kind::SET_PERMS,
    kind::UNWATCH,
];

/// Requests to the store.
pub fn requests(random: &mut Random) -> Step {
    let count = random.of(&[1, 1, 2, 4]);
    let messages = (0..count).map(|_| message(random)).collect();
    let times = random.of(&[1, 1, 1, 1, 1, 2, 8, 32]);
    let read = random.once_in(3);
    // The server ignores a ring whose indices are out of step, so this is rare.
    let skew = match random.below(400) {
        0 => Skew::Produced(random.number() as u32),
        1 => Skew::Consumed(random.number() as u32),
        _ => Skew::None,
    };
    Step::Requests(Requests { messages, times, read, skew })
}

fn message(random: &mut Random) -> Message {
    let kind = match random.below(16) {
        0 => random.number() as u32,
        1..=4 => random.below(25) as u32,
        _ => random.of(&FREQUENT),
    };
    let transaction = match random.below(8) {
        0 => Transaction::Number(random.number() as u32),
        1..=4 => Transaction::Open(random.below(12) as u8),
        _ => Transaction::Number(0),
    };
    let mut payload = payload(random, kind);
    if random.once_in(8) {
        spoil(random, &mut payload);
    }
    payload.truncate(PAYLOAD_MAX);
    // The server drops a client whose message is too long, so this is rare.
    let length = match random.below(400) {
        0 => random.number() as u32,
        1..=4 => random.below(PAYLOAD_MAX as u64 + 1) as u32,
        _ => payload.len() as u32,
    };
    let whole = (size_of::<Header>() + payload.len()) as u64;
    let cut = if random.once_in(16) { random.below(whole) as u16 } else { 0 };
    Message { kind, id: random.bits() as u32, transaction, length, payload, cut }
}

fn payload(random: &mut Random, kind: u32) -> Vec<u8> {
    let mut path = path(random).into_bytes();
    path.push(0);
    match kind {
        kind::WRITE => {
            let length = match random.below(4) {
                0 => random.below(PAYLOAD_MAX as u64),
                1 => random.of(&[2047, 2048, 2049, 3000]),
                _ => random.below(32),
            };
            let byte = random.bits() as u8;
            path.extend((0..length).map(|_| byte));
        }
        kind::WATCH | kind::UNWATCH => {
            path.extend_from_slice(format!("{}\0", random.below(200)).as_bytes());
        }
        kind::TRANSACTION_START => return [0].into(),
        kind::TRANSACTION_END => return random.of(&[b"T\0", b"T\0", b"F\0", b"X\0"]).to_vec(),
        kind::SET_PERMS => {
            for _ in 0..random.of(&[1, 2, 2, 16, 17, 200]) {
                let letter = random.of(&['n', 'r', 'w', 'b', 'x']);
                path.extend_from_slice(format!("{letter}{}\0", partition(random)).as_bytes());
            }
        }
        kind::INTRODUCE
        | kind::RELEASE
        | kind::GET_DOMAIN_PATH
        | kind::IS_DOMAIN_INTRODUCED
        | kind::RESUME
        | kind::SET_TARGET => {
            return format!("{}\0{}\0", partition(random), random.number()).into_bytes();
        }
        kind::DIRECTORY_PART => {
            path.extend_from_slice(format!("{}\0", random.below(5000)).as_bytes());
        }
        _ => {}
    }
    path
}

fn partition(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => random.of(&[0x7ff0, 0x7ff1, 0x7fff, 0xffff, u64::from(u32::MAX), u64::MAX]),
        _ => random.below(8),
    }
}

/// Names that the tools and kernels use, and others.
const NAMES: [&str; 16] = [
    "a", "b", "device", "backend", "control", "shutdown", "data", "memory", "target", "name",
    "domid", "console", "vif", "0", "state", "attr",
];

fn name(random: &mut Random) -> String {
    match random.below(8) {
        0..=2 => format!("n{}", random.below(2000)),
        3 if random.once_in(4) => "x".repeat(random.of(&[255, 256, 257, 1024]) as usize),
        _ => random.of(&NAMES).into(),
    }
}

/// A path: in the guest's home, in another's, somewhere else, or an invalid one.
fn path(random: &mut Random) -> String {
    let mut path: String = match random.below(16) {
        0 => return random.of(&["@introduceDomain", "@releaseDomain", "@x", "@", ""]).into(),
        1 => return random.of(&["/", "//", "/local", "/local/domain", "a/", "a//b", "."]).into(),
        2..=3 => format!("/local/domain/{}", partition(random)),
        4 => random.of(&["/tool", "/vm", "/local", "/libxl"]).into(),
        _ => name(random),
    };
    for _ in 0..random.of(&[0, 0, 1, 1, 2, 3, 33]) {
        path.push('/');
        path.push_str(&name(random));
    }
    let limit = random.of(&[REL_PATH_MAX - 1, REL_PATH_MAX, ABS_PATH_MAX, ABS_PATH_MAX + 1]);
    if random.once_in(64) {
        path.push_str(&"/y".repeat(limit / 2));
    }
    path
}

/// Makes bytes wrong: with control characters, without an end, without text, or too short.
fn spoil(random: &mut Random, payload: &mut Vec<u8>) {
    let at = random.below(payload.len() as u64) as usize;
    match random.below(4) {
        0 => payload.truncate(at),
        1 => drop(payload.pop()),
        _ => {
            if let Some(byte) = payload.get_mut(at) {
                *byte = random.of(&[0, 1, 7, 0x0a, 0x1b, 0x20, 0x7f, 0x80, 0xc3, 0xff]);
            }
        }
    }
}

impl Message {
    /// The bytes that the guest writes, within the transaction with this number.
    #[must_use]
    pub fn bytes(&self, transaction: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [self.kind, self.id, transaction, self.length] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&self.payload);
        bytes.truncate(bytes.len().saturating_sub(self.cut.into()));
        bytes
    }

    /// The number of bytes that the server still awaits after those of [`Message::bytes`]; `None`
    /// if the server gives up on the message.
    #[must_use]
    pub fn owed(&self) -> Option<u32> {
        let header = size_of::<Header>() as u32;
        let written = (header + self.payload.len() as u32).saturating_sub(self.cut.into());
        if written < header {
            // Zeros complete the header, whose last word is the length.
            return Some(header - written);
        }
        let valid = self.length as usize <= PAYLOAD_MAX;
        valid.then(|| self.length.saturating_sub(written - header))
    }
}

const _: () = assert!(RING_BYTES == 1024);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn messages() -> Vec<Message> {
        let mut random = Random::new(5);
        (0..20_000).map(|_| message(&mut random)).collect()
    }

    #[test]
    fn all_kinds_come_up_and_most_messages_are_whole() {
        let messages = messages();
        let kinds: BTreeSet<u32> = messages.iter().map(|message| message.kind).collect();
        assert!((0..25).all(|kind| kinds.contains(&kind)), "{kinds:?}");
        let whole = messages.iter().filter(|message| message.owed() == Some(0)).count();
        assert!(whole > messages.len() * 8 / 10, "{whole}");
        assert!(messages.iter().any(|message| message.owed().is_none()));
    }

    #[test]
    fn what_is_owed_completes_a_message() {
        for message in messages() {
            let Some(owed) = message.owed() else { continue };
            let bytes = message.bytes(0);
            if bytes.len() >= 16 {
                assert!(bytes.len() + owed as usize >= 16 + message.length as usize);
            } else {
                assert_eq!(bytes.len() + owed as usize, 16);
            }
        }
    }
}
