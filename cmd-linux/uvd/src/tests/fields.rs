//! The limits of a partition's field are the same for every way in.

use std::path::Path;

use control::command::{Code, Operation, Refusal, Target};
use definition::{Definition, Policies, Policy};
use pv_abi::uv::database::{COMMAND, kind};
use uvd_protocol::{Definitions, Failure, PolicySettings, Service, ServiceAnswer, Settings, Told};

use super::host::{Client, Host, definition, kernel_file};
use super::lifecycle::{answer, create, defined};

fn refusal(told: Told) -> Refusal {
    match told.result {
        Err(Failure::Refused(refusal)) => *refusal,
        other => panic!("{other:?}"),
    }
}

/// Asserts a refusal that names the field, its limit and a way out.
fn refuses(told: Told, field: &str, what: &str) {
    let refusal = refusal(told);
    assert_eq!((refusal.code, &*refusal.field), (Code::InvalidValue, field), "{what}: {refusal:?}");
    assert!(!refusal.reason.is_empty() && !refusal.way_out.is_empty(), "{what}: {refusal:?}");
}

fn rename(name: &str, to: &str) -> Service {
    Service::Rename { name: name.into(), to: to.into() }
}

fn files(definition: &Definition) -> [Service; 3] {
    let definitions = Definitions::from([definition.clone()]);
    let (planned_at, reason, prune) = (None, String::new(), false);
    [
        Service::Create { definition: definition.clone(), paused: false },
        Service::Plan { definitions: definitions.clone(), prune },
        Service::Apply { definitions, prune, planned_at, reason },
    ]
}

/// A host with a partition that runs, and one that is defined and does not run.
fn host_with_two(name: &str, kernel: &Path) -> (Host, Client) {
    let host = Host::new(name);
    let mut client = host.client();
    create(&mut client, "stopped", kernel);
    answer(client.ask(Service::Destroy { name: "stopped".into(), forget: false }));
    create(&mut client, "web", kernel);
    (host, client)
}

#[test]
fn a_bad_name_comes_in_no_way() {
    let kernel = kernel_file("names.elf", 100);
    let (host, mut client) = host_with_two("names", &kernel);
    let before = defined(&mut client);
    let number = before.iter().find_map(|one| one.number).unwrap();
    let long = "x".repeat(32);
    for bad in [
        "",
        "19",
        "0",
        " web",
        "web ",
        "\t",
        "a\nb",
        "a\0",
        "a\u{1b}[2J",
        "a/b",
        "a\"b",
        "w\u{200b}eb",
        &long,
        "command",
        "ultravisor",
        "boot",
        "monitor",
        "firmware",
    ] {
        for service in files(&definition(bad, &kernel)) {
            refuses(client.ask(service), "name", bad);
        }
        for name in ["web", "stopped", &number.to_string()] {
            refuses(client.ask(rename(name, bad)), "name", bad);
        }
        let (partition, name) = (Target::Number(number), bad.to_string());
        refuses(client.transact(Operation::Rename { partition, name }), "name", bad);
        let create = Operation::CreatePartition {
            number: None,
            kind: kind::GUEST,
            rights: 0,
            name: bad.into(),
            vcpus: 1,
            cpu_weight: 1,
            cpu_cap: 0,
            cpu_affinity: vec![],
            cpu_dedicated: false,
            grant_frames: 1,
        };
        refuses(client.transact(create), "name", bad);
    }
    for (name, to) in [("web", "stopped"), ("stopped", "web")] {
        assert_eq!(refusal(client.ask(rename(name, to))).code, Code::NameTaken);
    }
    assert_eq!(defined(&mut client), before);
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn the_hosts_own_partitions_keep_their_names() {
    let kernel = kernel_file("own.elf", 100);
    let (host, mut client) = host_with_two("own", &kernel);
    for name in ["command", "boot", "ultravisor", "3"] {
        assert_eq!(
            refusal(client.ask(rename(name, "other"))).code,
            Code::SystemPartition,
            "{name}"
        );
    }
    let (partition, name) = (Target::Number(COMMAND), "other".to_string());
    let refusal = refusal(client.transact(Operation::Rename { partition, name }));
    assert_eq!((refusal.code, &*refusal.field), (Code::SystemPartition, "name"));
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn the_same_name_changes_nothing() {
    let kernel = kernel_file("same.elf", 100);
    let (host, mut client) = host_with_two("same-name", &kernel);
    let number = defined(&mut client).iter().find_map(|one| one.number).unwrap();
    host.print(number, b"what it printed");
    let log = |client: &mut Client| answer(client.ask(Service::Log { most: 99 }));
    let before = (defined(&mut client), log(&mut client));
    for name in ["web", "stopped", &number.to_string()] {
        let to = if name == "stopped" { "stopped" } else { "web" };
        assert_eq!(answer(client.ask(rename(name, to))), ServiceAnswer::Done);
    }
    assert_eq!((defined(&mut client), log(&mut client)), before);
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

/// Makes a definition wrong.
type Spoil = fn(&mut Definition);

#[test]
fn a_bad_value_comes_in_no_way() {
    let kernel = kernel_file("values.elf", 100);
    let (host, mut client) = host_with_two("values", &kernel);
    let spoils: [(&str, Spoil); 19] = [
        ("kernel", |one| one.kernel = "relative".into()),
        ("initrd", |one| one.initrd = Some("".into())),
        ("command_line", |one| one.command_line = "a\nb".into()),
        ("command_line", |one| one.command_line = "x".repeat(2000)),
        ("memory", |one| one.memory = 0),
        ("memory", |one| one.memory = (1 << 20) + 1),
        ("memory", |one| one.memory = 4 << 20),
        ("memory", |one| one.memory = one.max_memory + 4096),
        ("max_memory", |one| one.max_memory = 1 << 50),
        ("vcpus", |one| one.vcpus = 0),
        ("vcpus", |one| one.vcpus = 3),
        ("max_vcpus", |one| one.max_vcpus = 1000),
        ("cpu.weight", |one| one.cpu.weight = 0),
        ("cpu.cap", |one| one.cpu.cap = 201),
        ("cpu.affinity", |one| one.cpu.affinity = vec![1, 1]),
        ("cpu.dedicated", |one| one.cpu.dedicated = true),
        ("grant_frames", |one| one.grant_frames = 65),
        ("domain", |one| one.domain = Some("7".into())),
        ("description", |one| one.description = Some("a\nb".into())),
    ];
    for (field, spoil) in spoils {
        let mut new = definition("new", &kernel);
        spoil(&mut new);
        for service in files(&new) {
            refuses(client.ask(service), field, field);
        }
    }
    let settings: [(&str, Settings); 10] = [
        ("memory", Settings { memory: Some(0), ..Settings::default() }),
        ("memory", Settings { memory: Some((9 << 20) + 1), ..Settings::default() }),
        // This is less than its kernel needs; a create refuses it, too.
        ("memory", Settings { memory: Some(4 << 20), ..Settings::default() }),
        ("memory", Settings { memory: Some(1 << 30), ..Settings::default() }),
        ("vcpus", Settings { vcpus: Some(0), ..Settings::default() }),
        ("vcpus", Settings { vcpus: Some(3), ..Settings::default() }),
        ("cpu.weight", Settings { weight: Some(65_536), ..Settings::default() }),
        ("cpu.cap", Settings { cap: Some(201), ..Settings::default() }),
        ("cpu.affinity", Settings { affinity: Some(vec![300]), ..Settings::default() }),
        ("cpu.dedicated", Settings { dedicated: Some(true), ..Settings::default() }),
    ];
    for (field, settings) in settings {
        for name in ["web", "stopped"] {
            let (name, settings) = (name.to_string(), settings.clone());
            refuses(client.ask(Service::Set { name, settings }), field, field);
        }
    }
    let mut less = definition("web", &kernel);
    less.memory = 4 << 20;
    for service in &files(&less)[1..] {
        refuses(client.ask(service.clone()), "memory", "a definition of one that runs");
    }
    assert_eq!(host.end().guests, ["web"]);
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn a_policy_is_set_alone_by_name_and_by_number() {
    let kernel = kernel_file("policy.elf", 100);
    let (host, mut client) = host_with_two("policy", &kernel);
    let before = definition("web", &kernel).on;
    let number = defined(&mut client).iter().find_map(|one| one.number).unwrap().to_string();
    for (name, policy) in [("web", Policy::Destroy), (&number, Policy::Restart)] {
        let on = PolicySettings { crash: Some(policy), ..PolicySettings::default() };
        let settings = Settings { on, ..Settings::default() };
        answer(client.ask(Service::Set { name: name.into(), settings }));
        let now = defined(&mut client).into_iter().find(|one| one.definition.name == "web");
        assert_eq!(now.unwrap().definition.on, Policies { crash: policy, ..before });
    }
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

/// If an apply would be refused because of the files or the host, a plan is refused in the same
/// words.
#[test]
fn a_plan_refuses_what_an_apply_refuses() {
    let kernel = kernel_file("agree.elf", 100);
    let empty = kernel_file("agree-empty.elf", 4);
    std::fs::write(&empty, b"").unwrap();
    let (host, mut client) = host_with_two("agree", &kernel);
    let with = |spoil: Spoil| {
        let mut one = definition("new", &kernel);
        spoil(&mut one);
        one
    };
    let mut twice = vec![definition("new", &kernel); 2];
    twice[1].name = "other".into();
    twice.iter_mut().for_each(|one| (one.cpu.affinity, one.cpu.dedicated) = (vec![1], true));
    let running = |spoil: Spoil| {
        let mut one = definition("web", &kernel);
        spoil(&mut one);
        one
    };
    for definitions in [
        vec![with(|one| one.kernel = "/no/such/kernel".into())],
        vec![with(|one| one.initrd = Some("/no/such/initrd".into()))],
        vec![with(|one| one.initrd = Some("/".into()))],
        vec![definition("new", &empty)],
        vec![with(|one| one.cpu.affinity = vec![200])],
        vec![with(|one| one.cpu.dedicated = true)],
        vec![with(|one| (one.memory, one.max_memory) = (1 << 40, 1 << 40))],
        twice,
        vec![running(|one| one.cpu.affinity = vec![200])],
        vec![running(|one| one.max_vcpus = 9)],
        vec![definition("new", &kernel), running(|one| one.cpu.affinity = vec![200])],
    ] {
        let apply = Service::Apply {
            definitions: Definitions::from(&definitions),
            prune: false,
            planned_at: None,
            reason: String::new(),
        };
        let applied = refusal(client.ask(apply));
        let definitions = Definitions::from(definitions);
        let planned = refusal(client.ask(Service::Plan { definitions, prune: false }));
        let part = |one: Refusal| (one.code, one.object, one.field, one.reason, one.way_out);
        assert_eq!(part(planned), part(applied));
    }
    assert_eq!(host.end().guests, ["web"]);
    std::fs::remove_file(kernel).unwrap();
    std::fs::remove_file(empty).unwrap();
}
