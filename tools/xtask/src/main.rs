//! `cargo xtask`: builds the host, boots it, tests it.

mod hv_build;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Build, boot and test the host")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the monitor, the ultravisor and the boot partition
    Build,
}

fn main() -> ExitCode {
    match perform(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Build => {
            let images = hv_build::build()?;
            for image in [images.monitor, images.ultravisor, images.boot] {
                println!("{}", image.display());
            }
        }
    }
    Ok(())
}
