//! A polled 16550 at a PC's address.
//!
//! The rule: every poll has a bound, so that a dead line cannot hang ring 0.

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::ports::{input, output};

/// Data.
pub const DATA: u16 = 0;
/// Interrupt enable.
pub const INTERRUPT_ENABLE: u16 = 1;
/// FIFO control; when read, interrupt identification.
pub const FIFO_CONTROL: u16 = 2;
/// Line status.
pub const LINE_STATUS: u16 = 5;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const SCRATCH: u16 = 7;

/// Line status: the transmit FIFO is empty.
const TRANSMIT_EMPTY: u8 = 0x20;
/// Line status: the FIFO and the shift register behind it are empty.
const TRANSMIT_IDLE: u8 = 0x40;
/// Polls of the line status before bytes are dropped.
pub const PATIENCE: u32 = 200_000;

/// A serial port.
pub struct Uart {
    base: u16,
    present: AtomicBool,
    fifo: AtomicU8,
}

impl Uart {
    /// The port at an address, which is not probed yet.
    #[must_use]
    pub const fn new(base: u16) -> Self {
        Self { base, present: AtomicBool::new(false), fifo: AtomicU8::new(1) }
    }

    /// Writes a register.
    pub fn write(&self, register: u16, value: u8) {
        output(self.base + register, value);
    }

    /// Reads a register.
    #[must_use]
    pub fn read(&self, register: u16) -> u8 {
        input(self.base + register)
    }

    /// Probes the port and programs it: 115,200 baud, 8 bits, no interrupts. Waits until the bytes
    /// that the loader sent before are transmitted.
    pub fn set_up(&self) {
        let answers = [0x5a, 0xa5].into_iter().all(|pattern| {
            self.write(SCRATCH, pattern);
            self.read(SCRATCH) == pattern
        });
        if !answers {
            return;
        }
        let _ = (0..PATIENCE).any(|_| self.read(LINE_STATUS) & TRANSMIT_IDLE != 0);
        self.write(INTERRUPT_ENABLE, 0);
        self.write(LINE_CONTROL, 0x80);
        self.write(DATA, 1); // 115,200 baud
        self.write(INTERRUPT_ENABLE, 0);
        self.write(LINE_CONTROL, 3); // 8 data bits, no parity, 1 stop bit
        self.write(FIFO_CONTROL, 0x87); // on, cleared, interrupt at 8 bytes
        self.write(MODEM_CONTROL, 0x0b); // DTR, RTS, interrupt line on
        let fifo = if self.read(FIFO_CONTROL) & 0xc0 == 0xc0 { 16 } else { 1 };
        self.fifo.store(fifo, Ordering::Relaxed);
        self.present.store(true, Ordering::Relaxed);
    }

    /// Returns whether [`set_up`](Self::set_up) found it.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.present.load(Ordering::Relaxed)
    }

    /// Returns whether the transmit FIFO is empty.
    #[must_use]
    pub fn may_send(&self) -> bool {
        self.read(LINE_STATUS) & TRANSMIT_EMPTY != 0
    }

    /// Bytes that the transmit FIFO holds.
    #[must_use]
    pub fn fifo(&self) -> usize {
        usize::from(self.fifo.load(Ordering::Relaxed)).max(1)
    }

    /// Sends bytes by polling.
    pub fn send(&self, bytes: &[u8]) {
        for batch in bytes.chunks(self.fifo()) {
            if !(0..PATIENCE).any(|_| self.may_send()) {
                return;
            }
            for &byte in batch {
                self.write(DATA, byte);
            }
        }
    }
}
