//! A hostile client of a command channel: valid messages with wild numbers, damaged messages,
//! damaged rings, and floods whose answers it does not read.
//!
//! The rings, the server's end and the engine are those of the ultravisor. Tested rule: each valid
//! message is answered, each answer fits its frame, and another client is not disturbed.

use std::sync::atomic::{AtomicU32, Ordering};

use channel::ends::{Bell, ChannelError, Client, Server};
use channel::ring::{Endpoint, RingError, Side};
use control::command::{
    Answer, Body, Code, IssuesAnswer, Operation, PROTOCOL, Query, Reply, Request, Target,
    Transaction, VersionAnswer,
};
use pv_abi::PAGE_SIZE;
use pv_abi::uv::calls::{CpuUsage, PartitionUsage};
use pv_abi::uv::channel::COMMAND_PAGES;
use pv_abi::uv::database::{BOOT, COMMAND, state};
use transaction::{Facts, Gauges};
use wild_messages::Random;

use crate::fake::{Host, agree, arena};

/// Messages of the hostile client; `HOSTILE_MESSAGES` overrides the number.
const MESSAGES: u64 = 1_000_000;
/// Messages between two requests of the other client.
const BETWEEN: u64 = 500;

struct Silent;

impl Bell for Silent {
    fn ring(&mut self) {}
}

struct Nothing;

impl Gauges for Nothing {
    fn partition(&self, _: u32) -> Option<PartitionUsage> {
        None
    }

    fn cpu(&self, _: u32) -> Option<CpuUsage> {
        None
    }

    fn frame(&self, _: u64) -> Option<(u32, bool)> {
        None
    }
}

/// The server's end of a client's channel, as the ultravisor has it: it is reopened after an error,
/// and keeps the one reply that had no room.
struct End<'a> {
    who: u32,
    words: &'a [AtomicU32],
    server: Option<Server<'a, Silent>>,
    waiting: Option<Reply>,
}

impl<'a> End<'a> {
    fn serve(&mut self, host: &mut Host<'_>, facts: &Facts, answered: &mut u64) {
        loop {
            if self.server.is_none() {
                let ring = Endpoint::open(self.words, Side::Server);
                self.server = ring.ok().map(|ring| Server::new(ring, Silent));
            }
            let Some(server) = &mut self.server else { return };
            let reply = match self.waiting.take() {
                Some(reply) => reply,
                None => match server.request_or_id() {
                    Ok(Some(Ok(request))) => answer(host, facts, self.who, &request),
                    Ok(Some(Err(id))) => {
                        let refusal =
                            transaction::refusal(Code::NotUnderstood, "request", "", "", "");
                        Reply { id, version: 0, result: Err(refusal) }
                    }
                    Ok(None) => return,
                    Err(ChannelError::Message | ChannelError::Protocol(_)) => continue,
                    Err(ChannelError::Ring(_)) => {
                        self.server = None;
                        return;
                    }
                },
            };
            match server.reply(&reply) {
                Ok(()) => *answered += 1,
                Err(ChannelError::Ring(RingError::Full)) => {
                    self.waiting = Some(reply);
                    return;
                }
                Err(ChannelError::Ring(error)) => {
                    assert!(!matches!(error, RingError::TooLarge(_)), "{reply:?}");
                    self.server = None;
                    return;
                }
                Err(error) => panic!("{error}: {reply:?}"),
            }
        }
    }
}

fn answer(host: &mut Host<'_>, facts: &Facts, who: u32, request: &Request) -> Reply {
    let (id, engine, monitor) = (request.id, &mut host.engine, &mut host.monitor);
    match &request.body {
        Body::Query(query) => {
            let answer = transaction::query(engine, facts, &Nothing, query);
            Reply { id, version: engine.database().contents(), result: Ok(answer) }
        }
        Body::Plan(transaction) => engine.dry_run(who, id, transaction),
        Body::Transaction(transaction) => engine.execute(monitor, who, id, id, transaction),
        Body::Open => engine.open(monitor, who, id, id),
        Body::Undo { sequence, reason } => engine.undo(monitor, (who, id), id, (*sequence, reason)),
        Body::RollBack { requests } => engine.roll_back_requests(monitor, (who, id), id, requests),
    }
}

fn facts() -> Facts {
    let version = VersionAnswer {
        ultravisor: "test".into(),
        protocol: PROTOCOL,
        abi: 1,
        arena: 1,
        xen: 0,
        command_line: String::new(),
    };
    let issues = IssuesAnswer { guests_start: true, ..IssuesAnswer::default() };
    Facts { version, firmware: vec![], cpus: vec![(0, 0, true)], issues }
}

fn pages() -> Vec<AtomicU32> {
    (0..COMMAND_PAGES * PAGE_SIZE / 4).map(|_| AtomicU32::new(0)).collect()
}

#[test]
fn a_client_that_says_anything_is_answered_and_harms_no_other() {
    let messages = std::env::var("HOSTILE_MESSAGES").map_or(MESSAGES, |text| text.parse().unwrap());
    let words = arena();
    let (mut host, facts, mut random) =
        (Host::new(&words), facts(), Random::new(0x9e37_79b9_7f4a_7c15));
    let (wild, good) = (pages(), pages());
    let end = |who, words| End { who, words, server: None, waiting: None };
    let (mut hostile, mut other) = (end(COMMAND, &wild), end(BOOT, &good));
    let mut ring = Endpoint::create(&wild, Side::Client).unwrap();
    let mut client = Client::new(Endpoint::create(&good, Side::Client).unwrap(), Silent, 1);
    let (mut answered, mut told, mut damaged, mut buffer) = (0, 0, 0, Vec::new());
    for number in 0..messages {
        match ring.send(&random.command_message(number + 1)) {
            // The client reads its answers only now and then; the server waits for it.
            Err(RingError::Full) => {
                if random.below(2) == 0 {
                    while ring.receive(&mut buffer) == Ok(true) {}
                }
                hostile.serve(&mut host, &facts, &mut answered);
                // The test replaces a ring that the client damaged or never reads.
                if ring.writable().is_ok_and(|bytes| bytes < 32 * 1024) {
                    ring = Endpoint::create(&wild, Side::Client).unwrap();
                }
            }
            Err(_) => ring = Endpoint::create(&wild, Side::Client).unwrap(),
            Ok(()) => {}
        }
        if random.below(5000) == 0 {
            let limit = if random.below(2) == 0 { 64 } else { wild.len() as u64 };
            let at = random.below(limit);
            wild[at as usize].store(random.wild() as u32, Ordering::Relaxed);
            damaged += 1;
        }
        if random.below(64) == 0 {
            hostile.serve(&mut host, &facts, &mut answered);
        }
        if number % BETWEEN == 0 {
            hostile.serve(&mut host, &facts, &mut answered);
            // The other client queries, and changes something of its own.
            for body in [
                Body::Query(Query::Partitions { after: 0 }),
                Body::Transaction(Transaction {
                    planned_at: None,
                    pending: false,
                    reason: "the other client".into(),
                    operations: vec![Operation::SetCpu {
                        partition: Target::Number(COMMAND),
                        weight: Some(256 + (number % 1000) as u32),
                        cap: None,
                        affinity: None,
                        dedicated: None,
                    }],
                }),
            ] {
                let id = client.send(body).unwrap();
                other.serve(&mut host, &facts, &mut told);
                let reply = client.poll().unwrap().unwrap();
                assert_eq!(reply.id, id);
                assert!(
                    matches!(reply.result, Ok(Answer::Partitions { .. } | Answer::Applied(_))),
                    "{reply:?}"
                );
            }
        }
        if number % 100_000 == 0 {
            agree(&host.engine, &host.monitor);
            if host.descriptor(COMMAND).state != state::RUNNING {
                panic!("the client stopped itself");
            }
        }
    }
    agree(&host.engine, &host.monitor);
    assert!(answered > messages / 8, "{answered} of {messages} answered, {damaged} rings damaged");
    assert_eq!(told, messages.div_ceil(BETWEEN) * 2);
}
