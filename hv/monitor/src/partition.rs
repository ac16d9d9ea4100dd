//! A partition as its monitor instance represents it.
//!
//! All of it lies in the instance memory that the database assigned with the partition
//! (`instance_frames` in the ABI). The monitor allocates nothing for it, so no partition can
//! exhaust another's memory. Frames of the instance:
//!
//! ```text
//! 0        Partition (this structure)
//! 1        shared info
//! 2..10    event ports (4096 words of 8 bytes)
//! 10       ports of virtual interrupts
//! 11..32   records of the grants of others that it has mapped
//! 32..48   its view of the machine-to-physical table: page tables, and copies of parts
//! 48..     four per virtual CPU: Vcpu, trap table, extended state (2)
//! then     grant frames, then as many frames with the use counts of its grants
//! ```
#![expect(unsafe_code, reason = "lays structures over memory that the database assigned")]

use core::{
    ops::Range,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering},
};

use events::{EventBits, PortCell, PortTable, UpcallWords};
use frames::Kind;
use grants::{GrantTable, MapRecord, MapTable, PinnedEntry};
use m2p_view::View;
use page_tables::{Mfn, Space};
use pv_abi::{
    uv::{
        calls::CAUSES,
        database::{
            INSTANCE_FIXED_FRAMES, INSTANCE_SHARED_INFO, INSTANCE_VCPU_FRAMES, IO_SERVICE,
            PartitionDescriptor, instance_frames, kind, state,
        },
    },
    xen::{events::NR_VIRQS, grants::ENTRIES_PER_FRAME},
};
use refusal::{Refused, errno};
use scheduler::{Group, Limits};

use crate::{
    building::Building,
    lock::SpinLock,
    machine::{self, frame},
    platform, time,
    vcpu::{InfoArea, Vcpu},
    view,
};

/// Maximum number of partition numbers: a domid has 15 bits.
const NUMBERS: usize = 0x8000;

static PARTITIONS: [AtomicPtr<Partition>; NUMBERS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; NUMBERS];

/// First instance frame of the grant-map records.
const MAP_RECORDS_FRAME: u64 = 11;
/// Number of grant-map records that frames 11 to 31 hold.
const MAP_RECORDS: usize = 21 * 4096 / size_of::<MapRecord>();

/// First instance frame of the view of the machine-to-physical table.
pub const VIEW_FRAME: u64 = 32;
const _: () = assert!(VIEW_FRAME + m2p_view::FRAMES == INSTANCE_FIXED_FRAMES as u64);

/// A partition.
#[repr(C)]
pub struct Partition {
    /// Its number.
    pub number: u32,
    /// See `kind` in the ABI.
    pub kind: u32,
    rights: AtomicU32,
    /// See `state` in the ABI.
    pub state: AtomicU32,
    /// Number of virtual CPUs it may have.
    pub vcpus: u32,
    /// Its account of CPU time.
    pub group: Group,
    /// Number of its grant frames.
    pub grant_frames: u32,
    /// A number that no other partition ever gets; partition numbers and instances are reused.
    pub serial: u64,
    /// First frame of the instance.
    pub instance: Mfn,
    /// Frames of RAM for the partition's own use.
    pub memory_frames: AtomicU64,
    /// Its page tables; this lock serializes all work on them.
    pub space: SpinLock<Space>,
    /// Serializes changes of a virtual CPU by others than itself.
    pub vcpus_lock: SpinLock<()>,
    /// Serializes binding and closing of event ports.
    pub ports_lock: SpinLock<()>,
    /// The grants of others that it has mapped.
    pub maps: SpinLock<MapTable<&'static mut [MapRecord]>>,
    /// The use counts of its own grants.
    pinned: SpinLock<&'static mut [PinnedEntry]>,
    /// Whether its runstate areas carry the update flag.
    pub runstate_update_flag: AtomicBool,
    /// Head of the list of idle (ballooned out) frames; 0 if it is empty.
    idle: SpinLock<Mfn>,
    /// Its view of the machine-to-physical table.
    pub view: SpinLock<View>,
    /// The frames of the partition that a builder has mapped.
    pub building: Building,
    /// Refused calls by cause; see `PartitionUsage` in the ABI.
    pub refusals: [AtomicU64; CAUSES],
    /// Whether the partition was ever started.
    pub started: AtomicBool,
    /// While it is destroyed: the frame with which the present range of frames continues.
    pub relinquished: AtomicU64,
    /// While it is destroyed: the ports below this one are closed.
    pub closed_ports: AtomicU32,
}
const _: () = assert!(size_of::<Partition>() <= 4096);

/// Marks the machine-to-physical entry of an idle frame; the other bits hold the next idle frame.
const IDLE: u64 = 1 << 62;

/// The partition with this number.
pub fn find(number: u32) -> Option<&'static Partition> {
    let pointer = masked::get(&PARTITIONS, number as usize)?.load(Ordering::Acquire);
    // SAFETY: the pointer was published by `create` once the structure was whole; instance memory
    // is not given to another owner while the partition is registered.
    unsafe { pointer.as_ref() }
}

/// Adds a partition to the registry, once it is whole.
pub fn register(partition: &'static Partition) {
    let pointer = ptr::from_ref(partition).cast_mut();
    PARTITIONS[partition.number as usize % NUMBERS].store(pointer, Ordering::Release);
}

/// Removes a partition from the registry. Other CPUs may use its memory until each has passed a
/// quiescent point.
pub fn unregister(number: u32) {
    PARTITIONS[number as usize % NUMBERS].store(ptr::null_mut(), Ordering::Release);
}

/// The next [`Partition::serial`]; 0 is never used.
static SERIALS: AtomicU64 = AtomicU64::new(1);

/// The `count` objects that lie in an instance from frame `mfn` on.
fn instance_slice<T>(mfn: Mfn, count: usize) -> *mut [T] {
    ptr::slice_from_raw_parts_mut(machine::bytes(mfn).cast(), count)
}

/// Writes the structure of the partition that `descriptor` describes into its instance.
pub fn lay_out(descriptor: &PartitionDescriptor, limits: &Limits) -> &'static Partition {
    let number = descriptor.number;
    let first = Mfn::new(descriptor.instance_first);
    let grant_table = grant_table(first, descriptor.vcpus);
    let pinned_count = descriptor.grant_frames as usize * ENTRIES_PER_FRAME;
    let maps = instance_slice::<MapRecord>(first.plus(MAP_RECORDS_FRAME), MAP_RECORDS);
    let pinned = grant_table.plus(descriptor.grant_frames.into());
    let pinned = instance_slice::<PinnedEntry>(pinned, pinned_count);
    // SAFETY: instance memory of the partition, zeroed, used for nothing else, and reached only
    // through these two references, which the partition's locks guard.
    let (maps, pinned) = unsafe { (&mut *maps, &mut *pinned) };
    let partition = Partition {
        number,
        kind: descriptor.kind,
        rights: AtomicU32::new(descriptor.rights),
        state: AtomicU32::new(descriptor.state),
        vcpus: descriptor.vcpus,
        group: Group::new(limits, time::now()),
        grant_frames: descriptor.grant_frames,
        serial: SERIALS.fetch_add(1, Ordering::Relaxed),
        instance: first,
        memory_frames: AtomicU64::new(descriptor.memory_frames),
        space: SpinLock::new(Space::new(number, View::slot(first.plus(VIEW_FRAME)))),
        vcpus_lock: SpinLock::new(()),
        ports_lock: SpinLock::new(()),
        maps: SpinLock::new(MapTable::new(maps)),
        pinned: SpinLock::new(pinned),
        runstate_update_flag: AtomicBool::new(false),
        idle: SpinLock::new(Mfn::NONE),
        view: SpinLock::new(View::new(first.plus(VIEW_FRAME))),
        building: Building::default(),
        refusals: [const { AtomicU64::new(0) }; CAUSES],
        started: AtomicBool::new(false),
        relinquished: AtomicU64::new(0),
        closed_ports: AtomicU32::new(0),
    };
    let place = machine::bytes(first).cast::<Partition>();
    // SAFETY: the first instance frame belongs to the partition by the database, is not mapped by
    // anyone, and is at least as large as the structure.
    unsafe {
        place.write(partition);
        &*place
    }
}

/// First frame of the grant table of an instance.
pub fn grant_table(instance: Mfn, vcpus: u32) -> Mfn {
    instance.plus(u64::from(INSTANCE_FIXED_FRAMES + vcpus * INSTANCE_VCPU_FRAMES))
}

impl Partition {
    /// The domids as which it uses what others grant or offer: its own, and that of the service
    /// whose member it is. No partition can be created with the number of a service.
    pub fn domids(&self) -> [u16; 2] {
        let service = if self.kind == kind::IO { IO_SERVICE } else { self.number };
        [self.number, service].map(|number| narrow::low_16(number.into()))
    }

    /// Its present rights.
    pub fn rights(&self) -> u32 {
        self.rights.load(Ordering::Relaxed)
    }

    /// Takes over the changes in a descriptor. Returns whether its limits changed.
    pub fn update(&self, descriptor: &PartitionDescriptor, limits: &Limits) -> bool {
        self.rights.store(descriptor.rights, Ordering::Relaxed);
        self.memory_frames.store(descriptor.memory_frames, Ordering::Relaxed);
        self.group.set(limits, time::now())
    }

    /// Returns whether its virtual CPUs may run.
    pub fn runs(&self) -> bool {
        self.state.load(Ordering::Acquire) == state::RUNNING
    }

    /// The frames of its instance.
    pub fn instance_frames(&self) -> Range<u64> {
        let first = self.instance.number();
        first..first + instance_frames(self.vcpus, self.grant_frames)
    }

    /// The frame of shared info.
    pub fn shared_info(&self) -> Mfn {
        self.instance.plus(INSTANCE_SHARED_INFO)
    }

    /// Level-4 entry 256 of its page tables.
    pub fn view_slot(&self) -> u64 {
        View::slot(self.instance.plus(VIEW_FRAME))
    }

    /// First frame of the grant table.
    pub fn grant_table(&self) -> Mfn {
        grant_table(self.instance, self.vcpus)
    }

    /// Calls `act` with the partition's grant table.
    pub fn with_grants<R>(&self, act: impl FnOnce(&mut GrantTable) -> R) -> R {
        let count = self.grant_frames as usize * ENTRIES_PER_FRAME;
        let entries = instance_slice::<AtomicU64>(self.grant_table(), count);
        // SAFETY: the grant frames are contiguous instance memory in the direct map; the
        // partition changes them at any time, so they are only accessed atomically.
        let entries = unsafe { &*entries };
        let mut pinned = self.pinned.lock();
        act(&mut GrantTable::new(entries, &mut pinned))
    }

    /// The place of virtual CPU `id`.
    pub fn vcpu_place(&self, id: u32) -> *mut Vcpu {
        let frame = INSTANCE_FIXED_FRAMES + id * INSTANCE_VCPU_FRAMES;
        machine::bytes(self.instance.plus(frame.into())).cast()
    }

    /// The place in shared info of the `vcpu_info` of virtual CPU `id`.
    pub fn info_in_shared(&self, id: u32) -> *mut InfoArea {
        (machine::bytes(self.shared_info()) as u64 + 64 * u64::from(id)) as *mut InfoArea
    }

    /// Its virtual CPU number `id`.
    pub fn vcpu(&self, id: u32) -> Option<&'static Vcpu> {
        let id = u32::try_from(masked::index(id as usize, self.vcpus as usize)?).ok()?;
        // SAFETY: `create` made all of them before it published the partition.
        Some(unsafe { &*self.vcpu_place(id) })
    }

    /// All its virtual CPUs.
    pub fn all_vcpus(&self) -> impl Iterator<Item = &'static Vcpu> {
        (0..self.vcpus).filter_map(|id| self.vcpu(id))
    }

    /// Its event ports.
    pub fn ports(&self) -> PortTable<'static> {
        let cells = instance_slice::<PortCell>(self.instance.plus(2), 4096);
        let count = (self.vcpus * NR_VIRQS) as usize;
        let virqs = instance_slice::<AtomicU32>(self.instance.plus(10), count);
        // SAFETY: instance memory laid out for this (4096 cells of 8 bytes in frames 2 to 9,
        // 32 * 24 words in frame 10), zeroed at creation, only accessed atomically.
        unsafe { PortTable::new(&*cells, &*virqs, self.vcpus) }
    }

    /// The pending and mask bits in shared info.
    pub fn event_bits(&self) -> EventBits<'static> {
        let words = &machine::table(self.shared_info())[256..384];
        let (pending, mask) = words.split_at(64);
        EventBits { pending, mask }
    }

    /// Removes a frame from the populated set, if no reference to it is left. Returns whether it
    /// did. Idle frames form a list through their machine-to-physical entries; no partition can map
    /// them.
    #[must_use]
    pub fn make_idle(&self, mfn: Mfn) -> bool {
        let Some(frame) = frame(mfn) else {
            return false;
        };
        let mut head = self.idle.lock();
        if frame.set_owner(self.number, self.number, Kind::Private).is_err() {
            return false;
        }
        view::set(self, mfn, IDLE | head.number());
        *head = mfn;
        true
    }

    /// Returns an idle frame to the populated set.
    pub fn take_idle(&self) -> Option<Mfn> {
        let mut head = self.idle.lock();
        let mfn = *head;
        let next = platform::m2p().get(narrow::size(mfn.number()))?.load(Ordering::Relaxed);
        if mfn.is_none() || next & IDLE == 0 {
            return None;
        }
        let frame = frame(mfn)?;
        if frame.owner_word() != self.number || frame.word().kind() != Kind::Private {
            return None;
        }
        // SAFETY: the frame is RAM of this partition, and no partition can map it before it is
        // made ordinary again below.
        unsafe { machine::scrub(mfn) };
        frame.set_owner(self.number, self.number, Kind::Ram).ok()?;
        *head = Mfn::new(next & !IDLE);
        Some(mfn)
    }

    /// Checks that frame `mfn` is RAM of this partition.
    ///
    /// # Errors
    /// `-EINVAL` if there is no such frame, `-EPERM` if it is another's.
    pub fn check_own(&self, mfn: Mfn) -> Result<(), Refused> {
        let frame = frame(mfn).ok_or(errno::EINVAL)?;
        let ordinary = frame.word().kind() == Kind::Ram;
        if frame.owner() == self.number && ordinary { Ok(()) } else { Err(errno::EPERM) }
    }
}

/// The words that signal a pending upcall to this virtual CPU.
pub fn upcall(vcpu: &Vcpu) -> UpcallWords<'static> {
    let info = vcpu.info();
    UpcallWords { upcall_pending: &info.upcall_pending, selector: &info.pending_sel }
}
