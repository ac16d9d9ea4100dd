//! Changes that are made together or not at all.
//!
//! ```text
//! kernels loaded, sizes checked                      nothing is changed yet
//! pending: create and assign memory, some at a time
//! each built by the boot partition; consoles connected
//! edits of definitions staged under the id of what follows
//! final: start, change live, destroy, complete       now it is so
//! edits settled
//! ```
//!
//! Rule: until the final transaction is committed, the batch can be rolled back. If this process
//! ends, the ultravisor does it; if it lives, [`Body::RollBack`] does it. Neither touches changes
//! of other clients. The staged edits hold exactly if the log shows that transaction as committed.
//! If the reply is lost, the log is read, at the latest before the next batch.

use std::fs::File;
use std::rc::Rc;
use std::time::{Duration, Instant};

use control::command::{
    Answer, Body, MAX_OPERATIONS, MAX_PENDING, Operation, Outcome, PROTOCOL, PartitionRow, Request,
    Target, Transaction,
};
use definition::Definition;
use futures_util::future::select;
use pv_abi::PAGE_SIZE;
use pv_abi::uv::channel::MAX_PAYLOAD;
use pv_abi::uv::database::{MAX_PARTITION, kind, state};
use uvd_protocol::Failure;

use super::{Reporter, allocate, session};
use crate::builder::{self, Parts};
use crate::console::line::Line;
use crate::hub::{Hub, refused, unexpected};
use crate::loader::Kernel;
use crate::log;
use crate::state::{Edit, Record, Staged};
use crate::turns::Turn;

/// The most partitions that one pending transaction creates, so that its reply, with the memory
/// ranges of each, fits a frame.
const CREATED_AT_ONCE: usize = 32;
/// The longest wait until destroyed partitions are gone.
const GONE: Duration = Duration::from_secs(10);

/// A partition to create.
#[derive(Clone, Debug)]
pub struct Creation {
    /// Its definition.
    pub definition: Definition,
    /// Whether the partition stays paused at first.
    pub paused: bool,
}

/// The parts of a batch.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The reason, for the audit log.
    pub reason: String,
    /// The version of the database that it was planned at.
    pub planned_at: Option<u64>,
    /// Partitions to create.
    pub creates: Vec<Creation>,
    /// Operations on existing partitions.
    pub changes: Vec<Operation>,
    /// Partitions to destroy.
    pub destroys: Vec<PartitionRow>,
    /// Edits of the definitions that hold afterwards.
    pub edits: Vec<Edit>,
}

/// Makes a transaction.
pub fn transaction(
    reason: &str,
    planned_at: Option<u64>,
    pending: bool,
    operations: Vec<Operation>,
) -> Transaction {
    Transaction { planned_at, pending, reason: reason.into(), operations }
}

/// Carries out the whole batch, or nothing; returns the numbers of the created partitions.
pub async fn carry_out(
    hub: &Rc<Hub>,
    batch: Batch,
    reporter: &Reporter,
) -> Result<Vec<u32>, Failure> {
    check_sizes(&batch)?;
    let kernels = load(hub, &batch, reporter).await?;
    let turn = take_turn(hub).await?;
    carry_out_in(hub, turn, (batch, kernels), reporter).await
}

/// Waits for the turn to change the system. A job that decides from the present state what to
/// change decides while it holds the turn, so that nothing changes in between.
pub async fn take_turn(hub: &Rc<Hub>) -> Result<Turn, Failure> {
    let turn = hub.changes.acquire().await;
    hub.ready().await?;
    session::settle(hub).await?;
    Ok(turn)
}

/// Does what [`carry_out`] does, within a turn that the caller holds, with the kernels of the
/// partitions to create.
pub async fn carry_out_in(
    hub: &Rc<Hub>,
    turn: Turn,
    (mut batch, kernels): (Batch, Vec<Kernel>),
    reporter: &Reporter,
) -> Result<Vec<u32>, Failure> {
    check_sizes(&batch)?;
    refresh(hub, &mut batch)?;
    let batch = note_needs(hub, batch, &kernels);
    hub.fault.begin();
    let done = in_turn(hub, &batch, &kernels, reporter).await;
    hub.fault.end();
    drop(turn);
    hub.changed();
    if done.is_ok() {
        gone(hub, &batch.destroys).await;
    }
    done
}

/// Replaces the definitions of partitions that are already defined by their present definitions.
fn refresh(hub: &Hub, batch: &mut Batch) -> Result<(), Failure> {
    let state = hub.state.borrow();
    for creation in &mut batch.creates {
        let old = &mut creation.definition;
        let puts = |edit: &Edit| matches!(edit, Edit::Put(one) if one.definition.name == old.name);
        if batch.edits.iter().any(puts) {
            continue;
        }
        let now = state.records().get(&old.name).map(|record| &record.definition);
        match now {
            Some(now) if (&now.kernel, &now.initrd) == (&old.kernel, &old.initrd) => {
                old.clone_from(now);
            }
            _ => {
                let object = format!("partition {:?}", old.name);
                let reason = "its definition changed meanwhile";
                return Err(refused("moved-on", &object, "definition", reason, "ask again"));
            }
        }
    }
    Ok(())
}

/// Waits until the destroyed partitions are gone and their names free; a partition that others
/// still refer to goes when they let go of it.
async fn gone(hub: &Rc<Hub>, destroys: &[PartitionRow]) {
    let until = Instant::now() + GONE;
    let is_there = |old: &PartitionRow| {
        let rows = hub.rows.borrow();
        rows.get(old.number).is_some_and(|row| row.created_at == old.created_at)
    };
    while destroys.iter().any(is_there) && hub.has_session() && Instant::now() < until {
        let change = Box::pin(hub.wait_for_change());
        select(change, Box::pin(hub.sleep_until(until))).await;
    }
}

/// The unpacked kernels of the partitions to create.
pub async fn load(hub: &Hub, batch: &Batch, reporter: &Reporter) -> Result<Vec<Kernel>, Failure> {
    let mut kernels = Vec::new();
    for Creation { definition, .. } in &batch.creates {
        let tell = || reporter.tell(&definition.name, "unpacking kernel", 0, 0);
        let initrd_bytes = initrd(definition)?.map_or(0, |(_, bytes)| bytes);
        let (name, path) = (&definition.name, &definition.kernel);
        let kernel = hub.loader.kernel(name, path, initrd_bytes, tell).await?;
        check_memory(definition, &kernel)?;
        kernels.push(kernel);
    }
    Ok(kernels)
}

/// The least memory in bytes that a kernel needs.
fn least_memory(kernel: &Kernel) -> u64 {
    kernel.frames_needed().saturating_mul(PAGE_SIZE as u64)
}

/// Checks that a partition has the least memory that its kernel needs.
fn check_memory(what: &Definition, kernel: &Kernel) -> Result<(), Failure> {
    let least = least_memory(kernel);
    if what.memory >= least {
        return Ok(());
    }
    Err(too_little_memory(&format!("partition {:?}", what.name), what.memory, least))
}

/// The failure for a partition with too little memory for its kernel.
pub fn too_little_memory(object: &str, memory: u64, least: u64) -> Failure {
    let least = least.next_multiple_of(1 << 20) >> 20;
    let reason = format!("{} is less than its kernel needs at least", definition::size(memory));
    refused("invalid-value", object, "memory", &reason, &format!("give {least}M or more"))
}

/// Stores the least memory of the kernels with the definitions, for later changes.
fn note_needs(hub: &Hub, mut batch: Batch, kernels: &[Kernel]) -> Batch {
    for (creation, kernel) in batch.creates.iter().zip(kernels) {
        let (name, least) = (&creation.definition.name, least_memory(kernel));
        let put = batch.edits.iter_mut().find_map(|edit| match edit {
            Edit::Put(record) if record.definition.name == *name => Some(record),
            _ => None,
        });
        if let Some(record) = put {
            record.least_memory = least;
        } else if let Some(record) = hub.state.borrow().records().get(name)
            && record.least_memory != least
        {
            batch.edits.push(Edit::Put(Record { least_memory: least, ..record.clone() }));
        }
    }
    batch
}

/// Checks whether a batch would be refused, and changes nothing: checks its files, the host's
/// resources, and a plan of the ultravisor.
pub async fn rehearse(hub: &Rc<Hub>, batch: &Batch, reporter: &Reporter) -> Result<(), Failure> {
    check_sizes(batch)?;
    load(hub, batch, reporter).await?;
    let definitions: Vec<&Definition> = batch.creates.iter().map(|one| &one.definition).collect();
    allocate(hub, &definitions).await?;
    let mut pieces = creations(&definitions);
    let destroys = batch.destroys.iter().flat_map(destruction);
    let changes: Vec<Operation> = batch.changes.iter().cloned().chain(destroys).collect();
    pieces.extend((!changes.is_empty()).then_some(changes));
    for operations in pieces {
        let body = transaction(&batch.reason, None, false, operations);
        hub.ask(Body::Plan(body)).await?;
    }
    Ok(())
}

/// Refuses a batch whose transactions would be refused for their size, before anything is built: if
/// too many are pending at once, or the final one has too many operations or bytes.
pub fn check_sizes(batch: &Batch) -> Result<(), Failure> {
    let pieces = batch.creates.len().div_ceil(CREATED_AT_ONCE);
    // The numbers and ids are as long as they can be.
    let numbers = vec![MAX_PARTITION; batch.creates.len()];
    let operations = finals(batch, &vec![u64::MAX; pieces], &numbers);
    let count = operations.len();
    let body = Body::Transaction(transaction(&batch.reason, Some(u64::MAX), false, operations));
    let request = Request { protocol: PROTOCOL, id: u64::MAX, body };
    let bytes = postcard::to_allocvec(&request).map_or(usize::MAX, |bytes| bytes.len());
    let limits = [
        ("partitions to create", batch.creates.len(), MAX_PENDING / 2 * CREATED_AT_ONCE),
        ("operations", count, MAX_OPERATIONS),
        ("bytes", bytes, MAX_PAYLOAD),
    ];
    let object = format!("{} partitions", batch.creates.len() + batch.edits.len());
    match limits.into_iter().find(|(_, asked, limit)| asked > limit) {
        None => Ok(()),
        Some((field, asked, limit)) => {
            let reason = format!("{asked} in one change, at most {limit}");
            let way_out = "apply fewer partitions at a time, each file by itself";
            Err(refused("too-large", &object, field, &reason, way_out))
        }
    }
}

/// Checks that there are enough resources for the partitions to create. The values known here may
/// be out of date, so they are read again before a refusal.
async fn allocate(hub: &Rc<Hub>, definitions: &[&Definition]) -> Result<(), Failure> {
    let fits = || allocate::check(hub, definitions);
    if definitions.is_empty() || (!hub.news.get() && fits().is_ok()) {
        return Ok(());
    }
    session::follow(hub).await?;
    fits()
}

/// The operations that create partitions, split into one list for each transaction.
fn creations(definitions: &[&Definition]) -> Vec<Vec<Operation>> {
    let piece =
        |piece: &[&Definition]| (0..).zip(piece).flat_map(|(at, one)| creation(at, one)).collect();
    definitions.chunks(CREATED_AT_ONCE).map(piece).collect()
}

/// The operations that destroy a partition.
fn destruction(row: &PartitionRow) -> Vec<Operation> {
    let partition = Target::Number(row.number);
    let mut operations = Vec::new();
    if row.state != state::DYING {
        operations.push(Operation::SetState { partition, state: state::DYING });
    }
    operations.push(Operation::DestroyPartition { partition });
    operations
}

/// Opens a definition's RAM disk; returns the file and its size in bytes.
fn initrd(what: &Definition) -> Result<Option<(File, u64)>, Failure> {
    let Some(path) = &what.initrd else { return Ok(None) };
    let opened = File::open(path).and_then(|file| {
        let about = file.metadata()?;
        match about.is_file() {
            true => Ok((file, about.len())),
            false => Err(std::io::Error::other("no regular file")),
        }
    });
    opened.map(Some).map_err(|error| {
        let reason = format!("{}: {error}", path.display());
        let object = format!("partition {:?}", what.name);
        let way_out = "give the path of a RAM disk that is there";
        refused("no-initrd", &object, "initrd", &reason, way_out)
    })
}

async fn in_turn(
    hub: &Rc<Hub>,
    batch: &Batch,
    kernels: &[Kernel],
    reporter: &Reporter,
) -> Result<Vec<u32>, Failure> {
    let mut work = Work { hub, batch, reporter, pending: Vec::new(), numbers: Vec::new() };
    let done = match work.prepare(kernels).await {
        Ok(()) => work.finish().await,
        failed => failed,
    };
    match done {
        Ok(()) => Ok(work.numbers),
        Err(End::Undone(failure)) => {
            work.take_back().await;
            Err(failure)
        }
        // The next batch, or the next session, finds out.
        Err(End::Unknown(failure)) => Err(failure),
    }
}

/// How a batch failed.
enum End {
    /// Nothing of the batch is done.
    Undone(Failure),
    /// It is not known whether the whole batch is done or nothing.
    Unknown(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Undone(failure)
    }
}

/// A batch under way.
struct Work<'a> {
    hub: &'a Rc<Hub>,
    batch: &'a Batch,
    reporter: &'a Reporter,
    /// Ids of the requests that are pending, or may be.
    pending: Vec<u64>,
    numbers: Vec<u32>,
}

impl Work<'_> {
    /// Creates the partitions as pending, and builds them.
    async fn prepare(&mut self, kernels: &[Kernel]) -> Result<(), End> {
        if self.batch.creates.is_empty() {
            return Ok(());
        }
        let definitions: Vec<&Definition> =
            self.batch.creates.iter().map(|one| &one.definition).collect();
        allocate(self.hub, &definitions).await?;
        for definition in &definitions {
            self.reporter.tell(&definition.name, "allocating", 0, 0);
        }
        let mut planned_at = self.batch.planned_at;
        for operations in creations(&definitions) {
            let body = transaction(&self.batch.reason, planned_at, true, operations);
            let id = self.hub.take_id();
            self.pending.push(id);
            self.hub.fault.step();
            self.hub.fault.step_when_sent();
            let replied = self.hub.ask_as(id, Body::Transaction(body)).await?;
            let Answer::Applied(outcomes) = replied.answer else {
                return Err(unexpected("a transaction").into());
            };
            self.numbers.extend(outcomes.into_iter().filter_map(created));
            // The next transaction is planned at this version, so that no change of others comes
            // between.
            planned_at = planned_at.map(|_| replied.version);
        }
        if self.numbers.len() != definitions.len() {
            return Err(unexpected("the partitions it created").into());
        }
        for (at, definition) in definitions.into_iter().enumerate() {
            self.build(self.numbers[at], definition, Kernel::clone(&kernels[at])).await?;
        }
        Ok(())
    }

    async fn build(&self, number: u32, what: &Definition, kernel: Kernel) -> Result<(), Failure> {
        let initrd = initrd(what)?;
        let of = kernel.len() + initrd.as_ref().map_or(0, |(_, bytes)| *bytes);
        let parts = Parts {
            partition: number,
            kernel,
            initrd,
            command_line: what.command_line.clone(),
            memory_target: what.memory / PAGE_SIZE as u64,
        };
        let tell = |done: u64| self.reporter.tell(&what.name, "building", done.min(of), of);
        tell(0);
        let built = builder::build(self.hub, &parts, tell).await?;
        connect(self.hub, &what.name, number, built.console_port);
        Ok(())
    }

    /// Commits the final transaction.
    async fn finish(&self) -> Result<(), End> {
        let operations = finals(self.batch, &self.pending, &self.numbers);
        let edits = self.batch.edits.clone();
        if operations.is_empty() {
            self.hub.state.borrow_mut().edit(&edits);
            return Ok(());
        }
        for row in &self.batch.destroys {
            self.hub.consoles.borrow_mut().disconnect(&row.name);
        }
        for creation in &self.batch.creates {
            self.reporter.tell(&creation.definition.name, "starting", 0, 0);
        }
        // The pending changes were planned already, and the build itself raised the version.
        let planned_at = self.batch.planned_at.filter(|_| self.pending.is_empty());
        let body = transaction(&self.batch.reason, planned_at, false, operations);
        let (boot, since) = (self.hub.state.borrow().boot(), self.hub.replica.borrow().next());
        let staged = Staged { boot, request: self.hub.take_id(), since, edits };
        if !staged.edits.is_empty() {
            self.hub.state.borrow_mut().stage(&staged);
        }
        self.hub.fault.step();
        self.hub.fault.step_when_sent();
        let replied = self.hub.ask_as(staged.request, Body::Transaction(body)).await;
        self.hub.fault.step();
        let done = match replied {
            Ok(_) => Ok(()),
            Err(Failure::Refused(refusal)) => Err(Failure::Refused(refusal)),
            // If there is no answer, the log says whether it was committed.
            Err(failure) => match session::is_committed(self.hub, &staged).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(failure),
                Err(_) => return Err(End::Unknown(failure)),
            },
        };
        if !staged.edits.is_empty() {
            self.hub.state.borrow_mut().settle(&staged, done.is_ok());
        }
        // This comes before anybody looks, because the partition may have ended already.
        for creation in self.batch.creates.iter().filter(|_| done.is_ok()) {
            let name = &creation.definition.name;
            self.hub.state.borrow_mut().change(name, |record| record.last_end = None);
        }
        if let Err(failure) = session::follow(self.hub).await {
            log(&format!("what was done is read from the log later: {failure}"));
        }
        self.hub.state.borrow_mut().store();
        self.hub.fault.step();
        done.map_err(End::Undone)
    }

    /// Rolls the batch back: removes pending partitions, and reconnects the consoles that were
    /// disconnected.
    async fn take_back(&self) {
        for creation in &self.batch.creates {
            self.hub.consoles.borrow_mut().disconnect(&creation.definition.name);
        }
        let requests = self.pending.clone();
        if !requests.is_empty()
            && let Err(failure) = self.hub.ask(Body::RollBack { requests }).await
        {
            log(&format!("what is pending could not be given up: {failure}"));
        }
        for row in &self.batch.destroys {
            connect(self.hub, &row.name, row.number, row.console_port);
        }
    }
}

/// The operations of the final transaction: it completes the pending changes, starts the created
/// partitions, changes and destroys.
fn finals(batch: &Batch, pending: &[u64], numbers: &[u32]) -> Vec<Operation> {
    let mut operations: Vec<Operation> =
        pending.iter().map(|request| Operation::Complete { request: *request }).collect();
    for (creation, number) in batch.creates.iter().zip(numbers) {
        operations.extend(starting(creation, *number));
    }
    operations.extend(batch.changes.iter().cloned());
    operations.extend(batch.destroys.iter().flat_map(destruction));
    operations
}

/// Connects a guest's console, if the guest has one. If that fails, the guest still runs.
pub fn connect(hub: &Hub, name: &str, number: u32, port: u32) {
    if port == 0 || hub.consoles.borrow().is_connected(name) {
        return;
    }
    match hub.devices.console(number, port) {
        Ok((shared, port)) => {
            hub.consoles.borrow_mut().connect(name, number, Line::new(shared, port));
        }
        Err(error) => log(&format!("console of {name}: {error}; it is not kept")),
    }
}

fn created(outcome: Outcome) -> Option<u32> {
    match outcome {
        Outcome::Partition(number) => Some(number),
        _ => None,
    }
}

fn creation(at: u32, what: &Definition) -> [Operation; 2] {
    [
        Operation::CreatePartition {
            number: None,
            kind: kind::GUEST,
            rights: 0,
            name: what.name.clone(),
            vcpus: what.max_vcpus,
            cpu_weight: what.cpu.weight,
            cpu_cap: what.cpu.cap,
            cpu_affinity: what.cpu.affinity.clone(),
            cpu_dedicated: what.cpu.dedicated,
            grant_frames: what.grant_frames,
        },
        Operation::AssignMemory {
            partition: Target::CreatedBy(at * 2),
            frames: what.max_memory / PAGE_SIZE as u64,
        },
    ]
}

fn starting(creation: &Creation, number: u32) -> Vec<Operation> {
    let (what, partition) = (&creation.definition, Target::Number(number));
    let mut operations = Vec::new();
    if what.memory < what.max_memory {
        let frames = what.memory / PAGE_SIZE as u64;
        operations.push(Operation::SetMemoryTarget { partition, frames });
    }
    if what.vcpus < what.max_vcpus {
        operations.push(Operation::SetVcpusOnline { partition, vcpus: what.vcpus });
    }
    let state = if creation.paused { state::PAUSED } else { state::RUNNING };
    operations.push(Operation::SetState { partition, state });
    operations
}
