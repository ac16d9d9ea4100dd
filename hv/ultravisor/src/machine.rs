//! Reads the machine description that the monitor hands over.
//!
//! Rule: the lengths in the description are checked against its size, and its regions must cover
//! every frame once; the database is built only from it.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::uv::devices::DeviceFunction;
use pv_abi::uv::start::{Machine, MachineCpu, MachineRegion, region_use};
use zerocopy::FromBytes;

/// The parts of a machine description.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// Its header.
    pub machine: &'a Machine,
    /// Memory regions, in ascending order, without gaps.
    pub regions: &'a [MachineRegion],
    /// CPUs.
    pub cpus: &'a [MachineCpu],
    /// PCI functions.
    pub pci: &'a [DeviceFunction],
}

impl<'a> Description<'a> {
    /// Splits a description into its parts.
    ///
    /// # Errors
    /// The description is malformed; the text says how.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let short = |what: &str| format!("the machine description ends inside its {what}");
        let (machine, rest) = Machine::ref_from_prefix(bytes).map_err(|_| short("head"))?;
        let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let (regions, rest) =
            <[MachineRegion]>::ref_from_prefix_with_elems(rest, count(machine.regions))
                .map_err(|_| short("memory map"))?;
        let (cpus, rest) = <[MachineCpu]>::ref_from_prefix_with_elems(rest, count(machine.cpus))
            .map_err(|_| short("CPUs"))?;
        let (pci, _) = <[DeviceFunction]>::ref_from_prefix_with_elems(rest, count(machine.pci))
            .map_err(|_| short("PCI functions"))?;
        let description = Self { machine, regions, cpus, pci };
        description.check()?;
        Ok(description)
    }

    fn check(&self) -> Result<(), String> {
        let mut next = 0;
        for region in self.regions {
            if region.first != next || region.frames == 0 {
                return Err(format!("the memory map has a gap or an overlap at frame {next:#x}"));
            }
            next = region.first.saturating_add(region.frames);
        }
        if next != self.machine.frames {
            let frames = self.machine.frames;
            return Err(format!("the memory map ends at frame {next:#x}, not at {frames:#x}"));
        }
        if self.cpus.is_empty() || self.cpus.len() > 256 {
            return Err(format!("{} CPUs, 1 to 256 are supported", self.cpus.len()));
        }
        Ok(())
    }

    /// The first region of a partition with this use.
    #[must_use]
    pub fn region(&self, owner: u32, usage: u32) -> Option<&'a MachineRegion> {
        self.regions.iter().find(|region| region.owner == owner && region.usage == usage)
    }

    /// The last region of a partition with this use.
    #[must_use]
    pub fn last_region(&self, owner: u32, usage: u32) -> Option<&'a MachineRegion> {
        self.regions.iter().rfind(|region| region.owner == owner && region.usage == usage)
    }

    /// Frames of RAM for a partition's own use.
    #[must_use]
    pub fn memory_frames(&self, owner: u32) -> u64 {
        let own = |r: &&MachineRegion| {
            r.owner == owner && !matches!(r.usage, region_use::IO | region_use::INSTANCE)
        };
        self.regions.iter().filter(own).map(|region| region.frames).sum()
    }

    /// Number of frames of each firmware type.
    #[must_use]
    pub fn firmware(&self) -> Vec<(u32, u64)> {
        let mut types = BTreeMap::new();
        for region in self.regions {
            *types.entry(region.firmware_type).or_default() += region.frames;
        }
        types.into_iter().collect()
    }

    /// The monitor's command line.
    #[must_use]
    pub fn command_line(&self) -> String {
        String::from_utf8_lossy(&self.machine.command_line).trim_end_matches('\0').to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_abi::uv::database::BOOT;
    use zerocopy::{FromZeros, IntoBytes};

    fn region(first: u64, frames: u64, owner: u32, usage: u32) -> MachineRegion {
        MachineRegion { first, frames, owner, usage, firmware_type: 1, reserved: 0 }
    }

    fn bytes(regions: &[MachineRegion], frames: u64, cpus: u32) -> Vec<u64> {
        let mut machine = Machine::new_zeroed();
        (machine.regions, machine.frames, machine.cpus) = (regions.len() as u32, frames, cpus);
        let mut bytes = machine.as_bytes().to_vec();
        regions.iter().for_each(|region| bytes.extend_from_slice(region.as_bytes()));
        bytes.resize(bytes.len() + cpus as usize * size_of::<MachineCpu>(), 0);
        // Aligned, as pages are.
        bytes.chunks(8).map(|chunk| u64::from_ne_bytes(chunk.try_into().unwrap())).collect()
    }

    fn refusal(words: &[u64]) -> String {
        Description::parse(words.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_partition_has_its_own_memory_without_its_instance() {
        let regions = [
            region(0, 10, 0, region_use::RAM),
            region(10, 20, BOOT, region_use::RAM),
            region(30, 5, BOOT, region_use::INSTANCE),
            region(35, 7, BOOT, region_use::MODULE),
        ];
        let words = bytes(&regions, 42, 1);
        let description = Description::parse(words.as_bytes()).unwrap();
        assert_eq!(description.memory_frames(BOOT), 27);
        assert_eq!(description.region(BOOT, region_use::INSTANCE).unwrap().first, 30);
        assert_eq!(description.firmware(), [(1, 42)]);
    }

    #[test]
    fn a_map_that_does_not_cover_every_frame_once_is_refused() {
        let whole = [region(0, 10, 0, 0), region(10, 5, 0, 0)];
        assert!(Description::parse(bytes(&whole, 15, 1).as_bytes()).is_ok());
        assert!(refusal(&bytes(&whole, 16, 1)).contains("ends at frame 0xf"));
        assert!(refusal(&bytes(&[region(1, 14, 0, 0)], 15, 1)).contains("frame 0x0"));
        let overlap = [region(0, 10, 0, 0), region(9, 6, 0, 0)];
        assert!(refusal(&bytes(&overlap, 15, 1)).contains("frame 0xa"));
        assert!(refusal(&bytes(&whole, 15, 0)).contains("0 CPUs"));
    }

    #[test]
    fn a_description_that_is_cut_is_refused_wherever_it_is_cut() {
        let words = bytes(&[region(0, 10, 0, 0)], 10, 2);
        for length in 0..words.len() {
            assert!(refusal(&words[..length]).contains("ends inside"));
        }
    }
}
