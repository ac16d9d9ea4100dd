//! The files of the partitions to create: their kernels and RAM disks.

use std::fs::File;

use control::command::Code;
use definition::Definition;
use pv_abi::PAGE_SIZE;
use uvd_protocol::Failure;

use super::{Batch, Creation};
use crate::context::refusal::refused;
use crate::loader::{Kernel, Loader};
use crate::service::Reporter;

/// Loads the unpacked kernels of the partitions to create.
pub async fn load(
    loader: &Loader,
    batch: &Batch,
    reporter: &Reporter,
) -> Result<Vec<Kernel>, Failure> {
    let mut kernels = Vec::new();
    for Creation { definition, .. } in &batch.creates {
        let tell = || reporter.tell(&definition.name, "unpacking kernel", 0, 0);
        let initrd_bytes = initrd(definition)?.map_or(0, |(_, bytes)| bytes);
        let (name, path) = (&definition.name, &definition.kernel);
        let kernel = loader.kernel(name, path, initrd_bytes, tell).await?;
        check_memory(definition, &kernel)?;
        kernels.push(kernel);
    }
    Ok(kernels)
}

/// The least memory in bytes that a kernel needs.
pub fn least_memory(kernel: &Kernel) -> u64 {
    kernel.frames_needed().saturating_mul(PAGE_SIZE as u64)
}

/// Checks that a partition has the least memory that its kernel needs.
fn check_memory(what: &Definition, kernel: &Kernel) -> Result<(), Failure> {
    let least = least_memory(kernel);
    if what.memory >= least {
        return Ok(());
    }
    Err(too_little_memory(&format!("partition {:?}", what.name), what.memory, least))
}

/// The failure for a partition with too little memory for its kernel.
pub fn too_little_memory(object: &str, memory: u64, least: u64) -> Failure {
    let least = least.next_multiple_of(1 << 20) >> 20;
    let reason = format!("{} is less than its kernel needs at least", definition::size(memory));
    refused(Code::InvalidValue, object, "memory", &reason, &format!("give {least}M or more"))
}

/// Opens a definition's RAM disk; returns the file and its size in bytes.
pub fn initrd(what: &Definition) -> Result<Option<(File, u64)>, Failure> {
    let Some(path) = &what.initrd else { return Ok(None) };
    let opened = File::open(path).and_then(|file| {
        let about = file.metadata()?;
        match about.is_file() {
            true => Ok((file, about.len())),
            false => Err(std::io::Error::other("not a regular file")),
        }
    });
    opened.map(Some).map_err(|error| {
        let reason = format!("{}: {error}", path.display());
        let object = format!("partition {:?}", what.name);
        let way_out = "give the path of a RAM disk that is there";
        refused(Code::NoInitrd, &object, "initrd", &reason, way_out)
    })
}
