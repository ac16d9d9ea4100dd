//! Calls with wild arguments: every number, every position of an argument, and addresses of every
//! kind.
//!
//! The results do not matter, as long as each call returns, and the kernel and the host go on.
//! Rule: the program does not crash its own kernel, because such a crash would prove nothing. It
//! leaves out and counts the calls that would ([`Wild::is_spared`]).

use pv_abi::xen::hypercall as number;
use pv_abi::xen::{console, events, physdev, sched, vcpu};

/// Addresses of the monitor: the machine-to-physical table, a CPU's area, its descriptor tables,
/// the image, the frame table, the direct map, and the last words.
pub const MONITOR: [u64; 8] = [
    0xffff_8000_0000_0000,
    0xffff_8080_0000_0000,
    0xffff_8081_0000_0000,
    0xffff_82d0_8000_0000,
    0xffff_8300_0000_0000,
    0xffff_8380_0000_0000,
    0xffff_8380_fee0_0000,
    0xffff_87ff_ffff_fff8,
];

/// Addresses that are not canonical.
pub const NOT_CANONICAL: [u64; 3] =
    [0x0000_8000_0000_0000, 0x8000_0000_0000_0000, 0xffff_7fff_ffff_fff8];

/// Other addresses and numbers: unmapped addresses, ends of ranges, counts, sign changes.
const OTHERS: [u64; 17] = [
    0,
    1,
    7,
    0xfff,
    0x7ff0,
    0x0000_7fff_ffff_f000,
    0x0000_7fff_ffff_fff9,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 60,
    1 << 61,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_f000,
    0xffff_ffff_ffff_fff8,
    u64::MAX,
];

/// An unmapped address.
const NOWHERE: u64 = 0x7000;

/// The number of call numbers, and of command numbers of calls with commands.
const NUMBERS: u64 = 64;
/// Calls whose first argument is a command.
const COMMANDS: [u64; 11] = [
    number::MEMORY_OP,
    number::XEN_VERSION,
    number::CONSOLE_IO,
    number::GRANT_TABLE_OP,
    number::VM_ASSIST,
    number::VCPU_OP,
    number::SCHED_OP,
    number::CALLBACK_OP,
    number::EVENT_CHANNEL_OP,
    number::PHYSDEV_OP,
    number::ARCH_0,
];
/// The number of arguments of a call.
const ARGUMENTS: usize = 5;

/// The resources of the calling program that the calls may use.
#[derive(Clone, Copy, Debug)]
pub struct Wild {
    /// Address of memory that holds zeros.
    pub zeros: u64,
    /// The number of its bytes; nothing is mapped after it.
    pub bytes: u64,
    /// One past the highest machine frame that may be the partition's own.
    pub frames: u64,
}

/// A call by number and arguments.
pub type WildCall = (u64, [u64; ARGUMENTS]);

impl Wild {
    /// All calls of one number, including those that are spared.
    pub fn calls(self, number: u64) -> Vec<WildCall> {
        let values = self.values();
        let mut all = Vec::new();
        for &value in &values {
            all.push((number, [value; ARGUMENTS]));
            for place in 0..ARGUMENTS {
                for rest in [0, self.zeros, NOWHERE] {
                    let mut args = [rest; ARGUMENTS];
                    args[place] = value;
                    all.push((number, args));
                }
            }
            let commands = if COMMANDS.contains(&number) { NUMBERS } else { 0 };
            for command in 0..commands {
                all.push((number, [command, value, value, value, 0]));
                all.push((number, [command, 0, value, 1, 0]));
                all.push((number, [command, value, 1, 0, 0]));
            }
        }
        all
    }

    /// All call numbers.
    pub fn numbers() -> impl Iterator<Item = u64> {
        0..NUMBERS
    }

    fn values(self) -> Vec<u64> {
        let end = self.zeros + self.bytes;
        let own = [self.zeros, end - 1];
        MONITOR.into_iter().chain(NOT_CANONICAL).chain(OTHERS).chain(own).collect()
    }

    /// Whether zeros can be read at this address.
    fn is_readable(self, address: u64) -> bool {
        (self.zeros..self.zeros + self.bytes - 1).contains(&address)
    }

    /// Whether a call would change state that the own kernel needs.
    pub fn is_spared(self, (number, args): WildCall) -> bool {
        let [a, b, c, ..] = args;
        match number {
            // This would change gates, stacks, entry points, descriptor tables, or the return
            // frame.
            number::SET_TRAP_TABLE => a == 0 || self.is_readable(a),
            number::SET_GDT => b == 0 || self.is_readable(a),
            number::STACK_SWITCH | number::SET_CALLBACKS | number::IRET => true,
            number::CALLBACK_OP => self.is_readable(b),
            // A list of zeros is a call that removes the gates.
            number::MULTICALL => self.is_readable(a),
            // The kernel does not expect to lose the FPU.
            number::FPU_TASKSWITCH => a != 0,
            number::SET_DEBUGREG => a == 7,
            number::SET_SEGMENT_BASE => a as u32 <= 3,
            // A descriptor in the partition's own frame would be written.
            number::UPDATE_DESCRIPTOR => a >> 12 < self.frames,
            number::UPDATE_VA_MAPPING => (self.zeros..self.zeros + self.bytes).contains(&a),
            // This would print endless text on the console.
            number::CONSOLE_IO => a == console::WRITE && self.is_readable(c),
            number::SCHED_OP | number::SCHED_OP_COMPAT => a == sched::SHUTDOWN,
            number::VCPU_OP => self.is_vcpu_spared(a, c),
            // Nobody would close this port.
            number::EVENT_CHANNEL_OP => a == events::BIND_IPI && self.is_readable(b),
            number::PHYSDEV_OP => a == physdev::SET_IOPL && self.is_readable(b),
            _ => false,
        }
    }

    fn is_vcpu_spared(self, command: u64, argument: u64) -> bool {
        match command {
            vcpu::DOWN | vcpu::SEND_NMI => true,
            vcpu::REGISTER_VCPU_TIME_MEMORY_AREA => self.is_readable(argument),
            _ => false,
        }
    }

    /// Whether the virtual CPU's timer must be set again after a call.
    pub fn stops_timer(number: u64) -> bool {
        matches!(number, number::SET_TIMER_OP | number::VCPU_OP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WILD: Wild = Wild { zeros: 0x7f00_0000_0000, bytes: 0x4000, frames: 1 << 20 };

    #[test]
    fn every_place_of_every_number_meets_every_value() {
        for number in Wild::numbers() {
            let calls = WILD.calls(number);
            for value in WILD.values() {
                for place in 0..ARGUMENTS {
                    assert!(calls.iter().any(|(_, args)| args[place] == value));
                }
            }
        }
    }

    #[test]
    fn what_would_end_the_kernel_is_spared() {
        let zeros = WILD.zeros;
        for call in [
            (number::SET_TRAP_TABLE, [0; 5]),
            (number::MULTICALL, [zeros, 1, 0, 0, 0]),
            (number::IRET, [1; 5]),
            (number::SCHED_OP, [sched::SHUTDOWN, 0, 0, 0, 0]),
            (number::VCPU_OP, [vcpu::DOWN, 0, 0, 0, 0]),
            (number::CALLBACK_OP, [0, zeros, 0, 0, 0]),
            (number::SET_GDT, [1, 0, 0, 0, 0]),
            (number::UPDATE_DESCRIPTOR, [0x100_0000, 0, 0, 0, 0]),
            (number::UPDATE_VA_MAPPING, [zeros + 0x3fff, 0, 0, 0, 0]),
        ] {
            assert!(WILD.is_spared(call), "{call:x?}");
        }
    }

    #[test]
    fn only_three_numbers_are_never_called() {
        for number in Wild::numbers() {
            let calls = WILD.calls(number);
            let spared = calls.iter().filter(|call| WILD.is_spared(**call)).count();
            let never = [number::STACK_SWITCH, number::SET_CALLBACKS, number::IRET];
            assert_eq!(spared == calls.len(), never.contains(&number), "{number}");
        }
    }
}
