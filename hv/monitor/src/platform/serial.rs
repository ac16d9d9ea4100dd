//! The two serial ports (16550, PC addresses).
//!
//! Sending is polled, a FIFO at a time, with a bound, so that a dead line cannot hang the
//! monitor. Receiving is by interrupt into a ring. The rule: no received byte is dropped for want
//! of room: a full ring stops reading, which holds up the sender.

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use heapless::Deque;
use spin::Mutex;

use super::ports::{input, output};

/// The console.
pub const CONSOLE: u32 = 0;

const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const SCRATCH: u16 = 7;

/// Line status: a byte was received.
const RECEIVED: u8 = 1;
/// Line status: the transmit FIFO is empty.
const TRANSMIT_EMPTY: u8 = 0x20;
/// Interrupt enable: received data.
const RECEIVE_INTERRUPT: u8 = 1;
/// Polls of the line status before bytes are given up.
const PATIENCE: u32 = 200_000;

struct Port {
    base: u16,
    present: AtomicBool,
    fifo: AtomicU8,
    sender: Mutex<()>,
    receiver: Mutex<Receiver>,
}

struct Receiver {
    ring: Deque<u8, 4096>,
    enabled: bool,
}

impl Port {
    const fn new(base: u16) -> Self {
        Self {
            base,
            present: AtomicBool::new(false),
            fifo: AtomicU8::new(1),
            sender: Mutex::new(()),
            receiver: Mutex::new(Receiver { ring: Deque::new(), enabled: false }),
        }
    }

    fn write(&self, register: u16, value: u8) {
        output(self.base + register, value);
    }

    fn read(&self, register: u16) -> u8 {
        input(self.base + register)
    }

    fn set_up(&self) {
        let answers = [0x5a, 0xa5].into_iter().all(|pattern| {
            self.write(SCRATCH, pattern);
            self.read(SCRATCH) == pattern
        });
        if !answers {
            return;
        }
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

    fn send(&self, bytes: &[u8]) {
        for batch in bytes.chunks(usize::from(self.fifo.load(Ordering::Relaxed)).max(1)) {
            let ready = (0..PATIENCE).any(|_| self.read(LINE_STATUS) & TRANSMIT_EMPTY != 0);
            if !ready {
                return;
            }
            for &byte in batch {
                self.write(DATA, byte);
            }
        }
    }

    /// Moves what the line has into the ring as far as there is room.
    fn fill(&self, receiver: &mut Receiver) {
        while !receiver.ring.is_full() && self.read(LINE_STATUS) & RECEIVED != 0 {
            let _ = receiver.ring.push_back(self.read(DATA));
        }
        let wanted = receiver.enabled && !receiver.ring.is_full();
        self.write(INTERRUPT_ENABLE, if wanted { RECEIVE_INTERRUPT } else { 0 });
    }
}

static PORTS: [Port; 2] = [Port::new(0x3f8), Port::new(0x2f8)];

fn present(port: u32) -> Option<&'static Port> {
    PORTS.get(port as usize).filter(|p| p.present.load(Ordering::Relaxed))
}

/// Finds and programs the ports: 115,200 baud, 8 bits, no interrupts yet.
pub fn set_up() {
    PORTS.iter().for_each(Port::set_up);
}

/// Sends bytes; waits for the line. Bytes that a stuck line does not take are lost.
pub fn write(port: u32, bytes: &[u8]) {
    if let Some(port) = present(port) {
        let _sending = port.sender.lock();
        port.send(bytes);
    }
}

/// Sends bytes even while another CPU sends; for the last words of a failing monitor.
pub fn write_anyway(port: u32, bytes: &[u8]) {
    if let Some(port) = present(port) {
        let _sending = (0..PATIENCE).find_map(|_| port.sender.try_lock());
        port.send(bytes);
    }
}

/// Turns received-data interrupts on.
pub fn enable_receive() {
    for port in (0..PORTS.len() as u32).filter_map(present) {
        let mut receiver = port.receiver.lock();
        receiver.enabled = true;
        port.fill(&mut receiver);
    }
}

/// Takes what a port received; the number of bytes put into `buffer`.
pub fn read(port: u32, buffer: &mut [u8]) -> usize {
    let Some(port) = present(port) else { return 0 };
    let mut receiver = port.receiver.lock();
    let was_full = receiver.ring.is_full();
    let mut taken = 0;
    for slot in buffer {
        let Some(byte) = receiver.ring.pop_front() else {
            break;
        };
        *slot = byte;
        taken += 1;
    }
    if was_full {
        port.fill(&mut receiver);
    }
    taken
}

/// Handles the interrupt of a port.
pub fn interrupt(port: u32) {
    if let Some(port) = present(port) {
        let mut receiver = port.receiver.lock();
        // Reading the identification acknowledges causes that carry no data.
        let _ = port.read(FIFO_CONTROL);
        port.fill(&mut receiver);
    }
}
