//! Entries into a partition's kernel: the monitor writes exceptions, events and system calls as
//! frames on the kernel's stack.
//!
//! The ABI defines the frame (public header `arch-x86/xen-x86_64.h`, and the book's ABI chapter),
//! from low to high addresses: `rcx r11 [error] rip cs|saved_mask<<32 rflags rsp ss`. Before it
//! writes a word, the monitor checks that the whole span lies outside its own part of the address
//! space.

use core::sync::atomic::Ordering;

use pv_abi::xen::traps::VGCF_IN_SYSCALL;

use crate::{
    context::{Registers, flag, selector},
    guest_memory::{self, Fault},
    hardware,
    vcpu::{Vcpu, callback},
};

/// Flags that a kernel entry clears.
const CLEARED: u64 = flag::TF | flag::NT | flag::RF | flag::VM | flag::AC;

/// Raises exception `vector` in the partition.
///
/// # Errors
/// [`Fault`] if there is no handler or its stack is unusable; the partition cannot continue then.
#[inline]
pub fn exception(
    vcpu: &Vcpu,
    registers: &mut Registers,
    vector: u8,
    error: Option<u64>,
) -> Result<(), Fault> {
    let gate = vcpu.gate(vector);
    if gate.address == 0 {
        return Err(Fault);
    }
    enter(vcpu, registers, gate.address, gate.flags & 4 != 0, error)
}

/// Delivers a pending event.
///
/// # Errors
/// The same as [`exception`].
pub fn event(vcpu: &Vcpu, registers: &mut Registers) -> Result<(), Fault> {
    by_callback(vcpu, registers, callback::EVENT, true)
}

/// Delivers a system call made in user mode.
///
/// # Errors
/// The same as [`exception`].
pub fn system_call(vcpu: &Vcpu, registers: &mut Registers, kind: usize) -> Result<(), Fault> {
    let masked = vcpu.callback_masks.get() & (1 << kind) != 0;
    by_callback(vcpu, registers, kind, masked)?;
    registers.rflags &= !flag::DF;
    Ok(())
}

fn by_callback(
    vcpu: &Vcpu,
    registers: &mut Registers,
    kind: usize,
    mask_events: bool,
) -> Result<(), Fault> {
    let address = vcpu.callbacks.get()[kind];
    if address == 0 {
        return Err(Fault);
    }
    enter(vcpu, registers, address, mask_events, None)
}

/// Delivers the failsafe callback, whose frame holds the selectors that could not be loaded.
///
/// # Errors
/// The same as [`exception`].
pub fn failsafe(vcpu: &Vcpu, registers: &mut Registers) -> Result<(), Fault> {
    let address = vcpu.callbacks.get()[callback::FAILSAFE];
    if address == 0 {
        return Err(Fault);
    }
    let [ds, es, fs, gs] = hardware::data_selectors().map(u64::from);
    let (Saved { cs, rflags }, stack) = switch_to_kernel(vcpu, registers);
    let Registers { rcx, r11, rip, rsp, ss, .. } = *registers;
    push(registers, stack, &[rcx, r11, ds, es, fs, gs, rip, cs, rflags, rsp, ss])?;
    finish(vcpu, registers, address, vcpu.callback_masks.get() & 2 != 0);
    Ok(())
}

#[inline]
fn enter(
    vcpu: &Vcpu,
    registers: &mut Registers,
    address: u64,
    mask_events: bool,
    error: Option<u64>,
) -> Result<(), Fault> {
    let (Saved { cs, rflags }, stack) = switch_to_kernel(vcpu, registers);
    let Registers { rcx, r11, rip, rsp, ss, .. } = *registers;
    match error {
        Some(error) => push(registers, stack, &[rcx, r11, error, rip, cs, rflags, rsp, ss])?,
        None => push(registers, stack, &[rcx, r11, rip, cs, rflags, rsp, ss])?,
    }
    finish(vcpu, registers, address, mask_events);
    Ok(())
}

/// The two words of the frame that are not plain copies of registers.
struct Saved {
    cs: u64,
    rflags: u64,
}

/// Loads the kernel's page tables and GS base if the partition was in user mode. Returns the `cs`
/// and `rflags` that the frame shows, and the stack that the frame goes on.
fn switch_to_kernel(vcpu: &Vcpu, registers: &Registers) -> (Saved, u64) {
    let from_kernel = vcpu.in_kernel.get();
    let masked = vcpu.info().upcall_mask.load(Ordering::Relaxed) != 0;
    let selector = if from_kernel { registers.cs & 0xfffc } else { registers.cs & 0xffff };
    let interrupts = if masked { 0 } else { flag::IF };
    let saved = Saved {
        cs: selector | u64::from(masked) << 32,
        rflags: registers.rflags & !(flag::IF | flag::IOPL) | interrupts,
    };
    let stack = if from_kernel {
        registers.rsp
    } else {
        change_mode(vcpu, true);
        vcpu.kernel_stack.get()
    };
    (saved, stack & !0xf)
}

#[inline]
fn push<const N: usize>(
    registers: &mut Registers,
    stack: u64,
    frame: &[u64; N],
) -> Result<(), Fault> {
    let bottom = stack.checked_sub(8 * N as u64).ok_or(Fault)?;
    guest_memory::write(bottom, frame)?;
    registers.rsp = bottom;
    Ok(())
}

fn finish(vcpu: &Vcpu, registers: &mut Registers, address: u64, mask_events: bool) {
    if mask_events {
        vcpu.info().upcall_mask.store(1, Ordering::Release);
    }
    registers.rip = address;
    registers.cs = selector::CS64;
    registers.ss = selector::SS;
    registers.rflags &= !CLEARED;
}

/// Switches the page tables and the GS base from the present mode to kernel mode, or to user mode.
fn change_mode(vcpu: &Vcpu, to_kernel: bool) {
    vcpu.in_kernel.set(to_kernel);
    hardware::swap_gs();
    hardware::load_root(vcpu);
}

/// The `iret` hypercall: reads nine words at rsp (`iret_context` of the public header) and returns
/// by them.
///
/// # Errors
/// [`Fault`] if the frame cannot be read, or if it names user mode and there are no user tables.
pub fn interrupt_return(vcpu: &Vcpu, registers: &mut Registers) -> Result<(), Fault> {
    let [rax, r11, rcx, flags, rip, cs, rflags, rsp, ss]: [u64; 9] =
        guest_memory::read(registers.rsp)?;
    let to_user = cs & 3 == 3;
    if to_user && vcpu.user_root.get().is_none() {
        return Err(Fault);
    }
    registers.rip = rip;
    registers.cs = cs & 0xffff | 3;
    registers.rsp = rsp;
    registers.ss = ss & 0xffff | 3;
    registers.rflags = rflags;
    registers.rax = rax;
    if flags & VGCF_IN_SYSCALL == 0 {
        registers.r11 = r11;
        registers.rcx = rcx;
    }
    let masked = rflags & flag::IF == 0;
    vcpu.info().upcall_mask.store(u8::from(masked), Ordering::Release);
    if to_user {
        change_mode(vcpu, false);
    }
    Ok(())
}
