//! Spin locks for ring 0.
//!
//! Interrupts are off in ring 0, so a CPU that waits must itself keep serving other CPUs' requests
//! to flush translations: the CPU it waits for may be waiting for that flush. Every wait loop of
//! the monitor therefore goes through [`relax`].
//!
//! A lock is fair between its holder and a waiter: a CPU that releases the lock and comes back does
//! not overtake the waiter. A lock that long work holds is acquired by [`SpinLock::lock_or_again`],
//! whose waiters give up after microseconds.
#![expect(unsafe_code, reason = "locks, and virtual CPUs that pass from CPU to CPU as a whole")]

use core::{
    cell::{Cell, UnsafeCell},
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicU32, Ordering},
};

use refusal::Refused;

use crate::{cpu, time};

/// One turn of a wait loop: serves flush requests, then pauses.
pub fn relax() {
    cpu::serve_flush();
    core::hint::spin_loop();
}

/// Nanoseconds that a CPU waits for a lock that long work may hold, before it returns
/// [`Refused::Again`].
pub const PATIENCE: u64 = 20_000;

/// A mutual-exclusion lock: a ticket queue with room for the holder and one waiter. Other CPUs spin
/// until the queue has room.
pub struct SpinLock<T> {
    /// The ticket that the next CPU takes.
    next: AtomicU32,
    /// The ticket whose turn it is.
    serving: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a guard alone, and one CPU at a time has a guard.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// Makes a lock that no CPU holds.
    pub const fn new(value: T) -> Self {
        let (next, serving) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { next, serving, value: UnsafeCell::new(value) }
    }

    /// Acquires the lock. Use it only where every holder does short work.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        loop {
            if let Some(guard) = self.enqueue() {
                return guard;
            }
            relax();
        }
    }

    /// Acquires the lock if nobody holds it or waits for it.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let served = self.serving.load(Ordering::Acquire);
        let after = served.wrapping_add(1);
        let taken = self.next.compare_exchange(served, after, Ordering::Acquire, Ordering::Relaxed);
        taken.ok().map(|_| Guard { lock: self })
    }

    /// Acquires the lock unless that takes long.
    ///
    /// # Errors
    /// [`Refused::Again`] if other CPUs hold the lock or wait for it.
    #[inline]
    pub fn lock_or_again(&self) -> Result<Guard<'_, T>, Refused> {
        match self.enqueue() {
            Some(guard) => Ok(guard),
            None => self.wait_for_room(),
        }
    }

    #[cold]
    fn wait_for_room(&self) -> Result<Guard<'_, T>, Refused> {
        let end = time::now() + PATIENCE;
        while time::now() < end {
            relax();
            if let Some(guard) = self.enqueue() {
                return Ok(guard);
            }
        }
        Err(Refused::Again)
    }

    /// Acquires the lock if no CPU waits for it, after waiting for the holder. Returns `None` if
    /// another CPU waits already.
    #[inline]
    fn enqueue(&self) -> Option<Guard<'_, T>> {
        let ticket = self.next.load(Ordering::Relaxed);
        let served = self.serving.load(Ordering::Acquire);
        if ticket.wrapping_sub(served) > 1 {
            return None;
        }
        let after = ticket.wrapping_add(1);
        // Meanwhile `serving` can only advance towards this ticket.
        self.next.compare_exchange(ticket, after, Ordering::Acquire, Ordering::Relaxed).ok()?;
        if ticket != served {
            self.wait_for_turn(ticket);
        }
        Some(Guard { lock: self })
    }

    #[cold]
    fn wait_for_turn(&self, ticket: u32) {
        while self.serving.load(Ordering::Acquire) != ticket {
            relax();
        }
    }
}

/// A held lock, released when this is dropped.
#[must_use]
pub struct Guard<'a, T> {
    lock: &'a SpinLock<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this CPU holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this CPU holds the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // Only the holder writes `serving`.
        let served = self.lock.serving.load(Ordering::Relaxed);
        self.lock.serving.store(served.wrapping_add(1), Ordering::Release);
    }
}

/// State of a virtual CPU. Only the CPU that runs the virtual CPU accesses it, or, while none does,
/// the CPU that builds it or switches to it. The value is copied in and out whole.
#[derive(Default)]
#[repr(transparent)]
pub struct RunningCell<T: Copy>(Cell<T>);

// SAFETY: see the type's rule; the scheduler hands a virtual CPU from one CPU to another with
// release/acquire ordering on its run state.
unsafe impl<T: Copy + Send> Sync for RunningCell<T> {}

impl<T: Copy> RunningCell<T> {
    /// Makes a cell that holds `value`.
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
