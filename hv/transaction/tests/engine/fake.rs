//! A monitor that records the state it has to enforce, and a host on top of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU32;

use control::command::{
    Answer, Code, Operation, Outcome, Query, Range, Refusal, Start, Target, Transaction,
};
use pv_abi::uv::database::{
    BOOT, COMMAND, FIRST_GUEST, PartitionDescriptor, ULTRAVISOR, UNASSIGNED, kind, state,
};
use pv_abi::uv::devices::{Bar, DeviceFunction, refused};
use resource_db::{Database, Owner, PAGE_WORDS, Reader};
use transaction::{AGAIN, Action, Engine, GivenUp, Limits, Monitor};
use zerocopy::{FromZeros, IntoBytes};

use crate::queries::ask_engine;

pub const FRAMES: u64 = 8192;
pub const LIMITS: Limits =
    Limits { cpus: 4, ranges: 16 * 1024, meltdown: false, gpt: true, functions: &FUNCTIONS };

/// A bridge, two disks, and a function that shares a page.
pub const FUNCTIONS: [DeviceFunction; 4] = [
    function(0, 0x0601_0000, refused::BRIDGE),
    function(2 << 3, 0x0180_0000, 0),
    function(3 << 3, 0x0180_0000, 0),
    function(4 << 3, 0x0200_0000, refused::SHARED_PAGE),
];

const fn function(address: u32, class: u32, refused: u32) -> DeviceFunction {
    let bar = Bar { address: 0, bytes: 0 };
    DeviceFunction {
        address,
        id: 0x1042_1af4,
        class,
        subsystem: 0x1100_1af4,
        flags: 0,
        refused,
        msix_capability: 0x98,
        msix_vectors: 3,
        express_capability: 0,
        reserved: 0,
        msix_table: 0xfe00_1000,
        msix_pending: 0xfe00_1800,
        bars: [bar, Bar { address: 0xfe00_1000, bytes: 4096 }, bar, bar, bar, bar],
    }
}

pub struct Fake<'a> {
    pub reader: Reader<'a>,
    pub owners: Vec<Owner>,
    pub instances: BTreeSet<u32>,
    pub running: BTreeSet<u32>,
    /// Partitions that the boot partition may no longer write.
    pub complete: BTreeSet<u32>,
    pub channels: BTreeMap<u32, Vec<u8>>,
    /// The owners of PCI functions, by index.
    pub devices: BTreeMap<u32, u32>,
    /// Functions whose registers no page table maps, though their owners run.
    pub let_go: BTreeSet<u32>,
    /// How many times the monitor still refuses to give a function.
    pub refuse_devices: usize,
    /// How many times the monitor still refuses to stop a partition.
    pub refuse_stops: usize,
    /// Whether an I/O partition that runs confirms at once the reset of a function that it gets.
    pub confirms: bool,
    /// For each function the partitions to which its reset is owed.
    pub owed: BTreeMap<u32, BTreeSet<u32>>,
    /// Weight, cap and CPUs of each partition.
    pub cpu: BTreeMap<u32, (u32, u32, [u64; 4])>,
    /// Frames that are in use.
    pub in_use: BTreeSet<u64>,
    pub refuse_after: Option<usize>,
    /// A frame that comes into use at the moment when an action is refused.
    pub use_at_refusal: Option<u64>,
    /// Endpoints that are served still.
    pub served: BTreeSet<u32>,
    /// Whether each step of the engine ends a turn of the loop.
    pub short_turns: bool,
    /// The number of calls that return unfinished before a start is complete.
    pub start_parts: usize,
    /// The most frames in one action so far.
    pub largest: u64,
    /// Frames whose page tables were dropped, by the partition that is being destroyed.
    pub dropped: BTreeMap<u32, BTreeSet<u64>>,
    /// Ends the ultravisor after this many actions: at once if true, else before the next action.
    pub cut_after: Option<(usize, bool)>,
}

impl Fake<'_> {
    /// Ends the ultravisor, if this is the step to end it at.
    fn cut(&mut self, at_once: bool) {
        if self.cut_after == Some((0, at_once)) {
            self.cut_after = None;
            std::panic::resume_unwind(Box::new(()));
        }
    }

    /// Returns whether a reset is owed to a partition.
    pub fn owes(&self, number: u32) -> bool {
        self.owed.values().any(|to| to.contains(&number))
    }

    /// Notes that the owner of a function has reset it, and that the function confirmed the reset.
    pub fn confirm(&mut self, function: u32) {
        assert!(self.devices.contains_key(&function), "nobody could reset {function}");
        self.owed.remove(&function);
    }

    /// Takes the functions of a partition whose tables are gone, and notes that a reset of each is
    /// owed.
    fn silence(&mut self, number: u32) {
        if !self.instances.contains(&number) {
            return;
        }
        let dropped = self.dropped.get(&number);
        let is_left = |frame: &u64| dropped.is_none_or(|dropped| !dropped.contains(frame));
        let owned = (0..).zip(&self.owners).filter(|(_, of)| **of == Owner::ram(number));
        let left: Vec<u64> = owned.map(|(frame, _)| frame).filter(is_left).collect();
        assert!(left.is_empty(), "tables of {number} may be in {left:x?}");
        let own = self.devices.extract_if(.., |_, owner| *owner == number);
        for (function, _) in own.collect::<Vec<_>>() {
            if self.complete.contains(&number) {
                self.owed.entry(function).or_default().insert(number);
            }
        }
        self.running.remove(&number);
    }

    fn enforce(&mut self, action: Action) -> Result<(), i32> {
        match action {
            Action::Pages { first, frames } => {
                self.largest = self.largest.max(frames);
                let mut next = first;
                while next < first + frames {
                    let range = self.reader.range_at(next, first + frames - next).unwrap();
                    let begin = next;
                    next = (begin + range.frames).min(first + frames);
                    for frame in begin..next {
                        let held = self.owners[frame as usize];
                        if held != range.owner && self.in_use.contains(&frame) {
                            return Err(16);
                        }
                        let written = held != range.owner
                            && (self.devices.values().any(|owner| *owner == held.number)
                                || self.owes(held.number));
                        let dying = |number| {
                            let descriptor = self.reader.descriptor(number);
                            descriptor.is_ok_and(|of| of.state == state::DYING)
                        };
                        assert!(
                            !written || !dying(held.number),
                            "a function can write frame {frame}"
                        );
                        self.owners[frame as usize] = range.owner;
                    }
                }
            }
            Action::Partition(number) => {
                if let Ok(descriptor) = self.reader.descriptor(number) {
                    let first = descriptor.instance_first;
                    for frame in first..first + descriptor.instance_frames {
                        assert_eq!(self.owners[frame as usize], Owner::ram(number));
                    }
                    self.instances.insert(number);
                    let cpu = (descriptor.cpu_weight, descriptor.cpu_cap, descriptor.cpu_allowed);
                    self.cpu.insert(number, cpu);
                } else {
                    assert!(!self.instances.contains(&number));
                }
            }
            Action::Channel(index) => {
                match self.reader.channel(index) {
                    Ok(entry) => self.channels.insert(index, entry.as_bytes()[4..].to_vec()),
                    Err(_) => self.channels.remove(&index),
                };
            }
            Action::Device(index) => {
                let entry = self.reader.device(index).unwrap();
                if let Some(had) = self.devices.get(&index)
                    && *had != entry.owner
                    && self.running.contains(had)
                    && !self.let_go.contains(&index)
                {
                    return Err(16);
                }
                if self.refuse_devices > 0 {
                    self.refuse_devices -= 1;
                    return Err(16);
                }
                if let Some(had) = self.devices.remove(&index)
                    && had != entry.owner
                    && self.complete.contains(&had)
                {
                    self.owed.entry(index).or_default().insert(had);
                }
                if entry.owner != UNASSIGNED {
                    assert!(self.instances.contains(&entry.owner), "{index} of nobody");
                    self.devices.insert(index, entry.owner);
                }
            }
            Action::Start(number) => {
                assert!(self.instances.contains(&number));
                self.running.insert(number);
                self.complete.insert(number);
            }
            Action::Stop(_) if self.refuse_stops > 0 => {
                self.refuse_stops -= 1;
                return Err(16);
            }
            Action::Stop(number) => {
                self.running.remove(&number);
                self.complete.insert(number);
            }
            Action::Destroy(number) => {
                self.silence(number);
                if self.owes(number) {
                    return Err(16);
                }
                self.dropped.remove(&number);
                self.running.remove(&number);
                self.complete.remove(&number);
                self.instances.remove(&number);
                self.cpu.remove(&number);
            }
        }
        Ok(())
    }
}

impl Monitor for Fake<'_> {
    fn attempt(&mut self, action: Action) -> Result<(), i32> {
        match &mut self.refuse_after {
            Some(0) => {
                self.refuse_after = None;
                self.in_use.extend(self.use_at_refusal.take());
                return Err(16);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.resume(action)
    }

    fn resume(&mut self, action: Action) -> Result<(), i32> {
        if matches!(action, Action::Start(_)) && self.start_parts > 0 {
            self.start_parts -= 1;
            return Err(AGAIN);
        }
        self.perform(action)
    }

    fn frame_owner(&mut self, frame: u64) -> Option<(u32, bool)> {
        self.owners.get(frame as usize).map(|owner| (owner.number, owner.io))
    }

    fn turn_over(&mut self) -> bool {
        self.short_turns
    }

    fn drained(&mut self, endpoint: u32) -> bool {
        !self.served.contains(&endpoint)
    }

    fn in_use(&mut self, frame: u64) -> bool {
        self.in_use.contains(&frame)
    }

    fn drop_tables(&mut self, partition: u32, range: Range) -> Result<bool, i32> {
        let dropped = self.dropped.entry(partition).or_default();
        // An ultravisor that takes over begins with the first range again.
        let rises = dropped.last().is_none_or(|last| *last < range.first);
        assert!(rises || dropped.contains(&range.first), "{range:?} does not rise");
        dropped.extend(range.first..range.first + range.frames);
        Ok(true)
    }

    fn give_up(&mut self, partition: u32) -> Result<GivenUp, i32> {
        if self.confirms {
            let (devices, running) = (&self.devices, &self.running);
            let driven =
                |function: &u32| devices.get(function).is_some_and(|o| running.contains(o));
            self.owed.retain(|function, _| !driven(function));
        }
        match self.perform(Action::Destroy(partition)) {
            Err(_) if self.owes(partition) => Ok(GivenUp::ResetOwed),
            result => result.map(|()| GivenUp::Done),
        }
    }

    fn perform(&mut self, action: Action) -> Result<(), i32> {
        self.cut(false);
        self.cut_after = self.cut_after.map(|(left, at_once)| (left - 1, at_once));
        let result = self.enforce(action);
        self.cut(true);
        result
    }
}

/// The system partitions of a host.
const SYSTEM: [(u32, u32); 3] =
    [(ULTRAVISOR, kind::ULTRAVISOR), (BOOT, kind::BOOT), (COMMAND, kind::COMMAND)];
/// The CPUs of [`LIMITS`].
pub const ALL: [u64; 4] = [0b1111, 0, 0, 0];

pub fn arena() -> Vec<AtomicU32> {
    arena_of(128)
}

pub fn arena_of(pages: usize) -> Vec<AtomicU32> {
    (0..pages * PAGE_WORDS).map(|_| AtomicU32::new(0)).collect()
}

pub fn system(number: u32, kind: u32, first: u64) -> PartitionDescriptor {
    let mut descriptor = PartitionDescriptor::new_zeroed();
    (descriptor.number, descriptor.kind, descriptor.state) = (number, kind, state::RUNNING);
    (descriptor.instance_first, descriptor.instance_frames) = (first, 8);
    descriptor.name[0] = b'0' + number as u8;
    (descriptor.vcpus, descriptor.cpu_weight) = (1, 256);
    (descriptor.cpu_affinity, descriptor.cpu_allowed) = (ALL, ALL);
    descriptor.grant_frames = 4;
    descriptor
}

/// A host with ultravisor, boot and command partition, a hole in its memory, and the rest free.
pub fn host(words: &[AtomicU32]) -> (Engine<'_>, Fake<'_>) {
    host_of(words, FRAMES, LIMITS)
}

/// The same host with `frames` frames.
pub fn host_of(words: &[AtomicU32], frames: u64, limits: Limits) -> (Engine<'_>, Fake<'_>) {
    let mut database = Database::create(words, frames, limits.functions.len() as u32).unwrap();
    for (number, kind) in SYSTEM {
        let first = u64::from(number) * 64;
        database.set_owner(first, 64, Owner::ram(number)).unwrap();
        database.write_descriptor(&system(number, kind, first)).unwrap();
    }
    database.set_owner(1500, 100, Owner::io(8)).unwrap();
    let reader = Reader::new(words);
    let engine = Engine::genesis(database, limits, 0, "genesis").unwrap();
    let fake = Fake {
        reader,
        owners: (0..frames).map(|frame| reader.owner(frame).unwrap()).collect(),
        instances: [ULTRAVISOR, BOOT, COMMAND].into(),
        running: [ULTRAVISOR, BOOT, COMMAND].into(),
        complete: [ULTRAVISOR, BOOT, COMMAND].into(),
        channels: BTreeMap::new(),
        devices: BTreeMap::new(),
        let_go: BTreeSet::new(),
        refuse_devices: 0,
        refuse_stops: 0,
        confirms: false,
        owed: BTreeMap::new(),
        cpu: SYSTEM.iter().map(|(number, _)| (*number, (256, 0, ALL))).collect(),
        in_use: BTreeSet::new(),
        refuse_after: None,
        use_at_refusal: None,
        served: BTreeSet::new(),
        short_turns: false,
        start_parts: 0,
        largest: 0,
        dropped: BTreeMap::new(),
        cut_after: None,
    };
    (engine, fake)
}

pub fn agree(engine: &Engine, fake: &Fake) {
    assert!(engine.index_agrees());
    memory_adds_up(engine);
    let reader = engine.database().reader();
    let mut owned: BTreeMap<u32, u64> = BTreeMap::new();
    for range in reader.ranges(0) {
        let frames = range.first as usize..(range.first + range.frames) as usize;
        assert!(fake.owners[frames].iter().all(|owner| *owner == range.owner), "{range:?}");
        if !range.owner.io {
            *owned.entry(range.owner.number).or_default() += range.frames;
        }
    }
    let numbers: BTreeSet<u32> = engine.database().numbers().collect();
    assert!(fake.instances.is_subset(&numbers));
    for number in &numbers {
        let descriptor = reader.descriptor(*number).unwrap();
        let lives = matches!(descriptor.state, state::RUNNING | state::PAUSED);
        assert!(!lives || fake.instances.contains(number));
        assert!(!lives || fake.complete.contains(number), "{number} can be written still");
        assert_eq!(descriptor.state == state::RUNNING, fake.running.contains(number));
        if fake.instances.contains(number) && descriptor.state != state::DYING {
            let cpu = (descriptor.cpu_weight, descriptor.cpu_cap, descriptor.cpu_allowed);
            assert_eq!(fake.cpu[number], cpu);
        }
        let owned = owned.get(number).copied().unwrap_or(0);
        if *number >= FIRST_GUEST {
            assert_eq!(owned, descriptor.memory_frames + descriptor.instance_frames);
        }
    }
    let channels: BTreeMap<_, _> =
        engine.database().channels().map(|(i, c)| (i, c.as_bytes()[4..].to_vec())).collect();
    assert_eq!(channels, fake.channels);
    let devices = 0..engine.database().devices();
    let devices = devices.map(|index| (index, reader.device(index).unwrap().owner));
    let devices: BTreeMap<_, _> = devices.filter(|(_, owner)| *owner != UNASSIGNED).collect();
    assert_eq!(devices, fake.devices);
}

/// Checks that the counts behind *resources* agree with a walk through the page map.
fn memory_adds_up(engine: &Engine) {
    let Answer::Resources(resources) = ask_engine(engine, &Query::Resources) else {
        panic!("no resources");
    };
    let mut walked: BTreeMap<(u32, bool), ([u64; 3], u64)> = BTreeMap::new();
    for (range, tier) in engine.database().reader().entries(0) {
        let (tiers, frames) = walked.entry((range.owner.number, range.owner.io)).or_default();
        tiers[tier] += 1;
        *frames += range.frames;
    }
    let rows = resources.memory.iter().map(|row| ((row.owner, row.io), (row.tiers, row.frames)));
    assert_eq!(rows.collect::<Vec<_>>(), walked.into_iter().collect::<Vec<_>>());
}

/// The contents of the database without generations.
pub fn picture(engine: &Engine) -> (Vec<u8>, u64) {
    let (reader, database) = (engine.database().reader(), engine.database());
    let mut bytes = Vec::new();
    for number in database.numbers() {
        let mut descriptor = reader.descriptor(number).unwrap();
        descriptor.generation = 0;
        bytes.extend_from_slice(&descriptor.as_bytes()[..320]);
    }
    for (index, channel) in database.channels() {
        bytes.extend_from_slice(&index.to_le_bytes());
        bytes.extend_from_slice(&channel.as_bytes()[4..]);
    }
    for index in 0..database.devices() {
        bytes.extend_from_slice(&reader.device(index).unwrap().as_bytes()[4..8]);
    }
    for index in 0..database.endpoints() {
        let endpoint = database.endpoint(index).unwrap();
        bytes.extend_from_slice(&endpoint.state.to_le_bytes());
        bytes.extend_from_slice(&endpoint.as_bytes()[16..256]);
    }
    for range in reader.ranges(0) {
        bytes.extend_from_slice(format!("{range:?}").as_bytes());
    }
    (bytes, database.contents())
}

pub fn create(name: &str) -> Operation {
    create_as(name, None)
}

/// Creates an I/O partition.
pub fn create_io(name: &str) -> Operation {
    let mut create = create(name);
    if let Operation::CreatePartition { kind, .. } = &mut create {
        *kind = kind::IO;
    }
    create
}

/// Creates a partition with a number that the caller chooses.
pub fn create_as(name: &str, number: Option<u32>) -> Operation {
    Operation::CreatePartition {
        number,
        kind: kind::GUEST,
        rights: 0,
        name: name.into(),
        vcpus: 2,
        cpu_weight: 256,
        cpu_cap: 0,
        cpu_affinity: vec![],
        cpu_dedicated: false,
        grant_frames: 4,
    }
}

pub fn start_at(frame: u64) -> Start {
    Start {
        entry: 0x20_0000,
        stack: 0x30_0000,
        start_info: 0x40_0000,
        page_table: frame,
        console_frame: 0,
        store_frame: 0,
    }
}

pub fn transaction(operations: Vec<Operation>) -> Transaction {
    Transaction { planned_at: None, pending: false, reason: "test".into(), operations }
}

pub struct Host<'a> {
    pub engine: Engine<'a>,
    pub monitor: Fake<'a>,
    pub next: u64,
}

impl<'a> Host<'a> {
    pub fn new(words: &'a [AtomicU32]) -> Self {
        Self::of(words, FRAMES, LIMITS)
    }

    /// A host with `frames` frames.
    pub fn of(words: &'a [AtomicU32], frames: u64, limits: Limits) -> Self {
        let (engine, monitor) = host_of(words, frames, limits);
        Self { engine, monitor, next: 1 }
    }

    pub fn run(&mut self, transaction: &Transaction) -> Result<Vec<Outcome>, Box<Refusal>> {
        self.run_as(BOOT, transaction)
    }

    pub fn run_as(
        &mut self,
        who: u32,
        transaction: &Transaction,
    ) -> Result<Vec<Outcome>, Box<Refusal>> {
        self.next += 1;
        let reply = self.engine.execute(&mut self.monitor, who, 5, self.next, transaction);
        agree(&self.engine, &self.monitor);
        match reply.result.map_err(Box::new)? {
            Answer::Applied(outcomes) => Ok(outcomes),
            other => panic!("{other:?}"),
        }
    }

    pub fn ok(&mut self, operations: Vec<Operation>) -> Vec<Outcome> {
        self.run(&transaction(operations)).unwrap()
    }

    pub fn refused(&mut self, operations: Vec<Operation>) -> Box<Refusal> {
        let before = picture(&self.engine);
        let refusal = self.run(&transaction(operations)).unwrap_err();
        assert_eq!(picture(&self.engine), before);
        refusal
    }

    /// Checks the code of each refusal, the begin of its object and a part of its reason.
    pub fn refuses<'t>(
        &mut self,
        cases: impl IntoIterator<Item = (Operation, Code, &'t str, &'t str)>,
    ) {
        for (operation, code, object, reason) in cases {
            let refusal = self.refused(vec![operation.clone()]);
            assert_eq!(refusal.code, code, "{operation:?}");
            assert!(refusal.object.starts_with(object), "{operation:?}: {}", refusal.object);
            assert!(refusal.reason.contains(reason), "{operation:?}: {}", refusal.reason);
            assert!(!refusal.way_out.is_empty(), "{operation:?}");
        }
    }

    /// Opens a new session of the command partition. Returns the requests that were rolled back.
    pub fn open(&mut self) -> Vec<u64> {
        self.next += 1;
        let reply = self.engine.open(&mut self.monitor, COMMAND, 5, self.next);
        agree(&self.engine, &self.monitor);
        match reply.result {
            Ok(Answer::Opened { rolled_back }) => rolled_back,
            other => panic!("{other:?}"),
        }
    }

    pub fn undo(&mut self, sequence: u64) -> Result<(), Box<Refusal>> {
        self.next += 1;
        let before = picture(&self.engine);
        let reply =
            self.engine.undo(&mut self.monitor, (COMMAND, 6), self.next, (sequence, "a mistake"));
        agree(&self.engine, &self.monitor);
        reply.result.map(drop).map_err(|refusal| {
            assert_eq!(picture(&self.engine), before);
            Box::new(refusal)
        })
    }

    /// The number of the last record.
    pub fn last(&self) -> u64 {
        self.engine.log_bounds().1 - 1
    }

    pub fn descriptor(&self, number: u32) -> PartitionDescriptor {
        self.engine.database().reader().descriptor(number).unwrap()
    }

    /// The ranges of the page map with their owners.
    pub fn map(&self) -> Vec<resource_db::OwnedRange> {
        self.engine.database().reader().ranges(0).collect()
    }

    /// A partition with memory and a start state, still building.
    pub fn built(&mut self, name: &str) -> (u32, Range) {
        let memory = Operation::AssignMemory { partition: Target::CreatedBy(0), frames: 100 };
        let outcomes = self.ok(vec![create(name), memory]);
        let (Outcome::Partition(number), Outcome::Memory(ranges)) = (&outcomes[0], &outcomes[1])
        else {
            panic!("{outcomes:?}");
        };
        let partition = Target::Number(*number);
        self.ok(vec![Operation::SetStart { partition, start: start_at(ranges[0].first) }]);
        (*number, ranges[0])
    }
}
