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
//! ends, the ultravisor rolls it back; otherwise [`RollBack`](control::command::Body::RollBack)
//! does. Neither touches changes of other clients. The staged edits hold exactly if the log shows
//! that transaction as committed. If the reply is lost, the log is read, at the latest before the
//! next batch.

mod checks;
mod disks;
mod files;
mod operations;
mod work;

use std::rc::Rc;
use std::time::{Duration, Instant};

use control::command::{Code, Operation, PartitionRow};
use definition::Definition;
use futures_util::future::select;
use uvd_protocol::Failure;
use work::{End, Work};

pub use checks::{check_sizes, rehearse};
pub use disks::DiskChanges;
use disks::Names;
pub use files::{load, too_little_memory};
pub use operations::{destruction, transaction};

use super::{Reporter, session};
use crate::console::line::Line;
use crate::context::Context;
use crate::context::refusal::refused;
use crate::loader::Kernel;
use crate::log;
use crate::state::{Edit, Record, State};
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
    /// Changes of the disks of existing partitions.
    pub disks: Vec<DiskChanges>,
    /// Partitions to destroy.
    pub destroys: Vec<PartitionRow>,
    /// Edits of the definitions that hold afterwards.
    pub edits: Vec<Edit>,
}

/// Carries out the whole batch, or nothing; returns the numbers of the created partitions.
pub async fn carry_out(
    context: &Rc<Context>,
    batch: Batch,
    reporter: &Reporter,
) -> Result<Vec<u32>, Failure> {
    check_sizes(&batch)?;
    let kernels = load(&context.loader, &batch, reporter).await?;
    let turn = take_turn(context).await?;
    carry_out_in(context, turn, (batch, kernels), reporter).await
}

/// Waits for the turn to change the system. A job that decides from the present state what to
/// change decides while it holds the turn, so that nothing changes in between.
pub async fn take_turn(context: &Rc<Context>) -> Result<Turn, Failure> {
    let turn = context.turns.acquire().await;
    context.requests.ready().await?;
    session::settle(context).await?;
    Ok(turn)
}

/// Does what [`carry_out`] does, within a turn that the caller holds, with the kernels of the
/// partitions to create.
pub async fn carry_out_in(
    context: &Rc<Context>,
    turn: Turn,
    (mut batch, kernels): (Batch, Vec<Kernel>),
    reporter: &Reporter,
) -> Result<Vec<u32>, Failure> {
    check_sizes(&batch)?;
    refresh(&context.state.borrow(), &mut batch)?;
    let batch = note_needs(&context.state.borrow(), batch, &kernels);
    context.fault.begin();
    let done = in_turn(context, &batch, &kernels, reporter).await;
    context.fault.end();
    drop(turn);
    context.changed.raise();
    if done.is_ok() {
        gone(context, &batch.destroys).await;
    }
    done
}

/// Replaces the definitions of partitions that are already defined by their present definitions.
fn refresh(state: &State, batch: &mut Batch) -> Result<(), Failure> {
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
                return Err(refused(Code::MovedOn, &object, "definition", reason, "ask again"));
            }
        }
    }
    Ok(())
}

/// Waits until the destroyed partitions are removed and their names free. A partition to which
/// others still refer is removed when they release their references.
async fn gone(context: &Rc<Context>, destroys: &[PartitionRow]) {
    let until = Instant::now() + GONE;
    let is_there = |old: &PartitionRow| {
        let rows = context.guests.rows.borrow();
        rows.get(old.number).is_some_and(|row| row.created_at == old.created_at)
    };
    while destroys.iter().any(is_there) && context.requests.has_session() && Instant::now() < until
    {
        let change = Box::pin(context.changed.wait());
        select(change, Box::pin(context.timers.sleep_until(until))).await;
    }
}

/// Stores the least memory of the kernels with the definitions, for later changes.
fn note_needs(state: &State, mut batch: Batch, kernels: &[Kernel]) -> Batch {
    for (creation, kernel) in batch.creates.iter().zip(kernels) {
        let (name, least) = (&creation.definition.name, files::least_memory(kernel));
        let put = batch.edits.iter_mut().find_map(|edit| match edit {
            Edit::Put(record) if record.definition.name == *name => Some(record),
            _ => None,
        });
        if let Some(record) = put {
            record.least_memory = least;
        } else if let Some(record) = state.records().get(name)
            && record.least_memory != least
        {
            batch.edits.push(Edit::Put(Record { least_memory: least, ..record.clone() }));
        }
    }
    batch
}

async fn in_turn(
    context: &Rc<Context>,
    batch: &Batch,
    kernels: &[Kernel],
    reporter: &Reporter,
) -> Result<Vec<u32>, Failure> {
    let names = Names::of(context, batch).await?;
    let disks = disks::changes(batch, &names)?;
    let (pending, numbers) = (Vec::new(), Vec::new());
    let mut work = Work { context, batch, reporter, names, disks, pending, numbers };
    let done = match work.prepare(kernels).await {
        Ok(()) => work.finish().await,
        failed => failed,
    };
    match done {
        Ok(()) => Ok(work.numbers),
        Err(End::Undone(failure)) => {
            work.roll_back().await;
            Err(failure)
        }
        // The next batch, or the next session, finds out.
        Err(End::Unknown(failure)) => Err(failure),
    }
}

/// Connects a guest's console, if the guest has one. If that fails, the guest still runs.
pub fn connect(context: &Context, name: &str, number: u32, port: u32) {
    if port == 0 || context.consoles.borrow().is_connected(name) {
        return;
    }
    match context.devices.console(number, port) {
        Ok((shared, port)) => {
            context.consoles.borrow_mut().connect(name, number, Line::new(shared, port));
        }
        Err(error) => log(&format!("console of {name}: {error}; its output is not kept")),
    }
}
