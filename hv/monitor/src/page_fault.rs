//! Page faults of partitions: the monitor performs the kernel's writes to page tables, and gives
//! all other faults to the kernel.

use core::sync::atomic::Ordering;

use page_tables::{Error, Mfn, Operation, Place, Space, update_entry_emulated};

use crate::{
    context::{Registers, flag},
    emulate,
    machine::{self, Host},
    trap::{self, vector},
    vcpu::Vcpu,
    walk,
};

/// Page-fault error code: the page was present.
const PRESENT: u64 = 1;
/// The access was a write.
const WRITE: u64 = 2;
/// The access was in user mode.
const USER: u64 = 4;
/// A reserved bit was set in an entry.
const RESERVED: u64 = 8;

/// Injects a page fault from ring 3 into the partition's kernel.
pub fn page_fault(vcpu: &Vcpu, registers: &mut Registers, address: u64) {
    // The hardware sees ring 3; the kernel needs to know which of its own two modes faulted.
    let shown = if vcpu.in_kernel.get() { registers.error & !USER } else { registers.error | USER };
    vcpu.info().cr2.store(address, Ordering::Relaxed);
    trap::inject(vcpu, registers, vector::PAGE_FAULT, Some(shown));
}

/// Injects a page fault into the kernel for an instruction that the monitor emulated and that could
/// not write at `address`.
pub fn monitor_wrote(vcpu: &Vcpu, registers: &mut Registers, address: u64) {
    registers.error = WRITE | USER;
    page_fault(vcpu, registers, address);
}

/// Performs the kernel's write to one of its level-1 tables, if that caused the fault and the write
/// is allowed. Returns `false` otherwise.
pub fn table_write(vcpu: &Vcpu, registers: &mut Registers, address: u64) -> bool {
    let write_protected = registers.error & (PRESENT | WRITE | RESERVED) == PRESENT | WRITE;
    if !write_protected || !vcpu.in_kernel.get() {
        return false;
    }
    let exchange = emulate::exchange(registers, address);
    let Ok(mut space) = vcpu.partition.space.lock_or_again() else {
        // The instruction runs again.
        return true;
    };
    let Some(place) = place_in_table(&space, vcpu, address) else {
        return false;
    };
    let Some((register, length)) = exchange else {
        return other_write(registers, &mut space, place, address);
    };
    let operation = Operation::Exchange(*registers.general(register));
    match update_entry_emulated(&Host, &mut space, place, operation) {
        Ok(old) => {
            *registers.general(register) = old;
            registers.rip = registers.rip.wrapping_add(length);
            true
        }
        Err(error) => error == Error::Again,
    }
}

/// Performs a write to a level-1 table by any other instruction.
#[inline(never)]
fn other_write(registers: &mut Registers, space: &mut Space, place: Place, address: u64) -> bool {
    let Some(write) = emulate::table_write(registers, address) else {
        return false;
    };
    match update_entry_emulated(&Host, space, place, write.operation) {
        Ok(old) => {
            finish(registers, &write, old);
            true
        }
        Err(error) => error == Error::Again,
    }
}

/// The place of the entry that the kernel has mapped at `address`, if a level-1 table is there.
#[inline]
fn place_in_table(space: &Space, vcpu: &Vcpu, address: u64) -> Option<Place> {
    let mapped = walk::place(space, vcpu, address)?;
    let table = Mfn::of_entry(walk::entry(mapped).load(Ordering::Relaxed));
    let is_table = machine::frame(table).is_some_and(|f| f.word().ty() == frames::Type::L1);
    is_table.then(|| Place { table, index: narrow::entry_index(address) })
}

/// Sets the registers, flags and instruction pointer as they are after the write.
fn finish(registers: &mut Registers, write: &emulate::TableWrite, old: u64) {
    if let Some(number) = write.result {
        *registers.general(number) = old;
    }
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

fn set(flags: &mut u64, bit: u64, on: bool) {
    *flags = if on { *flags | bit } else { *flags & !bit };
}

/// Sets the flags for a logical operation with this result.
fn logic_flags(registers: &mut Registers, result: u64, bits: u32) {
    let flags = &mut registers.rflags;
    *flags &= !(flag::CF | flag::OF);
    let result = if bits < 64 { result & ((1 << bits) - 1) } else { result };
    set(flags, flag::ZF, result == 0);
    set(flags, flag::SF, result >> (bits - 1) & 1 != 0);
    set(flags, flag::PF, narrow::low_8(result).count_ones().is_multiple_of(2));
}
