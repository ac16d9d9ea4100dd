//! The two serial ports (16550, PC addresses).
//!
//! Once partitions may run, output goes into a ring that transmit interrupts drain, a FIFO at a
//! time, so no CPU waits for the line. Before that, and when the monitor fails, output is polled,
//! with a bound, so that a dead line cannot hang the monitor. Input goes into a ring by interrupt.
//! The rule: no received byte is dropped for want of room: if the ring is full, the monitor stops
//! reading, which holds up the sender.

use heapless::Deque;
use serial_line::uart::{DATA, FIFO_CONTROL, INTERRUPT_ENABLE, LINE_STATUS, PATIENCE, Uart};
use spin::{Mutex, MutexGuard};

/// The console.
pub const CONSOLE: u32 = 0;
/// Maximum number of bytes that wait to be sent.
pub const RING: usize = 65536;

/// Line status: a byte was received.
const RECEIVED: u8 = 1;
/// Interrupt enable: received data.
const RECEIVE_INTERRUPT: u8 = 1;
/// Interrupt enable: the transmit FIFO is empty.
const TRANSMIT_INTERRUPT: u8 = 2;

struct Port {
    uart: Uart,
    /// A separate static: rings that are zero take no room in the image.
    line: &'static Mutex<Line>,
}

struct Line {
    received: Deque<u8, 4096>,
    sent: Deque<u8, RING>,
    /// Interrupts are on, and the rings are used.
    enabled: bool,
    /// Whether a writer found no room.
    held_up: bool,
    /// The value of the interrupt enable register.
    interrupts: u8,
}

impl Line {
    const fn new() -> Self {
        Self {
            received: Deque::new(),
            sent: Deque::new(),
            enabled: false,
            held_up: false,
            interrupts: 0,
        }
    }
}

static LINES: [Mutex<Line>; 2] = [const { Mutex::new(Line::new()) }; 2];

impl Port {
    const fn new(base: u16, line: &'static Mutex<Line>) -> Self {
        Self { uart: Uart::new(base), line }
    }

    /// Sends all bytes in the transmit ring by polling.
    fn flush(&self, line: &mut Line) {
        while let Some(byte) = line.sent.pop_front() {
            self.uart.send(&[byte]);
        }
    }

    /// Moves received bytes into the receive ring as far as there is room. The caller must notify
    /// the reader.
    fn fill(&self, line: &mut Line) {
        while !line.received.is_full() && self.uart.read(LINE_STATUS) & RECEIVED != 0 {
            let _ = line.received.push_back(self.uart.read(DATA));
        }
        self.drain(line);
    }

    /// Moves up to one FIFO of the transmit ring onto the line, and enables the interrupts that are
    /// needed.
    fn drain(&self, line: &mut Line) {
        if !line.sent.is_empty() && self.uart.may_send() {
            for byte in (0..self.uart.fifo()).map_while(|_| line.sent.pop_front()) {
                self.uart.write(DATA, byte);
            }
        }
        let receive = line.enabled && !line.received.is_full();
        let transmit = !line.sent.is_empty();
        let wanted = if receive { RECEIVE_INTERRUPT } else { 0 }
            | if transmit { TRANSMIT_INTERRUPT } else { 0 };
        if wanted != line.interrupts {
            line.interrupts = wanted;
            self.uart.write(INTERRUPT_ENABLE, wanted);
        }
    }
}

static PORTS: [Port; 2] = [Port::new(0x3f8, &LINES[0]), Port::new(0x2f8, &LINES[1])];

fn present(port: u32) -> Option<&'static Port> {
    PORTS.get(port as usize).filter(|p| p.uart.is_present())
}

/// Finds and programs the ports: 115,200 baud, 8 bits, no interrupts yet.
pub fn set_up() {
    PORTS.iter().for_each(|port| port.uart.set_up());
}

/// Queues bytes to be sent, as many as there is room for. Returns how many.
pub fn write(port: u32, bytes: &[u8]) -> usize {
    let Some(port) = present(port) else { return bytes.len() };
    let mut line = port.line.lock();
    if !line.enabled {
        port.uart.send(bytes);
        return bytes.len();
    }
    let taken = bytes.len().min(RING - line.sent.len());
    for &byte in bytes.iter().take(taken) {
        let _ = line.sent.push_back(byte);
    }
    line.held_up |= taken < bytes.len();
    port.drain(&mut line);
    taken
}

/// Bytes that [`write`] has room for.
pub fn room(port: u32) -> usize {
    present(port).map_or(RING, |port| RING - port.line.lock().sent.len())
}

/// Returns the line, or `None` if a CPU was stopped while it held the line.
fn take_anyway(port: &Port) -> Option<MutexGuard<'static, Line>> {
    (0..PATIENCE).find_map(|_| port.line.try_lock())
}

/// Sends the bytes in the transmit ring and then these, even while another CPU sends; for a failing
/// monitor.
pub fn write_anyway(port: u32, bytes: &[u8]) {
    if let Some(port) = present(port) {
        let mut line = take_anyway(port);
        line.iter_mut().for_each(|line| port.flush(line));
        port.uart.send(bytes);
    }
}

/// Turns interrupts on.
pub fn enable_interrupts() {
    for port in PORTS.iter().filter(|port| port.uart.is_present()) {
        let mut line = port.line.lock();
        line.enabled = true;
        port.fill(&mut line);
    }
}

/// Moves bytes that a port received into `buffer`. Returns how many.
pub fn read(port: u32, buffer: &mut [u8]) -> usize {
    let Some(port) = present(port) else { return 0 };
    let mut line = port.line.lock();
    let was_full = line.received.is_full();
    let mut taken = 0;
    for slot in buffer {
        let Some(byte) = line.received.pop_front() else {
            break;
        };
        *slot = byte;
        taken += 1;
    }
    if was_full {
        port.fill(&mut line);
    }
    taken
}

/// Handles the interrupt of a port; returns whether its reader or its writer has something to do.
pub fn interrupt(port: u32) -> bool {
    let Some(port) = present(port) else { return false };
    let mut line = port.line.lock();
    // Reading the identification acknowledges causes that carry no data.
    let _ = port.uart.read(FIFO_CONTROL);
    // Disables and enables the interrupts, so that a cause that is still due, or arises meanwhile,
    // makes a new edge.
    port.uart.write(INTERRUPT_ENABLE, 0);
    line.interrupts = 0;
    port.fill(&mut line);
    let goes_on = line.sent.is_empty() && core::mem::take(&mut line.held_up);
    goes_on || !line.received.is_empty()
}
