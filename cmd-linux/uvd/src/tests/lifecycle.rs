//! Lives of partitions, from a client's requests to the final state of the host.

use control::command::Settled;
use pv_abi::uv::database::state;
use uvd_protocol::{
    Answered, Defined, Definitions, End, Failure, From, Planned, Service, ServiceAnswer, Settings,
    Told, Until,
};

use super::host::{Client, Host, Order, definition, kernel_file};

pub fn answer(told: Told) -> ServiceAnswer {
    match told.result {
        Ok(Answered::Service(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

pub fn refusal(told: Told) -> String {
    match told.result {
        Err(Failure::Refused(refusal)) => uvd_protocol::sentence(&refusal).to_string(),
        other => panic!("{other:?}"),
    }
}

pub fn defined(client: &mut Client) -> Vec<Defined> {
    let mut all: Vec<Defined> = Vec::new();
    loop {
        let after = all.last().map(|one| one.definition.name.clone());
        match answer(client.ask(Service::Definitions { after })) {
            ServiceAnswer::Definitions { defined, more } => {
                all.extend(defined);
                if !more {
                    return all;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

fn wait(client: &mut Client, name: &str, until: Until) -> (Option<u32>, Option<End>) {
    match answer(client.ask(Service::Wait { name: name.into(), until })) {
        ServiceAnswer::Waited { row, end } => (row.map(|row| row.state), end),
        other => panic!("{other:?}"),
    }
}

pub fn create(client: &mut Client, name: &str, kernel: &std::path::Path) -> u32 {
    let definition = definition(name, kernel);
    match answer(client.ask(Service::Create { definition, paused: false })) {
        ServiceAnswer::Partition(number) => number,
        other => panic!("{other:?}"),
    }
}

pub fn destroy(client: &mut Client, name: &str, forget: bool) -> Told {
    client.ask(Service::Destroy { name: name.into(), forget })
}

pub fn no_differences(client: &mut Client) {
    match answer(client.ask(Service::Replica)) {
        ServiceAnswer::Replica { versions: (ours, theirs), differences } => {
            assert_eq!((ours, differences), (theirs, vec![]));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_partition_is_created_of_its_kernel_and_leaves_nothing() {
    let kernel = kernel_file("whole.elf", 10_000);
    let host = Host::new("whole");
    let mut client = host.client();
    let number = create(&mut client, "web", &kernel);
    assert_eq!(number, 16);
    assert_eq!(host.built.lock().unwrap()[..], [(16, std::fs::read(&kernel).unwrap())]);
    let all = defined(&mut client);
    assert_eq!((all.len(), all[0].number), (1, Some(16)));
    assert_eq!(wait(&mut client, "web", Until::Running), (Some(state::RUNNING), None));
    no_differences(&mut client);
    answer(destroy(&mut client, "web", true));
    assert!(defined(&mut client).is_empty());
    no_differences(&mut client);
    let left = host.end();
    assert_eq!(left.guests, [""; 0]);
    assert_eq!(left.free, 65_536 - 3 * 64);
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn whoever_destroys_it_first_it_is_gone_for_all() {
    let kernel = kernel_file("twice.elf", 100);
    let mut host = Host::new("twice");
    let mut clients = [host.client(), host.client(), host.client()];
    let mut last = host.client();
    create(&mut clients[0], "web", &kernel);
    let (release, held) = std::sync::mpsc::channel();
    host.order(Order::Hold(held));
    for client in &mut clients {
        client.begin(Service::Destroy { name: "web".into(), forget: true });
    }
    // The daemon reads its clients in order. Once it has answered this request, which needs no
    // host, it has begun the three.
    assert!(last.ask(Service::Detach { console: 1 }).result.is_err());
    drop(release);
    for client in &mut clients {
        match client.next().result {
            Ok(Answered::Service(ServiceAnswer::Done)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(defined(&mut clients[0]).is_empty());
    assert_eq!(host.end().guests, [""; 0]);
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn a_create_tells_how_far_it_is() {
    let kernel = kernel_file("progress.elf", 9_000);
    let host = Host::new("progress");
    let mut client = host.client();
    let definition = definition("web", &kernel);
    client.begin(Service::Create { definition, paused: false });
    let mut steps = Vec::new();
    loop {
        match client.next().result.unwrap() {
            Answered::Progress(one) => steps.push((one.step, one.done, one.of)),
            Answered::Service(ServiceAnswer::Partition(_)) => break,
            other => panic!("{other:?}"),
        }
    }
    let expected = [
        ("unpacking kernel", 0, 0),
        ("allocating", 0, 0),
        ("building", 0, 9000),
        ("building", 4096, 9000),
        ("building", 8192, 9000),
        ("building", 9000, 9000),
        ("starting", 0, 0),
    ];
    let expected = expected.map(|(step, done, of)| (step.to_string(), done, of));
    assert_eq!(steps, expected);
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn what_cannot_be_is_refused_with_object_field_limit_and_way_out() {
    let kernel = kernel_file("refused.elf", 100);
    let empty = kernel_file("empty.elf", 4);
    std::fs::write(&empty, b"").unwrap();
    let host = Host::new("refused");
    let mut client = host.client();
    create(&mut client, "web", &kernel);
    let mut refused = |change: &dyn Fn(&mut definition::Definition)| {
        let mut definition = definition("other", &kernel);
        change(&mut definition);
        refusal(client.ask(Service::Create { definition, paused: false }))
    };
    let text = refused(&|one| one.name = "web".into());
    assert_eq!(
        text,
        "partition \"web\": name: partition 16 has it; use another name, or destroy it with \
        `uvtool destroy web`"
    );
    let text = refused(&|one| one.max_memory = 1 << 30);
    assert!(
        text.starts_with("partition \"other\": memory: 1025 MiB needed, 239 MiB free;"),
        "{text}"
    );
    let text = refused(&|one| one.kernel = "/no/such/kernel".into());
    assert!(
        text.starts_with("partition \"other\": kernel: /no/such/kernel: No such file"),
        "{text}"
    );
    let text = refused(&|one| one.kernel = empty.clone());
    assert!(text.contains("is empty"), "{text}");
    let text = refused(&|one| one.initrd = Some("/no/such/initrd".into()));
    assert!(text.starts_with("partition \"other\": initrd: /no/such/initrd"), "{text}");
    let text = refusal(client.ask(Service::Start { name: "db".into() }));
    assert!(text.contains("defined are: web"), "{text}");
    let text = refusal(destroy(&mut client, "command", false));
    assert!(text.starts_with("partition \"command\": kind: is the host's own"), "{text}");
    let text = refusal(destroy(&mut client, "db", true));
    assert!(
        text.contains("no such partition; there are ultravisor, boot, command, io-a, web"),
        "{text}"
    );
    assert_eq!(host.end().guests, ["web"]);
    for file in [kernel, empty] {
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn whatever_the_monitor_refuses_there_is_all_of_it_or_nothing() {
    let kernel = kernel_file("atomic.elf", 100);
    let mut host = Host::new("atomic");
    let mut client = host.client();
    let definitions: Vec<_> = ["a", "b", "c"].map(|name| definition(name, &kernel)).into();
    let mut refusals = 0;
    for after in 0..200 {
        host.order(Order::Refuse(after));
        let apply = Service::Apply {
            definitions: Definitions::from(&definitions),
            prune: false,
            planned_at: None,
            reason: "test".into(),
        };
        let told = client.ask(apply);
        let there = defined(&mut client).iter().filter(|one| one.number.is_some()).count();
        if told.result.is_ok() {
            assert_eq!(there, 3);
            break;
        }
        refusals += 1;
        assert_eq!(there, 0);
        assert!(defined(&mut client).is_empty());
        no_differences(&mut client);
    }
    assert!(refusals > 10, "{refusals}");
    assert_eq!(host.end().guests, ["a", "b", "c"]);
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn an_apply_creates_changes_and_prunes() {
    let kernel = kernel_file("apply.elf", 100);
    let host = Host::new("apply");
    let mut client = host.client();
    create(&mut client, "mine", &kernel);
    let apply = |definitions: &[definition::Definition], planned_at| Service::Apply {
        definitions: definitions.into(),
        prune: true,
        planned_at,
        reason: "apply test.toml".into(),
    };
    let mut both = ["a", "b"].map(|name| definition(name, &kernel));
    let ServiceAnswer::Changes { changes, .. } = answer(client.ask(apply(&both, None))) else {
        panic!()
    };
    assert!(changes.iter().all(|one| matches!(one, Planned::Create { .. })));
    both[0].cpu.weight = 512;
    let plan = Service::Plan { definitions: both[..1].into(), prune: true };
    let ServiceAnswer::Changes { version, changes } = answer(client.ask(plan)) else { panic!() };
    assert!(matches!(&changes[0], Planned::Change { name, .. } if name == "a"), "{changes:?}");
    assert_eq!(changes[1], Planned::Destroy { name: "b".into() });
    let stale = refusal(client.ask(apply(&both[..1], Some(version - 1))));
    assert!(stale.starts_with("database: version: planned at"), "{stale}");
    answer(client.ask(apply(&both[..1], Some(version))));
    let names: Vec<_> = defined(&mut client).into_iter().map(|one| one.definition.name).collect();
    assert_eq!(names, ["a", "mine"]);
    both[0].max_vcpus = 3;
    let fixed = refusal(client.ask(apply(&both[..1], None)));
    assert!(fixed.contains("max_vcpus: is 2, should be 3"), "{fixed}");
    no_differences(&mut client);
    assert_eq!(host.end().guests, ["mine", "a"]);
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn ends_are_dealt_with_as_the_policies_say() {
    let kernel = kernel_file("policy.elf", 100);
    let mut host = Host::new("policy");
    let mut client = host.client();
    create(&mut client, "web", &kernel);
    // After a reboot the partition is restarted, and the console's readers stay attached.
    let console =
        client.begin(Service::Console { name: "web".into(), from: From::Oldest, once: false });
    host.print(16, b"before ");
    host.order(Order::End { name: "web".into(), detail: 1 });
    let mut other = host.client();
    while host.built.lock().unwrap().len() < 2 {
        wait(&mut other, "web", Until::Running);
    }
    assert_eq!(wait(&mut other, "web", Until::Running).0, Some(state::RUNNING));
    let anew = defined(&mut other)[0].number.unwrap();
    host.print(anew, b"after");
    host.order(Order::End { name: "web".into(), detail: 0 });
    let mut output = Vec::new();
    let end = loop {
        let told = client.next();
        assert_eq!(told.id, console);
        match told.result.unwrap() {
            Answered::Attached => {}
            Answered::Output(bytes) => output.extend(bytes),
            Answered::Service(ServiceAnswer::Ended { end }) => break end,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(output, b"before after");
    assert_eq!(end, Some(End { cause: 1, detail: 0 }));
    let (_, end) = wait(&mut client, "web", Until::Gone);
    assert_eq!(end, Some(End { cause: 1, detail: 0 }));
    assert_eq!(defined(&mut client)[0].number, None);
    assert_eq!(host.end().guests, [""; 0]);
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn a_crash_is_preserved_and_why_tells_of_it() {
    let kernel = kernel_file("crash.elf", 100);
    let mut host = Host::new("crash");
    let mut client = host.client();
    create(&mut client, "web", &kernel);
    host.order(Order::End { name: "web".into(), detail: 3 });
    let (state, end) = wait(&mut client, "web", Until::Stopped);
    assert_eq!((state, end), (Some(state::CRASHED), Some(End { cause: 1, detail: 3 })));
    let why = answer(client.ask(Service::Why { name: "web".into() }));
    let ServiceAnswer::Why { rows, earlier: None } = why else { panic!() };
    assert!(rows.first().is_some_and(|row| row.reason == "create web"), "{rows:?}");
    assert!(rows.last().is_some_and(|row| row.outcome == Settled::Monitor), "{rows:?}");
    assert!(rows.iter().all(|row| row.outcome != Settled::Pending), "{rows:?}");
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn how_one_ended_is_kept_when_it_ended_at_once() {
    let kernel = kernel_file("at-once.elf", 100);
    let mut host = Host::new("at-once");
    let mut client = host.client();
    host.order(Order::EndAtOnce { name: "web".into(), detail: 3 });
    create(&mut client, "web", &kernel);
    assert_eq!(defined(&mut client)[0].last_end, Some(End { cause: 1, detail: 3 }));
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

/// The partition is gone before its console is requested: its policy destroyed it, and it printed
/// nothing.
#[test]
fn the_console_of_one_that_ended_at_once_tells_its_end() {
    let kernel = kernel_file("gone-at-once.elf", 100);
    let mut host = Host::new("gone-at-once");
    let mut client = host.client();
    host.order(Order::EndAtOnce { name: "web".into(), detail: 0 });
    create(&mut client, "web", &kernel);
    wait(&mut client, "web", Until::Gone);
    let from = From::Partition(16);
    let console = client.begin(Service::Console { name: "web".into(), from, once: false });
    let (attached, ended) = (client.next(), client.next());
    assert_eq!((attached.id, attached.result), (console, Ok(Answered::Attached)));
    let end = Some(End { cause: 1, detail: 0 });
    let ended = (ended.id, ended.result);
    assert_eq!(ended, (console, Ok(Answered::Service(ServiceAnswer::Ended { end }))));
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn settings_change_partition_and_definition_together() {
    let kernel = kernel_file("set.elf", 100);
    let host = Host::new("set");
    let mut client = host.client();
    create(&mut client, "web", &kernel);
    let settings = Settings { weight: Some(512), vcpus: Some(2), ..Settings::default() };
    answer(client.ask(Service::Set { name: "web".into(), settings }));
    answer(client.ask(Service::Rename { name: "web".into(), to: "www".into() }));
    let all = defined(&mut client);
    assert_eq!((all[0].definition.cpu.weight, all[0].definition.vcpus), (512, 2));
    assert_eq!((all[0].definition.name.as_str(), all[0].number), ("www", Some(16)));
    let settings = Settings { memory: Some(1 << 30), ..Settings::default() };
    let text = refusal(client.ask(Service::Set { name: "www".into(), settings }));
    assert!(
        text.starts_with("partition \"www\": memory: 1G is more than max_memory = 16M"),
        "{text}"
    );
    // For a partition without a definition only the CPU settings can be changed.
    let settings = Settings { weight: Some(512), cap: Some(50), ..Settings::default() };
    let command = || "command".to_string();
    answer(client.ask(Service::Set { name: command(), settings }));
    let settings = Settings { vcpus: Some(1), ..Settings::default() };
    let text = refusal(client.ask(Service::Set { name: command(), settings }));
    assert!(text.starts_with("partition \"command\": vcpus: was not defined here"), "{text}");
    let settings = Settings { weight: Some(512), ..Settings::default() };
    let text = refusal(client.ask(Service::Set { name: "boot".into(), settings }));
    assert!(text.contains("transactions do not change it"), "{text}");
    for service in [
        Service::Pause { name: "www".into() },
        Service::Unpause { name: "16".into() },
        Service::Shutdown { name: "www".into(), reboot: false },
    ] {
        assert_eq!(answer(client.ask(service)), ServiceAnswer::Done);
    }
    no_differences(&mut client);
    assert_eq!(host.end().guests, ["www"]);
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn what_is_undone_is_undone_in_the_definition() {
    let kernel = kernel_file("undone.elf", 100);
    let host = Host::new("undone");
    let mut client = host.client();
    create(&mut client, "web", &kernel);
    let first = defined(&mut client).remove(0).definition;
    let settings = Settings {
        weight: Some(512),
        cap: Some(50),
        vcpus: Some(2),
        affinity: Some(vec![0, 1]),
        memory: Some(first.memory / 2),
        ..Settings::default()
    };
    answer(client.ask(Service::Set { name: "web".into(), settings }));
    assert_eq!(defined(&mut client)[0].definition.cpu.affinity, [0, 1]);
    client.undo().result.unwrap();
    assert_eq!(defined(&mut client)[0].definition, first);
    answer(client.ask(Service::Rename { name: "web".into(), to: "www".into() }));
    let ServiceAnswer::Why { rows: why, .. } =
        answer(client.ask(Service::Why { name: "www".into() }))
    else {
        panic!();
    };
    assert_eq!(why[0].reason, "create web");
    client.undo().result.unwrap();
    let all = defined(&mut client);
    assert_eq!((all.len(), &all[0].definition, all[0].number), (1, &first, Some(16)));
    let plan = Service::Plan { definitions: [first].into(), prune: false };
    let ServiceAnswer::Changes { changes, .. } = answer(client.ask(plan)) else { panic!() };
    assert_eq!(changes, [Planned::Same { name: "web".into() }]);
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn one_that_is_created_paused_runs_when_it_is_told_to() {
    let kernel = kernel_file("paused.elf", 100);
    let host = Host::new("paused");
    let mut client = host.client();
    let definition = definition("web", &kernel);
    answer(client.ask(Service::Create { definition, paused: true }));
    assert_eq!(wait(&mut client, "web", Until::Paused), (Some(state::PAUSED), None));
    let mut other = host.client();
    let waiting = other.begin(Service::Wait { name: "web".into(), until: Until::Running });
    answer(client.ask(Service::Unpause { name: "web".into() }));
    let told = other.next();
    assert_eq!(told.id, waiting);
    assert!(matches!(answer(told), ServiceAnswer::Waited { row: Some(_), end: None }));
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn what_is_typed_is_answered_when_the_guest_has_read_all_of_it() {
    let kernel = kernel_file("typed.elf", 100);
    let host = Host::new("typed");
    let mut client = host.client();
    let number = create(&mut client, "web", &kernel);
    let console =
        client.begin(Service::Console { name: "web".into(), from: From::Now, once: false });
    assert_eq!(client.next().result.unwrap(), Answered::Attached);
    let lines: Vec<u8> = (0..300).flat_map(|line| format!("line {line}\n").into_bytes()).collect();
    let input = |bytes: &[u8]| Service::Input { console, bytes: bytes.into() };
    let typed = client.begin(input(&lines));
    let early = client.ask(input(b"more"));
    assert!(refusal(early).contains("has not read what was typed before"));
    let mut arrived = Vec::new();
    while arrived.len() < lines.len() {
        arrived.extend(host.read(number));
    }
    assert_eq!(
        client.next(),
        Told { id: typed, result: Ok(Answered::Service(ServiceAnswer::Done)) }
    );
    assert_eq!(arrived, lines);
    // If a guest ends without reading, the client that types is told.
    let unread = client.begin(input(b"unread"));
    let mut other = host.client();
    answer(destroy(&mut other, "web", true));
    let told = client.next();
    assert_eq!(told.id, unread);
    assert!(refusal(told).contains("before the partition had read all of 6 bytes"));
    host.end();
    std::fs::remove_file(kernel).unwrap();
}
