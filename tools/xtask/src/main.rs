//! `cargo xtask`: builds the host, boots it, tests it.

mod checks;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::checks::{dependencies, floors, metrics};
use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use rig::build::{hv_build, kernel, provision};
use rig::image::command_image::FileToSend;
use rig::image::host::Destination;
use rig::image::{boot_image, guest_image, host, state_disk};
use rig::interrupt;
use rig::machine::exec::{self, Outcome};
use rig::machine::terminal;
use rig::options::{BootOptions, MachineOptions};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, boot and test the host")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the loader, the monitor, the ultravisor and the boot partition
    Build,
    /// Boot the host in QEMU with the terminal on the command partition's console
    Run {
        #[command(flatten)]
        machine: MachineOptions,
        #[command(flatten)]
        boot: BootOptions,
    },
    /// Boot a fresh host, run a command in its command partition, power off
    #[command(
        after_help = "The status is the command's; it is 124 if the time is up, and 125 if the \
        command could not run to its end."
    )]
    Exec {
        #[command(flatten)]
        machine: MachineOptions,
        #[command(flatten)]
        boot: BootOptions,
        /// Power the machine off after this many seconds
        #[arg(long, value_name = "S")]
        timeout: Option<u64>,
        /// Show the console as well, on standard error
        #[arg(long)]
        verbose: bool,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Run all checks: format, lints, unit and model tests, limits, nested scenarios
    Test {
        /// Leave out the checks that boot a machine
        #[arg(long)]
        quick: bool,
        /// Run only the nested scenarios that have one of these words in their names
        scenarios: Vec<String>,
    },
    /// Check the format, the lints of both targets and the limits; run no test
    Lint,
    /// Count instructions: our host, Debian's Xen, and no hypervisor, with the same kernel
    Bench {
        /// What to measure
        #[command(subcommand)]
        what: bench::What,
    },
    /// Count ring 0 and unsafe code, and fail if a limit is exceeded
    Metrics,
    /// Make the RAM disk of a stock Linux guest for tests, and print the path of the RAM disk and
    /// the path of a kernel
    GuestImage {
        /// Path of the image to write
        #[arg(long, value_name = "FILE", default_value = "build/guest.cpio")]
        output: PathBuf,
        /// Put a kernel module and the modules that it needs into the RAM disk; the guest loads it
        #[arg(long, value_name = "NAME")]
        module: Vec<String>,
        /// Put a host file into the RAM disk
        #[arg(long, value_name = "HOST:PATH")]
        file: Vec<FileToSend>,
    },
    /// Make the bootable image for a real machine
    Iso {
        #[command(flatten)]
        boot: BootOptions,
        /// Path of the image to write
        #[arg(long, value_name = "FILE", default_value = "build/ultravisor.iso")]
        output: PathBuf,
    },
}

fn main() -> ExitCode {
    if let Some(status) = rig::serve_if_asked() {
        return status;
    }
    let task = Cli::parse().command;
    let failure = match task {
        Task::Exec { .. } => ExitCode::from(exec::STATUS_FAILED),
        _ => ExitCode::FAILURE,
    };
    let result = interrupt::install().and_then(|()| perform(task));
    interrupt::stay_if_signalled();
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        failure
    })
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Build => build(),
        Task::Run { machine, boot } => {
            let image = prepare(&boot, &machine)?;
            terminal::run_machine(&machine, &image)
        }
        Task::Exec { machine, boot, timeout, verbose, command } => {
            let image = prepare(&boot, &machine)?;
            let timeout = timeout.map(Duration::from_secs);
            let outcome = exec::exec(&machine, &image, command, timeout, verbose)?;
            Ok(exit_code(outcome))
        }
        Task::Test { quick, scenarios } => checks::run_all(quick, &scenarios),
        Task::Lint => checks::lint(),
        Task::Bench { what } => bench::measure(&what),
        Task::Metrics => count(),
        Task::GuestImage { output, module, file } => guest_image(&output, &module, &file),
        Task::Iso { boot, output } => {
            let image = boot_image::make(&host::payload(&boot, Destination::Machine)?)?;
            copy(&image, &output)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Copies the file that was made to the path that the user gave, and prints that path.
fn copy(made: &Path, output: &Path) -> Result<()> {
    std::fs::copy(made, output).with_context(|| format!("cannot write {}", output.display()))?;
    println!("{}", output.display());
    Ok(())
}

fn guest_image(output: &Path, modules: &[String], files: &[FileToSend]) -> Result<ExitCode> {
    provision::provision()?;
    let kernel = kernel::guest_kernel()?;
    let modules: Vec<_> = modules.iter().map(String::as_str).collect();
    copy(&guest_image::guest_initrd(&kernel, &modules, files)?, output)?;
    println!("kernel: {} (packed), {} (ELF)", kernel.bzimage.display(), kernel.elf.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds all that is to be booted and the image with it.
fn prepare(boot: &BootOptions, machine: &MachineOptions) -> Result<PathBuf> {
    let boot = state_disk::options(boot, machine)?;
    let image = boot_image::make(&host::payload(&boot, Destination::Qemu)?)?;
    if machine.gdb {
        let script = host::debugger_script()?;
        eprintln!(
            "xtask: waiting for a debugger; in another terminal: gdb -x {}",
            script.display()
        );
    }
    Ok(image)
}

fn build() -> Result<ExitCode> {
    provision::provision()?;
    let images = hv_build::build()?;
    for image in [images.loader, images.monitor, images.ultravisor, images.boot, hv_build::guest()?]
    {
        println!("{}", image.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn count() -> Result<ExitCode> {
    let metrics = metrics::measure()?;
    print!("{}", metrics.report());
    let floors = floors::check()?;
    print!("{}", floors.report());
    let mut violations = metrics.violations();
    violations.extend_from_slice(floors.violations());
    violations.extend(dependencies::check()?);
    if !violations.is_empty() {
        bail!("over the limits: {}", violations.join("; "));
    }
    Ok(ExitCode::SUCCESS)
}

fn exit_code(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Exited(status) => {
            u8::try_from(status).map_or(ExitCode::from(exec::STATUS_FAILED), ExitCode::from)
        }
        Outcome::TimedOut(message) => {
            eprintln!("xtask: {message}");
            ExitCode::from(exec::STATUS_TIMED_OUT)
        }
    }
}
