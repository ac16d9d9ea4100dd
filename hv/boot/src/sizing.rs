//! Chooses the size of the command partition, by its options or by the machine's resources.

use crate::failure::Failure;
use crate::options::Options;
use control::command::ResourcesAnswer;
use pv_abi::uv::database::{UNASSIGNED, instance_frames};

/// Frames in a MiB.
const MIB: u64 = 256;
/// Memory is assigned in steps of 4 MiB, the page map's middle tier.
const STEP: u64 = 4 * MIB;
/// Minimum and maximum memory without an option.
const DEFAULT_MEMORY: (u64, u64) = (256 * MIB, 2048 * MIB);
/// Maximum number of virtual CPUs without an option.
const DEFAULT_VCPUS: u32 = 8;

/// Grant frames of the command partition, with 512 grants each.
pub const GRANT_FRAMES: u32 = 32;

/// Sizes of the command partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Frames of memory.
    pub frames: u64,
    /// Virtual CPUs.
    pub vcpus: u32,
}

impl Sizes {
    /// Chooses the sizes. Without options, it takes half of the free memory, between 256 MiB and 2
    /// GiB, and as many virtual CPUs as there are CPUs online, at most 8.
    ///
    /// # Errors
    /// [`Failure::Memory`] if that much memory is not free, or is less than the `needed` frames.
    pub fn choose(
        options: Options,
        resources: &ResourcesAnswer,
        needed: u64,
    ) -> Result<Self, Failure> {
        let online = resources.cpus.iter().filter(|cpu| cpu.online).count();
        let online = u32::try_from(online).unwrap_or(1).clamp(1, DEFAULT_VCPUS);
        let vcpus = options.command_vcpus.unwrap_or(online);
        let rows = resources.memory.iter().filter(|row| row.owner == UNASSIGNED && !row.io);
        let free = rows.fold(0_u64, |sum, row| sum.saturating_add(row.frames));
        let free = free.saturating_sub(instance_frames(vcpus, GRANT_FRAMES));
        let frames = match options.command_memory {
            Some(bytes) => bytes.div_ceil(4096),
            None => (free / 2).clamp(DEFAULT_MEMORY.0, DEFAULT_MEMORY.1),
        };
        let frames = frames.max(1).div_ceil(STEP).saturating_mul(STEP);
        let wanted = frames.max(needed);
        if wanted > frames || wanted > free {
            let there = free.min(if wanted > frames { frames } else { free });
            return Err(Failure::Memory(wanted.div_ceil(MIB), there / MIB));
        }
        Ok(Self { frames, vcpus })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::command::{CpuRow, MemoryRow};

    fn machine(free_mib: u64, cpus: u32) -> ResourcesAnswer {
        let row = |owner, io, frames| MemoryRow { owner, io, tiers: [0; 3], frames };
        let cpu = |index| CpuRow { index, apic_id: index, online: true, busy: 0, idle: 0 };
        ResourcesAnswer {
            frames: 1 << 24,
            memory: vec![row(0, false, free_mib * MIB), row(0, true, 1 << 20), row(1, false, 9999)],
            firmware: Vec::new(),
            cpus: (0..cpus).map(cpu).collect(),
            arena: (0, 0),
            channels: 0,
            heap: Default::default(),
            unscrubbed: 0,
            turns: Default::default(),
        }
    }

    fn choose(options: Options, free_mib: u64, cpus: u32) -> Result<(u64, u32), String> {
        Sizes::choose(options, &machine(free_mib, cpus), 100 * MIB)
            .map(|sizes| (sizes.frames / MIB, sizes.vcpus))
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn half_of_what_is_free_within_bounds() {
        let none = Options::default();
        assert_eq!(choose(none, 900, 1), Ok((452, 1)));
        assert_eq!(choose(none, 300, 4), Ok((256, 4)));
        assert_eq!(choose(none, 60_000, 64), Ok((2048, 8)));
    }

    #[test]
    fn options_win() {
        let options = Options {
            command_memory: Some(700 << 20),
            command_vcpus: Some(20),
            ..Options::default()
        };
        assert_eq!(choose(options, 900, 1), Ok((700, 20)));
    }

    #[test]
    fn too_little_memory_is_said_with_numbers() {
        let error = choose(Options::default(), 200, 1).unwrap_err();
        assert!(error.starts_with("too little memory: 256 MiB wanted, 199 MiB free;"), "{error}");
        let options = Options { command_memory: Some(64 << 20), ..Options::default() };
        let error = choose(options, 900, 1).unwrap_err();
        assert!(error.starts_with("too little memory: 100 MiB wanted, 64 MiB"), "{error}");
    }
}
