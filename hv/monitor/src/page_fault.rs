//! Page faults of partitions: writes to page tables are done for the kernel, the rest is its own.

use core::sync::atomic::Ordering;

use page_tables::{Error, Operation, update_entry_emulated};
use pv_abi::xen::mmu::PTE_ADDRESS;

use crate::{
    context::{Registers, flag},
    emulate, guest_memory, hardware,
    machine::{self, Host},
    trap::{self, vector},
    vcpu::Vcpu,
    walk,
};

/// Page-fault error code: the page was present.
const PRESENT: u64 = 1;
/// It was a write.
const WRITE: u64 = 2;
/// In user mode.
const USER: u64 = 4;
/// A reserved bit was set.
const RESERVED: u64 = 8;

/// Handles a page fault from ring 3.
pub fn page_fault(vcpu: &Vcpu, registers: &mut Registers) {
    let address = hardware::fault_address();
    let error = registers.error;
    let in_kernel = vcpu.in_kernel.get();
    let write_protected = error & (PRESENT | WRITE | RESERVED) == PRESENT | WRITE;
    if in_kernel && write_protected && table_write(vcpu, registers, address) {
        return;
    }
    // The hardware sees ring 3; the kernel wants to know about its own two modes.
    let shown = if in_kernel { error & !USER } else { error | USER };
    vcpu.info().cr2.store(address, Ordering::Relaxed);
    trap::inject(vcpu, registers, vector::PAGE_FAULT, Some(shown));
}

/// Does the kernel's write to one of its level-1 tables; `false`: it was none, or is refused.
fn table_write(vcpu: &Vcpu, registers: &mut Registers, address: u64) -> bool {
    if !guest_memory::is_partition_range(address, 8) {
        return false;
    }
    let mut space = vcpu.partition.space.lock();
    let Some(place) = walk::place(vcpu.kernel_root.get(), address) else {
        return false;
    };
    let mfn = (place.entry().load(Ordering::Relaxed) & PTE_ADDRESS) >> 12;
    let is_table = machine::frame(mfn).is_some_and(|f| f.word().ty() == frames::Type::L1);
    if !is_table {
        return false;
    }
    let Some(write) = emulate::table_write(registers, address) else {
        return false;
    };
    let index = (address as usize & 4095) / 8;
    match update_entry_emulated(&Host, &mut space, mfn, index, write.operation) {
        Ok(old) => {
            finish(registers, &write, old);
            true
        }
        Err(Error::Again) => true,
        Err(_) => false,
    }
}

/// Registers, flags and instruction pointer after the write.
fn finish(registers: &mut Registers, write: &emulate::TableWrite, old: u64) {
    if let Some(number) = write.result {
        *registers.general(number) = old;
    }
    let set = |flags: &mut u64, bit: u64, on: bool| {
        *flags = if on { *flags | bit } else { *flags & !bit };
    };
    match write.operation {
        Operation::BitReset(bit) => {
            set(&mut registers.rflags, flag::CF, old >> bit & 1 != 0);
        }
        Operation::And(mask) => logic_flags(registers, (old & mask) >> write.shift, write.bits),
        Operation::CompareExchange { expected, .. } => {
            set(&mut registers.rflags, flag::ZF, old == expected);
            if old != expected {
                registers.rax = old;
            }
        }
        _ => {}
    }
    registers.rip = registers.rip.wrapping_add(write.length);
}

/// Flags of a logical operation with this result.
fn logic_flags(registers: &mut Registers, result: u64, bits: u32) {
    let kept = !(flag::CF | flag::PF | flag::ZF | flag::SF | flag::OF);
    let mut flags = registers.rflags & kept;
    let result = if bits < 64 { result & ((1 << bits) - 1) } else { result };
    if result == 0 {
        flags |= flag::ZF;
    }
    if result >> (bits - 1) & 1 != 0 {
        flags |= flag::SF;
    }
    if (result as u8).count_ones() % 2 == 0 {
        flags |= flag::PF;
    }
    registers.rflags = flags;
}
