//! A virtio block device (5.2).

use crate::drive::{Drive, Medium, Outcome, Request, SECTOR_BYTES, Unsubmitted};
use crate::queue::{Header, Memory, Queue, SEGMENTS, Segment};
use crate::registers::{Fault, Ranges, Registers};
use alloc::vec::Vec;

/// Maximum number of descriptors of a queue.
const QUEUE_SIZE: u16 = 256;
/// Maximum number of looks at a configuration that changes all the time.
const LOOKS: usize = 16;
/// No MSI-X vector (4.1.5.1.2).
const NO_VECTOR: u16 = 0xffff;

/// Offsets in the common configuration (4.1.4.3).
mod common {
    pub const DEVICE_FEATURE_SELECT: u32 = 0x00;
    pub const DEVICE_FEATURE: u32 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u32 = 0x08;
    pub const DRIVER_FEATURE: u32 = 0x0c;
    pub const CONFIGURATION_VECTOR: u32 = 0x10;
    pub const STATUS: u32 = 0x14;
    pub const GENERATION: u32 = 0x15;
    pub const QUEUE_SELECT: u32 = 0x16;
    pub const QUEUE_SIZE: u32 = 0x18;
    pub const QUEUE_VECTOR: u32 = 0x1a;
    pub const QUEUE_ENABLE: u32 = 0x1c;
    pub const QUEUE_NOTIFY: u32 = 0x1e;
    pub const QUEUE_ADDRESSES: u32 = 0x20;
}

/// Bits of the status (2.1).
mod status {
    pub const ACKNOWLEDGE: u32 = 1;
    pub const DRIVER: u32 = 2;
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const NEEDS_RESET: u32 = 64;
}

/// Features: those of 5.2.3, and those of all devices (6).
mod feature {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const SEG_MAX: u64 = 1 << 2;
    pub const READ_ONLY: u64 = 1 << 5;
    pub const BLOCK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const QUEUES: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const INDIRECT: u64 = 1 << 28;
    pub const VERSION_1: u64 = 1 << 32;
    pub const ACCESS_PLATFORM: u64 = 1 << 33;

    /// All features that this driver uses.
    pub const ALL: u64 = SIZE_MAX
        | SEG_MAX
        | READ_ONLY
        | BLOCK_SIZE
        | FLUSH
        | QUEUES
        | DISCARD
        | INDIRECT
        | VERSION_1
        | ACCESS_PLATFORM;
}

/// Offsets in the device configuration (5.2.4).
mod configuration {
    pub const CAPACITY: u32 = 0;
    pub const SIZE_MAX: u32 = 8;
    pub const SEG_MAX: u32 = 12;
    pub const BLOCK_SIZE: u32 = 20;
    pub const QUEUES: u32 = 34;
    pub const DISCARD_SECTORS: u32 = 36;
    pub const DISCARD_ALIGNMENT: u32 = 44;
}

/// Types of requests, and status values (5.2.6).
mod request {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const DISCARD: u32 = 11;
    pub const OK: u8 = 0;
    pub const UNSUPPORTED: u8 = 2;
}

/// How a disk is to be set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'m> {
    /// Memory for its queues.
    pub memory: Memory<'m>,
    /// Maximum number of queues, at least 1.
    pub queues: u16,
    /// Whether queue n interrupts with MSI-X vector n.
    pub interrupts: bool,
}

/// Resets a device of any type: afterwards it has no queue. A driver does so before it lets a device
/// reach memory, since firmware may have left it queues. `wait` is as for [`Disk::new`].
///
/// # Errors
/// [`Fault::Reset`] or [`Fault::Gone`].
pub fn reset(
    registers: &mut impl Registers,
    ranges: &Ranges,
    wait: &mut dyn FnMut() -> bool,
) -> Result<(), Fault> {
    registers.write(ranges.common, common::STATUS, 1, 0);
    loop {
        match registers.read(ranges.common, common::STATUS, 1) {
            0 => return Ok(()),
            0xff => return Err(Fault::Gone),
            _ if wait() => {}
            _ => return Err(Fault::Reset),
        }
    }
}

/// A block device that is being driven.
#[derive(Debug)]
pub struct Disk<'m, R> {
    registers: R,
    ranges: Ranges,
    medium: Medium,
    queues: Vec<Queue<'m>>,
    /// Offsets in the notify range.
    notify: Vec<u32>,
}

impl<'m, R: Registers> Disk<'m, R> {
    /// Resets a device, and sets it up. While the device is not reset, calls `wait`, which returns
    /// `false` once the time is up.
    ///
    /// # Errors
    /// See [`Fault`]. If the reset was confirmed, the device was reset again.
    pub fn new(
        registers: R,
        ranges: Ranges,
        setup: Setup<'m>,
        wait: &mut dyn FnMut() -> bool,
    ) -> Result<Self, Fault> {
        let (medium, queues, notify) = (Medium::default(), Vec::new(), Vec::new());
        let mut disk = Self { registers, ranges, medium, queues, notify };
        disk.reset(wait)?;
        match disk.set_up(setup) {
            Ok(()) => Ok(disk),
            Err(fault) => {
                disk.reset(wait)?;
                Err(fault)
            }
        }
    }

    fn set_up(&mut self, setup: Setup<'m>) -> Result<(), Fault> {
        let mut now = status::ACKNOWLEDGE;
        self.write(common::STATUS, 1, now);
        now |= status::DRIVER;
        self.write(common::STATUS, 1, now);
        let features = self.offered() & feature::ALL;
        if features & feature::VERSION_1 == 0 {
            return Err(Fault::Features);
        }
        for half in [0, 1] {
            self.write(common::DRIVER_FEATURE_SELECT, 4, half);
            self.write(common::DRIVER_FEATURE, 4, (features >> (32 * half)) as u32);
        }
        now |= status::FEATURES_OK;
        self.write(common::STATUS, 1, now);
        if self.read(common::STATUS, 1) & status::FEATURES_OK == 0 {
            return Err(Fault::Features);
        }
        let count = self.read_medium(features)?.clamp(1, setup.queues.max(1));
        self.write(common::CONFIGURATION_VECTOR, 2, NO_VECTOR.into());
        let mut memory = setup.memory;
        for queue in 0..count {
            let indirect = features & feature::INDIRECT != 0;
            memory = self.add_queue(queue, memory, indirect, setup.interrupts)?;
        }
        now |= status::DRIVER_OK;
        self.write(common::STATUS, 1, now);
        Ok(())
    }

    fn offered(&mut self) -> u64 {
        let mut features = 0;
        for half in [0, 1] {
            self.write(common::DEVICE_FEATURE_SELECT, 4, half);
            features |= u64::from(self.read(common::DEVICE_FEATURE, 4)) << (32 * half);
        }
        features
    }

    /// Reads the disk's medium from its configuration. Returns the number of its queues.
    fn read_medium(&mut self, features: u64) -> Result<u16, Fault> {
        for _ in 0..LOOKS {
            let before = self.read(common::GENERATION, 1);
            let read = self.look_at_medium(features);
            if self.read(common::GENERATION, 1) == before {
                let (medium, queues) = read?;
                self.medium = medium;
                return Ok(queues);
            }
        }
        Err(Fault::Configuration("it changes all the time"))
    }

    fn look_at_medium(&self, features: u64) -> Result<(Medium, u16), Fault> {
        let has = |bit: u64| features & bit != 0;
        let field = |bit, offset, bytes, name| {
            let there = self.ranges.device.holds(offset, bytes);
            let read = || self.registers.read(self.ranges.device, offset, bytes);
            match (has(bit), there) {
                (false, _) => Ok(None),
                (true, true) => Ok(Some(read())),
                (true, false) => Err(Fault::Configuration(name)),
            }
        };
        let always = feature::VERSION_1;
        let low = field(always, configuration::CAPACITY, 4, "capacity")?.unwrap_or(0);
        let high = field(always, configuration::CAPACITY + 4, 4, "capacity")?.unwrap_or(0);
        let size = field(feature::SIZE_MAX, configuration::SIZE_MAX, 4, "size_max")?;
        let count = field(feature::SEG_MAX, configuration::SEG_MAX, 4, "seg_max")?;
        let block = field(feature::BLOCK_SIZE, configuration::BLOCK_SIZE, 4, "blk_size")?;
        let queues = field(feature::QUEUES, configuration::QUEUES, 2, "num_queues")?;
        let (discard, alignment) =
            (configuration::DISCARD_SECTORS, configuration::DISCARD_ALIGNMENT);
        let discard = field(feature::DISCARD, discard, 4, "max_discard_sectors")?;
        let part = field(feature::DISCARD, alignment, 4, "discard_sector_alignment")?;
        // Where the device says nothing, each request has one segment (5.2.6.1).
        let segments = usize::try_from(count.unwrap_or(1)).unwrap_or(1).clamp(1, SEGMENTS);
        let segment_bytes = size.unwrap_or(u32::MAX) / SECTOR_BYTES * SECTOR_BYTES;
        let block_bytes = block.unwrap_or(SECTOR_BYTES);
        if segment_bytes == 0 {
            return Err(Fault::Configuration("size_max"));
        }
        if !block_bytes.is_power_of_two() || block_bytes < SECTOR_BYTES {
            return Err(Fault::Configuration("blk_size"));
        }
        let medium = Medium {
            sectors: u64::from(low) | u64::from(high) << 32,
            block_bytes,
            read_only: has(feature::READ_ONLY),
            write_cache: has(feature::FLUSH),
            discard_sectors: discard.unwrap_or(0),
            discard_part: part.unwrap_or(1).max(1),
            segments,
            segment_bytes,
        };
        Ok((medium, queues.and_then(|queues| u16::try_from(queues).ok()).unwrap_or(1)))
    }

    /// Sets up a queue in the memory. Returns the rest of the memory.
    fn add_queue(
        &mut self,
        queue: u16,
        memory: Memory<'m>,
        indirect: bool,
        interrupts: bool,
    ) -> Result<Memory<'m>, Fault> {
        self.write(common::QUEUE_SELECT, 2, queue.into());
        let most = self.read(common::QUEUE_SIZE, 2).min(QUEUE_SIZE.into());
        let size = most.checked_ilog2().map_or(0, |log| 1_u16 << log);
        if size < 4 || self.read(common::QUEUE_ENABLE, 2) != 0 {
            return Err(Fault::Queue);
        }
        let (own, rest) = memory.split(Queue::words(size, indirect)).ok_or(Fault::NoMemory)?;
        let made = Queue::new(own, size, indirect)?;
        // A chain may not be longer than the queue (2.7.5.3.1).
        self.medium.segments = self.medium.segments.min(usize::from(size) - 2);
        let step = u64::from(self.ranges.notify_step);
        let place = u64::from(self.read(common::QUEUE_NOTIFY, 2)) * step;
        let place = u32::try_from(place).map_err(|_| Fault::Outside("notify offset"))?;
        if !self.ranges.notify.holds(place, 2) || !place.is_multiple_of(2) {
            return Err(Fault::Outside("notify offset"));
        }
        self.write(common::QUEUE_SIZE, 2, size.into());
        let vector = if interrupts { queue } else { NO_VECTOR };
        self.write(common::QUEUE_VECTOR, 2, vector.into());
        if self.read(common::QUEUE_VECTOR, 2) != u32::from(vector) {
            return Err(Fault::Vector(vector));
        }
        for (index, address) in (0..).zip(made.addresses()) {
            let offset = common::QUEUE_ADDRESSES + index * 8;
            self.write(offset, 4, address as u32);
            self.write(offset + 4, 4, (address >> 32) as u32);
        }
        self.write(common::QUEUE_ENABLE, 2, 1);
        self.queues.push(made);
        self.notify.push(place);
        Ok(rest)
    }

    fn read(&self, offset: u32, bytes: u32) -> u32 {
        self.registers.read(self.ranges.common, offset, bytes)
    }

    fn write(&mut self, offset: u32, bytes: u32, value: u32) {
        self.registers.write(self.ranges.common, offset, bytes, value);
    }

    /// The header of a request, if the disk has the operation and the sectors.
    fn header(&self, request: Request, segments: &[Segment]) -> Option<Header> {
        let medium = &self.medium;
        let fits = |segment: &Segment| {
            let bytes = segment.bytes;
            (1..=medium.segment_bytes).contains(&bytes) && bytes.is_multiple_of(SECTOR_BYTES)
        };
        let sectors = segments.iter().map(|one| u64::from(one.bytes / SECTOR_BYTES)).sum();
        let inside = |sector: u64, sectors: u64| {
            sectors > 0 && sector.checked_add(sectors).is_some_and(|end| end <= medium.sectors)
        };
        let data = segments.len() <= medium.segments && segments.iter().all(fits);
        let header = |kind, sector| Header { kind, sector, discard: None, device_writes: false };
        let (good, header) = match request {
            Request::Read(sector) => (
                data && inside(sector, sectors),
                Header { device_writes: true, ..header(request::IN, sector) },
            ),
            Request::Write(sector) => {
                (data && inside(sector, sectors) && !medium.read_only, header(request::OUT, sector))
            }
            Request::Flush => {
                (segments.is_empty() && medium.write_cache, header(request::FLUSH, 0))
            }
            Request::Discard(sector, count) => (
                segments.is_empty()
                    && count <= medium.discard_sectors
                    && inside(sector, count.into())
                    && !medium.read_only,
                Header { discard: Some((sector, count)), ..header(request::DISCARD, 0) },
            ),
        };
        good.then_some(header)
    }
}

impl<R: Registers> Drive for Disk<'_, R> {
    fn medium(&self) -> &Medium {
        &self.medium
    }

    fn queues(&self) -> usize {
        self.queues.len()
    }

    fn submit(
        &mut self,
        queue: usize,
        request: Request,
        segments: &[Segment],
    ) -> Result<u16, Unsubmitted> {
        let header = self.header(request, segments).ok_or(Unsubmitted::Refused)?;
        let queue = self.queues.get_mut(queue).ok_or(Unsubmitted::Refused)?;
        queue.submit(&header, segments).ok_or(Unsubmitted::Full)
    }

    fn kick(&mut self, queue: usize) {
        let there = self.queues.get(queue).zip(self.notify.get(queue).copied());
        let Some((_, place)) = there.filter(|(queue, _)| queue.wants_notification()) else {
            return;
        };
        let number = u32::try_from(queue).unwrap_or(0);
        self.registers.write(self.ranges.notify, place, 2, number);
    }

    fn completed(&mut self, queue: usize) -> Result<Option<(u16, Outcome)>, Fault> {
        let Some(queue) = self.queues.get_mut(queue) else { return Ok(None) };
        let outcome = |status| match status {
            request::OK => Outcome::Done,
            request::UNSUPPORTED => Outcome::Unsupported,
            _ => Outcome::Failed,
        };
        let completed = queue.completed()?;
        Ok(completed.map(|(slot, status)| (slot, outcome(status))))
    }

    fn silence(&mut self) {
        self.queues.iter_mut().for_each(Queue::silence);
    }

    fn listen(&mut self) -> bool {
        let mut has_completed = false;
        // Each queue is to interrupt, whatever another has completed.
        for queue in &mut self.queues {
            has_completed |= queue.listen();
        }
        has_completed
    }

    fn check(&self) -> Result<(), Fault> {
        match self.read(common::STATUS, 1) {
            0xff => Err(Fault::Gone),
            now if now & status::NEEDS_RESET != 0 => Err(Fault::NeedsReset),
            _ => Ok(()),
        }
    }

    fn reset(&mut self, wait: &mut dyn FnMut() -> bool) -> Result<(), Fault> {
        reset(&mut self.registers, &self.ranges, wait)?;
        self.queues.clear();
        self.notify.clear();
        Ok(())
    }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
