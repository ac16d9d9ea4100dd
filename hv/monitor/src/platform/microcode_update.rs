//! Gives the other CPUs the microcode that the loader gave to the first CPU.
//!
//! Rule: the loader's findings about the first CPU hold for every CPU that runs. So a CPU that does
//! not reach the first CPU's revision is not used.

use core::arch::x86_64::__cpuid;

use microcode::{Behind, Cpu, Identity, Vendor};

use super::{boot, memory, processor};

/// The CPU that runs this code.
struct ThisCpu;

impl Cpu for ThisCpu {
    fn cpuid(&self, leaf: u32) -> [u32; 4] {
        let answer = __cpuid(leaf);
        [answer.eax, answer.ebx, answer.ecx, answer.edx]
    }

    fn read(&self, register: u32) -> u64 {
        processor::read_msr(register)
    }

    fn write(&self, register: u32, value: u64) {
        processor::write_msr(register, value);
    }
}

/// Updates this CPU to the revision of the first CPU. It comes before the registers are set, since
/// some exist only then.
///
/// # Errors
/// [`Behind`] if this CPU has not reached that revision.
pub fn follow() -> Result<(), Behind> {
    match boot::microcode() {
        Some(first) if first.update.bytes > 0 => {
            let vendor = if first.amd == 0 { Vendor::Intel } else { Vendor::Amd };
            let (signature, platform) = (first.signature, first.platform);
            let identity = Identity { vendor, signature, platform, revision: first.revision };
            let address = memory::phys_to_virt(first.update.start) as u64;
            microcode::follow(&ThisCpu, &identity, address)
        }
        _ => Ok(()),
    }
}
