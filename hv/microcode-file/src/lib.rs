//! Microcode files as the manufacturers publish them, and the choice of an update for a CPU.
//!
//! The host takes a file as a GRUB module, to fix leaks of the CPU for which the firmware is too
//! old. A file has updates for many CPUs. An Intel file has any number of updates one after the
//! other (`cat /lib/firmware/intel-ucode/*`; Intel SDM vol. 3, 10.11.1). An AMD file has containers
//! with a table of CPUs and patches for them (Linux, `Documentation/arch/x86/microcode.rst` and
//! `arch/x86/kernel/cpu/microcode/amd.c`). Or the file is an archive of such files, under the names
//! that Linux expects: distributions install it, and their RAM disks begin with it.
//!
//! Rule: the file is not trusted. Every length is checked before it is used, and the contents of an
//! update are not interpreted, because the CPU checks the signature of the update. The loader reads
//! files; the monitor does not link this crate.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod archive;
mod outcome;

use microcode::{Identity, Vendor};

pub use outcome::Outcome;

/// An update for a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Update<'a> {
    /// Its revision.
    pub revision: u32,
    /// The data that the CPU loads: the address of its first byte goes into the register.
    pub data: &'a [u8],
}

/// The file is cut off at this offset, or it is not a microcode file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged(pub usize);

/// The update in a module for a CPU.
///
/// # Errors
/// Why the module has no update that this CPU should load.
pub fn choose<'a>(module: &'a [u8], cpu: &Identity) -> Result<Update<'a>, Outcome> {
    let damaged = |Damaged(at)| Outcome::Damaged(at);
    let file = if archive::is_archive(module) {
        archive::member(module, path(cpu.vendor)).map_err(damaged)?.ok_or(Outcome::OtherVendor)?
    } else if is_of_other(module, cpu.vendor) {
        return Err(Outcome::OtherVendor);
    } else {
        module
    };
    let update = newest(file, cpu).map_err(damaged)?.ok_or(Outcome::OtherCpu)?;
    if update.revision > cpu.revision {
        Ok(update)
    } else {
        Err(Outcome::NotNewer(update.revision))
    }
}

/// The path of a manufacturer's file in an archive.
const fn path(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::Intel => "kernel/x86/microcode/GenuineIntel.bin",
        Vendor::Amd => "kernel/x86/microcode/AuthenticAMD.bin",
    }
}

/// Returns whether a file begins like files of a manufacturer other than the CPU's.
fn is_of_other(file: &[u8], vendor: Vendor) -> bool {
    match vendor {
        Vendor::Intel => word(file, 0) == Some(AMD_MAGIC),
        Vendor::Amd => (word(file, 0), word(file, 20)) == (Some(1), Some(1)),
    }
}

/// The newest update in a file for a CPU, whatever revision the CPU has. Returns `None` if the file
/// has none for it.
///
/// # Errors
/// [`Damaged`] if the file is empty or cannot be read to its end.
pub fn newest<'a>(file: &'a [u8], cpu: &Identity) -> Result<Option<Update<'a>>, Damaged> {
    if file.is_empty() {
        return Err(Damaged(0));
    }
    let mut best = None;
    let mut at = 0;
    while at < file.len() {
        let piece = file.get(at..).unwrap_or_default();
        let mut keep = |update: Update<'a>| {
            if best.is_none_or(|best: Update| best.revision < update.revision) {
                best = Some(update);
            }
        };
        let bytes = match cpu.vendor {
            Vendor::Intel => intel(piece, cpu, &mut keep),
            Vendor::Amd => container(piece, cpu, &mut keep),
        };
        at += bytes.filter(|bytes| *bytes > 0).ok_or(Damaged(at))?;
    }
    Ok(best)
}

const INTEL_HEADER: usize = 48;
/// Sizes of an update whose header has zeros (before the Pentium 4).
const OLD_DATA: usize = 2000;
const OLD_TOTAL: usize = 2048;

/// Reads the update at the front, passes it to `keep` if it is for the CPU, and returns its length.
/// Returns `None` if it is damaged.
fn intel<'a>(file: &'a [u8], cpu: &Identity, keep: &mut impl FnMut(Update<'a>)) -> Option<usize> {
    let (header, loader) = (word(file, 0)?, word(file, 20)?);
    let (data, total) = match (word(file, 28)?, word(file, 32)?) {
        (0, _) => (OLD_DATA, OLD_TOTAL),
        (data, total) => (usize::try_from(data).ok()?, usize::try_from(total).ok()?),
    };
    let update = file.get(..total)?;
    let extended = update.get(INTEL_HEADER.checked_add(data)?..)?;
    let sum = words(update).fold(0_u32, u32::wrapping_add);
    if (header, loader, sum, total % 4) != (1, 1, 0, 0) {
        return None;
    }
    let is_meant =
        |signature, platforms: u32| signature == cpu.signature && platforms & cpu.platform != 0;
    // A table of further CPUs follows the data: count, checksum, three words; then three words for
    // each CPU.
    let rows = extended.get(20..).unwrap_or_default().chunks_exact(12);
    let count = usize::try_from(word(extended, 0).unwrap_or(0)).ok()?;
    let mut rows = rows.take(count).filter_map(|row| Some((word(row, 0)?, word(row, 4)?)));
    let others = rows.any(|(signature, platforms)| is_meant(signature, platforms));
    if others || is_meant(word(file, 12)?, word(file, 24)?) {
        keep(Update { revision: word(file, 4)?, data: update.get(INTEL_HEADER..)? });
    }
    Some(total)
}

const AMD_MAGIC: u32 = 0x0041_4d44;
const TABLE: u32 = 0;
const PATCH: u32 = 1;
const AMD_HEADER: usize = 64;

/// Reads the container at the front, passes its patches for the CPU to `keep`, and returns its
/// length. Returns `None` if it is damaged.
fn container<'a>(
    file: &'a [u8],
    cpu: &Identity,
    keep: &mut impl FnMut(Update<'a>),
) -> Option<usize> {
    if word(file, 0)? != AMD_MAGIC {
        return None;
    }
    let (table, mut at) = section(file, 4, TABLE)?;
    // A row has the CPU, two words on errata, and the number by which patches name CPUs; a row of
    // zeros ends the table.
    let mut rows = table
        .chunks_exact(16)
        .map_while(|row| word(row, 0).filter(|cpu| *cpu != 0).zip(half(row, 12)));
    let number = rows.find(|(signature, _)| *signature == cpu.signature).map(|(_, number)| number);
    while at < file.len() && word(file, at)? != AMD_MAGIC {
        let (patch, next) = section(file, at, PATCH)?;
        patch.get(..AMD_HEADER)?;
        if half(patch, 24) == number {
            keep(Update { revision: word(patch, 4)?, data: patch });
        }
        at = next;
    }
    Some(at)
}

/// The section of this kind at an offset, and the offset after it.
fn section(file: &[u8], at: usize, kind: u32) -> Option<(&[u8], usize)> {
    let bytes = usize::try_from(word(file, at.checked_add(4)?)?).ok()?;
    let start = at.checked_add(8)?;
    let end = start.checked_add(bytes)?;
    if word(file, at)? != kind {
        return None;
    }
    Some((file.get(start..end)?, end))
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    let (words, _) = bytes.as_chunks();
    words.iter().map(|word| u32::from_le_bytes(*word))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
