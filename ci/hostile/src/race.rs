//! A race of two virtual CPUs that change the same pages: tables, pins, descriptors, writable and
//! read-only mappings, grants, ports.
//!
//! Each step is within an ordinary kernel's rights, and is done or refused. Only the end is
//! checked: the CPUs go on, and nothing holds a reference to the pages when everything is undone.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use pv_abi::xen::domid;
use pv_abi::xen::events::{self, AllocUnbound, BindInterdomain, PortArgument};
use pv_abi::xen::grants::{self, MapGrantRef, UnmapGrantRef};
use pv_abi::xen::hypercall as number;
use pv_abi::xen::mmu::{self, UVMF_ALL, UVMF_TLB_FLUSH};

use zerocopy::FromBytes;

use crate::attempt::{Arg, Call, Outcome, memory};
use crate::frames::{COPY_STATUS, MAP_STATUS, copy, end, extended, readable, update, writable};
use crate::ground::Page;
use crate::linux::{Hypercalls, stay_on_cpu};

/// The number of entries of a table that are used.
const ENTRIES: u64 = 4;
/// A flat data segment of ring 3.
const SEGMENT: u64 = 0x00cf_f300_0000_ffff;

/// Chooses steps; the same seed gives the same choice.
pub struct Race {
    pages: Vec<Page>,
    state: u64,
}

impl Race {
    /// A race on these pages.
    pub fn new(pages: Vec<Page>, seed: u64) -> Self {
        Self { pages, state: seed | 1 }
    }

    /// A number below `end` (xorshift).
    fn below(&mut self, end: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % end
    }

    fn page(&mut self) -> Page {
        let at = self.below(self.pages.len() as u64);
        self.pages[at as usize]
    }

    /// The next step.
    pub fn step(&mut self) -> Call {
        let (page, other, entry) = (self.page(), self.page(), self.below(ENTRIES));
        match self.below(12) {
            0 => entries(page, entry, readable(other.mfn)),
            1 => entries(page, entry, writable(other.mfn)),
            2 | 3 => entries(page, entry, 0),
            4 => {
                let level = mmu::EXT_PIN_L1_TABLE + self.below(4) as u32;
                operation(extended(level, page.mfn, 0))
            }
            5 | 6 => operation(extended(mmu::EXT_UNPIN_TABLE, page.mfn, 0)),
            7 => directly(page, readable(page.mfn)),
            8 => directly(page, writable(page.mfn)),
            9 => {
                let address = if self.below(2) == 0 { 0 } else { page.address() };
                let entries = if address == 0 { 0 } else { 512 };
                operation(extended(mmu::EXT_SET_LDT, address, entries))
            }
            10 => {
                let ends = (end(page.mfn, domid::SELF), end(other.mfn, domid::SELF));
                let args = [grants::COPY.into(), memory(&copy(ends.0, ends.1, 0)), 1.into()];
                Call { number: number::GRANT_TABLE_OP, args: args.into() }
            }
            _ => {
                let args = [(page.mfn << 12 | entry << 3).into(), SEGMENT.into()];
                Call { number: number::UPDATE_DESCRIPTOR, args: args.into() }
            }
        }
    }

    /// The calls that undo all steps; each virtual CPU makes them after both have stopped.
    pub fn undo(&self) -> Vec<Call> {
        let mut all = vec![operation(extended(mmu::EXT_SET_LDT, 0, 0))];
        let pages = || self.pages.iter();
        all.extend(pages().map(|page| operation(extended(mmu::EXT_UNPIN_TABLE, page.mfn, 0))));
        all.extend(pages().map(|page| directly(*page, writable(page.mfn))));
        all
    }
}

fn operation(args: [Arg; 4]) -> Call {
    Call { number: number::MMUEXT_OP, args: args.into() }
}

fn entries(table: Page, index: u64, val: u64) -> Call {
    Call { number: number::MMU_UPDATE, args: update(table.mfn, index, 0, val).into() }
}

fn directly(page: Page, entry: u64) -> Call {
    let entry = entry | mmu::PTE_ACCESSED | mmu::PTE_DIRTY | mmu::PTE_NX;
    let args = [page.address(), entry, UVMF_TLB_FLUSH | UVMF_ALL].map(Arg::from);
    Call { number: number::UPDATE_VA_MAPPING, args: args.into() }
}

/// Offset at which [`allocate_port`] leaves the port.
const PORT_ALLOCATED: usize = std::mem::offset_of!(AllocUnbound, port);
/// Offset at which [`bind_port`] leaves the port.
const PORT_BOUND: usize = std::mem::offset_of!(BindInterdomain, local_port);

/// Allocates a port of the caller that waits for the caller itself.
fn allocate_port() -> Call {
    let argument = AllocUnbound { dom: domid::SELF, remote_dom: domid::SELF, port: 0 };
    port_call(events::ALLOC_UNBOUND, memory(&argument))
}

/// Binds a new port to `port`.
fn bind_port(port: u32) -> Call {
    let argument =
        BindInterdomain { remote_dom: domid::SELF, pad: 0, remote_port: port, local_port: 0 };
    port_call(events::BIND_INTERDOMAIN, memory(&argument))
}

fn on_port(command: u64, port: u32) -> Call {
    port_call(command, memory(&PortArgument { port }))
}

fn port_call(command: u64, argument: Arg) -> Call {
    Call { number: number::EVENT_CHANNEL_OP, args: vec![command.into(), argument] }
}

/// The port that a call left at `offset`; 0 if there is none.
fn port_of(outcome: &Outcome, offset: usize) -> u32 {
    let word = outcome.memory.get(offset..).and_then(|bytes| bytes.first_chunk());
    if outcome.result == 0 { word.map_or(0, |word| u32::from_le_bytes(*word)) } else { 0 }
}

/// Grants of the raced pages to the partition itself, for reading, and the place where they are
/// mapped.
pub struct Grants {
    /// The grant references.
    pub references: Vec<u32>,
    /// Frame of a level-1 table that is not raced and is free from entry [`Grants::ENTRY`] on.
    pub table: u64,
}

impl Grants {
    /// The first used entry of the table; each virtual CPU has one.
    pub const ENTRY: u64 = 256;

    /// Maps the grant with this number on a virtual CPU.
    fn map(&self, cpu: usize, number: u64) -> Call {
        let operation = MapGrantRef {
            host_addr: self.place(cpu),
            flags: grants::GNTMAP_HOST_MAP | grants::GNTMAP_CONTAINS_PTE | grants::GNTMAP_READONLY,
            grant_ref: self.references[number as usize % self.references.len()],
            dom: domid::SELF,
            ..MapGrantRef::default()
        };
        grant_call(grants::MAP_GRANT_REF, memory(&operation))
    }

    /// Removes a mapping.
    fn unmap(&self, cpu: usize, handle: u32) -> Call {
        let host_addr = self.place(cpu);
        let operation = UnmapGrantRef { host_addr, handle, ..UnmapGrantRef::default() };
        grant_call(grants::UNMAP_GRANT_REF, memory(&operation))
    }

    fn place(&self, cpu: usize) -> u64 {
        self.table << 12 | (Self::ENTRY + cpu as u64) << 3
    }
}

fn grant_call(command: u64, operation: Arg) -> Call {
    Call { number: number::GRANT_TABLE_OP, args: vec![command.into(), operation, 1.into()] }
}

/// Returns the status of a grant operation. Fails if it says that the host is not ready yet,
/// because kernels would take that for a final answer although the call can be repeated.
fn is_an_answer(outcome: &Outcome, offset: usize) -> Result<i16> {
    let bytes = outcome.memory.get(offset..).and_then(|bytes| bytes.first_chunk());
    let status = i16::from_le_bytes(*bytes.context("a status")?);
    ensure!(status != grants::GNTST_EAGAIN, "a grant operation was told to try again");
    Ok(status)
}

/// The memory that the virtual CPUs share while they race.
struct Shared<'a> {
    pages: Vec<Page>,
    grants: &'a Grants,
    /// The port that virtual CPU 0 allocated and the other binds to; 0 if there is none now.
    port: AtomicU32,
    start: Barrier,
}

/// Races on `pages` with two virtual CPUs, `steps` steps each, and undoes everything; returns how
/// many steps were done.
///
/// # Errors
/// A virtual CPU has no hypercall device, a grant operation answered "try again", or a thread
/// failed.
pub fn race_on(pages: &[Page], grants: &Grants, steps: u64) -> Result<u64> {
    const CPUS: usize = 2;
    let port = AtomicU32::new(0);
    let shared = Shared { pages: pages.into(), grants, port, start: Barrier::new(CPUS) };
    std::thread::scope(|scope| {
        let race = |cpu| {
            scope.spawn({
                let shared = &shared;
                move || on_cpu(cpu, shared, steps)
            })
        };
        let racers: Vec<_> = (0..CPUS).map(race).collect();
        let mut done = 0;
        for racer in racers {
            done += racer.join().map_err(|_| anyhow!("a racing thread failed"))??;
        }
        Ok(done)
    })
}

fn on_cpu(cpu: usize, shared: &Shared<'_>, steps: u64) -> Result<u64> {
    // A failing thread must not leave the other one waiting.
    let ready = stay_on_cpu(cpu).and_then(|()| Hypercalls::open());
    shared.start.wait();
    let hypercalls = ready?;
    let mut race = Race::new(shared.pages.clone(), 0x9e37_79b9 + cpu as u64 * 2);
    let (mut done, mut answers) = (0, Ok(()));
    for step in 0..steps {
        let call = race.step();
        let outcome = hypercalls.perform(&call);
        done += u64::from(outcome.result >= 0);
        if call.number == number::GRANT_TABLE_OP && outcome.result == 0 {
            answers = answers.and(is_an_answer(&outcome, COPY_STATUS).map(drop));
        }
        match step % 16 {
            0 => race_for_ports(&hypercalls, cpu, shared),
            8 => answers = answers.and(map_and_unmap(&hypercalls, cpu, shared, race.below(64))),
            _ => {}
        }
    }
    shared.start.wait();
    // A reference that one virtual CPU holds may keep the other from undoing a step at first.
    for _ in 0..3 {
        for call in race.undo() {
            hypercalls.perform(&call);
        }
        shared.start.wait();
    }
    answers.map(|()| done)
}

/// Maps a grant of a raced page for reading, and removes the mapping.
fn map_and_unmap(
    hypercalls: &Hypercalls,
    cpu: usize,
    shared: &Shared<'_>,
    number: u64,
) -> Result<()> {
    let mapped = hypercalls.perform(&shared.grants.map(cpu, number));
    if is_an_answer(&mapped, MAP_STATUS)? != grants::GNTST_OKAY {
        return Ok(());
    }
    let (map, _) = MapGrantRef::read_from_prefix(&mapped.memory).ok().context("a mapping")?;
    let unmapped = hypercalls.perform(&shared.grants.unmap(cpu, map.handle));
    let status = is_an_answer(&unmapped, std::mem::offset_of!(UnmapGrantRef, status))?;
    ensure!(status == grants::GNTST_OKAY, "unmapping a grant of a raced page: status {status}");
    Ok(())
}

/// The first virtual CPU allocates a port and closes it; the other binds to it, sends, and closes
/// its own end. Neither closes the other's port, because the number might belong to the kernel by
/// then.
fn race_for_ports(hypercalls: &Hypercalls, cpu: usize, shared: &Shared<'_>) {
    if cpu == 0 {
        let port = port_of(&hypercalls.perform(&allocate_port()), PORT_ALLOCATED);
        shared.port.store(port, Ordering::SeqCst);
        std::thread::yield_now();
        shared.port.store(0, Ordering::SeqCst);
        if port != 0 {
            hypercalls.perform(&on_port(events::CLOSE, port));
        }
        return;
    }
    let port = shared.port.load(Ordering::SeqCst);
    let bound = port_of(&hypercalls.perform(&bind_port(port)), PORT_BOUND);
    if bound != 0 {
        hypercalls.perform(&on_port(events::SEND, bound));
        hypercalls.perform(&on_port(events::CLOSE, bound));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_many_and_repeatable_and_name_the_pages_alone() {
        let pages: Vec<_> = (0..4).map(|n| Page { mfn: 0x100 + n, pfn: n }).collect();
        let steps = |seed| {
            let mut race = Race::new(pages.clone(), seed);
            (0..200).map(|_| race.step()).collect::<Vec<_>>()
        };
        assert_eq!(steps(5), steps(5));
        assert_ne!(steps(5), steps(7));
        let numbers: std::collections::BTreeSet<_> =
            steps(5).iter().map(|call| call.number).collect();
        assert_eq!(numbers.len(), 5);
    }
}
