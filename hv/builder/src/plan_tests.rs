//! Plans for simulated kernels and for the real one, checked as the kernel will see them.

use super::*;
use crate::memory::Extent;
use crate::reader::{HEAD_BYTES, Progress, Reader};
use proptest::prelude::*;
use pv_abi::PAGE_SIZE;
use pv_abi::xen::elfnote;
use pv_abi::xen::mmu::PTE_ADDRESS;
use std::collections::BTreeMap;

const BASE: u64 = 0xffff_ffff_8000_0000;
const P2M: u64 = 0x80_0000_0000;

/// A simulated kernel with one segment and notes.
#[derive(Clone, Debug)]
struct Fake {
    address: u64,
    contents: Vec<u8>,
    memory: u64,
    notes: Vec<(u32, Vec<u8>)>,
}

impl Fake {
    fn new() -> Self {
        let number = |kind, value: u64| (kind, value.to_le_bytes().to_vec());
        Self {
            address: 0x10_0000,
            contents: (0..9000_u32).map(|i| (i % 251) as u8 + 1).collect(),
            memory: 0x8000,
            notes: vec![
                (elfnote::XEN_VERSION, b"xen-3.0\0".to_vec()),
                (elfnote::LOADER, b"generic\0".to_vec()),
                number(elfnote::VIRT_BASE, BASE),
                number(elfnote::ENTRY, BASE + 0x10_0040),
                number(elfnote::INIT_P2M, P2M),
                number(elfnote::MOD_START_PFN, 1),
                number(elfnote::HYPERCALL_PAGE, BASE + 0x10_5000),
            ],
        }
    }

    fn without(mut self, note: u32) -> Self {
        self.notes.retain(|(kind, _)| *kind != note);
        self
    }

    /// The ELF file: header, two program headers, notes, contents.
    fn elf(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        for (kind, value) in &self.notes {
            notes.extend(4_u32.to_le_bytes());
            notes.extend((value.len() as u32).to_le_bytes());
            notes.extend(kind.to_le_bytes());
            notes.extend(elfnote::OWNER);
            notes.extend(value);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        let (at, length) = (64 + 2 * 56, notes.len() as u64);
        let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
        for half in [2_u16, 62] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1_u32.to_le_bytes());
        for word in [0_u64, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, 2, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let size = self.contents.len() as u64;
        for (kind, offset, address, file_size, memory, align) in [
            (4_u32, at, 0, length, length, 4),
            (1, at + length, self.address, size, self.memory, 4096),
        ] {
            file.extend(kind.to_le_bytes());
            file.extend(7_u32.to_le_bytes());
            for word in [offset, 0, address, file_size, memory, align] {
                file.extend(word.to_le_bytes());
            }
        }
        file.extend(notes);
        file.extend(&self.contents);
        file
    }
}

fn memory(frames: u64) -> Memory {
    // Two extents, so that PFNs and machine frames differ everywhere.
    let half = frames / 2;
    Memory::new([
        Extent { first: 0x9000, frames: half },
        Extent { first: 0x2000_0000, frames: frames - half },
    ])
}

/// A plan for a whole file.
fn planned(file: &[u8], memory: Memory, initrd: u64, line: &str) -> Result<Plan, PlanError> {
    Plan::new(Kernel::parse(file)?, memory, initrd, line)
}

/// The partition's memory as the builder leaves it, by machine frame, if the files arrive in pieces
/// of `step` bytes.
fn build_by(plan: &Plan, files: [&[u8]; 2], step: u64) -> BTreeMap<u64, Box<Page>> {
    let mut pages = BTreeMap::new();
    let frame = |pfn| plan.memory().machine_frame(pfn).expect("a planned page lies in memory");
    let mut before = (File::Kernel, 0);
    for (file, range) in plan.parts() {
        assert!(file != before.0 || range.start >= before.1, "in the file's order");
        before = (file, range.end);
        for offset in range.clone().step_by(step as usize) {
            let length = step.min(range.end - offset) as usize;
            let piece = &files[file as usize][offset as usize..][..length];
            for place in plan.places(file, offset, length) {
                let page =
                    pages.entry(frame(place.pfn)).or_insert_with(|| Box::new([0; PAGE_SIZE]));
                page[place.at..][..place.bytes.len()].copy_from_slice(&piece[place.bytes]);
            }
        }
    }
    for pfn in plan.pages() {
        let mut page = Box::new([0xa5; PAGE_SIZE]);
        plan.fill(pfn, &mut page);
        pages.insert(frame(pfn), page);
    }
    pages
}

fn build(plan: &Plan, kernel: &[u8], initrd: &[u8]) -> BTreeMap<u64, Box<Page>> {
    build_by(plan, [kernel, initrd], 1 << 20)
}

fn word(pages: &BTreeMap<u64, Box<Page>>, frame: u64, index: u64) -> u64 {
    let at = index as usize * 8;
    pages.get(&frame).map_or(0, |page| u64::from_le_bytes(page[at..at + 8].try_into().unwrap()))
}

/// Walks as the processor does. Returns the entry of level 1, and whether all levels permit
/// writing.
fn walk(pages: &BTreeMap<u64, Box<Page>>, root: u64, address: u64) -> Option<(u64, bool)> {
    let (mut frame, mut writable) = (root, true);
    for level in (0..4).rev() {
        let entry = word(pages, frame, address >> (12 + 9 * level) & 511);
        if entry & PTE_PRESENT == 0 {
            return None;
        }
        writable &= entry & PTE_RW != 0;
        frame = (entry & PTE_ADDRESS) / PAGE_BYTES;
    }
    Some((frame, writable))
}

/// Checks the promises of the ABI to a kernel, on the finished memory.
fn check(plan: &Plan, pages: &BTreeMap<u64, Box<Page>>) {
    let (layout, memory, start) = (plan.layout(), plan.memory(), plan.start_state());
    let mapped = layout.mapping.table_pfns().end;
    let tables: Vec<u64> = layout
        .mapping
        .table_pfns()
        .chain(layout.p2m_mapping.iter().flat_map(|own| own.table_pfns()))
        .collect();
    // Every entry of every table names a frame of the partition.
    let frames: std::collections::BTreeSet<u64> =
        memory.machine_frames(0..memory.frames()).collect();
    for frame in tables.iter().map(|&pfn| memory.machine_frame(pfn).unwrap()) {
        for entry in (0..512).map(|index| word(pages, frame, index)) {
            assert!(entry == 0 || frames.contains(&((entry & PTE_ADDRESS) / PAGE_BYTES)));
            assert_eq!(entry & !PTE_ADDRESS & !0x67, 0, "no bits but P, RW, US, A, D");
        }
    }
    // From VIRT_BASE to past the pad: pages in order, writable unless a page table.
    let base = start.start_info - layout.start_info * PAGE_BYTES;
    let end = (layout.stack + 129) * PAGE_BYTES;
    for pfn in 0..end.div_ceil(PAGE_BYTES) {
        let expected = (memory.machine_frame(pfn).unwrap(), !tables.contains(&pfn));
        assert_eq!(walk(pages, start.page_table, base + pfn * PAGE_BYTES), Some(expected));
    }
    assert!(mapped <= layout.stack);
    // The table of machine frames, at its address and in contents.
    let list = plan.start_info().mfn_list;
    for pfn in 0..memory.frames() {
        let (frame, writable) = walk(pages, start.page_table, list + pfn * 8).unwrap();
        assert!(writable);
        assert_eq!(Some(word(pages, frame, pfn % 512)), memory.machine_frame(pfn));
    }
    assert_eq!(walk(pages, start.page_table, 0xffff_8000_0000_0000), None);
}

#[test]
fn a_kernel_finds_what_the_abi_promises() {
    let initrd: Vec<u8> = (0..10_000_u32).map(|i| (i % 255) as u8).collect();
    let file = Fake::new().elf();
    let mut plan = planned(&file, memory(2048), 10_000, "console=hvc0").unwrap();
    plan.parameters = Parameters { shared_info: 0x1234_5000, console_port: 2, store_port: 1 };
    let pages = build(&plan, &file, &initrd);
    check(&plan, &pages);
    let info = plan.start_info();
    assert_eq!(&info.magic[..15], b"xen-3.0-x86_64\0");
    assert_eq!((info.nr_pages, info.shared_info), (2048, 0x1234_5000));
    assert_eq!((info.console_evtchn, info.store_evtchn), (2, 1));
    assert_eq!(&info.cmd_line[..13], b"console=hvc0\0");
    assert_eq!(info.flags, SIF_MOD_START_PFN);
    assert_eq!((info.mod_len, info.mfn_list), (10_000, P2M));
    assert_eq!(info.nr_p2m_frames, 4 + 3);
    let state = plan.start_state();
    assert_eq!(info.pt_base, state.start_info + 3 * PAGE_BYTES);
    assert_eq!(state.stack, info.pt_base + (info.nr_pt_frames + 1) * PAGE_BYTES);
    let loaded: Vec<u8> = (info.mod_start..)
        .take(3)
        .flat_map(|pfn| *pages[&plan.memory().machine_frame(pfn).unwrap()])
        .collect();
    assert_eq!(loaded[..10_000], initrd);
    assert!(loaded[10_000..].iter().all(|&byte| byte == 0));
}

#[test]
fn the_kernel_is_loaded_and_its_hypercall_page_filled() {
    let file = Fake::new().elf();
    let plan = planned(&file, memory(2048), 0, "").unwrap();
    let pages = build(&plan, &file, &[]);
    let page = |pfn| pages.get(&plan.memory().machine_frame(pfn).unwrap());
    let contents = Fake::new().contents;
    assert_eq!(page(0x100).unwrap()[..], contents[..4096]);
    assert_eq!(page(0x102).unwrap()[..808], contents[8192..]);
    assert!(page(0x102).unwrap()[808..].iter().all(|&byte| byte == 0));
    assert!(page(0x103).is_none(), "a page that no file has is not written");
    let stubs = page(0x105).unwrap();
    assert_eq!(stubs[32 * 17..][..14], *b"\x51\x41\x53\xb8\x11\0\0\0\x0f\x05\x41\x5b\x59\xc3");
    assert_eq!(stubs[32 * 23..][..12], *b"\x51\x41\x53\x50\xb8\x17\0\0\0\x0f\x05\xcc");
    assert_eq!(plan.start_info().flags, 0);
}

#[test]
fn an_older_kernel_gets_all_inside_its_mapping() {
    let fake = Fake::new().without(elfnote::INIT_P2M).without(elfnote::MOD_START_PFN);
    let file = fake.elf();
    let plan = planned(&file, memory(2048), 5000, "").unwrap();
    check(&plan, &build(&plan, &file, &[7; 5000]));
    let info = plan.start_info();
    assert_eq!((info.flags, info.nr_p2m_frames), (0, 0));
    assert_eq!(info.mod_start, BASE + 0x10_8000);
    assert_eq!(info.mfn_list, info.mod_start + 2 * PAGE_BYTES);
}

#[test]
fn refusals_say_why() {
    let error = |fake: Fake, frames| planned(&fake.elf(), memory(frames), 0, "").unwrap_err();
    let mut plain = Fake::new();
    plain.notes.clear();
    assert_eq!(
        error(plain, 2048).to_string(),
        "has no Xen PV notes; give a kernel with CONFIG_XEN_PV"
    );
    assert!(matches!(
        error(Fake::new(), 400),
        PlanError::Layout(LayoutError::Memory(needed, 400)) if needed < 500
    ));
    let long = "x".repeat(1024);
    let file = Fake::new().elf();
    let refused = planned(&file, memory(2048), 0, &long).unwrap_err();
    assert_eq!(refused, PlanError::CommandLine(1024));
    let cut = &file[..file.len() - 1];
    let refused = planned(cut, memory(2048), 0, "").unwrap_err();
    assert_eq!(refused, PlanError::Kernel(KernelError::Segment(1)));
    let mut hole = Fake::new();
    hole.notes[4].1 = 0xffff_8000_0000_0000_u64.to_le_bytes().to_vec();
    assert_eq!(error(hole, 2048), PlanError::Layout(LayoutError::Addresses));
}

proptest! {
    /// Damage anywhere in the headers and notes gives an error or a plan inside memory.
    #[test]
    fn a_damaged_kernel_never_panics(
        damage in prop::collection::vec((0_usize..360, any::<u8>()), 1..6),
        frames in 1000_u64..3000,
        initrd in 0_u64..0x10_0000,
    ) {
        let mut file = Fake::new().elf();
        for (at, byte) in damage {
            file[at] = byte;
        }
        if let Ok(plan) = planned(&file, memory(frames), initrd, "quiet") {
            let mut page = [0; PAGE_SIZE];
            for pfn in plan.pages() {
                prop_assert!(pfn < frames);
                plan.fill(pfn, &mut page);
            }
            for (of, range) in plan.parts() {
                let length = (range.end - range.start) as usize;
                for place in plan.places(of, range.start, length) {
                    prop_assert!(place.pfn < frames && place.at + place.bytes.len() <= PAGE_SIZE);
                    prop_assert!(place.bytes.end <= length && !place.bytes.is_empty());
                }
            }
        }
    }

    /// Any placement and size of kernel, RAM disk and memory gives the promised memory.
    #[test]
    fn any_size_is_laid_out(
        place in 0_u64..600,
        size in 0x6000_u64..0x40_0000,
        initrd in 0_u64..0x20_0000,
        extra in 0_u64..3000,
        inside: bool,
    ) {
        let mut fake = Fake::new().without(elfnote::HYPERCALL_PAGE);
        if inside {
            fake = fake.without(elfnote::INIT_P2M).without(elfnote::MOD_START_PFN);
        }
        (fake.address, fake.memory) = (place * PAGE_BYTES, size);
        fake.notes[3].1 = (BASE + fake.address).to_le_bytes().to_vec();
        let file = fake.elf();
        let disk = vec![1; initrd as usize];
        let needed = Plan::frames_needed(&Kernel::parse(&file).unwrap(), initrd).unwrap();
        let plan = planned(&file, memory(needed), initrd, "").unwrap();
        check(&plan, &build(&plan, &file, &disk));
        let plan = planned(&file, memory(needed + extra), initrd, "").unwrap();
        check(&plan, &build(&plan, &file, &disk));
    }

    /// However the files are cut, the memory is the same, and the headers and notes are found
    /// without the rest of the file.
    #[test]
    fn pieces_of_any_size_make_the_same_memory(step in 64_u64..6000, shift in 0_u64..4000) {
        let mut fake = Fake::new();
        (fake.address, fake.memory) = (fake.address + shift, fake.memory - shift);
        let file = fake.elf();
        let mut reader = Reader::new(file.len() as u64);
        let mut wanted = Vec::new();
        let kernel = loop {
            let range = reader.wants();
            let bytes = &file[range.start as usize..range.end as usize];
            wanted.push(range);
            match reader.take_in(bytes).unwrap() {
                Progress::More(next) => reader = next,
                Progress::Done(kernel) => break kernel,
            }
        };
        let notes = 64 + 2 * 56..(file.len() - fake.contents.len()) as u64;
        prop_assert_eq!(wanted, [0..HEAD_BYTES, notes]);
        let initrd: Vec<u8> = (0..9000_u32).map(|i| (i % 253) as u8).collect();
        let plan = Plan::new(kernel, memory(2048), initrd.len() as u64, "").unwrap();
        let files = [&file[..], &initrd];
        prop_assert!(build_by(&plan, files, step) == build_by(&plan, files, 1 << 20));
    }
}

#[test]
fn four_mebibytes_are_enough_for_a_small_kernel() {
    let file = Fake::new().elf();
    let plan = planned(&file, memory(1024), 100_000, "").unwrap();
    check(&plan, &build(&plan, &file, &[3; 100_000]));
    let inside = Fake::new().without(elfnote::INIT_P2M).without(elfnote::MOD_START_PFN).elf();
    let plan = planned(&inside, memory(1024), 100_000, "").unwrap();
    check(&plan, &build(&plan, &inside, &[3; 100_000]));
    assert_eq!(plan.layout().end, 1024);
}

#[test]
fn headers_and_notes_have_bounds() {
    let mut file = Fake::new().elf();
    file[32..40].copy_from_slice(&HEAD_BYTES.to_le_bytes());
    let first = &file[..HEAD_BYTES as usize];
    let head = |first: &[u8], bytes: u64| Reader::new(bytes).take_in(first).unwrap_err();
    assert_eq!(head(first, 1 << 20), KernelError::Head);
    assert_eq!(head(first, HEAD_BYTES + 9), KernelError::Elf);
    let mut file = Fake::new().elf();
    file[64 + 32..64 + 40].copy_from_slice(&(1_u64 << 19).to_le_bytes());
    assert_eq!(head(&file, 1 << 20), KernelError::Notes);
}

/// The kernel that partitions run: `ULTRAVISOR_KERNEL`, or the one that the build of the host
/// leaves.
fn real_kernel() -> Option<Vec<u8>> {
    if let Some(file) = std::env::var_os("ULTRAVISOR_KERNEL") {
        return Some(std::fs::read(&file).expect("ULTRAVISOR_KERNEL names a file"));
    }
    let cache = concat!(env!("CARGO_MANIFEST_DIR"), "/../../build/kernel");
    let package = std::fs::read_to_string(format!("{cache}/current")).ok()?;
    let boot = std::fs::read_dir(format!("{cache}/{package}/boot")).ok()?;
    boot.filter_map(Result::ok)
        .find(|file| file.file_name().to_string_lossy().starts_with("vmlinux-"))
        .and_then(|file| std::fs::read(file.path()).ok())
}

#[test]
fn the_real_kernel_is_laid_out() {
    let Some(file) = real_kernel() else {
        eprintln!("SKIPPED the_real_kernel_is_laid_out: no kernel; set ULTRAVISOR_KERNEL");
        return;
    };
    let initrd = vec![0x5a; 3_000_000];
    let plan = planned(&file, memory(65536), initrd.len() as u64, "console=hvc0").unwrap();
    let pages = build(&plan, &file, &initrd);
    check(&plan, &pages);
    let layout = plan.layout();
    assert_eq!(layout.kernel.start, 0x1000);
    assert_eq!(plan.start_info().mfn_list, P2M);
    assert!(plan.parts().count() < 6, "parts that follow each other are one");
}

/// Debian's GRUB for PV partitions (package `grub-xen-host`), or `ULTRAVISOR_PVGRUB`: it is mapped
/// and entered at virtual address 0, and everything it gets lies inside that mapping.
#[test]
fn pv_grub_is_laid_out() {
    let path = std::env::var_os("ULTRAVISOR_PVGRUB")
        .unwrap_or_else(|| "/usr/lib/grub-xen/grub-x86_64-xen.bin".into());
    let Ok(file) = std::fs::read(&path) else {
        eprintln!("SKIPPED pv_grub_is_laid_out: no {}", path.display());
        return;
    };
    let plan = planned(&file, memory(16384), 70_000, "").unwrap();
    check(&plan, &build(&plan, &file, &[9; 70_000]));
    let (info, state) = (plan.start_info(), plan.start_state());
    assert_eq!((state.entry, plan.layout().kernel.start), (0, 0));
    assert_eq!((info.flags, info.nr_p2m_frames), (0, 0));
    assert!(info.mod_start < info.mfn_list && info.mfn_list < state.start_info);
}
