//! Spin locks for ring 0.
//!
//! Interrupts are off in ring 0, so a CPU that waits must itself keep serving other CPUs' requests
//! to flush translations: the CPU it waits for may be waiting for that flush. Every wait loop of
//! the monitor therefore goes through [`relax`].
//!
//! A lock is fair between its holder and a waiter: a CPU that releases the lock and comes back does
//! not overtake the waiter, unless the waiter does not come. A machine below may have taken its CPU
//! away, and then each acquisition would last until that CPU runs again. A lock that long work holds
//! is acquired by [`SpinLock::lock_or_again`], whose waiters give up after microseconds.
#![expect(unsafe_code, reason = "locks, and virtual CPUs that pass from CPU to CPU as a whole")]

use core::{
    cell::{Cell, UnsafeCell},
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicBool, Ordering},
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

/// Nanoseconds for which a free lock is kept for the CPU that waits for it.
const TURN: u64 = 10_000;

/// A mutual-exclusion lock with room for the holder and one waiter. Other CPUs spin until there is
/// room, or until the waiter has let its turn pass.
pub struct SpinLock<T> {
    is_held: AtomicBool,
    is_awaited: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a guard alone, and one CPU at a time has a guard.
unsafe impl<T: Send> Sync for SpinLock<T> {}

impl<T> SpinLock<T> {
    /// Makes a lock that no CPU holds.
    pub const fn new(value: T) -> Self {
        let (is_held, is_awaited) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { is_held, is_awaited, value: UnsafeCell::new(value) }
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
        if self.is_awaited.load(Ordering::Relaxed) { None } else { self.take() }
    }

    /// Acquires the lock unless that takes long.
    ///
    /// # Errors
    /// [`Refused::Again`] if other CPUs hold the lock or wait for it.
    #[inline]
    pub fn lock_or_again(&self) -> Result<Guard<'_, T>, Refused> {
        self.enqueue().map_or_else(|| self.wait_for_room(), Ok)
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

    /// Acquires the lock if nobody holds it, whoever waits for it.
    #[inline]
    fn take(&self) -> Option<Guard<'_, T>> {
        (!self.is_held.swap(true, Ordering::Acquire)).then(|| Guard { lock: self })
    }

    /// Acquires the lock, after waiting for the holder. Returns `None` if another CPU waits already
    /// and makes use of its turn.
    #[inline]
    fn enqueue(&self) -> Option<Guard<'_, T>> {
        self.try_lock().or_else(|| self.wait())
    }

    #[cold]
    fn wait(&self) -> Option<Guard<'_, T>> {
        if self.is_awaited.swap(true, Ordering::Relaxed) {
            return self.overtake();
        }
        loop {
            let taken = self.take().inspect(|_| self.is_awaited.store(false, Ordering::Relaxed));
            if taken.is_some() {
                return taken;
            }
            relax();
        }
    }

    /// Acquires the lock if it stays free while another CPU waits for it.
    fn overtake(&self) -> Option<Guard<'_, T>> {
        let end = time::now() + TURN;
        while self.is_awaited.load(Ordering::Relaxed) && !self.is_held.load(Ordering::Relaxed) {
            if time::now() >= end {
                return self.take();
            }
            relax();
        }
        None
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
        self.lock.is_held.store(false, Ordering::Release);
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
