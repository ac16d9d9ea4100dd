//! Floods of requests that a guest can make without end; each kind has a step that is repeated.
//!
//! `flood KIND…` repeats for ever, with a step of each kind in turn. A flood that waits for nobody
//! takes all the CPU time that it gets, as `spin` does. Beside an innocent guest, each then has at
//! most half of a CPU, so the test looks for work that the flood causes elsewhere.
#![expect(unsafe_code, reason = "a ring in shared memory, and calls over lists")]

mod tables;

use crate::{calls, console, memory, println};
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use partition_runtime::hypercall::call;
use partition_runtime::time;
use pv_abi::xen::events::{self, BindIpi, EvtchnReset, PortArgument};
use pv_abi::xen::sched::{self, Poll};
use pv_abi::xen::store::{RING_BYTES, RM, StoreRing, TRANSACTION_START, WATCH, WRITE};
use pv_abi::xen::version::VERSION;
use pv_abi::xen::{domid, hypercall as number};
use tables::Tables;
use zerocopy::FromZeros;

/// Names of the kinds, for a message.
pub const NAMES: &str = "compute, store, watch, transaction, events, ports, reset, console, log, \
    timers, calls, tables";

/// Events that one step sends to each port.
const EVENTS: usize = 64;
/// Calls in one multicall.
const CALLS: usize = 512;

/// A kind of flood, and the state of its next step.
enum Flood {
    /// No request; this is the baseline for the others, since it takes CPU time as they do.
    Compute,
    /// Requests to the store: the guest makes the first ones once, and repeats the rest for ever.
    /// The two numbers are indices of the first repeated request, and of the next request.
    Store(Vec<Vec<u8>>, usize, usize),
    /// Events on the ports of the console and the store, with nothing in their rings.
    Events,
    /// Open all ports, use them, and close them after this many steps.
    Ports(u64),
    /// Open all ports, and close all by one call, the ports of the console and the store among
    /// them.
    Reset,
    /// Write lines to the console, even if it has no room.
    Console,
    /// Write lines to the monitor's log.
    Log,
    /// Timers that are due, that come at once, or that never come, and polls with such timeouts.
    Timers,
    /// Multicalls of many calls that do next to nothing.
    Calls(Vec<[u64; 8]>),
    /// Long lists over page tables.
    Tables(Tables),
}

/// A request to the store.
fn request(kind: u32, transaction: u32, payload: &[&[u8]]) -> Vec<u8> {
    let length: usize = payload.iter().map(|part| part.len()).sum();
    let words = [kind, 1, transaction, length as u32];
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    payload.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

impl Flood {
    fn of(name: &str) -> Option<Self> {
        let value = [b'x'; 2000];
        Some(match name {
            "store" => Self::Store([request(WRITE, 0, &[b"data/x\0", &value])].into(), 0, 0),
            // There are many watches, and each change concerns all of them.
            "watch" => {
                let mut all: Vec<_> = (0..100_u8)
                    .map(|n| {
                        request(WATCH, 0, &[b"data\0", &[b'0' + n / 10, b'0' + n % 10], b"\0"])
                    })
                    .collect();
                all.push(request(WRITE, 0, &[b"data/x/y\0z"]));
                all.push(request(RM, 0, &[b"data/x\0"]));
                Self::Store(all, 100, 0)
            }
            // The first transaction of a client has number 1.
            "transaction" => {
                let begin = request(TRANSACTION_START, 0, &[b"\0"]);
                let names = [b"data/a\0", b"data/b\0", b"data/c\0"];
                let writes = names.map(|name| request(WRITE, 1, &[name, &value]));
                Self::Store([begin].into_iter().chain(writes).collect(), 1, 0)
            }
            "compute" => Self::Compute,
            "events" => Self::Events,
            "ports" => Self::Ports(0),
            "reset" => Self::Reset,
            "console" => Self::Console,
            "log" => Self::Log,
            "timers" => Self::Timers,
            "calls" => {
                let version = [number::XEN_VERSION, 0, VERSION, 0, 0, 0, 0, 0];
                Self::Calls(core::iter::repeat_n(version, CALLS).collect())
            }
            "tables" => Self::Tables(Tables::make()),
            _ => return None,
        })
    }

    fn step(&mut self, ring: &mut Ring) {
        match self {
            Self::Store(requests, repeat, at) => {
                ring.drop_replies();
                if ring.is_idle()
                    && let Some(next) = requests.get(*at)
                {
                    ring.begin(next);
                    *at = if *at + 1 < requests.len() { *at + 1 } else { *repeat };
                }
                ring.push();
            }
            Self::Compute => {}
            Self::Events => {
                for _ in 0..EVENTS {
                    calls::send(console::port());
                    calls::send(memory::start().store_evtchn);
                }
            }
            // A step opens only a few ports, so that other kinds get their turns.
            Self::Ports(steps) => {
                *steps += 1;
                if steps.is_multiple_of(64) {
                    open_ports().into_iter().for_each(close);
                }
            }
            Self::Reset => {
                open_ports();
                let own = EvtchnReset { dom: domid::SELF };
                plain(number::EVENT_CHANNEL_OP, [events::RESET, (&raw const own) as u64, 0, 0, 0]);
            }
            Self::Console => console::try_write(b"much is said about very little\n"),
            Self::Log => calls::write_emergency(b"a line that nobody asked for\n"),
            Self::Timers => set_timers(),
            Self::Calls(list) => {
                plain(number::MULTICALL, [list.as_mut_ptr() as u64, CALLS as u64, 0, 0, 0]);
            }
            Self::Tables(tables) => tables.step(),
        }
    }
}

fn plain(number: u64, arguments: [u64; 5]) {
    // SAFETY: the callers pass structures of their own.
    let _ = unsafe { call(number, arguments) };
}

/// Opens ports as long as there are any, and uses each.
fn open_ports() -> Vec<u32> {
    let mut opened = Vec::new();
    for _ in 0..events::PORTS_2L {
        let mut ipi = BindIpi { vcpu: 0, port: 0 };
        plain(number::EVENT_CHANNEL_OP, [events::BIND_IPI, (&raw mut ipi) as u64, 0, 0, 0]);
        if ipi.port == 0 {
            break;
        }
        calls::send(ipi.port);
        opened.push(ipi.port);
    }
    opened
}

fn close(port: u32) {
    let mut close = PortArgument { port };
    plain(number::EVENT_CHANNEL_OP, [events::CLOSE, (&raw mut close) as u64, 0, 0, 0]);
}

fn set_timers() {
    for after in [0, 1, 1000, 1 << 40, 1 << 62] {
        let _ = time::set_timer(memory::now() + after);
    }
    for deadline in [1, u64::MAX, 1 << 63] {
        let _ = time::set_timer(deadline);
    }
    let _ = time::set_timer(memory::now());
    let mut poll = Poll::new_zeroed();
    for timeout in [1, memory::now(), memory::now() + 1000] {
        poll.timeout = timeout;
        plain(number::SCHED_OP, [sched::POLL, (&raw const poll) as u64, 0, 0, 0]);
    }
    memory::take_events();
}

/// Repeats steps of these kinds for ever; returns if a kind does not exist.
pub fn repeat_steps(names: &[&str]) {
    let floods: Option<Vec<Flood>> = names.iter().map(|name| Flood::of(name)).collect();
    let Some(mut floods) = floods.filter(|floods| !floods.is_empty()) else {
        return println!("floods are: {NAMES}");
    };
    println!("flood");
    let timer = calls::bind_timer().expect("the timer");
    memory::unmask(timer);
    let mut ring = Ring::open();
    loop {
        floods.iter_mut().for_each(|flood| flood.step(&mut ring));
    }
}

/// The client's end of the store ring.
struct Ring {
    address: u64,
    /// The rest of a request that is being sent.
    rest: Vec<u8>,
}

impl Ring {
    fn open() -> Self {
        let address = memory::address_of_machine_frame(memory::start().store_mfn);
        Self { address, rest: Vec::new() }
    }

    fn byte(&self, offset: usize) -> &'static AtomicU8 {
        // SAFETY: the ring's page is mapped writable for as long as the guest runs.
        unsafe { &*core::ptr::with_exposed_provenance(self.address as usize + offset) }
    }

    fn index(&self, offset: usize) -> &'static AtomicU32 {
        // SAFETY: as above; the indices are aligned.
        unsafe { &*core::ptr::with_exposed_provenance(self.address as usize + offset) }
    }

    fn is_idle(&self) -> bool {
        self.rest.is_empty()
    }

    fn begin(&mut self, request: &[u8]) {
        self.rest.extend_from_slice(request);
    }

    /// Sends as much as fits.
    fn push(&mut self) {
        let consumed = self.index(offset_of!(StoreRing, req_cons)).load(Ordering::Acquire);
        let produced = self.index(offset_of!(StoreRing, req_prod));
        let at = produced.load(Ordering::Relaxed);
        let room = RING_BYTES.saturating_sub(at.wrapping_sub(consumed) as usize);
        let count = room.min(self.rest.len());
        for (index, byte) in self.rest.drain(..count).enumerate().collect::<Vec<_>>() {
            let place = (at as usize).wrapping_add(index) % RING_BYTES;
            self.byte(offset_of!(StoreRing, req) + place).store(byte, Ordering::Relaxed);
        }
        if count > 0 {
            produced.store(at.wrapping_add(count as u32), Ordering::Release);
            calls::send(memory::start().store_evtchn);
        }
    }

    /// Takes all replies and events, and ignores them.
    fn drop_replies(&self) {
        let produced = self.index(offset_of!(StoreRing, rsp_prod)).load(Ordering::Acquire);
        let consumed = self.index(offset_of!(StoreRing, rsp_cons));
        if consumed.swap(produced, Ordering::AcqRel) != produced {
            calls::send(memory::start().store_evtchn);
        }
    }
}
