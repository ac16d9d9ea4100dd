//! Names of the monitor's functions, for backtraces.
//!
//! GRUB loads the ELF symbol table along with the image and passes the section headers, whose
//! addresses then say where (ELF-64 object file format, "Section header", "Symbol table").
//! The rule: everything is read through bounds; a bad table yields no names.

use super::bytes::{u32_at, u64_at};
use super::multiboot2::Sections;

const SECTION_SYMBOLS: u32 = 2;
const SYMBOL_BYTES: usize = 24;
const KIND_FUNCTION: u8 = 2;

/// A symbol table and the text it refers to.
#[derive(Clone, Copy, Debug)]
pub struct Symbols {
    table: &'static [u8],
    names: &'static [u8],
}

/// Where a section lies: physical address and bytes.
pub type Extent = (u64, u64);

/// Finds symbol table and string table among the headers.
#[must_use]
pub fn extents(sections: &Sections) -> Option<[Extent; 2]> {
    let header = |index: usize| {
        let start = index.checked_mul(sections.entry_bytes)?;
        sections.headers.get(start..start.checked_add(64)?)
    };
    let extent = |header: &[u8]| Some((u64_at(header, 16)?, u64_at(header, 32)?));
    let count = sections.headers.len().checked_div(sections.entry_bytes)?;
    let symbols = (0..count).filter_map(header);
    let symbols = symbols.into_iter().find(|h| u32_at(h, 4) == Some(SECTION_SYMBOLS))?;
    let names = header(u32_at(symbols, 40)? as usize)?;
    Some([extent(symbols)?, extent(names)?])
}

impl Symbols {
    /// Names from the bytes of both tables.
    #[must_use]
    pub fn new(table: &'static [u8], names: &'static [u8]) -> Self {
        Self { table, names }
    }

    /// The function that contains `address`, as the linker knows it, and the offset into it.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<(&'static str, u64)> {
        self.table.chunks_exact(SYMBOL_BYTES).find_map(|symbol| {
            let offset = address.checked_sub(u64_at(symbol, 8)?)?;
            if symbol.get(4)? & 0xf != KIND_FUNCTION || offset >= u64_at(symbol, 16)? {
                return None;
            }
            let name = self.names.get(u32_at(symbol, 0)? as usize..)?;
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

    #[test]
    fn follows_the_link_to_the_names() {
        let mut headers = std::vec![0u8; 128];
        headers[4] = 2;
        headers[16..18].copy_from_slice(&[0, 0x10]);
        headers[32] = 48;
        headers[40] = 1;
        headers[64 + 16..64 + 18].copy_from_slice(&[0, 0x20]);
        headers[64 + 32] = 12;
        let headers: &'static [u8] = headers.leak();
        let sections = Sections { headers, entry_bytes: 64 };
        assert_eq!(extents(&sections), Some([(0x1000, 48), (0x2000, 12)]));
        let cut = Sections { headers: &headers[..127], entry_bytes: 64 };
        assert_eq!(extents(&cut), None);
        assert_eq!(extents(&Sections { headers, entry_bytes: 0 }), None);
    }
}
