//! Attempts on the rules of page tables and descriptor tables with the caller's own frames: which
//! references and which writes are allowed.
//!
//! Attempts whose names begin with `control` must succeed. They show that the other attempts are
//! refused because of their purpose, and not because they name a wrong place.

use pv_abi::xen::domid;
use pv_abi::xen::grants;
use pv_abi::xen::hypercall as number;
use pv_abi::xen::memory::{DECREASE_RESERVATION, EXCHANGE};
use pv_abi::xen::mmu::{self, PTE_PAT, PTE_PCD, PTE_PRESENT, PTE_PSE, PTE_PWT};
use pv_abi::xen::vcpu::{
    REGISTER_RUNSTATE_MEMORY_AREA, REGISTER_VCPU_TIME_MEMORY_AREA, RegisterArea,
};

use crate::attempt::{
    Arg, Attempt, Expected, FAULT, FORBIDDEN, INVALID, NO_SUCH_CALL, NOT_YOURS, memory, with_list,
};
use crate::frames::{
    COPY_STATUS, EXTENT_START, MAP_STATUS, NO_COPY, copy, end, extended, map_own, readable,
    reservation, update, writable,
};
use crate::ground::{Ground, Page};
use crate::wild::NOT_CANONICAL;

/// All attempts on own tables.
pub fn attempts(ground: &Ground) -> Vec<Attempt> {
    let mut all = controls(ground);
    all.extend(levels(ground));
    all.extend(bits(ground));
    all.extend(absent(ground));
    all.extend(writable_tables(ground));
    all.extend(pins(ground));
    all.extend(grants_of_tables(ground));
    all.extend(descriptors(ground));
    all.extend(elsewhere(ground));
    all
}

fn set(
    name: &str,
    stands_for: &'static str,
    table: Page,
    index: u64,
    val: u64,
    expected: Expected,
) -> Attempt {
    let args = update(table.mfn, index, 0, val);
    Attempt::new(name, stands_for, number::MMU_UPDATE, args, expected)
}

fn controls(ground: &Ground) -> Vec<Attempt> {
    let (l1, data, done) = (ground.tables[0], ground.data, Expected::Value(0));
    let why = "the same call with a frame of the caller's own";
    let own = end(data.mfn, domid::SELF);
    let operation = memory(&copy(own, own, 0));
    vec![
        set("control: map own page", why, l1, 0, writable(data.mfn), done),
        set("control: map own table for reading", why, l1, 1, readable(l1.mfn), done),
        set("control: clear an entry", why, l1, 0, 0, done),
        set("control: clear another", why, l1, 1, 0, done),
        Attempt::new(
            "control: copy own page",
            why,
            number::GRANT_TABLE_OP,
            [grants::COPY.into(), operation, 1.into()],
            Expected::Status(COPY_STATUS, &[grants::GNTST_OKAY]),
        ),
    ]
}

/// Attempts with links between tables of wrong levels, and with the monitor's slots.
fn levels(ground: &Ground) -> Vec<Attempt> {
    let [l1, l2, l3, l4] = ground.tables;
    let linear = "XSA-240: no table refers to one of its own level";
    let wrong = "an entry of level n leads to a table of level n-1";
    let hole = "slots 256 to 271 are the monitor's in every address space";
    let link =
        |name: &str, why, table, to: Page| set(name, why, table, 2, writable(to.mfn), INVALID);
    let slot = |index| {
        let name = format!("write slot {index} of level 4");
        set(&name, hole, l4, index, writable(l3.mfn), INVALID)
    };
    let mut all = vec![
        link("level 2 to itself", linear, l2, l2),
        link("level 3 to itself", linear, l3, l3),
        link("level 4 to itself", linear, l4, l4),
        link("level 2 to level 3", wrong, l2, l3),
        link("level 3 to level 1", wrong, l3, l1),
        link("level 4 to level 2", wrong, l4, l2),
        link("level 2 to a writable page", wrong, l2, ground.data),
        link("level 2 to descriptors", wrong, l2, ground.descriptors),
    ];
    all.extend([256, 257, 263, 271].map(slot));
    all
}

/// Attempts with forbidden bits in an entry.
fn bits(ground: &Ground) -> Vec<Attempt> {
    let [l1, l2, l3, l4] = ground.tables;
    let large = "XSA-148: no large page, on a new entry or an old one";
    let cache = "XSA-154: cacheability is not a partition's to choose";
    let data = writable(ground.data.mfn);
    let old = |table: Page| writable(table.mfn) | PTE_PSE;
    let level_1 = |name: &str, bits| set(name, cache, l1, 0, data | bits, INVALID);
    vec![
        set("large page in level 2", large, l2, 3, data | PTE_PSE, INVALID),
        set("large page in level 3", large, l3, 3, data | PTE_PSE, INVALID),
        set("large page in level 4", "XSA-176", l4, 3, data | PTE_PSE, INVALID),
        set("link of level 2 made large", large, l2, 0, old(l1), INVALID),
        set("link of level 3 made large", large, l3, 0, old(l2), INVALID),
        level_1("write-through page", PTE_PWT),
        level_1("uncached page", PTE_PCD),
        level_1("page with another attribute", PTE_PAT),
    ]
}

/// Attempts with entries that are not present. Kernels write such entries with the address
/// inverted. Other forms are refused if they would let the CPU read memory; the caller of this
/// program says whether they would.
fn absent(ground: &Ground) -> Vec<Attempt> {
    let [l1, l2, ..] = ground.tables;
    let why = "XSA-273: a CPU reads cached memory at the address in an entry that is not present";
    // Without the rule, these attempts are controls and must succeed.
    let (kind, names_memory) = match std::env::var_os("ABSENT_REFUSED") {
        Some(_) => ("", INVALID),
        None => ("control: ", Expected::Value(0)),
    };
    let memory = |name| format!("{kind}absent, {name}");
    let done = Expected::Value(0);
    let own = writable(ground.data.mfn) & !PTE_PRESENT;
    let inverted = !(ground.data.mfn << 12) & ((1 << 52) - 4096) | 1 << 8;
    vec![
        set(&memory("own page"), why, l1, 6, own, names_memory),
        set(&memory("page of the monitor"), why, l1, 6, 0x300 << 12, names_memory),
        set(&memory("own page in level 2"), why, l2, 6, own, names_memory),
        set("control: absent, inverted address", why, l1, 6, inverted, done),
        set("control: absent, only flags", why, l1, 6, 1 << 8, done),
        set("control: absent, nothing", why, l1, 6, 0, done),
        set("control: absent, nothing in level 2", why, l2, 6, 0, done),
    ]
}

/// Attempts to write a table that is in use.
fn writable_tables(ground: &Ground) -> Vec<Attempt> {
    let why = "a table is written through the monitor alone";
    let l1 = ground.tables[0];
    let typed = ground.tables.into_iter().chain([ground.descriptors]);
    let mut all = Vec::new();
    for (index, page) in (1..).zip(typed) {
        let entry = format!("map table {index} for writing");
        all.push(set(&entry, why, l1, 0, writable(page.mfn), INVALID));
        all.push(Attempt::new(
            format!("map table {index} for writing at its address"),
            why,
            number::UPDATE_VA_MAPPING,
            [page.address().into(), writable(page.mfn).into(), 0.into()],
            INVALID,
        ));
        let area = RegisterArea { address: page.address() };
        for (what, command) in
            [("runstate", REGISTER_RUNSTATE_MEMORY_AREA), ("time", REGISTER_VCPU_TIME_MEMORY_AREA)]
        {
            all.push(Attempt::new(
                format!("{what} record in table {index}"),
                "the monitor writes records to writable memory alone",
                number::VCPU_OP,
                [command.into(), 0.into(), memory(&area)],
                FAULT,
            ));
        }
    }
    all
}

/// Attempts with pins and roots, and to release frames that are in use.
fn pins(ground: &Ground) -> Vec<Attempt> {
    let [l1, _, _, l4] = ground.tables;
    let extended = |name: &str, why, cmd, mfn, expected| {
        let args = extended(cmd, mfn, 0);
        Attempt::new(name, why, number::MMUEXT_OP, args, expected)
    };
    let twice = "XSA-58: a pin is taken once and given back once";
    let root = "only a validated level-4 table is a root";
    let give_back = |name: &str, page: Page| {
        let list = with_list(&reservation(domid::SELF, 0, 1), EXTENT_START, &[page.mfn]);
        Attempt::new(
            name,
            "XSA-252: what is in use is not given back; the count of frames done stays 0",
            number::MEMORY_OP,
            [DECREASE_RESERVATION.into(), list],
            Expected::Value(0),
        )
    };
    vec![
        extended("pin again", twice, mmu::EXT_PIN_L1_TABLE, l1.mfn, INVALID),
        extended("pin as another level", twice, mmu::EXT_PIN_L2_TABLE, l4.mfn, INVALID),
        extended(
            "unpin a table that is not pinned",
            twice,
            mmu::EXT_UNPIN_TABLE,
            ground.data.mfn,
            INVALID,
        ),
        extended(
            "pin a page that is mapped writable",
            "XSA-241: a table has no writable mapping",
            mmu::EXT_PIN_L1_TABLE,
            ground.data.mfn,
            INVALID,
        ),
        extended("root of level 1", root, mmu::EXT_NEW_BASEPTR, l1.mfn, INVALID),
        extended("user root of level 1", root, mmu::EXT_NEW_USER_BASEPTR, l1.mfn, INVALID),
        extended("root of data", root, mmu::EXT_NEW_BASEPTR, ground.data.mfn, INVALID),
        give_back("give back a pinned table", l1),
        give_back("give back loaded descriptors", ground.descriptors),
        give_back("give back a mapped page", ground.data),
    ]
}

/// Attempts to use tables as the target of own grants and copies.
fn grants_of_tables(ground: &Ground) -> Vec<Attempt> {
    let l1 = ground.tables[0];
    let entry =
        u64::from(grants::GTF_PERMIT_ACCESS) | u64::from(ground.number as u16) << 16 | l1.mfn << 32;
    let data = entry & 0xffff_ffff | ground.data.mfn << 32;
    let call = |name: &str, why, grant, command: u64, operation: Arg, expected| Attempt {
        grant: Some(grant),
        ..Attempt::new(
            name,
            why,
            number::GRANT_TABLE_OP,
            [command.into(), operation, 1.into()],
            expected,
        )
    };
    let (own, granted) = (end(ground.data.mfn, domid::SELF), end(ground.grant.into(), domid::SELF));
    let table = end(l1.mfn, domid::SELF);
    let by_grant = grants::GNTCOPY_DEST_GREF;
    let refused =
        Expected::Status(MAP_STATUS, &[grants::GNTST_GENERAL_ERROR, grants::GNTST_BAD_VIRT_ADDR]);
    let slot = |address| memory(&map_own(ground, address));
    let written = "a table is written through the monitor alone";
    let place = "XSA-227: a grant is mapped by an aligned entry of a level-1 table of the caller";
    let mut device = map_own(ground, l1.mfn << 12);
    device.flags = grants::GNTMAP_DEVICE_MAP;
    let mut nowhere = device;
    nowhere.flags = 0;
    vec![
        call(
            "grant a table for writing",
            written,
            entry,
            grants::MAP_GRANT_REF,
            slot(l1.mfn << 12 | 16),
            refused,
        ),
        call(
            "copy into a granted table",
            written,
            entry,
            grants::COPY,
            memory(&copy(own, granted, by_grant)),
            NO_COPY,
        ),
        call("copy into a table", written, 0, grants::COPY, memory(&copy(own, table, 0)), NO_COPY),
        call(
            "map at an entry that is not aligned",
            place,
            data,
            grants::MAP_GRANT_REF,
            slot(l1.mfn << 12 | 20),
            refused,
        ),
        call(
            "map in a page that is not a table",
            place,
            data,
            grants::MAP_GRANT_REF,
            slot(ground.data.mfn << 12),
            refused,
        ),
        call(
            "map in a table of level 2",
            place,
            data,
            grants::MAP_GRANT_REF,
            slot(ground.tables[1].mfn << 12 | 16),
            refused,
        ),
        call(
            "hold a table for devices, which may write",
            written,
            entry,
            grants::MAP_GRANT_REF,
            memory(&device),
            refused,
        ),
        call(
            "map nowhere",
            "a mapping has a place, or is for devices",
            data,
            grants::MAP_GRANT_REF,
            memory(&nowhere),
            refused,
        ),
        call(
            "copy past the end of a page",
            "a copy stays within its pages",
            0,
            grants::COPY,
            memory(&{
                let mut long = copy(own, own, 0);
                (long.dest.offset, long.len) = (4095, 2);
                long
            }),
            Expected::Status(COPY_STATUS, &[grants::GNTST_BAD_COPY_ARG]),
        ),
    ]
}

/// Present descriptors that would lead out of ring 3, with their names.
const BAD_DESCRIPTORS: [(&str, u64); 6] = [
    ("available task state", 0x0000_8900_0000_0067),
    ("busy task state", 0x0000_8b00_0000_0067),
    ("local descriptor table", 0x0000_8200_0000_0fff),
    ("call gate", 0x0000_ec00_0008_0000),
    ("interrupt gate", 0x0000_ee00_0008_0000),
    ("trap gate", 0x0000_ef00_0008_0000),
];

fn descriptors(ground: &Ground) -> Vec<Attempt> {
    let (page, why) = (ground.descriptors, "XSA-298: no descriptor leads to ring 0");
    let write = |name: &str, address: u64, value: u64, expected| {
        let args = [address.into(), value.into()];
        Attempt::new(name, why, number::UPDATE_DESCRIPTOR, args, expected)
    };
    let load = |name: &str, address: u64, entries: u64| {
        let args = extended(mmu::EXT_SET_LDT, address, entries);
        Attempt::new(name, why, number::MMUEXT_OP, args, NOT_YOURS)
    };
    let mut all: Vec<_> = BAD_DESCRIPTORS
        .iter()
        .map(|(name, value)| write(name, page.mfn << 12 | 8, *value, INVALID))
        .collect();
    let flat = 0x00cf_fa00_0000_ffff;
    all.extend([
        write("control: a segment of ring 3", page.mfn << 12 | 16, flat, Expected::Value(0)),
        write("descriptor in a page table", ground.tables[0].mfn << 12, flat, INVALID),
        write("descriptor across two", page.mfn << 12 | 4, flat, INVALID),
        load("descriptors in a writable page", ground.data.address(), 512),
        load("descriptors in a page table", ground.tables[0].address(), 512),
        load("descriptors from the middle of a page", page.address() + 8, 8),
        load("more descriptors than there are", page.address(), 8193),
    ]);
    all
}

/// Pages of the monitor: one of each kind, and pages over four GiB of the direct map, which has
/// large pages.
fn monitor_pages() -> Vec<u64> {
    const GIB: u64 = 1 << 30;
    const MONITOR_DIRECT_MAP: u64 = 0xffff_8380_0000_0000;
    let places = [0, 1 << 12, 1 << 21, 5 << 21 | 7 << 12, GIB - (1 << 12)];
    let direct = (0..4).flat_map(|n| places.map(|at| MONITOR_DIRECT_MAP + n * GIB + at));
    let mut all: Vec<_> = crate::wild::MONITOR.into_iter().map(|address| address & !4095).collect();
    all.extend(direct);
    all.sort_unstable();
    all.dedup();
    all
}

/// The last pages before an end of the address space; two pages from here reach past the end.
const EDGES: [u64; 2] = [0x0000_7fff_ffff_f000, 0xffff_ffff_ffff_f000];

/// Maps an own grant at an address that is not the partition's.
fn grant_at(ground: &Ground, address: u64) -> Attempt {
    let mut operation = map_own(ground, address);
    operation.flags = grants::GNTMAP_HOST_MAP;
    let entry = u64::from(grants::GTF_PERMIT_ACCESS) | u64::from(ground.number as u16) << 16;
    Attempt {
        grant: Some(entry | ground.data.mfn << 32),
        ..Attempt::new(
            format!("map a grant at {address:#x}"),
            "addresses of the monitor are not the partition's to map",
            number::GRANT_TABLE_OP,
            [grants::MAP_GRANT_REF.into(), memory(&operation), 1.into()],
            Expected::Status(MAP_STATUS, &[grants::GNTST_BAD_VIRT_ADDR]),
        )
    }
}

/// Attempts with addresses that are not the partition's, and with operations that do not exist.
fn elsewhere(ground: &Ground) -> Vec<Attempt> {
    let monitor = "addresses of the monitor are not the partition's to map";
    let entry = writable(ground.data.mfn);
    let map = |address: u64| {
        Attempt::new(
            format!("map own page at {address:#x}"),
            monitor,
            number::UPDATE_VA_MAPPING,
            [address.into(), entry.into(), 0.into()],
            INVALID,
        )
    };
    let load = |address: u64| {
        Attempt::new(
            format!("descriptors at {address:#x}"),
            "XSA-176: ring 0 walks the partition's own tables alone, and no large page",
            number::MMUEXT_OP,
            extended(mmu::EXT_SET_LDT, address, 1024),
            INVALID,
        )
    };
    let mut all: Vec<_> = monitor_pages().into_iter().chain(NOT_CANONICAL).map(map).collect();
    all.extend(monitor_pages().into_iter().chain(EDGES).chain(NOT_CANONICAL).map(load));
    all.extend(monitor_pages().into_iter().chain(NOT_CANONICAL).map(|at| grant_at(ground, at)));
    let extended = |name: &str, why, cmd, expected| {
        let args = extended(cmd, ground.data.mfn, 0);
        Attempt::new(name, why, number::MMUEXT_OP, args, expected)
    };
    let caches = "XSA-402: caches concern partitions with device memory alone";
    let exchange = [0u64; 16];
    all.extend([
        extended("flush the caches", caches, mmu::EXT_FLUSH_CACHE, FORBIDDEN),
        extended("mark a large page", "XSA-167", mmu::EXT_MARK_SUPER, NO_SUCH_CALL),
        extended("clear a page", "XSA-214", mmu::EXT_CLEAR_PAGE, NO_SUCH_CALL),
        Attempt::new(
            "exchange memory",
            "XSA-212",
            number::MEMORY_OP,
            [EXCHANGE.into(), memory(&exchange)],
            NO_SUCH_CALL,
        ),
    ]);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::samples;

    #[test]
    fn only_controls_may_succeed() {
        let may_succeed = |expected| matches!(expected, Expected::Value(0));
        for attempt in attempts(&samples::ground()) {
            let control = attempt.name.starts_with("control");
            let gives_back = attempt.name.starts_with("give back");
            let status_0 = matches!(attempt.expected, Expected::Status(_, s) if s.contains(&0));
            assert_eq!(
                control || gives_back,
                may_succeed(attempt.expected) || status_0,
                "{}",
                attempt.name
            );
        }
    }

    #[test]
    fn bad_descriptors_are_present_system_descriptors() {
        for (name, value) in BAD_DESCRIPTORS {
            assert_eq!(value >> 44 & 9, 8, "{name}: present, and no segment");
        }
    }
}
