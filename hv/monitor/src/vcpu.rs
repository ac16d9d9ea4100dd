//! A virtual CPU: the processor state as a partition's kernel sees it.
//!
//! A virtual CPU lies in its partition's instance memory: this structure in the first frame, the
//! trap table in the second, the XSAVE area in the other two. Fields in a `RunningCell` belong to
//! the CPU that runs the virtual CPU. Fields that other CPUs access are atomics.
#![expect(unsafe_code, reason = "virtual CPUs lie in memory that the database assigned")]

use core::{
    ops::Deref,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering, fence},
};

use page_tables::{Base, Mfn};

use pv_abi::xen::time::{RUNSTATE_OFFLINE, RUNSTATE_UPDATE, RunstateInfo};
use scheduler::Entity;

use crate::{
    area::Area,
    context::Registers,
    cpu::{self, CpuLocal},
    guest_memory::is_partition_range,
    lock::{RunningCell, relax},
    partition::Partition,
    time,
};

/// The virtual CPU that runs on this CPU.
pub fn current() -> Option<&'static Vcpu> {
    // SAFETY: only `set_current` sets it, to virtual CPUs whose partition cannot be freed while
    // they are current.
    unsafe { cpu::this().current().cast::<Vcpu>().as_ref() }
}

/// Makes `vcpu` the current virtual CPU of `local`.
pub fn set_current(local: &CpuLocal, vcpu: &'static Vcpu) {
    local.set_current(core::ptr::from_ref(vcpu).cast_mut().cast(), vcpu.id);
}

/// The virtual CPU at the address in a slot of the scheduler.
pub fn at(pointer: *mut Vcpu) -> Option<&'static Vcpu> {
    if pointer.is_null() || pointer as usize <= align_of::<Vcpu>() {
        return None;
    }
    // SAFETY: slots are filled by `create` and emptied before the memory is given up.
    Some(unsafe { &*pointer })
}

/// Run states, in [`Vcpu::state`].
pub mod run {
    /// Not brought up, or taken down.
    pub const DOWN: u32 = 0;
    /// Waits for a CPU, or has one.
    pub const RUNNABLE: u32 = 1;
    /// Waits for an event.
    pub const BLOCKED: u32 = 3;
}

/// `vcpu_info` of the public header `xen.h`; the monitor and the partition may change it at the
/// same time.
#[repr(C)]
pub struct InfoArea {
    /// An event is pending.
    pub upcall_pending: AtomicU8,
    /// Events are masked.
    pub upcall_mask: AtomicU8,
    reserved: [u8; 6],
    /// Selects the words of the pending bitmap that have events.
    pub pending_sel: AtomicU64,
    /// Faulting address of the last page fault.
    pub cr2: AtomicU64,
    reserved2: u64,
    /// `vcpu_time_info`, written whole while the version is odd.
    pub time: [AtomicU32; 8],
}
const _: () = assert!(size_of::<InfoArea>() == 64);

/// The handler that a partition's kernel registered for a vector (`trap_info` of `xen.h`); an
/// address of 0 means none.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Gate {
    /// Handler.
    pub address: u64,
    /// Code selector.
    pub cs: u16,
    /// Bits 1:0 are the lowest privilege that may raise the vector by `int`; bit 2 masks events.
    pub flags: u16,
    reserved: u32,
}

impl Gate {
    /// A gate with these fields.
    pub fn new(address: u64, cs: u16, flags: u16) -> Self {
        Self { address, cs, flags, reserved: 0 }
    }
}

/// Callback types of the public header `callback.h`.
pub mod callback {
    /// An event is pending.
    pub const EVENT: usize = 0;
    /// A selector load or a return by the monitor failed.
    pub const FAILSAFE: usize = 1;
    /// 64-bit `syscall` from user mode.
    pub const SYSCALL: usize = 2;
    /// `sysenter` from user mode.
    pub const SYSENTER: usize = 5;
    /// `syscall` from compatibility mode.
    pub const SYSCALL32: usize = 7;
}

/// Number of callbacks, which are indexed by their type in `callback.h`.
pub const CALLBACKS: usize = 8;

/// Segment state of a virtual CPU that is not running.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segments {
    pub ds: u16,
    pub es: u16,
    pub fs: u16,
    pub gs: u16,
    pub fs_base: u64,
    /// Base in use in the present mode.
    pub gs_base: u64,
    /// The base of the other mode (of user mode while in kernel mode, and the reverse).
    pub gs_base_other: u64,
}

/// A virtual CPU.
#[repr(C)]
pub struct Vcpu {
    /// Number in its partition.
    pub id: u32,
    /// Index among all virtual CPUs of the machine.
    pub slot: u16,
    /// Its partition.
    pub partition: &'static Partition,
    /// Its state, whose fields the virtual CPU dereferences to.
    pub held: State,
}

impl Deref for Vcpu {
    type Target = State;
    fn deref(&self) -> &State {
        &self.held
    }
}

/// The state of a virtual CPU, nearly all of it zero at first.
#[derive(Default)]
#[repr(C)]
pub struct State {
    /// See [`run`].
    pub state: AtomicU32,
    /// Set while its context is on a CPU's stack: no other CPU may load it.
    pub on_cpu: AtomicBool,
    /// The physical CPU it belongs to.
    pub cpu: AtomicU32,
    /// Whether the virtual CPU has a start state.
    pub initialised: AtomicBool,
    /// Port that a poll waits for; 0 for none, [`POLL_ANY`] for several.
    pub polls: AtomicU32,
    /// Its scheduling entity, while it is in no run queue.
    pub entity: RunningCell<Option<Entity<'static>>>,
    /// The physical CPU whose timer queue has its timer.
    pub timer_cpu: RunningCell<u32>,
    /// Guest registers while it has no CPU.
    pub registers: RunningCell<Registers>,
    /// In kernel mode rather than user mode.
    pub in_kernel: RunningCell<bool>,
    /// The kernel's level-4 table.
    pub kernel_root: RunningCell<Option<Base>>,
    /// The level-4 table of user mode.
    pub user_root: RunningCell<Option<Base>>,
    /// Stack for entries from user mode.
    pub kernel_stack: RunningCell<u64>,
    /// The copy of `kernel_stack` that the entry page uses: aligned, and with the whole frame
    /// outside the monitor's part; 0 if system calls take the slow path.
    pub fast_stack: RunningCell<u64>,
    /// Segments while it has no CPU.
    pub segments: RunningCell<Segments>,
    /// Addresses of the callbacks by type.
    pub callbacks: RunningCell<[u64; CALLBACKS]>,
    /// One bit per callback type: mask events on entry.
    pub callback_masks: RunningCell<u32>,
    /// The kernel's view of CR0.TS.
    pub task_switched: RunningCell<bool>,
    /// The kernel's view of CR4.
    pub cr4: RunningCell<u64>,
    /// XCR0.
    pub xcr0: RunningCell<u64>,
    /// TSC_AUX.
    pub tsc_aux: RunningCell<u64>,
    /// Debug registers 0 to 7.
    pub debug: RunningCell<[u64; 8]>,
    /// Virtual I/O privilege level.
    pub iopl: RunningCell<u32>,
    /// Frames of the descriptor table; 0 stands for none.
    pub gdt: RunningCell<[Mfn; 14]>,
    /// Address and entries of the local descriptor table.
    pub ldt: RunningCell<(u64, u32)>,
    /// Frames of the local descriptor table; 0 stands for none.
    pub ldt_frames: RunningCell<[Mfn; 16]>,
    /// Its `vcpu_info`.
    pub info: AtomicPtr<InfoArea>,
    /// Frame of a registered `vcpu_info`; 0: in shared info.
    pub info_frame: AtomicU64,
    /// Where the kernel wants the runstate record.
    pub runstate_area: RunningCell<Area>,
    /// Where the kernel wants a copy of the time record.
    pub time_area: RunningCell<Area>,
    /// Odd while the runstate changes.
    runstate_version: AtomicU32,
    /// Present runstate.
    pub runstate: AtomicU32,
    /// When the present runstate began, in system time.
    runstate_entry: AtomicU64,
    /// Nanoseconds spent running, runnable, blocked, offline (the ABI's order).
    runstate_time: [AtomicU64; 4],
    /// Set while a non-maskable interrupt is pending.
    pub nmi_pending: AtomicBool,
    /// Hypercalls it made.
    pub hypercalls: AtomicU64,
}
const _: () = assert!(size_of::<Vcpu>() <= 4096);
// The entry page reads the number of a root's frame, or 0.
const _: () = assert!(size_of::<Option<Base>>() == 8);

/// The value of [`Vcpu::polls`] with which any event ends the poll.
pub const POLL_ANY: u32 = u32::MAX;

impl Vcpu {
    /// Makes a virtual CPU that is down.
    pub fn new(partition: &'static Partition, id: u32, slot: u16, info: *mut InfoArea) -> Self {
        let held = State {
            in_kernel: RunningCell::new(true),
            debug: RunningCell::new([0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400]),
            info: AtomicPtr::new(info),
            runstate: AtomicU32::new(RUNSTATE_OFFLINE),
            runstate_entry: AtomicU64::new(time::now()),
            ..State::default()
        };
        Self { id, slot, partition, held }
    }

    /// Enables or disables the assembly fast path for system calls. It needs a handler that wants
    /// events masked, and a stack that can be written without another check.
    pub fn update_fast_path(&self) {
        let stack = self.kernel_stack.get() & !0xf;
        let span = stack.checked_sub(64);
        let checked = span.is_some_and(|bottom| is_partition_range(bottom, 64));
        let handler = self.callbacks.get()[callback::SYSCALL] != 0
            && self.callback_masks.get() & (1 << callback::SYSCALL) != 0;
        self.fast_stack.set(if checked && handler { stack } else { 0 });
    }

    /// Its `vcpu_info`.
    pub fn info(&self) -> &'static InfoArea {
        // SAFETY: points into shared info, or into a frame of the partition that is held by a
        // writable reference as long as it is registered; both through the direct map.
        unsafe { &*self.info.load(Ordering::Acquire) }
    }

    /// Moves its `vcpu_info` to `place`, and keeps the present event mask.
    pub fn move_info(&self, place: *mut InfoArea) {
        let old = self.info();
        // SAFETY: inside one frame of the partition that is held by a writable reference from now
        // on, aligned to 8 bytes, reached through the direct map.
        let new = unsafe { &*place };
        let cr2 = old.cr2.load(Ordering::Relaxed);
        new.cr2.store(cr2, Ordering::Relaxed);
        new.upcall_mask.store(old.upcall_mask.load(Ordering::SeqCst), Ordering::SeqCst);
        self.info.store(place, Ordering::SeqCst);
    }

    /// Returns whether an event is pending and unmasked.
    pub fn event_deliverable(&self) -> bool {
        let info = self.info();
        info.upcall_pending.load(Ordering::Acquire) != 0
            && info.upcall_mask.load(Ordering::Acquire) == 0
    }

    /// Returns whether any event is pending.
    pub fn event_pending(&self) -> bool {
        self.info().upcall_pending.load(Ordering::Acquire) != 0
    }

    /// The gate of a vector.
    pub fn gate(&self, vector: u8) -> Gate {
        // SAFETY: the frame after this structure is the trap table of 256 gates, zeroed at
        // creation, touched only by the CPU that runs this virtual CPU.
        unsafe { self.gates().add(usize::from(vector)).read() }
    }

    /// Replaces a gate.
    pub fn set_gate(&self, vector: u8, gate: Gate) {
        // SAFETY: as for `gate`.
        unsafe { self.gates().add(usize::from(vector)).write(gate) }
    }

    fn gates(&self) -> *mut Gate {
        (core::ptr::from_ref(self) as u64 + 4096) as *mut Gate
    }

    /// Address of the XSAVE area (8 KiB, 64-byte aligned).
    pub fn xsave_area(&self) -> *mut u8 {
        (core::ptr::from_ref(self) as u64 + 2 * 4096) as *mut u8
    }

    /// Records a change of the runstate, and publishes it to the kernel. The caller holds the lock
    /// of its queue.
    pub fn enter_runstate(&self, state: u32, now: u64) {
        let version = self.runstate_version.load(Ordering::Relaxed);
        self.runstate_version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let old = self.runstate.swap(state, Ordering::Relaxed);
        let since = self.runstate_entry.load(Ordering::Relaxed);
        let now = now.max(since);
        self.runstate_entry.store(now, Ordering::Relaxed);
        if let Some(time) = self.runstate_time.get(old as usize) {
            time.store(time.load(Ordering::Relaxed) + (now - since), Ordering::Relaxed);
        }
        self.runstate_version.store(version.wrapping_add(2), Ordering::Release);
        self.publish_runstate();
    }

    /// The runstate record as the ABI lays it out, with times up to the last change.
    fn runstate_info(&self) -> RunstateInfo {
        loop {
            let version = self.runstate_version.load(Ordering::Acquire);
            let info = RunstateInfo {
                state: self.runstate.load(Ordering::Relaxed),
                pad: 0,
                state_entry_time: self.runstate_entry.load(Ordering::Relaxed),
                time: core::array::from_fn(|n| self.runstate_time[n].load(Ordering::Relaxed)),
            };
            fence(Ordering::Acquire);
            if version & 1 == 0 && self.runstate_version.load(Ordering::Relaxed) == version {
                return info;
            }
            relax();
        }
    }

    /// The runstate record with times up to now.
    pub fn runstate_now(&self) -> RunstateInfo {
        let mut info = self.runstate_info();
        if let Some(time) = info.time.get_mut(info.state as usize) {
            *time += time::now().saturating_sub(info.state_entry_time);
        }
        info
    }

    /// Writes the runstate record to where the kernel wants it. The caller holds the lock of its
    /// queue.
    pub fn publish_runstate(&self) {
        let area = self.runstate_area.get();
        if area.is_none() {
            return;
        }
        let mut info = self.runstate_info();
        if self.partition.runstate_update_flag.load(Ordering::Relaxed) {
            let entry_time = info.state_entry_time;
            area.write_word(1, entry_time | RUNSTATE_UPDATE);
            fence(Ordering::SeqCst);
            info.state_entry_time |= RUNSTATE_UPDATE;
            area.write(&info);
            fence(Ordering::SeqCst);
            area.write_word(1, entry_time);
        } else {
            area.write(&info);
        }
    }

    /// Writes the time record to the places where its kernel reads it.
    pub fn publish_time(&self) {
        let record = time::record();
        let words = zerocopy::IntoBytes::as_bytes(&record).chunks_exact(4);
        let area = self.time_area.get();
        if !area.is_none() {
            area.write(&record);
        }
        let place = &self.info().time;
        for (word, bytes) in place.iter().zip(words) {
            let mut value = [0; 4];
            value.copy_from_slice(bytes);
            word.store(u32::from_le_bytes(value), Ordering::Release);
        }
    }

    /// The level-4 table to load in the present mode.
    pub fn root(&self) -> Option<Base> {
        if self.in_kernel.get() { self.kernel_root.get() } else { self.user_root.get() }
    }
}
const _: () = assert!(size_of::<Gate>() == 16);
