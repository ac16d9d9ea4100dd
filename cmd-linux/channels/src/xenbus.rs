//! The store, through the kernel's `/dev/xen/xenbus`.
//!
//! A request is a header `{type, request id, transaction id, length}` of four u32 and a body; the
//! reply has the same shape and the same request id (`xs_wire.h` of Xen's public headers). Rule: a
//! reply is accepted only if it carries the id of the request; watch events that arrive in between
//! are skipped.

use std::fs::File;
use std::io::{self, Read, Write};

/// The device.
const DEVICE: &str = "/dev/xen/xenbus";
/// Bytes of a body at most (`XENSTORE_PAYLOAD_MAX`).
const MAX_BODY: u32 = 4096;
/// Bytes of a header.
const HEADER: usize = 16;

/// Message types (`enum xsd_sockmsg_type`).
mod kind {
    pub const READ: u32 = 2;
    pub const ERROR: u32 = 16;
}

/// Why a value could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The device failed.
    #[error("{DEVICE}: {0}")]
    Io(#[from] io::Error),
    /// The store refused the path; the reason is the name of an errno.
    #[error("store: {path}: {reason}")]
    Refused {
        /// The path that was asked for.
        path: String,
        /// `ENOENT` where there is no such node.
        reason: String,
    },
    /// A reply that makes no sense.
    #[error("store: {path}: reply not understood: {what}")]
    Reply {
        /// The path that was asked for.
        path: String,
        /// The fault in the reply.
        what: &'static str,
    },
    /// A value that should be a number of 32 bits.
    #[error("store: {path}: {value:?} is not a number")]
    NotANumber {
        /// The path that was asked for.
        path: String,
        /// The value.
        value: String,
    },
}

/// A connection to the store.
pub struct Store<D> {
    device: D,
    id: u32,
}

impl Store<File> {
    /// Opens the kernel's device.
    pub fn open() -> Result<Self, StoreError> {
        Ok(Self::new(File::options().read(true).write(true).open(DEVICE)?))
    }
}

impl<D: Read + Write> Store<D> {
    /// A connection over a device.
    pub fn new(device: D) -> Self {
        Self { device, id: 0 }
    }

    /// The value of a node; a path without a leading `/` is below the partition's own directory.
    pub fn read(&mut self, path: &str) -> Result<String, StoreError> {
        self.id = self.id.wrapping_add(1);
        let body = [path.as_bytes(), b"\0"].concat();
        // Written in one piece, because the kernel takes one message per write.
        self.device.write_all(&message(kind::READ, self.id, &body))?;
        loop {
            let (kind, id, body) = self.receive(path)?;
            if id != self.id {
                continue;
            }
            let text = String::from_utf8_lossy(&body);
            let text = text.trim_end_matches('\0').to_string();
            let path = path.to_string();
            return match kind {
                kind::READ => Ok(text),
                kind::ERROR => Err(StoreError::Refused { path, reason: text }),
                _ => Err(StoreError::Reply { path, what: "its type" }),
            };
        }
    }

    /// The value of a node that is a decimal number.
    pub fn number(&mut self, path: &str) -> Result<u32, StoreError> {
        let value = self.read(path)?;
        let path = path.to_string();
        value.parse().map_err(|_| StoreError::NotANumber { path, value })
    }

    fn receive(&mut self, path: &str) -> Result<(u32, u32, Vec<u8>), StoreError> {
        let mut header = [0; HEADER];
        self.device.read_exact(&mut header)?;
        let word = |at: usize| {
            let bytes = header[at..at + 4].try_into().unwrap_or_default();
            u32::from_le_bytes(bytes)
        };
        let length = word(12);
        if length > MAX_BODY {
            return Err(StoreError::Reply { path: path.into(), what: "its length" });
        }
        let mut body = vec![0; length as usize];
        self.device.read_exact(&mut body)?;
        Ok((word(0), word(4), body))
    }
}

fn message(kind: u32, id: u32, body: &[u8]) -> Vec<u8> {
    let header = [kind, id, 0, body.len() as u32];
    let header = header.iter().flat_map(|word| word.to_le_bytes());
    header.chain(body.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// A device with replies prepared beforehand.
    struct Fake {
        replies: Cursor<Vec<u8>>,
        written: Vec<Vec<u8>>,
    }

    impl Read for Fake {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            self.replies.read(to)
        }
    }

    impl Write for Fake {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            self.written.push(from.to_vec());
            Ok(from.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn store(replies: &[(u32, u32, &[u8])]) -> Store<Fake> {
        let bytes = replies.iter().flat_map(|(kind, id, body)| message(*kind, *id, body)).collect();
        Store::new(Fake { replies: Cursor::new(bytes), written: Vec::new() })
    }

    #[test]
    fn a_value_is_read_with_one_write() {
        let mut store = store(&[(2, 1, b"8"), (2, 2, b"")]);
        assert_eq!(store.number("device/uv-command/0/ring-ref").unwrap(), 8);
        assert_eq!(store.read("empty").unwrap(), "");
        let expected = b"\x02\0\0\0\x01\0\0\0\0\0\0\0\x1d\0\0\0device/uv-command/0/ring-ref\0";
        assert_eq!(store.device.written[0], expected);
        assert_eq!(store.device.written.len(), 2);
    }

    #[test]
    fn watch_events_and_old_replies_are_skipped() {
        let mut store = store(&[(15, 0, b"path\0token\0"), (2, 77, b"old"), (2, 1, b"new")]);
        assert_eq!(store.read("x").unwrap(), "new");
    }

    #[test]
    fn a_refusal_names_path_and_reason() {
        let error = store(&[(16, 1, b"ENOENT\0")]).read("a/b").unwrap_err();
        assert_eq!(error.to_string(), "store: a/b: ENOENT");
    }

    #[test]
    fn replies_that_make_no_sense_are_errors() {
        let error = store(&[(9, 1, b"x")]).read("a").unwrap_err();
        assert_eq!(error.to_string(), "store: a: reply not understood: its type");
        let error = store(&[(2, 1, b"-1")]).number("a").unwrap_err();
        assert_eq!(error.to_string(), "store: a: \"-1\" is not a number");
        let mut long = store(&[]);
        long.device.replies = Cursor::new(vec![0xff; 64]);
        assert!(matches!(long.read("a"), Err(StoreError::Reply { .. })));
        assert!(matches!(store(&[]).read("a"), Err(StoreError::Io(_))));
    }
}
