//! The local APIC of the first CPU: its id, a timer to be measured, and the start of other CPUs.
//!
//! The registers lie in memory, or in MSRs if firmware left x2APIC mode on (Intel SDM vol. 3,
//! chapter 11). The monitor sets all of them again on every CPU.
#![expect(unsafe_code, reason = "APIC registers are device memory")]

use crate::{cpu, memory};

/// Base address and mode.
const MSR_BASE: u32 = 0x1b;
const MSR_X2APIC: u32 = 0x800;
const BASE_ON: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;

const ID: u32 = 0x20;
const SPURIOUS: u32 = 0xf0;
const COMMAND: u32 = 0x300;
const COMMAND_TARGET: u32 = 0x310;
const TIMER: u32 = 0x320;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;
/// Enabled, with the vector of spurious interrupts.
const ENABLED: u32 = 0x1ff;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_1: u32 = 0b1011;
/// A command, asserted: INIT, and STARTUP at a page below 1 MiB.
const INIT: u32 = 1 << 14 | 5 << 8;
const STARTUP: u32 = 1 << 14 | 6 << 8;
/// The APIC still sends the last command.
const PENDING: u32 = 1 << 12;

/// The registers.
pub struct LocalApic {
    /// Their virtual address, or 0 in x2APIC mode.
    pub address: u64,
}

impl LocalApic {
    /// Enables the APIC, whose physical address is `listed` unless firmware lists none.
    pub fn enable(listed: Option<u64>) -> Self {
        let base = cpu::read_msr(MSR_BASE);
        cpu::write_msr(MSR_BASE, base | BASE_ON);
        if base & BASE_X2APIC != 0 {
            return Self { address: 0 };
        }
        let phys = listed.unwrap_or(base & !0xfff);
        Self { address: memory::map_device(phys, 4096) as u64 }
    }

    fn read(&self, register: u32) -> u32 {
        match self.address {
            0 => narrow::low_32(cpu::read_msr(MSR_X2APIC + register / 16)),
            // SAFETY: `enable` mapped the page of registers uncached.
            base => unsafe { ((base + u64::from(register)) as *const u32).read_volatile() },
        }
    }

    fn write(&self, register: u32, value: u32) {
        match self.address {
            0 => cpu::write_msr(MSR_X2APIC + register / 16, value.into()),
            // SAFETY: as in `read`; the registers written here do not change memory.
            base => unsafe { ((base + u64::from(register)) as *mut u32).write_volatile(value) },
        }
    }

    /// The id of this CPU.
    pub fn id(&self) -> u32 {
        if self.address == 0 { self.read(ID) } else { self.read(ID) >> 24 }
    }

    /// Starts the timer from its highest count, without interrupt.
    pub fn start_count(&self) {
        self.write(SPURIOUS, ENABLED);
        self.write(TIMER, MASKED);
        self.write(DIVIDE, DIVIDE_BY_1);
        self.write(INITIAL_COUNT, u32::MAX);
    }

    /// The remaining count.
    pub fn count(&self) -> u32 {
        self.read(CURRENT_COUNT)
    }

    /// Stops the timer.
    pub fn stop_count(&self) {
        self.write(INITIAL_COUNT, 0);
    }

    fn command(&self, target: u32, command: u32) {
        if self.address == 0 {
            let value = u64::from(target) << 32 | u64::from(command);
            return cpu::write_msr(MSR_X2APIC + COMMAND / 16, value);
        }
        let _ = (0..1_000_000).any(|_| self.read(COMMAND) & PENDING == 0);
        self.write(COMMAND_TARGET, target << 24);
        self.write(COMMAND, command);
    }

    /// Puts the CPU with this APIC id into the state in which it waits for [`Self::send_startup`].
    pub fn send_init(&self, id: u32) {
        self.command(id, INIT);
    }

    /// Starts a CPU in real mode at a page below 1 MiB.
    pub fn send_startup(&self, id: u32, page: u8) {
        self.command(id, STARTUP | u32::from(page));
    }
}
