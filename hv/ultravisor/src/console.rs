//! Console rings: a kernel's output goes to a serial line, and input from the line goes to the
//! kernel.
//!
//! Rule: the ultravisor takes output from the ring only as far as the line accepts it, and input
//! from the line only as far as the ring has room. So it buffers nothing and loses nothing.

use core::sync::atomic::AtomicU32;

use partition_runtime::events::{self, Port};
use partition_runtime::grants::Mapping;
use partition_runtime::lead;
use pv_abi::xen::console::{ConsoleRing, IN_BYTES, OUT_BYTES};

use crate::pipe::{Broken, Pipe};

const INPUT: Pipe = Pipe {
    buffer: core::mem::offset_of!(ConsoleRing, input),
    size: IN_BYTES as u32,
    produced: core::mem::offset_of!(ConsoleRing, in_prod),
    consumed: core::mem::offset_of!(ConsoleRing, in_cons),
};
const OUTPUT: Pipe = Pipe {
    buffer: core::mem::offset_of!(ConsoleRing, output),
    size: OUT_BYTES as u32,
    produced: core::mem::offset_of!(ConsoleRing, out_prod),
    consumed: core::mem::offset_of!(ConsoleRing, out_cons),
};
/// Bytes moved at a time: as many as one serial call takes.
const PIECE: usize = 512;
/// Pieces moved per event, in each direction.
const PIECES: usize = 8;

/// The server's end of a console ring.
#[derive(Debug)]
pub struct Console {
    /// The partition that the ring belongs to.
    pub partition: u32,
    /// The ring's page.
    pub ring: Mapping,
    /// The event of the ring.
    pub port: Port,
    /// The serial line that it is connected to. If `None`, its output is dropped.
    pub serial: Option<u32>,
}

impl Console {
    /// Moves a bounded amount in both directions. Returns whether more may be left. Does nothing if
    /// the ring's indices contradict each other.
    pub fn serve(&self) -> bool {
        let words = self.ring.words();
        let output = self.take_output(words).unwrap_or_default();
        let input = self.give_input(words).unwrap_or_default();
        if output.notify || input.notify {
            let _ = events::send(self.port);
        }
        output.more || input.more
    }

    /// Moves output from the ring to the serial line. The kernel is notified if the ring was full,
    /// since it may wait then.
    fn take_output(&self, words: &[AtomicU32]) -> Result<Moved, Broken> {
        let mut moved = Moved::default();
        let mut piece = [0; PIECE];
        for _ in 0..PIECES {
            moved.notify |= OUTPUT.room(words)? == 0;
            let count = OUTPUT.peek(words, &mut piece)?;
            let bytes = piece.get(..count).ok_or(Broken)?;
            let written = match self.serial {
                Some(line) if count > 0 => lead::serial_write(line, bytes).unwrap_or(count),
                _ => count,
            };
            OUTPUT.consume(words, written);
            if written == 0 {
                return Ok(moved);
            }
        }
        Ok(Moved { more: true, ..moved })
    }

    fn give_input(&self, words: &[AtomicU32]) -> Result<Moved, Broken> {
        let mut moved = Moved::default();
        let Some(line) = self.serial else {
            return Ok(moved);
        };
        let mut piece = [0; PIECE];
        for _ in 0..PIECES {
            let room = (INPUT.room(words)? as usize).min(PIECE);
            let wanted = piece.get_mut(..room).ok_or(Broken)?;
            let count = if room > 0 { lead::serial_read(line, wanted).unwrap_or(0) } else { 0 };
            if count == 0 {
                return Ok(moved);
            }
            INPUT.push(words, piece.get(..count).ok_or(Broken)?)?;
            moved.notify = true;
        }
        Ok(Moved { more: true, ..moved })
    }
}

/// The result of moving bytes in one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Moved {
    /// Whether the kernel must be notified.
    notify: bool,
    /// Whether more may be left to move.
    more: bool,
}
