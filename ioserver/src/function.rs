//! A function that is driven: from its record to a disk.
//!
//! ```text
//! record -> capabilities -> registers -> reset, confirmed to the monitor
//!        -> chunk, bus mastering -> negotiation, queues
//!        -> vectors, or the timer -> first sector read -> Driving
//! ```
//!
//! A disk counts as driven once its first sector was read: only then interrupts, bus mastering and
//! addresses are known to work.

use crate::deaths::{Step, made};
use crate::dma::Chunk;
use crate::link::Link;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use block_service::{Driven, Tag};
use control::io::Medium;
use partition_runtime::devices::{self, Registers};
use partition_runtime::events::{self, Port};
use partition_runtime::hypercall::Errno;
use partition_runtime::time;
use partition_runtime::window::Window;
use pv_abi::uv::devices::{DeviceFunction, command};
use virtio::disk::{Disk, Setup};
use virtio::drive::{Drive, Outcome, Request, Unsubmitted};
use virtio::queue::{Memory, Segment};
use virtio::registers::{self, Fault, Range, Ranges};

/// Ids of block functions, transitional and modern (4.1.2.1).
const BLOCK: [u32; 2] = [0x1001_1af4, 0x1042_1af4];
/// Queues that are used of a disk.
const QUEUES: u16 = 2;
/// Polling interval of a PCI function without interrupt vectors, in nanoseconds.
const POLL: u64 = 1_000_000;
/// Maximum number of pages of a register range that are mapped.
const RANGE_PAGES: u32 = 64;
/// Nanoseconds in which a reset must be confirmed.
const RESET: u64 = 1_000_000_000;
/// Nanoseconds in which the first sector must be read.
const TRIAL_LIMIT: u64 = 30_000_000_000;
/// Bytes of the sector that is read first.
const SECTOR: u32 = 512;

/// The mapped register ranges of a virtio function.
#[derive(Debug)]
pub struct Mapped {
    ranges: [(Range, Registers); 3],
}

impl Mapped {
    /// The mapping of a range, and the offset of the range in its first page.
    fn of(&self, range: Range) -> Option<(usize, u32)> {
        let index = self.ranges.iter().position(|(one, _)| *one == range)?;
        Some((index, range.offset % 4096))
    }
}

impl registers::Registers for Mapped {
    fn read(&self, range: Range, offset: u32, bytes: u32) -> u32 {
        let there = self.of(range).filter(|_| range.holds(offset, bytes));
        there.map_or(u32::MAX, |(index, first)| self.ranges[index].1.read(first + offset, bytes))
    }

    fn write(&mut self, range: Range, offset: u32, bytes: u32, value: u32) {
        if let Some((index, first)) = self.of(range).filter(|_| range.holds(offset, bytes)) {
            self.ranges[index].1.write(first + offset, bytes, value);
        }
    }
}

/// A function that is driven.
pub struct Function<D: Drive = Disk<'static, Mapped>> {
    disk: Driven<D>,
    /// Its memory; the last page holds the first sector.
    pub chunk: Chunk,
    page: Memory<'static>,
    /// The port of each queue's vector; none if it is polled.
    pub ports: Vec<Port>,
    /// Whether its first sector was read.
    is_tried: bool,
    /// Whether it has interrupted, and is asked not to until the loop has nothing left to do.
    is_awake: bool,
    /// System time until which its first sector must be read.
    until: u64,
}

/// The piece that reads the first sector.
const TRIAL: Tag = Tag { endpoint: u32::MAX, entry: 0 };

/// The result of a look at a function.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing new.
    Nothing,
    /// It is a disk, whose first sector begins with this text.
    Driven(Medium, String),
    /// A piece of a client has ended.
    Ended(Tag, Outcome),
    /// It is broken, or its trial failed.
    Broken(String),
}

/// The memory and the pieces of a function that is no longer driven.
#[derive(Debug)]
pub struct Stopped {
    /// Its memory.
    pub chunk: Chunk,
    /// The pieces that it had.
    pub pieces: Vec<Tag>,
}

/// Why a function was not prepared.
#[derive(Debug)]
pub struct Unprepared {
    /// The reason, for people.
    pub reason: String,
    /// Whether it was reset nevertheless.
    pub is_reset: bool,
}

/// Why a function was not started.
#[derive(Debug)]
pub struct Unstarted {
    /// The reason, for people.
    pub reason: String,
    /// The chunk that it got.
    pub chunk: Chunk,
    /// Whether it cannot reach the chunk any more.
    pub is_reset: bool,
}

/// What resetting a function needs of the monitor.
pub trait Calls {
    /// Mapped registers.
    type Registers: registers::Registers;

    /// See [`devices::set_command`].
    ///
    /// # Errors
    /// The monitor's errno.
    fn set_command(&mut self, bits: u32) -> Result<(), Errno>;
    /// See [`devices::reset`].
    ///
    /// # Errors
    /// The monitor's errno.
    fn reset(&mut self) -> Result<bool, Errno>;
    /// See [`devices::confirm`].
    ///
    /// # Errors
    /// The monitor's errno.
    fn confirm(&mut self) -> Result<(), Errno>;
    /// Maps the function's registers.
    ///
    /// # Errors
    /// The registers cannot be mapped; the text says why.
    fn map(&mut self) -> Result<(Ranges, Self::Registers), String>;
    /// Returns the system time. While a reset is awaited, each call shows the watchdog that nothing
    /// hangs.
    fn now(&mut self) -> u64;
}

/// The monitor's calls about a function.
pub struct Own<'w> {
    /// The window in which the function's registers are mapped.
    pub window: &'w mut Window,
    /// The function's index in the device table.
    pub index: u32,
    /// The monitor's record of the function.
    pub record: &'w DeviceFunction,
    /// The channel, whose pings are answered meanwhile.
    pub link: &'w mut Link,
}

impl Calls for Own<'_> {
    type Registers = Mapped;

    fn set_command(&mut self, bits: u32) -> Result<(), Errno> {
        devices::set_command(self.index, bits)
    }

    fn reset(&mut self) -> Result<bool, Errno> {
        devices::reset(self.index)
    }

    fn confirm(&mut self) -> Result<(), Errno> {
        devices::confirm(self.index)
    }

    fn map(&mut self) -> Result<(Ranges, Mapped), String> {
        if !BLOCK.contains(&self.record.id) {
            return Err(format!("no driver for functions with the id {:#010x}", self.record.id));
        }
        map(self.window, self.index, self.record)
    }

    fn now(&mut self) -> u64 {
        self.link.answer_pings();
        time::now()
    }
}

/// A function that is reset, which the monitor knows. It cannot reach memory yet.
#[derive(Debug)]
pub struct Ready<R> {
    ranges: Ranges,
    registers: R,
}

/// Maps a function's registers, resets it, and confirms that to the monitor. Needs no memory of the
/// DMA region, so the memory that an owner left comes back even if the region is full. If the reset
/// by the registers fails, resets the function as a whole, if it can be.
///
/// # Errors
/// See [`Unprepared`].
pub fn prepare<C: Calls>(calls: &mut C) -> Result<Ready<C::Registers>, Unprepared> {
    reset(calls).map_err(|reason| {
        let is_reset = reset_whole(calls).is_ok();
        // One that is not ours any more needs no command.
        let _ = calls.set_command(0);
        Unprepared { reason, is_reset }
    })
}

fn reset<C: Calls>(calls: &mut C) -> Result<Ready<C::Registers>, String> {
    let mut on = calls.set_command(command::MEMORY);
    if on == Err(Errno::EBUSY) {
        // Its last owner has begun to reset it as a whole.
        on = reset_whole(calls).and_then(|()| calls.set_command(command::MEMORY));
    }
    on.map_err(not_on)?;
    let (ranges, mut registers) = calls.map()?;
    // Firmware may have left it queues in memory that is somebody's now.
    let end = calls.now().saturating_add(RESET);
    virtio::disk::reset(&mut registers, &ranges, &mut || calls.now() < end)
        .map_err(|fault| fault.to_string())?;
    // What its last owner had begun with it is over.
    calls
        .confirm()
        .map_err(|errno| format!("confirming its reset: the monitor refused: {errno}"))?;
    Ok(Ready { ranges, registers })
}

/// Resets a function as a whole, whatever its registers do.
fn reset_whole(calls: &mut impl Calls) -> Result<(), Errno> {
    let end = calls.now().saturating_add(RESET);
    while !calls.reset()? {
        if calls.now() >= end {
            return Err(Errno::EBUSY);
        }
    }
    Ok(())
}

fn not_on(errno: Errno) -> String {
    format!("turning it on: the monitor refused: {errno}")
}

/// Starts to drive a function.
///
/// # Errors
/// See [`Unstarted`].
pub fn start(
    (index, record): (u32, &DeviceFunction),
    ready: Ready<Mapped>,
    chunk: Chunk,
    link: &mut Link,
) -> Result<Function, Unstarted> {
    let failed = |reason, chunk, is_reset| Err(Unstarted { reason, chunk, is_reset });
    let Some((page, queues)) = chunk.memory.split(1024) else {
        return failed("the DMA region is too small".into(), chunk, true);
    };
    if let Err(errno) = devices::set_command(index, command::MEMORY | command::BUS_MASTER) {
        return failed(not_on(errno), chunk, true);
    }
    let ports = bind(index, record);
    let setup = Setup { memory: queues, queues: QUEUES, interrupts: !ports.is_empty() };
    let disk = Disk::new(ready.registers, ready.ranges, setup, &mut within_reset(link));
    let mut disk = match disk {
        Ok(disk) => Driven::new(disk),
        Err(fault) => {
            close(ports);
            let safe = !matches!(fault, Fault::Reset | Fault::Gone);
            return failed(fault.to_string(), chunk, safe);
        }
    };
    let segment = Segment { address: page.address, bytes: SECTOR };
    if disk.submit(Request::Read(0), &[segment], TRIAL).is_err() {
        let safe = disk.drive().reset(&mut within_reset(link)).is_ok();
        close(ports);
        return failed("it has no sectors".into(), chunk, safe);
    }
    disk.tell();
    let until = time::now().saturating_add(TRIAL_LIMIT);
    Ok(Function { disk, chunk, page, ports, is_tried: false, is_awake: false, until })
}

/// Returns `true` until the time for a reset has passed. Answers pings at each call.
pub fn within_reset(link: &mut Link) -> impl FnMut() -> bool {
    let end = time::now().saturating_add(RESET);
    move || {
        link.answer_pings();
        time::now() < end
    }
}

/// Maps the function's registers.
fn map(
    window: &mut Window,
    index: u32,
    record: &DeviceFunction,
) -> Result<(Ranges, Mapped), String> {
    let read = |offset| devices::read(index, offset).unwrap_or(u32::MAX);
    let mut ranges = registers::find(read, record.bars.map(|bar| bar.bytes))
        .map_err(|fault| fault.to_string())?;
    let mut map_range = |range: &mut Range| {
        let most = RANGE_PAGES * 4096 - range.offset % 4096;
        range.bytes = range.bytes.min(most);
        let pages = (range.offset % 4096 + range.bytes).div_ceil(4096);
        let pages = (range.offset / 4096, u16::try_from(pages).unwrap_or(1));
        let mapped = devices::map(window, index, range.bar, pages);
        mapped.map(|registers| (*range, registers)).map_err(|error| error.to_string())
    };
    let mapped = [
        map_range(&mut ranges.common)?,
        map_range(&mut ranges.notify)?,
        map_range(&mut ranges.device)?,
    ];
    Ok((ranges, Mapped { ranges: mapped }))
}

/// Binds a vector for each queue. Returns no port if the function has too few vectors, or one is
/// refused: it is polled then.
fn bind(index: u32, record: &DeviceFunction) -> Vec<Port> {
    let mut ports = Vec::new();
    let vectors = if record.msix_vectors >= QUEUES { QUEUES } else { 0 };
    for vector in 0..vectors {
        match devices::bind(index, vector) {
            Ok(port) => ports.push(port),
            Err(errno) => {
                partition_runtime::log!("function {index}, vector {vector}: {errno}; it is polled");
                close(ports);
                return Vec::new();
            }
        }
    }
    ports
}

/// Closes ports; the monitor masks their vectors.
fn close(ports: Vec<Port>) {
    for port in ports {
        // A port that is closed already needs nothing.
        let _ = events::close(port);
    }
}

impl<D: Drive> Function<D> {
    /// System time at which the function must be looked at even without an interrupt: soon if it
    /// has no vectors and something is in flight, else when the trial's time is over. Returns
    /// `None` if there is nothing to wait for.
    #[must_use]
    pub fn deadline(&self, now: u64) -> Option<u64> {
        if self.ports.is_empty() && self.disk.in_flight() > 0 {
            return Some(now.saturating_add(POLL));
        }
        (!self.is_tried).then_some(self.until + 1)
    }

    /// The medium for the report that the function is driven; `None` until its first sector was
    /// read.
    pub fn driving(&mut self) -> Option<Medium> {
        self.is_tried.then(|| self.medium())
    }

    /// Notes an event, if the port is that of one of the function's vectors. From then on the
    /// function interrupts no more, and is looked at in each round. Returns whether the port is the
    /// function's.
    pub fn event(&mut self, port: Port) -> bool {
        let is_own = self.ports.contains(&port);
        if is_own && !self.is_awake {
            self.is_awake = true;
            self.disk.silence();
        }
        is_own
    }

    /// Whether the function is to be looked at in this round. If not, a completion raises an event.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.is_awake || !self.is_tried || self.ports.is_empty()
    }

    /// Lets the function interrupt again, unless it has completed something meanwhile, for which no
    /// interrupt comes: then it is looked at in the next round. Returns whether it has completed
    /// something.
    pub fn listen(&mut self) -> bool {
        if self.is_awake {
            self.is_awake = self.disk.listen();
            if self.is_awake {
                self.disk.silence();
            }
        }
        self.is_awake
    }

    /// Looks at the next piece that is completed.
    pub fn look(&mut self) -> Progress {
        match self.disk.completed() {
            Ok(Some((TRIAL, Outcome::Done))) => {
                self.is_tried = true;
                Progress::Driven(self.medium(), self.text())
            }
            Ok(Some((TRIAL, _))) => Progress::Broken("its first sector cannot be read".into()),
            Ok(Some((tag, outcome))) => {
                made(Step::Completed);
                Progress::Ended(tag, outcome)
            }
            Ok(None) if !self.is_tried && time::now() > self.until => {
                Progress::Broken("its first sector was not read within 30 s".into())
            }
            Ok(None) => Progress::Nothing,
            Err(fault) => Progress::Broken(fault.to_string()),
        }
    }

    /// The medium as clients' endpoints see it; `None` until the first sector was read.
    #[must_use]
    pub fn disk(&self) -> Option<virtio::drive::Medium> {
        self.is_tried.then(|| self.disk.medium())
    }

    /// Gives the function a piece; [`Function::tell`] then tells it of all new pieces.
    ///
    /// # Errors
    /// See [`Unsubmitted`].
    pub fn submit(
        &mut self,
        request: Request,
        segments: &[Segment],
        tag: Tag,
    ) -> Result<(), Unsubmitted> {
        self.disk.submit(request, segments, tag)?;
        made(Step::Issued);
        Ok(())
    }

    /// Tells the function of its new pieces.
    pub fn tell(&mut self) {
        self.disk.tell();
    }

    fn medium(&mut self) -> Medium {
        let medium = self.disk.medium();
        let queues = u16::try_from(self.disk.drive().queues()).unwrap_or(0);
        Medium {
            sectors: medium.sectors,
            block_bytes: medium.block_bytes,
            read_only: medium.read_only,
            write_cache: medium.write_cache,
            discard_bytes: if medium.discard_sectors > 0 {
                medium.discard_part.saturating_mul(SECTOR)
            } else {
                0
            },
            queues,
            interrupts: !self.ports.is_empty(),
        }
    }

    /// The text at the start of the first sector, as far as it is printable.
    fn text(&self) -> String {
        let words = self.page.words.iter().take(8);
        let bytes =
            words.flat_map(|word| word.load(core::sync::atomic::Ordering::Acquire).to_le_bytes());
        bytes.take_while(|byte| (b' '..=b'~').contains(byte)).map(char::from).collect()
    }

    /// Stops driving. Returns what the function had, and whether its reset is confirmed: if it is
    /// not, the function may still reach its chunk and the pages of its pieces. `wait` is as for
    /// [`Disk::new`].
    pub fn stop(mut self, wait: &mut dyn FnMut() -> bool) -> (Stopped, Result<(), Fault>) {
        let reset = self.disk.drive().reset(wait);
        close(self.ports);
        let pieces = core::iter::from_fn(|| self.disk.forget()).filter(|tag| *tag != TRIAL);
        (Stopped { pieces: pieces.collect(), chunk: self.chunk }, reset)
    }
}

#[cfg(test)]
#[path = "function_tests.rs"]
pub mod tests;
