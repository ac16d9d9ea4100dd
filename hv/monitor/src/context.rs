//! The registers of a virtual CPU as they lie on the main stack while the monitor runs.
//!
//! `entry.S` fixes the layout: the CPU pushes the upper five words, a stub pushes the vector and
//! (where the CPU does not) an error code, and `SAVE_GPRS` pushes the rest.

use core::mem::offset_of;

use zerocopy::{FromBytes, IntoBytes};

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
