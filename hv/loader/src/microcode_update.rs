//! Loads microcode from GRUB's modules.
//!
//! Rule: a CPU gets its update before its features or leaks are read, and what is found about the
//! first CPU holds for every CPU that runs: a CPU that does not reach the first CPU's revision is
//! not used. A bad file never prevents the start: the result is one line on the console, and a
//! record for the ultravisor.

use log::{info, warn};
use microcode::{Behind, Identity};
use microcode_file::Outcome;
use spin::Once;

use crate::{cpu::ThisCpu, memory, multiboot2::Module, regions::FirmwareRegions};

/// The name of the modules.
pub const MODULE: &str = "microcode";

/// The first CPU after its update, and the address of the update.
static LOADED: Once<(Identity, u64)> = Once::new();

/// Loads the newest update in the modules for the first CPU.
pub fn load(modules: &[Module], regions: &FirmwareRegions) -> Outcome {
    let mut outcome = Outcome::NoModule;
    for module in modules.iter().filter(|module| module.name() == MODULE) {
        let came = load_one(module, regions).map_or_else(|reason| reason, Outcome::Loaded);
        if came.is_fine() {
            info!("microcode: {came}");
        } else {
            warn!("microcode: {came}; continuing without an update");
        }
        outcome = outcome.and_then(came);
    }
    outcome
}

/// Updates another CPU, which runs this, to the revision of the first.
///
/// # Errors
/// [`Behind`] if the CPU has not reached that revision.
pub fn follow() -> Result<(), Behind> {
    let Some((first, update)) = LOADED.get() else { return Ok(()) };
    microcode::follow(&ThisCpu, first, *update)
}

/// Loads the update in one module. Returns the revision before.
fn load_one(module: &Module, regions: &FirmwareRegions) -> Result<u32, Outcome> {
    let file = memory::ram_bytes(module.start, module.bytes, regions);
    let cpu = Identity::of(&ThisCpu).ok_or(Outcome::OtherVendor)?;
    let update = microcode_file::choose(file.ok_or(Outcome::Damaged(0))?, &cpu)?;
    if microcode::is_virtual(&ThisCpu) {
        return Err(Outcome::Virtual(update.revision));
    }
    // The copy is aligned as a CPU needs it, and still there when the other CPUs start.
    let copy = memory::take_zeroed(update.data.len() as u64, "microcode");
    memory::copy_to(copy, update.data);
    let address = memory::phys_to_virt(copy) as u64;
    let revision = microcode::load(&ThisCpu, cpu.vendor, address);
    if revision != update.revision {
        return Err(Outcome::NotTaken(update.revision));
    }
    LOADED.call_once(|| (Identity { revision, ..cpu }, address));
    Ok(cpu.revision)
}
