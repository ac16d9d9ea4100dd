//! The platform: everything between the firmware and the rest of the monitor.
//!
//! The platform takes over the address space, the areas of CPUs, the record of the machine and the
//! other CPUs, all of which the loader made. It gives the rest of the monitor time, interrupts
//! between CPUs, two serial lines, and a way to end the machine. The entry point calls [`set_up`]
//! on the first CPU and [`set_up_other`] on the others. The platform uses the symbols `trap_stubs`
//! and `entry_page`. The rule: the platform is set up once and has no policy; after the start only
//! per-CPU state changes.
//!
//! Modules that only compute (`clock`, `symbols`) also compile on the host, where they are tested.
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "only tested on the host"))]

pub mod clock;
mod symbols;

#[cfg(target_os = "none")]
pub use hardware::*;

/// The modules that exist on bare hardware only.
#[cfg(target_os = "none")]
#[path = ""]
mod hardware {
    use super::*;

    pub mod apic;
    pub mod boot;
    pub mod cpu_area;
    pub mod descriptors;
    pub mod log;
    pub mod memory;
    pub mod panic;
    pub mod power;
    pub mod processor;
    pub mod serial;
    pub mod time;

    pub use self::{
        apic::{
            DEVICE_VECTORS, VECTOR_COM1, VECTOR_COM2, VECTOR_FLUSH, VECTOR_RESCHEDULE,
            VECTOR_TIMER, apic_id, end_of_interrupt, message_address, send_ipi,
        },
        boot::{cpu_count, refuse, set_up, set_up_other, wall_clock},
        cpu_area::{cpu_local_page, set_gdt_frames, set_ldt_frames},
        log::{log_raw, log_warning},
        memory::{frame_table, idle_root, m2p, m2p_frame, monitor_l4_slots, phys_to_virt},
        panic::{fatal_trap, nmi, stop_host},
        power::{power_off, reset as restart},
        processor::{features, invlpg, mitigated, reload_cr3, set_fsgsbase},
        serial::{interrupt as serial_interrupt, read as serial_read, write as serial_write},
        time::{now, set_deadline, time_scale, tsc_khz},
    };
}
