//! Instructions that write a page-table entry.

use crate::cursor::Cursor;
use crate::instruction::{Operand, Operation, Size, Write};
use crate::modrm::ModRm;
use crate::prefixes::Prefixes;

/// Writes with a one-byte opcode.
pub(crate) fn one_byte(opcode: u8, prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Operation> {
    if prefixes.repeat {
        return None;
    }
    let mut ahead = *cursor;
    let size = if opcode & 1 == 0 { Size::Byte } else { prefixes.size() };
    let size = if opcode == 0x83 { prefixes.size() } else { size };
    let modrm = match opcode {
        0x08 | 0x09 | 0x20 | 0x21 | 0x80 | 0x81 | 0x83 | 0x86..=0x89 | 0xc6 | 0xc7 => {
            ModRm::read(prefixes, &mut ahead)?
        }
        _ => return None,
    };
    let write = match opcode {
        0x08 | 0x09 => Write::Or(register(&modrm, size, prefixes)?),
        0x20 | 0x21 => Write::And(register(&modrm, size, prefixes)?),
        0x80 | 0x83 => arithmetic(modrm.extension, Operand::Immediate(signed(ahead.i8()?)))?,
        0x81 => arithmetic(modrm.extension, immediate(size, &mut ahead)?)?,
        0x86 | 0x87 => Write::Exchange { register: number(&modrm, size, prefixes)? },
        0x88 | 0x89 => Write::Store(register(&modrm, size, prefixes)?),
        _ if modrm.extension == 0 => Write::Store(immediate(size, &mut ahead)?),
        _ => return None,
    };
    // A plain store cannot be locked.
    if prefixes.lock && matches!(write, Write::Store(_)) {
        return None;
    }
    *cursor = ahead;
    Some(Operation::Write { write, size, memory: modrm.memory })
}

/// Writes with an opcode after 0x0f.
pub(crate) fn two_byte(opcode: u8, prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Operation> {
    if prefixes.repeat || !matches!(opcode, 0xb0 | 0xb1 | 0xba) {
        return None;
    }
    let mut ahead = *cursor;
    let modrm = ModRm::read(prefixes, &mut ahead)?;
    let size = if opcode == 0xb0 { Size::Byte } else { prefixes.size() };
    let write = match (opcode, modrm.extension) {
        (0xb0 | 0xb1, _) => Write::CompareExchange { register: number(&modrm, size, prefixes)? },
        (_, 5) => Write::BitSet { bit: bit(size, &mut ahead)? },
        (_, 6) => Write::BitReset { bit: bit(size, &mut ahead)? },
        _ => return None,
    };
    *cursor = ahead;
    Some(Operation::Write { write, size, memory: modrm.memory })
}

/// The operations `or` and `and`, among those that the extension of opcodes 0x80 to 0x83 selects.
const fn arithmetic(extension: u8, source: Operand) -> Option<Write> {
    match extension {
        1 => Some(Write::Or(source)),
        4 => Some(Write::And(source)),
        _ => None,
    }
}

fn register(modrm: &ModRm, size: Size, prefixes: &Prefixes) -> Option<Operand> {
    number(modrm, size, prefixes).map(Operand::Register)
}

/// The register number of an operand. Returns `None` for ah, ch, dh and bh.
fn number(modrm: &ModRm, size: Size, prefixes: &Prefixes) -> Option<u8> {
    let high_byte = size == Size::Byte && prefixes.rex == 0 && modrm.register >= 4;
    (!high_byte).then_some(modrm.register)
}

fn bit(size: Size, cursor: &mut Cursor) -> Option<u8> {
    Some(cursor.u8()? & (size.bytes() * 8 - 1))
}

fn immediate(size: Size, cursor: &mut Cursor) -> Option<Operand> {
    let value = match size {
        Size::Byte => cursor.i8()?,
        Size::Word => cursor.i16()?,
        Size::Double | Size::Quad => cursor.i32()?,
    };
    Some(Operand::Immediate(signed(value)))
}

const fn signed(value: i64) -> u64 {
    value.cast_unsigned()
}
