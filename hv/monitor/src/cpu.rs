//! The local data of each physical CPU: its current virtual CPU, its flush mailbox, its time
//! accounts.
//!
//! To flush translations, [`flush_partition`] sets a flag and sends an interrupt to every CPU that
//! has the partition's page tables loaded, and waits. A CPU answers from the interrupt handler, or
//! from any wait loop (`lock::relax`). A global clock counts flushes. It shows a page-table change
//! whether a CPU has flushed since a mapping was removed.
#![expect(unsafe_code, reason = "per-CPU areas are found by address")]

use core::{
    arch::asm,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence},
};

use page_tables::Mfn;

use crate::{
    lock::{RunningCell, relax},
    platform,
};

pub use handover::layout::MAX_CPUS;

/// Set if the CPU has SMAP and the monitor turned it on.
pub static SMAP_ON: AtomicBool = AtomicBool::new(false);
/// Set if every way out of ring 0 clears the CPU's buffers.
pub static VERW_ON: AtomicBool = AtomicBool::new(false);

/// Counts the flushes of all CPUs; see [`flush_stamp`].
static FLUSH_CLOCK: AtomicU32 = AtomicU32::new(1);

/// The first page of a CPU's area.
#[derive(Default)]
#[repr(C)]
pub struct CpuLocal {
    /// Where the entry page briefly saves the partition's rsp, rax, rdx, rcx and r11.
    pub scratch: [u64; 5],
    /// Top of the main stack.
    pub stack_top: u64,
    /// Address of `syscall_common`.
    pub syscall_common: u64,
    /// A copy of [`SMAP_ON`] that the entry page can reach.
    pub smap: bool,
    /// A copy of [`VERW_ON`] that the entry page can reach.
    pub verw: bool,
    /// Index of the CPU.
    pub index: u32,
    online: AtomicBool,
    /// The virtual CPU that the CPU runs, which `vcpu::current` knows by its type; null when idle.
    current: AtomicPtr<()>,
    /// Its bit in the masks of [`flush_vcpus`]; all bits when idle.
    current_bit: AtomicU64,
    /// Number of the partition whose page tables are loaded; 0 if none.
    pub loaded: AtomicU32,
    /// Serial number of the partition that trained the branch predictors.
    pub trained_by: RunningCell<u64>,
    /// Set when a scheduling decision is due before the partition continues.
    pub reschedule: AtomicBool,
    /// Counts requests to flush translations; see [`serve_flush`].
    flush_requested: AtomicU32,
    /// The last flush request that the CPU has served.
    flush_done: AtomicU32,
    flushed_at: AtomicU32,
    /// Counts the times when the CPU was in no operation of the monitor (its quiescent points).
    pub quiet: AtomicU32,
    /// Nanoseconds that partitions ran.
    pub busy: AtomicU64,
    /// Nanoseconds that the CPU was idle.
    pub idle: AtomicU64,
    /// Context switches.
    pub switches: AtomicU64,
    /// When the present period (busy or idle) began.
    pub since: RunningCell<u64>,
    /// Counts the steps of long work, for `stay::should_yield`.
    pub turns: RunningCell<u32>,
    /// The value of `quiet` when long work last read the clock; it identifies the stay in ring 0.
    pub stay: RunningCell<u32>,
    /// When long work first read the clock in that stay.
    pub stay_began: RunningCell<u64>,
    /// Frames loaded into the GDT window; 0 stands for none.
    pub gdt: RunningCell<[Mfn; 14]>,
    /// Whether a local descriptor table is loaded.
    pub has_ldt: RunningCell<bool>,
    /// Whether CR4.FSGSBASE is on.
    pub fsgsbase: RunningCell<bool>,
    /// The deadline that the CPU's timer is set to.
    pub timer: RunningCell<u64>,
}

/// The local data of CPU `index`.
pub fn cpu(index: u32) -> &'static CpuLocal {
    // SAFETY: the platform maps an area for every CPU below MAX_CPUS before it is started, and
    // `prepare` filled its first page; it is never unmapped.
    unsafe { &*platform::cpu_local_page(index).cast::<CpuLocal>() }
}

/// The local data of the CPU that runs this code.
pub fn this() -> &'static CpuLocal {
    let stack: u64;
    // SAFETY: reads rsp; every stack of the monitor lies in the CPU's own 64 KiB area.
    unsafe { asm!("mov {}, rsp", out(reg) stack, options(nomem, nostack, preserves_flags)) };
    // SAFETY: as for `cpu`: the area's first page is a CpuLocal.
    unsafe { &*((stack & !0xFFFF) as *const CpuLocal) }
}

/// Writes the first page of a CPU's area, before that CPU starts.
pub fn prepare(index: u32, syscall_common: u64) {
    let page = platform::cpu_local_page(index);
    let local = CpuLocal {
        smap: SMAP_ON.load(Ordering::Relaxed),
        verw: VERW_ON.load(Ordering::Relaxed),
        stack_top: (page as u64) + 0x1_0000,
        syscall_common,
        index,
        timer: RunningCell::new(u64::MAX),
        ..CpuLocal::default()
    };
    // SAFETY: the page is mapped writable, is a CpuLocal by convention, and no CPU uses it yet.
    unsafe { page.cast::<CpuLocal>().write(local) };
}
const _: () = assert!(size_of::<CpuLocal>() <= 4096);

impl CpuLocal {
    /// Offset of the pointer to the current virtual CPU.
    pub const CURRENT: usize = core::mem::offset_of!(CpuLocal, current);

    /// Address of the current virtual CPU; null when idle.
    pub fn current(&self) -> *mut () {
        self.current.load(Ordering::Relaxed)
    }
    /// Makes the virtual CPU at `pointer`, whose number is `id`, the current one.
    pub fn set_current(&self, pointer: *mut (), id: u32) {
        self.current_bit.store(1 << id, Ordering::Relaxed);
        self.current.store(pointer, Ordering::Release);
    }
    /// Makes the CPU idle.
    pub fn clear_current(&self) {
        self.current_bit.store(u64::MAX, Ordering::Relaxed);
        self.current.store(ptr::null_mut(), Ordering::Release);
    }
    /// Returns whether this CPU runs `vcpu`; the answer may be outdated at once.
    pub fn runs<T>(&self, vcpu: &T) -> bool {
        ptr::addr_eq(self.current.load(Ordering::Acquire), vcpu)
    }
    /// Returns whether this CPU is idle now.
    pub fn is_idle(&self) -> bool {
        self.online.load(Ordering::Acquire) && self.current.load(Ordering::Acquire).is_null()
    }
    /// Marks the CPU as online, so that other CPUs use it.
    pub fn set_online(&self) {
        self.online.store(true, Ordering::Release);
    }
    /// Returns whether flush requests are pending; only the CPU itself may call this.
    #[inline]
    pub fn flush_wanted(&self) -> bool {
        self.flush_requested.load(Ordering::SeqCst) != self.flush_done.load(Ordering::Relaxed)
    }
    /// Counts a quiescent point in [`CpuLocal::quiet`]; only the CPU itself may call this.
    pub fn note_quiet(&self) {
        let count = self.quiet.load(Ordering::Relaxed).wrapping_add(1);
        self.quiet.store(count, Ordering::Release);
    }
    /// Returns whether the CPU is online.
    pub fn is_online(&self) -> bool {
        self.online.load(Ordering::Acquire)
    }
}

/// All CPUs that the platform found.
pub fn all() -> impl Iterator<Item = &'static CpuLocal> {
    (0..platform::cpu_count()).map(cpu)
}

/// The present time of the flush clock. A CPU whose last flush is later than a stamp taken after a
/// mapping was removed cannot hold that mapping.
pub fn flush_stamp() -> u32 {
    fence(Ordering::SeqCst);
    FLUSH_CLOCK.load(Ordering::SeqCst)
}

/// Flushes this CPU's translations.
pub fn flush_here() {
    let time = FLUSH_CLOCK.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
    platform::reload_cr3();
    this().flushed_at.store(time, Ordering::SeqCst);
    // Times are compared over half of the clock's range, so no CPU's last flush may fall that far
    // behind.
    if time.is_multiple_of(1 << 29) {
        flush_others(|_| true);
    }
}

/// Serves the flush requests made to this CPU so far.
pub fn serve_flush() {
    let local = this();
    if local.flush_wanted() {
        let requested = local.flush_requested.load(Ordering::SeqCst);
        flush_here();
        local.flush_done.store(requested, Ordering::SeqCst);
    }
}

/// Makes every other CPU for which `wanted` holds flush its translations, and waits until all have.
fn flush_others(wanted: impl Fn(&CpuLocal) -> bool) {
    fence(Ordering::SeqCst);
    let me = this().index;
    let mut asked = 0_u64;
    const { assert!(MAX_CPUS <= 64) };
    for other in all().filter(|c| c.index != me && c.is_online()) {
        if wanted(other) {
            other.flush_requested.fetch_add(1, Ordering::SeqCst);
            platform::send_ipi(other.index, platform::VECTOR_FLUSH);
            asked |= 1 << other.index;
        }
    }
    while asked != 0 {
        let other = cpu(asked.trailing_zeros());
        // This request, or a later one by another CPU.
        let request = other.flush_requested.load(Ordering::SeqCst);
        while (other.flush_done.load(Ordering::SeqCst).wrapping_sub(request) as i32) < 0 {
            relax();
        }
        asked &= asked - 1;
    }
}

/// Flushes the translations of every CPU for which `wanted` holds, this one included.
fn flush_where(wanted: impl Fn(&CpuLocal) -> bool) {
    if wanted(this()) {
        flush_here();
    }
    flush_others(wanted);
}

/// Flushes all translations of a partition, on every CPU.
pub fn flush_partition(partition: u32) {
    flush_where(|c| c.loaded.load(Ordering::SeqCst) == partition);
}

/// Flushes the CPUs that run those virtual CPUs of a partition whose bits are set in `mask`.
pub fn flush_vcpus(partition: u32, mask: u64) {
    flush_where(|c| {
        // The bit was set before the tables were loaded.
        c.loaded.load(Ordering::SeqCst) == partition
            && mask & c.current_bit.load(Ordering::Relaxed) != 0
    });
}

/// Flushes every CPU that may still hold a translation of `partition` that was removed at `stamp`.
pub fn flush_since(partition: u32, stamp: u32) {
    flush_where(|c| {
        let last = c.flushed_at.load(Ordering::SeqCst);
        c.loaded.load(Ordering::SeqCst) == partition && (last.wrapping_sub(stamp) as i32) <= 0
    });
}

/// Waits until every other CPU has left the operation of the monitor that it was in when this was
/// called. After that, no CPU holds a reference to an object that was unregistered before.
pub fn quiesce_others() {
    let me = this().index;
    let others = || all().filter(|c| c.index != me && c.is_online());
    let mut before = [0; MAX_CPUS];
    for (other, count) in others().zip(&mut before) {
        *count = other.quiet.load(Ordering::SeqCst);
        other.reschedule.store(true, Ordering::SeqCst);
        platform::send_ipi(other.index, platform::VECTOR_RESCHEDULE);
    }
    for (other, count) in others().zip(before) {
        while other.quiet.load(Ordering::SeqCst) == count {
            relax();
        }
    }
}
