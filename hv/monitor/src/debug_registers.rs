//! Debug registers as a partition's kernel sees them.

use refusal::{Refused, errno};

use crate::{
    guest_memory::{MONITOR_END, MONITOR_START, is_canonical},
    hardware,
    vcpu::Vcpu,
};

/// Sets a debug register of the virtual CPU that runs on this CPU.
///
/// # Errors
/// Those of [`change`].
pub fn write(vcpu: &Vcpu, register: u64, value: u64) -> Result<(), Refused> {
    let mut debug = vcpu.debug.get();
    change(&mut debug, register, value)?;
    vcpu.debug.set(debug);
    hardware::load_debug(&debug);
    Ok(())
}

/// Sets one of the debug registers `debug`. A breakpoint in the monitor's part of the address space
/// is refused (XSA-265).
///
/// # Errors
/// `-EPERM` for such a breakpoint, for an I/O breakpoint, and for bits that do not exist; `-EINVAL`
/// if there is no such register. Nothing is changed then.
pub fn change(debug: &mut [u64; 8], register: u64, value: u64) -> Result<(), Refused> {
    match register {
        0..=3 if !is_canonical(value) || (MONITOR_START..MONITOR_END).contains(&value) => {
            return Err(errno::EPERM);
        }
        0..=3 => debug[narrow::size(register)] = value,
        6 => debug[6] = value & 0xe00f | 0xffff_0ff0,
        // No general detect (bit 13), no I/O breakpoints (R/W = 10).
        7 => {
            let io = (0..4).any(|n| value >> (16 + 4 * n) & 3 == 2);
            if io || value >> 32 != 0 {
                return Err(errno::EPERM);
            }
            debug[7] = value & !0xd800 & !(1 << 13) | 0x400;
        }
        _ => return Err(errno::EINVAL),
    }
    Ok(())
}

/// A debug register of a virtual CPU.
///
/// # Errors
/// `-EINVAL` if there is no such register.
pub fn read(vcpu: &Vcpu, register: u64) -> Result<u64, Refused> {
    let known = matches!(register, 0..=3 | 6 | 7);
    known.then(|| vcpu.debug.get()[narrow::size(register)]).ok_or(errno::EINVAL)
}
