//! The PCI functions of the machine.
//!
//! The loader finds them through configuration mechanism 1 (PCI Local Bus Specification 3.0,
//! 3.2.2.3.2). The rule: the loader reads only identification registers, and leaves devices as they
//! are.
//!
//! The crate `pci_types` (0.10) is sound, and would not make this shorter. It does not enumerate,
//! it splits registers that the record keeps whole, and its trait demands a way to write.

use heapless::Vec;
use pv_abi::uv::start::MachinePci;

use serial_line::ports::{input, output};

const ADDRESS: u16 = 0xcf8;
const DATA: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
/// The value that a slot without a device reads as.
const ABSENT: u32 = 0xffff_ffff;
/// Header type: the device has more than one function.
const SEVERAL_FUNCTIONS: u32 = 0x80 << 16;

/// Maximum number of functions that are recorded.
pub const MAX_FUNCTIONS: usize = 256;

/// Reads a configuration register of a function (bus << 8 | device << 3 | function).
fn read(function: u32, register: u32) -> u32 {
    output(ADDRESS, ENABLE | function << 8 | register);
    input(DATA)
}

/// All functions of segment 0, in order; functions beyond [`MAX_FUNCTIONS`] are not recorded.
#[must_use]
pub fn enumerate() -> Vec<MachinePci, MAX_FUNCTIONS> {
    let mut found = Vec::new();
    for device in 0..256 * 32u32 {
        let first = device << 3;
        if read(first, 0) == ABSENT {
            continue;
        }
        let functions = if read(first, 12) & SEVERAL_FUNCTIONS == 0 { 1 } else { 8 };
        for address in first..first + functions {
            let id = read(address, 0);
            if id != ABSENT {
                let record = MachinePci { address, id, class: read(address, 8), reserved: 0 };
                let _ = found.push(record);
            }
        }
    }
    found
}
