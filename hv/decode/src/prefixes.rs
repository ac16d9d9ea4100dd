//! Prefixes of an instruction. A REX prefix counts only right before the opcode.

use crate::cursor::Cursor;
use crate::instruction::{Segment, Size};

/// The prefixes of an instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefixes {
    pub(crate) lock: bool,
    /// Whether there is 0xf2 or 0xf3.
    pub(crate) repeat: bool,
    pub(crate) operand_16: bool,
    pub(crate) address_32: bool,
    pub(crate) segment: Segment,
    /// The REX prefix, 0x40 to 0x4f, or 0.
    pub(crate) rex: u8,
}

impl Prefixes {
    /// Reads the prefixes of 64-bit code.
    pub(crate) fn read(cursor: &mut Cursor) -> Option<Self> {
        let mut found = Self::read_legacy(cursor)?;
        if let Some(rex @ 0x40..=0x4f) = cursor.peek() {
            found.rex = rex;
            cursor.u8()?;
            // Another prefix would cancel the REX prefix; no compiler emits that.
            if matches!(cursor.peek()?, 0x40..=0x4f) || is_legacy(cursor.peek()?) {
                return None;
            }
        }
        Some(found)
    }

    /// Reads the prefixes that exist in 32-bit code too.
    pub(crate) fn read_legacy(cursor: &mut Cursor) -> Option<Self> {
        let mut found = Self {
            lock: false,
            repeat: false,
            operand_16: false,
            address_32: false,
            segment: Segment::Flat,
            rex: 0,
        };
        while is_legacy(cursor.peek()?) {
            match cursor.u8()? {
                0xf0 => found.lock = true,
                0xf2 | 0xf3 => found.repeat = true,
                0x66 => found.operand_16 = true,
                0x67 => found.address_32 = true,
                0x64 => found.segment = Segment::Fs,
                0x65 => found.segment = Segment::Gs,
                // es, cs, ss, ds: ignored in 64-bit code, also after fs or gs.
                _ => {}
            }
        }
        Some(found)
    }

    /// Returns whether there is no prefix that changes a privileged instruction.
    pub(crate) const fn plain(&self) -> bool {
        !self.lock && !self.repeat && !self.operand_16
    }

    pub(crate) const fn rex_w(&self) -> bool {
        self.rex & 8 != 0
    }

    /// Bit 3 of the register field.
    pub(crate) const fn rex_r(&self) -> u8 {
        (self.rex & 4) << 1
    }

    /// Bit 3 of the index.
    pub(crate) const fn rex_x(&self) -> u8 {
        (self.rex & 2) << 2
    }

    /// Bit 3 of the base or of the register-or-memory field.
    pub(crate) const fn rex_b(&self) -> u8 {
        (self.rex & 1) << 3
    }

    /// Operand size of an opcode that does not operate on bytes.
    pub(crate) const fn size(&self) -> Size {
        match (self.rex_w(), self.operand_16) {
            (true, _) => Size::Quad,
            (false, true) => Size::Word,
            (false, false) => Size::Double,
        }
    }
}

const fn is_legacy(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3)
}
