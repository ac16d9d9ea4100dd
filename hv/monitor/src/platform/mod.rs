//! The machine: everything between the firmware and the monitor proper.
//!
//! The platform takes over what GRUB left (one CPU, a memory map, modules), builds the
//! monitor's address space, starts the other CPUs, and gives the rest of the monitor time,
//! interrupts between CPUs, two serial lines, and a way out. It calls `crate::start` on the first
//! CPU and `crate::start_secondary` on the others, and uses the symbols `trap_stubs` and
//! `entry_page`. The rule: all of it is set up once and policy-free; after the start only
//! per-CPU state changes here.
//!
//! What parses data (`multiboot2`, `acpi`, `options`, `regions`, `symbols`) also compiles, and is
//! tested, on the host.
#![allow(dead_code, reason = "an interface, used as far as the monitor needs it")]

pub mod acpi;
pub mod clock;
pub mod early_frames;
mod log_level;
pub mod multiboot2;
pub mod options;
pub mod regions;
mod symbols;

#[cfg(target_os = "none")]
mod hardware {
    pub use super::{
        apic::{
            VECTOR_COM1, VECTOR_COM2, VECTOR_FLUSH, VECTOR_RESCHEDULE, VECTOR_TIMER,
            end_of_interrupt, send_ipi,
        },
        boot::{Boot, boot, cpu_count, ram, refuse},
        cpu_area::{cpu_local_page, set_gdt_frames, set_ldt_frames},
        log::{log_raw, log_warning},
        memory::{
            frame_table, free_regions, idle_root, m2p, make_read_only, monitor_l4_slots,
            monitor_regions, phys_to_virt, take_frames,
        },
        panic::{fatal_trap, nmi, stop_host},
        power::{power_off, reset as restart},
        processor::{features, invlpg, reload_cr3},
        serial::{interrupt as serial_interrupt, read as serial_read, write as serial_write},
        time::{now, set_deadline, time_scale, tsc_khz},
    };
}
#[cfg(target_os = "none")]
pub use hardware::*;

#[cfg(target_os = "none")]
pub mod apic;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
pub mod cpu_area;
#[cfg(target_os = "none")]
pub mod descriptors;
#[cfg(target_os = "none")]
pub mod io_apic;
#[cfg(target_os = "none")]
pub mod log;
#[cfg(target_os = "none")]
pub mod memory;
#[cfg(target_os = "none")]
mod no_heap;
#[cfg(target_os = "none")]
pub mod paging;
#[cfg(target_os = "none")]
pub mod panic;
#[cfg(target_os = "none")]
pub mod pci;
#[cfg(target_os = "none")]
pub mod ports;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
pub mod processor;
#[cfg(target_os = "none")]
pub mod serial;
#[cfg(target_os = "none")]
pub mod smp;
#[cfg(target_os = "none")]
pub mod time;
