//! A function that is reset, on a simulated monitor.

use super::*;
use crate::dma::Region;
use core::sync::atomic::AtomicU32;
use std::cell::Cell;

/// Status registers of functions that are reset, and of those that never are.
const RESET_DONE: u32 = 0;
const RESET_NEVER: u32 = 1;

struct Status(u32);

impl registers::Registers for Status {
    fn read(&self, _: Range, _: u32, _: u32) -> u32 {
        self.0
    }
    fn write(&mut self, _: Range, _: u32, _: u32, _: u32) {}
}

/// A function that owes its last owner a reset.
struct Fake {
    status: u32,
    is_mapped: bool,
    command: u32,
    owes: bool,
    /// Looks at a reset of the whole function until it is over; `None` if there is none.
    whole: Option<u32>,
    /// Whether such a reset goes on.
    is_in_reset: bool,
    now: Cell<u64>,
}

impl Fake {
    fn new(status: u32) -> Self {
        let now = Cell::new(0);
        Self {
            status,
            is_mapped: true,
            command: 0,
            owes: true,
            whole: None,
            is_in_reset: false,
            now,
        }
    }
}

impl Calls for Fake {
    type Registers = Status;

    fn set_command(&mut self, bits: u32) -> Result<(), Errno> {
        if self.is_in_reset || self.owes && bits & command::BUS_MASTER != 0 {
            return Err(Errno::EBUSY);
        }
        self.command = bits;
        Ok(())
    }
    fn reset(&mut self) -> Result<bool, Errno> {
        let left = self.whole.as_mut().ok_or(Errno::ENODEV)?;
        *left = left.saturating_sub(1);
        self.owes &= *left > 0;
        self.is_in_reset = *left > 0;
        Ok(*left == 0)
    }
    fn confirm(&mut self) -> Result<(), Errno> {
        self.owes = false;
        Ok(())
    }
    fn map(&mut self) -> Result<(Ranges, Status), String> {
        let range = Range { bar: 0, offset: 0, bytes: 64 };
        let ranges = Ranges { common: range, notify: range, device: range, notify_step: 0 };
        self.is_mapped.then_some((ranges, Status(self.status))).ok_or("no range".into())
    }
    fn now(&mut self) -> u64 {
        self.now.replace(self.now.get() + RESET / 10)
    }
}

#[test]
fn a_function_owes_no_reset_before_it_gets_memory() {
    let mut fake = Fake::new(RESET_DONE);
    assert!(prepare(&mut fake).is_ok());
    assert_eq!((fake.owes, fake.command), (false, command::MEMORY));
}

#[test]
fn a_function_that_its_registers_do_not_reset_is_reset_as_a_whole() {
    for is_mapped in [true, false] {
        let mut fake = Fake { is_mapped, whole: Some(3), ..Fake::new(RESET_NEVER) };
        assert!(prepare(&mut fake).is_err_and(|unprepared| unprepared.is_reset));
        assert_eq!((fake.owes, fake.command), (false, 0));
    }
}

#[test]
fn a_reset_that_goes_on_is_awaited() {
    let is_in_reset = true;
    let mut fake = Fake { is_in_reset, whole: Some(4), ..Fake::new(RESET_DONE) };
    assert!(prepare(&mut fake).is_ok());
    assert_eq!((fake.owes, fake.command), (false, command::MEMORY));
    // It is awaited for a second at most.
    let mut fake = Fake { is_in_reset, whole: Some(u32::MAX), ..Fake::new(RESET_DONE) };
    assert!(prepare(&mut fake).is_err());
}

#[test]
fn a_function_that_cannot_be_reset_owes_its_reset() {
    for whole in [None, Some(u32::MAX)] {
        let mut fake = Fake { whole, ..Fake::new(RESET_NEVER) };
        assert!(prepare(&mut fake).is_err_and(|unprepared| !unprepared.is_reset));
        assert!(fake.owes);
    }
}

/// A disk of one queue that takes everything and ends nothing.
struct Silent {
    medium: virtio::drive::Medium,
    slots: u16,
    reset: Result<(), Fault>,
}

impl Drive for Silent {
    fn medium(&self) -> &virtio::drive::Medium {
        &self.medium
    }
    fn queues(&self) -> usize {
        1
    }
    fn submit(&mut self, _: usize, _: Request, _: &[Segment]) -> Result<u16, Unsubmitted> {
        self.slots += 1;
        Ok(self.slots - 1)
    }
    fn kick(&mut self, _: usize) {}
    fn completed(&mut self, _: usize) -> Result<Option<(u16, Outcome)>, Fault> {
        Ok(None)
    }
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }
    fn reset(&mut self, _: &mut dyn FnMut() -> bool) -> Result<(), Fault> {
        self.reset
    }
}

/// A region of 2 MiB.
pub fn region() -> Region {
    let words: Vec<AtomicU32> = (0..512 * 1024).map(|_| AtomicU32::new(0)).collect();
    Region::new(Memory { words: words.leak(), address: 0 })
}

#[test]
fn a_function_that_stops_tells_what_it_had_whatever_its_reset_does() {
    for reset in [Ok(()), Err(Fault::Reset)] {
        let chunk = region().take_chunk().expect("a chunk");
        let silent = Silent { medium: Default::default(), slots: 0, reset };
        let (disk, page) = (Driven::new(silent), chunk.memory);
        let mut function = Function {
            disk,
            chunk,
            page,
            ports: vec![],
            is_tried: false,
            is_awake: false,
            until: 0,
        };
        let tags = [TRIAL, Tag { endpoint: 1, entry: 2 }, Tag { endpoint: 1, entry: 3 }];
        for tag in tags {
            function.submit(Request::Flush, &[], tag).expect("room");
        }
        let (stopped, was_reset) = function.stop(&mut || false);
        assert_eq!((stopped.pieces, was_reset), (tags[1..].to_vec(), reset));
    }
}
