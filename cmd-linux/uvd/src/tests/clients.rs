//! Tests with many clients, and with the longest answers.

use std::ops::Range;
use std::path::Path;
use std::sync::Barrier;

use control::command::{Answer, Body, Operation, Query, Target};
use pv_abi::uv::database::COMMAND;
use uvd_protocol::{
    Answered, Definitions, Failure, From, Planned, Service, ServiceAnswer, Settings, Told, Until,
};

use super::host::{Client, Host, Order, definition, kernel_file};
use super::lifecycle::{answer, create, defined};
use super::own_path;
use crate::replica::log_pages;
use crate::state::{Edit, Record, State};

#[test]
fn idle_connections_shut_out_nobody() {
    let host = Host::new("idle");
    let mut first = host.client();
    assert!(defined(&mut first).is_empty());
    let idle: Vec<Client> = (0..300).map(|_| host.client()).collect();
    let mut last = host.client();
    assert!(defined(&mut last).is_empty());
    drop(idle);
    host.end();
}

#[test]
fn all_definitions_are_told_however_many_there_are() {
    let kernel = kernel_file("many.elf", 100);
    let path = own_path("many-defined.redb");
    let _ = std::fs::remove_file(&path);
    let names = (0..3000).map(|number| format!("p{number:04}"));
    let all: Vec<_> = names.map(|name| definition(&name, &kernel)).collect();
    let edits = all.iter().map(|one| Edit::Put(Record::new(one.clone(), true)));
    State::open(&path).edit(&edits.collect::<Vec<_>>());
    let host = Host::with_state("many", path);
    let mut client = host.client();
    let told: Vec<_> = defined(&mut client).into_iter().map(|one| one.definition).collect();
    assert!(told == all, "{} of {}", told.len(), all.len());
    // The partitions that an apply of nothing would prune; each has a line in the answer.
    let plan = Service::Plan { definitions: Definitions::default(), prune: true };
    let ServiceAnswer::Changes { changes, .. } = answer(client.ask(plan)) else { panic!() };
    assert_eq!(changes.len(), all.len());
    assert!(changes.iter().all(|one| matches!(one, Planned::Destroy { .. })));
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn an_answer_that_no_message_holds_comes_in_pieces() {
    let kernel = kernel_file("pieces.elf", 100);
    let mut definition = definition("web", &kernel);
    definition.command_line = "x".repeat(2000);
    let create = |number: u32| Planned::Create {
        definition: Box::new(definition::Definition {
            name: format!("p{number}"),
            ..definition.clone()
        }),
    };
    let whole = ServiceAnswer::Changes { version: 7, changes: (0..1500).map(create).collect() };
    let pieces = whole.clone().pieces();
    assert!(pieces.len() > 3);
    for piece in &pieces {
        let result = Ok(Answered::Piece(piece.clone()));
        uvd_protocol::encode(&Told { id: 1, result }).unwrap();
    }
    assert!(pieces.into_iter().reduce(ServiceAnswer::followed_by) == Some(whole));
    std::fs::remove_file(kernel).unwrap();
}

/// A name of control characters, each of which takes five characters in a message.
#[test]
fn a_refusal_of_any_name_arrives() {
    let kernel = kernel_file("control.elf", 100);
    let host = Host::new("control");
    let mut client = host.client();
    create(&mut client, "web", &kernel);
    for name in ["\u{1}".repeat(5000), "\u{1}".repeat(150_000), "\"".repeat(400_000)] {
        let to = || name.clone();
        for service in [
            Service::Rename { name: "web".into(), to: to() },
            Service::Rename { name: to(), to: "db".into() },
            Service::Create { definition: definition(&name, &kernel), paused: false },
            Service::Start { name: to() },
            Service::Destroy { name: to(), forget: true },
            Service::Why { name: to() },
            Service::Set { name: to(), settings: Settings::default() },
        ] {
            let told = client.ask(service);
            let Err(Failure::Refused(refusal)) = told.result else { panic!("{told:?}") };
            let texts = [&refusal.object, &refusal.reason, &refusal.way_out];
            assert!(texts.iter().all(|text| text.len() <= 1000), "{refusal:?}");
        }
    }
    let name = "\u{1}".repeat(5000);
    let told = client.transact(Operation::Rename { partition: Target::Number(COMMAND), name });
    assert!(matches!(told.result, Err(Failure::Refused(_))), "{told:?}");
    assert_eq!(host.end().guests, ["web"]);
    std::fs::remove_file(kernel).unwrap();
}

/// Clients that create, change, apply, look and destroy at once; one thread each.
#[test]
fn fifty_clients_at_once_are_all_served() {
    const CLIENTS: usize = 50;
    const GUESTS: usize = 10;
    let kernel = kernel_file("fifty.elf", 100);
    let host = Host::new("fifty");
    let begin = Barrier::new(CLIENTS);
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (mut client, begin, kernel) = (host.client(), &begin, &kernel);
            scope.spawn(move || {
                begin.wait();
                let name = format!("p{number}");
                if number < GUESTS {
                    create(&mut client, &name, kernel);
                    let weight = Settings { weight: Some(512), ..Settings::default() };
                    answer(client.ask(Service::Set { name: name.clone(), settings: weight }));
                    answer(client.ask(Service::Destroy { name, forget: true }));
                } else if number < GUESTS * 2 {
                    let partition = Target::Number(COMMAND);
                    let weight = Some(256 + number as u32);
                    let (cap, affinity, dedicated) = (None, None, None);
                    let set = Operation::SetCpu { partition, weight, cap, affinity, dedicated };
                    client.transact(set).result.unwrap();
                } else if number < GUESTS * 3 {
                    let (planned_at, prune, reason) = (None, false, String::new());
                    let mut one = definition("shared", kernel);
                    one.cpu.weight = 256 + number as u32;
                    let definitions = [one].into();
                    answer(client.ask(Service::Apply { definitions, prune, planned_at, reason }));
                } else if number < GUESTS * 4 {
                    let cap = Settings { cap: Some(number as u32), ..Settings::default() };
                    answer(client.ask(Service::Set { name: "command".into(), settings: cap }));
                } else {
                    for _ in 0..5 {
                        defined(&mut client);
                        client.ask_ultravisor(list()).result.unwrap();
                    }
                }
            });
        }
    });
    let mut client = host.client();
    let all = defined(&mut client);
    assert_eq!((all.len(), all[0].definition.name.as_str()), (1, "shared"));
    let plan = Service::Plan { definitions: [all[0].definition.clone()].into(), prune: false };
    let ServiceAnswer::Changes { changes, .. } = answer(client.ask(plan)) else { panic!() };
    assert_eq!(changes, [Planned::Same { name: "shared".into() }]);
    assert_eq!(host.end().guests, ["shared"]);
    std::fs::remove_file(kernel).unwrap();
}

fn list() -> Body {
    Body::Query(Query::List { after: 0 })
}

/// A list request waits for at most one request of each earlier job, and for one transaction: jobs
/// take turns, and their later requests come after the list.
#[test]
fn a_list_waits_for_no_job() {
    const EACH: usize = 8;
    let kernel = kernel_file("ahead.elf", 100);
    let mut host = Host::new("ahead");
    let mut client = host.client();
    for name in ["a", "b"] {
        create(&mut client, name, &kernel);
    }
    let apply = |weight: usize| {
        let (planned_at, prune, reason) = (None, false, String::new());
        let mut one = definition("shared", &kernel);
        one.cpu.weight = 512 + weight as u32;
        Service::Apply { definitions: [one].into(), prune, planned_at, reason }
    };
    let service = |at: usize, number: usize| match at {
        0 => create_service(&format!("p{number}"), &kernel),
        1 => apply(number),
        2 => Service::Plan { definitions: [definition("shared", &kernel)].into(), prune: false },
        3 => {
            let cap = Settings { cap: Some(number as u32 + 1), ..Settings::default() };
            Service::Set { name: "command".into(), settings: cap }
        }
        4 => Service::Definitions { after: None },
        _ => Service::Destroy { name: ["a", "b"][number].into(), forget: true },
    };
    let asks = (0..5).flat_map(|at| (0..EACH).map(move |number| (at, number)));
    let asks: Vec<_> = asks.chain([(5, 0), (5, 1)]).collect();
    let mut others: Vec<Client> = asks.iter().map(|_| host.client()).collect();
    let (until, held) = std::sync::mpsc::channel();
    host.order(Order::Hold(held));
    let begun = host.asked.lock().unwrap().len();
    for ((at, number), other) in asks.iter().zip(&mut others) {
        other.begin(service(*at, *number));
        is_under_way(other);
    }
    let listing = client.begin_ultravisor(list());
    is_under_way(&mut client);
    drop(until);
    let told = client.next();
    assert_eq!((told.id, told.result.is_ok()), (listing, true));
    let asked = host.asked.lock().unwrap()[begun..].to_vec();
    let ahead = asked.iter().take_while(|one| **one != list());
    let (queries, changes): (Vec<_>, Vec<_>) = ahead.partition(|one| matches!(one, Body::Query(_)));
    assert!(queries.len() <= asks.len(), "{} of {}", queries.len(), asks.len());
    assert!(changes.len() <= 1, "{changes:?}");
    for mut other in others {
        loop {
            match other.next().result {
                Ok(Answered::Progress(_) | Answered::Piece(_)) => {}
                last => break assert!(last.is_ok(), "{last:?}"),
            }
        }
    }
    assert_eq!(host.end().guests.len(), EACH + 1);
    std::fs::remove_file(kernel).unwrap();
}

/// Waits until `uvd` has begun the client's earlier request: `uvd` answers this one by itself,
/// after it has passed on the earlier one.
fn is_under_way(client: &mut Client) {
    let id = client.begin(Service::Detach { console: 0 });
    while client.next().id != id {}
}

fn create_service(name: &str, kernel: &Path) -> Service {
    Service::Create { definition: definition(name, kernel), paused: false }
}

/// A request about one guest does not read the rows of all partitions.
#[test]
fn what_is_about_some_partitions_reads_no_others() {
    let kernel = kernel_file("alone.elf", 100);
    let mut host = Host::new("alone");
    let mut client = host.client();
    let names: Vec<String> = (0..10).map(|number| format!("p{number}")).collect();
    for name in &names {
        create(&mut client, name, &kernel);
    }
    host.asked.lock().unwrap().clear();
    create(&mut client, "web", &kernel);
    let weight = Settings { weight: Some(512), ..Settings::default() };
    answer(client.ask(Service::Set { name: "web".into(), settings: weight }));
    let (from, once) = (From::Oldest, true);
    answer(client.ask(Service::Console { name: "web".into(), from, once }));
    let definitions: Vec<_> = defined(&mut client).into_iter().map(|one| one.definition).collect();
    assert_eq!(definitions.len(), 11);
    let definitions = Definitions::from(definitions);
    let plan = Service::Plan { definitions: definitions.clone(), prune: true };
    let ServiceAnswer::Changes { changes, .. } = answer(client.ask(plan)) else { panic!() };
    assert!(changes.iter().all(|one| matches!(one, Planned::Same { .. })), "{changes:?}");
    let (planned_at, prune, reason) = (None, true, String::new());
    answer(client.ask(Service::Apply { definitions, prune, planned_at, reason }));
    // The policy of a partition that ended by itself is applied before any client sees the end.
    host.order(Order::End { name: "p3".into(), detail: 0 });
    let gone = Service::Wait { name: "p3".into(), until: Until::Gone };
    assert!(matches!(answer(client.ask(gone)), ServiceAnswer::Waited { row: None, .. }));
    answer(client.ask(Service::Destroy { name: "web".into(), forget: true }));
    answer(client.ask(Service::Why { name: "web".into() }));
    let told = client.ask(Service::Destroy { name: "nobody".into(), forget: false });
    assert!(matches!(told.result, Err(Failure::Refused(_))), "{told:?}");
    let asked = host.asked.lock().unwrap().clone();
    let lists = asked.iter().filter(|one| matches!(one, Body::Query(Query::Partitions { .. })));
    assert_eq!(lists.count(), 0, "{asked:?}");
    assert_eq!(host.end().guests.len(), 9);
    std::fs::remove_file(kernel).unwrap();
}

/// Two clients change one partition at once; its definition shows both changes.
#[test]
fn settings_that_are_changed_at_once_are_all_in_the_definition() {
    let kernel = kernel_file("both.elf", 100);
    let host = Host::new("both");
    let (mut client, mut other) = (host.client(), host.client());
    create(&mut client, "web", &kernel);
    for round in 1..=20 {
        let name = || "web".to_string();
        let weight = Settings { weight: Some(512 + round), ..Settings::default() };
        let cap = Settings { cap: Some(round), ..Settings::default() };
        client.begin(Service::Set { name: name(), settings: weight });
        other.begin(Service::Set { name: name(), settings: cap });
        client.next().result.unwrap();
        other.next().result.unwrap();
        let cpu = defined(&mut client).remove(0).definition.cpu;
        assert_eq!((cpu.weight, cpu.cap), (512 + round, round));
    }
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

/// The pages of the log are not read for a copy, which has the records themselves.
#[test]
fn a_copy_reads_no_pages_of_the_log() {
    let host = Host::new("copy");
    let mut client = host.client();
    // The session, and with it the copy, begins before a client is answered.
    assert!(defined(&mut client).is_empty());
    let asked = host.asked.lock().unwrap().clone();
    let told = client.ask_ultravisor(Body::Query(Query::Arena { first: 0, most: 1 }));
    let Ok(Answered::Ultravisor { answer: Answer::Arena { contents, .. }, .. }) = told.result
    else {
        panic!("another answer")
    };
    let log = log_pages(&contents[0]);
    assert!(!log.is_empty());
    // Where the log lies is known once the first pages were read.
    let later: Vec<_> = asked
        .iter()
        .filter_map(|one| match one {
            Body::Query(Query::Arena { first: first @ 1.., most }) => Some(*first..first + most),
            _ => None,
        })
        .collect();
    assert!(later.iter().any(|pages| pages.start >= log.end), "{later:?}, {log:?}");
    let of_log = |pages: &Range<u32>| pages.start < log.end && pages.end > log.start;
    assert!(!later.iter().any(of_log), "{later:?}, {log:?}");
    host.end();
}
