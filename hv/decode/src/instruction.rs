//! The decoded form of an instruction.

/// An instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its operation.
    pub operation: Operation,
    /// Its length in bytes, 1 to 15, prefixes included.
    pub length: u8,
}

/// The operation of an instruction. Registers are numbered as the hardware does: rax 0, rcx 1, rdx
/// 2, rbx 3, rsp 4, rbp 5, rsi 6, rdi 7, r8 to r15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes memory.
    Write {
        /// The kind of write.
        write: Write,
        /// Size of the operands.
        size: Size,
        /// The destination.
        memory: Memory,
    },
    /// Clears the interrupt flag.
    Cli,
    /// Sets the interrupt flag.
    Sti,
    /// Waits for an interrupt.
    Hlt,
    /// Reads a port into al, ax or eax.
    In {
        /// The port.
        port: Port,
        /// 1, 2 or 4 bytes.
        size: Size,
    },
    /// Writes al, ax or eax to a port.
    Out {
        /// The port.
        port: Port,
        /// 1, 2 or 4 bytes.
        size: Size,
    },
    /// Reads the MSR of number ecx into edx:eax.
    Rdmsr,
    /// Writes edx:eax to the MSR of number ecx.
    Wrmsr,
    /// Reads the time-stamp counter into edx:eax.
    Rdtsc,
    /// Reads control register `control` (0, 2, 3, 4 or 8).
    ReadControl {
        /// Control register.
        control: u8,
        /// General register.
        register: u8,
    },
    /// Writes control register `control` (0, 2, 3, 4 or 8).
    WriteControl {
        /// Control register.
        control: u8,
        /// General register.
        register: u8,
    },
    /// Reads debug register `debug` (0 to 7).
    ReadDebug {
        /// Debug register.
        debug: u8,
        /// General register.
        register: u8,
    },
    /// Writes debug register `debug` (0 to 7).
    WriteDebug {
        /// Debug register.
        debug: u8,
        /// General register.
        register: u8,
    },
    /// Stores limit and base of a descriptor table: 2 and 8 bytes.
    StoreTable {
        /// The destination.
        memory: Memory,
    },
    /// `sldt`, `str` or `smsw`: stores a [`SystemWord`].
    StoreSystem {
        /// The word.
        word: SystemWord,
        /// The destination.
        to: Place,
    },
    /// Clears CR0.TS.
    Clts,
    /// Writes back and invalidates the caches.
    Wbinvd,
    /// Invalidates the caches.
    Invd,
    /// Writes edx:eax to the extended control register of number ecx.
    Xsetbv,
    /// `cpuid` behind the forced-emulation prefix: describes the CPU.
    ForcedCpuid,
}

/// How an instruction writes memory; each kind implies which operand it reads from that memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Stores the source.
    Store(Operand),
    /// Stores a register, which receives the old value.
    Exchange {
        /// The register.
        register: u8,
    },
    /// Stores a register if the old value equals rax; else rax receives the old value.
    CompareExchange {
        /// The register.
        register: u8,
    },
    /// Ands memory with the source; sets the flags.
    And(Operand),
    /// Ors memory with the source; sets the flags.
    Or(Operand),
    /// Sets a bit; the carry flag receives its old value.
    BitSet {
        /// The bit, below the size in bits.
        bit: u8,
    },
    /// Clears a bit; the carry flag receives its old value.
    BitReset {
        /// The bit, below the size in bits.
        bit: u8,
    },
}

/// A source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Low bytes of a general register.
    Register(u8),
    /// A constant, sign-extended to 64 bits; only its low bytes are used.
    Immediate(u64),
}

/// Size of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Word,
    /// 4 bytes.
    Double,
    /// 8 bytes.
    Quad,
}

impl Size {
    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Double => 4,
            Self::Quad => 8,
        }
    }
}

/// The word that `sldt`, `str` and `smsw` store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemWord {
    /// Selector of the local descriptor table.
    LocalTable,
    /// Selector of the task state.
    Task,
    /// CR0, or its low 16 bits if 2 bytes are stored.
    MachineStatus,
}

/// A destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A general register: 2, 4 or 8 bytes. A write of 4 bytes clears the rest of the register.
    Register {
        /// The register.
        number: u8,
        /// The size of the write.
        size: Size,
    },
    /// 2 bytes of memory.
    Memory(Memory),
}

/// An I/O port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The port with this number.
    Immediate(u8),
    /// The port in dx.
    Dx,
}

/// The segment whose base is added in 64-bit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A segment with base 0.
    Flat,
    /// fs.
    Fs,
    /// gs.
    Gs,
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Base register.
    pub base: Option<u8>,
    /// Index register.
    pub index: Option<u8>,
    /// Factor of the index: 1, 2, 4 or 8.
    pub scale: u8,
    /// The displacement, sign-extended.
    pub displacement: i64,
    /// Whether the address of the next instruction is added.
    pub rip_relative: bool,
    /// The segment whose base is added.
    pub segment: Segment,
    /// Whether the sum before the segment base is truncated to 32 bits.
    pub address_32: bool,
}

impl Memory {
    /// The linear address, given the registers and the address of the next instruction. Returns
    /// `None` if the segment has a base, which only the caller can know.
    pub fn address(&self, register: impl FnMut(u8) -> u64, next: u64) -> Option<u64> {
        (self.segment == Segment::Flat).then(|| self.offset(register, next))
    }

    /// The address without the base of its segment.
    pub fn offset(&self, mut register: impl FnMut(u8) -> u64, next: u64) -> u64 {
        let base = self.base.map_or(0, &mut register);
        let index = self.index.map_or(0, &mut register).wrapping_mul(u64::from(self.scale));
        let next = if self.rip_relative { next } else { 0 };
        let sum =
            base.wrapping_add(index).wrapping_add_signed(self.displacement).wrapping_add(next);
        if self.address_32 { sum & 0xffff_ffff } else { sum }
    }
}
