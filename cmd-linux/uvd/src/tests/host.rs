//! A host for the daemon: the real transaction engine behind a command channel, a monitor that
//! obeys, and a boot partition that takes the kernel bytes that it asks for.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use channels::Shared;
use channels::ring::{Endpoint, Side};
use control::build::{self, BuildReply, BuildRequest, PAGES, RING_PAGES, WINDOW_PAGES};
use control::command::{
    Body, Heap, IssuesAnswer, Operation, Query, Reply, Request, Start, Target, Transaction,
    VersionAnswer,
};
use definition::{Autostart, Cpu, Definition, Policies, Policy};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pv_abi::PAGE_SIZE;
use pv_abi::uv::calls::{CpuUsage, MonitorEvent, PartitionUsage, cause};
use pv_abi::uv::channel::COMMAND_PAGES;
use pv_abi::uv::database::{
    BOOT, COMMAND, IO_A, PartitionDescriptor, ULTRAVISOR, channel_kind, kind, state,
};
use pv_abi::uv::devices::{Bar, DeviceEntry, DeviceFunction};
use resource_db::{Database, Owner, PAGE_WORDS};
use transaction::{Action, Engine, Facts, Gauges, Limits, Monitor};
use uvd_protocol::{Answered, Ask, Asked, Service, ServiceAnswer, Told, read, write};
use zerocopy::FromZeros;

use super::{Bell, memory, own_path, start_with};
use crate::context::Devices;
use crate::context::requests::PATIENCE_MS;
use crate::daemon::End;
use crate::link::{Link, Port};

/// Frames of the machine, which is 256 MiB.
const FRAMES: u64 = 65_536;
const CPUS: u32 = 4;

/// Two disks, at 00:04.0 and 00:05.0.
static FUNCTIONS: [DeviceFunction; 2] = [disk(4 << 3), disk(5 << 3)];

const fn disk(address: u32) -> DeviceFunction {
    const BAR: Bar = Bar { address: 0, bytes: 0 };
    DeviceFunction {
        address,
        id: 0x1042_1af4,
        class: 0x0100_0000,
        subsystem: 0,
        flags: 0,
        refused: 0,
        msix_capability: 0,
        msix_vectors: 0,
        express_capability: 0,
        reserved: 0,
        msix_table: 0,
        msix_pending: 0,
        bars: [BAR; 6],
    }
}

/// A monitor that obeys until the test says otherwise.
#[derive(Default)]
pub struct Obedient {
    refuse: Arc<Mutex<Option<u64>>>,
    /// Whether disks that are detaching are served still.
    pub serves: bool,
}

impl Monitor for Obedient {
    fn drained(&mut self, _: u32) -> bool {
        !self.serves
    }

    fn perform(&mut self, _: Action) -> Result<(), i32> {
        Ok(())
    }

    fn attempt(&mut self, _: Action) -> Result<(), i32> {
        let mut refuse = self.refuse.lock().unwrap();
        match &mut *refuse {
            Some(0) => {
                *refuse = None;
                Err(16)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn frame_owner(&mut self, _: u64) -> Option<(u32, bool)> {
        None
    }

    fn in_use(&mut self, _: u64) -> bool {
        false
    }
}

impl Gauges for Obedient {
    fn partition(&self, _: u32) -> Option<PartitionUsage> {
        None
    }

    fn cpu(&self, _: u32) -> Option<CpuUsage> {
        None
    }

    fn frame(&self, _: u64) -> Option<(u32, bool)> {
        None
    }
}

/// Consoles of guests, by number: the page, and the guest's end of the bell.
type Guests = Arc<Mutex<BTreeMap<u32, (File, Bell)>>>;

/// Partitions that were built, each with its kernel.
type Built = Arc<Mutex<Vec<(u32, Vec<u8>)>>>;

/// The requests that the ultravisor received, in order.
type Questions = Arc<Mutex<Vec<Body>>>;

/// The devices that the daemon uses.
pub struct Reach {
    guests: Guests,
    window: File,
    bell: Mutex<Option<Bell>>,
}

impl Devices for Reach {
    fn console(&self, number: u32, _: u32) -> std::io::Result<(Shared, Box<dyn Port>)> {
        let (bell, far) = Bell::pair();
        let page = memory(1);
        let shared = Shared::map(&page, 0, 1)?;
        self.guests.lock().unwrap().insert(number, (page, bell));
        Ok((shared, Box::new(far)))
    }

    fn build(&self) -> Result<(Shared, Box<dyn Port>), String> {
        let bell = self.bell.lock().unwrap().take().ok_or("taken")?;
        Ok((Shared::map(&self.window, 0, PAGES as u32).unwrap(), Box::new(bell)))
    }
}

/// An order of the test to the host.
pub enum Order {
    /// A guest ends by itself.
    End {
        /// Its name.
        name: String,
        /// Detail of its shutdown.
        detail: u32,
    },
    /// A guest ends by itself as soon as it runs, before any client learns that it runs.
    EndAtOnce {
        /// Its name.
        name: String,
        /// Detail of its shutdown.
        detail: u32,
    },
    /// Make the monitor refuse the action with this number, counted from now.
    Refuse(u64),
    /// Lose the reply to the next transaction that is not left pending, and to this many requests
    /// about the log after it.
    LoseReply(u32),
    /// Answer nothing until the other end sends or is dropped.
    Hold(std::sync::mpsc::Receiver<()>),
    /// Stop.
    Stop,
}

/// The host, the daemon and a client.
pub struct Host {
    pub orders: std::sync::mpsc::Sender<Order>,
    waker: Bell,
    guests: Guests,
    socket: PathBuf,
    stop: UnixStream,
    daemon: Option<JoinHandle<End>>,
    machine: Option<JoinHandle<Summary>>,
    pub state: PathBuf,
    /// Bytes of kernels that the boot partition was given.
    pub built: Built,
    /// See [`Questions`].
    pub asked: Questions,
}

/// The state of a host at its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    /// Names of its guests.
    pub guests: Vec<String>,
    /// Free frames.
    pub free: u64,
}

impl Host {
    /// A host with a daemon.
    pub fn new(name: &str) -> Self {
        let state = own_path(&format!("{name}.redb"));
        let _ = std::fs::remove_file(&state);
        Self::with_state(name, state)
    }

    /// A host whose daemon waits this many milliseconds for a reply.
    pub fn impatient(name: &str, patience_ms: u32) -> Self {
        let state = own_path(&format!("{name}.redb"));
        let _ = std::fs::remove_file(&state);
        Self::with(name, state, patience_ms)
    }

    /// A host with a daemon that uses this state file.
    pub fn with_state(name: &str, state: PathBuf) -> Self {
        Self::with(name, state, PATIENCE_MS)
    }

    fn with(name: &str, state: PathBuf, patience_ms: u32) -> Self {
        let channel = memory(COMMAND_PAGES);
        let window = memory(PAGES);
        let (command_bell, command_far) = Bell::pair();
        let (build_bell, build_far) = Bell::pair();
        let (waker, woken) = Bell::pair();
        let (orders, ordered) = std::sync::mpsc::channel();
        let guests = Guests::default();
        let (built, asked) = (Built::default(), Questions::default());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let machine = {
            let (channel, window) = (channel.try_clone().unwrap(), window.try_clone().unwrap());
            let (built, asked) = (Arc::clone(&built), Arc::clone(&asked));
            std::thread::spawn(move || {
                let machine =
                    Machine { channel, window, command_bell, build_bell, woken, built, asked };
                machine.run(&ordered, &ready)
            })
        };
        is_ready.recv().unwrap();
        let reach =
            Reach { guests: Arc::clone(&guests), window, bell: Mutex::new(Some(build_far)) };
        let (socket, stop, daemon) = start_with(name, &state, 1000, reach, move |daemon| {
            let shared = Shared::map(&channel, 0, COMMAND_PAGES as u32).unwrap();
            daemon.context().requests.patience_ms.set(patience_ms);
            daemon.serve(Link::open(shared.words(), command_far).unwrap())
        });
        let (daemon, machine) = (Some(daemon), Some(machine));
        Self { orders, waker, guests, socket, stop, daemon, machine, state, built, asked }
    }

    /// A connection to the daemon.
    pub fn client(&self) -> Client {
        Client { stream: super::connect(&self.socket), id: 0 }
    }

    /// Gives the host an order.
    pub fn order(&mut self, order: Order) {
        self.orders.send(order).unwrap();
        self.waker.ring();
    }

    /// Prints as a guest.
    pub fn print(&self, number: u32, text: &[u8]) {
        let mut guests = self.guests.lock().unwrap();
        let (page, bell) = guests.get_mut(&number).expect("its console is not connected");
        let shared = Shared::map(page, 0, 1).unwrap();
        let words = shared.words();
        let from = words[771].load(Ordering::Acquire);
        for (at, byte) in (from..).zip(text) {
            let at = 1024 + at % 2048;
            let word = &words[at as usize / 4];
            let mut bytes = word.load(Ordering::Relaxed).to_le_bytes();
            bytes[at as usize % 4] = *byte;
            word.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
        }
        words[771].store(from + text.len() as u32, Ordering::Release);
        bell.ring();
    }

    /// Reads the typed input as a guest's kernel.
    pub fn read(&self, number: u32) -> Vec<u8> {
        let mut guests = self.guests.lock().unwrap();
        let (page, bell) = guests.get_mut(&number).expect("its console is not connected");
        let shared = Shared::map(page, 0, 1).unwrap();
        let words = shared.words();
        let (from, to) = (words[768].load(Ordering::Acquire), words[769].load(Ordering::Acquire));
        let byte = |at: u32| words[at as usize % 1024 / 4].load(Ordering::Relaxed) >> (at % 4 * 8);
        let bytes = (from..to).map(|at| byte(at) as u8).collect();
        words[768].store(to, Ordering::Release);
        bell.ring();
        bytes
    }

    /// Ends the daemon and the host.
    pub fn end(mut self) -> Summary {
        use std::io::Write;
        let _ = self.stop.write(b"!");
        assert_eq!(self.daemon.take().unwrap().join().unwrap(), End::Stopped);
        self.order(Order::Stop);
        let _ = std::fs::remove_file(&self.socket);
        let _ = std::fs::remove_file(&self.state);
        self.machine.take().unwrap().join().unwrap()
    }
}

/// A client of the daemon.
pub struct Client {
    stream: UnixStream,
    id: u64,
}

impl Client {
    /// Sends a request, and skips all answers before the last.
    pub fn ask(&mut self, service: Service) -> Told {
        let id = self.begin(service);
        let mut begun: Option<ServiceAnswer> = None;
        loop {
            let mut told = self.next();
            if let Ok(Answered::Piece(piece)) = told.result {
                begun = Some(begun.map_or(piece.clone(), |begun| begun.followed_by(piece)));
                continue;
            }
            if let (Ok(Answered::Service(last)), Some(begun)) = (&mut told.result, &begun) {
                *last = begun.clone().followed_by(last.clone());
            }
            let news = matches!(
                told.result,
                Ok(Answered::Progress(_) | Answered::Attached | Answered::Output(_))
            );
            if told.id == id && !news {
                return told;
            }
        }
    }

    /// Undoes the newest record of the log.
    pub fn undo(&mut self) -> Told {
        let log = self.ask(Service::Log { most: 1 }).result;
        let Ok(Answered::Service(ServiceAnswer::Log(rows))) = log else {
            panic!("{log:?}");
        };
        let sequence = rows.last().unwrap().sequence;
        let undo = Body::Undo { sequence, reason: "a mistake".into() };
        let id = self.send(Asked::Ultravisor(undo));
        let told = self.next();
        assert_eq!(told.id, id);
        told
    }

    /// Sends a transaction to the ultravisor itself, as any client of the command channel may.
    pub fn transact(&mut self, operation: Operation) -> Told {
        let (planned_at, reason) = (None, String::new());
        let body = Transaction { planned_at, pending: false, reason, operations: vec![operation] };
        self.ask_ultravisor(Body::Transaction(body))
    }

    /// Sends a request to the ultravisor itself.
    pub fn ask_ultravisor(&mut self, body: Body) -> Told {
        let id = self.begin_ultravisor(body);
        let told = self.next();
        assert_eq!(told.id, id);
        told
    }

    /// Sends a request to the ultravisor itself and does not wait.
    pub fn begin_ultravisor(&mut self, body: Body) -> u64 {
        self.send(Asked::Ultravisor(body))
    }

    /// Sends a request and does not wait.
    pub fn begin(&mut self, service: Service) -> u64 {
        self.send(Asked::Service(service))
    }

    fn send(&mut self, body: Asked) -> u64 {
        self.id += 1;
        write(&self.stream, &Ask { id: self.id, timeout_ms: None, body }).unwrap();
        self.id
    }

    /// The next message.
    pub fn next(&mut self) -> Told {
        read(&self.stream).unwrap()
    }
}

/// The thread that plays ultravisor, monitor and boot partition.
struct Machine {
    channel: File,
    window: File,
    command_bell: Bell,
    build_bell: Bell,
    woken: Bell,
    built: Built,
    asked: Questions,
}

impl Machine {
    fn run(
        mut self,
        orders: &std::sync::mpsc::Receiver<Order>,
        ready: &std::sync::mpsc::Sender<()>,
    ) -> Summary {
        let words: Vec<AtomicU32> = (0..256 * PAGE_WORDS).map(|_| AtomicU32::new(0)).collect();
        let mut engine = genesis(&words);
        let refuse = Arc::new(Mutex::new(None));
        let mut monitor = Obedient { refuse: Arc::clone(&refuse), serves: false };
        let channel = Shared::map(&self.channel, 0, COMMAND_PAGES as u32).unwrap();
        let window = Shared::map(&self.window, 0, PAGES as u32).unwrap();
        let mut server = Endpoint::create(channel.words(), Side::Server).unwrap();
        let ring = &window.words()[..RING_PAGES * PAGE_WORDS];
        let mut builds = Endpoint::create(ring, Side::Server).unwrap();
        ready.send(()).unwrap();
        let mut site = Site::default();
        let mut buffer = Vec::new();
        let (mut time, mut at_once) = (0, None::<(String, u32)>);
        let mut losses = Losses::default();
        loop {
            time += 1_000_000;
            let mut worked = false;
            while server.receive(&mut buffer).unwrap() {
                let request: Request = postcard::from_bytes(&buffer).unwrap();
                self.asked.lock().unwrap().push(request.body.clone());
                let reply = answer(&mut engine, &mut monitor, time, &request);
                if let Some((name, detail)) = at_once.take_if(|(name, _)| runs(&engine, name)) {
                    end(&mut engine, &mut monitor, &name, detail);
                }
                worked = true;
                if losses.takes(&request) {
                    continue;
                }
                server.send(&postcard::to_allocvec(&reply).unwrap()).unwrap();
                self.command_bell.ring();
            }
            while builds.receive(&mut buffer).unwrap() {
                let request: build::Request = postcard::from_bytes(&buffer).unwrap();
                let data = &window.words()[RING_PAGES * PAGE_WORDS..];
                let result = site.step(&mut engine, &mut monitor, request.body, data);
                if let Ok(BuildReply::Built { .. }) = result {
                    let kernel = std::mem::take(&mut site.kernel);
                    self.built.lock().unwrap().push((site.partition, kernel));
                }
                let reply = build::Reply { id: request.id, result };
                builds.send(&postcard::to_allocvec(&reply).unwrap()).unwrap();
                self.build_bell.ring();
                worked = true;
            }
            engine.try_again(&mut monitor, time + 1_000_000_000);
            while let Ok(order) = orders.try_recv() {
                match order {
                    Order::Stop => return summary(&engine),
                    Order::Hold(until) => drop(until.recv()),
                    Order::Refuse(after) => *refuse.lock().unwrap() = Some(after),
                    Order::LoseReply(questions) => losses = Losses { armed: true, questions },
                    Order::EndAtOnce { name, detail } => at_once = Some((name, detail)),
                    Order::End { name, detail } => end(&mut engine, &mut monitor, &name, detail),
                }
                self.command_bell.ring();
                worked = true;
            }
            if !worked {
                self.wait();
            }
        }
    }

    fn wait(&mut self) {
        let bells = [&self.command_bell, &self.build_bell, &self.woken];
        let mut fds = bells.map(|bell| PollFd::new(bell.fd(), PollFlags::POLLIN));
        poll(&mut fds, PollTimeout::NONE).unwrap();
        for bell in [&mut self.command_bell, &mut self.build_bell, &mut self.woken] {
            bell.take();
        }
    }
}

/// Replies to lose; see [`Order::LoseReply`].
#[derive(Default)]
struct Losses {
    armed: bool,
    questions: u32,
}

impl Losses {
    /// Whether the reply to this request is lost.
    fn takes(&mut self, request: &Request) -> bool {
        match &request.body {
            Body::Transaction(transaction) if self.armed && !transaction.pending => {
                self.armed = false;
                true
            }
            Body::Query(Query::Log { .. }) if !self.armed && self.questions > 0 => {
                self.questions -= 1;
                true
            }
            _ => false,
        }
    }
}

pub fn genesis(words: &[AtomicU32]) -> Engine<'_> {
    let mut database = Database::create(words, FRAMES, FUNCTIONS.len() as u32).unwrap();
    database.set_boot(0x5eed).unwrap();
    let system = [(ULTRAVISOR, kind::ULTRAVISOR), (BOOT, kind::BOOT), (COMMAND, kind::COMMAND)];
    for (number, kind) in system {
        let first = u64::from(number) * 64;
        database.set_owner(first, 64, Owner::ram(number)).unwrap();
        let mut descriptor = PartitionDescriptor::new_zeroed();
        (descriptor.number, descriptor.kind, descriptor.state) = (number, kind, state::RUNNING);
        (descriptor.instance_first, descriptor.instance_frames) = (first, 8);
        let name = ["", "ultravisor", "boot", "command"][number as usize];
        descriptor.name[..name.len()].copy_from_slice(name.as_bytes());
        (descriptor.vcpus, descriptor.cpu_weight) = (1, 256);
        descriptor.cpu_affinity[0] = (1 << CPUS) - 1;
        descriptor.cpu_allowed[0] = (1 << CPUS) - 1;
        database.write_descriptor(&descriptor).unwrap();
    }
    // An I/O partition without memory of its own, which has the disks.
    let mut server = PartitionDescriptor::new_zeroed();
    (server.number, server.kind, server.state) = (IO_A, kind::IO, state::RUNNING);
    server.name[..4].copy_from_slice(b"io-a");
    database.write_descriptor(&server).unwrap();
    for index in 0..FUNCTIONS.len() as u32 {
        let entry = DeviceEntry { owner: IO_A, ..DeviceEntry::new_zeroed() };
        database.write_device(index, &entry).unwrap();
    }
    let (meltdown, gpt) = (false, false);
    let limits = Limits { cpus: CPUS, ranges: 16 * 1024, meltdown, gpt, functions: &FUNCTIONS };
    Engine::genesis(database, limits, 0, "test").unwrap()
}

fn facts() -> Facts {
    let version = VersionAnswer {
        ultravisor: "test".into(),
        protocol: 2,
        abi: 1,
        arena: 1,
        xen: 4 << 16 | 17,
        command_line: String::new(),
    };
    let cpus = (0..CPUS).map(|cpu| (cpu, cpu, true)).collect();
    let issues = IssuesAnswer { guests_start: true, ..IssuesAnswer::default() };
    Facts { version, firmware: vec![], cpus, issues }
}

pub fn answer(
    engine: &mut Engine<'_>,
    monitor: &mut Obedient,
    time: u64,
    request: &Request,
) -> Reply {
    let id = request.id;
    match &request.body {
        Body::Query(query) => {
            let answer = transaction::query(engine, &facts(), monitor, query);
            Reply { id, version: engine.database().contents(), result: Ok(answer) }
        }
        Body::Plan(transaction) => engine.dry_run(COMMAND, id, transaction),
        Body::Transaction(transaction) => engine.execute(monitor, COMMAND, time, id, transaction),
        Body::Open => engine.open(monitor, COMMAND, time, id),
        Body::Undo { sequence, reason } => {
            engine.undo(monitor, (COMMAND, time), id, (*sequence, reason))
        }
        Body::RollBack { requests } => {
            engine.roll_back_requests(monitor, (COMMAND, time), id, requests)
        }
    }
}

/// Makes a guest end by itself.
fn end(engine: &mut Engine<'_>, monitor: &mut Obedient, name: &str, detail: u32) {
    let partition = number_of(engine, name).expect("no such guest");
    let event =
        MonitorEvent { partition, cause: cause::SHUTDOWN, detail, vcpu: 0, address: 0, time: 5 };
    engine.monitor_did(monitor, &event);
}

fn number_of(engine: &Engine<'_>, name: &str) -> Option<u32> {
    let reader = engine.database().reader();
    engine.database().numbers().find(|number| {
        reader.descriptor(*number).is_ok_and(|one| transaction::name_of(&one) == name)
    })
}

fn runs(engine: &Engine<'_>, name: &str) -> bool {
    let number = number_of(engine, name);
    let descriptor = number.and_then(|number| engine.database().reader().descriptor(number).ok());
    descriptor.is_some_and(|one| one.state == state::RUNNING)
}

fn summary(engine: &Engine<'_>) -> Summary {
    let reader = engine.database().reader();
    let descriptors = engine.database().numbers().filter_map(|one| reader.descriptor(one).ok());
    let guests = descriptors.filter(|one| one.kind == kind::GUEST);
    let guests = guests.map(|one| transaction::name_of(&one)).collect();
    let free = reader.ranges(0).filter(|range| range.owner == Owner::FREE);
    Summary { guests, free: free.map(|range| range.frames).sum() }
}

/// A build under way: it asks for the kernel in pieces of a page, then for the RAM disk as a whole.
#[derive(Default)]
struct Site {
    partition: u32,
    kernel: Vec<u8>,
    kernel_bytes: u64,
    initrd_bytes: u64,
    request: u64,
}

impl Site {
    fn step(
        &mut self,
        engine: &mut Engine<'_>,
        monitor: &mut Obedient,
        body: BuildRequest,
        window: &[AtomicU32],
    ) -> Result<BuildReply, control::command::Refusal> {
        match body {
            BuildRequest::Abort => return Ok(BuildReply::Aborted),
            BuildRequest::Heap => return Ok(BuildReply::Heap(Heap::default())),
            BuildRequest::Begin { partition, kernel_bytes, initrd_bytes, .. } => {
                self.kernel.clear();
                (self.partition, self.kernel_bytes) = (partition, kernel_bytes);
                self.initrd_bytes = initrd_bytes;
            }
            BuildRequest::Data { file: build::File::Kernel, bytes, .. } => {
                let words = window.iter().map(|word| word.load(Ordering::Relaxed).to_le_bytes());
                self.kernel.extend(words.flatten().take(bytes as usize));
            }
            BuildRequest::Data { .. } => self.initrd_bytes = 0,
        }
        let left = self.kernel_bytes - self.kernel.len() as u64;
        let (offset, most) = (self.kernel.len() as u64, (WINDOW_PAGES * PAGE_SIZE) as u64);
        if left != 0 {
            let bytes = left.min(4096).min(most);
            return Ok(BuildReply::Want { file: build::File::Kernel, offset, bytes });
        }
        if self.initrd_bytes != 0 {
            let bytes = self.initrd_bytes.min(most);
            return Ok(BuildReply::Want { file: build::File::Initrd, offset: 0, bytes });
        }
        self.finish(engine, monitor)
    }

    fn finish(
        &mut self,
        engine: &mut Engine<'_>,
        monitor: &mut Obedient,
    ) -> Result<BuildReply, control::command::Refusal> {
        let own = engine.database().reader();
        let own = own.ranges(0).filter(|range| range.owner == Owner::ram(self.partition));
        let descriptor = engine.database().reader().descriptor(self.partition).unwrap();
        let instance =
            descriptor.instance_first..descriptor.instance_first + descriptor.instance_frames;
        let frame = own
            .flat_map(|range| range.first..range.first + range.frames)
            .find(|frame| !instance.contains(frame))
            .unwrap();
        let partition = Target::Number(self.partition);
        let start = Start {
            entry: 0x1000,
            stack: 0x2000,
            start_info: 0x3000,
            page_table: frame,
            console_frame: frame,
            store_frame: 0,
        };
        let channel = Operation::CreateChannel {
            partition,
            peer: COMMAND,
            kind: channel_kind::CONSOLE,
            frame,
            frames: 1,
            grant: 0,
        };
        let transaction = Transaction {
            planned_at: None,
            pending: false,
            reason: "build".into(),
            operations: vec![channel, Operation::SetStart { partition, start }],
        };
        self.request += 1;
        engine.execute(monitor, BOOT, 1, self.request, &transaction).result?;
        let descriptor = engine.database().reader().descriptor(self.partition).unwrap();
        let pages = self.kernel_bytes / PAGE_SIZE as u64;
        let console_port = descriptor.console_port;
        Ok(BuildReply::Built { pages, console_port, console_grant: 0 })
    }
}

/// A file of this many bytes that passes for a kernel.
pub fn kernel_file(name: &str, bytes: usize) -> PathBuf {
    let path = own_path(name);
    let mut text = vec![0u8; bytes];
    text[..4].copy_from_slice(b"\x7fELF");
    for (at, byte) in text.iter_mut().enumerate().skip(4) {
        *byte = (at % 251) as u8;
    }
    std::fs::write(&path, text).unwrap();
    path
}

/// A definition with 16 MiB of memory.
pub fn definition(name: &str, kernel: &Path) -> Definition {
    let all = Policy::Destroy;
    Definition {
        name: name.into(),
        kernel: kernel.into(),
        initrd: None,
        command_line: "test".into(),
        memory: 16 << 20,
        max_memory: 16 << 20,
        vcpus: 1,
        max_vcpus: 2,
        cpu: Cpu { weight: 256, cap: 0, affinity: vec![], dedicated: false },
        grant_frames: 4,
        on: Policies { poweroff: all, reboot: Policy::Restart, crash: Policy::Preserve },
        domain: None,
        description: None,
        autostart: Autostart::default(),
        disks: Vec::new(),
    }
}
