//! Makes a kernel's own symbol table in both of its layouts.

use proptest::prelude::*;

use crate::kallsyms::find;

const BASE: u64 = 0xffff_ffff_8100_0000;

/// The order of the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Up to 6.3: addresses first, with per-CPU data among them, and with or without the order of
    /// names.
    Old { order: bool },
    /// After 6.3.
    New,
}

/// Token 1 stands for "xen_", the others for themselves.
fn tokens() -> Vec<Vec<u8>> {
    let mut tokens: Vec<Vec<u8>> = (0..=255_u8)
        .map(|byte| if byte.is_ascii_graphic() { vec![byte] } else { Vec::new() })
        .collect();
    tokens[1] = b"xen_".to_vec();
    tokens
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn part(parts: &mut Vec<u8>, bytes: impl IntoIterator<Item = u8>) {
    parts.extend(bytes);
    pad(parts);
}

/// The table of these symbols, each with type and name, and address.
fn table(symbols: &[(String, u64)], layout: Layout) -> Vec<u8> {
    let (mut names, mut markers, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (name, address)) in symbols.iter().enumerate() {
        if index % 256 == 0 {
            markers.extend((names.len() as u32).to_le_bytes());
        }
        let short = name.replace("xen_", "\u{1}");
        if short.len() < 128 {
            names.push(short.len() as u8);
        } else {
            names.extend([short.len() as u8 | 0x80, (short.len() >> 7) as u8]);
        }
        names.extend(short.bytes());
        let offset = match (layout, address.checked_sub(BASE)) {
            (Layout::New, offset) => offset.unwrap_or(0) as i32,
            (_, Some(offset)) => -1 - offset as i32,
            (_, None) => *address as i32,
        };
        offsets.extend(offset.to_le_bytes());
    }
    let count = symbols.len() as u64;
    let mut index = Vec::new();
    let mut texts = Vec::new();
    for token in tokens() {
        index.extend((texts.len() as u16).to_le_bytes());
        texts.extend(token);
        texts.push(0);
    }
    let mut parts = vec![0xaa; 64];
    if layout != Layout::New {
        part(&mut parts, offsets.clone());
        part(&mut parts, BASE.to_le_bytes());
    }
    part(&mut parts, count.to_le_bytes());
    part(&mut parts, names);
    part(&mut parts, markers);
    if layout == (Layout::Old { order: true }) {
        part(&mut parts, vec![7; symbols.len() * 3]);
    }
    part(&mut parts, texts);
    part(&mut parts, index);
    if layout == Layout::New {
        part(&mut parts, offsets);
        part(&mut parts, BASE.to_le_bytes());
    }
    parts.extend([0x55; 100]);
    parts
}

/// Enough symbols for several markers: functions, data and per-CPU data.
fn symbols() -> Vec<(String, u64)> {
    let long = "y".repeat(140);
    (0..700)
        .map(|n| match n % 3 {
            0 => (format!("Txen_start_{n}"), BASE + n * 16),
            1 => (format!("d{n}"), n),
            _ => (format!("t{long}{n}"), BASE + n * 16),
        })
        .collect()
}

fn functions() -> Vec<(u64, String)> {
    let code = symbols().into_iter().filter(|(name, _)| !name.starts_with('d'));
    code.map(|(name, address)| (address, name[1..].to_owned())).collect()
}

#[test]
fn both_layouts_are_read() {
    for layout in [Layout::Old { order: false }, Layout::Old { order: true }, Layout::New] {
        let found = find(&table(&symbols(), layout)).unwrap_or_default();
        assert_eq!(found.len(), functions().len(), "{layout:?}");
        for (found, expected) in found.into_iter().zip(functions()) {
            assert_eq!(found, expected, "{layout:?}");
        }
    }
}

#[test]
fn an_image_without_a_table_has_none() {
    assert_eq!(find(&[]), None);
    assert_eq!(find(&[0; 100_000]), None);
    assert_eq!(find(&b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0".repeat(1000)), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn damaged_tables_do_not_panic(
        order: bool,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut image = table(&symbols(), Layout::Old { order });
        for (at, byte) in damage {
            let at = at.index(image.len());
            image[at] = byte;
        }
        let _ = find(&image);
        let _ = find(&image[..cut.index(image.len())]);
        let _ = find(&image[cut.index(image.len())..]);
    }
}
