//! Moves PCI functions between I/O partitions that run, while the disks on them are used.
//!
//! ```text
//! the turn: shares of the present owners -> one transaction of MoveDevice
//! no turn:  each owner lets go, the ultravisor moves the function -> all moved
//! ```
//!
//! Rule: what is to move is decided from the present owners within the turn, and the moves begin
//! together or not at all. The wait for their end holds no turn: an I/O partition may take its time.

use std::rc::Rc;
use std::time::{Duration, Instant};

use control::command::{Body, Code, DeviceRow, Operation, PartitionRow, Target};
use futures_util::future::select;
use pv_abi::uv::database::{IO_PARTITIONS, kind, state};
use uvd_protocol::{Failure, FunctionMove, IoChange, way_out};

use self::shares::{Member, Uneven};
use super::{batch, find, partitions};
use crate::context::Context;
use crate::context::functions;
use crate::context::refusal::refused;

mod shares;

/// The time after which the functions are looked at again, if nothing told of a change.
const LOOK: Duration = Duration::from_millis(500);
/// The time in which a partition is built in the place of one that was destroyed. The boot partition
/// waits up to a minute if it failed before.
const BUILT: Duration = Duration::from_secs(180);

/// Carries out a change. Returns the functions that moved.
pub async fn change(context: &Rc<Context>, change: IoChange) -> Result<Vec<FunctionMove>, Failure> {
    match change {
        IoChange::Drain { name } => {
            let row = io_partition(context, &name).await?;
            drain(context, &row).await
        }
        IoChange::Balance => {
            let moves = |members: &[Member]| Ok(shares::balanced(members));
            begin(context, "balance I/O partitions", moves).await
        }
        IoChange::Restart { name, now } => restart(context, &name, now).await,
    }
}

/// The I/O partition with this name, or number.
async fn io_partition(context: &Rc<Context>, name: &str) -> Result<PartitionRow, Failure> {
    let row = find(context, name).await?;
    if row.kind == kind::IO {
        return Ok(row);
    }
    let object = format!("partition {name:?}");
    Err(refused(Code::InvalidValue, &object, "kind", "is no I/O partition", way_out::IO))
}

async fn drain(context: &Rc<Context>, row: &PartitionRow) -> Result<Vec<FunctionMove>, Failure> {
    let reason = format!("drain {}", row.name);
    let moves = |members: &[Member]| {
        shares::drained(members, row.number).map_err(|uneven| refusal_of(row, uneven))
    };
    begin(context, &reason, moves).await
}

/// Drains a partition, destroys it, and moves its functions to the partition that is built in its
/// place. The new partition has another number, since a number is free only once its partition is
/// gone.
async fn restart(
    context: &Rc<Context>,
    name: &str,
    now: bool,
) -> Result<Vec<FunctionMove>, Failure> {
    let row = io_partition(context, name).await?;
    let devices = functions::read(&context.requests).await?;
    let had: Vec<u32> =
        devices.iter().filter(|one| one.owner == row.number).map(|one| one.index).collect();
    let before = rows(context).await?;
    if now {
        // Without another one that runs, nobody could confirm the resets that it owes.
        let members = members(context, &devices).await?;
        shares::drained(&members, row.number).map_err(|uneven| refusal_of(&row, uneven))?;
    } else {
        drain(context, &row).await?;
    }
    let body =
        batch::transaction(&format!("restart {name}"), None, false, batch::destruction(&row));
    context.requests.ask(Body::Transaction(body)).await?;
    let built = built(context, &row, &before).await?;
    let back = |members: &[Member]| Ok(shares::returned(members, built.number, &had));
    begin(context, &format!("give {} the share of {}", built.name, row.name), back).await
}

/// Waits until an I/O partition runs that was not there before.
async fn built(
    context: &Rc<Context>,
    destroyed: &PartitionRow,
    before: &[PartitionRow],
) -> Result<PartitionRow, Failure> {
    let until = Instant::now() + BUILT;
    let life = |row: &PartitionRow| (row.number, row.created_at);
    let is_new = |row: &PartitionRow| !before.iter().any(|old| life(old) == life(row));
    loop {
        if let Some(row) = rows(context).await?.into_iter().find(is_new) {
            return Ok(row);
        }
        if Instant::now() >= until {
            let object = format!("partition {:?}", destroyed.name);
            let reason = format!("no other was built in its place within {} s", BUILT.as_secs());
            let way_out = way_out::with_name(way_out::WHY, &destroyed.name);
            return Err(refused(Code::Failed, &object, "state", &reason, &way_out));
        }
        something_changed(context).await;
    }
}

/// Waits until something changed, or for [`LOOK`].
async fn something_changed(context: &Context) {
    let look = context.timers.sleep_until(Instant::now() + LOOK);
    select(Box::pin(context.changed.wait()), Box::pin(look)).await;
}

/// Begins the moves that `decide` makes of the present owners, and waits for their end.
async fn begin(
    context: &Rc<Context>,
    reason: &str,
    decide: impl FnOnce(&[Member]) -> Result<Vec<FunctionMove>, Failure>,
) -> Result<Vec<FunctionMove>, Failure> {
    let turn = batch::take_turn(context).await?;
    let devices = functions::read(&context.requests).await?;
    let moves = decide(&members(context, &devices).await?)?;
    if moves.is_empty() {
        return Ok(moves);
    }
    let operation = |one: &FunctionMove| Operation::MoveDevice {
        function: one.function,
        partition: Target::Number(one.to),
    };
    let operations = moves.iter().map(operation).collect();
    let body = batch::transaction(reason, None, false, operations);
    context.fault.step();
    context.requests.ask(Body::Transaction(body)).await?;
    drop(turn);
    moved(context, &moves).await?;
    Ok(moves)
}

/// Waits until functions have moved.
async fn moved(context: &Rc<Context>, moves: &[FunctionMove]) -> Result<(), Failure> {
    loop {
        let devices = functions::read(&context.requests).await?;
        let of = |one: &FunctionMove| devices.iter().find(|row| row.index == one.function);
        let goes_on = |one: &&FunctionMove| {
            of(one).is_some_and(|row| row.owner == one.from && row.next == one.to)
        };
        if moves.iter().any(|one| goes_on(&one)) {
            something_changed(context).await;
            continue;
        }
        let stayed = moves.iter().find(|one| of(one).is_none_or(|row| row.owner != one.to));
        let Some(stayed) = stayed else { return Ok(()) };
        let object = format!("function {}", stayed.function);
        let reason = format!("it did not move to partition {}", stayed.to);
        let way_out = way_out::with_name(way_out::WHY, &stayed.from.to_string());
        return Err(refused(Code::Failed, &object, "owner", &reason, &way_out));
    }
}

/// The I/O partitions that run.
async fn rows(context: &Rc<Context>) -> Result<Vec<PartitionRow>, Failure> {
    let mut rows = Vec::new();
    for (number, _) in IO_PARTITIONS {
        let row = partitions::read(&context.requests, &number.to_string()).await?;
        rows.extend(row.filter(|row| (row.kind, row.state) == (kind::IO, state::RUNNING)));
    }
    Ok(rows)
}

/// The I/O partitions that run, with the functions of each.
async fn members(context: &Rc<Context>, devices: &[DeviceRow]) -> Result<Vec<Member>, Failure> {
    let member = |row: PartitionRow| {
        let own = devices.iter().filter(|one| one.owner == row.number && one.next == 0);
        let coming = devices.iter().filter(|one| one.next == row.number);
        Member {
            number: row.number,
            functions: own.map(|one| one.index).collect(),
            coming: coming.count(),
        }
    };
    Ok(rows(context).await?.into_iter().map(member).collect())
}

fn refusal_of(row: &PartitionRow, uneven: Uneven) -> Failure {
    let object = format!("partition {:?}", row.name);
    match uneven {
        Uneven::Alone => {
            let reason = "no other I/O partition runs that could have its functions";
            let way_out = "wait until another one is built; `uvtool list --all` shows them";
            refused(Code::WrongState, &object, "functions", reason, way_out)
        }
        Uneven::Full { free, most } => {
            let reason = format!(
                "the other I/O partitions have room for {free} functions more: each drives at most \
                 {most}"
            );
            refused(Code::TooLarge, &object, "functions", &reason, way_out::IO)
        }
    }
}
