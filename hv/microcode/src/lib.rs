//! Microcode: who a CPU is, and how it gets an update.
//!
//! The loader updates the first CPU before it asks for features, since microcode brings features;
//! the monitor updates each other CPU when that CPU starts. Both go through [`Cpu`].
//!
//! Rule: what a CPU was given does not count; the revision that it tells afterwards does.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// Who made a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD.
    Amd,
}

/// The CPU that wants an update.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Who made the CPU.
    pub vendor: Vendor,
    /// Leaf 1 `eax` of `cpuid`.
    pub signature: u32,
    /// The bit of the platform, by IA32_PLATFORM_ID; of Intel's alone.
    pub platform: u32,
    /// Revision of the microcode that the CPU has.
    pub revision: u32,
}

/// Intel: the address of an update starts the load (SDM vol. 4, IA32_BIOS_UPDT_TRIG).
const INTEL_TRIGGER: u32 = 0x79;
/// AMD: likewise (Linux, `MSR_AMD64_PATCH_LOADER`).
const AMD_TRIGGER: u32 = 0xc001_0020;
/// Revision: bits 32 to 63 at Intel, which needs two steps more (SDM vol. 3, 10.11.7.1); bits 0 to
/// 31 at AMD.
const REVISION: u32 = 0x8b;
/// Intel: bits 50 to 52 are the number of the platform.
const PLATFORM: u32 = 0x17;
/// A hypervisor is present: leaf 1 `ecx`.
const HYPERVISOR: u32 = 1 << 31;

/// The CPU that this runs on.
pub trait Cpu {
    /// `eax` to `edx` of a leaf.
    fn cpuid(&self, leaf: u32) -> [u32; 4];
    /// Reads a model-specific register.
    fn read(&self, register: u32) -> u64;
    /// Writes a model-specific register.
    fn write(&self, register: u32, value: u64);
}

impl Identity {
    /// Who the CPU is; `None` if neither Intel nor AMD made it.
    pub fn of(cpu: &impl Cpu) -> Option<Self> {
        let [_, b, c, d] = cpu.cpuid(0);
        let name = [b, d, c].map(u32::to_le_bytes);
        let vendor = match name.as_flattened() {
            b"GenuineIntel" => Vendor::Intel,
            b"AuthenticAMD" => Vendor::Amd,
            _ => return None,
        };
        let platform = match vendor {
            Vendor::Intel => 1 << (cpu.read(PLATFORM) >> 50 & 7),
            Vendor::Amd => 0,
        };
        let [signature, ..] = cpu.cpuid(1);
        Some(Self { vendor, signature, platform, revision: revision(cpu, vendor) })
    }
}

/// Whether a hypervisor says that it is there. Its own host loads the microcode.
pub fn is_virtual(cpu: &impl Cpu) -> bool {
    let [_, _, c, _] = cpu.cpuid(1);
    c & HYPERVISOR != 0
}

/// The revision that a CPU of this manufacturer has now.
pub fn revision(cpu: &impl Cpu, vendor: Vendor) -> u32 {
    let value = match vendor {
        Vendor::Intel => {
            cpu.write(REVISION, 0);
            let _ = cpu.cpuid(1);
            cpu.read(REVISION) >> 32
        }
        Vendor::Amd => cpu.read(REVISION),
    };
    narrow::low_32(value)
}

/// Makes the CPU load the update at a virtual address, 16-byte aligned; the revision that it has
/// then.
pub fn load(cpu: &impl Cpu, vendor: Vendor, address: u64) -> u32 {
    match vendor {
        Vendor::Intel => cpu.write(INTEL_TRIGGER, address),
        Vendor::Amd => cpu.write(AMD_TRIGGER, address),
    }
    revision(cpu, vendor)
}

/// Why a CPU is not where the first CPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// The first CPU's update is not for it.
    OtherCpu,
    /// It did not take the update, and has this revision.
    NotTaken(u32),
}

/// Brings a CPU to the revision that the first CPU was brought to. `first` is the first CPU after
/// that, `address` that of the update.
///
/// # Errors
/// The CPU has an older revision than the first, so what is known of the first is not true of it.
pub fn follow(cpu: &impl Cpu, first: &Identity, address: u64) -> Result<(), Behind> {
    let same = |own: &Identity| {
        (own.vendor, own.signature, own.platform) == (first.vendor, first.signature, first.platform)
    };
    let own = Identity::of(cpu).filter(same).ok_or(Behind::OtherCpu)?;
    // Threads of a core share the revision. AMD's second thread takes the update all the same,
    // since some of it is the thread's own (Linux, `apply_microcode_amd`).
    let has = match own.vendor {
        Vendor::Intel => own.revision >= first.revision,
        Vendor::Amd => own.revision > first.revision,
    };
    if has {
        return Ok(());
    }
    match load(cpu, own.vendor, address) {
        now if now == first.revision => Ok(()),
        now => Err(Behind::NotTaken(now)),
    }
}

#[cfg(test)]
mod tests;
