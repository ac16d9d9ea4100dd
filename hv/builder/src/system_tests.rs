//! Tests a plan as a processor sees it: a walk of its page tables.

use super::*;
use proptest::prelude::*;
use pv_abi::uv::start::MODULE_COMMAND_LINE;

const SIZES: SystemSizes = SystemSizes { heap: 1024, dma: 512, grant_frames: 8 };
const PLACE: SystemPlace =
    SystemPlace { number: 4, restarts: 2, first_frame: 0x8_0000, instance: 0x9_0000 };

/// An ELF file with these segments: address, flags, bytes in the file, bytes in memory.
fn elf(segments: &[(u64, u32, usize, u64)]) -> Vec<u8> {
    let mut file = vec![0_u8; 64];
    file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (file[16], file[18], file[20], file[52], file[54]) = (2, 62, 1, 64, 56);
    file[24..32].copy_from_slice(&BASE.to_le_bytes());
    (file[32], file[56]) = (64, segments.len() as u8);
    let mut at = 64 + 56 * segments.len() as u64;
    for &(address, flags, bytes, memory) in segments {
        file.extend(PT_LOAD.to_le_bytes());
        file.extend(flags.to_le_bytes());
        [at, address, address, bytes as u64, memory, 4096]
            .iter()
            .for_each(|word| file.extend(word.to_le_bytes()));
        at += bytes as u64;
    }
    for (index, &(.., bytes, _)) in segments.iter().enumerate() {
        file.extend(std::iter::repeat_n(index as u8 + 1, bytes));
    }
    file
}

fn image_file() -> Vec<u8> {
    elf(&[
        (BASE, PF_X, 5000, 5000),
        (BASE + 0x2000, 4, 10, 10),
        (BASE + 0x3000, PF_W, 4096, 3 * 4096 + 1),
    ])
}

fn options() -> ModuleRecord {
    let command_line = [0; MODULE_COMMAND_LINE];
    ModuleRecord { address: 0, bytes: 0, frame: 0, command_line_bytes: 0, command_line }
}

fn plan(file: &[u8]) -> SystemPlan<'_> {
    let image = SystemImage::parse(file).unwrap();
    let layout = SystemLayout::new(&image, SIZES).unwrap();
    SystemPlan::new(image, layout, PLACE, options())
}

fn page(plan: &SystemPlan<'_>, page: u64) -> Page {
    let mut bytes = [0; 4096];
    plan.fill(page, &mut bytes);
    bytes
}

/// The entry that maps an address, read from the pages that the plan writes.
fn walk(plan: &SystemPlan<'_>, va: u64) -> Option<u64> {
    let written: Vec<u64> = plan.pages().collect();
    let mut table = plan.start_state().page_table;
    for level in (0..4).rev() {
        let at = table - PLACE.first_frame;
        assert!(written.contains(&at), "table {at} is written");
        let index = (va >> (12 + 9 * level)) as usize % 512;
        let bytes = page(plan, at);
        let entry = u64::from_le_bytes(bytes[index * 8..][..8].try_into().unwrap());
        if entry & PTE_PRESENT == 0 {
            return None;
        }
        if level == 0 {
            return Some(entry);
        }
        table = (entry & PTE_ADDRESS) >> 12;
    }
    None
}

#[test]
fn each_page_is_where_the_start_block_says_with_its_rights() {
    let file = image_file();
    let plan = plan(&file);
    let layout = plan.layout.clone();
    for page in 0..layout.frames() {
        let entry = walk(&plan, BASE + page * 4096);
        let readable = page == 2 || layout.tables.contains(&page);
        let expected = match page {
            0..2 => EXECUTE,
            _ if readable || page == layout.start_block => READ_ONLY,
            _ => READ_WRITE,
        };
        assert_eq!(entry, Some((PLACE.first_frame + page) << 12 | expected), "page {page}");
    }
    assert_eq!(walk(&plan, BASE + layout.frames() * 4096), None);
    assert_eq!(walk(&plan, SHARED), Some((PLACE.instance + 1) << 12 | READ_WRITE));
    let grants = PLACE.instance + 48 + 4;
    assert_eq!(walk(&plan, SHARED + 8 * 4096), Some((grants + 7) << 12 | READ_WRITE));
    assert_eq!(walk(&plan, SHARED + 9 * 4096), None);
}

#[test]
fn the_window_is_empty_and_its_tables_are_one_after_the_other() {
    let file = image_file();
    let plan = plan(&file);
    let first = plan.block.window_tables - PLACE.first_frame;
    for table in 0..WINDOW_PAGES / 512 {
        assert_eq!(page(&plan, first + table), [0; 4096]);
        // An entry that the partition makes in that table is the one of the window's page.
        let mut with = plan.clone();
        let index = usize::try_from(first + table - plan.layout.tables.start).unwrap();
        with.tables.contents[index][3] = 0x1234_5000 | PTE_PRESENT;
        assert_eq!(walk(&with, WINDOW + (table * 512 + 3) * 4096), Some(0x1234_5001));
    }
}

#[test]
fn the_image_is_loaded_and_the_start_block_describes_the_rest() {
    let file = image_file();
    let plan = plan(&file);
    assert_eq!(page(&plan, 1)[..905], [[1; 904].as_slice(), &[0]].concat());
    assert_eq!(page(&plan, 2)[..11], [2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 0]);
    assert_eq!(page(&plan, 3), [3; 4096]);
    assert_eq!(page(&plan, 4), [0; 4096], "zeros after the file's part");
    let block = &plan.block;
    assert_eq!((block.number, block.restarts, block.frames), (4, 2, plan.layout.frames()));
    assert_eq!(block.dma, BASE + plan.layout.dma.start * 4096);
    assert_eq!(block.dma + block.dma_pages * 4096, BASE + block.frames * 4096, "at the end");
    assert_eq!(block.heap_bytes, 1024 * 4096);
    let bytes = page(&plan, plan.layout.start_block);
    assert_eq!(&bytes[..size_of::<StartBlock>()], block.as_bytes());
    assert_eq!(plan.start_state().stack, block.heap, "the stack ends where the heap begins");
}

#[test]
fn an_image_that_is_none_is_refused() {
    let segment = |address, bytes, memory| elf(&[(BASE, PF_X, 8, 8), (address, 4, bytes, memory)]);
    for (file, error) in [
        (segment(BASE - 4096, 1, 1), SystemError::Segment(1)),
        (segment(BASE, 1, 1), SystemError::Segment(1)),
        (segment(BASE + 0x1008, 1, 1), SystemError::Segment(1)),
        (segment(BASE + 0x1000, 2, 1), SystemError::Segment(1)),
        (segment(BASE + 0x1000, 1, MAX_PAGES * 4096), SystemError::Segment(1)),
        (segment(BASE + 0x1000, 1, u64::MAX), SystemError::Segment(1)),
        (segment(!4095, 1, 1), SystemError::Segment(1)),
        (elf(&[]), SystemError::NoSegments),
        (b"no file".to_vec(), SystemError::Elf),
    ] {
        assert_eq!(SystemImage::parse(&file).unwrap_err(), error);
    }
    let mut other = image_file();
    other[18] = 40;
    assert_eq!(SystemImage::parse(&other).unwrap_err(), SystemError::Machine);
    let file = image_file();
    assert_eq!(SystemImage::parse(&file[..file.len() - 1]), Err(SystemError::Segment(2)));
    let image = SystemImage::parse(&file).unwrap();
    let sizes = SystemSizes { heap: MAX_PAGES + 1, ..SIZES };
    assert_eq!(SystemLayout::new(&image, sizes).unwrap_err(), SystemError::Sizes);
}

proptest! {
    /// The tables that the layout reserves suffice, whatever the sizes.
    #[test]
    fn the_tables_fit(pages in 1..MAX_PAGES, heap in 0..MAX_PAGES, dma in 0..MAX_PAGES) {
        let file = elf(&[(BASE, PF_X, 8, pages * 4096)]);
        let image = SystemImage::parse(&file).unwrap();
        let layout = SystemLayout::new(&image, SystemSizes { heap, dma, grant_frames: 64 }).unwrap();
        let reserved = layout.tables.end - layout.tables.start;
        let plan = SystemPlan::new(image, layout, PLACE, options());
        prop_assert!(plan.tables.contents.len() as u64 <= reserved);
    }

    #[test]
    fn a_damaged_image_is_refused_or_planned(
        damage in prop::collection::vec((0_usize..240, any::<u8>()), 1..6),
    ) {
        let mut file = image_file();
        damage.into_iter().for_each(|(at, value)| file[at] = value);
        if let Ok(image) = SystemImage::parse(&file) {
            let layout = SystemLayout::new(&image, SIZES).unwrap();
            let plan = SystemPlan::new(image, layout, PLACE, options());
            for at in plan.pages() {
                prop_assert!(at < plan.layout.frames());
                page(&plan, at);
            }
        }
    }
}
