//! Test options: simulated refusals by the monitor, and a misbehaving ultravisor.
//!
//! `inject=refuse:N` refuses the N-th action that requests ask of the monitor, from the first start
//! on. `inject=sweep` refuses the first action that the command partition asks for, then the second
//! after that refusal, then the third, and so on: a client that repeats a piece of work until it
//! succeeds has seen a refusal at each action.
//!
//! `inject=take` tries, after each start of a partition, to take the memory of its instance, to
//! create a partition in the monitor's memory, and to declare free RAM I/O memory; the log shows
//! the monitor's answers. `inject=drop` tries, after each start of a guest, to destroy the guest
//! without naming its memory. With it, the ultravisor never names the memory of a partition that is
//! removed, as if the database did not assign any. `inject=fill` fills the heap once the first guest
//! was started, and gives the memory back when that guest is gone.
//!
//! Rule: an action is refused only as an option says, and an action that undoes another is never
//! refused.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use partition_runtime::hypercall::Errno;
use partition_runtime::{heap, lead, log};
use pv_abi::uv::database::{FIRST_GUEST, MONITOR, UNASSIGNED, instance_frames, kind, state};
use resource_db::{Database, Owner, WriteError};

/// The number of the action to refuse; 0 for none.
static AT: AtomicU32 = AtomicU32::new(0);
/// Actions since the last one refused.
static COUNT: AtomicU32 = AtomicU32::new(0);
/// Whether each refusal comes one action later than the refusal before.
static SWEEP: AtomicBool = AtomicBool::new(false);
/// Whether the command partition asks for the present actions.
static COMMAND_ASKS: AtomicBool = AtomicBool::new(false);

/// Whether the test tries to take memory after each start.
static TAKES: AtomicBool = AtomicBool::new(false);
/// Whether the test tries to destroy each guest after its start.
static DROPS: AtomicBool = AtomicBool::new(false);
/// Whether the test fills the heap after the start of a guest.
static FILLS: AtomicBool = AtomicBool::new(false);
/// A partition that was just started; 0 for none.
static STARTED: AtomicU32 = AtomicU32::new(0);

/// Sets the option. Returns whether its value is valid.
pub fn set(value: &str) -> bool {
    if value == "take" {
        TAKES.store(true, Ordering::Relaxed);
        return true;
    }
    if value == "drop" {
        DROPS.store(true, Ordering::Relaxed);
        return true;
    }
    if value == "fill" {
        FILLS.store(true, Ordering::Relaxed);
        return true;
    }
    if value == "sweep" {
        SWEEP.store(true, Ordering::Relaxed);
        AT.store(1, Ordering::Relaxed);
        return true;
    }
    match value.strip_prefix("refuse:").map(str::parse) {
        Some(Ok(at @ 1..)) => {
            AT.store(at, Ordering::Relaxed);
            true
        }
        _ => false,
    }
}

/// Notes the client that asks for the following actions.
pub fn asked_by(client: u32) {
    let command = client == pv_abi::uv::database::COMMAND;
    COMMAND_ASKS.store(command, Ordering::Relaxed);
}

/// Returns whether to refuse the next action.
pub fn refuses() -> bool {
    let at = AT.load(Ordering::Relaxed);
    let sweep = SWEEP.load(Ordering::Relaxed);
    if at == 0 || (sweep && !COMMAND_ASKS.load(Ordering::Relaxed)) {
        return false;
    }
    if COUNT.fetch_add(1, Ordering::Relaxed) + 1 != at {
        return false;
    }
    COUNT.store(0, Ordering::Relaxed);
    AT.store(if sweep { at + 1 } else { 0 }, Ordering::Relaxed);
    true
}

/// Notes that the monitor started a partition.
pub fn started(number: u32) {
    let of_guest = DROPS.load(Ordering::Relaxed) || FILLS.load(Ordering::Relaxed);
    if (of_guest && number >= FIRST_GUEST) || TAKES.load(Ordering::Relaxed) {
        STARTED.store(number, Ordering::Relaxed);
    }
}

/// Returns whether the memory of a partition that goes is not named to the monitor.
pub fn names_no_memory() -> bool {
    DROPS.load(Ordering::Relaxed)
}

/// Memory that the test takes from the heap while a guest exists.
#[derive(Debug, Default)]
pub struct Filling {
    blocks: Vec<Vec<u8>>,
    /// The guest; 0 for none.
    guest: u32,
}

impl Filling {
    /// Bytes of a block.
    const BLOCK: usize = 64 << 10;

    /// Takes memory until the heap has no room for `room` bytes, if a guest was started since the
    /// last call. Gives the memory back if the guest does not exist any more; then the test is over.
    pub fn follow(&mut self, room: usize, exists: impl Fn(u32) -> bool) {
        if !FILLS.load(Ordering::Relaxed) {
            return;
        }
        if self.guest != 0 && !exists(self.guest) {
            FILLS.store(false, Ordering::Relaxed);
            *self = Self::default();
            log!("injected: the heap has room again");
            return;
        }
        let number = STARTED.swap(0, Ordering::Relaxed);
        if number == 0 || self.guest != 0 {
            return;
        }
        self.guest = number;
        while heap::has_room(room) {
            self.blocks.push(Vec::with_capacity(Self::BLOCK));
        }
        log!("injected: the heap is full");
    }
}

/// Tries the things that an ultravisor must not be able to do, if a partition was started since the
/// last call.
pub fn misbehave(arena: &[AtomicU32]) {
    let number = STARTED.swap(0, Ordering::Relaxed);
    if number == 0 {
        return;
    }
    if DROPS.load(Ordering::Relaxed) {
        let answer = loop {
            match lead::destroy(number) {
                Ok(false) => {}
                answer => break answer,
            }
        };
        log!("injected: destruction without ranges: {answer:?}");
        return;
    }
    match take_instance(arena, number) {
        Ok((busy, all)) => log!("injected: {busy} of {all} frames of an instance are busy"),
        Err(error) => log!("injected: the arena: {error:?}"),
    }
    match take_monitor(arena) {
        Ok(answer) => log!("injected: the monitor as a partition: {answer:?}"),
        Err(error) => log!("injected: the arena: {error:?}"),
    }
    match call_ram_io(arena, number) {
        Ok(answer) => log!("injected: RAM as I/O memory: {answer:?}"),
        Err(error) => log!("injected: the arena: {error:?}"),
    }
}

/// Frees each frame of a partition's instance, activates that in the monitor, and undoes it.
/// Returns how many frames the monitor refused as busy, and how many there are.
fn take_instance(arena: &[AtomicU32], number: u32) -> Result<(u64, u64), WriteError> {
    let mut database = Database::open(arena)?;
    let descriptor = database.reader().descriptor(number)?;
    let all = instance_frames(descriptor.vcpus, descriptor.grant_frames);
    let mut busy = 0;
    for frame in descriptor.instance_first..descriptor.instance_first + all {
        database.set_owner(frame, 1, Owner { number: UNASSIGNED, io: false })?;
        let answer = lead::activate_pages(frame, 1);
        database.set_owner(frame, 1, Owner { number, io: false })?;
        busy += u64::from(answer == Err(Errno::EBUSY));
    }
    Ok((busy, all))
}

/// Describes the monitor as a guest whose instance lies in the monitor's memory. Returns the
/// monitor's answer.
fn take_monitor(arena: &[AtomicU32]) -> Result<Result<(), Errno>, WriteError> {
    let mut database = Database::open(arena)?;
    let before = database.reader().descriptor(MONITOR)?;
    let mut guest = before;
    let frames = instance_frames(1, 1);
    let first = first_run(&database, Owner::ram(MONITOR), frames)?;
    (guest.kind, guest.state) = (kind::GUEST, state::BUILDING);
    (guest.vcpus, guest.grant_frames) = (1, 1);
    (guest.instance_first, guest.instance_frames) = (first, frames);
    database.write_descriptor(&guest)?;
    let answer = lead::activate_partition(MONITOR);
    database.write_descriptor(&before)?;
    Ok(answer)
}

/// Gives a free frame to a partition as I/O memory, activates that in the monitor, and undoes it.
/// Returns the monitor's answer.
fn call_ram_io(arena: &[AtomicU32], number: u32) -> Result<Result<(), Errno>, WriteError> {
    let mut database = Database::open(arena)?;
    let frame = first_run(&database, Owner::FREE, 1)?;
    database.set_owner(frame, 1, Owner::io(number))?;
    let answer = lead::activate_pages(frame, 1);
    database.set_owner(frame, 1, Owner::FREE)?;
    Ok(answer)
}

/// The first frame of the first range of an owner that has `frames` frames.
fn first_run(database: &Database, owner: Owner, frames: u64) -> Result<u64, WriteError> {
    let mut first = 0;
    loop {
        let range = database.reader().range_at(first, u64::MAX - first)?;
        if range.owner == owner && range.frames >= frames {
            return Ok(range.first);
        }
        first += range.frames;
    }
}
