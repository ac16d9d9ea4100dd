//! The ways into ring 0 and out of it: `entry.S`, and the numbers that it needs.

#![expect(unsafe_code, reason = "assembly")]

use core::{arch::global_asm, mem::offset_of};

use handover::layout::AREA_BYTES;
use pv_abi::{
    PAGE_SHIFT,
    xen::{
        shared_info::VcpuInfo,
        traps::{IretContext, VGCF_IN_SYSCALL},
    },
};

use crate::{
    context::{Registers, VECTOR_SYSCALL, VECTOR_SYSCALL32, VECTOR_SYSENTER, flag, selector},
    cpu::{self, CpuLocal},
    guest_memory::MONITOR_END,
    syscall, trap,
    vcpu::{Vcpu, callback},
};

/// Flags that a system call leaves unchanged when it enters the kernel.
const ENTRY_FLAGS: u32 =
    !narrow::low_32(flag::TF | flag::NT | flag::RF | flag::VM | flag::AC | flag::DF | flag::IOPL);
/// Flags that a partition may set when it returns; the interrupt flag becomes the event mask.
const RETURN_FLAGS: u32 =
    narrow::low_32(!(flag::IOPL | flag::NT | flag::VM | flag::VIF_VIP) & 0x3f_ffff);

/// The frame that a system call from user mode leaves on the kernel's stack: that of
/// [`crate::bounce`] without an error code.
#[repr(C)]
struct BounceFrame {
    rcx: u64,
    r11: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// The frame that the `iret` hypercall builds from its [`IretContext`] on the main stack, to
/// restore the registers and to return.
#[repr(C)]
struct ReturnFrame {
    rax: u64,
    r11: u64,
    rcx: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

global_asm!(
    include_str!("entry.S"),
    smap = sym cpu::SMAP_ON,
    verw = sym cpu::VERW_ON,
    trap = sym trap::trap,
    failed_return = sym trap::failed_return,
    syscall = sym syscall::syscall,
    cs = const offset_of!(Registers, cs),
    frame = const size_of::<Registers>(),
    error_codes = const trap::WITH_ERROR_CODE,
    vector_debug = const trap::vector::DEBUG,
    vector_nmi = const trap::vector::NMI,
    area_bytes = const AREA_BYTES,
    page_shift = const PAGE_SHIFT,
    kept_rsp = const offset_of!(CpuLocal, scratch),
    kept_rax = const offset_of!(CpuLocal, scratch) + 8,
    kept_rdx = const offset_of!(CpuLocal, scratch) + 16,
    kept_rcx = const offset_of!(CpuLocal, scratch) + 24,
    kept_r11 = const offset_of!(CpuLocal, scratch) + 32,
    stack_top = const offset_of!(CpuLocal, stack_top),
    common = const offset_of!(CpuLocal, syscall_common),
    smap_here = const offset_of!(CpuLocal, smap),
    verw_here = const offset_of!(CpuLocal, verw),
    current = const CpuLocal::CURRENT,
    in_kernel = const offset_of!(Vcpu, held.in_kernel),
    info = const offset_of!(Vcpu, held.info),
    upcall_pending = const offset_of!(VcpuInfo, evtchn_upcall_pending),
    upcall_mask = const offset_of!(VcpuInfo, evtchn_upcall_mask),
    bounce = const size_of::<BounceFrame>(),
    bounce_rcx = const offset_of!(BounceFrame, rcx),
    bounce_r11 = const offset_of!(BounceFrame, r11),
    bounce_rip = const offset_of!(BounceFrame, rip),
    bounce_cs = const offset_of!(BounceFrame, cs),
    bounce_rflags = const offset_of!(BounceFrame, rflags),
    bounce_rsp = const offset_of!(BounceFrame, rsp),
    bounce_ss = const offset_of!(BounceFrame, ss),
    iret_rax = const offset_of!(IretContext, rax),
    iret_r11 = const offset_of!(IretContext, r11),
    iret_rcx = const offset_of!(IretContext, rcx),
    iret_flags = const offset_of!(IretContext, flags),
    iret_rip = const offset_of!(IretContext, rip),
    iret_cs = const offset_of!(IretContext, cs),
    iret_rflags = const offset_of!(IretContext, rflags),
    iret_rsp = const offset_of!(IretContext, rsp),
    iret_ss = const offset_of!(IretContext, ss),
    in_syscall = const VGCF_IN_SYSCALL,
    return_cs = const offset_of!(ReturnFrame, cs),
    return_rflags = const offset_of!(ReturnFrame, rflags),
    flag_if = const flag::IF,
    flag_fixed = const flag::FIXED,
    fast_stack = const offset_of!(Vcpu, held.fast_stack),
    kernel_root = const offset_of!(Vcpu, held.kernel_root),
    user_root = const offset_of!(Vcpu, held.user_root),
    syscall_callback = const offset_of!(Vcpu, held.callbacks) + 8 * callback::SYSCALL,
    iret = const pv_abi::xen::hypercall::IRET,
    monitor_end = const MONITOR_END,
    entry_flags = const ENTRY_FLAGS,
    return_flags = const RETURN_FLAGS,
    flat_ss = const selector::SS,
    flat_cs = const selector::CS64,
    flat_cs32 = const selector::CS32,
    vector_syscall = const VECTOR_SYSCALL,
    vector_syscall32 = const VECTOR_SYSCALL32,
    vector_sysenter = const VECTOR_SYSENTER,
);
