//! Page tables of a contiguous mapping: their number and their contents.
//!
//! A [`Mapping`] maps consecutive virtual pages to consecutive PFNs, with 4 KiB entries only. Its
//! tables are consecutive too: the highest level first, and the tables of a level by address. So
//! the contents of an entry follow from its place alone, and no table need be kept.

use core::ops::Range;

/// Number of entries in a table.
const ENTRIES: u64 = 512;
/// log2 of the bytes that one entry of level 1 spans.
const PAGE_BITS: u32 = 12;
/// log2 of the entries of a table.
const LEVEL_BITS: u32 = 9;
/// The levels, level 4 being the root.
const LEVELS: u32 = 4;
/// Significant bits of a virtual address.
const ADDRESS_MASK: u64 = (1 << 48) - 1;

/// The target of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A table of the level below, at this PFN.
    Table(u64),
    /// A page of the mapping, at this PFN.
    Page(u64),
}

/// A contiguous mapping, and the place of its tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Virtual addresses without their sign extension.
    start: u64,
    end: u64,
    /// PFN of the first page.
    first_pfn: u64,
    /// The highest level at which this mapping has its own tables.
    top: u32,
    /// PFN of the first table.
    tables: u64,
    /// Number of tables.
    count: u64,
}

/// A table of a [`Mapping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table<'m> {
    mapping: &'m Mapping,
    level: u32,
    /// Number of the span, of this table's size, that it maps.
    span: u64,
    /// PFN of the first table of the level below.
    below: u64,
}

/// log2 of the bytes that an entry of a table of this level spans; `level` is 1 to 4.
const fn entry_bits(level: u32) -> u32 {
    PAGE_BITS + LEVEL_BITS * (level - 1)
}

impl Mapping {
    /// Maps `pages` pages at virtual address `address` (canonical, page-aligned) to PFNs from
    /// `first_pfn`, with tables of levels `top` to 1 from PFN `tables`. Returns `None` if the
    /// addresses exceed the address space.
    #[must_use]
    pub fn new(address: u64, pages: u64, first_pfn: u64, top: u32, tables: u64) -> Option<Self> {
        let start = address & ADDRESS_MASK;
        let end = pages.checked_mul(1 << PAGE_BITS)?.checked_add(start)?;
        let top = top.clamp(1, LEVELS);
        let mut mapping = Self { start, end, first_pfn, top, tables, count: 0 };
        mapping.count = (1..=top).map(|level| mapping.count(level)).sum();
        (end <= ADDRESS_MASK + 1).then_some(mapping)
    }

    /// Tables of one level that the mapping needs, as numbers of spans of that table's size.
    fn spans(&self, level: u32) -> Range<u64> {
        let bits = entry_bits(level) + LEVEL_BITS;
        if self.start == self.end {
            return 0..0;
        }
        self.start >> bits..((self.end - 1) >> bits) + 1
    }

    /// Number of frames of all its tables.
    #[must_use]
    pub fn table_count(&self) -> u64 {
        self.count
    }

    fn count(&self, level: u32) -> u64 {
        let spans = self.spans(level);
        spans.end - spans.start
    }

    /// PFNs of its tables.
    #[must_use]
    pub fn table_pfns(&self) -> Range<u64> {
        self.tables..self.tables + self.table_count()
    }

    /// PFN of the first table of a level.
    fn first_table(&self, level: u32) -> u64 {
        self.tables + (level + 1..=self.top).map(|above| self.count(above)).sum::<u64>()
    }

    /// First and last level-4 slot that it uses. Returns `None` if it is empty.
    #[must_use]
    pub fn root_slots(&self) -> Option<(u64, u64)> {
        let bits = entry_bits(LEVELS);
        (self.start < self.end).then(|| (self.start >> bits, (self.end - 1) >> bits))
    }

    /// PFN of the level-3 table below root slot `slot`, if the mapping has one.
    #[must_use]
    pub fn below_root(&self, slot: u64) -> Option<u64> {
        let spans = self.spans(LEVELS - 1);
        spans.contains(&slot).then(|| self.first_table(LEVELS - 1) + slot - spans.start)
    }

    /// The table at PFN `pfn`, if it belongs to this mapping.
    #[must_use]
    pub fn table(&self, pfn: u64) -> Option<Table<'_>> {
        let mut first = self.tables;
        for level in (1..=self.top).rev() {
            let spans = self.spans(level);
            let below = first + (spans.end - spans.start);
            if (first..below).contains(&pfn) {
                let span = spans.start + pfn - first;
                return Some(Table { mapping: self, level, span, below });
            }
            first = below;
        }
        None
    }
}

impl Table<'_> {
    /// The range of the entries that refer to something.
    #[must_use]
    pub fn present(&self) -> Range<u64> {
        let Mapping { start, end, .. } = *self.mapping;
        let bits = entry_bits(self.level);
        let first = self.span << LEVEL_BITS;
        if start == end {
            return 0..0;
        }
        let from = (start >> bits).clamp(first, first + ENTRIES);
        let to = (((end - 1) >> bits) + 1).clamp(from, first + ENTRIES);
        from - first..to - first
    }

    /// The target of an entry. Returns `None` if it refers to nothing.
    #[must_use]
    pub fn entry(&self, entry: u64) -> Option<Target> {
        let Mapping { start, end, first_pfn, .. } = *self.mapping;
        let bits = entry_bits(self.level);
        let from = (self.span << LEVEL_BITS | entry) << bits;
        if entry >= ENTRIES || from >= end || from + (1 << bits) <= start {
            return None;
        }
        Some(match self.level {
            1 => Target::Page(first_pfn + ((from - start) >> PAGE_BITS)),
            // The tables of a level are in order of address.
            _ => Target::Table(self.below + (from >> bits) - (start >> bits)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Walks from the tables of the top level down, as the processor does.
    fn walk(mapping: &Mapping, address: u64) -> Option<u64> {
        let address = address & ADDRESS_MASK;
        let span = (address >> (entry_bits(mapping.top) + LEVEL_BITS))
            .checked_sub(mapping.spans(mapping.top).start)?;
        let mut table = mapping.tables + span;
        for level in (1..=mapping.top).rev() {
            match mapping.table(table)?.entry((address >> entry_bits(level)) % ENTRIES)? {
                Target::Table(below) if level > 1 => table = below,
                Target::Page(pfn) if level == 1 => return Some(pfn),
                _ => panic!("level {level} has an entry of another level"),
            }
        }
        None
    }

    proptest! {
        #[test]
        fn the_present_entries_are_those_that_refer_to_something(
            page in 0_u64..1 << 20,
            pages in 0_u64..100_000,
        ) {
            let mapping = Mapping::new(page << PAGE_BITS, pages, 77, 4, 5_000_000).unwrap();
            for pfn in mapping.table_pfns() {
                let table = mapping.table(pfn).unwrap();
                let present = table.present();
                for entry in 0..ENTRIES {
                    prop_assert_eq!(table.entry(entry).is_some(), present.contains(&entry));
                }
            }
        }

        /// A walk gives exactly the page that the mapping intends.
        #[test]
        fn a_walk_finds_the_intended_page(
            page in 0_u64..1 << 36,
            pages in 1_u64..1_000_000,
            top in 1_u32..=4,
            picks in prop::collection::vec(any::<u64>(), 20),
        ) {
            let start = page << PAGE_BITS;
            let Some(mapping) = Mapping::new(start, pages, 77, top, 5_000_000) else {
                prop_assert!(page + pages > 1 << 36);
                return Ok(());
            };
            for pick in picks.into_iter().map(|pick| pick % pages).chain([0, pages - 1]) {
                let va = start + (pick << PAGE_BITS);
                prop_assert_eq!(walk(&mapping, va), Some(77 + pick));
            }
            if top == 4 {
                prop_assert_eq!(start.checked_sub(1).and_then(|va| walk(&mapping, va)), None);
                let end = start + (pages << PAGE_BITS);
                prop_assert!(end > ADDRESS_MASK || walk(&mapping, end).is_none());
            }
        }

        /// Entries refer only to the mapping's own tables and pages, and to each table once.
        #[test]
        fn entries_stay_inside(page in 0_u64..1 << 36, pages in 1_u64..5000, top in 1_u32..=4) {
            let Some(mapping) = Mapping::new(page << PAGE_BITS, pages, 0, top, 10_000) else {
                return Ok(());
            };
            let (mut tables, mut leaves) = (Vec::new(), Vec::new());
            for table in mapping.table_pfns() {
                let table = mapping.table(table).expect("one of its own");
                for target in (0..ENTRIES).filter_map(|entry| table.entry(entry)) {
                    match target {
                        Target::Table(pfn) => tables.push(pfn),
                        Target::Page(pfn) => leaves.push(pfn),
                    }
                }
            }
            let tops = mapping.count(top);
            let below: Vec<u64> = mapping.table_pfns().skip(tops as usize).collect();
            prop_assert_eq!(tables, below);
            prop_assert_eq!(leaves, (0..pages).collect::<Vec<_>>());
        }
    }
}
