//! Microcode from GRUB's modules, for the first CPU.
//!
//! Rule: the CPU has its update before anybody asks it for features or leaks, and the file is no
//! reason not to start: what came of it is a line on the console and a word to the ultravisor.
#![expect(unsafe_code, reason = "copies the update to where the CPU reads it")]

use handover::{Bytes, Microcode};
use log::{info, warn};
use microcode::{Identity, Vendor};
use microcode_file::{Outcome, Update};
use zerocopy::FromZeros;

use crate::{cpu::ThisCpu, memory, messages::refuse, multiboot2::Module, regions::FirmwareRegions};

/// The name of the modules.
pub const MODULE: &str = "microcode";

/// Loads the newest update that the modules have for this CPU. What came of it, and what the other
/// CPUs follow.
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

/// Loads what one module has; the revision before, and what the CPU has now.
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

/// Copies the update to frames of the monitor's own: aligned as the CPU wants it, and there when the
/// other CPUs start.
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
