//! Reads the partitions of the system.

use std::collections::BTreeSet;
use std::rc::Rc;

use control::command::{Answer, Body, PartitionRow, Query};
use uvd_protocol::Failure;

use super::{policy, session};
use crate::context::Context;
use crate::context::refusal::unexpected;
use crate::context::requests::Requests;

/// Brings the rows of partitions up to date with the log; returns the version of the database that
/// they show. Only the partitions that changed are read. The rows may already show a later change;
/// a plan made for the returned version is then refused as stale.
pub async fn update(context: &Rc<Context>) -> Result<u64, Failure> {
    session::follow(context).await?;
    Ok(context.database.replica.borrow().version())
}

/// Reads all partitions. The policy of each partition that ended meanwhile is applied before any
/// client sees the end. If the pages are of several versions, they are read again, a few times.
pub async fn read_all(context: &Rc<Context>) -> Result<(), Failure> {
    const TRIES: u32 = 4;
    let mut tries = 0;
    loop {
        let (versions, rows) = read_pages(&context.requests).await?;
        tries += 1;
        if versions.0 == versions.1 || tries == TRIES {
            policy::seen(context, rows);
            return Ok(());
        }
    }
}

/// Asks for the present row of a partition, by name or number. Returns `None` if it does not exist.
pub async fn read(requests: &Requests, name: &str) -> Result<Option<PartitionRow>, Failure> {
    // No partition has a longer name, and a longer name may not fit a frame.
    if name.len() > rules::MAX_NAME {
        return Ok(None);
    }
    let query = Query::Partition { name: name.into() };
    match requests.ask(Body::Query(query)).await?.answer {
        Answer::Partitions { rows, .. } => Ok(rows.into_iter().next()),
        _ => Err(unexpected("a partition")),
    }
}

/// Reads the partitions with these numbers again; those that no longer exist are removed.
pub async fn read_again(context: &Rc<Context>, numbers: &BTreeSet<u32>) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for number in numbers {
        rows.extend(read(&context.requests, &number.to_string()).await?);
    }
    policy::seen_again(context, numbers, rows);
    Ok(())
}

/// Asks for the rows of all partitions. Returns them after the versions of the first and last page.
async fn read_pages(requests: &Requests) -> Result<((u64, u64), Vec<PartitionRow>), Failure> {
    let mut all: Vec<PartitionRow> = Vec::new();
    let mut first = None;
    loop {
        let after = all.last().map_or(0, |row| row.number);
        let replied = requests.ask(Body::Query(Query::Partitions { after })).await?;
        let Answer::Partitions { rows, more } = replied.answer else {
            return Err(unexpected("partitions"));
        };
        let first = *first.get_or_insert(replied.version);
        // A reply that makes no progress would lead to an endless loop.
        let more = more && rows.last().is_some_and(|row| row.number > after);
        all.extend(rows);
        if !more {
            return Ok(((first, replied.version), all));
        }
    }
}
