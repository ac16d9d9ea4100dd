//! Model-specific registers as a partition's kernel sees them.
//!
//! Reads of unknown registers fault, from which kernels recover; the few registers that early boot
//! takes for granted have a value.

use pv_abi::xen::mmu::PAGE_ATTRIBUTES;

use crate::{
    context::Registers,
    guest_memory::is_canonical,
    hardware::{self, SegmentBase, msr},
    vcpu::Vcpu,
};

/// Emulates `rdmsr`. Returns `false` if the fault goes to the kernel.
pub fn read(vcpu: &Vcpu, registers: &mut Registers) -> bool {
    let value = match narrow::low_32(registers.rcx) {
        msr::FS_BASE => hardware::read_base(SegmentBase::FS),
        msr::GS_BASE => hardware::read_base(SegmentBase::GS),
        msr::KERNEL_GS_BASE => hardware::read_base(SegmentBase::OTHER_GS),
        msr::TSC_AUX if hardware::has_tsc_aux() => vcpu.tsc_aux.get(),
        // EFER: SCE, LME, LMA, NX.
        msr::EFER => 0xd01,
        // APIC base: enabled, at the usual address; bit 8 marks the first CPU.
        0x1b => 0xfee0_0800 | if vcpu.id == 0 { 0x100 } else { 0 },
        0x277 => PAGE_ATTRIBUTES,
        // Microcode revision, platform id, misc enable, machine-check capabilities and status.
        0x8b | 0x17 | 0x1a0 | 0x179 | 0x17a => 0,
        _ => return false,
    };
    registers.rax = value & 0xffff_ffff;
    registers.rdx = value >> 32;
    true
}

/// Emulates `wrmsr`. Returns `false` if the fault goes to the kernel.
pub fn write(vcpu: &Vcpu, registers: &mut Registers) -> bool {
    let value = registers.rdx << 32 | registers.rax & 0xffff_ffff;
    match narrow::low_32(registers.rcx) {
        msr::FS_BASE if is_canonical(value) => hardware::write_base(SegmentBase::FS, value),
        msr::GS_BASE if is_canonical(value) => hardware::write_base(SegmentBase::GS, value),
        msr::KERNEL_GS_BASE if is_canonical(value) => {
            hardware::write_base(SegmentBase::OTHER_GS, value);
        }
        msr::TSC_AUX if hardware::has_tsc_aux() && value >> 32 == 0 => {
            vcpu.tsc_aux.set(value);
            hardware::write_tsc_aux(value);
        }
        // Writes of the microcode revision are ignored, as are writes of the present PAT.
        0x8b => {}
        0x277 if value == PAGE_ATTRIBUTES => {}
        _ => return false,
    }
    true
}
