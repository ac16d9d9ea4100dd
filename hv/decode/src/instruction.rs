//! What the decoder says of an instruction.

/// An instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub operation: Operation,
    /// Its bytes, 1 to 15, prefixes included.
    pub length: u8,
}

/// What an instruction does. Registers are numbered as the hardware does: rax 0, rcx 1, rdx 2,
/// rbx 3, rsp 4, rbp 5, rsi 6, rdi 7, r8 to r15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes memory.
    Write {
        /// How.
        write: Write,
        /// Size of the operands.
        size: Size,
        /// Where.
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
        /// Which.
        port: Port,
        /// 1, 2 or 4 bytes.
        size: Size,
    },
    /// Writes al, ax or eax to a port.
    Out {
        /// Which.
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
        /// Where.
        memory: Memory,
    },
    /// Stores a word that describes the system.
    StoreSystem {
        /// Which word.
        word: SystemWord,
        /// Where.
        to: Place,
    },
    /// Clears CR0.TS.
    Clts,
    /// Writes back and empties the caches.
    Wbinvd,
    /// Empties the caches.
    Invd,
    /// Writes edx:eax to the extended control register of number ecx.
    Xsetbv,
    /// `cpuid` behind the forced-emulation prefix: describes the CPU.
    ForcedCpuid,
}

/// How an instruction writes memory; what it reads there is in the semantics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Stores the source.
    Store(Operand),
    /// Stores a register, which gets the old value.
    Exchange {
        /// The register.
        register: u8,
    },
    /// Stores a register if the old value is that of rax; else rax gets the old value.
    CompareExchange {
        /// The register.
        register: u8,
    },
    /// And with the source; sets the flags.
    And(Operand),
    /// Or with the source; sets the flags.
    Or(Operand),
    /// Sets a bit; the carry flag gets its old value.
    BitSet {
        /// Below the size in bits.
        bit: u8,
    },
    /// Clears a bit; the carry flag gets its old value.
    BitReset {
        /// Below the size in bits.
        bit: u8,
    },
}

/// A source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Low bytes of a general register.
    Register(u8),
    /// A constant, extended with its sign to 64 bits; its low bytes count.
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
    /// In bytes.
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

/// What `sldt`, `str` and `smsw` store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemWord {
    /// Selector of the local descriptor table.
    LocalTable,
    /// Selector of the task state.
    Task,
    /// CR0; its low 16 bits where 2 bytes are stored.
    MachineStatus,
}

/// A destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A general register: 2, 4 or 8 bytes, 4 bytes clear the rest of it.
    Register {
        /// The register.
        number: u8,
        /// How much of it.
        size: Size,
    },
    /// 2 bytes of memory.
    Memory(Memory),
}

/// An I/O port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Its number.
    Immediate(u8),
    /// In dx.
    Dx,
}

/// Which segment base counts in 64-bit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// One with base 0.
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
    /// Added; extended with its sign.
    pub displacement: i64,
    /// The address of the next instruction is added.
    pub rip_relative: bool,
    /// Whose base is added.
    pub segment: Segment,
    /// The sum before the segment base is cut to 32 bits.
    pub address_32: bool,
}

impl Memory {
    /// The linear address, given the registers and the address of the next instruction; `None`
    /// where a segment base is added that the caller would have to know.
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
