//! The options of `run` and `exec`: the machine to boot, and the host to boot on it.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::image::command_image::FileToSend;

/// The firmware that starts the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Firmware {
    /// SeaBIOS.
    #[default]
    Bios,
    /// OVMF.
    Uefi,
}

/// How QEMU runs the machine's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// QEMU translates every instruction (TCG). Works everywhere.
    #[default]
    Tcg,
    /// On the CPU; only where /dev/kvm works.
    Kvm,
}

/// QEMU's machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Chipset {
    /// PCI Express, with an AHCI controller.
    #[default]
    Q35,
    /// Conventional PCI alone, as many clouds have it.
    Pc,
}

/// How virtio functions look to a driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DiskFunction {
    /// With the legacy interface beside the modern one, as clouds have it.
    #[default]
    Transitional,
    /// With the interface of virtio 1 alone.
    Modern,
}

/// The hypervisor below the command partition's kernel, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Under {
    /// Our monitor and the ultravisor.
    #[default]
    Ultravisor,
    /// Nothing: the bare machine, to compare with.
    Bare,
    /// Debian's Xen, as its first domain, to compare with.
    Xen,
}

/// The machine that QEMU makes.
#[derive(Args, Clone, Debug)]
pub struct MachineOptions {
    /// Number of CPUs
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: u32,
    /// Threads of each core
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    pub threads: u32,
    /// Memory of the machine, with suffix M or G
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = size)]
    pub memory: String,
    /// QEMU's CPU model
    #[arg(long, value_name = "MODEL", default_value = "max,-smap")]
    pub cpu_model: String,
    /// Firmware that starts the machine
    #[arg(long, value_enum, default_value_t)]
    pub firmware: Firmware,
    /// How QEMU runs instructions
    #[arg(long, value_enum, default_value_t)]
    pub accel: Accel,
    /// Make time deterministic: one instruction takes two nanoseconds
    #[arg(long)]
    pub icount: bool,
    /// The chipset
    #[arg(long, value_enum, default_value_t)]
    pub chipset: Chipset,
    /// Attach a raw disk image (virtio)
    #[arg(long, value_name = "FILE")]
    pub disk: Vec<PathBuf>,
    /// Keep definitions and the audit log in this disk image, which is made if it does not exist
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// The virtio interface of the disks' PCI functions
    #[arg(long, value_enum, default_value_t)]
    pub disk_function: DiskFunction,
    /// Write down the writes and flushes of the first disk in this file, as Linux' dm-log-writes
    /// does; the file must be there, and long enough
    #[arg(long, value_name = "FILE", requires = "disk")]
    pub disk_log: Option<PathBuf>,
    /// Wait for a debugger before the first instruction
    #[arg(long)]
    pub gdb: bool,
    /// Write interrupts, exceptions and resets to this file
    #[arg(long, value_name = "FILE")]
    pub trace_int: Option<PathBuf>,
    /// Count instructions by address, from mark to mark, into this file (see bench/marks); needs
    /// --icount or one CPU
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// Write the longest stays in ring 0 into this file; needs --icount or one CPU
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    pub stays: Option<PathBuf>,
}

impl Default for MachineOptions {
    /// The same values as the defaults on the command line.
    fn default() -> Self {
        Self {
            cpus: 2,
            threads: 1,
            memory: "2G".into(),
            cpu_model: "max,-smap".into(),
            firmware: Firmware::default(),
            accel: Accel::default(),
            icount: false,
            chipset: Chipset::default(),
            disk: Vec::new(),
            state: None,
            disk_function: DiskFunction::default(),
            disk_log: None,
            gdb: false,
            trace_int: None,
            profile: None,
            stays: None,
        }
    }
}

/// The host, or another kernel, that is booted on the machine.
#[derive(Args, Clone, Debug, Default)]
pub struct BootOptions {
    /// Put a host file into the command partition
    #[arg(long, value_name = "HOST:PATH")]
    pub file: Vec<FileToSend>,
    /// Boot this kernel (ELF or bzImage) in the command partition's place
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk of --kernel; the default is the command partition's
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Modules that belong to --kernel, for the command partition's RAM disk; the default is the
    /// modules beside the kernel
    #[arg(long, value_name = "DIR", requires = "kernel", conflicts_with = "initrd")]
    pub modules: Option<PathBuf>,
    /// Microcode for the CPUs: a file of Intel's or AMD's, or the archive that distributions install
    #[arg(long, value_name = "FILE")]
    pub microcode: Option<PathBuf>,
    /// Words to add to the kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub append: String,
    /// Memory of the command partition, with suffix M or G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub command_memory: Option<String>,
    /// Virtual CPUs of the command partition
    #[arg(long, value_name = "N")]
    pub command_vcpus: Option<u32>,
    /// Options for the monitor
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub monitor_options: String,
    /// Options for the ultravisor partition
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub ultravisor_options: String,
    /// Options for the boot partition
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub boot_options: String,
    /// Options for the I/O partitions; with `always` they are made on every machine
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub io_options: String,
    /// Hypervisor below the command partition's kernel
    #[arg(long, value_enum, default_value_t)]
    pub under: Under,
}

impl BootOptions {
    /// The options of the boot partition: those that the user gave, and those that have a flag of
    /// their own.
    pub fn all_boot_options(&self) -> String {
        let mut words = vec![self.boot_options.clone()];
        words.extend(self.command_memory.iter().map(|size| format!("command_memory={size}")));
        words.extend(self.command_vcpus.iter().map(|count| format!("command_vcpus={count}")));
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }
}

/// Reads a size, which must have a unit, and writes it as QEMU and the boot partition read it.
fn size(text: &str) -> Result<String, String> {
    match rules::parse_size(text) {
        Ok(bytes @ 1..) => Ok(rules::size(bytes)),
        _ => Err("give a number with suffix M or G, as in 768M".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(size("768M"), Ok("768M".to_owned()));
        assert_eq!(size("1 GiB"), Ok("1G".to_owned()));
        for bad in ["", "G", "0G", "12", "1X", "-1G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn both_defaults_are_the_same() {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            machine: MachineOptions,
        }
        let parsed = <Cli as clap::Parser>::parse_from(["test"]).machine;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", MachineOptions::default()));
    }

    #[test]
    fn flags_become_boot_options() {
        let options = BootOptions {
            command_memory: Some("1G".into()),
            command_vcpus: Some(2),
            ..BootOptions::default()
        };
        assert_eq!(options.all_boot_options(), "command_memory=1G command_vcpus=2");
        assert_eq!(BootOptions::default().all_boot_options(), "");
    }
}
