//! Spin locks for ring 0.
//!
//! Interrupts are off in ring 0, so a CPU that waits must itself go on answering other
//! CPUs' requests to flush translations: the one it waits for may be waiting for that answer.
//! Every wait loop of the monitor therefore goes through [`relax`].
#![expect(unsafe_code, reason = "the lock hands out exclusive references to what it guards")]

use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::cpu;

/// One turn of a wait loop: answers flush requests, then pauses.
pub fn relax() {
    cpu::serve_flush();
    core::hint::spin_loop();
}

/// A mutual-exclusion lock.
pub struct SpinLock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, and one guard exists at a time.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// An open lock around `value`.
    pub const fn new(value: T) -> Self {
        Self { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            while self.held.load(Ordering::Relaxed) {
                relax();
            }
        }
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.held
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| Guard { lock: self })
    }
}

/// Proof of holding a [`SpinLock`].
pub struct Guard<'a, T> {
    lock: &'a SpinLock<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard's existence means the lock is held by this CPU.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`; `&mut self` makes the reference unique.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.lock.held.store(false, Ordering::Release);
    }
}

/// State of a virtual CPU that only the CPU which runs it touches, or, while nobody runs it,
/// the one that is building it or switching to it. Copied in and out whole.
pub struct RunningCell<T: Copy>(UnsafeCell<T>);

// SAFETY: see the type's rule; the scheduler hands a virtual CPU from one CPU to another with
// release/acquire ordering on its run state.
unsafe impl<T: Copy + Send> Sync for RunningCell<T> {}

impl<T: Copy> RunningCell<T> {
    /// A cell with `value`.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }
    /// The value.
    pub fn get(&self) -> T {
        // SAFETY: nobody else accesses the cell at this time (the type's rule).
        unsafe { *self.0.get() }
    }
    /// Replaces the value.
    pub fn set(&self, value: T) {
        // SAFETY: as for `get`.
        unsafe { *self.0.get() = value }
    }
}
