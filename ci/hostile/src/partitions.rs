//! Attempts on other partitions by number: on their memory, events and grants.

use pv_abi::xen::domid;
use pv_abi::xen::errno;
use pv_abi::xen::events::{
    self, AllocUnbound, BindInterdomain, BindVcpu, BindVirq, EvtchnReset, EvtchnStatus,
    PortArgument,
};
use pv_abi::xen::grants::{
    self, GetVersion, MapGrantRef, QuerySize, SetVersion, SetupTable, UnmapAndReplace,
    UnmapGrantRef,
};
use pv_abi::xen::hypercall as number;
use pv_abi::xen::memory::{DECREASE_RESERVATION, POPULATE_PHYSMAP};
use pv_abi::xen::mmu::EXT_PIN_L1_TABLE;
use zerocopy::{Immutable, IntoBytes};

use crate::attempt::{Attempt, Expected, FORBIDDEN, INVALID, NO_SUCH_CALL, memory, with_list};
use crate::frames::{
    COPY_STATUS, EXTENT_START, MAP_STATUS, copy, end, extended, readable, reservation, update,
};
use crate::ground::Ground;
use crate::wild::MONITOR;

/// Partition numbers of others: system partitions, pseudo-partitions, one that does not exist, and
/// those that the public headers reserve for special uses.
const OTHERS: [u16; 12] =
    [0, 1, 2, 4, 6, 7, 8, 16, domid::IO, domid::XEN, domid::INVALID, domid::IDLE];

/// Grant references without a grant: reserved ones, the last ones of frames, and ones past the end.
const REFERENCES: [u32; 7] = [0, 1, 7, 511, 32_767, 32_768, u32::MAX];

/// Ports of other partitions, none of which waits for the caller.
const PORTS: [u32; 14] = [0, 1, 2, 3, 4, 5, 8, 16, 256, 257, 258, 4095, 4096, u32::MAX];

const NOBODYS: &str = "a partition's memory is shared only by its own grants";
const OTHER_MEMORY: &str = "a partition's number gives no right to its memory";

/// All attempts on other partitions.
pub fn attempts(ground: &Ground) -> Vec<Attempt> {
    let mut all = own_events();
    for other in OTHERS {
        all.extend(memory_of(ground, other));
        all.extend(events_of(other));
        all.extend(tables_of(other));
        let references = REFERENCES.into_iter();
        all.extend(references.flat_map(|reference| grants_of(ground, other, reference)));
    }
    all.extend(versions());
    all
}

fn memory_of(ground: &Ground, other: u16) -> Vec<Attempt> {
    let name = |what: &str| format!("{what}, as partition {other:#x}");
    let [l1, ..] = ground.tables;
    let entry = readable(ground.data.mfn);
    let foreign = [
        ("frames of another", u64::from(other)),
        ("tables of another", u64::from(domid::SELF) | (u64::from(other) + 1) << 16),
    ];
    let mut all = Vec::new();
    for (what, foreign) in foreign {
        let mut args = update(l1.mfn, 0, 0, entry);
        args[3] = foreign.into();
        all.push(Attempt::new(name(what), OTHER_MEMORY, number::MMU_UPDATE, args, FORBIDDEN));
        let mut args = extended(EXT_PIN_L1_TABLE, ground.data.mfn, 0);
        args[3] = foreign.into();
        let pin = name(&format!("pin with {what}"));
        all.push(Attempt::new(pin, OTHER_MEMORY, number::MMUEXT_OP, args, FORBIDDEN));
    }
    for (what, command) in [("give back", DECREASE_RESERVATION), ("populate", POPULATE_PHYSMAP)] {
        let list = with_list(&reservation(other, 0, 1), EXTENT_START, &[ground.data.mfn]);
        let args = [command.into(), list];
        all.push(Attempt::new(name(what), OTHER_MEMORY, number::MEMORY_OP, args, FORBIDDEN));
    }
    all.push(Attempt::new(
        name("map at an address"),
        OTHER_MEMORY,
        number::UPDATE_VA_MAPPING_OTHERDOMAIN,
        [ground.page_address.into(), entry.into(), 0.into(), u64::from(other).into()],
        NO_SUCH_CALL,
    ));
    all
}

fn event(
    name: String,
    why: &'static str,
    command: u64,
    argument: &(impl IntoBytes + Immutable),
    expected: Expected,
) -> Attempt {
    let args = [command.into(), memory(argument)];
    Attempt::new(name, why, number::EVENT_CHANNEL_OP, args, expected)
}

fn events_of(other: u16) -> Vec<Attempt> {
    let name = |what: &str| format!("{what}, as partition {other:#x}");
    let alloc = AllocUnbound { dom: other, remote_dom: domid::SELF, port: 0 };
    let status =
        EvtchnStatus { dom: other, pad: 0, port: 1, status: 0, vcpu: 0, detail: 0, remote_port: 0 };
    let reset = EvtchnReset { dom: other };
    let mut all = vec![
        event(name("new port"), NOBODYS, events::ALLOC_UNBOUND, &alloc, FORBIDDEN),
        event(name("status of a port"), NOBODYS, events::STATUS, &status, FORBIDDEN),
        event(name("close all ports"), "XSA-343", events::RESET, &reset, FORBIDDEN),
    ];
    all.extend(PORTS.map(|port| {
        let bind = BindInterdomain { remote_dom: other, pad: 0, remote_port: port, local_port: 0 };
        let name = format!("bind to port {port} of partition {other:#x}");
        let expected = Expected::Refused(&[errno::EINVAL, errno::ESRCH]);
        event(name, NOBODYS, events::BIND_INTERDOMAIN, &bind, expected)
    }));
    all
}

/// Attempts with ports that the caller does not have, and with bindings that are not possible.
fn own_events() -> Vec<Attempt> {
    let mut all = Vec::new();
    let why = "XSA-359: a port is checked before its table is";
    for port in [0, 4000, 4096, u32::MAX] {
        let argument = PortArgument { port };
        let commands = [("send on", events::SEND), ("close", events::CLOSE)];
        all.extend(commands.map(|(what, command)| {
            event(format!("{what} port {port}"), why, command, &argument, INVALID)
        }));
        let bind = BindVcpu { port, vcpu: 0 };
        let name = format!("move port {port}");
        all.push(event(name, why, events::BIND_VCPU, &bind, INVALID));
    }
    let virq = |virq, vcpu| BindVirq { virq, vcpu, port: 0 };
    let none = Expected::Refused(&[errno::EINVAL, errno::ENOENT]);
    all.extend([
        event("virtual interrupt 24".into(), why, events::BIND_VIRQ, &virq(24, 0), none),
        event("virtual CPU 32".into(), why, events::BIND_VIRQ, &virq(0, 32), none),
        event("virtual CPU past all".into(), why, events::BIND_VIRQ, &virq(1, u32::MAX), none),
        event("physical interrupt".into(), why, events::BIND_PIRQ, &[0u32; 3], NO_SUCH_CALL),
        event("FIFO events".into(), "XSA-344", events::INIT_CONTROL, &[0u64; 4], NO_SUCH_CALL),
    ]);
    all
}

/// Offset of the status in the operations on a whole table.
const SETUP_STATUS: usize = std::mem::offset_of!(SetupTable, status);
const QUERY_STATUS: usize = std::mem::offset_of!(QuerySize, status);
const DENIED: &[i16] = &[grants::GNTST_PERMISSION_DENIED];

fn tables_of(other: u16) -> Vec<Attempt> {
    use zerocopy::FromZeros;
    let name = |what: &str| format!("{what}, as partition {other:#x}");
    let call = |what, command: u64, argument, expected| {
        let args = [command.into(), argument, 1.into()];
        Attempt::new(name(what), NOBODYS, number::GRANT_TABLE_OP, args, expected)
    };
    let mut setup = SetupTable::new_zeroed();
    (setup.dom, setup.nr_frames) = (other, 1);
    let mut query = QuerySize::new_zeroed();
    query.dom = other;
    let version = GetVersion { dom: other, pad: 0, version: 0 };
    vec![
        call(
            "grant table",
            grants::SETUP_TABLE,
            memory(&setup),
            Expected::Status(SETUP_STATUS, DENIED),
        ),
        call(
            "size of the grant table",
            grants::QUERY_SIZE,
            memory(&query),
            Expected::Status(QUERY_STATUS, DENIED),
        ),
        call("version of the grant table", grants::GET_VERSION, memory(&version), FORBIDDEN),
    ]
}

fn grants_of(ground: &Ground, other: u16, reference: u32) -> Vec<Attempt> {
    const NOT_GRANTED: &[i16] =
        &[grants::GNTST_BAD_GNTREF, grants::GNTST_BAD_DOMAIN, grants::GNTST_GENERAL_ERROR];
    let map = MapGrantRef {
        host_addr: ground.tables[0].mfn << 12,
        flags: grants::GNTMAP_HOST_MAP | grants::GNTMAP_CONTAINS_PTE,
        grant_ref: reference,
        dom: other,
        status: 0,
        handle: 0,
        dev_bus_addr: 0,
    };
    let theirs = end(reference.into(), other);
    let own = end(ground.data.mfn, domid::SELF);
    let call = |what: &str, command: u64, operation, offset| {
        let args = [command.into(), operation, 1.into()];
        let name = format!("{what} grant {reference} of partition {other:#x}");
        let expected = Expected::Status(offset, NOT_GRANTED);
        Attempt::new(name, NOBODYS, number::GRANT_TABLE_OP, args, expected)
    };
    let from = memory(&copy(theirs, own, grants::GNTCOPY_SOURCE_GREF));
    let to = memory(&copy(own, theirs, grants::GNTCOPY_DEST_GREF));
    vec![
        call("map", grants::MAP_GRANT_REF, memory(&map), MAP_STATUS),
        call("copy from", grants::COPY, from, COPY_STATUS),
        call("copy to", grants::COPY, to, COPY_STATUS),
    ]
}

/// Grant operations that do not exist here, and the reason.
const ABSENT: [(u64, &str); 5] = [
    (grants::DUMP_TABLE, "a table is its owner's business"),
    (grants::TRANSFER, "XSA-214, XSA-284: only a transaction changes owners"),
    (grants::GET_STATUS_FRAMES, "XSA-379, XSA-382: no second version"),
    (grants::SWAP_GRANT_REF, "XSA-230: an entry in use stays where it is"),
    (grants::CACHE_FLUSH, "XSA-232: another architecture's"),
];

/// Attempts with handles of mappings that do not exist, and with the second version of grants.
fn versions() -> Vec<Attempt> {
    let offset = std::mem::offset_of!(UnmapGrantRef, status);
    let expected =
        Expected::Status(offset, &[grants::GNTST_BAD_HANDLE, grants::GNTST_BAD_VIRT_ADDR]);
    let unmap = |handle| {
        let operation =
            UnmapGrantRef { host_addr: 0x1000, dev_bus_addr: 0, handle, status: 0, pad: 0 };
        let args = [grants::UNMAP_GRANT_REF.into(), memory(&operation), 1.into()];
        let name = format!("unmap handle {handle}");
        Attempt::new(name, "XSA-234", number::GRANT_TABLE_OP, args, expected)
    };
    let mut all: Vec<_> = [0, 1, 4000, u32::MAX].map(unmap).into();
    for new_addr in MONITOR.into_iter().chain([0, 0x1000]) {
        let operation =
            UnmapAndReplace { host_addr: 0x1000, new_addr, handle: 4001, status: 0, pad: 0 };
        let args = [grants::UNMAP_AND_REPLACE.into(), memory(&operation), 1.into()];
        let name = format!("replace a mapping by what is at {new_addr:#x}");
        all.push(Attempt::new(name, "XSA-234", number::GRANT_TABLE_OP, args, expected));
    }
    let version = |version| {
        let args = [grants::SET_VERSION.into(), memory(&SetVersion { version }), 1.into()];
        let name = format!("grants of version {version}");
        Attempt::new(name, "XSA-255", number::GRANT_TABLE_OP, args, NO_SUCH_CALL)
    };
    all.extend([0, 2, u32::MAX].map(version));
    let absent = |(command, why): (u64, &'static str)| {
        let args = [command.into(), memory(&[0u64; 8]), 1.into()];
        let name = format!("grant operation {command}");
        Attempt::new(name, why, number::GRANT_TABLE_OP, args, NO_SUCH_CALL)
    };
    all.extend(ABSENT.map(absent));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ground::samples;

    #[test]
    fn the_caller_is_not_among_the_others() {
        let own = samples::ground().number;
        assert!(!OTHERS.contains(&(own as u16)) && !OTHERS.contains(&domid::SELF));
    }

    #[test]
    fn tables_of_another_are_named_in_the_upper_half() {
        let all = memory_of(&samples::ground(), 1);
        let foreign: Vec<_> = all.iter().map(|attempt| attempt.call.args.get(3)).collect();
        assert!(foreign.contains(&Some(&0x2_7ff0.into())), "{foreign:x?}");
    }
}
