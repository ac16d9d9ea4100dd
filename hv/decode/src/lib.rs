//! Decodes the few 64-bit instructions that the monitor emulates for a guest kernel.
//!
//! There are three kinds: writes to page tables that are mapped read-only, privileged instructions,
//! and CPUID behind the forced-emulation prefix. The bytes come from the guest and may be anything.
//! So the decoder is exact on prefixes and lengths, and returns `None` for any instruction that it
//! does not know for sure; the guest then gets the fault that the hardware raised. In particular it
//! refuses a lock prefix where the hardware would, repeat prefixes except with string I/O, and the
//! byte registers ah to bh.
//!
//! Facts: Intel SDM vol. 2, chapter 2 (formats), appendix A (opcode map).
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod cursor;
mod instruction;
mod modrm;
mod prefixes;
mod privileged;
mod writes;

pub use instruction::{
    Instruction, Memory, Operand, Operation, Place, Port, Segment, Size, SystemWord, Write,
};

use cursor::Cursor;
use prefixes::Prefixes;

/// Length of the longest instruction.
pub const MAX_LENGTH: usize = 15;

/// Decodes the instruction at the start of `bytes`, of which only the first [`MAX_LENGTH`] are
/// used. Returns `None` if the instruction is not emulated, or is cut off.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Instruction> {
    if let Some(operation) = privileged::forced(bytes) {
        return Some(Instruction { operation, length: privileged::FORCED_CPUID_LENGTH });
    }
    let mut cursor = Cursor::new(bytes);
    let prefixes = Prefixes::read(&mut cursor)?;
    let opcode = cursor.u8()?;
    let operation = match opcode {
        0x0f => {
            let second = cursor.u8()?;
            writes::two_byte(second, &prefixes, &mut cursor)
                .or_else(|| privileged::two_byte(second, &prefixes, &mut cursor))
        }
        _ => writes::one_byte(opcode, &prefixes, &mut cursor)
            .or_else(|| privileged::one_byte(opcode, &prefixes, &mut cursor)),
    }?;
    Some(Instruction { operation, length: cursor.position() })
}

/// Decodes `int n` of 64-bit code, or of 32-bit code if `long_mode` is false. Returns the vector
/// and the length. Code of 32-bit processes has no REX prefixes, so it must not be passed to
/// [`decode`].
#[must_use]
pub fn software_interrupt(bytes: &[u8], long_mode: bool) -> Option<(u8, u8)> {
    let mut cursor = Cursor::new(bytes);
    let prefixes =
        if long_mode { Prefixes::read(&mut cursor)? } else { Prefixes::read_legacy(&mut cursor)? };
    if prefixes.lock || cursor.u8()? != 0xcd {
        return None;
    }
    let vector = cursor.u8()?;
    Some((vector, cursor.position()))
}
