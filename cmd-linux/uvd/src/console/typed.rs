//! Holds input typed on a console until the guest's kernel has read it.
//!
//! ```text
//! Input --take--> pieces, in the order they came --pass--> ring --read by the kernel--> answer
//! ```
//!
//! Rule: an accepted piece is answered once: when the kernel has read its last byte, or when the
//! kernel can no longer read it. An attachment has at most one piece here, so memory is bounded by
//! the number of attachments, and a client that waits for its answer goes at the guest's pace.

use std::collections::VecDeque;

use uvd_protocol::MAX_INPUT;

use super::ReaderId;
use super::line::Line;

/// The pieces of one console.
#[derive(Default)]
pub struct Typed(VecDeque<Piece>);

struct Piece {
    reader: ReaderId,
    /// The id of the piece's request.
    request: u64,
    bytes: Vec<u8>,
    /// Bytes that were put into the ring.
    passed: usize,
    /// The value of [`Line::read`] at which the kernel has read the whole piece; set once all of it
    /// is in the ring.
    read_at: Option<u64>,
}

/// Why input was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// The request does not name a console that its client is attached to.
    NotAttached,
    /// The piece before it has not been read yet.
    Busy,
    /// More than [`MAX_INPUT`] bytes.
    TooLong,
    /// The partition ended, or was restarted, before its kernel had read the piece of this many
    /// bytes.
    Ended(usize),
}

/// The answer to a piece: the client, the id of its request, and the outcome.
pub type Answer = (u64, u64, Result<(), Unread>);

impl Typed {
    /// Takes a piece.
    pub fn take(&mut self, reader: ReaderId, request: u64, bytes: Vec<u8>) -> Result<(), Unread> {
        if self.0.iter().any(|piece| piece.reader == reader) {
            return Err(Unread::Busy);
        }
        if bytes.len() > MAX_INPUT {
            return Err(Unread::TooLong);
        }
        self.0.push_back(Piece { reader, request, bytes, passed: 0, read_at: None });
        Ok(())
    }

    /// Moves as much as fits into the ring, and answers the pieces that the kernel has read.
    pub fn pass(&mut self, line: &mut Line, answers: &mut Vec<Answer>) {
        for piece in &mut self.0 {
            piece.passed += line.type_in(&piece.bytes[piece.passed..]);
            if piece.passed < piece.bytes.len() {
                break;
            }
            piece.read_at.get_or_insert(line.typed());
        }
        let read = line.read();
        while let Some(piece) = self.0.pop_front_if(|one| one.read_at.is_some_and(|at| at <= read))
        {
            answers.push((piece.reader.0, piece.request, Ok(())));
        }
    }

    /// Notes that the ring no longer exists, and that the kernel will not read its contents. Pieces
    /// that were not begun wait for the next ring.
    pub fn ring_gone(&mut self, answers: &mut Vec<Answer>) {
        self.fail(|piece| piece.passed != 0, answers);
    }

    /// Answers all pieces, because nobody will read them.
    pub fn ended(&mut self, answers: &mut Vec<Answer>) {
        self.fail(|_| true, answers);
    }

    /// Removes an attachment, with its typed input that is not in the ring.
    pub fn detached(&mut self, reader: ReaderId, answers: &mut Vec<Answer>) {
        self.fail(|piece| piece.reader == reader, answers);
    }

    /// Removes the pieces of a client that has gone, without an answer.
    pub fn client_gone(&mut self, client: u64) {
        self.0.retain(|piece| piece.reader.0 != client);
    }

    fn fail(&mut self, which: impl Fn(&Piece) -> bool, answers: &mut Vec<Answer>) {
        self.0.retain(|piece| {
            let fails = which(piece);
            if fails {
                let unread = Unread::Ended(piece.bytes.len());
                answers.push((piece.reader.0, piece.request, Err(unread)));
            }
            !fails
        });
    }
}
