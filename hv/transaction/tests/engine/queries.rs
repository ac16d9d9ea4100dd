//! Answers, whole or in parts that each fit a frame of a channel.

use std::sync::atomic::AtomicU32;

use control::command::{
    Answer, IssuesAnswer, Operation, Outcome, Query, Reply, Settled, Target, Transaction,
    VersionAnswer,
};
use pv_abi::uv::calls::{CAUSES, CpuUsage, PartitionUsage};
use pv_abi::uv::channel::MAX_PAYLOAD;
use pv_abi::uv::database::{BOOT, COMMAND, FIRST_GUEST};
use resource_db::{Database, PAGE_WORDS};
use transaction::{Change, Engine, Facts, Gauges};

use crate::fake::{Host, LIMITS, agree, arena, arena_of, create, picture, transaction};

/// A monitor whose counters have their largest values.
struct Full;

impl Gauges for Full {
    fn partition(&self, _: u32) -> Option<PartitionUsage> {
        let (cpu_time, wait_time) = (u64::MAX, u64::MAX);
        let refusals = [u64::MAX; CAUSES];
        let vcpus_up = 32;
        Some(PartitionUsage { cpu_time, wait_time, vcpus_up, refusals, ..Default::default() })
    }

    fn cpu(&self, _: u32) -> Option<CpuUsage> {
        None
    }

    fn frame(&self, _: u64) -> Option<(u32, bool)> {
        None
    }
}

pub fn ask(host: &Host, query: &Query) -> Answer {
    ask_engine(&host.engine, query)
}

pub fn ask_engine(engine: &Engine, query: &Query) -> Answer {
    let version = VersionAnswer {
        ultravisor: String::new(),
        protocol: 0,
        abi: 0,
        arena: 0,
        xen: 0,
        command_line: String::new(),
    };
    let issues = IssuesAnswer { guests_start: true, ..IssuesAnswer::default() };
    let facts = Facts { version, firmware: vec![], cpus: vec![], issues };
    fits(transaction::query(engine, &facts, &Full, query))
}

fn fits(answer: Answer) -> Answer {
    let reply = Reply { id: u64::MAX, version: u64::MAX, result: Ok(answer.clone()) };
    let bytes = postcard::to_allocvec(&reply).unwrap().len();
    assert!(bytes <= MAX_PAYLOAD, "{bytes} bytes");
    answer
}

/// An arena with room for 128 guests.
fn large() -> Vec<AtomicU32> {
    (0..1024 * PAGE_WORDS).map(|_| AtomicU32::new(0)).collect()
}

fn long_name(n: u32) -> String {
    format!("guest-with-a-very-long-name-{n:03}")
}

/// A host with `guests` guests whose rows are as long as possible, created twenty at a time.
fn crowd(words: &[AtomicU32], guests: u32) -> Host<'_> {
    let mut host = Host::new(words);
    for first in (0..guests).step_by(20) {
        let one = |n| match create(&long_name(n)) {
            Operation::CreatePartition { number, kind, rights, name, cpu_weight, .. } => {
                Operation::CreatePartition {
                    number,
                    kind,
                    rights,
                    name,
                    vcpus: 1,
                    cpu_weight,
                    cpu_cap: 99,
                    cpu_affinity: vec![0, 1, 2],
                    cpu_dedicated: false,
                    grant_frames: 1,
                }
            }
            other => other,
        };
        host.ok((first..guests.min(first + 20)).map(one).collect());
    }
    host
}

#[test]
fn all_partitions_come_in_parts() {
    let words = large();
    let host = crowd(&words, 120);
    let (mut after, mut numbers, mut parts) = (0, Vec::new(), 0);
    loop {
        let Answer::Partitions { rows, more } = ask(&host, &Query::Partitions { after }) else {
            panic!("another answer");
        };
        numbers.extend(rows.iter().map(|row| row.number));
        assert_eq!(rows.last().unwrap().cpu_affinity, [0, 1, 2]);
        assert_eq!(rows.last().unwrap().refusals[39], (39, u64::MAX));
        after = *numbers.last().unwrap();
        parts += 1;
        if !more {
            break;
        }
    }
    assert!(numbers.iter().copied().eq((1..=3).chain(FIRST_GUEST..FIRST_GUEST + 120)));
    // Each row has all causes of refusals, with the largest counts.
    assert!(parts <= 4, "{parts}");
}

#[test]
fn a_list_says_the_same_in_short_and_in_fewer_parts() {
    let words = large();
    let host = crowd(&words, 120);
    let Answer::List { rows, more: false } = ask(&host, &Query::List { after: 0 }) else {
        panic!("another answer, or more than one");
    };
    assert_eq!(rows.len(), 123);
    for row in rows {
        let name = row.number.to_string();
        let Answer::Partitions { rows, .. } = ask(&host, &Query::Partition { name }) else {
            panic!("another answer");
        };
        let one = &rows[0];
        assert_eq!((row.number, &*row.name, row.kind), (one.number, one.name.as_str(), one.kind));
        assert_eq!((row.state, row.vcpus, row.vcpus_up), (one.state, one.vcpus, one.vcpus_up));
        assert_eq!((row.memory_frames, row.cpu_time), (one.memory_frames, one.cpu_time));
    }
    let Answer::List { rows, more: false } = ask(&host, &Query::List { after: u32::MAX }) else {
        panic!("another answer");
    };
    assert_eq!(rows, []);
}

#[test]
fn a_plan_of_many_operations_is_told_in_a_frame() {
    let words = large();
    let host = crowd(&words, 1);
    let affinity: Vec<u32> = [0, 2].into_iter().cycle().take(40).collect();
    let operation = Operation::SetCpu {
        partition: Target::Number(FIRST_GUEST),
        weight: Some(65_535),
        cap: Some(100),
        affinity: Some(affinity),
        dedicated: Some(false),
    };
    let plan = transaction(vec![operation; 256]);
    let Ok(Answer::Planned { what }) = host.engine.dry_run(COMMAND, 1, &plan).result else {
        panic!("no plan");
    };
    assert_eq!(what.len(), 256);
    assert!(what[0].contains("weight 65535 cap 100 CPUs 0, 2"), "{}", what[0]);
    fits(Answer::Planned { what });
}

/// Empty pages take next to no room in an answer, but take as long to read as other pages.
#[test]
fn a_part_of_the_arena_is_answered_however_empty_it_is() {
    let words = arena_of(2048);
    let host = Host::of(&words, 200_000, LIMITS);
    let query = Query::Arena { first: 1000, most: u32::MAX };
    let Answer::Arena { contents, pages, .. } = ask(&host, &query) else {
        panic!("another answer")
    };
    assert!(contents.iter().all(|page| page.is_empty()) && pages == 2048);
    assert_eq!(contents.len(), 128);
}

#[test]
fn a_plan_of_more_operations_than_a_frame_holds_says_how_many_more_there_are() {
    let words = large();
    let host = crowd(&words, 1);
    let partition = Target::Number(FIRST_GUEST);
    let operation = Operation::SetCpu {
        partition,
        weight: Some(7),
        cap: None,
        affinity: None,
        dedicated: None,
    };
    for count in [320, 321, 4096] {
        let plan = transaction(vec![operation.clone(); count]);
        let Ok(Answer::Planned { what }) = host.engine.dry_run(COMMAND, 1, &plan).result else {
            panic!("no plan");
        };
        let told = what.iter().filter(|one| one.contains("weight 7")).count();
        match what.len() - told {
            0 => assert_eq!(told, count),
            1 => assert_eq!(what[told], format!("and {} operations more", count - told)),
            _ => panic!("{what:?}"),
        }
        fits(Answer::Planned { what });
    }
}

/// A copy of the database built only from answers.
struct Replica {
    words: Vec<AtomicU32>,
    next: u64,
}

impl Replica {
    fn read(host: &Host) -> Self {
        let next = host.engine.log_bounds().1;
        let mut words: Vec<AtomicU32> = Vec::new();
        let mut page = 0;
        loop {
            let Answer::Arena { first, pages, contents } =
                ask(host, &Query::Arena { first: page, most: u32::MAX })
            else {
                panic!("another answer");
            };
            assert_eq!(first, page);
            for mut content in contents {
                content.resize(PAGE_WORDS * 4, 0);
                let word = |b: &[u8]| AtomicU32::new(u32::from_le_bytes(b.try_into().unwrap()));
                words.extend(content.chunks(4).map(word));
                page += 1;
            }
            if page == pages {
                return Self { words, next };
            }
        }
    }

    fn follow(&mut self, host: &Host) {
        let mut database = Database::open(&self.words).unwrap();
        loop {
            let query = Query::Records { from: self.next, most: 5 };
            let Answer::Records { rows, oldest, next } = ask(host, &query) else {
                panic!("another answer");
            };
            assert!(oldest <= self.next);
            for row in rows {
                assert_eq!(row.row.sequence, self.next);
                self.next += 1;
                if row.row.outcome == Settled::Refused {
                    continue;
                }
                for change in &row.changes {
                    let change: Change = postcard::from_bytes(change).unwrap();
                    change.apply(&mut database).unwrap();
                }
            }
            if self.next == next {
                return;
            }
        }
    }

    /// The page map as the database of a host would report it.
    fn map(&self) -> Vec<resource_db::OwnedRange> {
        resource_db::Reader::new(&self.words).ranges(0).collect()
    }
}

#[test]
fn a_replica_follows_the_log() {
    let words = arena();
    let mut host = Host::new(&words);
    host.built("old");
    let mut replica = Replica::read(&host);
    assert_eq!(replica.map(), host.map());
    let pending = Transaction {
        pending: true,
        ..transaction(vec![
            create("half"),
            Operation::AssignMemory { partition: Target::CreatedBy(0), frames: 300 },
        ])
    };
    host.run_as(COMMAND, &pending).unwrap();
    replica.follow(&host);
    assert_eq!(replica.map(), host.map());
    host.monitor.refuse_after = Some(1);
    host.refused(vec![create("refused")]);
    let outcomes = host.ok(vec![create("whole")]);
    let Outcome::Partition(whole) = outcomes[0] else { panic!("{outcomes:?}") };
    let partition = Target::Number(whole);
    host.ok(vec![Operation::Rename { partition, name: "hole".into() }]);
    host.open();
    host.ok(vec![Operation::DestroyPartition { partition: Target::Number(FIRST_GUEST) }]);
    replica.follow(&host);
    assert_eq!(replica.map(), host.map());
    let names = |words: &[AtomicU32]| -> Vec<_> {
        let database = Database::open(words).unwrap();
        let names = database.numbers().map(|n| database.reader().descriptor(n).unwrap().name);
        names.collect()
    };
    assert_eq!(names(&replica.words), names(&words));
    agree(&host.engine, &host.monitor);
}

#[test]
fn a_record_that_fits_no_answer_comes_without_its_changes() {
    let words = large();
    let mut host = crowd(&words, 0);
    host.ok((0..100).map(|n| create(&long_name(n))).collect());
    let from = host.last();
    let Answer::Records { rows, .. } = ask(&host, &Query::Records { from, most: 9 }) else {
        panic!("another answer");
    };
    assert_eq!((rows.len(), rows[0].changes.len()), (1, 0));
    assert_eq!(rows[0].row.partitions.len(), 100);
    let Answer::Log { rows, .. } = ask(&host, &Query::Log { from, most: 9 }) else {
        panic!("another answer");
    };
    assert_eq!(rows.len(), 1);
    let before = picture(&host.engine).1;
    host.ok((0..100)
        .map(|n| Operation::DestroyPartition { partition: Target::Number(FIRST_GUEST + n) })
        .collect());
    assert_eq!(picture(&host.engine).1, before + 101);
    let Answer::PageMap(rows) = ask(&host, &Query::PageMap { first: 70, most: 3 }) else {
        panic!("another answer");
    };
    assert_eq!((rows[0].first, rows[0].frames, rows[0].owner), (70, 58, 1));
    assert_eq!(rows.len(), 3);
}

#[test]
fn the_ranges_of_a_partition_are_those_of_the_page_map() {
    let words = large();
    let host = crowd(&words, 30);
    let Answer::PageMap(all) = ask(&host, &Query::PageMap { first: 0, most: 1000 }) else {
        panic!("another answer");
    };
    for partition in [BOOT, FIRST_GUEST, FIRST_GUEST + 29, FIRST_GUEST + 30] {
        let (mut first, mut found) = (0, Vec::new());
        loop {
            // Asks for one range at a time.
            let query = Query::Memory { partition, first, most: 1 };
            let Answer::PageMap(rows) = ask(&host, &query) else { panic!("another answer") };
            let Some(row) = rows.into_iter().next() else { break };
            first = row.first + row.frames;
            found.push(row);
        }
        let of = all.iter().filter(|row| row.owner == partition && !row.io);
        assert_eq!(found, of.cloned().collect::<Vec<_>>());
    }
}

#[test]
fn a_partition_is_found_by_name_and_else_by_number() {
    let words = large();
    let mut host = crowd(&words, 30);
    let Answer::Partitions { rows: all, .. } = ask(&host, &Query::Partitions { after: 0 }) else {
        panic!("another answer");
    };
    let find = |host: &Host, name: &str| {
        let query = Query::Partition { name: name.into() };
        let Answer::Partitions { mut rows, more: false } = ask(host, &query) else {
            panic!("another answer");
        };
        assert!(rows.len() <= 1);
        rows.pop()
    };
    for row in &all {
        assert_eq!(find(&host, &row.name).as_ref(), Some(row));
        // In this test the names of the host's partitions are their numbers.
        assert_eq!(find(&host, &row.number.to_string()).as_ref(), Some(row));
    }
    let last = all.last().unwrap();
    for none in ["", "nobody", "0", "32752", "99999999999", &last.name[..5], &"x".repeat(99)] {
        assert_eq!(find(&host, none), None, "{none:?}");
    }
    let partition = Target::Number(last.number);
    host.ok(vec![Operation::Rename { partition, name: "web".into() }]);
    assert_eq!(find(&host, "web").unwrap().number, last.number);
    assert_eq!(find(&host, &last.name), None);
}
