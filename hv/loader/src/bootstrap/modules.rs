//! GRUB's modules: those that the boot partition gets, and their records.

use heapless::Vec;
use pv_abi::uv::database::BOOT;
use pv_abi::uv::start::{MODULE_COMMAND_LINE, MODULES as MODULE_RECORDS, ModuleRecord, region_use};

use super::owners::{Reservations, Reserved, record_owner};
use super::{Found, MODULES};
use crate::messages::refuse;
use crate::multiboot2::Module;
use crate::{memory, microcode_update};

/// Modules that no partition gets.
const LOADERS_OWN: [&str; 3] = ["ultravisor", "boot", microcode_update::MODULE];

/// Gives GRUB's modules, except the images of the two partitions and the microcode, to the boot
/// partition.
pub fn hand_over(set: &mut Reservations, found: &Found<'_>) -> Vec<ModuleRecord, MODULE_RECORDS> {
    let mut records = Vec::new();
    let mut address = MODULES;
    for module in found.modules.iter().filter(|m| !LOADERS_OWN.contains(&m.name())) {
        if records.is_full() {
            let (name, most) = (module.name(), MODULE_RECORDS);
            refuse(format_args!(
                "module {name}: the boot partition takes {most}; leave one out of GRUB's entry"
            ));
        }
        let frames = module.bytes.div_ceil(4096);
        let first = module.start >> 12;
        record_owner(set, Reserved { first, frames, owner: BOOT, usage: region_use::MODULE });
        let _ = records.push(ModuleRecord { address, bytes: module.bytes, ..record(module) });
        address += frames << 12;
    }
    records
}

/// The contents of a module.
pub fn contents(found: &Found<'_>, module: &Module) -> &'static [u8] {
    let Module { start, bytes, .. } = *module;
    memory::ram_bytes(start, bytes, found.regions).unwrap_or_else(|| {
        refuse(format_args!("{bytes} bytes at {start:#x} are not in RAM, though GRUB says so"))
    })
}

/// A partition's record of a module, without the place of its contents.
pub fn record(module: &Module) -> ModuleRecord {
    let line = module.command_line.as_bytes();
    let mut command_line = [0; MODULE_COMMAND_LINE];
    let Some(place) = command_line.get_mut(..line.len()) else {
        refuse(format_args!(
            "module {}: its command line has {} bytes; {MODULE_COMMAND_LINE} is the most",
            module.name(),
            line.len()
        ))
    };
    place.copy_from_slice(line);
    let command_line_bytes = line.len() as u64;
    let frame = module.start >> 12;
    ModuleRecord { address: MODULES, bytes: 0, frame, command_line_bytes, command_line }
}
