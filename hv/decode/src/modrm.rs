//! The ModRM byte and the bytes after it, if it names memory.

use crate::cursor::Cursor;
use crate::instruction::Memory;
use crate::prefixes::Prefixes;

/// A decoded ModRM byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ModRm {
    /// The middle field without its REX bit, as an opcode extension.
    pub(crate) extension: u8,
    /// The middle field with its REX bit, as a register.
    pub(crate) register: u8,
    /// The other field, which names memory.
    pub(crate) memory: Memory,
}

impl ModRm {
    /// Reads the byte. Also returns `None` if both fields are registers.
    pub(crate) fn read(prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Self> {
        let byte = cursor.u8()?;
        let extension = byte >> 3 & 7;
        let memory = match byte >> 6 {
            3 => return None,
            mode => memory(mode, byte & 7, prefixes, cursor)?,
        };
        Some(Self { extension, register: extension | prefixes.rex_r(), memory })
    }
}

fn memory(mode: u8, low: u8, prefixes: &Prefixes, cursor: &mut Cursor) -> Option<Memory> {
    let mut found = Memory {
        base: Some(low | prefixes.rex_b()),
        index: None,
        scale: 1,
        displacement: 0,
        rip_relative: false,
        segment: prefixes.segment,
        address_32: prefixes.address_32,
    };
    let mut no_base = false;
    if low == 4 {
        let sib = cursor.u8()?;
        let index = sib >> 3 & 7 | prefixes.rex_x();
        found.base = Some(sib & 7 | prefixes.rex_b());
        // rsp as index means no index.
        found.index = (index != 4).then_some(index);
        found.scale = if index == 4 { 1 } else { 1 << (sib >> 6) };
        no_base = mode == 0 && sib & 7 == 5;
    } else if low == 5 && mode == 0 {
        no_base = true;
        found.rip_relative = true;
    }
    if no_base {
        found.base = None;
    }
    found.displacement = match mode {
        1 => cursor.i8()?,
        2 => cursor.i32()?,
        _ if no_base => cursor.i32()?,
        _ => 0,
    };
    Some(found)
}
