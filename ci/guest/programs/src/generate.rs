//! Generates a program from a seed.

use crate::random::Random;
use crate::word::{Frame, Place, Word};
use crate::{Batch, Requests, batch, calls, store, tables};
use alloc::vec::Vec;
use pv_abi::xen::hypercall as number;

/// The most steps of a program.
const STEPS: u64 = 12;
/// The number of step slots for each program in a run; program n has the slots from n times this
/// on.
pub const SLOTS: u64 = 32;
/// The first slot of a program for steps of the second virtual CPU.
pub const OTHER_SLOTS: u64 = 16;

/// A step of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a table of each level in pages 0 to 3, each linking to the one before, and pin them.
    Tables,
    /// A hypercall.
    Call {
        /// The number of the call.
        number: u64,
        /// The arguments of the call.
        args: [Word; 5],
        /// Words in memory that the call may read and write.
        memory: Vec<Word>,
    },
    /// Instructions of [`CODES`].
    Code {
        /// The index in [`CODES`].
        code: u8,
        /// Whether the code runs in user mode.
        user: bool,
        /// rax, rcx, rdx, rbx, rsi, rdi.
        registers: [Word; 6],
    },
    /// A write of [`STORES`] by the kernel.
    Store {
        /// The index in [`STORES`].
        how: u8,
        /// The address.
        address: Word,
        /// The value.
        value: Word,
    },
    /// Write an entry of the grant table.
    Grant {
        /// The index of the entry.
        index: u16,
        /// The flags, partition and frame.
        entry: Word,
    },
    /// The `iret` call with this frame: rax, r11, rcx, flags, rip, cs, rflags, rsp, ss.
    Iret([Word; 9]),
    /// Messages to the store.
    Requests(Requests),
    /// A call on a long list.
    Batch(Batch),
}

/// Instructions, each with a name and its bytes.
pub const CODES: [(&str, &[u8]); 72] = [
    ("cli", &[0xfa]),
    ("sti", &[0xfb]),
    ("hlt", &[0xf4]),
    ("in al, dx", &[0xec]),
    ("in eax, dx", &[0xed]),
    ("out dx, al", &[0xee]),
    ("rep insb", &[0xf3, 0x6c]),
    ("rep outsb", &[0xf3, 0x6e]),
    ("clts", &[0x0f, 0x06]),
    ("wbinvd", &[0x0f, 0x09]),
    ("mov rax, cr0", &[0x0f, 0x20, 0xc0]),
    ("mov cr0, rax", &[0x0f, 0x22, 0xc0]),
    ("mov rax, cr2", &[0x0f, 0x20, 0xd0]),
    ("mov cr2, rax", &[0x0f, 0x22, 0xd0]),
    ("mov rax, cr3", &[0x0f, 0x20, 0xd8]),
    ("mov rax, cr4", &[0x0f, 0x20, 0xe0]),
    ("mov cr4, rax", &[0x0f, 0x22, 0xe0]),
    ("mov cr8, rax", &[0x44, 0x0f, 0x22, 0xc0]),
    ("mov rax, dr7", &[0x0f, 0x21, 0xf8]),
    ("mov dr7, rax", &[0x0f, 0x23, 0xf8]),
    ("mov dr0, rax", &[0x0f, 0x23, 0xc0]),
    ("mov rax, dr6", &[0x0f, 0x21, 0xf0]),
    ("mov dr4, rax", &[0x0f, 0x23, 0xe0]),
    ("sidt fs:[rdi]", &[0x64, 0x0f, 0x01, 0x0f]),
    ("sldt [rdi]", &[0x0f, 0x00, 0x07]),
    ("str eax", &[0x0f, 0x00, 0xc8]),
    ("smsw gs:[rdi]", &[0x65, 0x0f, 0x01, 0x27]),
    ("rdfsbase rax", &[0xf3, 0x48, 0x0f, 0xae, 0xc0]),
    ("wrfsbase rax", &[0xf3, 0x48, 0x0f, 0xae, 0xd0]),
    ("wrgsbase rax", &[0xf3, 0x48, 0x0f, 0xae, 0xd8]),
    ("rdmsr", &[0x0f, 0x32]),
    ("wrmsr", &[0x0f, 0x30]),
    ("lgdt [rdi]", &[0x0f, 0x01, 0x17]),
    ("lidt [rdi]", &[0x0f, 0x01, 0x1f]),
    ("sgdt [rdi]", &[0x0f, 0x01, 0x07]),
    ("lldt ax", &[0x0f, 0x00, 0xd0]),
    ("ltr ax", &[0x0f, 0x00, 0xd8]),
    ("lmsw ax", &[0x0f, 0x01, 0xf0]),
    ("invlpg [rdi]", &[0x0f, 0x01, 0x3f]),
    ("swapgs", &[0x0f, 0x01, 0xf8]),
    ("sysret", &[0x48, 0x0f, 0x07]),
    ("sysexit", &[0x48, 0x0f, 0x35]),
    ("sysenter", &[0x0f, 0x34]),
    ("xsetbv", &[0x0f, 0x01, 0xd1]),
    ("xgetbv", &[0x0f, 0x01, 0xd0]),
    ("rdpmc", &[0x0f, 0x33]),
    ("rdtscp", &[0x0f, 0x01, 0xf9]),
    ("cpuid", &[0x0f, 0xa2]),
    ("forced cpuid", &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2]),
    ("forced, cut short", &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0x0b]),
    ("int 3", &[0xcc]),
    ("int 80h", &[0xcd, 0x80]),
    ("int 0dh", &[0xcd, 0x0d]),
    ("int 20h", &[0xcd, 0x20]),
    ("int f0h", &[0xcd, 0xf0]),
    ("ud2", &[0x0f, 0x0b]),
    ("mov ds, ax", &[0x8e, 0xd8]),
    ("mov fs, ax", &[0x8e, 0xe0]),
    ("mov gs, ax", &[0x8e, 0xe8]),
    ("mov rax, [rdi]", &[0x48, 0x8b, 0x07]),
    ("mov [rdi], rax", &[0x48, 0x89, 0x07]),
    ("rep movsb", &[0xf3, 0xa4]),
    ("fxsave [rdi]", &[0x0f, 0xae, 0x07]),
    ("fxrstor [rdi]", &[0x0f, 0xae, 0x0f]),
    ("fninit", &[0xdb, 0xe3]),
    ("xsave [rdi]", &[0x0f, 0xae, 0x27]),
    ("single step", &[0x9c, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0x90]),
    ("nested task, then syscall", &[0x9c, 0x81, 0x0c, 0x24, 0, 0x40, 0, 0, 0x9d, 0x0f, 0x05]),
    ("alignment check", &[0x9c, 0x81, 0x0c, 0x24, 0, 0, 4, 0, 0x9d, 0x48, 0x8b, 0x07]),
    ("mov ss, ax; syscall", &[0x8e, 0xd0, 0x0f, 0x05]),
    ("call rdi", &[0xff, 0xd7]),
    ("verw ax", &[0x0f, 0x00, 0xe8]),
];

/// Writes by a kernel, each with a name and the instructions that write rax at the address in rdi.
pub const STORES: [(&str, &[u8]); 10] = [
    ("mov word", &[0x48, 0x89, 0x07]),
    ("mov half", &[0x89, 0x07]),
    ("mov byte", &[0x88, 0x07]),
    ("xchg", &[0x48, 0x87, 0x07]),
    ("lock and byte", &[0xf0, 0x20, 0x07]),
    ("lock and", &[0xf0, 0x48, 0x21, 0x07]),
    ("lock or", &[0xf0, 0x48, 0x09, 0x07]),
    ("lock btr 5", &[0xf0, 0x48, 0x0f, 0xba, 0x37, 0x05]),
    ("lock bts 1", &[0xf0, 0x48, 0x0f, 0xba, 0x2f, 0x01]),
    ("lock cmpxchg", &[0xf0, 0x48, 0x0f, 0xb1, 0x0f]),
];

/// A program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The steps of the first virtual CPU.
    pub steps: Vec<Step>,
    /// The steps of the second virtual CPU, which run at the same time.
    pub other: Vec<Step>,
}

impl Program {
    /// Program `index` of a seed.
    #[must_use]
    pub fn generate(seed: u64, index: u64) -> Self {
        let mut random = Random::new(seed ^ Random::new(index).bits());
        let count = 2 + random.below(STEPS - 1);
        let mut steps = Vec::new();
        if random.once_in(2) {
            steps.push(Step::Tables);
        }
        steps.extend((0..count).map(|_| step(&mut random)));
        let mut other = Vec::new();
        if random.once_in(2) {
            let count = 2 + random.below(STEPS - 1);
            // A step that waits would wait for ever, because only the first virtual CPU has a
            // timer. The store's ring has one producer.
            let fits = |step: &Step| !step.may_wait() && !matches!(step, Step::Requests(_));
            other.extend((0..count).map(|_| step(&mut random)).filter(fits));
        }
        Self { steps, other }
    }

    /// The steps of both virtual CPUs, each with its slot among the [`SLOTS`] of the program.
    pub fn slots(&self) -> impl Iterator<Item = (u64, &Step)> {
        (0..).zip(&self.steps).chain((OTHER_SLOTS..).zip(&self.other))
    }
}

impl Step {
    /// Whether a virtual CPU may wait for an event in this step.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        match self {
            Self::Call { number, memory, .. } => {
                waits(&Word::Number(*number))
                    || *number == number::MULTICALL && memory.iter().step_by(8).any(waits)
            }
            Self::Batch(Batch { number, pattern, .. }) => {
                *number == number::MULTICALL && pattern.iter().step_by(8).any(waits)
            }
            Self::Code { code, .. } => CODES.get(usize::from(*code)).is_some_and(|c| c.0 == "hlt"),
            _ => false,
        }
    }

    /// Whether this step may stop the timer and then wait for ever.
    #[must_use]
    pub fn may_wait_later(&self) -> bool {
        match self {
            Self::Call { number: number::MULTICALL, memory, .. } => {
                memory.iter().step_by(8).skip(1).any(waits)
            }
            Self::Batch(_) => self.may_wait(),
            _ => false,
        }
    }
}

/// Whether the call with this number may make the virtual CPU wait.
fn waits(call: &Word) -> bool {
    let Word::Number(call) = call else { return false };
    [number::SCHED_OP, number::SCHED_OP_COMPAT].contains(call)
}

fn step(random: &mut Random) -> Step {
    match random.below(36) {
        0..=2 => Step::Grant { index: 8 + random.below(8) as u16, entry: grant_entry(random) },
        3..=5 => write(random),
        6..=9 => code(random),
        10 => Step::Iret(iret(random)),
        11..=12 => multicall(random),
        13..=15 => store::requests(random),
        16 if random.once_in(2) => batch::batch(random),
        _ => spoilt(random),
    }
}

/// A call; in one of four calls, one word is wrong.
fn spoilt(random: &mut Random) -> Step {
    let mut call = calls::call(random);
    if random.once_in(4) {
        let other = wild(random);
        let memory = call.memory.len() as u64;
        let at = random.below(memory + 5) as usize;
        match at.checked_sub(5) {
            Some(at) => call.memory[at] = other,
            None => call.args[at] = other,
        }
    }
    calls::tame(&mut call);
    Step::Call { number: call.number, args: call.args, memory: call.memory }
}

/// A multicall, with the memory of its calls behind it.
fn multicall(random: &mut Random) -> Step {
    let count = 1 + random.below(5);
    let mut memory = Vec::new();
    let mut behind: Vec<Word> = Vec::new();
    for _ in 0..count {
        let call = calls::call(random);
        let base = count * 64 + behind.len() as u64 * 8;
        let moved = |word: Word| match word {
            Word::Memory(offset) => Word::Memory(offset + base as u16),
            other => other,
        };
        memory.extend([Word::Number(call.number), Word::Number(0)]);
        memory.extend(call.args.map(moved));
        memory.push(wild(random));
        behind.extend(call.memory.into_iter().map(moved));
    }
    memory.extend(behind);
    let claimed = if random.once_in(8) { random.number() } else { count };
    // Pages of zeros would be calls that remove all trap handlers.
    let place = match address(random) {
        place @ Word::Number(_) if random.once_in(4) => place,
        _ => Word::Memory(0),
    };
    let args = [place, Word::Number(claimed), wild(random), wild(random), wild(random)];
    Step::Call { number: number::MULTICALL, args, memory }
}

fn write(random: &mut Random) -> Step {
    let how = random.below(STORES.len() as u64) as u8;
    let (address, value) = match random.below(4) {
        // This is an entry of one of the program's own tables.
        0..=1 => {
            let page = random.below(5) as u8;
            let entry = random.of(&[0, 8, 16, 4088]);
            let skew = if random.once_in(8) { random.below(8) as i32 } else { 0 };
            (Word::Address(Place::Page(page), entry + skew), tables::entry(random))
        }
        _ => (address(random), wild(random)),
    };
    Step::Store { how, address, value }
}

/// Model-specific registers that programs try.
const REGISTERS: [u64; 18] = [
    0x10,
    0x1b,
    0x48,
    0x49,
    0x79,
    0x8b,
    0x10a,
    0x174,
    0x176,
    0x1a0,
    0x1d9,
    0x277,
    0x6e0,
    0x802,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0101,
];

fn code(random: &mut Random) -> Step {
    let code = random.below(CODES.len() as u64) as u8;
    let mut registers = [(); 6].map(|()| wild(random));
    match CODES[usize::from(code)].0 {
        "rdmsr" | "wrmsr" => {
            let register = random.of(&REGISTERS) + random.below(4);
            registers[1] = Word::Number(register);
        }
        // They may repeat often, but must not go on for ever.
        "rep insb" | "rep outsb" | "rep movsb" => registers[1] = Word::Number(random.below(5000)),
        "int f0h" | "cpuid" | "forced cpuid" if random.once_in(2) => {
            registers[0] = Word::Number(random.of(&[0, 1, 7, 0xd, 0x4000_0000, 0x8000_0001]));
        }
        "mov ds, ax" | "mov fs, ax" | "mov gs, ax" | "mov ss, ax; syscall" => {
            registers[0] = Word::Number(selector(random));
        }
        _ => {}
    }
    Step::Code { code, user: random.once_in(3), registers }
}

/// A selector: null, flat, of one of the guest's own tables, of the monitor's, or out of bounds.
pub fn selector(random: &mut Random) -> u64 {
    match random.below(4) {
        0 => random.of(&[0, 3, 0xe02b, 0xe033, 0xe023, 0xe028, 0xe030]),
        1 => random.below(8) << 3 | random.below(8),
        2 => 0xe000 + random.below(0x100),
        _ => random.below(0x1_0000),
    }
}

fn iret(random: &mut Random) -> [Word; 9] {
    let plain = Word::Number;
    let rip = if random.once_in(2) { address(random) } else { plain(random.number()) };
    let cs = plain(if random.once_in(2) { random.of(&[0xe033, 0xe030]) } else { selector(random) });
    let flags = plain(random.of(&[0x2, 0x202, 0x3202, 0x20202, 0x4202, 0x302, u64::MAX]));
    let ss = plain(if random.once_in(2) { 0xe02b } else { selector(random) });
    let [rax, r11, rcx] = [(); 3].map(|()| wild(random));
    let how = plain(random.of(&[0, 0x100, u64::MAX]));
    // Kernel mode continues on this stack, so it has to hold the frame of the next fault.
    let rsp = Word::Address(Place::Stack, 2048 + random.below(64) as i32);
    [rax, r11, rcx, how, rip, cs, flags, rsp, ss]
}

/// An entry of the grant table.
fn grant_entry(random: &mut Random) -> Word {
    let flags = random.of(&[0, 1, 1, 1, 5, 2, 3, 9, 0x19, 0xffff]);
    let frame = match random.below(6) {
        0..=3 => u64::from(random.below(16) as u8),
        _ => random.bits() >> 40,
    };
    // The guest replaces n by the frame of page `n`, and fills in its own number.
    if random.once_in(4) {
        Word::Number(flags | random.below(16) << 16 | frame << 32)
    } else {
        Word::Own(16, flags | frame << 32)
    }
}

/// Any frame.
pub fn frame(random: &mut Random) -> Frame {
    match random.below(16) {
        0..=8 => Frame::Page(random.below(16) as u8),
        9 => Frame::Table(1 + random.below(4) as u8),
        10 => random.of(&[Frame::Shared, Frame::StartInfo, Frame::Console, Frame::Store]),
        11 => Frame::Grants(
            random.of(&[-128, -50, -41, -40, -33, -32, -31, -9, -8, -2, -1, 0, 1, 2, 4, 5]),
        ),
        12..=13 => Frame::Foreign(random.bits() as u32),
        14 => Frame::Past(random.below(3) as u8),
        _ => Frame::At(random.of(&[0, 1, 0xa0, 0x100, 0xfec00, 0xfee00, (1 << 40) - 1, 1 << 34])),
    }
}

/// Addresses that belong to nobody, or to the monitor.
const ELSEWHERE: [u64; 20] = [
    0,
    8,
    0x1000,
    0x7fff_ffff_f000,
    0x7fff_ffff_fffc,
    0x8000_0000_0000,
    0x8000_0000_0000_0000,
    0xffff_7fff_ffff_fff8,
    0xffff_7fff_ffff_fffc,
    0xffff_8000_0000_0000,
    0xffff_8040_0000_0000,
    0xffff_8080_0000_0000,
    0xffff_8100_0000_0000,
    0xffff_8380_0000_0000,
    0xffff_87ff_ffff_fff8,
    0xffff_87ff_ffff_fffc,
    0xffff_8800_0000_0000,
    0xffff_ffff_ffff_f000,
    0xffff_ffff_ffff_fff8,
    0xffff_ffff_ffff_ffff,
];

/// Any address.
pub fn address(random: &mut Random) -> Word {
    let page = Place::Page(random.below(16) as u8);
    match random.below(8) {
        0..=1 => Word::Address(page, 8 * random.below(512) as i32),
        2 => Word::Address(page, random.below(4096) as i32),
        3 => Word::Address(page, 4096 - 1 - random.below(24) as i32),
        4 => Word::Address(Place::Grants, 8 * (8 + random.below(8) as i32)),
        5 => Word::Number(random.of(&ELSEWHERE)),
        6 => Word::Number(random.of(&ELSEWHERE).wrapping_add(random.below(64)).wrapping_sub(32)),
        _ => Word::Number(random.number()),
    }
}

/// A word of any kind.
pub fn wild(random: &mut Random) -> Word {
    match random.below(8) {
        0..=3 => Word::Number(random.number()),
        4..=5 => address(random),
        6 => Word::FrameNumber(frame(random)),
        _ => tables::entry(random),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_is_always_the_same_program() {
        for index in 0..200 {
            assert_eq!(Program::generate(7, index), Program::generate(7, index));
        }
        assert_ne!(Program::generate(7, 0), Program::generate(8, 0));
        assert_ne!(Program::generate(7, 0), Program::generate(7, 1));
    }

    #[test]
    fn all_calls_codes_and_stores_come_up() {
        let (mut calls, mut codes, mut stores) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for index in 0..20_000 {
            for (_, step) in Program::generate(1, index).slots() {
                match *step {
                    Step::Call { number, .. } => drop(calls.insert(number)),
                    Step::Code { code, user, .. } => drop(codes.insert((code, user))),
                    Step::Store { how, .. } => drop(stores.insert(how)),
                    _ => {}
                }
            }
        }
        assert_eq!(codes.len(), CODES.len() * 2);
        assert_eq!(stores.len(), STORES.len());
        assert!(
            (0..=48).all(|number| number == number::IRET || calls.contains(&number)),
            "{calls:?}"
        );
    }

    #[test]
    fn no_program_stops_the_guest_by_asking_for_it() {
        for index in 0..20_000 {
            for (_, step) in Program::generate(2, index).slots() {
                if let Step::Call { number: number::SCHED_OP, args, .. } = step {
                    assert_ne!(args[0], Word::Number(2));
                }
            }
        }
    }

    #[test]
    fn numbers_of_steps_are_apart_and_batches_fit_a_page() {
        let (mut others, mut batches, mut stores) = (0, 0, 0);
        for index in 0..5000 {
            let program = Program::generate(4, index);
            assert!(program.steps.len() as u64 <= OTHER_SLOTS);
            assert!(program.other.len() as u64 <= SLOTS - OTHER_SLOTS);
            others += usize::from(!program.other.is_empty());
            assert!(!program.other.iter().any(Step::may_wait));
            for (_, step) in program.slots() {
                stores += usize::from(matches!(step, Step::Requests(_)));
                if let Step::Batch(batch) = step {
                    batches += 1;
                    assert!((1..=crate::PATTERN_WORDS).contains(&batch.pattern.len()));
                }
            }
        }
        assert!(others > 2000 && batches > 300 && stores > 2000, "{others} {batches} {stores}");
    }

    #[test]
    fn words_of_memory_lie_in_the_memory() {
        for index in 0..5000 {
            for (_, step) in Program::generate(3, index).slots() {
                if let Step::Call { args, memory, .. } = step {
                    for word in args.iter().chain(memory) {
                        let within = |offset: u16| usize::from(offset) <= memory.len() * 8;
                        assert!(!matches!(word, Word::Memory(offset) if !within(*offset)));
                    }
                }
            }
        }
    }
}
