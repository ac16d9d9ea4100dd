//! Every compression, in files that the usual tools made of [`contents`] (`fixtures/make.sh`).

use std::io::Read;
use std::path::Path;

use proptest::prelude::*;

use super::image::{PAYLOAD_AT, bzimage};
use super::{told, unpack};
use crate::unpack::{Limits, collect};
use crate::{Compression, Container, unpack_within};

macro_rules! fixtures {
    ($($name:literal: $compression:ident),* $(,)?) => {
        &[$(($name, Compression::$compression, include_bytes!(concat!("../../fixtures/", $name)))),*]
    };
}

/// The files that were made.
const FIXTURES: &[(&str, Compression, &[u8])] = fixtures! {
    "contents.gz": Gzip,
    "contents.bz2": Bzip2,
    "contents.lzma": Lzma,
    "contents.xz": Xz,
    "contents.x86.xz": Xz,
    "contents.lzo": Lzo,
    "contents.fast.lzo": Lzo,
    "contents.legacy.lz4": Lz4,
    "contents.lz4": Lz4,
    "contents.zst": Zstd,
};

/// Contents that begin as an ELF image and go on as code with many calls, so that the filter for
/// x86 code changes them; some stretches repeat and some do not.
fn contents() -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0".to_vec();
    let mut random = 1_u32;
    while bytes.len() < 60_000 {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let target = (random >> 28) * 4096;
        bytes.push(0xe8);
        bytes.extend(target.wrapping_sub(bytes.len() as u32 + 4).to_le_bytes());
        match random >> 24 & 15 {
            0 => bytes.extend(random.to_le_bytes()),
            1 => bytes.resize(bytes.len() + (random >> 18) as usize % 700, 0x90),
            _ => bytes.extend(b"\x48\x89\xc7\x85\xc0"),
        }
    }
    bytes
}

#[test]
fn each_is_unpacked_as_a_whole_file() {
    let contents = contents();
    for (name, compression, bytes) in FIXTURES {
        let loaded = unpack(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(loaded.elf == contents, "{name}");
        assert_eq!((loaded.container, loaded.compression), (Container::Elf, *compression));
    }
}

#[test]
fn each_is_unpacked_in_a_bzimage() {
    let contents = contents();
    for (name, compression, bytes) in FIXTURES {
        let loaded = unpack(&bzimage(bytes, contents.len()))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(loaded.elf == contents, "{name}");
        assert_eq!((loaded.container, loaded.compression), (Container::BzImage, *compression));
    }
    let plain = unpack(&bzimage(&contents, 0)).expect("an ELF image in a bzImage");
    assert!(plain.elf.starts_with(&contents));
    assert_eq!(plain.compression, Compression::None);
}

/// Formats made of blocks: Linux writes many blocks, and the contents here fill only one.
#[test]
fn blocks_follow_one_another() {
    let twice = contents().repeat(2);
    let (_, _, lz4) = FIXTURES[7];
    let blocks = [&lz4[..4], &lz4[4..], &lz4[4..]].concat();
    assert!(unpack(&blocks).expect("two blocks").elf == twice);
    let frames = [lz4, lz4].concat();
    assert!(unpack(&frames).expect("two frames").elf == twice);
    let (_, _, lzo) = FIXTURES[5];
    let header = lzo.windows(4).position(|word| word == (twice.len() as u32 / 2).to_be_bytes());
    let (header, blocks) = lzo.split_at(header.expect("the size of a block"));
    let block = &blocks[..blocks.len() - 4];
    let blocks = [header, block, block, &[0; 4]].concat();
    assert!(unpack(&blocks).expect("two blocks").elf == twice);
}

#[test]
fn a_compressed_bzimage_is_opened_twice() {
    let inner = bzimage(FIXTURES[3].2, contents().len());
    let outer = gzip(&inner);
    let loaded = unpack(&outer).expect("both layers");
    assert_eq!((loaded.container, loaded.compression), (Container::BzImage, Compression::Xz));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory")
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let most = 32 << 10;
    for (name, _, bytes) in FIXTURES {
        let whole =
            unpack_within(bytes.to_vec(), Path::new("/k"), most).map(|_| ()).expect_err(name);
        let inside = bzimage(bytes, contents().len());
        let inside = unpack_within(inside, Path::new("/k"), most).map(|_| ()).expect_err(name);
        for (error, at) in [(whole, 0), (inside, PAYLOAD_AT)] {
            let text = error.to_string();
            let bomb = format!(" at byte {at}, and unpacks to more than the 0 MiB that are free ");
            assert!(text.starts_with("kernel /k: ") && text.contains(&bomb), "{name}: {text}");
        }
    }
}

/// An endless stream of zeros, of which only a bounded number may be read.
struct Endless {
    left: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.left = self.left.checked_sub(buffer.len()).expect("not much more than the limit");
        buffer.fill(0);
        Ok(buffer.len())
    }
}

#[test]
fn a_bomb_is_not_unpacked_past_the_limit() {
    let limits = Limits { most: 100_000, expected: u64::MAX };
    let bytes = collect(Endless { left: 100_001 }, limits).expect("zeros");
    assert_eq!(bytes.len(), 100_001);
    assert!(bytes.capacity() < 1 << 20, "what is said is not believed: {}", bytes.capacity());
}

#[test]
fn a_bomb_of_zeros_is_named() {
    let bomb = gzip(&vec![0; 64 << 20]);
    let error = unpack_within(bomb, Path::new("/k"), 1 << 20).map(|_| ()).expect_err("a bomb");
    assert!(matches!(error.problem, crate::Problem::Bomb { .. }), "{error}");
}

#[test]
fn a_dictionary_that_is_too_large_is_refused() {
    let text = told(include_bytes!("../../fixtures/dictionary.xz"));
    assert!(text.contains("XZ-compressed, and damaged near byte "), "{text}");
    assert!(text.contains("memory"), "{text}");
}

#[test]
fn a_stream_that_is_cut_short_is_told_with_its_place() {
    let contents = contents();
    for (name, compression, bytes) in FIXTURES {
        for kept in [bytes.len() / 2, bytes.len() - 9, 20] {
            let text = told(&bzimage(&bytes[..kept], contents.len()));
            let damaged = format!("kernel /k: {compression}, and damaged near byte ");
            let short =
                text.starts_with("kernel /k: unpacks to ") && text.contains("and says it has");
            assert!(text.starts_with(&damaged) || short, "{name} cut to {kept}: {text}");
            assert!(text.ends_with("; copy it again"), "{name} cut to {kept}: {text}");
        }
    }
    let text = told(&FIXTURES[0].2[..1000]);
    assert_eq!(
        text,
        "kernel /k: gzip-compressed, and damaged near byte 1000: it ends too early; copy it again"
    );
}

#[test]
fn other_files_are_refused_with_a_sentence() {
    for (bytes, sentence) in [
        (b"".to_vec(), "empty; give a kernel image"),
        (b"#!/bin/sh\n".to_vec(), "neither an ELF image nor a bzImage; give a kernel image"),
        (gzip(b"hello"), "gzip-compressed at byte 0, and holds no ELF image; give a kernel image"),
        (gzip(b""), "gzip-compressed at byte 0, and holds no ELF image; give a kernel image"),
        (
            bzimage(&gzip(b"hello"), 5),
            "gzip-compressed at byte 1792, and holds no ELF image; give a kernel image",
        ),
        (bzimage(FIXTURES[3].2, 7), "unpacks to 60136 bytes and says it has 7; copy it again"),
        (bzimage(b"what", 7), "damaged bzImage: a payload of no known compression; copy it again"),
        (
            bzimage(FIXTURES[3].2, 7)[..4000].to_vec(),
            "truncated bzImage: 8628 bytes needed, 4000 there; copy it again",
        ),
    ] {
        assert_eq!(told(&bytes), format!("kernel /k: {sentence}"));
    }
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let told = |path: &str| crate::load(Path::new(path)).expect_err("no kernel").to_string();
    assert_eq!(
        told("/nowhere/vmlinuz"),
        "kernel /nowhere/vmlinuz: cannot be read: No such file or directory (os error 2); \
         give a kernel file"
    );
    assert_eq!(told("/"), "kernel /: not a regular file; give a kernel file");
    assert_eq!(told("/dev/zero"), "kernel /dev/zero: not a regular file; give a kernel file");
}

/// A wrong byte in a stream with checksums is detected, or changes nothing.
#[test]
fn damage_is_not_taken_for_contents() {
    let contents = contents();
    let mut noticed = 0;
    for (name, compression, bytes) in FIXTURES {
        // Raw LZMA and legacy LZ4 have no checksums.
        if *compression == Compression::Lzma || *name == "contents.legacy.lz4" {
            continue;
        }
        for part in 1..40 {
            let mut bytes = bytes.to_vec();
            let at = bytes.len() * part / 40;
            bytes[at] ^= 0x10;
            match unpack(&bytes) {
                Ok(loaded) => assert!(loaded.elf == contents, "{name} with byte {at} wrong"),
                Err(_) => noticed += 1,
            }
        }
    }
    assert!(noticed > 300, "{noticed} of {}", 8 * 39);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A few wrong bytes lead to an error or, if no checksum covers them, to other contents; never
    /// to a panic.
    #[test]
    fn damaged_streams_do_not_panic(
        which in 0..FIXTURES.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        inside: bool,
    ) {
        let mut bytes = FIXTURES[which].2.to_vec();
        for (at, byte) in damage {
            // The sizes stand at the start.
            let at = at.index(bytes.len() * 2) % bytes.len().min(if byte & 1 == 0 { 64 } else { usize::MAX });
            bytes[at] = byte;
        }
        let bytes = if inside { bzimage(&bytes, 60136) } else { bytes };
        let _ = unpack_within(bytes, Path::new("/k"), 1 << 20);
    }

    #[test]
    fn no_bytes_panic(which in 0..FIXTURES.len(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut file = FIXTURES[which].2[..10].to_vec();
        file.extend(bytes);
        let _ = unpack_within(file, Path::new("/k"), 1 << 20);
    }
}
