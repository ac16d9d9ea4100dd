//! Builds in a simulated system, with an honest and with a hostile client.

use super::*;
use control::command::{Code, Start};
use proptest::prelude::*;
use pv_abi::xen::elfnote;
use std::cell::RefCell;
use std::collections::BTreeMap;
use zerocopy::FromZeros;

const BASE: u64 = 0xffff_ffff_8000_0000;
const GUEST: u32 = 20;
const INSTANCE: u64 = 0x5000;

/// An ELF kernel with one segment of this many bytes, at 1 MiB.
fn kernel(bytes: usize) -> Vec<u8> {
    let mut notes = Vec::new();
    for (kind, value) in [
        (elfnote::VIRT_BASE, BASE),
        (elfnote::ENTRY, BASE + 0x10_0000),
        (elfnote::INIT_P2M, 0x80_0000_0000),
        (elfnote::MOD_START_PFN, 1),
    ] {
        for word in [4, 8, kind] {
            notes.extend(word.to_le_bytes());
        }
        notes.extend(elfnote::OWNER);
        notes.extend(value.to_le_bytes());
    }
    for (kind, text) in [(elfnote::XEN_VERSION, b"xen-3.0\0"), (elfnote::LOADER, b"generic\0")] {
        for word in [4, 8, kind] {
            notes.extend(word.to_le_bytes());
        }
        notes.extend(elfnote::OWNER);
        notes.extend(text);
    }
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2_u16, 62, 1, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [0_u64, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [0_u16, 0, 64, 56, 2, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let (at, length) = (64 + 2 * 56_u64, notes.len() as u64);
    for (kind, words) in [
        (4_u32, [at, 0, 0, length, length, 4]),
        (1, [at + length, 0, 0x10_0000, bytes as u64, bytes as u64 + 5000, 4096]),
    ] {
        file.extend(kind.to_le_bytes());
        file.extend(7_u32.to_le_bytes());
        for word in words {
            file.extend(word.to_le_bytes());
        }
    }
    file.extend(notes);
    file.extend((0..bytes).map(|i| (i % 251) as u8 + 1));
    file
}

/// The simulated system: one partition, whose frames stay zero until they are written.
struct FakeSystem {
    descriptor: PartitionDescriptor,
    ranges: Vec<Extent>,
    frames: BTreeMap<u64, Box<Page>>,
    machine_to_physical: BTreeMap<u64, u64>,
    idle: Vec<Extent>,
    start: Option<Start>,
    /// Calls that succeed before one fails.
    luck: usize,
}

impl FakeSystem {
    fn new(frames: u64) -> Self {
        let mut descriptor = PartitionDescriptor::new_zeroed();
        (descriptor.number, descriptor.kind) = (GUEST, kind::GUEST);
        (descriptor.state, descriptor.owner) = (state::BUILDING, COMMAND);
        descriptor.name[..3].copy_from_slice(b"web");
        (descriptor.instance_first, descriptor.instance_frames) = (INSTANCE, 64);
        descriptor.memory_frames = frames;
        // The instance lies in the middle of its memory.
        let ranges = vec![
            Extent { first: INSTANCE - 100, frames: 300 },
            Extent { first: 0x9000, frames: frames - 236 },
        ];
        Self {
            descriptor,
            ranges,
            frames: BTreeMap::new(),
            machine_to_physical: BTreeMap::new(),
            idle: Vec::new(),
            start: None,
            luck: usize::MAX,
        }
    }

    fn fortune(&mut self) -> Result<(), Failure> {
        self.luck = self.luck.checked_sub(1).ok_or(Failure::Answer("a test"))?;
        Ok(())
    }

    fn owns(&self, frame: u64) -> bool {
        let instance = INSTANCE..INSTANCE + 64;
        let own = self.ranges.iter().any(|r| (r.first..r.first + r.frames).contains(&frame));
        own && !instance.contains(&frame)
    }
}

impl Ground for FakeSystem {
    fn descriptor(&mut self, partition: u32) -> Result<Option<Box<PartitionDescriptor>>, Failure> {
        self.fortune()?;
        Ok((partition == GUEST).then(|| Box::new(self.descriptor)))
    }

    fn ranges(&mut self, _: u32) -> Result<Vec<Extent>, Failure> {
        self.fortune()?;
        Ok(self.ranges.clone())
    }

    fn connect(&mut self, _: u32, _: &Plan, target: u64) -> Result<Ports, Failure> {
        self.fortune()?;
        self.descriptor.memory_target = target;
        (self.descriptor.console_port, self.descriptor.store_port) = (1, 2);
        Ok(Ports { console: 1, store: 2 })
    }

    fn place(&mut self, _: u32, pfn: u64, extent: Extent) -> Result<(), Failure> {
        self.fortune()?;
        for index in 0..extent.frames {
            assert!(self.owns(extent.first + index));
            self.machine_to_physical.insert(extent.first + index, pfn + index);
        }
        Ok(())
    }

    fn leave_idle(&mut self, _: u32, extent: Extent) -> Result<(), Failure> {
        self.fortune()?;
        self.idle.push(extent);
        Ok(())
    }

    fn write(
        &mut self,
        _: u32,
        frames: &[u64],
        each: &mut dyn FnMut(usize, &mut Page),
    ) -> Result<(), Failure> {
        self.fortune()?;
        for (index, &frame) in frames.iter().enumerate() {
            assert!(self.owns(frame));
            each(index, self.frames.entry(frame).or_insert_with(|| Box::new([0; PAGE_SIZE])));
        }
        Ok(())
    }

    fn set_start(&mut self, _: u32, plan: &Plan) -> Result<(), Failure> {
        self.fortune()?;
        self.start = Some(plan.start_state());
        Ok(())
    }
}

struct Shared(RefCell<Vec<u8>>);

impl Window for Shared {
    fn copy(&self, at: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.0.borrow()[at..at + out.len()]);
    }
}

fn begin(kernel: &[u8], initrd: &[u8], target: u64) -> BuildRequest {
    BuildRequest::Begin {
        protocol: PROTOCOL,
        partition: GUEST,
        kernel_bytes: kernel.len() as u64,
        initrd_bytes: initrd.len() as u64,
        command_line: "console=hvc0".to_string(),
        memory_target: target,
    }
}

/// Answers requests for pieces until the build ends.
fn build(
    guests: &mut Guests,
    system: &mut FakeSystem,
    files: [&[u8]; 2],
    target: u64,
) -> Result<BuildReply, Refusal> {
    let window = Shared(RefCell::new(vec![0xee; PIECE as usize]));
    let mut request = begin(files[0], files[1], target);
    let mut before = (0, 0);
    loop {
        match guests.handle(system, &window, request)? {
            BuildReply::Want { file, offset, bytes } => {
                assert!(bytes > 0 && bytes <= PIECE);
                let data = match file {
                    File::Kernel => files[0],
                    File::Initrd => files[1],
                };
                let data = &data[offset as usize..][..bytes as usize];
                window.0.borrow_mut()[..data.len()].copy_from_slice(data);
                request = BuildRequest::Data { file, offset, bytes };
                before = (before.0 + 1, bytes);
                assert!(before.0 < 100, "it ends");
            }
            end => return Ok(end),
        }
    }
}

#[test]
fn a_guest_is_built_of_pieces() {
    let file = kernel(2_500_000);
    let initrd: Vec<u8> = (0..1_500_000).map(|i| (i % 241) as u8).collect();
    let (mut system, mut guests) = (FakeSystem::new(4096), Guests::default());
    let built = build(&mut guests, &mut system, [&file, &initrd], 3000).unwrap();
    let BuildReply::Built { pages, console_port, console_grant } = built else {
        panic!("{built:?}");
    };
    assert!(pages as usize >= system.frames.len());
    assert_eq!((console_port, console_grant), (1, 0));
    // Finds the loaded bytes through the machine-to-physical entries.
    let frame_of: BTreeMap<u64, u64> =
        system.machine_to_physical.iter().map(|(&frame, &pfn)| (pfn, frame)).collect();
    let byte = |address: u64| {
        let page = frame_of.get(&(address / PAGE)).and_then(|frame| system.frames.get(frame));
        page.map_or(0, |page| page[(address % PAGE) as usize])
    };
    assert!((0..2_500_000).all(|i| byte(0x10_0000 + i) == (i % 251) as u8 + 1));
    assert!((2_500_000..2_505_000).all(|i| byte(0x10_0000 + i) == 0));
    let start = system.start.unwrap();
    let info = (start.start_info - BASE) / PAGE;
    let number =
        |at: u64| u64::from_le_bytes(core::array::from_fn(|i| byte(info * PAGE + at + i as u64)));
    assert_eq!(number(32), 3000, "nr_pages is the memory target");
    assert_eq!(number(40), (INSTANCE + 1) * PAGE, "shared info");
    let (disk, bytes) = (number(112) * PAGE, number(120));
    assert_eq!(bytes, 1_500_000);
    assert!((0..bytes).all(|i| byte(disk + i) == (i % 241) as u8));
    // Exactly the frames past the target are idle.
    let idle: u64 = system.idle.iter().map(|extent| extent.frames).sum();
    assert_eq!((idle, system.machine_to_physical.len()), (1096, 3000));
    assert!(system.idle.iter().all(|e| !system.machine_to_physical.contains_key(&e.first)));
}

#[test]
fn what_was_begun_is_not_built_again() {
    let file = kernel(5000);
    let (mut system, mut guests) = (FakeSystem::new(2048), Guests::default());
    build(&mut guests, &mut system, [&file, &[]], 2048).unwrap();
    let refused = build(&mut guests, &mut system, [&file, &[]], 2048).unwrap_err();
    assert_eq!((refused.code, &*refused.object), (Code::WrongState, "partition \"web\""));
    assert!(system.idle.is_empty());
}

#[test]
fn wrong_numbers_are_refused_with_what_would_work() {
    let file = kernel(5000);
    let refused = |change: fn(&mut FakeSystem), target| {
        let (mut system, mut guests) = (FakeSystem::new(2048), Guests::default());
        change(&mut system);
        let refusal = build(&mut guests, &mut system, [&file, &[7; 100]], target).unwrap_err();
        assert!(!refusal.reason.is_empty() && !refusal.way_out.is_empty());
        assert!(system.frames.is_empty() && system.start.is_none());
        (refusal.code, refusal.field)
    };
    let is = |code: Code, field: &str| (code, field.to_string());
    assert_eq!(refused(|_| {}, 0), is(Code::OutOfRange, "memory_target"));
    assert_eq!(refused(|_| {}, 2049), is(Code::OutOfRange, "memory_target"));
    assert_eq!(refused(|_| {}, 300), is(Code::NoMemory, "memory"));
    assert_eq!(refused(|w| w.descriptor.owner = 2, 2048), is(Code::NotOwner, "owner"));
    assert_eq!(refused(|w| w.descriptor.kind = kind::COMMAND, 2048), is(Code::NotOwner, "owner"));
    assert_eq!(refused(|w| w.descriptor.state = state::RUNNING, 9), is(Code::WrongState, "state"));
    assert_eq!(refused(|w| w.descriptor.page_table = 1, 9), is(Code::WrongState, "memory"));
    assert_eq!(refused(|w| w.ranges[1].frames -= 1, 2048), is(Code::Failed, "build"));
}

#[test]
fn a_file_that_is_no_kernel_is_refused() {
    for file in [&b"hello"[..], &[0; 70_000], &kernel(5000)[..200]] {
        let (mut system, mut guests) = (FakeSystem::new(2048), Guests::default());
        let refused = build(&mut guests, &mut system, [file, &[]], 2048).unwrap_err();
        assert_eq!((refused.code, &*refused.field), (Code::NoKernel, "kernel"), "{refused:?}");
        assert_eq!((refused.reason.contains(';'), &*refused.way_out), (false, "copy it again"));
        assert_eq!(system.descriptor.console_port, 0, "nothing was begun");
    }
}

#[test]
fn a_piece_that_was_not_asked_for_ends_the_build() {
    let (mut system, mut guests) = (FakeSystem::new(2048), Guests::default());
    let window = Shared(RefCell::new(vec![0; PIECE as usize]));
    let data = |offset, bytes| BuildRequest::Data { file: File::Kernel, offset, bytes };
    let mut ask = |request| guests.handle(&mut system, &window, request);
    assert_eq!(ask(data(0, 1)).unwrap_err().code, Code::WrongPiece);
    assert!(matches!(ask(begin(&[1; 99], &[], 9)), Ok(BuildReply::Want { bytes: 99, .. })));
    assert_eq!(ask(data(u64::MAX, u64::MAX)).unwrap_err().code, Code::WrongPiece);
    assert_eq!(ask(data(0, 99)).unwrap_err().code, Code::WrongPiece, "it is over");
    assert!(ask(begin(&[1; 99], &[], 9)).is_ok());
    assert_eq!(ask(BuildRequest::Abort), Ok(BuildReply::Aborted));
    assert_eq!(ask(data(0, 99)).unwrap_err().code, Code::WrongPiece);
}

/// Wherever the system fails, the client gets a refusal, and the next guest is built.
#[test]
fn a_failure_at_any_call_ends_one_build() {
    let file = kernel(2_500_000);
    for luck in 0.. {
        let (mut system, mut guests) = (FakeSystem::new(4096), Guests::default());
        system.luck = luck;
        match build(&mut guests, &mut system, [&file, &[1; 5000]], 4000) {
            Ok(_) => {
                assert!(luck > 8, "{luck}");
                return;
            }
            Err(refused) => assert_eq!((refused.code, system.start), (Code::Failed, None)),
        }
        let mut other = FakeSystem::new(4096);
        assert!(build(&mut guests, &mut other, [&file, &[]], 4096).is_ok());
    }
}

fn any_request() -> impl Strategy<Value = BuildRequest> {
    let file = prop_oneof![Just(File::Kernel), Just(File::Initrd)];
    let few = prop_oneof![Just(0_u64), Just(176), Just(65_536), 0..5000_u64, any::<u64>()];
    let bytes = few.clone();
    let begin = (0..3_u16, 19..22_u32, few.clone(), few.clone(), few.clone(), "[a-z]{0,1100}");
    prop_oneof![
        Just(BuildRequest::Abort),
        Just(BuildRequest::Heap),
        (file, few, bytes).prop_map(|(file, offset, bytes)| BuildRequest::Data {
            file,
            offset,
            bytes
        }),
        begin.prop_map(|(protocol, partition, kernel_bytes, initrd_bytes, target, line)| {
            BuildRequest::Begin {
                protocol,
                partition,
                kernel_bytes,
                initrd_bytes,
                command_line: line,
                memory_target: target,
            }
        }),
    ]
}

proptest! {
    /// A client that sends anything, and follows the requests half of the time, always gets an
    /// answer; only the partition's own frames are touched (see [`FakeSystem`]).
    #[test]
    fn no_client_harms_the_builder(
        requests in prop::collection::vec((any_request(), any::<bool>()), 1..40),
        damage in prop::collection::vec((0_usize..400, any::<u8>()), 0..8),
    ) {
        let mut file = kernel(70_000);
        for (at, byte) in damage {
            file[at] = byte;
        }
        let (mut system, mut guests) = (FakeSystem::new(2048), Guests::default());
        let window = Shared(RefCell::new(vec![0; PIECE as usize]));
        let mut wanted = None;
        for (request, follow) in requests {
            let request = match (wanted.take(), request) {
                (Some((file, offset, bytes)), _) if follow => {
                    BuildRequest::Data { file, offset, bytes }
                }
                (_, BuildRequest::Begin { .. }) if follow => begin(&file, &[1; 3000], 2048),
                (_, request) => request,
            };
            if let Ok(BuildReply::Want { file: of, offset, bytes }) =
                guests.handle(&mut system, &window, request)
            {
                prop_assert!(bytes <= PIECE);
                if of == File::Kernel && let Some(data) = file.get(offset as usize..) {
                    let length = data.len().min(bytes as usize);
                    window.0.borrow_mut()[..length].copy_from_slice(&data[..length]);
                }
                wanted = Some((of, offset, bytes));
            }
        }
    }
}

/// Messages of the hostile client below.
const MESSAGES: u32 = 20_000;

/// The client sends damaged messages, unrequested pieces and invalid kernels; now and then another
/// guest is built correctly.
#[test]
fn a_flood_of_messages_is_answered_and_guests_are_still_built() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let file = kernel(70_000);
    let window = Shared(RefCell::new(vec![0; PIECE as usize]));
    let (mut system, mut guests) = (FakeSystem::new(2048), Guests::default());
    let (mut wanted, mut begun, mut damaged) = (None, 0, 0);
    for number in 0..MESSAGES {
        // A partition whose build was begun is not built again: the client takes another.
        if system.descriptor.console_port != 0 && wanted.is_none() {
            system = FakeSystem::new(2048);
        }
        let few = [0, 1, 176, 65_536, 70_000, u64::MAX, next(), next() % 5000];
        let mut word = || few[(next() % 8) as usize];
        let of = if word() % 2 == 0 { File::Kernel } else { File::Initrd };
        let request = match (wanted.take(), word() % 7) {
            (Some((file, offset, bytes)), 0..5) => BuildRequest::Data { file, offset, bytes },
            (_, 0..2) => begin(&file, &[1; 3000], 2048),
            (_, 2) => BuildRequest::Abort,
            (_, 3) => BuildRequest::Heap,
            (_, 4) => BuildRequest::Begin {
                protocol: word() as u16,
                partition: GUEST + (word() % 2) as u32,
                kernel_bytes: word(),
                initrd_bytes: word(),
                command_line: "x".repeat((word() % 1100) as usize),
                memory_target: word(),
            },
            _ => BuildRequest::Data { file: of, offset: word(), bytes: word() },
        };
        let mut bytes = postcard::to_allocvec(&request).unwrap();
        if number % 3 == 0 {
            let at = (word() % bytes.len() as u64) as usize;
            bytes[at] = word() as u8;
        }
        // An invalid message ends the build.
        let Ok(request) = postcard::from_bytes::<BuildRequest>(&bytes) else {
            guests = Guests::default();
            damaged += 1;
            continue;
        };
        match guests.handle(&mut system, &window, request) {
            Ok(BuildReply::Want { file: of, offset, bytes }) => {
                assert!(bytes > 0 && bytes <= PIECE);
                if let (File::Kernel, Some(data)) = (of, file.get(offset as usize..)) {
                    let length = data.len().min(bytes as usize);
                    window.0.borrow_mut()[..length].copy_from_slice(&data[..length]);
                }
                wanted = Some((of, offset, bytes));
                begun += 1;
            }
            Ok(_) => {}
            Err(refusal) => assert!(refusal.reason.len() <= 1000 && refusal.object.len() <= 1000),
        }
        if number % 2000 == 0 {
            system = FakeSystem::new(2048);
            build(&mut guests, &mut system, [&file, &[7; 100]], 2048).unwrap();
            system = FakeSystem::new(2048);
            wanted = None;
        }
    }
    assert!(begun > 100 && damaged > 100, "{begun} begun, {damaged} damaged");
}
