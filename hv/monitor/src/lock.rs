//! Spin locks for ring 0.
//!
//! Interrupts are off in ring 0, so a CPU that waits must itself go on answering other
//! CPUs' requests to flush translations: the one it waits for may be waiting for that answer.
//! Every wait loop of the monitor therefore goes through [`relax`].
#![expect(unsafe_code, reason = "virtual CPUs pass from one CPU to another as a whole")]

use core::{cell::Cell, ops::Deref};

use spin::{mutex::SpinMutex, relax::RelaxStrategy};

use crate::cpu;

/// One turn of a wait loop: answers flush requests, then pauses.
pub fn relax() {
    cpu::serve_flush();
    core::hint::spin_loop();
}

/// Waits by [`relax`].
pub struct Serving;

impl RelaxStrategy for Serving {
    fn relax() {
        relax();
    }
}

/// A mutual-exclusion lock.
pub type SpinLock<T> = SpinMutex<T, Serving>;

/// State of a virtual CPU that only the CPU which runs it touches, or, while nobody runs it,
/// the one that is building it or switching to it. Copied in and out whole.
#[derive(Default)]
#[repr(transparent)]
pub struct RunningCell<T: Copy>(Cell<T>);

// SAFETY: see the type's rule; the scheduler hands a virtual CPU from one CPU to another with
// release/acquire ordering on its run state.
unsafe impl<T: Copy + Send> Sync for RunningCell<T> {}

impl<T: Copy> RunningCell<T> {
    /// A cell with `value`.
    pub const fn new(value: T) -> Self {
        Self(Cell::new(value))
    }
}

impl<T: Copy> Deref for RunningCell<T> {
    type Target = Cell<T>;
    fn deref(&self) -> &Cell<T> {
        &self.0
    }
}
