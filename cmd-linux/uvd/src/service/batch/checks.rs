//! The checks before a batch changes anything.

use std::rc::Rc;

use control::command::{Body, Code, MAX_OPERATIONS, MAX_PENDING, Operation, PROTOCOL, Request};
use definition::Definition;
use pv_abi::uv::channel::MAX_PAYLOAD;
use pv_abi::uv::database::MAX_PARTITION;
use uvd_protocol::Failure;

use super::disks::{self, Names};
use super::operations::{creations, destruction, finals, transaction};
use super::{Batch, CREATED_AT_ONCE, files};
use crate::context::Context;
use crate::context::refusal::refused;
use crate::service::{Reporter, allocate, session};

/// Checks whether a batch would be refused, and changes nothing: checks its files, the host's
/// resources, and a plan of the ultravisor.
pub async fn rehearse(
    context: &Rc<Context>,
    batch: &Batch,
    reporter: &Reporter,
) -> Result<(), Failure> {
    check_sizes(batch)?;
    files::load(&context.loader, batch, reporter).await?;
    let definitions: Vec<&Definition> = batch.creates.iter().map(|one| &one.definition).collect();
    allocate(context, &definitions).await?;
    let names = Names::of(context, batch).await?;
    let mut pieces = creations(&definitions, &names)?;
    let (disks, destroys) =
        (disks::changes(batch, &names)?, batch.destroys.iter().flat_map(destruction));
    let changes: Vec<Operation> =
        batch.changes.iter().cloned().chain(disks).chain(destroys).collect();
    pieces.extend((!changes.is_empty()).then_some(changes));
    for operations in pieces {
        let body = transaction(&batch.reason, None, false, operations);
        context.requests.ask(Body::Plan(body)).await?;
    }
    Ok(())
}

/// Refuses a batch whose transactions would be refused for their size, before anything is built: if
/// too many are pending at once, or the final one has too many operations or bytes.
pub fn check_sizes(batch: &Batch) -> Result<(), Failure> {
    let pieces = batch.creates.len().div_ceil(CREATED_AT_ONCE);
    // The numbers and ids are as long as they can be.
    let numbers = vec![MAX_PARTITION; batch.creates.len()];
    let disks = disks::changes(batch, &Names::Any)?;
    let operations = finals(batch, &vec![u64::MAX; pieces], &numbers, &disks);
    let count = operations.len();
    let size = |operations| {
        let body = Body::Transaction(transaction(&batch.reason, Some(u64::MAX), false, operations));
        let request = Request { protocol: PROTOCOL, id: u64::MAX, body };
        postcard::to_allocvec(&request).map_or(usize::MAX, |bytes| bytes.len())
    };
    let mut bytes = size(operations);
    // Without disks, a transaction that creates is far from the limit.
    if batch.creates.iter().any(|one| !one.definition.disks.is_empty()) {
        let definitions: Vec<&Definition> =
            batch.creates.iter().map(|one| &one.definition).collect();
        let pieces = creations(&definitions, &Names::Any)?;
        bytes = pieces.into_iter().map(size).fold(bytes, usize::max);
    }
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
            Err(refused(Code::TooLarge, &object, field, &reason, way_out))
        }
    }
}

/// Checks that there are enough resources for the partitions to create. The values known here may
/// be out of date, so they are read again before a refusal.
pub async fn allocate(context: &Rc<Context>, definitions: &[&Definition]) -> Result<(), Failure> {
    let fits = || {
        let free = context.database.replica.borrow().free_frames();
        allocate::check(definitions, &context.guests.rows.borrow(), free)
    };
    if definitions.is_empty() || (!context.database.news.get() && fits().is_ok()) {
        return Ok(());
    }
    session::follow(context).await?;
    fits()
}
