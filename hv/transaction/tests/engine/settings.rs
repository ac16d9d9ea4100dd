//! Changes to existing partitions.

use control::command::{Code, Operation, Outcome, Target};
use pv_abi::uv::database::{
    BOOT, COMMAND, FIRST_GUEST, IO_A, ULTRAVISOR, asked, channel_kind, state,
};

use transaction::Change;

use crate::fake::{ALL, Host, agree, arena, create};

fn cpu(number: u32, affinity: Option<Vec<u32>>, dedicated: Option<bool>) -> Operation {
    let (weight, cap) = (None, None);
    Operation::SetCpu { partition: Target::Number(number), weight, cap, affinity, dedicated }
}

#[test]
fn a_cpu_that_is_dedicated_is_nobody_elses() {
    let words = arena();
    let mut host = Host::new(&words);
    let (web, _) = host.built("web");
    let (db, _) = host.built("db");
    host.ok(vec![cpu(web, Some(vec![1, 2]), Some(true))]);
    assert_eq!(host.descriptor(web).cpu_allowed, [0b0110, 0, 0, 0]);
    for other in [ULTRAVISOR, BOOT, COMMAND, db] {
        let descriptor = host.descriptor(other);
        assert_eq!((descriptor.cpu_affinity, descriptor.cpu_allowed), (ALL, [0b1001, 0, 0, 0]));
        assert_eq!(host.monitor.cpu[&other].2, [0b1001, 0, 0, 0]);
    }
    host.ok(vec![create("late")]);
    assert_eq!(host.descriptor(FIRST_GUEST + 2).cpu_allowed, [0b1001, 0, 0, 0]);
    host.ok(vec![cpu(web, None, Some(false))]);
    assert_eq!(host.descriptor(db).cpu_allowed, ALL);
    host.ok(vec![cpu(web, None, Some(true))]);
    host.ok(vec![Operation::DestroyPartition { partition: Target::Number(web) }]);
    for other in [ULTRAVISOR, db] {
        assert_eq!(host.descriptor(other).cpu_allowed, ALL);
    }
}

#[test]
fn nobody_is_left_without_a_cpu() {
    let words = arena();
    let mut host = Host::new(&words);
    let (web, _) = host.built("web");
    let (db, _) = host.built("db");
    host.ok(vec![cpu(db, Some(vec![3]), None)]);
    let refusal = host.refused(vec![cpu(web, Some(vec![2, 3]), Some(true))]);
    assert_eq!(refusal.code, Code::NoCpu);
    assert!(refusal.reason.contains("\"db\" (17)"), "{}", refusal.reason);
    assert!(
        refusal.reason.contains("may use 3, and 2 to 3 would be dedicated to other partitions")
    );
    // If all CPUs were dedicated, none would be left for the system partitions.
    host.ok(vec![cpu(web, Some(vec![0, 1]), Some(true))]);
    assert_eq!(host.refused(vec![cpu(db, Some(vec![2, 3]), Some(true))]).code, Code::NoCpu);
    assert_eq!(host.refused(vec![cpu(db, Some(vec![1, 2]), Some(true))]).code, Code::CpuTaken);
    assert_eq!(host.refused(vec![cpu(web, Some(vec![]), None)]).field, "cpu_dedicated");
    assert_eq!(host.refused(vec![cpu(web, Some(vec![4]), None)]).field, "cpu_affinity");
    assert_eq!(host.refused(vec![cpu(ULTRAVISOR, None, None)]).code, Code::SystemPartition);
}

#[test]
fn shares_names_and_targets_change_while_it_runs() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    let partition = Target::Number(number);
    host.ok(vec![Operation::SetState { partition, state: state::RUNNING }]);
    let (weight, cap) = (Some(512), Some(150));
    host.ok(vec![
        Operation::SetCpu { partition, weight, cap, affinity: None, dedicated: None },
        Operation::Rename { partition, name: "www".into() },
        Operation::SetMemoryTarget { partition, frames: 60 },
        Operation::SetVcpusOnline { partition, vcpus: 1 },
        Operation::Ask { partition, what: asked::REBOOT },
    ]);
    let now = host.descriptor(number);
    assert_eq!((now.cpu_weight, now.cpu_cap, &now.name[..4]), (512, 150, b"www\0".as_slice()));
    assert_eq!((now.memory_target, now.memory_frames), (60, 100));
    assert_eq!((now.vcpus_online, now.asked), (1, asked::REBOOT));
    host.ok(vec![Operation::AssignMemory { partition, frames: 8 }]);
    assert_eq!(host.descriptor(number).memory_target, 60);
    // The old name is free again, and the new one is not.
    host.ok(vec![create("web")]);
    let refused = |host: &mut Host, operation| host.refused(vec![operation]).field;
    let name = |name: &str| Operation::Rename { partition, name: name.into() };
    assert_eq!(refused(&mut host, name("web")), "name");
    assert_eq!(refused(&mut host, name("")), "name");
    assert_eq!(refused(&mut host, create("www")), "name");
    for frames in [0, 109] {
        let target = Operation::SetMemoryTarget { partition, frames };
        assert_eq!(refused(&mut host, target), "memory_target");
    }
    for vcpus in [0, 3] {
        let online = Operation::SetVcpusOnline { partition, vcpus };
        assert_eq!(refused(&mut host, online), "vcpus_online");
    }
    for what in [asked::NOTHING, 3] {
        assert_eq!(refused(&mut host, Operation::Ask { partition, what }), "asked");
    }
    host.ok(vec![Operation::SetState { partition, state: state::SHUTDOWN }]);
    assert_eq!(host.descriptor(number).asked, asked::NOTHING);
    let ask = Operation::Ask { partition, what: asked::REBOOT };
    assert_eq!(host.refused(vec![ask]).code, Code::WrongState);
}

/// A descriptor uses more than 320 bytes; a change of it logs only the bytes that differ.
#[test]
fn a_descriptor_that_stays_is_logged_by_the_bytes_that_differ() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, _) = host.built("web");
    let partition = Target::Number(number);
    let weight = |weight| Operation::SetCpu {
        partition,
        weight: Some(weight),
        cap: None,
        affinity: None,
        dedicated: None,
    };
    // A rename logs the bytes of the name, before and after; other changes log eight bytes each.
    for (operation, most) in [
        (Operation::SetState { partition, state: state::RUNNING }, 16),
        (weight(512), 16),
        (Operation::Rename { partition, name: "www".into() }, 64),
        (Operation::SetMemoryTarget { partition, frames: 60 }, 16),
        (Operation::SetVcpusOnline { partition, vcpus: 1 }, 16),
        (Operation::Ask { partition, what: asked::REBOOT }, 16),
        (Operation::SetState { partition, state: state::PAUSED }, 32),
    ] {
        host.ok(vec![operation.clone()]);
        let record = host.engine.records().0.pop().unwrap();
        let [change] = &record.changes[..] else { panic!("{operation:?}: {:?}", record.changes) };
        let Change::Fields { number: of, parts, .. } = change else {
            panic!("{operation:?} is logged as {change:?}");
        };
        let bytes: usize = parts.iter().map(|part| part.before.len() + part.after.len()).sum();
        assert_eq!(*of, number);
        assert!((1..=most).contains(&bytes), "{operation:?}: {bytes} bytes, {parts:?}");
    }
}

#[test]
fn a_console_may_be_the_command_partitions_and_kernels_come_to_boot() {
    let words = arena();
    let mut host = Host::new(&words);
    let (number, memory) = host.built("web");
    let channel = |partition, peer, kind, frame, frames| Operation::CreateChannel {
        partition: Target::Number(partition),
        peer,
        kind,
        frame,
        frames,
        grant: 8,
    };
    host.ok(vec![channel(number, COMMAND, channel_kind::CONSOLE, memory.first, 1)]);
    let (_, entry) = host.engine.database().channels().next().unwrap();
    assert_eq!((entry.a, entry.port_a, entry.b, entry.port_b), (number, 1, COMMAND, 0));
    assert_eq!(host.descriptor(number).console_port, 1);
    let boot = u64::from(BOOT) * 64;
    host.ok(vec![channel(BOOT, COMMAND, channel_kind::BUILD, boot + 8, 50)]);
    let build = channel(BOOT, COMMAND, channel_kind::BUILD, boot, 2);
    assert_eq!(host.refused(vec![build]).code, Code::NotOwner, "its instance is not shared");
    for (operation, field) in [
        (channel(number, COMMAND, channel_kind::STORE, memory.first, 1), "peer"),
        (channel(number, BOOT, channel_kind::CONSOLE, memory.first, 1), "peer"),
        (channel(COMMAND, COMMAND, channel_kind::CONSOLE, memory.first, 1), "peer"),
        (channel(number, COMMAND, channel_kind::BUILD, memory.first, 1), "kind"),
        (channel(BOOT, ULTRAVISOR, channel_kind::BUILD, boot, 1), "peer"),
        (channel(BOOT, COMMAND, channel_kind::BUILD, boot, 513), "frames"),
        (channel(BOOT, COMMAND, channel_kind::CONSOLE, boot, 1), "kind"),
        (channel(number, ULTRAVISOR, 5, memory.first, 1), "kind"),
    ] {
        assert_eq!(host.refused(vec![operation]).field, field);
    }
    let refusal = host.run_as(
        COMMAND,
        &crate::fake::transaction(vec![channel(BOOT, COMMAND, channel_kind::BUILD, boot, 1)]),
    );
    assert_eq!(refusal.unwrap_err().code, Code::SystemPartition);
    agree(&host.engine, &host.monitor);
}

#[test]
fn an_io_partition_reports_to_the_ultravisor_alone() {
    let words = arena();
    let mut host = Host::new(&words);
    let (guest, memory) = host.built("web");
    let create = crate::fake::create_io("io-a");
    let assign = Operation::AssignMemory { partition: Target::CreatedBy(0), frames: 100 };
    let outcomes = host.ok(vec![create, assign]);
    let [Outcome::Partition(number), Outcome::Memory(ranges)] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    assert_eq!(*number, IO_A);
    let channel = |partition, peer, frame| Operation::CreateChannel {
        partition: Target::Number(partition),
        peer,
        kind: channel_kind::IO,
        frame,
        frames: 17,
        grant: 8,
    };
    assert_eq!(host.refused(vec![channel(guest, ULTRAVISOR, memory.first)]).field, "kind");
    assert_eq!(host.refused(vec![channel(IO_A, COMMAND, ranges[0].first)]).field, "peer");
    host.ok(vec![channel(IO_A, ULTRAVISOR, ranges[0].first)]);
    let (index, entry) = host.engine.database().channels().next().unwrap();
    assert_eq!((entry.a, entry.port_a, entry.b), (IO_A, 1, ULTRAVISOR));
    assert_eq!(entry.port_b, pv_abi::uv::channel::SERVER_PORTS + index);
    agree(&host.engine, &host.monitor);
}
