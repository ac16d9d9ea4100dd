//! PV notes, and whether a kernel can be started.

use proptest::prelude::*;

use super::image::{BASE, Elf};
use super::unpack;
use crate::{NoteStyle, Notes, check};

#[test]
fn elf_notes_are_read() {
    let mut elf = Elf::startable(&[0x90; 64]);
    elf.notes.extend([
        (6, b"linux\0".to_vec()),
        (7, b"2.6\0".to_vec()),
        (8, b"generic\0".to_vec()),
        (10, b"!writable_page_tables|pae_pgdir_above_4gb\0".to_vec()),
        (2, (BASE + 0x1000).to_le_bytes().to_vec()),
        (4, vec![0]),
        (12, 0xffff_8000_0000_0000_u64.to_le_bytes().to_vec()),
        (15, 0x80_0000_0000_u64.to_le_bytes().to_vec()),
        (16, vec![1, 0, 0, 0]),
        (17, 0x8801_u32.to_le_bytes().to_vec()),
        (18, 0x100_0000_u32.to_le_bytes().to_vec()),
        (11, b"yes\0".to_vec()),
        (99, b"what is not known".to_vec()),
    ]);
    let expected = Notes {
        style: NoteStyle::ElfNotes,
        guest_os: Some("linux".to_owned()),
        guest_version: Some("2.6".to_owned()),
        loader: Some("generic".to_owned()),
        xen_version: Some("xen-3.0".to_owned()),
        features: Some("!writable_page_tables|pae_pgdir_above_4gb".to_owned()),
        supported_features: Some(0x8801),
        entry: Some(BASE),
        virt_base: Some(0xffff_ffff_8000_0000),
        paddr_offset: Some(0),
        hypercall_page: Some(BASE + 0x1000),
        init_p2m: Some(0x80_0000_0000),
        mod_start_pfn: Some(true),
        hv_start_low: Some(0xffff_8000_0000_0000),
        phys32_entry: Some(0x100_0000),
        bsd_symtab: Some("yes".to_owned()),
    };
    assert_eq!(Notes::read(&elf.build()), expected);
}

#[test]
fn the_old_text_section_is_read() {
    let elf = Elf {
        code: vec![0x90; 64],
        guest_section: Some(
            "GUEST_OS=minios,XEN_VER=xen-3.0,VIRT_BASE=0x0,ELF_PADDR_OFFSET=0x0,\
             HYPERCALL_PAGE=0x2,LOADER=generic",
        ),
        ..Elf::default()
    };
    let loaded = unpack(&elf.build()).expect("an ELF image");
    assert_eq!(loaded.notes.style, NoteStyle::GuestSection);
    assert_eq!(loaded.notes.guest_os.as_deref(), Some("minios"));
    assert_eq!(loaded.notes.hypercall_page, Some(0x2000));
    assert_eq!((loaded.notes.virt_base, loaded.notes.entry), (Some(0), None));
    let refused = loaded.check_startable().expect_err("the entry is outside");
    assert!(refused.to_string().contains("ENTRY"), "{refused}");
    let later = "GUEST_OS=minios,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,\
                 ELF_PADDR_OFFSET=0x0,HYPERCALL_PAGE=0x1000,LOADER=generic";
    let loaded = unpack(&Elf { guest_section: Some(later), ..elf }.build()).expect("an ELF image");
    assert_eq!(loaded.notes.hypercall_page, Some(BASE));
    loaded.check_startable().expect("entered where the ELF header says");
    assert!(check(&loaded).pv.startable);
}

#[test]
fn a_kernel_with_notes_can_be_started() {
    let loaded = unpack(&Elf::startable(&[0x90; 64]).build()).expect("an ELF image");
    loaded.check_startable().expect("startable");
    let report = check(&loaded);
    assert!(report.pv.startable && report.pv.reasons.is_empty());
    assert_eq!(
        report.pv.remarks,
        [
            "no HYPERCALL_PAGE: the kernel makes hypercalls without this page",
            "no INIT_P2M: the table of machine frames lies in the initial mapping",
            "no MOD_START_PFN: the initial RAM disk is mapped at the start",
        ]
    );
}

#[test]
fn a_kernel_without_notes_is_told() {
    let elf = Elf { code: vec![0x90; 64], ..Elf::default() };
    let loaded = unpack(&elf.build()).expect("an ELF image");
    assert_eq!(
        loaded.check_startable().expect_err("no notes").to_string(),
        "kernel /k: has no Xen PV notes; give a kernel with CONFIG_XEN_PV"
    );
    let text = check(&loaded).to_string();
    let line = "PV start: no: has no Xen PV notes; give a kernel with CONFIG_XEN_PV\n";
    assert!(text.contains(line), "{text}");
}

proptest! {
    /// A damaged image never makes the reader panic, and never yields more code than the image has
    /// bytes.
    #[test]
    fn damaged_images_do_not_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        high in prop::collection::vec((any::<prop::sample::Index>(), Just(0xff)), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut elf = Elf::startable(b"\xfa\xfb\xf4\x0f\x22\xd8\xc3");
        elf.symbols = vec![("start", 0), ("idle", 2)];
        let mut image = elf.build();
        // Most of the file is padding, so aim at the rest.
        let aim = |at: prop::sample::Index| {
            let at = at.index(0x1000);
            if at < 0x100 { at } else { at + 0xe00 }
        };
        for (at, byte) in damage.into_iter().chain(high) {
            if let Some(there) = image.get_mut(aim(at)) {
                *there = byte;
            }
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        if let Ok(loaded) = unpack(&image) {
            let report = check(&loaded);
            prop_assert!(report.code_bytes <= image.len() as u64);
            prop_assert!(!report.to_string().is_empty());
            prop_assert!(serde_json::to_string(&report).is_ok());
        }
    }
}
