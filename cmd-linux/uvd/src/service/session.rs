//! A session with the ultravisor: begun by clearing up, then following the log.
//!
//! ```text
//! open: what an earlier uvd left pending is rolled back
//! copy of the database; records from there on        applied, stored
//! staged edits settled by what the log says of their request
//! partitions that run: consoles connected again
//! for ever: new records -> copy, store, partitions read again -> policies, waiters
//! ```
//!
//! Rule: a record is stored before anybody is told what it did. While a batch is under way its
//! records are left to it: it takes them over at once, and stores them with its own edits.

use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::select;
use pv_abi::uv::command::{Answer, Body, LogRow, PartitionRow, Query, RecordRow};
use pv_abi::uv::database::{COMMAND, PartitionDescriptor, kind, state};
use transaction::Change;
use uvd_protocol::{Failure, ServiceAnswer};

use super::{batch, policy};
use crate::hub::{Hub, Session, unexpected};
use crate::log;
use crate::replica::Replica;
use crate::state::Life;

/// Records that are asked for at a time.
const RECORDS: u32 = 64;
/// Pages that are asked for at a time.
const PAGES: u32 = 4096;
/// Tries for a copy of a database that changes meanwhile.
const TRIES: u32 = 10;
/// How long news may be late: an event that comes together with a reply is taken for the reply's.
const LATEST: Duration = Duration::from_secs(1);

/// Runs a session until the channel breaks.
pub async fn run(hub: Rc<Hub>) {
    hub.set_session(Session::Opening);
    match open(&hub).await {
        Ok(()) => hub.set_session(Session::Open),
        Err(Failure::NoChannel(_) | Failure::ShuttingDown) => return,
        Err(failure) => {
            log(&format!("the session could not be opened as it should: {failure}"));
            hub.set_session(Session::Open);
        }
    }
    for name in owed(&hub) {
        let hub = Rc::clone(&hub);
        hub.begin_restart(&name);
        hub.clone().spawn(async move {
            super::policy::start_owed(&hub, &name).await;
            hub.end_restart(&name);
        });
    }
    while hub.has_session() {
        news(&hub).await;
        match follow(&hub).await {
            Ok(()) => {}
            Err(Failure::NoChannel(_) | Failure::ShuttingDown) => return,
            Err(failure) => log(&format!("the log could not be followed: {failure}")),
        }
    }
}

/// Partitions that a policy gave up and did not start again.
fn owed(hub: &Hub) -> Vec<String> {
    let (state, rows) = (hub.state.borrow(), hub.rows.borrow());
    let owed = state
        .records()
        .iter()
        .filter(|(name, record)| record.restarting && !rows.values().any(|row| row.name == **name));
    owed.map(|(name, _)| name.clone()).collect()
}

async fn open(hub: &Rc<Hub>) -> Result<(), Failure> {
    match hub.ask(Body::Open).await?.answer {
        Answer::Opened { rolled_back } if rolled_back.is_empty() => {}
        Answer::Opened { rolled_back } => {
            log(&format!("{} pending transactions were rolled back", rolled_back.len()));
        }
        _ => return Err(unexpected("the session")),
    }
    copy(hub).await?;
    settle(hub).await?;
    let (_, rows) = hub.partitions().await?;
    reconnect(hub, &rows);
    Ok(())
}

/// Settles the edits of a transaction whose end an earlier `uvd` did not see.
async fn settle(hub: &Rc<Hub>) -> Result<(), Failure> {
    let staged = hub.state.borrow().staged();
    let Some(staged) = staged else {
        return Ok(());
    };
    let mut committed = false;
    let mut from = 0;
    loop {
        let records = records(hub, from).await?;
        let ours = |row: &&RecordRow| row.row.who == COMMAND && row.row.request == staged.request;
        committed |= records.rows.iter().filter(ours).any(|one| one.row.outcome == "committed");
        match records.rows.last() {
            Some(last) => from = last.row.sequence + 1,
            None => break,
        }
    }
    let mut state = hub.state.borrow_mut();
    state.settle(&staged, committed);
    state.store();
    Ok(())
}

/// Connects the consoles of guests that are there.
fn reconnect(hub: &Hub, rows: &[PartitionRow]) {
    for row in rows {
        let there =
            matches!(row.state, state::RUNNING | state::PAUSED) || policy::end_of(row).is_some();
        if row.kind == kind::GUEST && there {
            batch::connect(hub, &row.name, row.number, row.console_port);
        }
    }
}

/// Waits until there may be new records that no batch takes over.
async fn news(hub: &Rc<Hub>) {
    let late = Instant::now() + LATEST;
    let none = || !hub.news.get() || hub.changes.try_lock().is_none();
    while none() && hub.has_session() && Instant::now() < late {
        let change = Box::pin(hub.wait_for_change());
        select(change, Box::pin(hub.sleep_until(late))).await;
    }
}

struct Records {
    rows: Vec<RecordRow>,
    oldest: u64,
    next: u64,
    version: u64,
}

async fn records(hub: &Rc<Hub>, from: u64) -> Result<Records, Failure> {
    records_most(hub, from, RECORDS).await
}

async fn records_most(hub: &Rc<Hub>, from: u64, most: u32) -> Result<Records, Failure> {
    let id = hub.take_id();
    hub.following.set(id);
    let replied = hub.ask_as(id, Body::Query(Query::Records { from, most })).await?;
    match replied.answer {
        Answer::Records { rows, oldest, next } => {
            Ok(Records { rows, oldest, next, version: replied.version })
        }
        _ => Err(unexpected("records")),
    }
}

/// Takes over what the log has since.
pub async fn follow(hub: &Rc<Hub>) -> Result<(), Failure> {
    let mut changed = false;
    hub.news.set(false);
    loop {
        let from = hub.replica.borrow().next();
        let records = records(hub, from).await?;
        if records.oldest > from {
            log(&format!("records {from} to {} of the log were missed", records.oldest - 1));
            copy(hub).await?;
            changed = true;
            continue;
        }
        if records.rows.is_empty() {
            break;
        }
        changed = true;
        remember(hub, &records.rows);
        if !take_over(hub, &records) {
            log("a record does not fit the copy of the database, which is made anew");
            copy(hub).await?;
        }
        if hub.replica.borrow().next() >= records.next {
            break;
        }
    }
    if changed {
        settled(hub).await?;
        hub.state.borrow_mut().store();
        hub.partitions().await?;
        hub.changed();
    }
    Ok(())
}

/// Applies records to the copy of the database; false: it is of no more use.
fn take_over(hub: &Hub, records: &Records) -> bool {
    let mut replica = hub.replica.borrow_mut();
    replica.set_version(records.version);
    records.rows.iter().all(|record| replica.apply(record))
}

/// Takes over how records ended that had not when they were read.
async fn settled(hub: &Rc<Hub>) -> Result<(), Failure> {
    let open = hub.state.borrow().unsettled();
    for sequence in open {
        let records = records_most(hub, sequence, 1).await?;
        let row = records.rows.first().map(|record| &record.row);
        if let Some(row) = row.filter(|row| row.sequence == sequence) {
            hub.state.borrow_mut().add_log(std::slice::from_ref(row), Vec::new());
        }
    }
    Ok(())
}

/// Takes over records and the lives that begin and end with them.
fn remember(hub: &Hub, records: &[RecordRow]) {
    let rows: Vec<LogRow> = records.iter().map(|record| record.row.clone()).collect();
    let mut lives: Vec<(String, Life)> = Vec::new();
    let mut state = hub.state.borrow_mut();
    for record in records.iter().filter(|record| took_effect(&record.row)) {
        let sequence = record.row.sequence;
        for bytes in &record.changes {
            let Ok(Change::Descriptor { number, before, after }) = postcard::from_bytes(bytes)
            else {
                continue;
            };
            let (before, after) = (name_of(&before), name_of(&after));
            if before == after {
                continue;
            }
            // One that was given another name lives on.
            let mut first = sequence;
            if let Some(name) = before {
                let known = lives.iter().rev().find(|(known, _)| *known == name);
                let life = known.map(|(_, life)| *life).or_else(|| state.life(&name));
                let life = life.filter(|life| life.number == number);
                let life = life.unwrap_or(Life { number, first: 0, last: None });
                first = life.first;
                lives.push((name, Life { last: Some(sequence), ..life }));
            }
            if let Some(name) = after {
                lives.push((name, Life { number, first, last: None }));
            }
        }
    }
    state.add_log(&rows, lives);
}

fn took_effect(row: &LogRow) -> bool {
    !matches!(row.outcome.as_str(), "refused" | "begun")
}

/// The name in a descriptor's bytes, where there is a partition.
fn name_of(bytes: &[u8]) -> Option<String> {
    const NAME: usize = std::mem::offset_of!(PartitionDescriptor, name);
    let name = bytes.get(NAME..)?;
    let name = &name[..name.len().min(32)];
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    (end != 0).then(|| String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Makes the copy of the database anew.
async fn copy(hub: &Rc<Hub>) -> Result<(), Failure> {
    for _ in 0..TRIES {
        let before = records(hub, u64::MAX).await?;
        let pages = arena(hub).await?;
        let after = records(hub, u64::MAX).await?;
        if (before.next, before.version) == (after.next, after.version) {
            *hub.replica.borrow_mut() = Replica::new(&pages, after.version, after.next);
            return backlog(hub, after.oldest, after.next).await;
        }
    }
    log("the database changes too fast for a copy; it is tried again with the next record");
    Ok(())
}

/// Stores the records that were made before the copy.
async fn backlog(hub: &Rc<Hub>, oldest: u64, next: u64) -> Result<(), Failure> {
    let stored = hub.state.borrow().log(1).last().map_or(0, |row| row.sequence + 1);
    let mut from = stored.max(oldest);
    while from < next {
        let records = records(hub, from).await?;
        let Some(last) = records.rows.last() else {
            break;
        };
        from = last.row.sequence + 1;
        remember(hub, &records.rows);
    }
    hub.state.borrow_mut().store();
    Ok(())
}

async fn arena(hub: &Rc<Hub>) -> Result<Vec<Vec<u8>>, Failure> {
    let mut all = Vec::new();
    loop {
        let first = all.len() as u32;
        let query = Query::Arena { first, most: PAGES };
        let Answer::Arena { pages, contents, .. } = hub.ask(Body::Query(query)).await?.answer
        else {
            return Err(unexpected("the arena"));
        };
        let stuck = contents.is_empty();
        all.extend(contents.into_iter().map(|page| page.into_vec()));
        if stuck || all.len() as u32 >= pages {
            return Ok(all);
        }
    }
}

/// Compares the copy with the master.
pub async fn compare(hub: &Rc<Hub>) -> Result<ServiceAnswer, Failure> {
    let mut versions = (0, 0);
    for _ in 0..TRIES {
        follow(hub).await?;
        let before = records(hub, u64::MAX).await?;
        let pages = arena(hub).await?;
        let after = records(hub, u64::MAX).await?;
        versions = (hub.replica.borrow().version(), after.version);
        let next = hub.replica.borrow().next();
        if (before.next, before.version) == (after.next, after.version) && next == after.next {
            let master = Replica::new(&pages, after.version, after.next);
            let differences = hub.replica.borrow().differences(&master);
            return Ok(ServiceAnswer::Replica { versions, differences });
        }
    }
    Ok(ServiceAnswer::Replica { versions, differences: Vec::new() })
}
