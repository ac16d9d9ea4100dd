//! Disks: who has which sectors, and how a disk goes.

use control::command::{
    Answer, Code, DiskLimits, DiskState, DiskStatus, Extent, Medium, Operation, Query, Rate,
    Target, Transaction,
};
use pv_abi::uv::database::{COMMAND, FIRST_GUEST, IO_A, IO_SERVICE, state};
use pv_abi::uv::endpoints::{Endpoint, endpoint_flags, endpoint_state, medium};

use transaction::Limits;

use crate::devices::io_built;
use crate::fake::{FRAMES, Host, LIMITS, arena, arena_of, create, picture, transaction};
use crate::queries::ask;

pub const XVDA: u32 = 51_712;
const XVDB: u32 = 51_728;
/// The functions of the test machine that are storage controllers.
const DISK: u32 = 1;
const OTHER: u32 = 2;

pub fn attach(number: u32, device: u32, medium: Medium) -> Operation {
    Operation::AttachDisk {
        partition: Target::Number(number),
        device,
        medium,
        read_only: false,
        shared: false,
        limits: DiskLimits::default(),
    }
}

const fn detach(number: u32, device: u32) -> Operation {
    Operation::DetachDisk { partition: Target::Number(number), device }
}

const fn disk(function: u32) -> Medium {
    Medium::Disk { function }
}

const fn gpt(function: u32, number: u32) -> Medium {
    Medium::Partition { function, number }
}

fn extents(list: &[(u32, u64, u64)]) -> Medium {
    let extent = |&(function, start, sectors): &_| Extent { function, start, sectors };
    Medium::Extents(list.iter().map(extent).collect())
}

fn shared(mut operation: Operation) -> Operation {
    if let Operation::AttachDisk { shared, .. } = &mut operation {
        *shared = true;
    }
    operation
}

/// A host with two disks of an I/O partition, and two guests that are being built.
pub fn with_disks(host: &mut Host) {
    io_built(host, "io-a");
    let partition = Target::Number(IO_A);
    let assign = |function| Operation::AssignDevice { function, partition };
    host.ok(vec![assign(DISK), assign(OTHER)]);
    host.ok(vec![create("web")]);
    host.ok(vec![create("db")]);
}

const WEB: u32 = FIRST_GUEST;
const DB: u32 = FIRST_GUEST + 1;

fn endpoint(host: &Host, index: u32) -> Box<Endpoint> {
    host.engine.database().endpoint(index).unwrap()
}

fn last_words(host: &Host) -> String {
    host.engine.records().0.pop().unwrap().what
}

#[test]
fn a_disk_is_attached_and_detached() {
    let words = arena();
    let mut host = Host::new(&words);
    with_disks(&mut host);
    let rate = |per_second, burst| Rate { per_second, burst };
    let limits = DiskLimits { bytes: rate(1 << 20, 1 << 16), operations: rate(100, 10) };
    let partition = Target::Number(WEB);
    let (device, medium, read_only, shared) = (XVDA, gpt(DISK, 3), true, false);
    let operation = Operation::AttachDisk { partition, device, medium, read_only, shared, limits };
    host.ok(vec![operation]);
    let what = "attach xvda of \"web\" (16) to read: partition 3 of the disk of function 1 \
                (0000:00:02.0)";
    assert_eq!(last_words(&host), what);
    let entry = endpoint(&host, 0);
    assert_eq!((entry.state, entry.incarnation), (endpoint_state::ATTACHED, 0));
    assert_eq!((entry.client, entry.device, entry.service), (WEB, XVDA, IO_SERVICE));
    assert_eq!((entry.medium, entry.partition, entry.extents), (medium::PARTITION, 3, 1));
    assert_eq!((entry.extent[0].function, entry.flags), (DISK, endpoint_flags::READ_ONLY));
    assert_eq!((entry.bytes, entry.operations), ([1 << 20, 1 << 16], [100, 10]));
    assert!(entry.features != 0);

    // While it is served, it is detaching, and its sectors and its number are not free.
    host.monitor.served.insert(0);
    host.ok(vec![detach(WEB, XVDA)]);
    assert_eq!(endpoint(&host, 0).state, endpoint_state::DETACHING);
    let refusal = host.refused(vec![attach(WEB, XVDA, disk(OTHER))]);
    assert_eq!(refusal.code, Code::NumberTaken);
    assert!(refusal.reason.contains("detaching"), "{}", refusal.reason);
    let refusal = host.refused(vec![attach(DB, XVDA, disk(DISK))]);
    assert_eq!(refusal.code, Code::Busy);
    assert!(refusal.reason.contains("xvda of partition \"web\" (16), which is detaching"));
    assert!(refusal.way_out.contains("ask again"), "{}", refusal.way_out);
    // To detach it again changes nothing.
    host.ok(vec![detach(WEB, XVDA)]);
    assert!(host.engine.waits());
    let next = host.engine.next_try(1000).unwrap();
    assert!(next > 1000);
    host.engine.try_again(&mut host.monitor, next);
    assert_eq!(endpoint(&host, 0).state, endpoint_state::DETACHING);

    host.monitor.served.clear();
    host.engine.try_again(&mut host.monitor, next);
    assert!(!host.engine.waits());
    assert_eq!(last_words(&host), "xvda of partition \"web\" (16) is detached");
    let entry = endpoint(&host, 0);
    assert_eq!((entry.state, entry.incarnation, entry.client), (endpoint_state::FREE, 1, 0));
    host.ok(vec![attach(DB, XVDA, disk(DISK))]);
    assert_eq!((endpoint(&host, 0).client, endpoint(&host, 0).incarnation), (DB, 1));
}

#[test]
fn each_refusal_names_the_disk_and_a_way_out() {
    let words = arena();
    let mut host = Host::new(&words);
    with_disks(&mut host);
    host.ok(vec![attach(WEB, XVDA, disk(DISK))]);
    let release = Operation::ReleaseDevice { function: OTHER, partition: Target::Number(IO_A) };
    host.ok(vec![release]);
    let xvdb = "xvdb of partition \"db\" (17)";
    let many: Vec<_> = (0..65).map(|n| (DISK, n * 10, 1)).collect();
    let cases = [
        (attach(IO_A, XVDA, disk(DISK)), Code::InvalidValue, "xvda of", "a guest or"),
        (attach(99, XVDA, disk(DISK)), Code::NoSuchPartition, "partition 99", "no partition"),
        (attach(DB, 51_713, disk(DISK)), Code::InvalidValue, "disk 51713 of", "xvda to xvdz"),
        (attach(WEB, XVDA, disk(DISK)), Code::NumberTaken, "xvda of", "has such a disk"),
        (attach(DB, XVDB, disk(4)), Code::NoSuchDevice, "function 4", "0 to 3"),
        (attach(DB, XVDB, disk(0)), Code::DeviceRefused, "function 0 (", "a bridge"),
        (attach(DB, XVDB, disk(OTHER)), Code::NoDriver, "function 2 (", "no I/O partition has it"),
        (attach(DB, XVDB, gpt(DISK, 0)), Code::InvalidValue, xvdb, "1 to 128"),
        (attach(DB, XVDB, extents(&[])), Code::InvalidValue, xvdb, "0 were given"),
        (attach(DB, XVDB, extents(&many)), Code::InvalidValue, xvdb, "65 were given"),
        (attach(DB, XVDB, extents(&[(DISK, 7, 0)])), Code::InvalidValue, xvdb, "no sector"),
        (
            attach(DB, XVDB, extents(&[(DISK, 0, 9), (DISK, 8, 1)])),
            Code::InvalidValue,
            xvdb,
            "from 8 on",
        ),
        (attach(DB, XVDB, extents(&[(DISK, u64::MAX, 2)])), Code::InvalidValue, xvdb, "than any"),
        (attach(DB, XVDB, disk(DISK)), Code::DiskOverlaps, xvdb, "xvda of partition \"web\" (16)"),
        (detach(WEB, XVDB), Code::NoSuchDisk, "xvdb of partition \"web\"", "no such disk"),
    ];
    host.refuses(cases);
    // The command partition may have disks, too.
    host.ok(vec![detach(WEB, XVDA)]);
    host.ok(vec![attach(COMMAND, XVDA, gpt(DISK, 1))]);
}

#[test]
fn a_gpt_partition_is_refused_as_long_as_nobody_serves_it() {
    let words = arena();
    let mut host = Host::of(&words, FRAMES, Limits { gpt: false, ..LIMITS });
    with_disks(&mut host);
    let before = picture(&host.engine).0;
    let refusal = host.refused(vec![attach(WEB, XVDA, gpt(DISK, 1))]);
    assert_eq!((refusal.code, &*refusal.field), (Code::NoDriver, "partition"));
    assert_eq!(refusal.object, "xvda of partition \"web\" (16)");
    assert!(refusal.reason.contains("not served yet"), "{}", refusal.reason);
    assert!(refusal.way_out.contains("whole disk"), "{}", refusal.way_out);
    assert!(picture(&host.engine).0 == before);
    // Both ways out work.
    host.ok(vec![attach(WEB, XVDA, disk(DISK)), attach(WEB, XVDB, extents(&[(OTHER, 34, 8)]))]);
}

#[test]
fn two_disks_have_no_sector_in_common_unless_both_are_shared() {
    // What is there, what is asked, and whether it fits.
    let cases = [
        (disk(DISK), disk(OTHER), true),
        (disk(DISK), gpt(DISK, 1), false),
        (disk(DISK), extents(&[(DISK, 9, 1)]), false),
        (gpt(DISK, 1), gpt(DISK, 1), false),
        (gpt(DISK, 1), gpt(DISK, 2), true),
        (gpt(DISK, 1), gpt(OTHER, 1), true),
        (gpt(DISK, 1), extents(&[(DISK, 0, 1)]), false),
        (gpt(DISK, 1), extents(&[(OTHER, 0, 1)]), true),
        (extents(&[(DISK, 0, 10)]), extents(&[(DISK, 10, 10)]), true),
        (extents(&[(DISK, 0, 10)]), extents(&[(DISK, 9, 1)]), false),
        (extents(&[(DISK, 0, 10)]), extents(&[(OTHER, 0, 1), (DISK, 9, 1)]), false),
    ];
    for (there, asked, fits) in cases {
        for swapped in [false, true] {
            let words = arena();
            let mut host = Host::new(&words);
            with_disks(&mut host);
            let (first, second) = if swapped { (&asked, &there) } else { (&there, &asked) };
            let first = attach(WEB, XVDA, first.clone());
            let second = attach(DB, XVDA, second.clone());
            // In one transaction as in two.
            let both = host.run(&transaction(vec![first.clone(), second.clone()]));
            assert_eq!(both.is_ok(), fits, "{first:?} {second:?}");
            if fits {
                continue;
            }
            host.ok(vec![first]);
            assert_eq!(host.refused(vec![second.clone()]).code, Code::DiskOverlaps, "{second:?}");
            // Both have to agree.
            assert_eq!(host.refused(vec![shared(second.clone())]).code, Code::DiskOverlaps);
            host.ok(vec![detach(WEB, XVDA)]);
            host.ok(vec![shared(second), shared(attach(WEB, XVDB, there.clone()))]);
        }
    }
}

#[test]
fn what_a_disk_held_that_is_gone_is_free_at_once() {
    let words = arena();
    let mut host = Host::new(&words);
    with_disks(&mut host);
    let pieces = [attach(WEB, XVDA, extents(&[(DISK, 0, 8)])), attach(WEB, XVDB, disk(OTHER))];
    host.ok(pieces.into());
    host.monitor.served.extend([0, 1]);
    host.ok(vec![detach(WEB, XVDA)]);
    assert_eq!(host.refused(vec![attach(DB, XVDA, disk(DISK))]).code, Code::Busy);
    // Nobody has looked since the last server let go of it: the attach looks.
    host.monitor.served.remove(&0);
    host.ok(vec![attach(DB, XVDA, extents(&[(DISK, 4, 8)]))]);
    // The same holds for the disks of a partition that is destroyed.
    host.ok(vec![Operation::DestroyPartition { partition: Target::Number(WEB) }]);
    assert_eq!(host.refused(vec![attach(DB, XVDB, disk(OTHER))]).code, Code::Busy);
    host.monitor.served.clear();
    host.ok(vec![attach(DB, XVDB, disk(OTHER))]);
    // Where another disk stays, to ask again does not help.
    host.monitor.served.extend([0, 1]);
    host.ok(vec![attach(COMMAND, XVDA, extents(&[(DISK, 100, 8)])), detach(DB, XVDA)]);
    let refusal = host.refused(vec![attach(COMMAND, XVDB, disk(DISK))]);
    assert_eq!(refusal.code, Code::DiskOverlaps);
    assert!(!refusal.reason.contains("detaching"), "{}", refusal.reason);
}

#[test]
fn a_partition_keeps_its_memory_until_its_disks_are_served_no_more() {
    let words = arena();
    let mut host = Host::new(&words);
    with_disks(&mut host);
    host.ok(vec![attach(WEB, XVDA, disk(DISK)), attach(WEB, XVDB, disk(OTHER))]);
    let frames = host.descriptor(WEB).instance_frames;
    host.monitor.served.extend([0, 1]);
    host.ok(vec![Operation::DestroyPartition { partition: Target::Number(WEB) }]);
    let (descriptor, entry) = (host.descriptor(WEB), endpoint(&host, 1));
    assert_eq!((descriptor.state, descriptor.instance_frames), (state::DYING, frames));
    assert_eq!((entry.state, entry.client), (endpoint_state::DETACHING, WEB));
    host.monitor.served.remove(&0);
    let mut time = 10_000_000_000;
    host.engine.try_again(&mut host.monitor, time);
    assert_eq!(endpoint(&host, 0).state, endpoint_state::FREE);
    assert_eq!(host.descriptor(WEB).state, state::DYING);
    host.monitor.served.clear();
    time *= 2;
    host.engine.try_again(&mut host.monitor, time);
    assert!(host.engine.database().reader().descriptor(WEB).is_err());
    assert!(!host.engine.waits());
}

#[test]
fn an_undo_detaches_what_was_attached_and_nothing_else() {
    let words = arena();
    let mut host = Host::new(&words);
    with_disks(&mut host);
    let contents = |host: &Host| picture(&host.engine).0;
    let before = contents(&host);
    host.ok(vec![attach(WEB, XVDA, disk(DISK))]);
    let attached = host.last();
    host.undo(attached).unwrap();
    assert!(contents(&host) == before);
    let refusal = host.undo(attached).unwrap_err();
    assert_eq!(refusal.code, Code::MovedOn);
    // Another disk in the same entry is another disk.
    host.ok(vec![attach(WEB, XVDA, disk(DISK))]);
    assert_eq!(host.undo(attached).unwrap_err().code, Code::MovedOn);
    host.ok(vec![detach(WEB, XVDA)]);
    let records = host.engine.records().0;
    let detached = records.iter().rfind(|record| record.what.starts_with("detach ")).unwrap();
    assert_eq!(host.undo(detached.sequence).unwrap_err().code, Code::NotUndoable);
}

#[test]
fn a_disk_goes_with_a_partition_that_was_never_completed() {
    let words = arena();
    let mut host = Host::new(&words);
    with_disks(&mut host);
    let before = picture(&host.engine).0;
    let disk = Operation::AttachDisk {
        partition: Target::CreatedBy(0),
        device: XVDA,
        medium: disk(DISK),
        read_only: false,
        shared: false,
        limits: DiskLimits::default(),
    };
    let pending = Transaction { pending: true, ..transaction(vec![create("half"), disk]) };
    host.run_as(COMMAND, &pending).unwrap();
    assert_eq!(endpoint(&host, 0).state, endpoint_state::ATTACHED);
    host.open();
    assert_eq!(endpoint(&host, 0).state, endpoint_state::FREE);
    assert!(picture(&host.engine).0 == before);
    // A disk of a partition that stays is not left pending.
    let pending = Transaction { pending: true, ..transaction(vec![attach(WEB, XVDA, gpt(1, 1))]) };
    assert_eq!(host.run_as(COMMAND, &pending).unwrap_err().code, Code::NotUndoable);
}

#[test]
fn the_table_fills_and_no_more() {
    let words = arena();
    let mut host = Host::new(&words);
    with_disks(&mut host);
    let all = host.engine.database().endpoints();
    let letter = |n: u32| XVDA + 16 * (n % 16);
    for n in 0..all {
        host.ok(vec![attach(WEB + n / 16, letter(n), gpt(DISK, n + 1))]);
    }
    let refusal = host.refused(vec![attach(COMMAND, XVDA, disk(OTHER))]);
    assert_eq!(refusal.code, Code::NoEndpoint);
    assert!(refusal.reason.contains(&all.to_string()), "{}", refusal.reason);
}

#[test]
fn disks_are_shown_as_they_were_asked_for_with_what_they_do() {
    let words = arena_of(96);
    let mut host = Host::of(&words, FRAMES, LIMITS);
    with_disks(&mut host);
    let pieces = extents(&[(OTHER, 8, 8), (OTHER, 0, 4)]);
    host.ok(vec![attach(WEB, XVDA, gpt(DISK, 3)), attach(DB, XVDB, pieces.clone())]);
    let all = |host: &Host, first| {
        let Answer::Disks { rows, more } = ask(host, &Query::Disks { first }) else { panic!() };
        (rows, more)
    };
    let (rows, more) = all(&host, 0);
    assert_eq!((rows.len(), more), (2, false));
    assert_eq!((rows[0].index, rows[0].partition, rows[0].device), (0, WEB, XVDA));
    assert_eq!((&rows[0].medium, &rows[1].medium), (&gpt(DISK, 3), &pieces));
    let unknown = |state| DiskStatus { state, server: None, sectors: None, cause: None };
    assert_eq!(rows[0].status, unknown(DiskState::Unserved));

    host.monitor.served.insert(0);
    host.ok(vec![detach(WEB, XVDA)]);
    assert_eq!(all(&host, 0).0[0].status, unknown(DiskState::Detaching));
    assert_eq!(all(&host, 1).0.len(), 1);

    // Disks of the most extents are shown, in as many answers as it takes.
    for start in 0..14 {
        let piece = |n: u64| (OTHER, u64::MAX / 2 + (n * 24 + start) * 2, 1);
        let list: Vec<_> = (0..64).map(piece).collect();
        let device = 51_712 + 16 * (start as u32 / 2 + 2);
        let of = if start % 2 == 0 { WEB } else { DB };
        host.ok(vec![attach(of, device, extents(&list))]);
    }
    let (mut shown, mut first) = (0, 0);
    loop {
        let (rows, more) = all(&host, first);
        let bytes = postcard::to_allocvec(&rows).unwrap().len() + 300 * rows.len();
        assert!(bytes <= pv_abi::uv::channel::MAX_PAYLOAD, "{bytes} bytes");
        shown += rows.len();
        if !more {
            break;
        }
        first = rows.last().unwrap().index + 1;
    }
    assert_eq!(shown, 16);
}
