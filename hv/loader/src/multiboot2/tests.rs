//! Tests of the multiboot2 parser: a plausible structure, and any prefix or damage of it.

use proptest::prelude::*;

use super::*;

fn tag(kind: u32, payload: &[u8]) -> std::vec::Vec<u8> {
    let mut bytes = std::vec::Vec::new();
    bytes.extend(kind.to_le_bytes());
    bytes.extend((payload.len() as u32 + 8).to_le_bytes());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn sample() -> std::vec::Vec<u8> {
    let mut module = [0x40_0000u32.to_le_bytes(), 0x40_1234u32.to_le_bytes()].concat();
    module.extend(b"command-kernel console=hvc0\0");
    let mut memory = [24u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
    for (start, bytes, kind) in [(0u64, 0x9fc00u64, 1u32), (0x10_0000, 0x3ff0_0000, 1)] {
        memory.extend([start.to_le_bytes(), bytes.to_le_bytes()].concat());
        memory.extend([kind.to_le_bytes(), 0u32.to_le_bytes()].concat());
    }
    let mut bytes = std::vec![0; 8];
    bytes.extend(tag(1, b"loglevel=debug\0"));
    bytes.extend(tag(3, &module));
    bytes.extend(tag(6, &memory));
    bytes.extend(tag(14, b"RSD PTR old"));
    bytes.extend(tag(15, b"RSD PTR new"));
    bytes.extend(tag(14, b"RSD PTR old"));
    bytes.extend(tag(0, b""));
    bytes
}

#[test]
fn reads_what_grub_wrote() {
    let information = parse(sample().leak()).unwrap();
    assert_eq!(information.command_line, "loglevel=debug");
    let module = information.modules[0];
    assert_eq!((module.start, module.bytes), (0x40_0000, 0x1234));
    assert_eq!(module.name(), "command-kernel");
    assert_eq!(information.memory[1].bytes, 0x3ff0_0000);
    assert_eq!(information.rsdp, Some(&b"RSD PTR new"[..]));
}

#[test]
fn every_prefix_is_refused() {
    let whole = sample();
    for end in 0..whole.len() {
        assert!(parse(whole[..end].to_vec().leak()).is_err(), "{end}");
    }
}

#[test]
fn too_many_modules_have_a_name() {
    let mut bytes = std::vec![0; 8];
    for _ in 0..=MAX_MODULES {
        bytes.extend(tag(3, &[0; 9]));
    }
    assert_eq!(parse(bytes.leak()).err(), Some(Fault::TooManyModules));
}

proptest! {
    #[test]
    fn damage_never_panics(at in 0usize..200, value: u32) {
        let mut bytes = sample();
        let at = at.min(bytes.len() - 4);
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let _ = parse(bytes.leak());
    }
}
