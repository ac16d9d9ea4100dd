//! Turns options into a bootable image, and builds every part that the image needs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kernel_image::confined::Unpacker;

use crate::build::hv_build::Images;
use crate::build::kernel::{self, Kernel};
use crate::build::{hv_build, provision};
use crate::image::boot_image::{Module, Payload};
use crate::image::command_image;
use crate::machine::qemu;
use crate::options::{BootOptions, Under};
use crate::workspace;

/// The command line of the command partition's kernel, unless `--kernel` names another kernel.
const COMMAND_LINE: &str = "console=hvc0 quiet loglevel=4";
/// The command line of any other kernel, before the words of `--append`.
const OTHER_COMMAND_LINE: &str = "console=hvc0";
/// The command line of a kernel that finds only one console: the harness has that console, and no
/// kernel message comes between its packets.
const ONE_CONSOLE_COMMAND_LINE: &str = "console=hvc0 uv.shell=0 uv.harness=hvc0 quiet loglevel=1";
/// The ultravisor's option for such a kernel.
const ON_HARNESS_LINE: &str = "command_console=1 ";
/// The kernel's command line on the bare machine, where it owns the serial lines.
const BARE_COMMAND_LINE: &str = "console=ttyS0 uv.console=ttyS0 uv.harness=ttyS1 quiet loglevel=4";

/// The kernel's command line as Xen's first domain: Xen owns the console, and the kernel owns COM2.
const XEN_COMMAND_LINE: &str = "console=hvc0 uv.harness=ttyS1 quiet loglevel=4";
/// Xen's options: its console is on COM1 and the domain's memory is fixed; all other options keep
/// their defaults.
const XEN_OPTIONS: &str = "console=com1 com1=115200,8n1 dom0_mem=768M,max:768M noreboot";

/// The place where an image boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// QEMU; when the monitor ends, it leaves QEMU through the debug-exit device.
    Qemu,
    /// A real machine, or a virtual machine that another program runs.
    Machine,
}

/// Builds all that the options need, and returns the payload for GRUB.
///
/// # Errors
/// A package is missing, something does not build, or a file cannot be read.
pub fn payload(options: &BootOptions, destination: Destination) -> Result<Payload> {
    provision::provision()?;
    match options.under {
        Under::Ultravisor => host(options, destination),
        Under::Bare => bare(options),
        Under::Xen => xen(options),
    }
}

/// The script that gives gdb the symbols of the monitor and the partitions.
///
/// # Errors
/// The script cannot be written.
pub fn debugger_script() -> Result<PathBuf> {
    Ok(workspace::build_dir()?.join("gdbinit"))
}

fn write_debugger_script(images: &Images) -> Result<()> {
    let script = format!(
        "set confirm off\nset pagination off\nfile {}\nadd-symbol-file {}\nadd-symbol-file {}\n\
         add-symbol-file {}\ntarget remote :{}\n",
        images.monitor.display(),
        images.ultravisor.display(),
        images.boot.display(),
        images.io.display(),
        qemu::GDB_PORT,
    );
    workspace::write_if_changed(&debugger_script()?, script.as_bytes())
}

fn host(options: &BootOptions, destination: Destination) -> Result<Payload> {
    let images = hv_build::build()?;
    write_debugger_script(&images)?;
    let command = match &options.kernel {
        Some(kernel) => other_kernel(kernel, options)?,
        None => command_partition(options)?,
    };
    let own = if command.shares_line { ON_HARNESS_LINE } else { "" };
    let ultravisor_options = format!("{own}{}", options.ultravisor_options);
    let mut modules = vec![
        module("ultravisor", hv_build::strip(&images.ultravisor)?, &ultravisor_options),
        module("boot", hv_build::strip(&images.boot)?, &options.all_boot_options()),
        module("io", hv_build::strip(&images.io)?, &options.io_options),
    ];
    modules.extend(command.modules);
    if let Some(file) = &options.microcode {
        ensure!(file.is_file(), "--microcode {}: there is no such file", file.display());
        modules.push(module("microcode", file.clone(), ""));
    }
    let mut monitor_options = options.monitor_options.clone();
    if destination == Destination::Qemu {
        monitor_options.push_str(" debug-exit");
    }
    Ok(Payload::Host {
        monitor: hv_build::strip(&images.loader)?,
        options: monitor_options,
        modules,
    })
}

/// The command partition's modules.
struct CommandPartition {
    modules: [Module; 2],
    /// Whether its console is on the harness line, because its kernel finds no other console.
    shares_line: bool,
}

fn command_partition(options: &BootOptions) -> Result<CommandPartition> {
    let kernel = kernel::guest_kernel()?;
    let line = format!("{COMMAND_LINE} {}", options.append);
    let initrd = initrd(&kernel, options)?;
    Ok(CommandPartition { modules: command_modules(kernel.elf, &line, initrd), shares_line: false })
}

fn command_modules(kernel: PathBuf, line: &str, initrd: PathBuf) -> [Module; 2] {
    [module("command-kernel", kernel, line), module("command-initrd", initrd, "")]
}

fn other_kernel(file: &Path, options: &BootOptions) -> Result<CommandPartition> {
    let bytes = Unpacker::default().elf(file, 0).context("--kernel")?.to_vec()?;
    let directory = workspace::directory(workspace::build_dir()?.join("kernels"))?;
    let elf = workspace::write_named_by_content(&directory, "elf", &bytes)?;
    let mut shares_line = false;
    let initrd = match &options.initrd {
        Some(initrd) => {
            ensure!(options.file.is_empty(), "--file goes into our RAM disk; leave out --initrd");
            ensure!(initrd.is_file(), "--initrd {}: there is no such file", initrd.display());
            initrd.clone()
        }
        None => {
            let own = kernel::beside(file, &bytes, options.modules.as_deref())?;
            let own = own.map_or_else(kernel::guest_kernel, Ok)?;
            shares_line = !kernel::has_second_console(&own.release);
            self::initrd(&own, options)?
        }
    };
    let own = if shares_line { ONE_CONSOLE_COMMAND_LINE } else { OTHER_COMMAND_LINE };
    let line = format!("{own} {}", options.append);
    Ok(CommandPartition { modules: command_modules(elf, &line, initrd), shares_line })
}

fn bare(options: &BootOptions) -> Result<Payload> {
    ensure!(options.kernel.is_none(), "--under bare boots the guest kernel; leave out --kernel");
    let kernel = kernel::guest_kernel()?;
    let initrd = initrd(&kernel, options)?;
    let line = format!("{BARE_COMMAND_LINE} {}", options.append);
    Ok(Payload::Linux { kernel: kernel.bzimage, options: line, initrd })
}

fn xen(options: &BootOptions) -> Result<Payload> {
    ensure!(options.kernel.is_none(), "--under xen boots the guest kernel; leave out --kernel");
    let kernel = kernel::guest_kernel()?;
    let initrd = initrd(&kernel, options)?;
    Ok(Payload::Xen {
        xen: kernel::xen()?,
        options: XEN_OPTIONS.to_owned(),
        kernel: kernel.elf,
        kernel_options: format!("{XEN_COMMAND_LINE} {}", options.append),
        initrd,
    })
}

fn module(name: &str, file: PathBuf, options: &str) -> Module {
    Module { name: name.to_owned(), file, options: options.to_owned() }
}

/// Builds the RAM disk.
fn initrd(kernel: &Kernel, options: &BootOptions) -> Result<PathBuf> {
    let image = command_image::build(kernel, &options.file)?;
    let directory = workspace::directory(workspace::build_dir()?.join("initrds"))?;
    workspace::write_named_by_content(&directory, "cpio", &image)
}
