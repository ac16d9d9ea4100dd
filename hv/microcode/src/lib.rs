//! Microcode: identifies a CPU, and loads an update into it.
//!
//! The loader updates the first CPU before it reads its features, since microcode adds features. It
//! updates each other CPU when that CPU starts.
//!
//! Rule: the update that a CPU was given proves nothing; only the revision that it reports
//! afterwards counts.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// The manufacturer of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD.
    Amd,
}

/// The data by which an update is chosen for a CPU.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The manufacturer.
    pub vendor: Vendor,
    /// Leaf 1 `eax` of `cpuid`.
    pub signature: u32,
    /// The bit of the platform, by IA32_PLATFORM_ID; on Intel only.
    pub platform: u32,
    /// Revision of the CPU's present microcode.
    pub revision: u32,
}

/// Intel: writing the address of an update starts the load (SDM vol. 4, IA32_BIOS_UPDT_TRIG).
const INTEL_TRIGGER: u32 = 0x79;
/// The same for AMD (Linux, `MSR_AMD64_PATCH_LOADER`).
const AMD_TRIGGER: u32 = 0xc001_0020;
/// The revision: on Intel bits 32 to 63, which needs two more steps (SDM vol. 3, 10.11.7.1); on AMD
/// bits 0 to 31.
const REVISION: u32 = 0x8b;
/// Intel: bits 50 to 52 are the number of the platform.
const PLATFORM: u32 = 0x17;
/// Leaf 1 `ecx`: a hypervisor is present.
const HYPERVISOR: u32 = 1 << 31;

/// The CPU that runs this code.
pub trait Cpu {
    /// The registers `eax` to `edx` of a leaf.
    fn cpuid(&self, leaf: u32) -> [u32; 4];
    /// Reads a model-specific register.
    fn read(&self, register: u32) -> u64;
    /// Writes a model-specific register.
    fn write(&self, register: u32, value: u64);
}

impl Identity {
    /// Identifies the CPU. Returns `None` if neither Intel nor AMD made it.
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

/// Returns whether a hypervisor announces itself. Then the host below it loads the microcode.
pub fn is_virtual(cpu: &impl Cpu) -> bool {
    let [_, _, c, _] = cpu.cpuid(1);
    c & HYPERVISOR != 0
}

/// The present revision of a CPU of this manufacturer.
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

/// Makes the CPU load the update at a virtual address, which is 16-byte aligned. Returns its
/// revision after that.
pub fn load(cpu: &impl Cpu, vendor: Vendor, address: u64) -> u32 {
    match vendor {
        Vendor::Intel => cpu.write(INTEL_TRIGGER, address),
        Vendor::Amd => cpu.write(AMD_TRIGGER, address),
    }
    revision(cpu, vendor)
}

/// Why a CPU has not reached the first CPU's revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    /// The first CPU's update is not for it.
    OtherCpu,
    /// The CPU did not accept the update, and has this revision.
    NotTaken(u32),
}

/// Updates a CPU to the revision of the first CPU. `first` describes the first CPU after its
/// update; `address` is that of the update.
///
/// # Errors
/// [`Behind`] if the CPU has an older revision than the first, so that findings about the first do
/// not apply to it.
pub fn follow(cpu: &impl Cpu, first: &Identity, address: u64) -> Result<(), Behind> {
    let same = |own: &Identity| {
        (own.vendor, own.signature, own.platform) == (first.vendor, first.signature, first.platform)
    };
    let own = Identity::of(cpu).filter(same).ok_or(Behind::OtherCpu)?;
    // Threads of a core share the revision. AMD's second thread loads the update anyway, since some
    // of it is per thread (Linux, `apply_microcode_amd`).
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
