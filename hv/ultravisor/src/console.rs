//! Console rings: what a kernel prints goes to a serial line, what is typed there comes back.
//!
//! Rule: output is taken out of the ring as far as the line took it, and input is taken off the
//! line as far as the ring has room. So nothing is kept here, and nothing is lost here.

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
/// Bytes moved at a time: what one serial call takes.
const PIECE: usize = 512;

/// A console ring that is served.
#[derive(Debug)]
pub struct Console {
    /// Whose it is.
    pub partition: u32,
    /// The ring's page.
    pub ring: Mapping,
    /// The event of the ring.
    pub port: Port,
    /// The serial line it is on; `None`: its output is dropped.
    pub serial: Option<u32>,
}

impl Console {
    /// Moves what there is, both ways. A ring whose indices are nonsense is left alone.
    pub fn serve(&self) {
        let words = self.ring.words();
        let moved =
            self.take_output(words).unwrap_or(false) | self.give_input(words).unwrap_or(false);
        if moved {
            let _ = events::send(self.port);
        }
    }

    /// Returns whether the kernel may have been waiting for room.
    fn take_output(&self, words: &[AtomicU32]) -> Result<bool, Broken> {
        let mut waiting = false;
        let mut piece = [0; PIECE];
        loop {
            waiting |= OUTPUT.room(words)? == 0;
            let count = OUTPUT.peek(words, &mut piece)?;
            let bytes = piece.get(..count).ok_or(Broken)?;
            let written = match self.serial {
                Some(line) if count > 0 => lead::serial_write(line, bytes).unwrap_or(count),
                _ => count,
            };
            OUTPUT.consume(words, written);
            if written == 0 {
                return Ok(waiting);
            }
        }
    }

    /// Returns whether anything came in.
    fn give_input(&self, words: &[AtomicU32]) -> Result<bool, Broken> {
        let Some(line) = self.serial else {
            return Ok(false);
        };
        let mut piece = [0; PIECE];
        let mut any = false;
        loop {
            let room = (INPUT.room(words)? as usize).min(PIECE);
            let wanted = piece.get_mut(..room).ok_or(Broken)?;
            let count = if room > 0 {
                lead::serial_read(line, wanted).unwrap_or(0)
            } else {
                0
            };
            if count == 0 {
                return Ok(any);
            }
            INPUT.push(words, piece.get(..count).ok_or(Broken)?)?;
            any = true;
        }
    }
}
