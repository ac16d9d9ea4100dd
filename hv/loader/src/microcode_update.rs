//! Loads microcode from GRUB's modules on the first CPU.
//!
//! Rule: the CPU gets its update before its features or leaks are read. A bad file never prevents
//! the start: the result is one line on the console, and a record for the ultravisor.
#![expect(unsafe_code, reason = "copies the update to where the CPU reads it")]

use handover::{Bytes, Microcode};
use log::{info, warn};
use microcode::{Identity, Vendor};
use microcode_file::{Outcome, Update};
use zerocopy::FromZeros;

use crate::{cpu::ThisCpu, memory, messages::refuse, multiboot2::Module, regions::FirmwareRegions};

/// The name of the modules.
pub const MODULE: &str = "microcode";

/// Loads the newest update in the modules for this CPU. Returns the result, and the microcode that
/// the other CPUs must load.
pub fn load(modules: &[Module], regions: &FirmwareRegions) -> (Outcome, Microcode) {
    let (mut outcome, mut loaded) = (Outcome::NoModule, Microcode::new_zeroed());
    for module in modules.iter().filter(|module| module.name() == MODULE) {
        let came = match load_one(module, regions) {
            Ok((before, now)) => {
                loaded = now;
                Outcome::Loaded(before)
            }
            Err(reason) => reason,
        };
        if came.is_fine() {
            info!("microcode: {came}");
        } else {
            warn!("microcode: {came}; going on without");
        }
        outcome = outcome.and_then(came);
    }
    (outcome, loaded)
}

/// Loads the update in one module. Returns the revision before, and the microcode that the CPU has
/// now.
fn load_one(module: &Module, regions: &FirmwareRegions) -> Result<(u32, Microcode), Outcome> {
    let file = memory::ram_bytes(module.start, module.bytes, regions);
    let cpu = Identity::of(&ThisCpu).ok_or(Outcome::OtherVendor)?;
    let update = microcode_file::choose(file.ok_or(Outcome::Damaged(0))?, &cpu)?;
    if microcode::is_virtual(&ThisCpu) {
        return Err(Outcome::Virtual(update.revision));
    }
    let place = keep(&update);
    let address = memory::phys_to_virt(place.start) as u64;
    let revision = microcode::load(&ThisCpu, cpu.vendor, address);
    if revision != update.revision {
        return Err(Outcome::NotTaken(update.revision));
    }
    let Identity { vendor, signature, platform, revision: before } = cpu;
    let amd = u32::from(vendor == Vendor::Amd);
    Ok((before, Microcode { signature, platform, revision, amd, update: place }))
}

/// Copies the update to frames of the monitor: aligned as the CPU needs it, and still there when
/// the other CPUs start.
fn keep(update: &Update<'_>) -> Bytes {
    let bytes = update.data.len() as u64;
    let Some(first) = memory::take_frames(bytes.div_ceil(4096), 1) else {
        refuse(format_args!("memory: no {bytes} bytes for microcode; give the machine more"));
    };
    let start = first << 12;
    // SAFETY: the frames were just taken, hold that many bytes, and lie in the direct map.
    unsafe {
        let to = memory::phys_to_virt(start);
        core::ptr::copy_nonoverlapping(update.data.as_ptr(), to, update.data.len());
    }
    Bytes { start, bytes }
}
