//! PCI functions: their owners, and the rules that keep them from memory and from interrupts of
//! others.
//!
//! The loader's records say where a function's registers are; the database says only whose it is.
//! The rules:
//! 1. A function changes its owner only while no page-table entry leads to its registers, and after
//!    the CPUs of the old owner have flushed.
//! 2. A function without an owner does not master the bus, and none of its vectors is bound. MSI-X
//!    entries that are not bound are masked; no partition can reach the table.
//! 3. [`DEVICES`] is held for every access to configuration space, and for every change of an
//!    owner, of a binding and of the mask of an MSI-X entry.
//! 4. A CPU takes at most [`MOST`] interrupts of devices in [`PERIOD`] nanoseconds. After that
//!    it masks the entries that interrupt it for such a period; the functions keep their interrupts
//!    pending meanwhile.
//! 5. While a function owes a partition a reset ([`Reach`]), that partition keeps its memory, its
//!    number, and the grants of others that it has mapped.
#![expect(unsafe_code, reason = "the loader's records and MSI-X tables are found by address")]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use handover::{Bytes, Function};
use pv_abi::uv::devices::{MAX_FUNCTIONS, command, flags};
use refusal::{Refused, errno, require};
use serial_line::ports::{input, output};
use spin::Once;

use crate::{
    cpu::{self, MAX_CPUS},
    lock::SpinLock,
    platform::{self, DEVICE_VECTORS},
    reach::Reach,
    time,
};

/// See rule 3.
pub static DEVICES: SpinLock<()> = SpinLock::new(());

/// See rule 4.
const MOST: u32 = 100;
/// See rule 4.
const PERIOD: u64 = 1_000_000;

const COMMAND: u16 = 4;
const BARS: u16 = 0x10;
/// In the command register: INTx is off.
const INTX_OFF: u32 = 1 << 10;
/// In the first word of the MSI-X capability: enabled, and all entries masked.
const MSIX_ON: u32 = 1 << 31;
const ALL_MASKED: u32 = 1 << 30;
/// From the Express capability to device control, and its bit that starts a reset.
const DEVICE_CONTROL: u16 = 8;
const START_RESET: u32 = 1 << 15;
/// How long a function may be silent after a reset (PCI Express 4.0, 6.6.2).
const RESET_TIME: u64 = 100_000_000;

static FUNCTIONS: Once<&'static [Function]> = Once::new();
static STATES: [State; MAX_FUNCTIONS] = [const {
    let [owner, entries, control] = [const { AtomicU32::new(0) }; 3];
    State { owner, reach: Reach::of_nobody(), entries, reset_end: AtomicU64::new(0), control }
}; MAX_FUNCTIONS];

struct State {
    owner: AtomicU32,
    /// See rule 5.
    reach: Reach,
    /// Page-table entries that lead to its registers.
    entries: AtomicU32,
    /// While it is being reset: when the reset ends at the latest.
    reset_end: AtomicU64,
    /// While it is being reset: device control as it was.
    control: AtomicU32,
}

/// A function. Hold [`DEVICES`] while it is used.
#[derive(Clone, Copy)]
pub struct Device {
    /// Its index in the loader's table.
    pub index: u8,
    /// The loader's record.
    pub function: &'static Function,
    state: &'static State,
}

/// Takes over the loader's records; called once.
pub fn set_functions(place: &Bytes) {
    let first = platform::phys_to_virt(place.start).cast::<Function>();
    let count = narrow::size(place.bytes) / size_of::<Function>();
    // SAFETY: the loader left that many records there, in frames of the monitor that nobody writes.
    FUNCTIONS.call_once(|| unsafe { core::slice::from_raw_parts(first, count) });
}

/// The function with this index in the loader's table.
pub fn find(index: u64) -> Option<Device> {
    let function = masked::get(FUNCTIONS.get()?, narrow::size(index))?;
    let index = u8::try_from(index).ok()?;
    Some(Device { index, function, state: &STATES[usize::from(index)] })
}

/// Counts an entry that leads to a function's registers.
pub fn count_entry(index: u8, there: bool) {
    let entries = &STATES[usize::from(index)].entries;
    if there {
        entries.fetch_add(1, Ordering::Relaxed);
    } else {
        entries.fetch_sub(1, Ordering::Release);
    }
}

/// Takes all functions from a partition that goes, and whose page tables are gone. Returns whether a
/// function owes it a reset.
pub fn take_from(partition: u32) -> bool {
    let _lock = DEVICES.lock();
    let all = || (0..MAX_FUNCTIONS as u64).map_while(find);
    all().filter(|device| device.owner() == partition).for_each(|device| {
        device.silence();
        device.state.owner.store(0, Ordering::Relaxed);
    });
    all().any(|device| device.state.reach.is(partition))
}

impl Device {
    /// The partition that owns the function; 0 if no partition does.
    pub fn owner(self) -> u32 {
        self.state.owner.load(Ordering::Relaxed)
    }

    /// Notes that its owner has reset it, if it owes another partition a reset.
    pub fn confirm(self) {
        self.state.reach.confirm(self.owner());
    }

    /// Makes `owner` the owner; 0 for nobody.
    ///
    /// # Errors
    /// `-EPERM` if no partition can get it, `-EBUSY` while its registers are mapped.
    pub fn give(self, owner: u32) -> Result<(), Refused> {
        let before = self.owner();
        if before == owner {
            return Ok(());
        }
        require(owner == 0 || self.function.record.refused == 0, errno::EPERM)?;
        require(self.state.entries.load(Ordering::Acquire) == 0, errno::EBUSY)?;
        self.silence();
        cpu::flush_partition(before);
        self.state.owner.store(owner, Ordering::Relaxed);
        Ok(())
    }

    /// Whether a reset goes on. The monitor leaves its configuration space alone then: an access
    /// could stall this CPU.
    pub fn is_in_reset(self) -> bool {
        self.state.reset_end.load(Ordering::Relaxed) != 0
    }

    /// Reads a word of configuration space.
    pub fn read(self, offset: u16) -> u32 {
        self.select(offset);
        input(0xcfc)
    }

    fn write(self, offset: u16, value: u32) {
        self.select(offset);
        output(0xcfcu16, value);
    }

    /// Names a word of configuration space (PCI 3.0, 3.2.2.3.2).
    fn select(self, offset: u16) {
        let address = 1 << 31 | self.function.record.address << 8;
        output(0xcf8u16, address | u32::from(offset));
    }

    /// Sets the bits of the command register that its owner may change.
    ///
    /// # Errors
    /// `-EBUSY` while it is being reset, or if it is to master the bus and owes a reset.
    pub fn set_command(self, bits: u32) -> Result<(), Refused> {
        const OWN: u32 = command::MEMORY | command::BUS_MASTER;
        require(!self.is_in_reset(), errno::EBUSY)?;
        if bits & command::BUS_MASTER != 0 {
            require(self.state.reach.begin(self.owner()), errno::EBUSY)?;
        }
        if bits & command::MEMORY == 0 {
            // Afterwards its MSI-X table does not answer.
            self.unbind_all();
        }
        self.change(COMMAND, |now| now & 0xffff & !OWN | bits & OWN);
        Ok(())
    }

    /// Keeps it from memory and from interrupts; bindings stay.
    pub fn quiesce(self) {
        // While it is being reset it can do neither, and its configuration space may not answer.
        if self.is_in_reset() {
            return;
        }
        // The status half of the word is written as zeros, which change nothing.
        self.change(COMMAND, |now| now & 0xffff & !command::BUS_MASTER);
        self.change(self.function.record.msix_capability, |now| now | ALL_MASKED);
    }

    /// Keeps the function from memory, and unbinds its vectors.
    fn silence(self) {
        self.unbind_all();
        self.quiesce();
    }

    /// Changes a word of configuration space; 0 stands for a capability that is not there.
    fn change(self, offset: u16, change: impl FnOnce(u32) -> u32) {
        if offset != 0 {
            self.write(offset, change(self.read(offset)));
        }
    }

    /// Resets it. Returns 1 while the reset goes on, then 0.
    ///
    /// # Errors
    /// `-ENODEV` if it cannot be reset by itself.
    pub fn reset(self) -> Result<u64, Refused> {
        let record = &self.function.record;
        require(record.flags & flags::FUNCTION_RESET != 0, errno::ENODEV)?;
        let (now, end) = (time::now(), self.state.reset_end.load(Ordering::Relaxed));
        let control = record.express_capability + DEVICE_CONTROL;
        if end == 0 {
            self.silence();
            let before = self.read(control) & 0xffff;
            self.state.control.store(before, Ordering::Relaxed);
            self.state.reset_end.store(now + RESET_TIME, Ordering::Relaxed);
            self.write(control, before | START_RESET);
        }
        if end == 0 || now < end {
            return Ok(1);
        }
        for ((index, bar), offset) in record.bars.iter().enumerate().zip((BARS..).step_by(4)) {
            if bar.bytes > 0 {
                self.write(offset, narrow::low_32(bar.address));
            }
            if record.flags & flags::BAR_64 << index != 0 {
                self.write(offset + 4, narrow::low_32(bar.address >> 32));
            }
        }
        self.write(control, self.state.control.load(Ordering::Relaxed));
        self.write(COMMAND, INTX_OFF);
        self.state.reach.end();
        self.state.reset_end.store(0, Ordering::Relaxed);
        Ok(0)
    }
}

/// The bindings of each CPU's vectors, packed.
static BINDINGS: [[AtomicU64; DEVICE_VECTORS.1]; MAX_CPUS] =
    [const { [const { AtomicU64::new(0) }; DEVICE_VECTORS.1] }; MAX_CPUS];
/// In a packed binding: the interrupt is bound.
const BOUND: u64 = 1 << 63;

/// A port of a function's owner that an MSI-X entry raises.
#[derive(Clone, Copy)]
struct Binding {
    port: u32,
    device: u8,
    entry: u16,
}

impl Binding {
    fn pack(self) -> u64 {
        let Self { port, device, entry } = self;
        BOUND | u64::from(entry) << 40 | u64::from(device) << 32 | u64::from(port)
    }

    fn at(place: &AtomicU64) -> Option<Self> {
        let word = place.load(Ordering::Acquire);
        let (device, entry) = (narrow::low_8(word >> 32), narrow::low_16(word >> 40));
        (word & BOUND != 0).then_some(Self { port: narrow::low_32(word), device, entry })
    }

    /// Masks or unmasks its entry.
    fn mask(self, masked: bool) {
        if let Some(device) = find(self.device.into()) {
            device.write_entry(self.entry, 3, masked.into());
        }
    }
}

/// All places for bindings, with the number of the interrupt of each.
fn places() -> impl Iterator<Item = (u32, &'static AtomicU64)> {
    (0..).zip(&BINDINGS).flat_map(|(cpu, places)| {
        let vectors = u32::from(DEVICE_VECTORS.0)..;
        vectors.zip(places).map(move |(vector, place)| (cpu << 8 | vector, place))
    })
}

impl Device {
    /// Writes word `word` of an entry of its MSI-X table.
    fn write_entry(self, entry: u16, word: usize, value: u32) {
        let table = self.function.msix_entries as *mut u32;
        if entry < self.function.record.msix_vectors && !table.is_null() {
            // SAFETY: the loader mapped the whole table, uncached, for the monitor alone.
            unsafe { table.add(usize::from(entry) * 4 + word).write_volatile(value) };
        }
    }

    /// Lets an entry of its MSI-X table interrupt this CPU and raise the port that `port_for` binds
    /// to the interrupt. Returns the port.
    ///
    /// # Errors
    /// `-ENOENT` past the last entry, `-EBUSY` if the entry has a port or the function is being
    /// reset, `-EINVAL` if it does not answer in its memory, `-ENOSPC` if no vector is free.
    pub fn bind(
        self,
        entry: u64,
        port_for: impl FnOnce(u32) -> Result<u32, Refused>,
    ) -> Result<u32, Refused> {
        require(entry < self.function.record.msix_vectors.into(), errno::ENOENT)?;
        require(!self.is_in_reset(), errno::EBUSY)?;
        require(self.read(COMMAND) & command::MEMORY != 0, errno::EINVAL)?;
        let entry = narrow::low_16(entry);
        let is_it = |b: Binding| (b.device, b.entry) == (self.index, entry);
        let mut bound = places().filter_map(|(_, place)| Binding::at(place));
        require(!bound.any(is_it), errno::EBUSY)?;
        let cpu = cpu::this().index;
        let free = |&(interrupt, place): &(u32, &AtomicU64)| {
            interrupt >> 8 == cpu && place.load(Ordering::Relaxed) == 0
        };
        let (interrupt, place) = places().find(free).ok_or(errno::ENOSPC)?;
        let address = platform::message_address(cpu).ok_or(errno::ENOSPC)?;
        let binding = Binding { port: port_for(interrupt)?, device: self.index, entry };
        place.store(binding.pack(), Ordering::Release);
        let capability = self.function.record.msix_capability;
        if self.read(capability) & MSIX_ON == 0 {
            // Firmware may have left entries unmasked.
            (0..self.function.record.msix_vectors).for_each(|e| self.write_entry(e, 3, 1));
        }
        let words = [address, 0, interrupt & 0xff, 0];
        (0..).zip(words).for_each(|(word, value)| self.write_entry(entry, word, value));
        self.change(capability, |now| now & !ALL_MASKED | MSIX_ON);
        Ok(binding.port)
    }

    fn unbind_all(self) {
        unbind_where(|_, binding| binding.device == self.index);
    }
}

/// Unbinds each interrupt that `selected` accepts, given its number and its binding.
fn unbind_where(selected: impl Fn(u32, &Binding) -> bool) {
    for (number, place) in places() {
        if let Some(binding) = Binding::at(place).filter(|binding| selected(number, binding)) {
            binding.mask(true);
            place.store(0, Ordering::Release);
        }
    }
}

/// Unbinds the interrupt of a port that its partition has closed.
pub fn unbind(partition: u32, port: u32, interrupt: u32) {
    let _lock = DEVICES.lock();
    let owner = |b: &Binding| find(b.device.into()).map_or(0, Device::owner);
    // If the function went to another partition, the place may have another binding by now.
    unbind_where(|number, b| number == interrupt && b.port == port && owner(b) == partition);
}

/// By CPU, for rule 4: the start of the present period, the interrupts in it, and the time at which
/// the CPU unmasks its entries.
static SINCE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static TAKEN: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static RELEASE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(u64::MAX) }; MAX_CPUS];

/// Notes an interrupt of a device. Returns the partition and the port to raise, and the number of
/// the interrupt.
pub fn interrupt(vector: u8) -> Option<(u32, u32, u32)> {
    let (cpu, now) = (cpu::this(), time::now());
    let index = cpu.index as usize;
    let place = usize::from(vector.checked_sub(DEVICE_VECTORS.0)?);
    let binding = Binding::at(BINDINGS[index].get(place)?)?;
    if now.saturating_sub(SINCE[index].load(Ordering::Relaxed)) >= PERIOD {
        SINCE[index].store(now, Ordering::Relaxed);
        TAKEN[index].store(0, Ordering::Relaxed);
    }
    if TAKEN[index].fetch_add(1, Ordering::Relaxed) >= MOST
        && let Some(_lock) = DEVICES.try_lock()
    {
        mask_here(true);
        RELEASE[index].store(now + PERIOD, Ordering::Relaxed);
        // The scheduler sets the timer.
        cpu.reschedule.store(true, Ordering::Release);
    }
    let owner = find(binding.device.into())?.owner();
    Some((owner, binding.port, cpu.index << 8 | u32::from(vector)))
}

/// Masks or unmasks all entries that interrupt this CPU.
fn mask_here(masked: bool) {
    let places = &BINDINGS[cpu::this().index as usize];
    places.iter().filter_map(Binding::at).for_each(|binding| binding.mask(masked));
}

/// The time at which this CPU unmasks its entries; `u64::MAX` if they are not masked.
pub fn next_release() -> u64 {
    RELEASE[cpu::this().index as usize].load(Ordering::Relaxed)
}

/// Unmasks the entries that rule 4 masked, if it is time.
pub fn release_held(now: u64) {
    if now < next_release() {
        return;
    }
    let lock = DEVICES.lock_or_again().ok();
    if lock.is_some() {
        mask_here(false);
    }
    let next = if lock.is_some() { u64::MAX } else { now + PERIOD };
    RELEASE[cpu::this().index as usize].store(next, Ordering::Relaxed);
}
