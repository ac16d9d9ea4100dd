//! Attempts on frames of others: to map them, to write them, to have them used as a table, to move
//! them, and to read and write them through grants.

use pv_abi::xen::domid;
use pv_abi::xen::grants::{self, CopyEnd, GrantCopy, MapGrantRef};
use pv_abi::xen::hypercall as number;
use pv_abi::xen::memory::{DECREASE_RESERVATION, MemoryReservation};
use pv_abi::xen::mmu::{self, MmuUpdate, MmuextOp, PTE_PRESENT, PTE_RW, PTE_USER};

use crate::attempt::{Arg, Attempt, Expected, NOT_YOURS, memory, with_list};
use crate::ground::{Foreign, Ground};

/// An entry that maps a frame for reading.
pub fn readable(mfn: u64) -> u64 {
    mfn << 12 | PTE_PRESENT | PTE_USER
}

/// An entry that maps a frame for writing.
pub fn writable(mfn: u64) -> u64 {
    readable(mfn) | PTE_RW
}

/// Arguments of `mmu_update` with one request about this partition.
pub fn update(table: u64, index: u64, command: u64, val: u64) -> [Arg; 4] {
    let request = MmuUpdate { ptr: table << 12 | index << 3 | command, val };
    [memory(&request), 1.into(), 0.into(), u64::from(domid::SELF).into()]
}

/// Arguments of `mmuext_op` with one operation about this partition.
pub fn extended(cmd: u32, arg1: u64, arg2: u64) -> [Arg; 4] {
    let operation = MmuextOp { cmd, pad: 0, arg1, arg2 };
    [memory(&operation), 1.into(), 0.into(), u64::from(domid::SELF).into()]
}

/// Offset of the status in an operation that maps a grant.
pub const MAP_STATUS: usize = std::mem::offset_of!(MapGrantRef, status);
/// Offset of the status in an operation that copies.
pub const COPY_STATUS: usize = std::mem::offset_of!(GrantCopy, status);
/// The refusals of a copy: not permitted, no such partition, no such page.
pub const NO_COPY: Expected = Expected::Status(
    COPY_STATUS,
    &[grants::GNTST_PERMISSION_DENIED, grants::GNTST_BAD_DOMAIN, grants::GNTST_BAD_PAGE],
);

/// All attempts on foreign frames.
pub fn attempts(ground: &Ground) -> Vec<Attempt> {
    let frames = ground.foreign.iter();
    frames.flat_map(|frame| on(ground, frame)).collect()
}

/// All attempts on one frame.
pub fn on(ground: &Ground, frame: &Foreign) -> Vec<Attempt> {
    let mut all = entries(ground, frame);
    all.extend(tables(frame));
    all.extend(moves(frame));
    all.extend(copies(ground, frame));
    all
}

fn named(what: &str, frame: &Foreign) -> String {
    format!("{what}: {} {:#x}", frame.what, frame.mfn)
}

/// Attempts with entries in own tables that name the frame, and with entries in the frame.
fn entries(ground: &Ground, frame: &Foreign) -> Vec<Attempt> {
    let (mfn, [l1, l2, ..]) = (frame.mfn, ground.tables);
    let attempt = |what, stands_for, args| {
        Attempt::new(named(what, frame), stands_for, number::MMU_UPDATE, args, NOT_YOURS)
    };
    let keeping = mmu::PT_UPDATE_PRESERVE_AD;
    vec![
        attempt(
            "map for reading",
            "memory belongs to one partition",
            update(l1.mfn, 0, 0, readable(mfn)),
        ),
        attempt(
            "map for writing",
            "memory belongs to one partition",
            update(l1.mfn, 0, 0, writable(mfn)),
        ),
        attempt(
            "map, keeping accessed and dirty",
            "XSA-182: another path to the same entry checks the same",
            update(l1.mfn, 1, keeping, writable(mfn)),
        ),
        attempt(
            "link as level-1 table",
            "XSA-109: a table of another is no table of ours",
            update(l2.mfn, 1, 0, writable(mfn)),
        ),
        attempt(
            "write as a table entry",
            "XSA-109: mmu_update writes frames of the caller alone",
            update(mfn, 0, 0, 0),
        ),
        attempt(
            "write its machine-to-physical entry",
            "XSA-113: frames of the caller alone",
            update(mfn, 0, mmu::MACHPHYS_UPDATE, 0),
        ),
        Attempt::new(
            named("map at an address", frame),
            "memory belongs to one partition",
            number::UPDATE_VA_MAPPING,
            [ground.page_address.into(), writable(mfn).into(), 0.into()],
            NOT_YOURS,
        ),
    ]
}

/// Attempts that use the frame as a table.
fn tables(frame: &Foreign) -> Vec<Attempt> {
    let attempt = |what, cmd| {
        Attempt::new(
            named(what, frame),
            "XSA-58: what is refused takes no reference",
            number::MMUEXT_OP,
            extended(cmd, frame.mfn, 0),
            NOT_YOURS,
        )
    };
    let mut all = vec![
        attempt("pin as level-1 table", mmu::EXT_PIN_L1_TABLE),
        attempt("pin as level-4 table", mmu::EXT_PIN_L4_TABLE),
        attempt("unpin", mmu::EXT_UNPIN_TABLE),
        attempt("load as kernel root", mmu::EXT_NEW_BASEPTR),
        Attempt::new(
            named("write a descriptor", frame),
            "update_descriptor writes frames of the caller alone",
            number::UPDATE_DESCRIPTOR,
            [(frame.mfn << 12).into(), 0.into()],
            NOT_YOURS,
        ),
    ];
    // Frame 0 means "none" in these two, which a kernel may pass.
    if frame.mfn != 0 {
        all.push(attempt("load as user root", mmu::EXT_NEW_USER_BASEPTR));
        all.push(Attempt::new(
            named("load as descriptor table", frame),
            "a descriptor table lies in memory of the caller",
            number::SET_GDT,
            [memory(&frame.mfn), 1.into()],
            NOT_YOURS,
        ));
    }
    all
}

/// Attempts to release the frame, as if it were the caller's.
fn moves(frame: &Foreign) -> Vec<Attempt> {
    let reservation = reservation(domid::SELF, 0, 1);
    vec![Attempt::new(
        named("give back", frame),
        "XSA-214: memory goes back from its owner alone; the count of frames done stays 0",
        number::MEMORY_OP,
        [DECREASE_RESERVATION.into(), with_list(&reservation, EXTENT_START, &[frame.mfn])],
        Expected::Value(0),
    )]
}

/// Offset of the address of the list of frames.
pub const EXTENT_START: usize = std::mem::offset_of!(MemoryReservation, extent_start);

/// A reservation of this many extents of a partition's memory, of 2^order frames each; the caller
/// still adds the list.
pub fn reservation(domid: u16, extent_order: u32, nr_extents: u64) -> MemoryReservation {
    MemoryReservation {
        extent_start: 0,
        nr_extents,
        extent_order,
        mem_flags: 0,
        domid,
        pad: [0; 6],
    }
}

/// Attempts to reach the frame through grants and copies.
fn copies(ground: &Ground, frame: &Foreign) -> Vec<Attempt> {
    let own = end(ground.data.mfn, domid::SELF);
    let mut all = Vec::new();
    for domid in [Some(domid::SELF), frame.owner.map(|owner| owner as u16)] {
        let Some(domid) = domid else { continue };
        let theirs = end(frame.mfn, domid);
        let as_who = if domid == domid::SELF { "one's own" } else { "its owner's" };
        let attempt = |what: &str, source, dest| {
            Attempt::new(
                named(&format!("{what} as {as_who}"), frame),
                "XSA-226: a copy reaches what is granted and the caller's own, nothing else",
                number::GRANT_TABLE_OP,
                [grants::COPY.into(), memory(&copy(source, dest, 0)), 1.into()],
                NO_COPY,
            )
        };
        all.push(attempt("copy from", theirs, own));
        all.push(attempt("copy to", own, theirs));
    }
    if let Ok(short) = u32::try_from(frame.mfn) {
        all.extend(forged(ground, frame, short));
    }
    all
}

/// Attempts with an entry in the own grant table that grants a frame of others.
fn forged(ground: &Ground, frame: &Foreign, mfn: u32) -> Vec<Attempt> {
    let own_number = ground.number as u16;
    let entry =
        u64::from(grants::GTF_PERMIT_ACCESS) | u64::from(own_number) << 16 | u64::from(mfn) << 32;
    let granted = end(ground.grant.into(), domid::SELF);
    let own = end(ground.data.mfn, domid::SELF);
    let flags = grants::GNTCOPY_SOURCE_GREF;
    let attempt = |what, command: u64, operation, expected| Attempt {
        grant: Some(entry),
        ..Attempt::new(
            named(what, frame),
            "a grant gives what its granter owns",
            number::GRANT_TABLE_OP,
            [command.into(), operation, 1.into()],
            expected,
        )
    };
    let map = map_own(ground, ground.tables[0].mfn << 12);
    let refused = Expected::Status(MAP_STATUS, &[grants::GNTST_GENERAL_ERROR]);
    let device = MapGrantRef { flags: grants::GNTMAP_DEVICE_MAP, ..map };
    vec![
        attempt("map a frame by a forged grant", grants::MAP_GRANT_REF, memory(&map), refused),
        attempt(
            "map a frame for devices by a forged grant",
            grants::MAP_GRANT_REF,
            memory(&device),
            refused,
        ),
        attempt(
            "copy from a frame by a forged grant",
            grants::COPY,
            memory(&copy(granted, own, flags)),
            NO_COPY,
        ),
        attempt(
            "copy to a frame by a forged grant",
            grants::COPY,
            memory(&copy(own, granted, grants::GNTCOPY_DEST_GREF)),
            NO_COPY,
        ),
    ]
}

/// Maps the spare grant for writing, with the entry at machine address `entry`.
pub fn map_own(ground: &Ground, entry: u64) -> MapGrantRef {
    MapGrantRef {
        host_addr: entry,
        flags: grants::GNTMAP_HOST_MAP | grants::GNTMAP_CONTAINS_PTE,
        grant_ref: ground.grant,
        dom: domid::SELF,
        status: 0,
        handle: 0,
        dev_bus_addr: 0,
    }
}

/// One end of a copy, given by a frame or grant reference of a partition.
pub fn end(frame: u64, domid: u16) -> CopyEnd {
    CopyEnd { frame, domid, offset: 0, pad: 0 }
}

/// A copy of 64 bytes.
pub fn copy(source: CopyEnd, dest: CopyEnd, flags: u16) -> GrantCopy {
    GrantCopy { source, dest, len: 64, flags, status: 0, pad: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::samples;

    #[test]
    fn every_frame_is_tried_in_every_way() {
        let ground = samples::ground();
        let all = attempts(&ground);
        for frame in &ground.foreign {
            let name = format!("{} {:#x}", frame.what, frame.mfn);
            let of = all.iter().filter(|attempt| attempt.name.ends_with(&name)).count();
            // A frame that a grant entry cannot name is not forged, and a frame without an owner
            // has no owner's copy.
            let forged = if frame.mfn >> 32 == 0 { 4 } else { 0 };
            let owned = if frame.owner.is_some() { 2 } else { 0 };
            assert_eq!(of, 17 + forged + owned, "{name}");
        }
    }

    #[test]
    fn entries_name_the_frame_and_a_forged_grant_does_too() {
        let ground = samples::ground();
        assert_eq!(writable(0x5a00), 0x5a0_0007);
        let frame = &ground.foreign[0];
        let forged = forged(&ground, frame, frame.mfn as u32);
        assert_eq!(forged[0].grant, Some(frame.mfn << 32 | 3 << 16 | 1));
    }
}
