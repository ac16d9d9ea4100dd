//! Names for addresses, from the image's symbol table, or else from the kernel's own.

use elf::ElfBytes;
use elf::abi::{STT_FUNC, STT_NOTYPE};
use elf::endian::LittleEndian;

use crate::kallsyms;

/// Functions by address.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    /// Sorted by address.
    sorted: Vec<(u64, String)>,
    /// The source of the names.
    pub(crate) source: &'static str,
}

impl Symbols {
    /// Finds the names in an image.
    pub(crate) fn read(elf: &ElfBytes<'_, LittleEndian>, image: &[u8]) -> Self {
        let (mut sorted, mut source) = (symbol_table(elf), "the symbol table");
        if sorted.is_empty() {
            (sorted, source) = (kallsyms::find(image).unwrap_or_default(), "kallsyms");
        }
        if sorted.is_empty() {
            source = "nowhere: the image has no symbols";
        }
        sorted.sort();
        // If several symbols have the same address, any of them will do.
        sorted.dedup_by(|later, first| later.0 == first.0);
        Self { sorted, source }
    }

    /// The symbol at or before an address, and where it starts.
    pub(crate) fn at(&self, address: u64) -> Option<(u64, &str)> {
        let after = self.sorted.partition_point(|(start, _)| *start <= address);
        let (start, name) = self.sorted.get(after.checked_sub(1)?)?;
        Some((*start, name))
    }
}

fn symbol_table(elf: &ElfBytes<'_, LittleEndian>) -> Vec<(u64, String)> {
    let Ok(Some((symbols, names))) = elf.symbol_table() else { return Vec::new() };
    symbols
        .iter()
        .filter(|symbol| !symbol.is_undefined())
        .filter(|symbol| [STT_FUNC, STT_NOTYPE].contains(&symbol.st_symtype()))
        .filter_map(|symbol| {
            let name = names.get(symbol.st_name as usize).ok()?;
            (!name.is_empty()).then(|| (symbol.st_value, name.to_owned()))
        })
        .collect()
}
