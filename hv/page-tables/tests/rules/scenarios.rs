//! The behaviour of kernels, and of attackers on other hypervisors (with the name of the advisory).

use crate::invariants::{Outside, check};
use crate::machine::{OWN_SLOT, Sim};
use crate::numbers::{
    drop_range, find_entry, get_base, get_descriptors, hold, map_foreign, pin, put_base,
    put_descriptors, reference, replace_entry_expect, unmap_entry_expect, unpin, update_descriptor,
    update_entry, update_entry_emulated,
};
use frames::{Kind, Type};
use page_tables::bits::{self, A, AVL, D, G, NX, P, PAT_PS, PCD, RW, US};
use page_tables::{
    ENTRIES, Error, Machine, Mfn, Operation, Place, Request, Space, map_device, release,
};
use std::sync::atomic::Ordering;

const L4: u64 = 1;
const L3: u64 = 3;
const L2: u64 = 6;
const L1: u64 = 10;
const DATA: u64 = 20;
/// A frame of partition 2.
const OTHERS: u64 = 40;

const fn to(mfn: u64, flags: u64) -> u64 {
    mfn << 12 | flags | P
}

/// A machine, and partition 1 on it with a tree of one table per level in memory, which is not
/// validated yet.
fn tree() -> (Sim, Space) {
    let sim = Sim::new();
    for (table, below) in [(L4, L3), (L3, L2), (L2, L1)] {
        sim.poke(table, 0, to(below, RW | US));
    }
    sim.poke(L1, 0, to(DATA, RW));
    sim.poke(L1, 1, to(L1, NX));
    (sim, Space::new(1, OWN_SLOT))
}

/// The tree, pinned and loaded.
fn running() -> (Sim, Space, Outside) {
    let (sim, mut space) = tree();
    pin(&sim, &mut space, 4, L4).unwrap();
    get_base(&sim, &mut space, L4).unwrap();
    sim.cache(1, &[L4]);
    (sim, space, Outside { bases: vec![(1, L4)], ..Outside::default() })
}

fn store(sim: &Sim, space: &mut Space, table: u64, index: usize, new: u64) -> Result<u64, Error> {
    update_entry(sim, space, table, Request { index, new, preserve_ad: false })
}

fn keeping(new: u64) -> Request {
    Request { index: 0, new, preserve_ad: true }
}

fn counts(sim: &Sim, mfn: u64) -> (Type, u32, u32) {
    let word = sim.word(mfn);
    (word.ty(), word.count(), word.references())
}

#[test]
fn a_pinned_tree_holds_what_it_refers_to_and_gives_it_back() {
    let (sim, mut space, outside) = running();
    check(&sim, &outside);
    assert_eq!(counts(&sim, L4), (Type::L4, 2, 2));
    assert_eq!(counts(&sim, L3), (Type::L3, 1, 1));
    assert_eq!(counts(&sim, L1), (Type::L1, 1, 2));
    assert_eq!(counts(&sim, DATA), (Type::Writable, 1, 1));
    unpin(&sim, &mut space, L4).unwrap();
    assert_eq!(counts(&sim, L3), (Type::L3, 1, 1));
    put_base(&sim, &mut space, L4).unwrap();
    for mfn in [L4, L3, L2, L1, DATA] {
        assert_eq!(sim.word(mfn).references(), 0);
    }
}

#[test]
fn entries_are_made_reachable_from_ring_3_and_not_global() {
    let (sim, mut space, _) = running();
    assert_eq!(sim.raw(L1, 0), to(DATA, RW | US));
    let marks = AVL | A | NX;
    store(&sim, &mut space, L1, 5, to(21, G | marks)).unwrap();
    assert_eq!(sim.raw(L1, 5), to(21, US | marks));
    // The value that was read back is accepted.
    store(&sim, &mut space, L1, 5, sim.raw(L1, 5) | RW).unwrap();
    assert_eq!(sim.raw(L1, 5), to(21, US | RW | marks));
}

#[test]
fn entries_that_are_not_present_are_kept_as_they_are() {
    let (sim, mut space, outside) = running();
    let swap = !P;
    store(&sim, &mut space, L1, 9, swap).unwrap();
    assert_eq!(sim.raw(L1, 9), swap);
    store(&sim, &mut space, L2, 9, swap).unwrap();
    assert_eq!(sim.raw(L2, 9), swap);
    check(&sim, &outside);
}

/// XSA-273: a CPU may read memory at the address in an entry that is not present.
#[test]
fn absent_entries_name_no_memory_where_the_cpu_would_read_it() {
    let (sim, mut space, outside) = running();
    sim.memory_end.store(64 << 12, Ordering::SeqCst);
    let memory = 63 << 12 | RW | US;
    let tries = [to(DATA, RW) & !P, memory, memory | NX | 1 << 44 << 2, 1 << 12];
    for bad in tries {
        for table in [L1, L2, L4] {
            let refused = store(&sim, &mut space, table, 9, bad);
            assert_eq!(refused, Err(Error::ReservedBits), "{bad:#x} in {table}");
        }
    }
    // Clearing the present bit does not help either.
    for operation in [Operation::And(!P), Operation::BitReset(0), Operation::Exchange(memory)] {
        let refused = update_entry_emulated(&sim, &mut space, L1, 0, operation);
        assert_eq!(refused, Err(Error::ReservedBits));
    }
    // The values that Linux writes: nothing, a protected-none page and a swap entry, both inverted.
    let none = !(to(DATA, 0) & !0xfff) & !(0x7ff << 52 | 0xfff) | G;
    let swap = 3 << 59 | !(1234 << 9 << 5) & ((1 << 59) - 1) & !0x1ff;
    for good in [0, G | A, none, swap, 64 << 12] {
        store(&sim, &mut space, L1, 9, good).unwrap();
        assert_eq!(sim.raw(L1, 9), good);
    }
    check(&sim, &outside);
}

#[test]
fn a_table_whose_absent_entries_name_memory_is_no_table() {
    for table in [L4, L3, L2, L1] {
        let (sim, mut space) = tree();
        sim.memory_end.store(64 << 12, Ordering::SeqCst);
        sim.poke(table, 77, to(DATA, 0) & !P);
        assert_eq!(pin(&sim, &mut space, 4, L4), Err(Error::ReservedBits));
        for mfn in [L4, L3, L2, L1, DATA] {
            assert_eq!(sim.word(mfn).references(), 0);
        }
        // Values in the monitor's slots are ignored.
        sim.poke(table, 77, 0);
        sim.poke(L4, 260, to(DATA, 0) & !P);
        pin(&sim, &mut space, 4, L4).unwrap();
    }
}

#[test]
fn a_kernel_forks() {
    let (sim, mut space, mut outside) = running();
    let (l4, l3, l2, l1) = (2, 4, 7, 11);
    // The child's tables are ordinary pages; the parent fills them by calls.
    for (table, value) in [(l4, to(l3, RW)), (l3, to(l2, RW)), (l2, to(l1, RW))] {
        assert_eq!(store(&sim, &mut space, table, 1, value), Ok(0));
    }
    store(&sim, &mut space, l1, 7, to(DATA, US)).unwrap();
    // The kernel's half is copied together with the monitor's slots, which read-only mappings show.
    sim.poke(l4, 256, sim.raw(L4, 256));
    sim.poke(l4, 272, to(L3, RW | US));
    // The parent's page becomes copy-on-write, by a one-byte `and`.
    let write_protect = Operation::And(!RW);
    let old = update_entry_emulated(&sim, &mut space, L1, 0, write_protect).unwrap();
    assert_eq!(old, to(DATA, RW | US));
    assert_eq!(counts(&sim, DATA), (Type::Writable, 0, 1));
    pin(&sim, &mut space, 1, l1).unwrap();
    pin(&sim, &mut space, 4, l4).unwrap();
    get_base(&sim, &mut space, l4).unwrap();
    outside.bases.push((1, l4));
    check(&sim, &outside);
    assert_eq!(sim.word(L3).count(), 2);
    assert_eq!(sim.word(l1).count(), 2);
    assert_eq!(sim.raw(l4, 256), sim.slots[0]);
    // The child exits.
    put_base(&sim, &mut space, l4).unwrap();
    outside.bases.pop();
    unpin(&sim, &mut space, l4).unwrap();
    assert_eq!(sim.word(l1).count(), 1);
    unpin(&sim, &mut space, l1).unwrap();
    assert_eq!(counts(&sim, DATA), (Type::Writable, 0, 1));
    store(&sim, &mut space, L1, 30, to(l1, RW)).unwrap();
    check(&sim, &outside);
}

#[test]
fn trapped_writes_return_what_was_there() {
    let (sim, mut space, outside) = running();
    sim.poke(L1, 0, to(DATA, RW | US | A | D));
    let mut run = |operation| update_entry_emulated(&sim, &mut space, L1, 0, operation).unwrap();
    assert_eq!(run(Operation::BitReset(5)), to(DATA, RW | US | A | D));
    assert_eq!(run(Operation::BitReset(64 + 6)), to(DATA, RW | US | D));
    let missed = Operation::CompareExchange { expected: 0, new: 0 };
    assert_eq!(run(missed), to(DATA, RW | US));
    let hit = Operation::CompareExchange { expected: to(DATA, RW | US), new: to(21, RW) };
    assert_eq!(run(hit), to(DATA, RW | US));
    assert_eq!(run(Operation::Exchange(0)), to(21, RW | US));
    assert_eq!(run(Operation::Store(to(22, 0))), 0);
    assert_eq!(run(Operation::BitSet(1)), to(22, US));
    assert_eq!(counts(&sim, DATA).2, 0);
    assert_eq!(counts(&sim, 22), (Type::Writable, 1, 1));
    check(&sim, &outside);
}

#[test]
fn trapped_writes_are_for_level_1_only() {
    let (sim, mut space, _) = running();
    for table in [L2, L3, L4, DATA, OTHERS, 99] {
        let result = update_entry_emulated(&sim, &mut space, table, 0, Operation::Store(0));
        assert!(matches!(result, Err(Error::WrongType | Error::NotOwned | Error::NoFrame)));
    }
}

#[test]
fn accessed_and_dirty_bits_are_kept_when_asked() {
    let (sim, mut space, _) = running();
    sim.poke(L1, 0, to(DATA, RW | US | A | D));
    let updated = update_entry(&sim, &mut space, L1, keeping(to(DATA, 0))).unwrap();
    assert_eq!(updated, to(DATA, RW | US | A | D));
    assert_eq!(sim.raw(L1, 0), to(DATA, US | A | D));
    // Protected-none entries are accepted too: the dirty bit may have been set after the kernel
    // looked.
    update_entry(&sim, &mut space, L1, keeping(G)).unwrap();
    assert_eq!(sim.raw(L1, 0), G | A | D);
    update_entry(&sim, &mut space, L1, keeping(0)).unwrap();
    assert_eq!(sim.raw(L1, 0), 0);
}

#[test]
fn a_table_cannot_be_mapped_writable_nor_a_writable_page_be_a_table() {
    let (sim, mut space, outside) = running();
    for table in [L1, L2, L3, L4] {
        assert_eq!(store(&sim, &mut space, L1, 3, to(table, RW)), Err(Error::WrongType));
        store(&sim, &mut space, L1, 3, to(table, 0)).unwrap();
    }
    assert_eq!(store(&sim, &mut space, L2, 3, to(DATA, RW)), Err(Error::WrongType));
    assert_eq!(pin(&sim, &mut space, 1, DATA), Err(Error::WrongType));
    check(&sim, &outside);
}

/// XSA-182: the fast path for a change of flags may not add write permission.
#[test]
fn a_change_of_flags_is_checked_too() {
    let (sim, mut space, outside) = running();
    assert_eq!(store(&sim, &mut space, L1, 1, to(L1, RW)), Err(Error::WrongType));
    let set = Operation::BitSet(1);
    assert_eq!(update_entry_emulated(&sim, &mut space, L1, 1, set), Err(Error::WrongType));
    assert_eq!(store(&sim, &mut space, L1, 0, to(DATA, RW | PCD)), Err(Error::ReservedBits));
    assert_eq!(store(&sim, &mut space, L1, 0, to(DATA, RW | PAT_PS)), Err(Error::ReservedBits));
    check(&sim, &outside);
}

/// XSA-148: changing an entry never creates a large page.
#[test]
fn there_are_no_large_pages() {
    let (sim, mut space, outside) = running();
    for (table, below) in [(L2, L1), (L3, L2), (L4, L3)] {
        let large = to(below, RW | PAT_PS);
        assert_eq!(store(&sim, &mut space, table, 0, large), Err(Error::ReservedBits));
        assert_eq!(store(&sim, &mut space, table, 1, large), Err(Error::ReservedBits));
    }
    sim.poke(7, 0, to(DATA, RW | PAT_PS));
    assert_eq!(pin(&sim, &mut space, 2, 7), Err(Error::ReservedBits));
    check(&sim, &outside);
}

/// XSA-185, XSA-240: a table never leads to a table of its own level, itself included.
#[test]
fn no_links_within_a_level() {
    let (sim, mut space, outside) = running();
    for table in [L4, L3, L2] {
        assert_eq!(store(&sim, &mut space, table, 9, to(table, 0)), Err(Error::WrongType));
    }
    sim.poke(2, 5, to(2, RW));
    assert_eq!(pin(&sim, &mut space, 4, 2), Err(Error::WrongType));
    sim.poke(4, 5, to(L3, RW));
    assert_eq!(pin(&sim, &mut space, 3, 4), Err(Error::WrongType));
    assert_eq!(sim.word(2).references() + sim.word(4).references(), 0);
    check(&sim, &outside);
}

/// XSA-58: a pin that fails drops exactly the references that it took.
#[test]
fn a_failed_pin_leaves_no_trace() {
    let (sim, mut space) = tree();
    sim.poke(L1, 511, to(OTHERS, RW));
    for level in [(4, L4), (3, L3), (2, L2), (1, L1)] {
        assert_eq!(pin(&sim, &mut space, level.0, level.1), Err(Error::NotOwned));
        for mfn in 0..64 {
            assert_eq!(sim.word(mfn).references(), 0, "frame {mfn}");
        }
    }
    sim.poke(L1, 511, 0);
    pin(&sim, &mut space, 4, L4).unwrap();
    assert_eq!(pin(&sim, &mut space, 4, L4), Err(Error::Invalid));
    assert_eq!(sim.word(L4).count(), 1);
}

#[test]
fn frames_and_tables_of_others_are_out_of_reach() {
    let (sim, mut space, outside) = running();
    assert_eq!(store(&sim, &mut space, L1, 3, to(OTHERS, 0)), Err(Error::NotOwned));
    assert_eq!(store(&sim, &mut space, L1, 3, to(60, 0)), Err(Error::NotOwned));
    assert_eq!(store(&sim, &mut space, L1, 3, to(0, 0)), Err(Error::NotOwned));
    assert_eq!(store(&sim, &mut space, L1, 3, to(64, 0)), Err(Error::NoFrame));
    assert_eq!(store(&sim, &mut space, L2, 3, to(OTHERS, 0)), Err(Error::NotOwned));
    assert_eq!(store(&sim, &mut space, OTHERS, 3, 0), Err(Error::NotOwned));
    assert_eq!(store(&sim, &mut space, u64::MAX, 3, 0), Err(Error::NoFrame));
    // XSA-109, XSA-212: an index past the table is refused as well.
    assert_eq!(store(&sim, &mut space, L1, 512, 0), Err(Error::Invalid));
    assert_eq!(store(&sim, &mut space, DATA, usize::MAX, 0), Err(Error::Invalid));
    assert_eq!(pin(&sim, &mut space, 1, OTHERS), Err(Error::NotOwned));
    assert_eq!(unpin(&sim, &mut space, OTHERS), Err(Error::NotOwned));
    assert_eq!(get_base(&sim, &mut space, OTHERS), Err(Error::NotOwned));
    check(&sim, &outside);
}

#[test]
fn the_monitors_slots_are_its_own() {
    let (sim, mut space, outside) = running();
    for index in [256, 271] {
        assert_eq!(store(&sim, &mut space, L4, index, 0), Err(Error::Invalid));
        assert_eq!(sim.raw(L4, index), sim.slots[index - 256]);
    }
    store(&sim, &mut space, L4, 272, to(L3, RW)).unwrap();
    store(&sim, &mut space, L4, 255, to(L3, RW)).unwrap();
    // The monitor's entries are refused in a table of a lower level.
    sim.poke(11, 256, sim.slots[0]);
    assert_eq!(pin(&sim, &mut space, 1, 11), Err(Error::NotOwned));
    check(&sim, &outside);
}

/// XSA-241, XSA-401: no CPU can write to a new table through an old translation.
#[test]
fn a_walk_reads_the_partitions_validated_tables_alone() {
    let (sim, space, _) = running();
    let find = |root, va| find_entry(&sim, &space, root, va);
    assert_eq!(find(L4, 0), Some((L1, 0)));
    assert_eq!(find(L4, 0x1f_f008), Some((L1, 511)));
    assert_eq!(find(L4, 1 << 21), None, "nothing is there");
    assert_eq!(find(L3, 0), None, "a root of level 3");
    assert_eq!(find(0, 0), None, "no root");
    assert_eq!(find(u64::MAX >> 12, 0), None, "no frame");
    assert_eq!(find_entry(&sim, &Space::new(2, OWN_SLOT), L4, 0), None, "another's tables");

    // A walk without these checks would follow two kinds of entries: one that leads to an unchecked
    // page of the partition, and those in the monitor's slots, which may even be large pages.
    sim.poke(DATA, 0, to(DATA, 0));
    for slot in 256..272 {
        for flags in [RW, RW | PAT_PS] {
            for mfn in [DATA, OTHERS, 60] {
                sim.poke(L4, slot, to(mfn, flags));
                let first = 0xffff_0000_0000_0000 | (slot as u64) << 39;
                assert_eq!(find(L4, first), None);
                assert_eq!(find(L4, first + (1 << 39) - 8), None);
            }
        }
    }
    sim.poke(L4, 255, to(L3, RW));
    sim.poke(L4, 272, to(L3, RW));
    assert_eq!(find(L4, 255 << 39), Some((L1, 0)), "before the monitor's slots");
    assert_eq!(find(L4, 0xffff_8800_0000_0000), Some((L1, 0)), "after them");
    for va in [0x0000_8000_0000_0000, 0xffff_7fff_ffff_fff8, 1 << 63, 1 << 48] {
        assert_eq!(find(L4, va), None, "{va:#x} is not canonical");
    }
    // Entries that no check would accept.
    for (table, wrong) in [(L4, L2), (L3, L1), (L2, DATA), (L2, OTHERS), (L3, 60)] {
        let right = sim.raw(table, 0);
        sim.poke(table, 0, to(wrong, RW | US));
        assert_eq!(find(L4, 0), None, "{table} to {wrong}");
        sim.poke(table, 0, right | PAT_PS);
        assert_eq!(find(L4, 0), None, "a large page in {table}");
        sim.poke(table, 0, right);
    }
}

#[test]
fn a_type_change_is_flushed_for_first() {
    let (sim, mut space, _) = running();
    store(&sim, &mut space, L1, 0, 0).unwrap();
    let before = sim.flushes(1);
    pin(&sim, &mut space, 1, DATA).unwrap();
    assert_eq!(sim.flushes(1), before + 1);
    sim.check_caches();
    // In the other direction, no CPU walks a page that became writable.
    unpin(&sim, &mut space, DATA).unwrap();
    store(&sim, &mut space, L1, 0, to(DATA, RW)).unwrap();
    assert_eq!(sim.flushes(1), before + 2);
}

#[test]
fn a_flush_that_happened_is_not_repeated() {
    let (sim, mut space, _) = running();
    store(&sim, &mut space, L1, 0, 0).unwrap();
    sim.flush_now(1);
    let before = sim.flushes(1);
    pin(&sim, &mut space, 1, DATA).unwrap();
    // No flush is needed if the type stays.
    store(&sim, &mut space, L1, 5, to(21, RW)).unwrap();
    store(&sim, &mut space, L1, 5, 0).unwrap();
    store(&sim, &mut space, L1, 5, to(21, RW)).unwrap();
    assert_eq!(sim.flushes(1), before);
}

/// Another partition's CPUs hold the translation, not those of the frame's owner.
#[test]
fn a_granted_page_that_is_overwritten_is_flushed_at_once() {
    let (sim, mut space, mut outside) = running();
    map_foreign(&sim, &mut space, L1, 4, to(OTHERS, RW), 2).unwrap();
    outside.granted.push((1, OTHERS, true));
    sim.cache(1, &[L4]);
    check(&sim, &outside);
    let before = sim.flushes(1);
    store(&sim, &mut space, L1, 4, 0).unwrap();
    assert_eq!(sim.flushes(1), before + 1);
    pin(&sim, &mut Space::new(2, OWN_SLOT), 1, OTHERS).unwrap();
    sim.check_caches();
}

/// One flush for each of 510 entries would hold up both CPUs.
#[test]
fn a_table_of_granted_pages_is_dropped_with_one_flush() {
    let (sim, mut space) = tree();
    pin(&sim, &mut space, 1, L1).unwrap();
    for index in 0..ENTRIES {
        map_foreign(&sim, &mut space, L1, index, to(OTHERS, RW), 2).unwrap();
    }
    let before = sim.flushes(1);
    unpin(&sim, &mut space, L1).unwrap();
    assert_eq!(sim.flushes(1), before + 1);
    assert_eq!(sim.word(OTHERS).references(), 0);
    pin(&sim, &mut Space::new(2, OWN_SLOT), 1, OTHERS).unwrap();
    sim.check_caches();
}

/// A full table of level 1 is too much for one call, to take or to drop.
#[test]
fn work_on_a_table_of_level_1_stops_and_goes_on() {
    let (sim, mut space) = tree();
    (0..ENTRIES).for_each(|index| sim.poke(L1, index, to(DATA, 0)));
    sim.budget.store(0, Ordering::Relaxed);
    let mut calls = 1;
    while pin(&sim, &mut space, 1, L1) == Err(Error::Again) {
        check(&sim, &Outside::default());
        calls += 1;
    }
    assert_eq!(calls, 8);
    unpin(&sim, &mut space, L1).unwrap();
    let mut calls = 0;
    while space.finish(&sim).is_err() {
        check(&sim, &Outside::default());
        calls += 1;
    }
    assert!(calls > 0);
    assert!((0..64).all(|mfn| sim.word(mfn).references() == 0));
}

/// XSA-234: unmapping checks frame and permission of the entry.
#[test]
fn unmapping_takes_the_right_entry_only() {
    let (sim, mut space, mut outside) = running();
    map_foreign(&sim, &mut space, L1, 4, to(OTHERS, 0), 2).unwrap();
    outside.granted.push((1, OTHERS, false));
    let mut unmap =
        |index, mfn, writable| unmap_entry_expect(&sim, &mut space, L1, index, mfn, writable);
    assert_eq!(unmap(4, OTHERS, true), Err(Error::Invalid));
    assert_eq!(unmap(4, OTHERS + 1, false), Err(Error::Invalid));
    assert_eq!(unmap(5, OTHERS, false), Err(Error::Invalid));
    assert_eq!(unmap(600, OTHERS, false), Err(Error::Invalid));
    let what = unmap(4, OTHERS, false).unwrap();
    assert_eq!(sim.word(OTHERS).references(), 1);
    sim.flush_before_retype(space.partition(), sim.stamp());
    release(&sim, what);
    assert_eq!(sim.word(OTHERS).references(), 0);
    check(&sim, &outside);
}

/// An entry that moves to another place keeps its reference, and the old place is empty.
#[test]
fn replacing_moves_an_entry() {
    let (sim, mut space, mut outside) = running();
    map_foreign(&sim, &mut space, L1, 4, to(OTHERS, 0), 2).unwrap();
    outside.granted.push((1, OTHERS, false));
    store(&sim, &mut space, L1, 5, to(DATA, RW)).unwrap();
    let mut replace = |to: usize, from: (u64, usize), mfn, writable| {
        replace_entry_expect(&sim, &mut space, (L1, to), from, mfn, writable)
    };
    for (to, from, mfn, writable) in [
        (4, (L1, 5), OTHERS, true),
        (4, (L1, 5), OTHERS + 1, false),
        (6, (L1, 5), OTHERS, false),
        (4, (L1, 4), OTHERS, false),
        (4, (L1, 600), OTHERS, false),
        (600, (L1, 5), OTHERS, false),
    ] {
        assert_eq!(replace(to, from, mfn, writable), Err(Error::Invalid), "{to} {from:?}");
    }
    for not_level_1 in [L2, DATA] {
        let outcome = replace(4, (not_level_1, 0), OTHERS, false);
        assert_eq!(outcome, Err(Error::WrongType), "{not_level_1}");
    }
    check(&sim, &outside);
    let moved = sim.raw(L1, 5);
    let what = replace(4, (L1, 5), OTHERS, false).unwrap();
    assert_eq!((sim.raw(L1, 4), sim.raw(L1, 5)), (moved, 0));
    sim.flush_before_retype(space.partition(), sim.stamp());
    release(&sim, what);
    assert_eq!(sim.word(OTHERS).references(), 0);
    check(&sim, &outside);
}

#[test]
fn a_read_only_grant_stays_read_only_and_is_not_repeated() {
    let (sim, mut space, mut outside) = running();
    map_foreign(&sim, &mut space, L1, 4, to(OTHERS, 0), 2).unwrap();
    outside.granted.push((1, OTHERS, false));
    assert_eq!(store(&sim, &mut space, L1, 4, to(OTHERS, RW)), Err(Error::NotOwned));
    let set = Operation::BitSet(1);
    assert_eq!(update_entry_emulated(&sim, &mut space, L1, 4, set), Err(Error::NotOwned));
    assert_eq!(store(&sim, &mut space, L1, 5, to(OTHERS, 0)), Err(Error::NotOwned));
    store(&sim, &mut space, L1, 4, to(OTHERS, A | NX)).unwrap();
    check(&sim, &outside);
    // Refused: the wrong owner, no owner, not present, a table of the owner.
    let mut map = |value, owner| map_foreign(&sim, &mut space, L1, 6, value, owner);
    assert_eq!(map(to(OTHERS, 0), 3), Err(Error::NotOwned));
    assert_eq!(map(to(0, 0), 0), Err(Error::NotOwned));
    assert_eq!(map(OTHERS << 12, 2), Err(Error::Invalid));
    pin(&sim, &mut Space::new(2, OWN_SLOT), 1, 41).unwrap();
    assert_eq!(map(to(41, RW), 2), Err(Error::WrongType));
    check(&sim, &outside);
}

/// XSA-45, XSA-264: long work stops, each call makes progress, and nothing is lost on the way.
#[test]
fn pinning_stops_and_goes_on() {
    let (sim, mut space) = tree();
    for n in 1..4 {
        sim.poke(L2, n * 100, to(L1 + n as u64, RW));
        sim.poke(L3, n * 100, to(L2 + n as u64, RW));
    }
    sim.budget.store(0, Ordering::Relaxed);
    let mut calls = 1;
    while pin(&sim, &mut space, 4, L4) == Err(Error::Again) {
        check(&sim, &Outside::default());
        calls += 1;
    }
    assert!((7..=9).contains(&calls), "{calls} calls");
    unpin(&sim, &mut space, L4).unwrap();
    while space.finish(&sim).is_err() {
        check(&sim, &Outside::default());
    }
    assert!((0..64).all(|mfn| sim.word(mfn).references() == 0));
}

/// XSA-299, XSA-310: work that is never continued can be taken over, or dropped with its partition.
#[test]
fn an_abandoned_pin_can_be_taken_over_or_destroyed() {
    let (sim, mut space) = tree();
    sim.poke(L4, 1, to(4, RW));
    sim.budget.store(0, Ordering::Relaxed);
    assert_eq!(pin(&sim, &mut space, 4, L4), Err(Error::Again));
    assert!(sim.word(L4).is_partial());
    // It cannot be held as a writable page, nor taken as a table of another level, nor changed.
    assert_eq!(hold(&sim, 1, L4, true), Err(Error::WrongType));
    assert_eq!(pin(&sim, &mut space, 3, L4), Err(Error::WrongType));
    check(&sim, &Outside::default());
    if sim.word(L4).is_partial() {
        assert_eq!(store(&sim, &mut space, L4, 5, 0), Err(Error::Busy));
        assert_eq!(unpin(&sim, &mut space, L4), Err(Error::Invalid));
    }
    let mut next = 0;
    while drop_range(&sim, &mut space, &mut next, 64) == Err(Error::Again) {
        check(&sim, &Outside::default());
    }
    assert!((0..64).all(|mfn| sim.word(mfn).references() == 0));
}

/// If the named ranges leave out a pinned table, the space still counts that table.
#[test]
fn a_table_that_no_range_names_is_still_counted() {
    let (sim, mut space) = tree();
    pin(&sim, &mut space, 4, L4).unwrap();
    let tables = space.tables();
    assert!(tables >= 4, "{tables}");
    for range in [L4 + 1..64, 0..L4] {
        let mut next = range.start;
        while drop_range(&sim, &mut space, &mut next, range.end) == Err(Error::Again) {}
        assert_eq!(space.tables(), tables);
    }
    let mut next = L4;
    while drop_range(&sim, &mut space, &mut next, L4 + 1) == Err(Error::Again) {}
    assert_eq!(space.tables(), 0);
}

/// XSA-214, XSA-217, XSA-252: a frame keeps its owner while anything refers to it.
#[test]
fn frames_in_use_keep_their_owner() {
    let (sim, mut space, _) = running();
    for mfn in [L4, L3, L2, L1, DATA] {
        assert!(sim.frames[mfn as usize].set_owner(1, 2, Kind::Ram).is_err());
    }
    store(&sim, &mut space, L1, 0, 0).unwrap();
    sim.frames[DATA as usize].set_owner(1, 2, Kind::Ram).unwrap();
    assert_eq!(counts(&sim, DATA), (Type::None, 0, 0));
    assert_eq!(store(&sim, &mut space, L1, 0, to(DATA, 0)), Err(Error::NotOwned));
}

/// The flush that a frame needs is still made after its partition made the frame idle and took it
/// back.
#[test]
fn a_frame_that_was_set_aside_is_flushed_for() {
    let (sim, mut space, _) = running();
    store(&sim, &mut space, L1, 0, 0).unwrap();
    sim.frames[DATA as usize].set_owner(1, 1, Kind::Private).unwrap();
    sim.frames[DATA as usize].set_owner(1, 1, Kind::Ram).unwrap();
    pin(&sim, &mut space, 1, DATA).unwrap();
    sim.check_caches();
}

#[test]
fn instance_memory_is_shared_but_never_a_table() {
    let (sim, mut space, outside) = running();
    sim.frames[27].set_owner(1, 1, Kind::InstanceShared).unwrap();
    sim.frames[28].set_owner(1, 1, Kind::Private).unwrap();
    store(&sim, &mut space, L1, 3, to(27, RW)).unwrap();
    assert_eq!(pin(&sim, &mut space, 1, 27), Err(Error::NotOwned));
    assert_eq!(get_descriptors(&sim, &mut space, 27), Err(Error::NotOwned));
    assert_eq!(store(&sim, &mut space, L1, 4, to(28, 0)), Err(Error::NotOwned));
    assert_eq!(store(&sim, &mut space, 28, 4, 0), Err(Error::NotOwned));
    check(&sim, &outside);
}

/// XSA-154, XSA-402: every mapping of RAM has the same cacheability.
#[test]
fn the_cacheability_of_ram_is_fixed() {
    let (sim, mut space, _) = running();
    for bit in [PCD, bits::PWT, bits::PAT_PS] {
        assert_eq!(store(&sim, &mut space, L1, 3, to(DATA, bit)), Err(Error::ReservedBits));
    }
}

/// Registers of a device, which no frame record describes.
const REGISTERS: u64 = 0xfebd0;

fn map(sim: &Sim, space: &mut Space, at: (u64, usize), mfn: u64) -> Result<(), Error> {
    let place = Place { table: Mfn::new(at.0), index: at.1 };
    map_device(sim, space, place, Mfn::new(mfn), 7)
}

fn device_entries(sim: &Sim) -> i64 {
    sim.device_entries[7].load(Ordering::SeqCst)
}

#[test]
fn device_memory_is_mapped_by_the_monitor_alone_and_counted() {
    let (sim, mut space, outside) = running();
    map(&sim, &mut space, (L1, 3), REGISTERS).unwrap();
    assert_eq!(device_entries(&sim), 1);
    let entry = sim.raw(L1, 3);
    assert_eq!(Mfn::of_entry(entry), Mfn::new(REGISTERS));
    assert_eq!(entry & (bits::CACHE | RW), bits::PWT | PCD | RW);
    assert_eq!(map(&sim, &mut space, (L1, 3), REGISTERS), Err(Error::Busy));
    assert_eq!(map(&sim, &mut space, (L2, 3), REGISTERS), Err(Error::WrongType));
    assert_eq!(map(&sim, &mut space, (DATA, 3), REGISTERS), Err(Error::WrongType));
    assert_eq!(map(&sim, &mut space, (L1, 4), 1 << 41), Err(Error::NoFrame));
    // The partition cannot make such an entry, or change it, and it can remove it.
    for value in [entry, entry & !RW, entry | 1 << 52, entry & !A] {
        assert_eq!(store(&sim, &mut space, L1, 4, value), Err(Error::ReservedBits));
        assert_eq!(store(&sim, &mut space, L1, 3, value), Err(Error::ReservedBits));
    }
    // What ends a mapping of another's memory does not touch it.
    let unmapped = unmap_entry_expect(&sim, &mut space, L1, 3, REGISTERS, true);
    assert_eq!(unmapped.err(), Some(Error::Invalid));
    let replaced = replace_entry_expect(&sim, &mut space, (L1, 3), (L1, 4), REGISTERS, true);
    assert_eq!(replaced.err(), Some(Error::Invalid));
    assert_eq!(device_entries(&sim), 1);
    store(&sim, &mut space, L1, 3, 0).unwrap();
    assert_eq!(device_entries(&sim), 0);
    check(&sim, &outside);
}

#[test]
fn entries_of_device_memory_go_with_their_table_and_do_not_come_back() {
    let (sim, mut space, _) = running();
    pin(&sim, &mut space, 1, 22).unwrap();
    for index in [0, 300, 511] {
        map(&sim, &mut space, (22, index), REGISTERS).unwrap();
    }
    assert_eq!(device_entries(&sim), 3);
    unpin(&sim, &mut space, 22).unwrap();
    assert_eq!(device_entries(&sim), 0);
    assert_eq!(pin(&sim, &mut space, 1, 22), Err(Error::ReservedBits));
    assert_eq!(device_entries(&sim), 0);
    // Another mapping takes the place of the entry.
    map(&sim, &mut space, (L1, 3), REGISTERS).unwrap();
    store(&sim, &mut space, L1, 3, to(DATA, 0)).unwrap();
    assert_eq!(device_entries(&sim), 0);
}

#[test]
fn descriptor_pages_are_checked_and_not_writable() {
    const CODE: u64 = 0x00AF_9B00_0000_FFFF;
    const DPL3: u64 = 3 << 45;
    const CALL_GATE: u64 = 0x0000_EC00_0010_0000;
    let (sim, mut space, mut outside) = running();
    sim.poke(21, 2, CODE);
    sim.poke(21, 9, CALL_GATE);
    assert_eq!(get_descriptors(&sim, &mut space, 21), Err(Error::Invalid));
    assert_eq!(counts(&sim, 21).2, 0);
    update_descriptor(&sim, &mut space, 21, 9, 0).unwrap();
    get_descriptors(&sim, &mut space, 21).unwrap();
    get_descriptors(&sim, &mut space, 21).unwrap();
    outside.descriptors = vec![(1, 21); 2];
    check(&sim, &outside);
    assert_eq!(sim.raw(21, 2), CODE | DPL3);
    assert_eq!(store(&sim, &mut space, L1, 3, to(21, RW)), Err(Error::WrongType));
    assert_eq!(store(&sim, &mut space, 21, 3, CODE), Err(Error::WrongType));
    for refused in [CALL_GATE, 0x0000_8900_0000_0067, 0x0000_8200_0000_0067] {
        assert_eq!(update_descriptor(&sim, &mut space, 21, 3, refused), Err(Error::Invalid));
    }
    assert_eq!(update_descriptor(&sim, &mut space, L1, 3, 0), Err(Error::WrongType));
    update_descriptor(&sim, &mut space, 21, 3, CODE).unwrap();
    assert_eq!(sim.raw(21, 3), CODE | DPL3);
    put_descriptors(&sim, &space, 21);
    put_descriptors(&sim, &space, 21);
    store(&sim, &mut space, L1, 3, to(21, RW)).unwrap();
}

#[test]
fn the_monitor_holds_frames_for_itself() {
    let (sim, mut space, _) = running();
    let held = hold(&sim, 1, 22, true).unwrap();
    assert_eq!(held, reference(22, true));
    assert_eq!(pin(&sim, &mut space, 1, 22), Err(Error::WrongType));
    release(&sim, held);
    assert_eq!(hold(&sim, 2, 22, true), Err(Error::NotOwned));
    assert_eq!(hold(&sim, 1, L1, true), Err(Error::WrongType));
    release(&sim, hold(&sim, 1, L1, false).unwrap());
    pin(&sim, &mut space, 1, 22).unwrap();
}
