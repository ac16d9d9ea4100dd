//! Attempts that do not concern the memory of a frame: the ultravisor's own calls, CPU state, and
//! structures whose inner addresses are the monitor's.

use pv_abi::uv::calls;
use pv_abi::xen::console;
use pv_abi::xen::domid;
use pv_abi::xen::errno;
use pv_abi::xen::grants::{self, SetupTable};
use pv_abi::xen::hypercall::{self as number, MulticallEntry};
use pv_abi::xen::memory::{self as balloon, MemoryMap};
use pv_abi::xen::mmu::{EXT_TLB_FLUSH_MULTI, MmuUpdate};
use pv_abi::xen::physdev;
use pv_abi::xen::sched::{self, Poll};
use pv_abi::xen::traps::{CALLBACKOP_REGISTER, CallbackRegister, TrapInfo};
use pv_abi::xen::vcpu;
use pv_abi::xen::version;
use zerocopy::FromZeros;

use crate::attempt::{
    Arg, Attempt, Expected, FAULT, FORBIDDEN, INVALID, NO_SUCH_CALL, memory, with_list,
};
use crate::frames::{EXTENT_START, extended, reservation};
use crate::wild::{MONITOR, NOT_CANONICAL};

/// All attempts of this kind.
pub fn attempts() -> Vec<Attempt> {
    let mut all = lead_calls();
    all.extend(control_calls());
    all.extend(debug_registers());
    all.extend(segments());
    all.extend(entries());
    all.extend(virtual_cpus());
    all.extend(limits());
    for address in MONITOR.into_iter().chain(NOT_CANONICAL) {
        all.extend(direct_addresses(address));
        all.extend(inner_addresses(address));
    }
    all
}

fn attempt<const N: usize>(
    name: impl Into<String>,
    stands_for: &'static str,
    number: u64,
    args: [Arg; N],
    expected: Expected,
) -> Attempt {
    Attempt::new(name, stands_for, number, args, expected)
}

/// Calls that need a right which the command partition does not have.
const RIGHTS_NEEDED: [(&str, u64); 17] = [
    ("activate a partition", calls::ACTIVATE_PARTITION),
    ("activate pages", calls::ACTIVATE_PAGES),
    ("activate a channel", calls::ACTIVATE_CHANNEL),
    ("start a partition", calls::START),
    ("stop a partition", calls::STOP),
    ("destroy a partition", calls::DESTROY),
    ("activate a PCI function", calls::ACTIVATE_DEVICE),
    ("quiesce a PCI function", calls::QUIESCE_DEVICE),
    ("drop a monitor event", calls::NEXT_EVENT),
    ("ask for a frame's owner", calls::FRAME_OWNER),
    ("ask for a partition's usage", calls::USAGE),
    ("ask for a CPU's usage", calls::CPU_USAGE),
    ("end the host", calls::END_HOST),
    ("write a serial line", calls::SERIAL_WRITE),
    ("read a serial line", calls::SERIAL_READ),
    ("map memory of a partition being built", calls::BUILD_MAP),
    ("write its machine-to-physical entries", calls::BUILD_M2P),
];

/// Calls about a PCI function, which its owner alone may make.
const FUNCTION_CALLS: [(&str, u64); 6] = [
    ("read configuration of function", calls::DEVICE_READ),
    ("set the command register of function", calls::DEVICE_COMMAND),
    ("map registers of function", calls::DEVICE_MAP),
    ("bind an interrupt of function", calls::DEVICE_BIND),
    ("reset function", calls::DEVICE_RESET),
    ("confirm a reset of function", calls::DEVICE_CONFIRM),
];
/// Why those calls are refused.
const OWNER: &str = "a PCI function belongs to one partition";

fn lead_calls() -> Vec<Attempt> {
    let why = "the ultravisor partition alone calls the lead monitor";
    let mut all = Vec::new();
    for (name, operation) in RIGHTS_NEEDED {
        for target in [0, 2, 3] {
            let args = [operation, target, 1, 1, 1].map(Arg::from);
            let name = format!("{name}, {target}");
            all.push(attempt(name, why, calls::HYPERCALL, args, FORBIDDEN));
        }
    }
    // A partition without functions is not told which functions there are.
    for (name, operation) in FUNCTION_CALLS {
        for function in [0, 1, 255, 256, u64::MAX] {
            let args = [operation, function, 0, 1, 1].map(Arg::from);
            let name = format!("{name}, {function}");
            all.push(attempt(name, OWNER, calls::HYPERCALL, args, FORBIDDEN));
        }
    }
    for operation in [13, 15, 18, 31, 34, 39, 46, 1 << 32, u64::MAX] {
        let args = [operation, 1, 1, 1, 1].map(Arg::from);
        let name = format!("own operation {operation:#x}");
        all.push(attempt(name, why, calls::HYPERCALL, args, NO_SUCH_CALL));
    }
    all
}

/// Calls that control a Xen host. This control does not exist here, and operations that Xen
/// reserves for the first domain are refused in the same words.
fn control_calls() -> Vec<Attempt> {
    let why = "control of the host is a transaction to the ultravisor";
    let calls = [
        ("platform", number::PLATFORM_OP, FORBIDDEN),
        ("security module", number::XSM_OP, NO_SUCH_CALL),
        ("profiling", number::XENOPROF_OP, NO_SUCH_CALL),
        ("HVM", number::HVM_OP, NO_SUCH_CALL),
        ("sysctl", number::SYSCTL, FORBIDDEN),
        ("domctl", number::DOMCTL, FORBIDDEN),
        ("kexec", number::KEXEC_OP, FORBIDDEN),
        ("transcendent memory", number::TMEM_OP, NO_SUCH_CALL),
        ("performance counters", number::XENPMU_OP, NO_SUCH_CALL),
        ("device model", number::DM_OP, NO_SUCH_CALL),
    ];
    let mut all: Vec<_> = calls
        .into_iter()
        .map(|(name, number, expected)| {
            let args = [Arg::Memory(vec![0; 256]), 1.into()];
            attempt(name, why, number, args, expected)
        })
        .collect();
    let parts = [
        ("memory map of the machine", number::MEMORY_OP, balloon::MACHINE_MEMORY_MAP),
        ("claim pages", number::MEMORY_OP, balloon::CLAIM_PAGES),
        ("read the interrupt controller", number::PHYSDEV_OP, physdev::APIC_READ),
        ("write the interrupt controller", number::PHYSDEV_OP, physdev::APIC_WRITE),
        ("allocate an interrupt vector", number::PHYSDEV_OP, physdev::ALLOC_IRQ_VECTOR),
        ("add a PCI device", number::PHYSDEV_OP, physdev::PCI_DEVICE_ADD),
        ("shut another partition down", number::SCHED_OP, sched::REMOTE_SHUTDOWN),
        ("pin to a CPU", number::SCHED_OP, sched::PIN_OVERRIDE),
    ];
    all.extend(parts.map(|(name, number, command)| {
        let args = [command.into(), Arg::Memory(vec![0; 256])];
        attempt(name, why, number, args, FORBIDDEN)
    }));
    all
}

fn debug_registers() -> Vec<Attempt> {
    let set = |name: String, register: u64, value: u64, expected| {
        let why = "XSA-265: no breakpoint on what the monitor uses";
        attempt(name, why, number::SET_DEBUGREG, [register.into(), value.into()], expected)
    };
    let mut all = Vec::new();
    for address in MONITOR.into_iter().chain(NOT_CANONICAL) {
        for register in 0..4 {
            let name = format!("breakpoint {register} at {address:#x}");
            all.push(set(name, register, address, FORBIDDEN));
        }
    }
    for register in [4, 5, 8, u64::MAX] {
        all.push(set(format!("debug register {register}"), register, 0, INVALID));
    }
    for (name, value) in [("I/O breakpoint", 0x2_0001), ("upper half of DR7", 1 << 32)] {
        all.push(set(name.into(), 7, value, FORBIDDEN));
    }
    all
}

fn segments() -> Vec<Attempt> {
    let why = "XSA-193: a base that is not canonical would fault in ring 0";
    let mut all = Vec::new();
    for value in NOT_CANONICAL {
        for which in 0..3u64 {
            let name = format!("segment base {which} at {value:#x}");
            let args = [which.into(), value.into()];
            all.push(attempt(name, why, number::SET_SEGMENT_BASE, args, INVALID));
        }
    }
    let args = [4.into(), 0.into()];
    all.push(attempt("segment base 4", why, number::SET_SEGMENT_BASE, args, INVALID));
    all
}

/// Entry points and stacks that the CPU cannot use.
fn entries() -> Vec<Attempt> {
    let why = "XSA-7: ring 0 returns to canonical addresses alone";
    let mut all = Vec::new();
    for address in NOT_CANONICAL {
        let trap = TrapInfo { vector: 0x81, flags: 0, cs: 0xe033, pad: 0, address };
        let callback = CallbackRegister { kind: 7, flags: 0, pad: 0, address };
        let name = |what: &str| format!("{what} at {address:#x}");
        let refused =
            |what, number, args: [Arg; 2]| attempt(name(what), why, number, args, INVALID);
        all.extend([
            refused("trap handler", number::SET_TRAP_TABLE, [memory(&trap), 0.into()]),
            refused("kernel stack", number::STACK_SWITCH, [0x18.into(), address.into()]),
            refused(
                "callback",
                number::CALLBACK_OP,
                [CALLBACKOP_REGISTER.into(), memory(&callback)],
            ),
            refused("event entry", number::SET_CALLBACKS, [address.into(), address.into()]),
        ]);
    }
    for kind in [3, 6, 8, u16::MAX] {
        let callback = CallbackRegister { kind, flags: 0, pad: 0, address: 0x1000 };
        let args = [CALLBACKOP_REGISTER.into(), memory(&callback)];
        let name = format!("callback of kind {kind}");
        all.push(attempt(name, "no such entry", number::CALLBACK_OP, args, NO_SUCH_CALL));
    }
    all
}

fn virtual_cpus() -> Vec<Attempt> {
    let why = "XSA-296: what cannot be initialised is refused";
    let none = Expected::Refused(&[errno::ENOENT]);
    let mut all = Vec::new();
    for id in [32, 0xffff_ffff, 1 << 32, u64::MAX] {
        for command in [vcpu::INITIALISE, vcpu::UP, vcpu::REGISTER_VCPU_INFO] {
            let args = [command.into(), id.into(), Arg::Memory(vec![0; 5168])];
            let name = format!("virtual CPU {id:#x}, command {command}");
            all.push(attempt(name, why, number::VCPU_OP, args, none));
        }
    }
    let own = |name, command: u64, argument, expected| {
        attempt(name, why, number::VCPU_OP, [command.into(), 0.into(), argument], expected)
    };
    let exists = Expected::Refused(&[errno::EEXIST]);
    all.extend([
        own("initialise a running CPU", vcpu::INITIALISE, Arg::Memory(vec![0; 5168]), exists),
        own("second vcpu_info", vcpu::REGISTER_VCPU_INFO, Arg::Memory(vec![0; 16]), INVALID),
    ]);
    all
}

fn limits() -> Vec<Attempt> {
    let bounded = "XSA-158: sizes are checked before they are used";
    let poll = Poll { ports: 0x1000, nr_ports: 129, pad: 0, timeout: 1 };
    let order = |order, expected| {
        let list = with_list(&reservation(domid::SELF, order, 1), EXTENT_START, &[0]);
        let args = [balloon::POPULATE_PHYSMAP.into(), list];
        let name = format!("populate 2^{order} frames");
        attempt(name, bounded, number::MEMORY_OP, args, expected)
    };
    let many = |nr_extents: u64| {
        let list = with_list(&reservation(domid::SELF, 0, nr_extents), EXTENT_START, &[0]);
        let name = format!("give back {nr_extents:#x} extents");
        let args = [balloon::DECREASE_RESERVATION.into(), list];
        attempt(name, "XSA-212: no address wraps around", number::MEMORY_OP, args, FAULT)
    };
    let nested = |name: &str, op| {
        let entry = MulticallEntry { op, ..MulticallEntry::default() };
        let expected = Expected::Status(8, &[errno::EINVAL as i16]);
        attempt(name, "XSA-213", number::MULTICALL, [memory(&entry), 1.into()], expected)
    };
    let physical = |name: &str, command: u64| {
        let args = [command.into(), Arg::Memory(vec![0; 64])];
        attempt(name, "devices are the monitor's", number::PHYSDEV_OP, args, NO_SUCH_CALL)
    };
    let gdt = [Arg::Memory(vec![0; 4096]), 7169.into()];
    let input = [console::READ.into(), Arg::Memory(vec![0; 64])];
    vec![
        attempt("console input", "the input is the host's", number::CONSOLE_IO, input, FORBIDDEN),
        order(1, FORBIDDEN),
        order(63, FORBIDDEN),
        order(u32::MAX, FORBIDDEN),
        many(1 << 61),
        many(u64::MAX),
        nested("multicall in a multicall", number::MULTICALL),
        nested("iret in a multicall", number::IRET),
        attempt(
            "poll 129 ports",
            bounded,
            number::SCHED_OP,
            [sched::POLL.into(), memory(&poll)],
            INVALID,
        ),
        attempt("too many descriptors", bounded, number::SET_GDT, gdt, INVALID),
        attempt(
            "privilege level 4",
            bounded,
            number::PHYSDEV_OP,
            [physdev::SET_IOPL.into(), memory(&4u32)],
            INVALID,
        ),
        physical("map an interrupt", physdev::MAP_PIRQ),
    ]
}

/// Calls with a monitor address as an argument.
fn direct_addresses(address: u64) -> Vec<Attempt> {
    let why = "XSA-29: an address of the monitor is no argument";
    let own = u64::from(domid::SELF);
    let calls: [(&str, u64, Vec<u64>); 17] = [
        ("trap table", number::SET_TRAP_TABLE, vec![address]),
        ("descriptor frames", number::SET_GDT, vec![address, 1]),
        ("updates", number::MMU_UPDATE, vec![address, 1, 0, own]),
        ("count of updates", number::MMU_UPDATE, vec![0x1000, 0, address, own]),
        ("extended operations", number::MMUEXT_OP, vec![address, 1, 0, own]),
        ("count of operations", number::MMUEXT_OP, vec![0x1000, 0, address, own]),
        ("list of calls", number::MULTICALL, vec![address, 1]),
        ("memory map", number::MEMORY_OP, vec![balloon::MEMORY_MAP, address]),
        ("table range", number::MEMORY_OP, vec![balloon::MACHPHYS_MAPPING, address]),
        ("reservation", number::MEMORY_OP, vec![balloon::DECREASE_RESERVATION, address]),
        ("capabilities", number::XEN_VERSION, vec![version::CAPABILITIES, address]),
        ("console text", number::CONSOLE_IO, vec![console::WRITE, 8, address]),
        ("grants", number::GRANT_TABLE_OP, vec![grants::MAP_GRANT_REF, address, 1]),
        ("runstate", number::VCPU_OP, vec![vcpu::GET_RUNSTATE_INFO, 0, address]),
        ("ports", number::SCHED_OP, vec![sched::POLL, address]),
        ("callback structure", number::CALLBACK_OP, vec![CALLBACKOP_REGISTER, address]),
        ("event", number::EVENT_CHANNEL_OP, vec![4, address]),
    ];
    let one = |(what, number, args): (&str, u64, Vec<u64>)| {
        let name = format!("{what} at {address:#x}");
        Attempt::new(name, why, number, args.into_iter().map(Arg::from), FAULT)
    };
    calls.map(one).into()
}

/// Calls with a monitor address inside a structure.
fn inner_addresses(address: u64) -> Vec<Attempt> {
    let why = "XSA-29: an address of the monitor is none in a structure either";
    let map = MemoryMap { nr_entries: 1, pad: 0, buffer: address };
    let mut setup = SetupTable::new_zeroed();
    (setup.dom, setup.nr_frames, setup.frame_list) = (domid::SELF, 1, address);
    let mut given = reservation(domid::SELF, 0, 1);
    given.extent_start = address;
    let poll = Poll { ports: address, nr_ports: 1, pad: 0, timeout: 1 };
    let area = vcpu::RegisterArea { address };
    let call = |what: &str, number, args: [Arg; 3]| {
        attempt(format!("{what} at {address:#x}"), why, number, args, FAULT)
    };
    let none = || Arg::from(0);
    let record = |command: u64| [command.into(), none(), memory(&area)];
    vec![
        call(
            "memory map buffer",
            number::MEMORY_OP,
            [balloon::MEMORY_MAP.into(), memory(&map), none()],
        ),
        call(
            "list of grant frames",
            number::GRANT_TABLE_OP,
            [grants::SETUP_TABLE.into(), memory(&setup), 1.into()],
        ),
        call(
            "frames to give back",
            number::MEMORY_OP,
            [balloon::DECREASE_RESERVATION.into(), memory(&given), none()],
        ),
        call(
            "frames to populate",
            number::MEMORY_OP,
            [balloon::POPULATE_PHYSMAP.into(), memory(&given), none()],
        ),
        call("polled ports", number::SCHED_OP, [sched::POLL.into(), memory(&poll), none()]),
        call("runstate record", number::VCPU_OP, record(vcpu::REGISTER_RUNSTATE_MEMORY_AREA)),
        call("time record", number::VCPU_OP, record(vcpu::REGISTER_VCPU_TIME_MEMORY_AREA)),
        attempt(
            format!("mask of virtual CPUs at {address:#x}"),
            why,
            number::MMUEXT_OP,
            extended(EXT_TLB_FLUSH_MULTI, 0, address),
            FAULT,
        ),
        attempt(
            format!("count at {address:#x}"),
            why,
            number::MMU_UPDATE,
            [
                memory(&MmuUpdate::default()),
                0.into(),
                address.into(),
                u64::from(domid::SELF).into(),
            ],
            FAULT,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_this_kind_may_succeed() {
        for attempt in attempts() {
            let refused = match attempt.expected {
                Expected::Refused(errors) => errors.iter().all(|error| *error < 0),
                Expected::Status(_, statuses) => statuses.iter().all(|status| *status < 0),
                Expected::Value(_) => false,
            };
            assert!(refused, "{}", attempt.name);
        }
    }

    #[test]
    fn every_call_that_takes_a_right_is_tried() {
        let known = [0, 1, 2, 3, 4, 5, 6, 12, 7, 8, 9, 10, 11, 16, 17, 32, 33];
        assert_eq!(RIGHTS_NEEDED.map(|(_, operation)| operation), known);
    }
}
