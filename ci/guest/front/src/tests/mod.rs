//! The front end against a back end in memory.

mod back;

use crate::{
    Attack, Broken, Cookie, Counts, Fault, Flushed, Front, Goal, LOADS, Lean, Machine, Model,
    Offer, PATIENCE, Ring, Step, state_of, write_nodes,
};
use back::{Back, Bench, Wrong};
use backend::{Features, Frontend, Rings};
use fuzz_programs::Random;
use std::collections::BTreeMap;

const SECTORS: usize = 20_000;
const OFFER: Offer = Offer {
    sectors: SECTORS as u64,
    granule: 1,
    read_only: false,
    flush: true,
    discard: Some(8),
    indirect: 64,
    rings: 4,
};

/// Rings in the first pages of a machine, and a front end that uses the others.
fn connect(bench: &Bench, seed: u64, rings: usize, requests: u64) -> Front {
    connect_with(32, bench, seed, rings, requests)
}

fn connect_with(depth: u32, bench: &Bench, seed: u64, rings: usize, requests: u64) -> Front {
    let all: Vec<Ring> = (0..rings).map(|number| Ring::new(bench, number, number)).collect();
    let model = Model::new(seed, OFFER.sectors, 4000);
    let goal = (depth, Goal::Requests(requests));
    Front::new(bench, OFFER, model, seed, &all, rings..bench.pages(), goal)
}

/// Runs until the front end is done or finds a fault.
fn run(seed: u64, rings: usize, requests: u64, wrong: Option<Wrong>) -> Result<Counts, Fault> {
    let bench = Bench::new(300);
    let mut front = connect(&bench, seed, rings, requests);
    let pages: Vec<usize> = (0..rings).collect();
    let mut back = Back::new(SECTORS, &pages, seed, wrong);
    loop {
        let events = bench.events.get();
        match front.step(&bench)? {
            Step::Done => return Ok(*front.counts()),
            Step::Again => {}
            Step::Wait => {
                let waited = bench.events.get() == events && front.in_flight() > 0;
                bench.time.set(bench.time.get() + if waited { 1_000_000_000 } else { 1000 });
                back.run(&bench);
            }
        }
    }
}

/// All flushes of a run on one ring.
fn flushes(depth: u32) -> Vec<Flushed> {
    let bench = Bench::new(300);
    let mut front = connect_with(depth, &bench, 5, 1, 2000);
    let mut back = Back::new(SECTORS, &[0], 5, None);
    let mut all = Vec::new();
    while front.step(&bench).unwrap() != Step::Done {
        back.run(&bench);
        all.extend(front.take_flushes());
    }
    all
}

#[test]
fn a_flush_covers_what_was_answered_before_it() {
    // With one request at a time, the flush is the last one, and all before it were answered.
    let alone = flushes(1);
    assert!(alone.len() > 20 && alone.iter().all(|flush| flush.covers + 1 == flush.made));
    let among = flushes(32);
    assert!(among.len() > 20 && among.iter().all(|flush| flush.covers < flush.made));
    assert!(among.iter().any(|flush| flush.covers + 2 < flush.made));
}

#[test]
fn a_right_back_end_passes() {
    for (seed, rings) in [(1, 1), (2, 2), (3, 4)] {
        let counts = run(seed, rings, 3000, None).unwrap();
        let Counts { requests, reads, writes, flushes, discards, .. } = counts;
        assert!(requests >= 3000 && reads > 1000 && writes > 1000, "{counts:?}");
        assert!(flushes > 50 && discards > 50, "{counts:?}");
        assert_eq!(requests, reads + writes + flushes + discards);
    }
}

/// Runs with one wrong thing, for a few seeds, and checks the fault.
fn finds(wrong: Wrong, is_right: impl Fn(&Fault) -> bool) {
    for seed in 1..=4 {
        let fault = run(seed, 2, 1000, Some(wrong)).expect_err("nothing was found");
        assert!(is_right(&fault), "{wrong:?}, seed {seed}: {fault}");
    }
}

#[test]
fn a_lost_write_is_found() {
    finds(Wrong::LosesWrite, |fault| matches!(fault, Fault::Contents { .. }));
}

#[test]
fn a_wrong_place_is_found() {
    finds(Wrong::WritesElsewhere, |fault| matches!(fault, Fault::Contents { .. }));
    finds(Wrong::ReadsElsewhere, |fault| matches!(fault, Fault::Contents { .. }));
}

#[test]
fn a_wrong_answer_is_found() {
    // The second answer meets an id that waits for nothing, or one that is used again by then.
    finds(Wrong::AnswersTwice, |fault| {
        matches!(
            fault,
            Fault::NotWaiting { .. }
                | Fault::Answers { .. }
                | Fault::Operation { .. }
                | Fault::Contents { .. }
                | Fault::InUse { .. }
        )
    });
    finds(Wrong::OtherOperation, |fault| matches!(fault, Fault::Operation { .. }));
    finds(Wrong::Fails, |fault| matches!(fault, Fault::Status { status: -1, .. }));
    finds(Wrong::StrangeId, |fault| matches!(fault, Fault::NoSuchId { .. }));
    finds(Wrong::TooManyAnswers, |fault| matches!(fault, Fault::Answers { .. }));
}

#[test]
fn a_grant_in_use_is_found() {
    finds(Wrong::KeepsGrant, |fault| matches!(fault, Fault::InUse { .. }));
}

#[test]
fn a_transfer_after_the_answer_is_found() {
    finds(Wrong::WritesLate, |fault| matches!(fault, Fault::Late { found: 0x1a7e, .. }));
}

#[test]
fn a_changed_byte_beside_is_found() {
    finds(Wrong::WritesBeside, |fault| matches!(fault, Fault::Beside { operation: 0, .. }));
    finds(Wrong::ChangesWritten, |fault| matches!(fault, Fault::Beside { operation: 1, .. }));
}

#[test]
fn a_missing_answer_is_found() {
    finds(
        Wrong::ForgetsRequest,
        |fault| matches!(fault, Fault::Silent { waited, .. } if *waited > PATIENCE),
    );
}

#[test]
fn a_silence_is_a_stall() {
    let bench = Bench::new(100);
    let mut front = connect(&bench, 1, 1, 10);
    let mut back = Back::new(SECTORS, &[0], 1, None);
    while front.step(&bench).unwrap() != Step::Wait {}
    bench.time.set(70_000_000);
    while front.counts().requests == 0 {
        back.run(&bench);
        front.step(&bench).unwrap();
    }
    assert_eq!(front.take_stalls(), [(0, 70_000_000)]);
    assert_eq!(front.counts().longest_stall, 70_000_000);
}

#[test]
fn a_cookie_names_itself() {
    let cookie = Cookie { seed: 1 << 40, sector: 1 << 33, write: 9 };
    let mut words = cookie.contents();
    assert_eq!(Cookie::read(&words), Some(cookie));
    words[100] ^= 1;
    assert_eq!(Cookie::read(&words), None);
    let other = Cookie { write: 10, ..cookie };
    let common = cookie.contents().iter().zip(other.contents()).filter(|(a, b)| **a == *b).count();
    assert!(common < 10, "{common} words are the same");
}

#[test]
fn broken_requests_are_refused_or_answered() {
    let foreign = [0, 1, 5000];
    let mut random = Random::new(5);
    let (mut refused, mut kinds) = (0, std::collections::BTreeSet::new());
    for _ in 0..1000 {
        let attack = Attack::random(&mut random, SECTORS as u64, &foreign);
        let name = format!("{attack:?}");
        kinds.insert(name.split([' ', '(']).next().unwrap_or_default().to_owned());
        let Attack::Requests(all) = attack else { continue };
        let bench = Bench::new(40);
        let mut ring = Ring::new(&bench, 0, 0);
        for (request, page) in all.iter().zip(1..) {
            request.write(&bench, &mut ring, page);
        }
        ring.publish(&bench);
        let mut back = Back::new(SECTORS, &[0], 1, None);
        while ring.produced(&bench) != ring.written() {
            back.run(&bench);
        }
        refused += back.refused;
    }
    assert!(refused > 1000, "{refused}");
    assert_eq!(kinds.len(), 7, "{kinds:?}");
    let past = Broken::Sector { sector: u64::MAX, indirect: true, operation: 1 };
    assert_ne!(past, Broken::ReadOnly);
}

/// The nodes of a front end.
struct Nodes(BTreeMap<String, Vec<u8>>);

impl Frontend for Nodes {
    fn read(&self, node: &str) -> Option<&[u8]> {
        self.0.get(node).map(Vec::as_slice)
    }
}

#[test]
fn the_back_end_reads_what_the_front_end_writes() {
    let features = Features {
        sectors: 2048,
        sector_bytes: 512,
        physical_sector_bytes: 512,
        read_only: false,
        discard: None,
        indirect_segments: 32,
        queues: 4,
        ring_order: 0,
    };
    for rings in [vec![(8, 3)], vec![(8, 3), (9, 4)], vec![(8, 3), (9, 4), (10, 5), (11, 6)]] {
        let nodes = write_nodes(&rings);
        let nodes = nodes.into_iter().map(|(node, value)| (node, value.into_bytes()));
        let read = Rings::read(&Nodes(nodes.collect()), &features).unwrap();
        let read: Vec<_> = read.queues.iter().map(|ring| (ring.pages[0], ring.port)).collect();
        assert_eq!(read, rings);
    }
}

#[test]
fn an_offer_is_read() {
    let nodes = |node: &str| {
        Some(String::from(match node {
            "sectors" => "2048",
            "sector-size" => "4096",
            "feature-flush-cache" | "feature-discard" => "1",
            "discard-granularity" => "65536",
            "info" => "4",
            "multi-queue-max-queues" => "4",
            _ => return None,
        }))
    };
    let wanted = Offer {
        sectors: 2048,
        granule: 8,
        read_only: true,
        flush: true,
        discard: Some(128),
        indirect: 0,
        rings: 4,
    };
    assert_eq!(Offer::read(nodes), Ok(wanted));
    assert!(Offer::read(|_| None).unwrap_err().contains("sectors"));
    assert!(Offer::read(|_| Some("x".into())).is_err());
    assert_eq!([state_of(Some("4")), state_of(Some("")), state_of(None)], [4, 0, 0]);
}

/// Makes each load once with a back end that does one thing wrong, or none.
fn run_loads(wrong: Option<Wrong>) -> Result<(), Fault> {
    let bench = Bench::new(300);
    let mut back = Back::new(SECTORS, &[0], 1, wrong);
    let mut lean = Lean::new(&bench, Ring::new(&bench, 0, 0), SECTORS as u64, 1..300);
    for load in LOADS {
        lean.prepare(&bench, &load);
        lean.run(&bench, load.operations(160), || back.run(&bench))?;
        assert_eq!(back.refused, 0, "{load:?}");
    }
    let requests: u64 = LOADS.iter().map(|load| load.operations(160) * load.bytes as u64).sum();
    assert_eq!(requests, 4 * 160 * 4096 + 2 * 40 * 65536 + 2 * 10 * 1_048_576);
    Ok(())
}

#[test]
fn loads_reach_the_whole_disk_and_are_answered() {
    run_loads(None).expect("a right back end");
    let failed = run_loads(Some(Wrong::Fails)).expect_err("nothing was found");
    assert!(matches!(failed, Fault::Status { status: -1, .. }), "{failed}");
    let strange = run_loads(Some(Wrong::StrangeId)).expect_err("nothing was found");
    assert!(matches!(strange, Fault::NoSuchId { .. }), "{strange}");
}
