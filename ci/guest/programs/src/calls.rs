//! Makes calls, except those on tables; each call has an entry in [`call`].

use crate::generate::{address, frame, selector, wild};
use crate::random::Random;
use crate::tables;
use crate::word::{Frame, Place, Word};
use alloc::vec::Vec;
use pv_abi::xen::{domid, hypercall as number};

/// A call with words in memory.
pub struct Call {
    pub number: u64,
    pub args: [Word; 5],
    pub memory: Vec<Word>,
}

/// A call of any kind.
pub fn call(random: &mut Random) -> Call {
    let mut call = any(random);
    tame(&mut call);
    call
}

/// Changes a call that would end or stop the guest without testing anything: a shutdown, taking
/// down its first virtual CPU, moving the shared state of a virtual CPU that runs programs, or
/// removing the trap table.
pub fn tame(call: &mut Call) {
    let is = |word: Word, values: &[u64]| values.iter().any(|value| word == plain(*value));
    let [first, second, ..] = call.args;
    match call.number {
        number::SCHED_OP if is(first, &[2]) => call.args[0] = plain(0),
        number::SET_TRAP_TABLE if is(first, &[0]) => call.args[0] = plain(1),
        // The second virtual CPU may stop for a while, because the first one starts it again.
        number::VCPU_OP if is(first, &[2]) && is(second, &[0]) => call.args[1] = plain(1),
        number::VCPU_OP if is(first, &[10]) && is(second, &[0, 1]) => call.args[1] = plain(2),
        _ => {}
    }
}

fn any(random: &mut Random) -> Call {
    match random.below(28) {
        0..=4 => tables::update(random),
        5..=7 => tables::extended(random),
        8..=9 => tables::any_mapping(random),
        10 => tables::descriptor_call(random),
        11 => tables::descriptors(random),
        12..=15 => grants(random),
        16..=18 => events(random),
        19..=20 => memory(random),
        21..=22 => vcpus(random),
        23 => scheduling(random),
        24 => state(random),
        25 => entries(random),
        26 => small(random),
        _ => unknown(random),
    }
}

fn plain(value: u64) -> Word {
    Word::Number(value)
}

/// A call with a command and a structure in memory; one in ten names another address instead.
fn command(random: &mut Random, number: u64, command: u64, memory: Vec<Word>) -> Call {
    let place = if random.once_in(10) { address(random) } else { Word::Memory(0) };
    let args = [plain(command), place, wild(random), wild(random), wild(random)];
    Call { number, args, memory }
}

fn partition(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => random.below(16),
        1 => u64::from(random.of(&[domid::IO, domid::XEN, domid::INVALID, domid::IDLE])),
        _ => u64::from(domid::SELF),
    }
}

/// The time of a timer: soon, long past, or so far in the future that it never comes.
fn deadline(random: &mut Random, within: u64) -> Word {
    /// 200 years in nanoseconds.
    const AGES: i64 = 200 * 365 * 86_400 * 1_000_000_000;
    let soon = Word::Time(random.below(within * 2) as i64 - within as i64);
    match random.below(8) {
        0 => plain(random.of(&[0, 1, 1 << 62, (1 << 63) - 1, 1 << 63, u64::MAX - 1, u64::MAX])),
        1 => Word::Time(random.of(&[AGES, AGES / 2, i64::MAX, i64::MIN, -1_000_000_000, 1, 0])),
        2 => plain(random.number()),
        _ => soon,
    }
}

/// A grant reference: one that programs write, another one, or an invalid one.
fn reference(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => random.of(&[0, 1, 7, 511, 512, 2047, 2048, 0xffff, 0xffff_ffff]),
        _ => 8 + random.below(8),
    }
}

/// A call on grants: map, unmap, copy, or another.
pub fn grants(random: &mut Random) -> Call {
    let operation = random.of(&[0, 0, 0, 1, 1, 2, 5, 5, 5, 6, 8, 10, 3, 4, 7, 9, 11, 12, 63]);
    let count = 1 + random.below(3);
    let mut memory = Vec::new();
    for _ in 0..count {
        match operation {
            0 => memory.extend(map(random)),
            1 => memory.extend(unmap(random)),
            5 => memory.extend(copy(random)),
            7 => memory.extend(replace(random)),
            2 => memory.extend([
                plain(partition(random) | random.of(&[0, 1, 4, 32, 33, 0xffff_ffff]) << 32),
                plain(0),
                address(random),
            ]),
            _ => memory.extend([plain(partition(random) | random.below(4) << 32), wild(random)]),
        }
    }
    let claimed = if random.once_in(10) { random.number() } else { count };
    let mut call = command(random, number::GRANT_TABLE_OP, operation, memory);
    call.args[2] = plain(claimed);
    call
}

/// Where a grant is mapped. Depending on the flags, this is an address or the location of a
/// page-table entry.
fn map_place(random: &mut Random, flags: u64) -> Word {
    match (flags & 0x10 != 0, random.below(8)) {
        (_, 0) => address(random),
        (true, 1) => Word::Entry(frame(random), random.below(512) * 8),
        (true, 2) => Word::EntryOf(9 + random.below(6) as u8, 0),
        (true, _) => Word::Entry(Frame::Page(random.below(3) as u8), 16),
        (false, _) => Word::Address(Place::Page(9 + random.below(7) as u8), 0),
    }
}

fn map(random: &mut Random) -> [Word; 4] {
    let flags = random.of(&[2, 2, 6, 0x12, 0x16, 0x0a, 1, 3, 0x1_0012, 0xffff_ffff]);
    let place = map_place(random, flags);
    let named = plain(flags | reference(random) << 32);
    [place, named, plain(partition(random)), plain(0)]
}

fn unmap(random: &mut Random) -> [Word; 3] {
    let flags = random.of(&[0x2, 0x12]);
    let place = map_place(random, flags);
    let frame = if random.once_in(2) { plain(0) } else { Word::Entry(frame(random), 0) };
    [place, frame, plain(if random.once_in(8) { random.bits() >> 32 } else { random.below(8) })]
}

/// A mapping, and the entry that replaces it.
fn replace(random: &mut Random) -> [Word; 3] {
    let [place, _, handle] = unmap(random);
    let new = if random.once_in(4) { address(random) } else { map_place(random, 2) };
    [place, new, handle]
}

fn copy(random: &mut Random) -> Vec<Word> {
    let mut words = Vec::new();
    let mut flags = 0;
    for end in 0..2 {
        let by_grant = random.once_in(2);
        flags |= u64::from(by_grant) << end;
        words.push(if by_grant {
            plain(reference(random))
        } else {
            Word::FrameNumber(frame(random))
        });
        let offset = random.of(&[0, 8, 4095, 4096, 0xffff]);
        words.push(plain(partition(random) | offset << 16));
    }
    let length = random.of(&[0, 1, 64, 4096, 4097, 0xffff]);
    words.push(plain(length | flags << 16));
    words
}

fn port(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => random.of(&[0, 31, 63, 64, 4095, 4096, 0xffff_ffff]),
        1 => random.below(4096),
        _ => random.below(12),
    }
}

fn events(random: &mut Random) -> Call {
    let operation = match random.below(20) {
        // This operation closes ports that the guest itself needs.
        0 if random.once_in(8) => 10,
        1 => 11 + random.below(8),
        _ => random.of(&[0, 0, 1, 3, 4, 4, 4, 5, 6, 6, 6, 7, 7, 8, 9, 9]),
    };
    let (partition, port, vcpu) = (partition(random), port(random), random.of(&[0, 0, 1, 31, 32]));
    let memory = match operation {
        0 => [plain(partition | port << 32), plain(0), plain(0)],
        1 => [plain(random.below(26) | vcpu << 32), plain(0), plain(0)],
        3 | 4 | 9 => [plain(port), plain(0), plain(0)],
        5 => [plain(partition | port << 32), plain(0), plain(0)],
        6 => [plain(u64::from(domid::SELF) | partition << 16), plain(0), plain(0)],
        7 => [plain(vcpu), plain(0), plain(0)],
        8 => [plain(port | vcpu << 32), plain(0), plain(0)],
        _ => [wild(random), wild(random), wild(random)],
    };
    command(random, number::EVENT_CHANNEL_OP, operation, memory.into())
}

fn memory(random: &mut Random) -> Call {
    let operation = match random.below(4) {
        0 => random.below(30),
        _ => random.of(&[1, 1, 6, 6, 3, 9, 12, 11]),
    };
    let count = random.of(&[1, 1, 2, 3]);
    let claimed = if random.once_in(8) { random.number() } else { count };
    let order = random.of(&[0, 0, 0, 0, 1, 9, 63]);
    let list = if random.once_in(8) { address(random) } else { Word::Memory(72) };
    let mut memory: Vec<Word> = [list, plain(claimed), plain(order)].into();
    memory.push(plain(partition(random)));
    // An exchange has a second list.
    memory.extend([Word::Memory(80), plain(claimed), plain(order), plain(partition(random))]);
    memory.push(plain(0));
    for _ in 0..count {
        memory.push(match (operation, random.below(4)) {
            (_, 0) => wild(random),
            (6, _) => plain(random.below(64)),
            _ => Word::FrameNumber(frame(random)),
        });
    }
    // A continued call carries its progress in the upper bits.
    let resumed = if random.once_in(10) { random.number() << 6 } else { 0 };
    command(random, number::MEMORY_OP, operation | resumed, memory)
}

fn vcpus(random: &mut Random) -> Call {
    let operation = match random.below(4) {
        0 => random.below(16),
        _ => random.of(&[1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 11, 13]),
    };
    // The guest needs its first virtual CPU, and the shared state of those that run programs.
    let vcpu = match operation {
        2 => 1 + random.below(3),
        10 => 2 + random.below(40),
        _ => random.of(&[0, 0, 0, 1, 2, 31, 32, 64, u64::MAX]),
    };
    let memory: Vec<Word> = match operation {
        5 | 13 => [address(random)].into(),
        6 => [plain(random.of(&[0, 1, 1000, 100_000, 1_000_000, 1 << 63, u64::MAX]))].into(),
        8 => [deadline(random, 1_000_000), plain(random.below(3))].into(),
        10 => [Word::FrameNumber(frame(random)), plain(random.below(4200))].into(),
        0 => return initialise(random, vcpu),
        _ => [wild(random), wild(random)].into(),
    };
    let mut call = command(random, number::VCPU_OP, operation, memory);
    (call.args[1], call.args[2]) = (plain(vcpu), call.args[1]);
    call
}

/// `initialise` with a context of 646 words, some of which are set.
fn initialise(random: &mut Random, vcpu: u64) -> Call {
    let mut memory: Vec<Word> = Vec::new();
    memory.resize(646, plain(0));
    let mut set = |byte: usize, word: Word| memory[byte / 8] = word;
    set(512, plain(random.of(&[4, 4, 4, 5, 0, u64::MAX])));
    set(
        520 + 128,
        if random.once_in(2) { address(random) } else { Word::Address(Place::Stack, 0) },
    );
    set(520 + 136, plain(selector(random)));
    set(520 + 144, plain(random.of(&[0x202, 0x3302, u64::MAX])));
    set(520 + 152, address(random));
    set(520 + 160, plain(selector(random)));
    set(4816, address(random));
    set(4824, plain(random.of(&[0, 0, 1, 512, 8193])));
    set(4832, Word::FrameNumber(frame(random)));
    set(4960, plain(random.of(&[0, 0, 16, 7169])));
    set(4976, address(random));
    set(4984 + 24, Word::Entry(if random.once_in(2) { Frame::Table(4) } else { frame(random) }, 0));
    for byte in [5048, 5112, 5120, 5128, 5144, 5152, 5160] {
        if random.once_in(4) {
            set(byte, wild(random));
        }
    }
    let args = [plain(0), plain(vcpu), Word::Memory(0), wild(random), wild(random)];
    Call { number: number::VCPU_OP, args, memory }
}

fn scheduling(random: &mut Random) -> Call {
    let operation = random.of(&[0, 1, 3, 3, 3, 4, 5, 6, 7, 99]);
    let claimed = random.of(&[0, 1, 2, 2, 128, 129, 0xffff_ffff]);
    let list = if random.once_in(4) { address(random) } else { Word::Memory(24) };
    let ports = plain(port(random) | port(random) << 32);
    let time = deadline(random, 100_000);
    let memory = match operation {
        3 => [list, plain(claimed), time, ports].into(),
        _ => [wild(random), wild(random)].into(),
    };
    let compat = operation < 2 && random.once_in(4);
    let number = if compat { number::SCHED_OP_COMPAT } else { number::SCHED_OP };
    command(random, number, operation, memory)
}

/// Calls on timers, the FPU, debug registers, segment bases, or the stack for traps.
fn state(random: &mut Random) -> Call {
    let others = [(); 3].map(|()| wild(random));
    let (number, first, second) = match random.below(12) {
        0..=1 => (number::SET_TIMER_OP, deadline(random, 1_000_000), others[0]),
        2 => (number::FPU_TASKSWITCH, plain(random.below(3)), others[0]),
        3..=4 => (number::SET_DEBUGREG, plain(random.below(10)), address(random)),
        5 => (number::SET_DEBUGREG, plain(7), plain(random.bits() & 0xffff_ffff)),
        6 => (number::GET_DEBUGREG, plain(random.below(10)), others[0]),
        7..=9 => (number::SET_SEGMENT_BASE, plain(random.below(5)), address(random)),
        10 => (number::SET_SEGMENT_BASE, plain(3), plain(selector(random))),
        // An unusable stack ends the guest at its next trap from user mode.
        _ if random.once_in(16) => (number::STACK_SWITCH, plain(selector(random)), address(random)),
        _ => {
            let stack = Word::Address(Place::Stack, 2048 + random.below(32) as i32);
            (number::STACK_SWITCH, plain(selector(random)), stack)
        }
    };
    Call { number, args: [first, second, others[0], others[1], others[2]], memory: Vec::new() }
}

/// Calls on trap tables and callbacks. The CPU's vectors keep the guest's own handlers, because the
/// guest's next fault would end it otherwise.
fn entries(random: &mut Random) -> Call {
    if random.once_in(2) {
        let mut memory = Vec::new();
        for _ in 0..random.below(4) {
            let vector = 32 + random.below(224);
            let flags = random.below(256);
            memory.push(plain(vector | flags << 8 | selector(random) << 16));
            memory.push(address(random));
        }
        memory.extend([plain(0), plain(0)]);
        let place = match address(random) {
            place @ Word::Number(1..) if random.once_in(4) => place,
            _ => Word::Memory(0),
        };
        let args = [place, wild(random), wild(random), wild(random), wild(random)];
        return Call { number: number::SET_TRAP_TABLE, args, memory };
    }
    if random.once_in(16) {
        let args = [(); 5].map(|()| address(random));
        return Call { number: number::SET_CALLBACKS, args, memory: Vec::new() };
    }
    let kind = random.of(&[3, 4, 5, 6, 7, 8, 0xffff]);
    let memory = [plain(kind | random.below(4) << 16), address(random)].into();
    let operation = random.below(3);
    command(random, number::CALLBACK_OP, operation, memory)
}

/// Calls on version, assists, I/O privilege, or the emergency console.
fn small(random: &mut Random) -> Call {
    let memory: Vec<Word> = [wild(random), wild(random), wild(random), wild(random)].into();
    match random.below(4) {
        0 => {
            let operation = random.below(14);
            command(random, number::XEN_VERSION, operation, memory)
        }
        1 => {
            let operation = random.below(40);
            command(random, number::PHYSDEV_OP, operation, memory)
        }
        2 => {
            let args =
                [plain(random.below(3)), plain(random.below(8)), memory[0], memory[1], memory[2]];
            Call { number: number::VM_ASSIST, args, memory: Vec::new() }
        }
        _ => {
            // Output goes to the machine's console, so it is at most an empty line.
            let operation = random.of(&[0, 1, 1, 2, 99]);
            let count = if operation == 0 { random.below(2) } else { random.number() };
            let args = [plain(operation), plain(count), Word::Memory(0), memory[0], memory[1]];
            Call { number: number::CONSOLE_IO, args, memory: [plain(0x0a0a)].into() }
        }
    }
}

/// Calls with unused, superseded, or the ultravisor's own numbers.
fn unknown(random: &mut Random) -> Call {
    let number = match random.below(4) {
        0 => random.number(),
        1 => 48,
        // `iret` takes a frame on the stack instead of arguments, so it is a step of its own.
        _ => [random.below(50), 7][usize::from(random.once_in(8))],
    };
    let others = [number::IRET, number::SCHED_OP, number::SET_TRAP_TABLE];
    let number = if others.contains(&number) { 48 } else { number };
    let memory: Vec<Word> = [(); 6].map(|()| wild(random)).into();
    let operation = if random.once_in(4) { random.number() } else { random.below(40) };
    let mut call = command(random, number, operation, memory);
    if random.once_in(2) {
        call.args[1] = plain(random.below(8));
        call.args[2] = Word::Memory(0);
    }
    call
}
