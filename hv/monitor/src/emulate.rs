//! Instructions that a partition's kernel executes although ring 3 may not: the monitor emulates or
//! refuses them.
//!
//! The kernel replaces nearly all privileged instructions by hypercalls. The rest (early boot, a
//! few MSRs, unpatched `cli` and `sti`, port probes, debug registers) arrive here as
//! general-protection faults. So do the instructions that reveal the CPU's tables, which UMIP
//! denies to ring 3. Emulation never touches the real interrupt flag, a control register that
//! matters to the monitor, or a port.

use core::sync::atomic::Ordering;

use decode::{
    Instruction, Memory, Operand, Operation as Op, Place, Port, Segment, Size, SystemWord, Write,
    decode,
};
use page_tables::{Mfn, Operation};

use refusal::Refused;

use crate::{
    context::{Registers, selector},
    cpu, cpuid, debug_registers, guest_memory,
    hardware::{self, CR4_FSGSBASE, SegmentBase},
    model_registers, page_fault, platform, roots, schedule,
    trap::{self, vector},
    vcpu::Vcpu,
};

/// Bits of CR4 that the kernel reads back as it set them: DE, TSD, OSFXSR, OSXMMEXCPT, OSXSAVE,
/// PAE, and FSGSBASE where the CPU has it.
const CR4_KEPT: u64 = CR4_DE | 1 << 2 | 1 << 9 | 1 << 10 | 1 << 18 | 1 << 5 | CR4_FSGSBASE;
/// CR4.DE: debug registers 4 and 5 are not aliases of 6 and 7.
const CR4_DE: u64 = 1 << 3;
/// The value that CR0 reads as: PG, AM, WP, NE, ET, MP, PE.
const CR0_SHOWN: u64 = 0x8005_0033;

/// Decodes the instruction at rip.
fn instruction(registers: &Registers) -> Option<Instruction> {
    let mut bytes = [0; decode::MAX_LENGTH];
    let length = guest_memory::read_instruction(registers.rip, &mut bytes);
    decode(bytes.get(..length)?)
}

/// Handles a general-protection fault from ring 3.
pub fn general_protection(vcpu: &Vcpu, registers: &mut Registers) {
    let error = registers.error;
    if error & 2 != 0 && software_interrupt(vcpu, registers) {
        return;
    }
    if error == 0
        && let Some(instruction) = instruction(registers)
        && (privileged(vcpu, registers, instruction)
            || describes_system(vcpu, registers, instruction))
    {
        return;
    }
    trap::inject(vcpu, registers, vector::GENERAL_PROTECTION, Some(error));
}

/// Handles an invalid opcode from ring 3: emulates `cpuid` behind the prefix that asks for the
/// hypervisor's answer.
pub fn invalid_opcode(vcpu: &Vcpu, registers: &mut Registers) {
    match instruction(registers) {
        Some(Instruction { operation: Op::ForcedCpuid, length }) => {
            let [leaf, subleaf] = [registers.rax, registers.rcx].map(narrow::low_32);
            let [a, b, c, d] = cpuid::cpuid(vcpu, leaf, subleaf);
            let words = [a, b, c, d].map(u64::from);
            [registers.rax, registers.rbx, registers.rcx, registers.rdx] = words;
            registers.rip = registers.rip.wrapping_add(length.into());
        }
        _ => trap::inject(vcpu, registers, vector::INVALID_OPCODE, None),
    }
}

/// Handles `int n` through a gate that only the monitor may use: the kernel's own gate decides. The
/// number comes from the instruction, since emulators get the error code wrong.
fn software_interrupt(vcpu: &Vcpu, registers: &mut Registers) -> bool {
    let mut bytes = [0; decode::MAX_LENGTH];
    let length = guest_memory::read_instruction(registers.rip, &mut bytes);
    let long_mode = registers.cs != selector::CS32;
    let code = bytes.get(..length).unwrap_or(&[]);
    let Some((number, length)) = decode::software_interrupt(code, long_mode) else {
        return false;
    };
    registers.rip = registers.rip.wrapping_add(length.into());
    gate_call(vcpu, registers, number, length.into());
    true
}

/// Handles the instruction `int number` of `length` bytes. The kernel's own gate says whether the
/// present mode may use it; if not, the kernel gets the fault that hardware would raise.
pub fn gate_call(vcpu: &Vcpu, registers: &mut Registers, number: u8, length: u64) {
    let gate = vcpu.gate(number);
    let needed = if vcpu.in_kernel.get() { 1 } else { 3 };
    if gate.address != 0 && gate.flags & 3 >= needed {
        return trap::inject(vcpu, registers, number, None);
    }
    registers.rip = registers.rip.wrapping_sub(length);
    let error = u64::from(number) << 3 | 2;
    trap::inject(vcpu, registers, vector::GENERAL_PROTECTION, Some(error));
}

/// Emulates a privileged instruction. Returns `false` if the fault goes to the kernel.
fn privileged(vcpu: &Vcpu, registers: &mut Registers, instruction: Instruction) -> bool {
    let Instruction { operation, length } = instruction;
    if !vcpu.in_kernel.get() {
        return false;
    }
    if matches!(operation, Op::ReadDebug { debug: 4 | 5, .. } | Op::WriteDebug { debug: 4 | 5, .. })
        && vcpu.cr4.get() & CR4_DE != 0
    {
        trap::inject(vcpu, registers, vector::INVALID_OPCODE, None);
        return true;
    }
    let done = match operation {
        Op::In { port, size } if vcpu.iopl.get() >= 1 => {
            read_port(registers, port, size);
            true
        }
        // Kernels execute `cli` and `sti` before they have patched them; only the event mask
        // counts.
        Op::Out { .. } | Op::Cli | Op::Sti => vcpu.iopl.get() >= 1,
        Op::Wbinvd | Op::Invd => true,
        Op::Hlt => {
            schedule::wait_for_event(vcpu);
            true
        }
        Op::Clts => {
            hardware::show_task_switched(vcpu, false);
            true
        }
        Op::Rdmsr => model_registers::read(vcpu, registers),
        Op::Wrmsr => model_registers::write(vcpu, registers),
        Op::ReadControl { control, register } => read_control(vcpu, registers, control, register),
        Op::WriteControl { control, register } => {
            write_control(vcpu, registers, (control, register), length)
        }
        Op::ReadDebug { debug, register } => {
            let value = debug_registers::read(vcpu, debug_register(debug));
            value.map(|value| *registers.general(register) = value).is_ok()
        }
        Op::WriteDebug { debug, register } => {
            let value = *registers.general(register);
            debug_registers::write(vcpu, debug_register(debug), value).is_ok()
        }
        Op::Xsetbv => set_extended_control(vcpu, registers),
        Op::Rdtsc => {
            let value = platform::time::tsc();
            registers.rax = value & 0xffff_ffff;
            registers.rdx = value >> 32;
            true
        }
        _ => false,
    };
    if done {
        registers.rip = registers.rip.wrapping_add(length.into());
    }
    done
}

/// The debug register that a number names: 4 and 5 are aliases of 6 and 7.
fn debug_register(number: u8) -> u64 {
    u64::from(if matches!(number, 4 | 5) { number + 2 } else { number })
}

/// Emulates an instruction that stores part of the system's state and that UMIP denies to ring 3.
/// Kernels and their programs do not see UMIP, so they may use it. They see a system without
/// descriptor tables and task state, since the CPU's own are the monitor's. Returns `false` if the
/// instruction is another one.
fn describes_system(vcpu: &Vcpu, registers: &mut Registers, instruction: Instruction) -> bool {
    if !hardware::is_long_code(narrow::low_16(registers.cs)) {
        return false;
    }
    let Instruction { operation, length } = instruction;
    let next = registers.rip.wrapping_add(length.into());
    let stored = match operation {
        Op::StoreTable { memory } => store(registers, &memory, next, &[0; 10]),
        Op::StoreSystem { word, to } => {
            let value = if word == SystemWord::MachineStatus { cr0(vcpu) } else { 0 };
            match to {
                Place::Memory(memory) => {
                    store(registers, &memory, next, &narrow::low_16(value).to_le_bytes())
                }
                Place::Register { number, size } => {
                    let register = registers.general(number);
                    *register = match size {
                        Size::Byte | Size::Word => *register & !0xffff | value & 0xffff,
                        Size::Double | Size::Quad => value,
                    };
                    Ok(())
                }
            }
        }
        _ => return false,
    };
    match stored {
        Ok(()) => registers.rip = next,
        Err(None) => return false,
        Err(Some(address)) => page_fault::monitor_wrote(vcpu, registers, address),
    }
    true
}

/// Stores bytes for the instruction that ends at `next`.
///
/// # Errors
/// The address of the page fault, or `None` for an address of the monitor.
fn store(
    registers: &mut Registers,
    memory: &Memory,
    next: u64,
    bytes: &[u8],
) -> Result<(), Option<u64>> {
    let base = match memory.segment {
        Segment::Flat => 0,
        Segment::Fs => hardware::read_base(SegmentBase::FS),
        Segment::Gs => hardware::read_base(SegmentBase::GS),
    };
    let address = base.wrapping_add(memory.offset(|number| *registers.general(number), next));
    if !guest_memory::is_partition_range(address, bytes.len() as u64) {
        return Err(None);
    }
    guest_memory::write_bytes(address, bytes).map_err(|_| Some(hardware::fault_address()))
}

/// Reads a port. No port belongs to a partition, so it reads all ones. The interval timer's counter
/// reads zero, since a kernel would otherwise calibrate by it for a hundred thousand reads.
fn read_port(registers: &mut Registers, port: Port, size: Size) {
    let number = match port {
        Port::Immediate(number) => number.into(),
        Port::Dx => narrow::low_16(registers.rdx),
    };
    let value = if number == 0x42 { 0 } else { u64::MAX };
    let mask = (1 << (8 * size.bytes().min(4))) - 1;
    let kept = if size == Size::Double { 0 } else { registers.rax & !mask };
    registers.rax = kept | value & mask;
}

/// CR0 as the kernel sees it.
fn cr0(vcpu: &Vcpu) -> u64 {
    CR0_SHOWN | if vcpu.task_switched.get() { 8 } else { 0 }
}

/// CR4 of a kernel that sets it to `value`: the bits that this CPU has and the kernel may choose.
pub fn kept_cr4(value: u64) -> u64 {
    let missing = if platform::features().fsgsbase { 0 } else { CR4_FSGSBASE };
    value & CR4_KEPT & !missing
}

fn read_control(vcpu: &Vcpu, registers: &mut Registers, control: u8, register: u8) -> bool {
    let value = match control {
        0 => cr0(vcpu),
        2 => vcpu.info().cr2.load(Ordering::Relaxed),
        3 => vcpu.kernel_root.get().map_or(0, |root| root.frame().address()),
        4 => vcpu.cr4.get() | 1 << 5,
        _ => return false,
    };
    *registers.general(register) = value;
    true
}

/// Emulates a move of a general register to a control register, by an instruction of `length`
/// bytes.
fn write_control(vcpu: &Vcpu, registers: &mut Registers, to: (u8, u8), length: u8) -> bool {
    let (control, register) = to;
    let value = *registers.general(register);
    match control {
        0 => hardware::show_task_switched(vcpu, value & 8 != 0),
        2 => vcpu.info().cr2.store(value, Ordering::Relaxed),
        3 => {
            let root = Mfn::of_entry(value);
            let space = vcpu.partition.space.lock_or_again();
            let loaded = space.and_then(|mut space| roots::load_kernel(vcpu, &mut space, root));
            return match loaded {
                // The tables have unfinished work, or another CPU holds them: the instruction runs
                // again.
                Err(Refused::Again) => {
                    registers.rip = registers.rip.wrapping_sub(length.into());
                    true
                }
                outcome => outcome.is_ok(),
            };
        }
        4 => {
            vcpu.cr4.set(kept_cr4(value));
            hardware::load_fsgsbase(cpu::this(), vcpu);
        }
        _ => return false,
    }
    true
}

/// `xsetbv`: sets XCR0 within the offered components; the SSE and AVX parts depend on each other.
fn set_extended_control(vcpu: &Vcpu, registers: &Registers) -> bool {
    let value = registers.rdx << 32 | registers.rax & 0xffff_ffff;
    let avx512 = value >> 5 & 7;
    let sound = value & 1 != 0
        && (value & 4 == 0 || value & 2 != 0)
        && (avx512 == 0 || avx512 == 7 && value & 4 != 0);
    let offered = hardware::has_xsave() && value & !hardware::xstates() == 0;
    if narrow::low_32(registers.rcx) != 0 || !sound || !offered {
        return false;
    }
    vcpu.xcr0.set(value);
    hardware::set_xcr0(value);
    true
}

/// A write to a page table, decoded.
pub struct TableWrite {
    /// The operation on the 8-byte entry.
    pub operation: Operation,
    /// The register that receives the old value.
    pub result: Option<u8>,
    /// Length of the instruction in bytes.
    pub length: u64,
    /// Position of the instruction's operand in the entry, in bits.
    pub shift: u32,
    /// Width of the operand, in bits.
    pub bits: u32,
}

/// Recognises, without decoding, the one instruction with which kernels clear entries:
/// `xchg [address], r64` (48 or 4C, 87, ModRM), with the address in one of the first eight
/// registers and a displacement of 8 bits or none. Returns the number of the register operand, and
/// the length of the instruction in bytes.
#[inline]
pub fn exchange(registers: &mut Registers, address: u64) -> Option<(u8, u64)> {
    let code: u64 = guest_memory::read(registers.rip).ok()?;
    if code & 0xfffb != 0x8748 {
        return None;
    }
    let [rex, _, modrm, displacement, ..] = code.to_le_bytes();
    let (displacement, length) = match (modrm >> 6, modrm & 7) {
        (_, 4) | (0, 5) | (2.., _) => return None,
        (0, _) => (0, 3),
        _ => (i64::from(displacement.cast_signed()), 4),
    };
    let base = *registers.general(modrm & 7);
    if base.wrapping_add_signed(displacement) != address {
        return None;
    }
    Some((modrm >> 3 & 7 | (rex & 4) << 1, length))
}

/// Decodes the instruction at rip as a write to the table entry at `address`; its own memory
/// operand must be that address.
pub fn table_write(registers: &mut Registers, address: u64) -> Option<TableWrite> {
    let Instruction { operation, length } = instruction(registers)?;
    let Op::Write { write, size, memory } = operation else {
        return None;
    };
    let next = registers.rip.wrapping_add(length.into());
    if memory.address(|number| *registers.general(number), next)? != address {
        return None;
    }
    let bits = 8 * size.bytes();
    let shift = 8 * narrow::low_8(address & 7);
    if shift + bits > 64 {
        return None;
    }
    let width = if bits == 64 { u64::MAX } else { (1 << bits) - 1 };
    let place = width << shift;
    let mut value = |operand| match operand {
        Operand::Register(number) => *registers.general(number),
        Operand::Immediate(value) => value,
    };
    let mut result = None;
    let operation = match write {
        Write::And(source) => Operation::And((value(source) & width) << shift | !place),
        Write::Or(source) => Operation::Or((value(source) & width) << shift),
        Write::BitReset { bit } => Operation::BitReset(bit + shift),
        Write::BitSet { bit } => Operation::BitSet(bit + shift),
        // The other operations replace whole entries.
        _ if bits != 64 => return None,
        Write::Store(source) => Operation::Store(value(source)),
        Write::Exchange { register } => {
            result = Some(register);
            Operation::Exchange(*registers.general(register))
        }
        Write::CompareExchange { register } => Operation::CompareExchange {
            expected: registers.rax,
            new: *registers.general(register),
        },
    };
    Some(TableWrite {
        operation,
        result,
        length: length.into(),
        shift: shift.into(),
        bits: bits.into(),
    })
}
