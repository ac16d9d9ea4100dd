//! Privileged instructions, and CPUID behind the forced-emulation prefix.

use crate::cursor::Cursor;
use crate::instruction::{Operand, Operation, Port, Segment, Size};
use crate::modrm::{ModRm, Target};
use crate::prefixes::Prefixes;

/// `ud2`, `"xen"`, `cpuid`.
const FORCED_CPUID: [u8; 7] = [0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2];
/// Its bytes.
pub(crate) const FORCED_CPUID_LENGTH: u8 = FORCED_CPUID.len() as u8;

/// The one instruction that is emulated behind the prefix.
pub(crate) fn forced(bytes: &[u8]) -> Option<Operation> {
    bytes.starts_with(&FORCED_CPUID).then_some(Operation::Cpuid { forced: true })
}

/// Privileged instructions with a one-byte opcode.
pub(crate) fn one_byte(opcode: u8, prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Operation> {
    // Manuals disagree on what a 64-bit and a 16-bit operand prefix mean together here.
    if prefixes.lock || (prefixes.rex_w() && prefixes.operand_16) {
        return None;
    }
    let size = match (opcode & 1, prefixes.operand_16) {
        (0, _) => Size::Byte,
        (_, true) => Size::Word,
        (_, false) => Size::Double,
    };
    if matches!(opcode, 0x6c..=0x6f) {
        return string_io(opcode, size, prefixes);
    }
    if prefixes.repeat {
        return None;
    }
    Some(match opcode {
        0xe4 | 0xe5 => Operation::In { port: Port::Immediate(cursor.u8()?), size },
        0xe6 | 0xe7 => Operation::Out { port: Port::Immediate(cursor.u8()?), size },
        0xec | 0xed => Operation::In { port: Port::Dx, size },
        0xee | 0xef => Operation::Out { port: Port::Dx, size },
        0xcd => Operation::SoftwareInterrupt { vector: cursor.u8()? },
        0xf4 => Operation::Hlt,
        0xfa => Operation::Cli,
        0xfb => Operation::Sti,
        _ => return None,
    })
}

/// String I/O with the usual addresses: 64 bits, in a flat segment.
fn string_io(opcode: u8, size: Size, prefixes: &Prefixes) -> Option<Operation> {
    if prefixes.address_32 || prefixes.segment != Segment::Flat {
        return None;
    }
    let repeat = prefixes.repeat;
    Some(match opcode {
        0x6c | 0x6d => Operation::InString { size, repeat },
        _ => Operation::OutString { size, repeat },
    })
}

/// Privileged instructions with an opcode after 0x0f.
pub(crate) fn two_byte(opcode: u8, prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Operation> {
    if !prefixes.plain() {
        return None;
    }
    Some(match opcode {
        0x01 => return group_7(prefixes, cursor),
        0x06 => Operation::Clts,
        0x07 => Operation::Sysret { long_mode: prefixes.rex_w() },
        0x08 => Operation::Invd,
        0x09 => Operation::Wbinvd,
        0x20..=0x23 => return control_or_debug(opcode, prefixes, cursor),
        0x30 => Operation::Wrmsr,
        0x31 => Operation::Rdtsc,
        0x32 => Operation::Rdmsr,
        0x33 => Operation::Rdpmc,
        0x35 => Operation::Sysexit { long_mode: prefixes.rex_w() },
        0xa2 => Operation::Cpuid { forced: false },
        _ => return None,
    })
}

/// `0f 01`: some by extension and memory, some by the whole byte.
fn group_7(prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Operation> {
    let whole = cursor.peek()?;
    let modrm = ModRm::read(prefixes, cursor)?;
    Some(match (modrm.extension, modrm.target, whole) {
        (6, Target::Register(register), _) => {
            Operation::Lmsw { source: Operand::Register(register) }
        }
        (6, Target::Memory(memory), _) => Operation::Lmsw { source: Operand::Memory(memory) },
        (7, Target::Memory(memory), _) => Operation::Invlpg { memory },
        (_, _, 0xd1) => Operation::Xsetbv,
        (_, _, 0xf8) => Operation::Swapgs,
        (_, _, 0xf9) => Operation::Rdtscp,
        _ => return None,
    })
}

/// Moves from and to control and debug registers. The mode bits of the ModRM byte are ignored:
/// both fields are registers.
fn control_or_debug(opcode: u8, prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Operation> {
    let byte = cursor.u8()?;
    let special = byte >> 3 & 7 | prefixes.rex_r();
    let register = byte & 7 | prefixes.rex_b();
    if opcode & 1 == 0 && !matches!(special, 0 | 2 | 3 | 4 | 8) {
        return None;
    }
    if opcode & 1 == 1 && special > 7 {
        return None;
    }
    Some(match opcode {
        0x20 => Operation::ReadControl { control: special, register },
        0x21 => Operation::ReadDebug { debug: special, register },
        0x22 => Operation::WriteControl { control: special, register },
        _ => Operation::WriteDebug { debug: special, register },
    })
}
