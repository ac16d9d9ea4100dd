//! Real encodings, and near misses that must be refused.

use decode::{
    Memory, Operand, Operation, Place, Port, Segment, Size, SystemWord, Write, decode,
    software_interrupt,
};

/// The memory operand `[base + displacement]`.
fn at(base: u8, displacement: i64) -> Memory {
    Memory {
        base: Some(base),
        index: None,
        scale: 1,
        displacement,
        rip_relative: false,
        segment: Segment::Flat,
        address_32: false,
    }
}

fn write(write: Write, size: Size, memory: Memory) -> Operation {
    Operation::Write { write, size, memory }
}

/// Decodes all of `bytes`. Also checks that more bytes after them do not matter, and that fewer
/// fail.
fn whole(bytes: &[u8]) -> Operation {
    let instruction = decode(bytes).expect("decodes");
    assert_eq!(usize::from(instruction.length), bytes.len(), "{bytes:02x?}");
    let mut longer = bytes.to_vec();
    longer.extend([0x90; 4]);
    assert_eq!(decode(&longer), Some(instruction), "{bytes:02x?}");
    for short in 0..bytes.len() {
        let cut = decode(&bytes[..short]);
        assert!(cut.is_none_or(|i| usize::from(i.length) <= short), "{bytes:02x?}");
    }
    instruction.operation
}

#[test]
fn page_table_writes_of_linux() {
    let xchg = |register| Write::Exchange { register };
    // xchg %rax,(%rbx); xchg %rdx,0x8(%rdi); xchg %r12,-8(%rbp)
    assert_eq!(whole(&[0x48, 0x87, 0x03]), write(xchg(0), Size::Quad, at(3, 0)));
    assert_eq!(whole(&[0x48, 0x87, 0x57, 0x08]), write(xchg(2), Size::Quad, at(7, 8)));
    assert_eq!(whole(&[0x4c, 0x87, 0x65, 0xf8]), write(xchg(12), Size::Quad, at(5, -8)));
    // lock andb $0xfd,(%rbx); lock andb $0xfd,0x10(%rax)
    let and = Write::And(Operand::Immediate(0xffff_ffff_ffff_fffd));
    assert_eq!(whole(&[0xf0, 0x80, 0x23, 0xfd]), write(and, Size::Byte, at(3, 0)));
    assert_eq!(whole(&[0xf0, 0x80, 0x60, 0x10, 0xfd]), write(and, Size::Byte, at(0, 16)));
    // lock btrq $5,(%rsi)
    let btr = Write::BitReset { bit: 5 };
    let bytes = [0xf0, 0x48, 0x0f, 0xba, 0x36, 0x05];
    assert_eq!(whole(&bytes), write(btr, Size::Quad, at(6, 0)));
}

#[test]
fn page_table_writes_by_the_general_path() {
    // xchg %rax,(%r13); xchg %r9,(%rsp)
    let xchg = |register| Write::Exchange { register };
    assert_eq!(whole(&[0x49, 0x87, 0x45, 0x00]), write(xchg(0), Size::Quad, at(13, 0)));
    assert_eq!(whole(&[0x4c, 0x87, 0x0c, 0x24]), write(xchg(9), Size::Quad, at(4, 0)));
    // mov %rdx,(%rax); movq $-2,0x100(%r12); mov %ecx,%gs:(%rax,%rbx,8)
    let store = |register| Write::Store(Operand::Register(register));
    assert_eq!(whole(&[0x48, 0x89, 0x10]), write(store(2), Size::Quad, at(0, 0)));
    let minus_2 = Write::Store(Operand::Immediate(-2i64 as u64));
    assert_eq!(
        whole(&[0x49, 0xc7, 0x84, 0x24, 0, 1, 0, 0, 0xfe, 0xff, 0xff, 0xff]),
        write(minus_2, Size::Quad, at(12, 0x100))
    );
    let memory = Memory { index: Some(3), scale: 8, segment: Segment::Gs, ..at(0, 0) };
    assert_eq!(whole(&[0x65, 0x89, 0x0c, 0xd8]), write(store(1), Size::Double, memory));
    // mov %rax,0x10(%rip); mov %rax,0x1000 (absolute)
    let memory = Memory { base: None, rip_relative: true, ..at(0, 16) };
    assert_eq!(whole(&[0x48, 0x89, 0x05, 16, 0, 0, 0]), write(store(0), Size::Quad, memory));
    let memory = Memory { base: None, ..at(0, 0x1000) };
    assert_eq!(
        whole(&[0x48, 0x89, 0x04, 0x25, 0, 0x10, 0, 0]),
        write(store(0), Size::Quad, memory)
    );
    // lock cmpxchg %rcx,(%rdi); lock orl $3,(%r8); and %rax,(%rdi); lock btsl $33,(%rax)
    let cmpxchg = Write::CompareExchange { register: 1 };
    assert_eq!(whole(&[0xf0, 0x48, 0x0f, 0xb1, 0x0f]), write(cmpxchg, Size::Quad, at(7, 0)));
    let or = Write::Or(Operand::Immediate(3));
    assert_eq!(whole(&[0xf0, 0x41, 0x83, 0x08, 3]), write(or, Size::Double, at(8, 0)));
    let and = Write::And(Operand::Register(0));
    assert_eq!(whole(&[0x48, 0x21, 0x07]), write(and, Size::Quad, at(7, 0)));
    let bts = Write::BitSet { bit: 1 };
    assert_eq!(whole(&[0xf0, 0x0f, 0xba, 0x28, 33]), write(bts, Size::Double, at(0, 0)));
    // mov %sil,(%rax): a REX prefix makes it a low byte
    assert_eq!(whole(&[0x40, 0x88, 0x30]), write(store(6), Size::Byte, at(0, 0)));
}

#[test]
fn privileged_instructions() {
    assert_eq!(whole(&[0xfa]), Operation::Cli);
    assert_eq!(whole(&[0xfb]), Operation::Sti);
    assert_eq!(whole(&[0xf4]), Operation::Hlt);
    let (byte, word, double) = (Size::Byte, Size::Word, Size::Double);
    let immediate = Port::Immediate;
    assert_eq!(whole(&[0xe4, 0x61]), Operation::In { port: immediate(0x61), size: byte });
    assert_eq!(whole(&[0x66, 0xed]), Operation::In { port: Port::Dx, size: word });
    assert_eq!(whole(&[0xed]), Operation::In { port: Port::Dx, size: double });
    assert_eq!(whole(&[0xe6, 0x80]), Operation::Out { port: immediate(0x80), size: byte });
    assert_eq!(whole(&[0xef]), Operation::Out { port: Port::Dx, size: double });
    assert_eq!(whole(&[0x0f, 0x32]), Operation::Rdmsr);
    assert_eq!(whole(&[0x0f, 0x30]), Operation::Wrmsr);
    assert_eq!(whole(&[0x0f, 0x31]), Operation::Rdtsc);
    assert_eq!(whole(&[0x0f, 0x20, 0xe0]), Operation::ReadControl { control: 4, register: 0 });
    assert_eq!(whole(&[0x0f, 0x22, 0xdf]), Operation::WriteControl { control: 3, register: 7 });
    let cr8 = Operation::WriteControl { control: 8, register: 15 };
    assert_eq!(whole(&[0x45, 0x0f, 0x22, 0xc7]), cr8);
    assert_eq!(whole(&[0x0f, 0x06]), Operation::Clts);
    assert_eq!(whole(&[0x0f, 0x08]), Operation::Invd);
    assert_eq!(whole(&[0x0f, 0x09]), Operation::Wbinvd);
    assert_eq!(whole(&[0x0f, 0x01, 0xd1]), Operation::Xsetbv);
    let forced = [0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0xa2];
    assert_eq!(whole(&forced), Operation::ForcedCpuid);
}

#[test]
fn debug_registers_and_what_tells_of_the_system() {
    assert_eq!(whole(&[0x0f, 0x21, 0xf8]), Operation::ReadDebug { debug: 7, register: 0 });
    assert_eq!(whole(&[0x41, 0x0f, 0x23, 0xc2]), Operation::WriteDebug { debug: 0, register: 10 });
    // sgdt (%rax); sidt 8(%rsp)
    assert_eq!(whole(&[0x0f, 0x01, 0x00]), Operation::StoreTable { memory: at(0, 0) });
    let memory = at(4, 8);
    assert_eq!(whole(&[0x0f, 0x01, 0x4c, 0x24, 8]), Operation::StoreTable { memory });
    let store = |word, to| Operation::StoreSystem { word, to };
    let register = |number, size| Place::Register { number, size };
    // sldt %ax; str %ecx; smsw %r9; sldt (%rdi); smsw %gs:(%rdx)
    let ax = register(0, Size::Word);
    assert_eq!(whole(&[0x66, 0x0f, 0x00, 0xc0]), store(SystemWord::LocalTable, ax));
    let ecx = register(1, Size::Double);
    assert_eq!(whole(&[0x0f, 0x00, 0xc9]), store(SystemWord::Task, ecx));
    let r9 = register(9, Size::Quad);
    assert_eq!(whole(&[0x49, 0x0f, 0x01, 0xe1]), store(SystemWord::MachineStatus, r9));
    let memory = Place::Memory(at(7, 0));
    assert_eq!(whole(&[0x0f, 0x00, 0x07]), store(SystemWord::LocalTable, memory));
    let memory = Place::Memory(Memory { segment: Segment::Gs, ..at(2, 0) });
    assert_eq!(whole(&[0x65, 0x0f, 0x01, 0x22]), store(SystemWord::MachineStatus, memory));
}

#[test]
fn what_is_not_emulated_is_refused() {
    let refused: &[&[u8]] = &[
        &[],
        &[0xf0],
        // A lock prefix where it is not allowed: store, cli, register forms, wrmsr.
        &[0xf0, 0x48, 0x89, 0x10],
        &[0xf0, 0xfa],
        &[0xf0, 0x48, 0x87, 0xc3],
        &[0xf0, 0x0f, 0x30],
        // Register forms write no memory.
        &[0x48, 0x87, 0xc3],
        &[0x48, 0x89, 0xc3],
        &[0x80, 0xe3, 0xfd],
        // Prefixes that would make it another instruction.
        &[0xf3, 0x0f, 0x09],
        &[0xf3, 0x48, 0x89, 0x10],
        &[0xf3, 0x0f, 0x01, 0x3f],
        &[0x66, 0x0f, 0x30],
        // A REX prefix in front of another prefix, or of another REX prefix.
        &[0x48, 0xf0, 0x87, 0x03],
        &[0x48, 0x40, 0x87, 0x03],
        // ah as source.
        &[0x88, 0x20],
        // Other operations of the same groups: add, cmp, bt, btc, lgdt, lldt, sldt with a repeat
        // prefix, cr1, cr9, dr8.
        &[0xf0, 0x80, 0x03, 0xfd],
        &[0x48, 0x83, 0x38, 0x01],
        &[0x0f, 0xba, 0x20, 0x05],
        &[0x0f, 0xba, 0x38, 0x05],
        &[0x0f, 0x01, 0x10],
        &[0x0f, 0x00, 0xd0],
        &[0xf3, 0x0f, 0x00, 0x00],
        &[0x0f, 0x20, 0xc8],
        &[0x44, 0x0f, 0x20, 0xc8],
        &[0x44, 0x0f, 0x21, 0xc0],
        // Instructions that ring 3 may execute itself, or that the monitor does not emulate: string
        // I/O, rdtscp, rdpmc, lmsw, invlpg, swapgs, sysret, sysexit, int n, plain cpuid.
        &[0xf3, 0x6c],
        &[0x66, 0x6f],
        &[0x0f, 0x01, 0xf9],
        &[0x0f, 0x33],
        &[0x0f, 0x01, 0xf0],
        &[0x0f, 0x01, 0x3f],
        &[0x0f, 0x01, 0xf8],
        &[0x48, 0x0f, 0x07],
        &[0x0f, 0x35],
        &[0xcd, 0x20],
        &[0x0f, 0xa2],
        // iretq, far return, syscall, nop, call.
        &[0x48, 0xcf],
        &[0x48, 0xcb],
        &[0x0f, 0x05],
        &[0x90],
        &[0xe8, 0, 0, 0, 0],
        // ud2 followed by other bytes.
        &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0x31],
        &[0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x90, 0x0f, 0xa2],
        // Too long: fourteen prefixes leave one byte.
        &[
            0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e,
            0xe4, 1,
        ],
    ];
    for bytes in refused {
        assert_eq!(decode(bytes), None, "{bytes:02x?}");
    }
}

#[test]
fn interrupts_of_32_bit_code_have_no_rex_prefix() {
    assert_eq!(software_interrupt(&[0xcd, 0x80], false), Some((0x80, 2)));
    assert_eq!(software_interrupt(&[0x2e, 0xcd, 0x80], true), Some((0x80, 3)));
    assert_eq!(software_interrupt(&[0x48, 0xcd, 0x20], true), Some((0x20, 3)));
    assert_eq!(software_interrupt(&[0x48, 0xcd, 0x20], false), None);
    assert_eq!(software_interrupt(&[0xf0, 0xcd, 0x20], false), None);
    assert_eq!(software_interrupt(&[0xcd], false), None);
    assert_eq!(software_interrupt(&[0x66], true), None);
}

#[test]
fn addresses_add_up() {
    let register = |n: u8| u64::from(n) * 0x100;
    let memory = Memory { index: Some(2), scale: 4, ..at(3, -0x10) };
    assert_eq!(memory.address(register, 0), Some(0x300 + 0x800 - 0x10));
    let in_gs = Memory { segment: Segment::Gs, ..memory };
    assert_eq!(in_gs.address(register, 0), None);
    assert_eq!(in_gs.offset(register, 0), 0x300 + 0x800 - 0x10);
    let wrapped = Memory { address_32: true, ..at(0, -1) };
    assert_eq!(wrapped.address(register, 0), Some(0xffff_ffff));
    let relative = Memory { base: None, rip_relative: true, ..at(0, 4) };
    assert_eq!(relative.address(register, 0x5000), Some(0x5004));
}
