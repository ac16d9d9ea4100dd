//! Privileged instructions, and CPUID behind the forced-emulation prefix.

use crate::cursor::Cursor;
use crate::instruction::{Operation, Place, Port, Size, SystemWord};
use crate::modrm::ModRm;
use crate::prefixes::Prefixes;

/// `ud2`, `"xen"`, `cpuid`.
const FORCED_CPUID: [u8; 7] = [0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2];
/// Its length in bytes.
pub(crate) const FORCED_CPUID_LENGTH: u8 = 7;
const _: () = assert!(FORCED_CPUID.len() == FORCED_CPUID_LENGTH as usize);

/// Decodes the only instruction that is emulated behind the prefix.
pub(crate) fn forced(bytes: &[u8]) -> Option<Operation> {
    bytes.starts_with(&FORCED_CPUID).then_some(Operation::ForcedCpuid)
}

/// Privileged instructions with a one-byte opcode.
pub(crate) fn one_byte(opcode: u8, prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Operation> {
    // The manuals disagree on the meaning of REX.W together with a 16-bit operand prefix here.
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
    if matches!(opcode, 0x00 | 0x01) {
        return groups(opcode, prefixes, cursor);
    }
    if !prefixes.plain() {
        return None;
    }
    Some(match opcode {
        0x06 => Operation::Clts,
        0x08 => Operation::Invd,
        0x09 => Operation::Wbinvd,
        0x20..=0x23 => return special_register(opcode, prefixes, cursor),
        0x30 => Operation::Wrmsr,
        0x31 => Operation::Rdtsc,
        0x32 => Operation::Rdmsr,
        _ => return None,
    })
}

/// Instructions behind 0x0f 0x00 and 0x0f 0x01: `xsetbv`, and those that reveal descriptor tables,
/// task state and CR0, which ring 3 may not use while UMIP is on.
fn groups(opcode: u8, prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Operation> {
    if prefixes.lock || prefixes.repeat {
        return None;
    }
    let byte = cursor.peek()?;
    let in_register = byte >> 6 == 3;
    let word = match (opcode, byte >> 3 & 7) {
        (0x00, 0) => SystemWord::LocalTable,
        (0x00, 1) => SystemWord::Task,
        (0x01, 4) => SystemWord::MachineStatus,
        // An operand prefix does not change the size of what these store.
        (0x01, 0 | 1) if !in_register => {
            return Some(Operation::StoreTable { memory: ModRm::read(prefixes, cursor)?.memory });
        }
        (0x01, _) if byte == 0xd1 && prefixes.plain() => {
            cursor.u8()?;
            return Some(Operation::Xsetbv);
        }
        _ => return None,
    };
    let to = if in_register {
        let number = cursor.u8()? & 7 | prefixes.rex_b();
        Place::Register { number, size: prefixes.size() }
    } else {
        Place::Memory(ModRm::read(prefixes, cursor)?.memory)
    };
    Some(Operation::StoreSystem { word, to })
}

/// Moves from and to control and debug registers. The mode bits of the ModRM byte are ignored: both
/// fields are registers.
fn special_register(opcode: u8, prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Operation> {
    let byte = cursor.u8()?;
    let special = byte >> 3 & 7 | prefixes.rex_r();
    let register = byte & 7 | prefixes.rex_b();
    Some(match (opcode, special) {
        (0x20, 0 | 2 | 3 | 4 | 8) => Operation::ReadControl { control: special, register },
        (0x22, 0 | 2 | 3 | 4 | 8) => Operation::WriteControl { control: special, register },
        (0x21, 0..=7) => Operation::ReadDebug { debug: special, register },
        (0x23, 0..=7) => Operation::WriteDebug { debug: special, register },
        _ => return None,
    })
}
