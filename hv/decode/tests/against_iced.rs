//! Compares the decoder with a complete disassembler on arbitrary bytes. An instruction that the
//! decoder accepts has the same meaning and length for both, and the decoder refuses no instruction
//! that it should know.

use decode::{Memory, Operand, Operation, Place, Port, Segment, Size, SystemWord, Write, decode};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use proptest::prelude::*;

const PREFIXES: &[u8] = &[
    0xf0, 0xf2, 0xf3, 0x66, 0x67, 0x64, 0x65, 0x2e, 0x36, 0x40, 0x41, 0x44, 0x48, 0x49, 0x4a, 0x4c,
    0x4d, 0x4f,
];
const OPCODES: &[&[u8]] = &[
    &[0x08],
    &[0x09],
    &[0x20],
    &[0x21],
    &[0x80],
    &[0x81],
    &[0x83],
    &[0x86],
    &[0x87],
    &[0x88],
    &[0x89],
    &[0xc6],
    &[0xc7],
    &[0x0f, 0xb0],
    &[0x0f, 0xb1],
    &[0x0f, 0xba],
    &[0x0f, 0x00],
    &[0x0f, 0x01],
    &[0x0f, 0x06],
    &[0x0f, 0x07],
    &[0x0f, 0x08],
    &[0x0f, 0x09],
    &[0x0f, 0x20],
    &[0x0f, 0x21],
    &[0x0f, 0x22],
    &[0x0f, 0x23],
    &[0x0f, 0x30],
    &[0x0f, 0x31],
    &[0x0f, 0x32],
    &[0x0f, 0x33],
    &[0x0f, 0x35],
    &[0x0f, 0xa2],
    &[0x6c],
    &[0x6d],
    &[0x6e],
    &[0x6f],
    &[0xcd],
    &[0xe4],
    &[0xe5],
    &[0xe6],
    &[0xe7],
    &[0xec],
    &[0xed],
    &[0xee],
    &[0xef],
    &[0xf4],
    &[0xfa],
    &[0xfb],
];

/// Bytes that often are one of the emulated instructions.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let prefixes = prop::collection::vec(prop::sample::select(PREFIXES), 0..3);
    let tail = prop::collection::vec(any::<u8>(), 0..10);
    (prefixes, prop::sample::select(OPCODES), tail)
        .prop_map(|(prefixes, opcode, tail)| [&prefixes[..], opcode, &tail].concat())
}

fn disassemble(bytes: &[u8]) -> Option<Instruction> {
    let options = DecoderOptions::NONE;
    let mut decoder = Decoder::with_ip(64, &bytes[..bytes.len().min(15)], 0, options);
    let instruction = decoder.decode();
    (!instruction.is_invalid()).then_some(instruction)
}

fn number(register: Register) -> Option<u8> {
    (register != Register::None && register != Register::RIP && register != Register::EIP)
        .then(|| register.number() as u8)
}

/// The memory operand as the disassembler sees it.
fn memory(i: &Instruction) -> Memory {
    let base = i.memory_base();
    let rip_relative = i.is_ip_rel_memory_operand();
    let address_32 = [base, i.memory_index()].iter().any(|r| r.is_gpr32() || *r == Register::EIP)
        || (base == Register::None
            && i.memory_index() == Register::None
            && i.memory_displ_size() == 4);
    let index = number(i.memory_index());
    let displacement = match (rip_relative, address_32) {
        // The disassembler returns the target; the instruction is at 0.
        (true, _) => (i.memory_displacement64() as i64).wrapping_sub(i.len() as i64),
        (_, true) => i64::from(i.memory_displacement64() as u32 as i32),
        _ => i.memory_displacement64() as i64,
    };
    Memory {
        base: number(base),
        index,
        scale: if index.is_some() { i.memory_index_scale() as u8 } else { 1 },
        displacement: if rip_relative { i64::from(displacement as i32) } else { displacement },
        rip_relative,
        segment: match i.segment_prefix() {
            Register::FS => Segment::Fs,
            Register::GS => Segment::Gs,
            _ => Segment::Flat,
        },
        address_32,
    }
}

fn size_of(register: Register) -> Size {
    match register.size() {
        1 => Size::Byte,
        2 => Size::Word,
        4 => Size::Double,
        _ => Size::Quad,
    }
}

fn memory_size(i: &Instruction) -> Size {
    match i.memory_size().size() {
        1 => Size::Byte,
        2 => Size::Word,
        4 => Size::Double,
        _ => Size::Quad,
    }
}

/// The second operand of a write, sign-extended.
fn source(i: &Instruction) -> Option<Operand> {
    match i.op1_kind() {
        OpKind::Register => {
            Some(Operand::Register(i.op1_register().full_register().number() as u8))
        }
        OpKind::Memory => None,
        _ => {
            let unused = 64 - 8 * u32::from(memory_size(i).bytes());
            let value = ((i.immediate(1) << unused) as i64 >> unused) as u64;
            Some(Operand::Immediate(value))
        }
    }
}

fn is_high_byte(i: &Instruction) -> bool {
    [i.op0_register(), i.op1_register()]
        .iter()
        .any(|r| [Register::AH, Register::BH, Register::CH, Register::DH].contains(r))
}

/// The expected result for a disassembled write.
fn expected_write(i: &Instruction) -> Option<Operation> {
    if i.op0_kind() != OpKind::Memory && i.mnemonic() != Mnemonic::Xchg {
        return None;
    }
    let size = memory_size(i);
    let bits = size.bytes() * 8;
    let write = match i.mnemonic() {
        Mnemonic::Mov if i.op1_register().is_segment_register() => return None,
        Mnemonic::Mov if is_offset_form(i.code()) => return None,
        Mnemonic::Mov => Write::Store(source(i)?),
        Mnemonic::And => Write::And(source(i)?),
        Mnemonic::Or => Write::Or(source(i)?),
        Mnemonic::Xchg if i.op0_kind() == OpKind::Memory => {
            Write::Exchange { register: i.op1_register().full_register().number() as u8 }
        }
        Mnemonic::Cmpxchg => {
            Write::CompareExchange { register: i.op1_register().full_register().number() as u8 }
        }
        Mnemonic::Bts if i.op1_kind() == OpKind::Immediate8 => {
            Write::BitSet { bit: i.immediate8() % bits }
        }
        Mnemonic::Btr if i.op1_kind() == OpKind::Immediate8 => {
            Write::BitReset { bit: i.immediate8() % bits }
        }
        _ => return None,
    };
    Some(Operation::Write { write, size, memory: memory(i) })
}

/// `mov` between the accumulator and an absolute address (opcodes a2 and a3).
fn is_offset_form(code: Code) -> bool {
    matches!(
        code,
        Code::Mov_moffs8_AL | Code::Mov_moffs16_AX | Code::Mov_moffs32_EAX | Code::Mov_moffs64_RAX
    )
}

fn port(i: &Instruction, operand: u32) -> Port {
    match i.op_kind(operand) {
        OpKind::Immediate8 => Port::Immediate(i.immediate8()),
        _ => Port::Dx,
    }
}

/// The first operand, as a destination.
fn place(i: &Instruction) -> Place {
    let register = i.op0_register();
    match i.op0_kind() {
        OpKind::Register => Place::Register {
            number: register.full_register().number() as u8,
            size: size_of(register),
        },
        _ => Place::Memory(memory(i)),
    }
}

/// The expected result for a disassembled privileged instruction.
fn expected_privileged(i: &Instruction) -> Option<Operation> {
    let n = |register: Register| register.number() as u8;
    let (r0, r1) = (i.op0_register(), i.op1_register());
    Some(match i.mnemonic() {
        Mnemonic::Cli => Operation::Cli,
        Mnemonic::Sti => Operation::Sti,
        Mnemonic::Hlt => Operation::Hlt,
        Mnemonic::In => Operation::In { port: port(i, 1), size: size_of(r0) },
        Mnemonic::Out => Operation::Out { port: port(i, 0), size: size_of(r1) },
        Mnemonic::Rdmsr => Operation::Rdmsr,
        Mnemonic::Wrmsr => Operation::Wrmsr,
        Mnemonic::Rdtsc => Operation::Rdtsc,
        Mnemonic::Mov if r1.is_cr() => Operation::ReadControl { control: n(r1), register: n(r0) },
        Mnemonic::Mov if r0.is_cr() => Operation::WriteControl { control: n(r0), register: n(r1) },
        Mnemonic::Mov if r1.is_dr() => Operation::ReadDebug { debug: n(r1), register: n(r0) },
        Mnemonic::Mov if r0.is_dr() => Operation::WriteDebug { debug: n(r0), register: n(r1) },
        Mnemonic::Sgdt | Mnemonic::Sidt => Operation::StoreTable { memory: memory(i) },
        Mnemonic::Sldt => Operation::StoreSystem { word: SystemWord::LocalTable, to: place(i) },
        Mnemonic::Str => Operation::StoreSystem { word: SystemWord::Task, to: place(i) },
        Mnemonic::Smsw => Operation::StoreSystem { word: SystemWord::MachineStatus, to: place(i) },
        Mnemonic::Clts => Operation::Clts,
        Mnemonic::Wbinvd => Operation::Wbinvd,
        Mnemonic::Invd => Operation::Invd,
        Mnemonic::Xsetbv => Operation::Xsetbv,
        _ => return None,
    })
}

/// The expected result for a disassembled instruction; `None` if the decoder should refuse it.
fn expected(i: &Instruction) -> Option<Operation> {
    expected_write(i).or_else(|| expected_privileged(i))
}

/// Encodings that the decoder refuses although the hardware accepts them.
fn refused_on_purpose(bytes: &[u8], i: &Instruction) -> bool {
    let legacy =
        |b: &u8| [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3].contains(b);
    let rex = |b: &u8| (0x40..=0x4f).contains(b);
    let prefixes: Vec<u8> = bytes.iter().take_while(|b| legacy(b) || rex(b)).copied().collect();
    let rexes = prefixes.iter().filter(|b| rex(b)).count();
    let rex_not_last = rexes > 1 || (rexes == 1 && !rex(prefixes.last().unwrap()));
    let has = |b: u8| prefixes.contains(&b);
    let repeat = has(0xf2) || has(0xf3);
    let two_byte = bytes[prefixes.len()] == 0x0f;
    let control = [i.op0_register(), i.op1_register()].iter().find(|r| r.is_cr()).copied();
    let strange_control = control.is_some_and(|r| ![0, 2, 3, 4, 8].contains(&r.number()));
    let wide_and_narrow = has(0x66) && prefixes.last().is_some_and(|b| rex(b) && b & 8 != 0);
    let write = expected_write(i).is_some();
    // Like writes, instructions that describe the system have a size.
    let sized = write
        || matches!(
            expected_privileged(i),
            Some(Operation::StoreTable { .. } | Operation::StoreSystem { .. })
        );
    rex_not_last
        || is_high_byte(i)
        || strange_control
        || repeat
        || (!sized && wide_and_narrow)
        || (!sized && two_byte && has(0x66))
        || (!write && has(0xf0))
}

fn compare(bytes: &[u8]) -> Result<(), TestCaseError> {
    let ours = decode(bytes);
    let Some(theirs) = disassemble(bytes) else {
        prop_assert!(ours.is_none(), "{bytes:02x?}: {ours:?}");
        return Ok(());
    };
    let expected = expected(&theirs);
    match ours {
        Some(ours) => {
            prop_assert_eq!(Some(ours.operation), expected, "{:02x?} {:?}", bytes, theirs.code());
            prop_assert_eq!(
                usize::from(ours.length),
                theirs.len(),
                "{:02x?} {:?}",
                bytes,
                theirs.code()
            );
        }
        None => prop_assert!(
            expected.is_none() || refused_on_purpose(bytes, &theirs),
            "{bytes:02x?} {:?} refused",
            theirs.code()
        ),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 20_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn likely_bytes(bytes in likely()) {
        compare(&bytes)?;
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        if !bytes.starts_with(&[0x0f, 0x0b, 0x78]) {
            compare(&bytes)?;
        }
    }
}
