//! The registers of a virtual CPU as they lie on the main stack while the monitor runs.
//!
//! `entry.S` fixes the layout: the CPU pushes the upper five words, a stub pushes the vector and
//! (where the CPU does not) an error code, and `SAVE_GPRS` pushes the rest.

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
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    bounce::callback,
    cpu::{self, CpuLocal},
    guest_memory::MONITOR_END,
    syscall, trap,
    vcpu::Vcpu,
};

/// Pseudo-vector in [`Registers::vector`]: 64-bit `syscall`.
pub const VECTOR_SYSCALL: u64 = 0x100;
/// Pseudo-vector: `syscall` from compatibility mode.
pub const VECTOR_SYSCALL32: u64 = 0x101;
/// Pseudo-vector: `sysenter`.
pub const VECTOR_SYSENTER: u64 = 0x102;

/// Guest registers, from the lowest address up.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes)]
#[repr(C)]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}
const _: () = assert!(size_of::<Registers>() == 176);
const _: () = assert!(offset_of!(Registers, rax) == 8 * 10 && offset_of!(Registers, rsp) == 8 * 20);

impl Registers {
    /// The registers that a kernel starts with: its entry point, its stack, and an address in rsi.
    pub fn at_start(rip: u64, rsp: u64, rsi: u64) -> Self {
        let (cs, ss) = (selector::CS64, selector::SS);
        Self { rip, rsp, rsi, cs, ss, rflags: flag::IF | flag::FIXED, ..Self::default() }
    }

    /// Whether the frame was pushed on an entry from ring 3.
    pub fn is_from_partition(&self) -> bool {
        self.cs & 3 == 3
    }

    /// The general register with its number in instruction encodings (0 = rax … 15 = r15).
    pub fn general(&mut self, number: u8) -> &mut u64 {
        const PLACES: [usize; 16] = [10, 11, 12, 5, 20, 4, 13, 14, 9, 8, 7, 6, 3, 2, 1, 0];
        let words: &mut [u64; size_of::<Self>() / 8] = zerocopy::transmute_mut!(self);
        &mut words[PLACES[usize::from(number & 15)]]
    }
}

/// Flat selectors of the reserved part of the GDT (public header `arch-x86/xen-x86_64.h`).
pub mod selector {
    use pv_abi::xen::descriptors as abi;

    /// 32-bit code, DPL 3.
    pub const CS32: u64 = abi::FLAT_RING3_CS32 as u64;
    /// Data and stack, DPL 3.
    pub const SS: u64 = abi::FLAT_RING3_SS as u64;
    /// 64-bit code, DPL 3.
    pub const CS64: u64 = abi::FLAT_RING3_CS64 as u64;
}

/// Flag bits of rflags.
pub mod flag {
    /// Carry.
    pub const CF: u64 = 1;
    /// Bit 1, always set.
    pub const FIXED: u64 = 1 << 1;
    /// Parity.
    pub const PF: u64 = 1 << 2;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Overflow.
    pub const OF: u64 = 1 << 11;
    /// Trap (single step).
    pub const TF: u64 = 1 << 8;
    /// Interrupts enabled.
    pub const IF: u64 = 1 << 9;
    /// Direction.
    pub const DF: u64 = 1 << 10;
    /// I/O privilege level.
    pub const IOPL: u64 = 3 << 12;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume.
    pub const RF: u64 = 1 << 16;
    /// Virtual-8086.
    pub const VM: u64 = 1 << 17;
    /// Alignment check.
    pub const AC: u64 = 1 << 18;
    /// Virtual interrupt bits.
    pub const VIF_VIP: u64 = 3 << 19;
}

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
