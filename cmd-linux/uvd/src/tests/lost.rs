//! Lost replies, and batches that are given up.

use control::command::{Answer, Body, Code, Operation, Query, Transaction};
use pv_abi::uv::database::{kind, state};
use uvd_protocol::{Answered, Definitions, Failure, Service, ServiceAnswer, Told};

use super::host::{Client, Host, Order, definition, kernel_file};
use super::lifecycle::{answer, create, defined, refusal};

/// The wait for a reply; it is long enough for a reply that comes.
const PATIENCE_MS: u32 = 3000;

fn numbers(client: &mut Client) -> Vec<(String, Option<u32>)> {
    defined(client).into_iter().map(|one| (one.definition.name, one.number)).collect()
}

#[test]
fn a_lost_reply_is_found_in_the_log() {
    let kernel = kernel_file("lost.elf", 100);
    let mut host = Host::impatient("lost", PATIENCE_MS);
    let mut client = host.client();
    host.order(Order::LoseReply(0));
    assert_eq!(create(&mut client, "web", &kernel), 16);
    create(&mut client, "db", &kernel);
    let named = |name: &str, number| (name.to_string(), Some(number));
    assert_eq!(numbers(&mut client), [named("db", 17), named("web", 16)]);
    host.print(16, b"its console is connected");
    assert_eq!(host.end().guests, ["web", "db"]);
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn an_end_that_nobody_saw_is_settled_before_the_next_batch() {
    let kernel = kernel_file("unseen.elf", 100);
    let mut host = Host::impatient("unseen", PATIENCE_MS);
    let mut client = host.client();
    host.order(Order::LoseReply(1));
    let service = Service::Create { definition: definition("web", &kernel), paused: false };
    let told = client.ask(service);
    assert_eq!(told.result, Err(Failure::Timeout(PATIENCE_MS)));
    create(&mut client, "db", &kernel);
    let named = |name: &str, number| (name.to_string(), Some(number));
    assert_eq!(numbers(&mut client), [named("db", 17), named("web", 16)]);
    host.print(16, b"its console is connected");
    // The same for a change that the monitor refuses: the definition stays unchanged.
    host.order(Order::LoseReply(1));
    let told = client.ask(Service::Rename { name: "web".into(), to: "db2".into() });
    assert_eq!(told.result, Err(Failure::Timeout(PATIENCE_MS)));
    let told = client.ask(Service::Destroy { name: "db".into(), forget: true });
    assert_eq!(answer(told), ServiceAnswer::Done);
    assert_eq!(numbers(&mut client), [named("db2", 16)]);
    assert_eq!(host.end().guests, ["db2"]);
    std::fs::remove_file(kernel).unwrap();
}

fn states(client: &mut Client) -> Vec<(String, u32)> {
    let told: Told = client.ask_ultravisor(Body::Query(Query::Partitions { after: 15 }));
    match told.result {
        Ok(Answered::Ultravisor { answer: Answer::Partitions { rows, .. }, .. }) => {
            rows.into_iter().map(|row| (row.name, row.state)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_that_is_given_up_takes_nothing_of_other_clients_with_it() {
    let kernel = kernel_file("theirs.elf", 100);
    let mut host = Host::new("theirs");
    let (mut client, mut other) = (host.client(), host.client());
    let theirs = Operation::CreatePartition {
        number: None,
        kind: kind::GUEST,
        rights: 0,
        name: "theirs".into(),
        vcpus: 1,
        cpu_weight: 256,
        cpu_cap: 0,
        cpu_affinity: vec![],
        cpu_dedicated: false,
        grant_frames: 4,
    };
    let (planned_at, reason, operations) = (None, String::new(), vec![theirs]);
    let pending = Transaction { planned_at, pending: true, reason, operations };
    other.ask_ultravisor(Body::Transaction(pending)).result.unwrap();
    // This action opens the console channel of the build.
    host.order(Order::Refuse(3));
    let service = Service::Create { definition: definition("web", &kernel), paused: false };
    refusal(client.ask(service));
    assert_eq!(states(&mut client), [("theirs".to_string(), state::BUILDING)]);
    create(&mut client, "web", &kernel);
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

/// If a batch is too large in any respect, no part of it is begun.
#[test]
fn a_batch_that_is_too_large_is_refused_before_anything_is_built() {
    let kernel = kernel_file("large.elf", 100);
    let host = Host::new("large");
    let mut client = host.client();
    create(&mut client, "web", &kernel);
    let names = (0..2100).map(|number| format!("p{number}"));
    let definitions: Vec<_> = names.map(|name| definition(&name, &kernel)).collect();
    let definitions = Definitions::from(definitions);
    let (planned_at, reason, prune) = (None, String::new(), false);
    for service in [
        Service::Plan { definitions: definitions.clone(), prune },
        Service::Apply { definitions, prune, planned_at, reason: reason.clone() },
        Service::Apply {
            definitions: [definition("one", &kernel)].into(),
            prune,
            planned_at,
            reason: "x".repeat(30_000),
        },
    ] {
        let told = client.ask(service);
        let Err(Failure::Refused(refusal)) = told.result else { panic!("{told:?}") };
        assert_eq!(refusal.code, Code::TooLarge, "{refusal:?}");
    }
    assert_eq!(host.built.lock().unwrap().len(), 1);
    assert_eq!(host.end().guests, ["web"]);
    std::fs::remove_file(kernel).unwrap();
}
