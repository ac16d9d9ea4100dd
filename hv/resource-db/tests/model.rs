//! Compares the database with models that are too simple to be wrong.

use core::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use pv_abi::uv::database::{
    ChannelEntry, FIRST_GUEST, IO_A, NO_PARTITIONS, PartitionDescriptor, UNASSIGNED, channel_kind,
};
use pv_abi::uv::devices::{DEVICES_IN_PAGE, DeviceEntry, MAX_FUNCTIONS};
use pv_abi::uv::endpoints::{Endpoint, MAX_EXTENTS, endpoint_state};
use resource_db::{Database, MIN_PAGES, Owner, PAGE_WORDS, ReadError, Reader, WriteError};
use zerocopy::FromZeros;

/// Two root entries and part of a third, so that every tier and the cut end occur.
const FRAMES: u64 = 2 * (1 << 20) + 3000;
/// One more than fit a page of the device table.
const DEVICES: u32 = DEVICES_IN_PAGE + 1;

fn arena(pages: u32) -> Vec<AtomicU32> {
    (0..pages as usize * PAGE_WORDS).map(|_| AtomicU32::new(0)).collect()
}

/// Boundaries at all alignments, most of them near an entry's edge.
fn boundary() -> impl Strategy<Value = u64> {
    let near = |unit: u64| {
        (0..=FRAMES / unit, 0..5u64).prop_map(move |(n, d)| (n * unit + d).saturating_sub(2))
    };
    prop_oneof![near(1 << 20), near(1 << 10), 0..FRAMES, Just(FRAMES)]
        .prop_map(|frame| frame.min(FRAMES))
}

fn owner() -> impl Strategy<Value = Owner> {
    (0..4u32, any::<bool>()).prop_map(|(number, io)| Owner { number, io })
}

fn runs(model: &[u32]) -> Vec<(u64, u64, u32)> {
    let mut first = 0;
    model
        .chunk_by(|a, b| a == b)
        .map(|run| {
            let at = first;
            first += run.len() as u64;
            (at, run.len() as u64, run[0])
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn page_map_is_the_flat_array(
        changes in prop::collection::vec((boundary(), boundary(), owner()), 1..12)
    ) {
        let words = arena(256);
        let mut database = Database::create(&words, FRAMES, DEVICES).unwrap();
        let all_free = database.free_pages();
        let mut model = vec![0u32; FRAMES as usize];
        for (a, b, owner) in changes {
            let (first, end) = (a.min(b), a.max(b));
            let done = database.set_owner(first, end - first, owner);
            prop_assert_eq!(done.is_ok(), first < end);
            model[first as usize..end as usize].fill(owner.entry());
        }
        let reader = Reader::new(&words);
        let expected = runs(&model);
        let ranges: Vec<_> =
            reader.ranges(0).map(|r| (r.first, r.frames, r.owner.entry())).collect();
        prop_assert_eq!(&ranges, &expected);
        // Every entry is as large as possible.
        for (range, tier) in reader.entries(0) {
            let size = [1u64 << 20, 1 << 10, 1][tier];
            let up = size << 10;
            if tier > 0 && range.first % up == 0 {
                let around = range.first / up * up..(range.first / up * up + up).min(FRAMES);
                let whole = reader.range_at(around.start, up).unwrap();
                prop_assert!(whole.frames < around.end - around.start);
            }
        }
        // No page leaks: one owner of everything needs no index page.
        database.set_owner(0, FRAMES, Owner::ram(1)).unwrap();
        prop_assert_eq!(database.free_pages(), all_free);
    }

    #[test]
    fn undoing_gives_back_the_same_map(
        before in prop::collection::vec((boundary(), boundary(), owner()), 0..6),
        first in boundary(), end in boundary(), new in owner(),
    ) {
        let words = arena(256);
        let mut database = Database::create(&words, FRAMES, DEVICES).unwrap();
        for (a, b, owner) in before {
            let _ = database.set_owner(a.min(b), a.abs_diff(b), owner);
        }
        let (first, end) = (first.min(end), first.max(end));
        prop_assume!(first < end);
        let used = database.arena_pages().1;
        let map: Vec<_> = database.reader().ranges(0).collect();
        let undo: Vec<_> =
            map.iter().filter(|r| r.first < end && r.first + r.frames > first).copied().collect();
        database.set_owner(first, end - first, new).unwrap();
        for range in undo {
            let (a, b) = (range.first.max(first), (range.first + range.frames).min(end));
            database.set_owner(a, b - a, range.owner).unwrap();
        }
        prop_assert_eq!(database.reader().ranges(0).collect::<Vec<_>>(), map);
        prop_assert_eq!(database.arena_pages().1, used);
    }

    #[test]
    fn a_full_arena_refuses_and_stays_as_it_was(
        picks in prop::collection::vec(0..FRAMES, 1..40)
    ) {
        let words = arena(MIN_PAGES);
        let mut database = Database::create(&words, FRAMES, DEVICES).unwrap();
        let mut model = vec![0u32; FRAMES as usize];
        let mut refused = false;
        for frame in picks {
            let free = database.free_pages();
            match database.set_owner(frame, 1, Owner::ram(2)) {
                Ok(()) => model[frame as usize] = 2,
                Err(WriteError::Full(more)) => {
                    prop_assert!(more >= 1);
                    prop_assert_eq!(database.free_pages(), free);
                    refused = true;
                }
                Err(other) => prop_assert!(false, "{other:?}"),
            }
        }
        let _ = refused;
        let ranges: Vec<_> = Reader::new(&words)
            .ranges(0)
            .map(|r| (r.first, r.frames, r.owner.entry()))
            .collect();
        prop_assert_eq!(ranges, runs(&model));
    }

    #[test]
    fn a_reader_survives_any_arena(
        noise in prop::collection::vec((0..64usize * PAGE_WORDS, any::<u32>()), 0..200),
        links in prop::collection::vec((0..64usize * PAGE_WORDS, 0..80u32), 0..200),
        frames in prop::collection::vec(any::<u64>(), 1..20),
        numbers in prop::collection::vec(any::<u32>(), 1..20),
    ) {
        let words = arena(64);
        Database::create(&words, FRAMES, DEVICES).unwrap();
        for (at, value) in noise {
            words[at].store(value, Ordering::Relaxed);
        }
        for (at, page) in links {
            words[at].store(1 << 31 | page, Ordering::Relaxed);
        }
        let reader = Reader::new(&words);
        let _ = reader.check();
        for frame in frames {
            let _ = reader.owner(frame);
            let _ = reader.owner(frame % FRAMES);
            if let Ok(range) = reader.range_at(frame % FRAMES, 64) {
                prop_assert!((1..=64).contains(&range.frames));
            }
        }
        for number in numbers {
            let _ = reader.descriptor(number);
            let _ = reader.descriptor(number % 70);
            let _ = reader.channel(number);
            let _ = reader.channel(number % 500);
            let _ = reader.device(number);
            let _ = reader.device(number % 300);
        }
    }

    #[test]
    fn the_log_pages_keep_what_is_written(
        writes in prop::collection::vec((0..8192u32, prop::collection::vec(any::<u8>(), 0..5000)), 1..8)
    ) {
        let words = arena(MIN_PAGES);
        let mut database = Database::create(&words, FRAMES, DEVICES).unwrap();
        let size = database.log_bytes() as usize;
        let mut model = vec![0u8; size];
        for (offset, mut bytes) in writes {
            bytes.resize(bytes.len() / 4 * 4, 0);
            let fits = offset % 4 == 0 && offset as usize + bytes.len() <= size;
            prop_assert_eq!(database.write_log(offset, &bytes).is_ok(), fits);
            if fits {
                model[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
            }
        }
        let mut read = vec![0; size];
        database.read_log(0, &mut read).unwrap();
        prop_assert_eq!(read, model);
    }
}

fn descriptor(number: u32, name: &[u8]) -> PartitionDescriptor {
    let mut descriptor = PartitionDescriptor::new_zeroed();
    descriptor.number = number;
    descriptor.name[..name.len()].copy_from_slice(name);
    descriptor
}

#[test]
fn descriptors_come_back_and_go() {
    let words = arena(MIN_PAGES);
    let mut database = Database::create(&words, FRAMES, DEVICES).unwrap();
    let reader = Reader::new(&words);
    assert_eq!(reader.descriptor(3).err(), Some(ReadError::Absent));
    database.write_descriptor(&descriptor(3, b"command")).unwrap();
    assert_eq!(database.free_number(), Some(FIRST_GUEST));
    database.write_descriptor(&descriptor(FIRST_GUEST, b"web")).unwrap();
    assert_eq!(database.free_number(), Some(FIRST_GUEST + 1));
    assert_eq!(&reader.descriptor(3).unwrap().name[..7], b"command");
    let mut start = PartitionDescriptor::new_zeroed();
    assert_eq!(reader.start_of_descriptor(3, &mut start), Ok(()));
    let whole = reader.descriptor(3).unwrap();
    assert_eq!((start.number, start.name, start.vcpus), (3, whole.name, whole.vcpus));
    assert_eq!((start.memory_frames, start.instance_first), (whole.memory_frames, 0));
    assert_eq!(reader.start_of_descriptor(FIRST_GUEST + 1, &mut start), Err(ReadError::Absent));
    assert_eq!(database.numbers().collect::<Vec<_>>(), [3, FIRST_GUEST]);
    database.remove_descriptor(FIRST_GUEST).unwrap();
    assert_eq!(reader.descriptor(FIRST_GUEST).err(), Some(ReadError::Absent));
    assert_eq!(database.free_number(), Some(FIRST_GUEST));
    for impossible in [0, NO_PARTITIONS.start, 15, database.number_end(), u32::MAX] {
        assert!(database.write_descriptor(&descriptor(impossible, b"x")).is_err());
    }
}

#[test]
fn a_descriptor_half_written_is_not_read() {
    let words = arena(MIN_PAGES);
    let mut database = Database::create(&words, FRAMES, DEVICES).unwrap();
    database.write_descriptor(&descriptor(3, b"command")).unwrap();
    let generation = &words[3 * PAGE_WORDS + 1];
    generation.fetch_or(1, Ordering::Relaxed);
    assert_eq!(Reader::new(&words).descriptor(3).err(), Some(ReadError::Busy));
    database.write_descriptor(&descriptor(3, b"again")).unwrap();
    assert_eq!(&Reader::new(&words).descriptor(3).unwrap().name[..5], b"again");
}

#[test]
fn readers_never_see_half_a_descriptor() {
    let words = arena(MIN_PAGES);
    let mut database = Database::create(&words, FRAMES, DEVICES).unwrap();
    database.write_descriptor(&descriptor(3, b"")).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let reader = Reader::new(&words);
            let (mut last, mut seen) = (0, 0);
            while last < 4_000 {
                match reader.descriptor(3) {
                    Ok(d) => {
                        assert_eq!(d.entry, d.stack);
                        assert_eq!(d.entry, d.created_at);
                        assert!(d.entry >= last);
                        (last, seen) = (d.entry, seen + 1);
                    }
                    Err(error) => assert_eq!(error, ReadError::Busy),
                }
            }
            seen
        });
        for round in 0..=4_000 {
            let mut d = descriptor(3, b"");
            (d.entry, d.stack, d.created_at) = (round, round, round);
            database.write_descriptor(&d).unwrap();
        }
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn channels_fill_the_table_and_no_more() {
    let words = arena(MIN_PAGES);
    let mut database = Database::create(&words, FRAMES, DEVICES).unwrap();
    let mut entry = ChannelEntry::new_zeroed();
    entry.kind = channel_kind::STORE;
    let mut count = 0;
    while let Some(index) = database.free_channel() {
        entry.port_a = index;
        database.write_channel(index, &entry).unwrap();
        count += 1;
    }
    assert_eq!(count, database.channel_entries() as usize);
    // There are two entries for each guest number, and some for the host's own channels.
    assert!(database.channel_entries() > 2 * (database.number_end() - FIRST_GUEST));
    assert_eq!(Reader::new(&words).channel(77).unwrap().port_a, 77);
    assert_eq!(database.write_channel(count as u32, &entry), Err(WriteError::OutOfRange));
    entry.kind = channel_kind::FREE;
    database.write_channel(77, &entry).unwrap();
    assert_eq!(database.free_channel(), Some(77));
    assert_eq!(database.channels().count(), count - 1);
}

#[test]
fn each_function_has_an_entry_of_its_own() {
    let words = arena(MIN_PAGES);
    let mut database = Database::create(&words, FRAMES, DEVICES).unwrap();
    let (reader, table) = (Reader::new(&words), database.device_pages());
    assert_eq!((database.devices(), table.len()), (DEVICES, 2));
    assert_eq!(table.start, database.channel_pages().end);
    let free = reader.device(0).unwrap();
    assert_eq!((free.owner, free.epoch), (UNASSIGNED, 0));
    for index in 0..DEVICES {
        let mut entry = DeviceEntry::new_zeroed();
        (entry.owner, entry.epoch) = (IO_A, index.into());
        database.write_device(index, &entry).unwrap();
    }
    for index in 0..DEVICES {
        let entry = reader.device(index).unwrap();
        assert_eq!((entry.owner, entry.epoch), (IO_A, index.into()));
        assert_eq!((entry.generation, entry.next), (2, [0; 2]));
    }
    assert_eq!(reader.device(DEVICES), Err(ReadError::OutOfRange));
    assert_eq!(database.write_device(DEVICES, &free), Err(WriteError::OutOfRange));
    let (page, word) = reader.device_place(DEVICES - 1).unwrap();
    assert_eq!((page, word), (table.end - 1, 0));
    words[page as usize * PAGE_WORDS].fetch_or(1, Ordering::Relaxed);
    assert_eq!(reader.device(DEVICES - 1), Err(ReadError::Busy));
    let tables = [database.channel_pages(), table, database.endpoint_pages()];
    let tables: u32 = tables.iter().map(|pages| pages.len() as u32).sum();
    assert_eq!(database.arena_pages().1, 1 + tables + 1 + 8);
}

#[test]
fn endpoints_lie_side_by_side() {
    let words = arena(MIN_PAGES);
    let mut database = Database::create(&words, FRAMES, DEVICES).unwrap();
    assert_eq!(database.endpoints(), database.number_end() - FIRST_GUEST);
    assert_eq!(database.endpoint_pages().start, database.device_pages().end);
    for index in 0..database.endpoints() {
        let mut entry = database.endpoint(index).unwrap();
        assert_eq!(*entry, Endpoint::new_zeroed());
        (entry.state, entry.client) = (endpoint_state::ATTACHED, FIRST_GUEST + index);
        entry.extent[MAX_EXTENTS - 1].sectors = index.into();
        database.write_endpoint(index, &entry).unwrap();
    }
    for index in 0..database.endpoints() {
        let entry = database.endpoint(index).unwrap();
        assert_eq!((entry.generation, entry.client), (2, FIRST_GUEST + index));
        assert_eq!(entry.extent[MAX_EXTENTS - 1].sectors, index.into());
    }
    let past = database.endpoints();
    assert_eq!(database.endpoint(past), Err(ReadError::OutOfRange));
    let entry = Endpoint::new_zeroed();
    assert_eq!(database.write_endpoint(past, &entry), Err(WriteError::OutOfRange));
    let page = database.endpoint_pages().end - 1;
    words[page as usize * PAGE_WORDS + PAGE_WORDS / 2].fetch_or(1, Ordering::Relaxed);
    assert_eq!(database.endpoint(past - 1), Err(ReadError::Busy));
    assert!(database.endpoint(past - 2).is_ok());
}

#[test]
fn a_machine_has_none_or_at_most_256_functions() {
    let words = arena(MIN_PAGES);
    let most = MAX_FUNCTIONS as u32;
    assert_eq!(Database::create(&words, FRAMES, most + 1).err(), Some(WriteError::Size));
    assert!(Database::create(&words, FRAMES, most).is_ok());
    let database = Database::create(&words, FRAMES, 0).unwrap();
    assert_eq!((database.device_pages().len(), database.endpoints()), (0, 0));
    assert_eq!(database.reader().device(0), Err(ReadError::OutOfRange));
}

#[test]
fn a_database_can_be_opened_again() {
    let words = arena(MIN_PAGES);
    assert!(Database::open(&words).is_err());
    let mut database = Database::create(&words, FRAMES, DEVICES).unwrap();
    database.set_owner(5, 10, Owner::io(8)).unwrap();
    database.set_contents(9).unwrap();
    let again = Database::open(&words).unwrap();
    assert_eq!(again.contents(), 9);
    assert_eq!(again.reader().owner(14), Ok(Owner::io(8)));
    assert_eq!(again.reader().owner(FRAMES), Err(ReadError::OutOfRange));
}
