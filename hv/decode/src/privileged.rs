//! Privileged instructions, and CPUID behind the forced-emulation prefix.

use crate::cursor::Cursor;
use crate::instruction::{Operation, Port, Size};
use crate::prefixes::Prefixes;

/// `ud2`, `"xen"`, `cpuid`.
const FORCED_CPUID: [u8; 7] = [0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2];
/// Its bytes.
pub(crate) const FORCED_CPUID_LENGTH: u8 = 7;
const _: () = assert!(FORCED_CPUID.len() == FORCED_CPUID_LENGTH as usize);

/// The one instruction that is emulated behind the prefix.
pub(crate) fn forced(bytes: &[u8]) -> Option<Operation> {
    bytes.starts_with(&FORCED_CPUID).then_some(Operation::ForcedCpuid)
}

/// Privileged instructions with a one-byte opcode.
pub(crate) fn one_byte(opcode: u8, prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Operation> {
    // Manuals disagree on what a 64-bit and a 16-bit operand prefix mean together here.
    if prefixes.lock || prefixes.repeat || (prefixes.rex_w() && prefixes.operand_16) {
        return None;
    }
    let size = match (opcode & 1, prefixes.operand_16) {
        (0, _) => Size::Byte,
        (_, true) => Size::Word,
        (_, false) => Size::Double,
    };
    Some(match opcode {
        0xe4 | 0xe5 => Operation::In { port: Port::Immediate(cursor.u8()?), size },
        0xe6 | 0xe7 => Operation::Out { port: Port::Immediate(cursor.u8()?), size },
        0xec | 0xed => Operation::In { port: Port::Dx, size },
        0xee | 0xef => Operation::Out { port: Port::Dx, size },
        0xf4 => Operation::Hlt,
        0xfa => Operation::Cli,
        0xfb => Operation::Sti,
        _ => return None,
    })
}

/// Privileged instructions with an opcode after 0x0f.
pub(crate) fn two_byte(opcode: u8, prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Operation> {
    if !prefixes.plain() {
        return None;
    }
    Some(match opcode {
        0x01 if cursor.u8()? == 0xd1 => Operation::Xsetbv,
        0x06 => Operation::Clts,
        0x08 => Operation::Invd,
        0x09 => Operation::Wbinvd,
        0x20 | 0x22 => return control(opcode, prefixes, cursor),
        0x30 => Operation::Wrmsr,
        0x31 => Operation::Rdtsc,
        0x32 => Operation::Rdmsr,
        _ => return None,
    })
}

/// Moves from and to control registers. The mode bits of the ModRM byte are ignored: both fields
/// are registers.
fn control(opcode: u8, prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Operation> {
    let byte = cursor.u8()?;
    let control = byte >> 3 & 7 | prefixes.rex_r();
    let register = byte & 7 | prefixes.rex_b();
    if !matches!(control, 0 | 2 | 3 | 4 | 8) {
        return None;
    }
    Some(match opcode {
        0x20 => Operation::ReadControl { control, register },
        _ => Operation::WriteControl { control, register },
    })
}
