//! The partitions' views of the machine-to-physical table: each partition sees its own entries and
//! no others.
//!
//! The rule: a partition's view changes under its lock, and in the order that [`m2p_view`]
//! requires. Only the kernel has the view: a fault in user mode fills no entry, and the tables of
//! user mode do not lead to the view.

use core::sync::atomic::{AtomicU64, Ordering};

use m2p_view::{Machine, Page};
use page_tables::{Base, MONITOR_SLOTS, Mfn};
use pv_abi::xen::mmu::{M2P_END, M2P_START};

use crate::{
    context::Registers,
    cpu, machine,
    partition::{self, Partition},
    platform,
    vcpu::Vcpu,
};

/// The error code of a page fault by which ring 3 reads an absent page.
const ABSENT_READ_BY_RING_3: u64 = 4;

/// The machine as the view of the partition with this number sees it.
pub struct Viewer(pub u32);

impl Machine for Viewer {
    fn frames(&self) -> u64 {
        platform::m2p().len() as u64
    }

    fn master(&self) -> Mfn {
        platform::m2p_frame()
    }

    fn invalid(&self) -> Mfn {
        platform::m2p_frame().plus(self.frames().div_ceil(512))
    }

    fn own(&self, chunk: u64) -> [u64; 8] {
        let frames = platform::frame_table();
        let of_word = |word: usize| {
            let first = (narrow::size(chunk) << 9) + (word << 6);
            let frames = frames.iter().skip(first).take(64).enumerate();
            let own = frames.filter(|(_, frame)| frame.owner_word() == self.0);
            own.fold(0, |bits, (index, _)| bits | 1 << index)
        };
        core::array::from_fn(of_word)
    }

    fn page(&self, frame: Mfn) -> &Page {
        machine::table(frame)
    }

    fn flush(&self) {
        cpu::flush_partition(self.0);
    }
}

/// The level-4 entry of the view in a table of a partition.
fn slot(root: Base) -> &'static AtomicU64 {
    &machine::table(root.frame())[MONITOR_SLOTS.start]
}

/// Fills in an entry of the view that the kernel of `vcpu` tried to read. Returns `false` if the
/// fault has another cause, or if there is no such entry.
#[inline]
pub fn read(vcpu: &Vcpu, registers: &Registers, address: u64) -> bool {
    (M2P_START..M2P_END).contains(&address) && show(vcpu, registers, address)
}

#[cold]
#[inline(never)]
fn show(vcpu: &Vcpu, registers: &Registers, address: u64) -> bool {
    if registers.error != ABSENT_READ_BY_RING_3 || !vcpu.in_kernel.get() {
        return false;
    }
    let partition = vcpu.partition;
    // Not as a waiter: whoever waits for the lock of a view waits for one fill at most.
    let Some(mut view) = partition.view.try_lock() else {
        // The instruction comes again.
        return true;
    };
    if !view.fill(&Viewer(partition.number), Mfn::new((address - M2P_START) / 8)) {
        return false;
    }
    // The virtual CPU holds the table. Another may run user mode on it, and have taken the slot away.
    lead_from_kernel(vcpu);
    true
}

/// Makes the kernel root of `vcpu` lead to its partition's present view. A root that stayed
/// validated may lead to an instance of an earlier life of the partition.
#[inline]
pub fn lead_from_kernel(vcpu: &Vcpu) {
    if let Some(root) = vcpu.kernel_root.get() {
        slot(root).store(vcpu.partition.view_slot(), Ordering::Release);
    }
}

/// Keeps the view out of the tables that user mode runs on, unless the kernel runs on them too.
#[inline]
pub fn hide_from_user(vcpu: &Vcpu) {
    let root = vcpu.user_root.get().filter(|root| Some(*root) != vcpu.kernel_root.get());
    if let Some(root) = root {
        slot(root).store(0, Ordering::Release);
    }
}

/// Sets the entry of a frame that belongs to the partition.
pub fn set(partition: &Partition, mfn: Mfn, pfn: u64) {
    partition.view.lock().set(&Viewer(partition.number), mfn, pfn);
}

/// Updates the view after frames have become the RAM of partition `owner`, if `owner` is a
/// partition.
pub fn gained(owner: u32, mfns: &[Mfn]) {
    let Some(partition) = partition::find(owner).filter(|_| !mfns.is_empty()) else {
        return;
    };
    if partition.view.lock().gained(&Viewer(owner), mfns) {
        cpu::flush_partition(owner);
    }
}

/// Updates the view after a frame has left the owner with the word `before`, if it was RAM of a
/// partition. The caller flushes the partition's CPUs before the frame gets another owner.
pub fn lost(before: u32, mfn: Mfn) {
    if let Some(partition) = partition::find(before) {
        partition.view.lock().lost(&Viewer(before), mfn);
    }
}
