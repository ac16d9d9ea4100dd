//! Tests the limits of a confined process.

use std::fs::File;
use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::libc::EPERM;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;

use crate::Problem;
use crate::confined::{self, Elf, problem};

const CHILD: &str = "KERNEL_TEST_CONFINED";

/// The test runs in a process of its own, because confinement cannot be undone.
#[test]
fn a_confined_process_opens_connects_and_starts_nothing() {
    if std::env::var_os(CHILD).is_none() {
        let mut child = Command::new("/proc/self/exe");
        let name = "tests::confined::a_confined_process_opens_connects_and_starts_nothing";
        let output = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("all refused"), "{output:?}");
        return;
    }
    confined::child::confine(64 << 20, 1 << 20).unwrap();
    for (what, error) in [
        ("open", File::open("/proc/self/maps").err()),
        ("create", File::create("/tmp/confined").err()),
        ("directory", std::fs::read_dir("/").err()),
        ("metadata", std::fs::metadata("/").err()),
        ("connect", TcpStream::connect("127.0.0.1:9").err()),
        ("socket", UdpSocket::bind("127.0.0.1:0").err()),
        ("start", Command::new("/bin/true").status().err()),
    ] {
        let number = error.as_ref().and_then(std::io::Error::raw_os_error);
        assert_eq!(number, Some(EPERM), "{what}: {error:?}");
    }
    let mut large = Vec::<u8>::new();
    assert!(large.try_reserve_exact(65 << 20).is_err(), "more memory than there is room for");
    eprintln!("all refused");
}

#[test]
fn each_end_of_a_child_is_a_problem() {
    let told = |raw: i32, words: &str| problem(ExitStatus::from_raw(raw), words.into(), 7 << 20);
    let memory = |problem| matches!(problem, Problem::Memory { room: 7_340_032 });
    assert!(memory(told(4 << 8, "")));
    assert!(memory(told(Signal::SIGABRT as i32, "memory allocation of 9 bytes failed\n")));
    assert!(memory(told(Signal::SIGKILL as i32, "")));
    assert!(matches!(told(Signal::SIGXCPU as i32, ""), Problem::Time { .. }));
    assert_eq!(told(3 << 8, "why\nx\ny").to_string(), "why; x");
    assert_eq!(told(3 << 8, "why; not\n\n").way_out(), None);
    let crashed = told(Signal::SIGSEGV as i32, "a\x1b[2Jb").to_string();
    assert!(crashed.contains("SIGSEGV") && crashed.contains("a [2Jb"), "{crashed}");
}

#[test]
fn only_a_sealed_image_is_read_in_place() {
    let image: Vec<u8> = (0..9_000_u32).map(|at| (at % 251) as u8).collect();
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create("image", flags).unwrap());
    file.write_all(&image).unwrap();
    let open = Elf::new(file.try_clone().unwrap(), 1).unwrap();
    assert_eq!(open.part(0, 1), None, "it can still change");
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all())).unwrap();
    let elf = Elf::new(file, 1).unwrap();
    for (offset, count) in [(0, 9_000), (1, 17), (4_095, 2), (8_999, 1), (9_000, 0)] {
        let mut read = vec![0; count];
        elf.read_at(&mut read, offset as u64).unwrap();
        assert_eq!(elf.part(offset as u64, count), Some(read.as_slice()), "{count} from {offset}");
    }
    for (offset, count) in [(8_999, 2), (9_001, 0), (u64::MAX, 1), (1, usize::MAX)] {
        assert_eq!(elf.part(offset, count), None, "{count} from {offset}");
    }
}
