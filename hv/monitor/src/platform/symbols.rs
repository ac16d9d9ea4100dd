//! Names of the monitor's functions, for backtraces.
//!
//! The loader keeps the symbol table and the string table of the monitor's image (ELF-64 object
//! file format, "Symbol table"). The rule: all reads are bounds-checked; a bad table yields no
//! names.

use zerocopy::{FromBytes, Immutable, KnownLayout};

const KIND_FUNCTION: u8 = 2;

/// An entry of the table.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: u64,
    size: u64,
}

/// A symbol table and the text it refers to.
#[derive(Clone, Copy, Debug)]
pub struct Symbols {
    table: &'static [u8],
    names: &'static [u8],
}

impl Symbols {
    /// Takes the bytes of both tables.
    pub fn new(table: &'static [u8], names: &'static [u8]) -> Self {
        Self { table, names }
    }

    /// The function that contains `address`, as the linker knows it, and the offset into it.
    pub fn find(&self, address: u64) -> Option<(&'static str, u64)> {
        self.table.chunks_exact(size_of::<Symbol>()).find_map(|bytes| {
            let symbol = Symbol::read_from_bytes(bytes).ok()?;
            let offset = address.checked_sub(symbol.value)?;
            if symbol.info & 0xf != KIND_FUNCTION || offset >= symbol.size {
                return None;
            }
            let name = self.names.get(symbol.name as usize..)?;
            let end = name.iter().position(|&b| b == 0)?;
            Some((core::str::from_utf8(name.get(..end)?).ok()?, offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(name: u32, kind: u8, value: u64, size: u64) -> std::vec::Vec<u8> {
        let mut bytes = name.to_le_bytes().to_vec();
        bytes.extend([kind, 0, 1, 0]);
        bytes.extend(value.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        bytes
    }

    #[test]
    fn finds_the_function_around_an_address() {
        let table = [symbol(1, 1, 0x1000, 0x100), symbol(6, 2, 0x1000, 0x20)].concat();
        let symbols = Symbols::new(table.leak(), b"\0data\0start\0");
        assert_eq!(symbols.find(0x101f), Some(("start", 0x1f)));
        assert_eq!(symbols.find(0x1020), None);
        assert_eq!(symbols.find(0xfff), None);
    }
}
