//! Untrusted kernel files: `uvtool kernel check`, and its child, which has less memory than the
//! machine.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kernel_image::confined::Unpacker;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::stat::Mode;

const UVTOOL: &str = env!("CARGO_BIN_EXE_uvtool");
/// Memory for a child, and the size that a bomb unpacks to.
const ROOM: u64 = 24 << 20;
const BOMB: usize = 48 << 20;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cmd-linux/kernel/fixtures").join(name)
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

/// A file that only this test uses.
fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn check(path: &Path) -> Output {
    Command::new(UVTOOL).args(["kernel", "check"]).arg(path).output().unwrap()
}

/// A compressed file whose blocks are repeated until the file is a decompression bomb.
fn repeated(name: &str, header: usize, trailer: usize) -> Vec<u8> {
    let one = bytes(name);
    let block = &one[header..one.len() - trailer];
    let mut bomb = one[..header].to_vec();
    for _ in 0..=BOMB / 60_000 {
        bomb.extend_from_slice(block);
    }
    bomb.extend_from_slice(&one[one.len() - trailer..]);
    bomb
}

fn gzip() -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let mut whole = vec![0; BOMB];
    whole[..4].copy_from_slice(b"\x7fELF");
    encoder.write_all(&whole).and_then(|()| encoder.finish()).unwrap()
}

/// For each of the seven compressions, a file that unpacks to more than the limit.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let lzo = bytes("contents.lzo");
    let size = 60_136_u32.to_be_bytes();
    let header = lzo.windows(4).position(|word| word == size).expect("the size of a block");
    vec![
        ("gz", gzip()),
        ("bz2", bytes("bomb.bz2")),
        ("lzma", bytes("bomb.lzma")),
        ("xz", bytes("bomb.xz")),
        ("lzo", repeated("contents.lzo", header, 4)),
        ("lz4", repeated("contents.legacy.lz4", 4, 0)),
        ("zst", bytes("bomb.zst")),
    ]
}

#[test]
fn no_bomb_takes_more_memory_than_there_is_room_for() {
    for (name, bomb) in bombs() {
        let path = file(&format!("bomb.{name}"), &bomb);
        let unpacker = Unpacker::new(UVTOOL, ROOM);
        let elf = unpacker.elf(&path, 0).map(drop).expect_err(name).to_string();
        let report = unpacker.report(&path).map(drop).expect_err(name).to_string();
        for text in [elf, report] {
            assert!(text.starts_with(&format!("kernel {}: ", path.display())), "{text}");
            assert!(text.contains("24 MiB") && text.contains(" free "), "{name}: {text}");
            assert!(text.contains("; give a smaller kernel, or this machine more"), "{text}");
        }
    }
    // The size in KiB of the largest child: its program, and its memory limit.
    let largest = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss();
    assert!(largest < (ROOM as i64 + (48 << 20)) >> 10, "{largest} KiB");
}

/// A child process reports the same about a file as this process does.
#[test]
fn a_child_tells_the_same_as_its_parent() {
    let mut files: Vec<PathBuf> = Vec::new();
    for name in ["gz", "bz2", "lzma", "xz", "x86.xz", "lzo", "legacy.lz4", "lz4", "zst"] {
        let whole = bytes(&format!("contents.{name}"));
        files.push(fixture(&format!("contents.{name}")));
        files.push(file(&format!("short.{name}"), &whole[..whole.len() / 2]));
        let mut wrong = whole.clone();
        wrong[whole.len() / 2] ^= 0x55;
        files.push(file(&format!("wrong.{name}"), &wrong));
    }
    files.push(file("empty", b""));
    files.push(file("script", b"#!/bin/sh\n"));
    let unpacker = Unpacker::new(UVTOOL, 1 << 30);
    for path in files {
        let here = kernel_image::load(&path).map(|loaded| kernel_image::check(&loaded));
        let there = unpacker.report(&path);
        let text = |error: kernel_image::Error| error.to_string();
        assert_eq!(there.map_err(text), here.map_err(text), "{}", path.display());
    }
}

#[test]
fn what_has_no_end_is_not_read() {
    let pipe = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pipe");
    let _ = std::fs::remove_file(&pipe);
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let sparse = file("sparse", b"\x1f\x8b\x08\0");
    std::fs::File::options().write(true).open(&sparse).unwrap().set_len(513 << 20).unwrap();
    for (path, sentence) in [
        (Path::new("/dev/zero"), "not a regular file; give a kernel file"),
        (&*pipe, "not a regular file; give a kernel file"),
        (&*sparse, "more than 512 MiB; give a smaller kernel"),
        (Path::new("/"), "not a regular file; give a kernel file"),
    ] {
        let output = check(path);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, format!("uvtool: kernel {}: {sentence}\n", path.display()));
    }
}

#[test]
fn a_child_that_says_nothing_is_told() {
    for (program, words) in [("/bin/false", "ended: exit status: 1"), ("/no", "cannot be started")]
    {
        let error = Unpacker::new(program, ROOM).elf(&fixture("contents.gz"), 0).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}
