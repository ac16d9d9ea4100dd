//! A session with the ultravisor: it first clears up, then follows the log.
//!
//! ```text
//! open: what an earlier uvd left pending is rolled back
//! copy of the database; records from there on        applied, stored
//! staged edits settled by what the log says of their requests
//! partitions that run: consoles connected again
//! partitions that start with the host: started one after the other, if the boot is new
//! for ever: new records -> copy, store, partitions read again -> policies, waiters
//! ```
//!
//! Rule: a record is stored before any client learns of its effect. While a batch is under way, the
//! batch takes over its own records at once, and stores them with its edits.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use control::command::{Answer, Body, Code, LogRow, Query, RecordRow, Settled};
use futures_util::future::select;
use pv_abi::uv::database::{COMMAND, kind, state};
use transaction::Change;
use uvd_protocol::{Failure, ServiceAnswer};

use super::{autostart, batch, defined, partitions, policy};
use crate::context::Context;
use crate::context::refusal::{refused, unexpected};
use crate::context::requests::Requests;
use crate::log;
use crate::replica::{self, Replica};
use crate::rows::Rows;
use crate::state::{Edit, Life, Staged, State};

/// Records that are requested at a time.
const RECORDS: u32 = 64;
/// The most partitions that are read again one by one.
const MOST_AGAIN: usize = 16;
/// Pages that are requested at a time.
const PAGES: u32 = 4096;
/// The most tries for a copy of a database that changes meanwhile.
const TRIES: u32 = 10;
/// The longest delay of news: an event that comes together with a reply counts as the reply's
/// event.
const LATEST: Duration = Duration::from_secs(1);

/// Runs a session until the channel breaks.
pub async fn run(context: Rc<Context>) {
    context.requests.begin_session();
    match open(&context).await {
        Ok(()) => context.requests.open_session(),
        Err(Failure::NoChannel(_) | Failure::ShuttingDown) => return,
        Err(failure) => {
            log(&format!("the session could not be opened as it should: {failure}"));
            context.requests.open_session();
        }
    }
    let owed = owed(&context.state.borrow(), &context.guests.rows.borrow());
    for name in owed {
        let context = Rc::clone(&context);
        context.guests.begin_restart(&name);
        context.clone().jobs.spawn(async move {
            super::policy::start_owed(&context, &name).await;
            context.guests.end_restart(&name, &context.changed);
        });
    }
    context.jobs.spawn(autostart::run(Rc::clone(&context)));
    while context.requests.has_session() {
        news(&context).await;
        match follow(&context).await {
            Ok(()) => {}
            Err(Failure::NoChannel(_) | Failure::ShuttingDown) => return,
            Err(failure) => log(&format!("the log could not be followed: {failure}")),
        }
    }
}

/// Partitions that a policy destroyed and has not restarted yet.
fn owed(state: &State, rows: &Rows) -> Vec<String> {
    let owed = state
        .records()
        .iter()
        .filter(|(name, record)| record.restarting && rows.named(name).is_none());
    owed.map(|(name, _)| name.clone()).collect()
}

async fn open(context: &Rc<Context>) -> Result<(), Failure> {
    match context.requests.ask(Body::Open).await?.answer {
        Answer::Opened { rolled_back } if rolled_back.is_empty() => {}
        Answer::Opened { rolled_back } => {
            log(&format!("{} pending transactions were rolled back", rolled_back.len()));
        }
        _ => return Err(unexpected("the session")),
    }
    copy(context).await?;
    settle(context).await?;
    partitions::read_all(context).await?;
    reconnect(context);
    Ok(())
}

/// Settles the staged edits of transactions whose end was not seen, by an earlier `uvd`, or by this
/// one if the reply was lost. Consoles of guests that run after all are connected.
pub async fn settle(context: &Rc<Context>) -> Result<(), Failure> {
    let all = context.state.borrow().staged().to_vec();
    for staged in &all {
        let committed = is_committed(context, staged).await?;
        context.state.borrow_mut().settle(staged, committed);
    }
    if !all.is_empty() {
        context.state.borrow_mut().store();
        partitions::read_all(context).await?;
        reconnect(context);
    }
    Ok(())
}

/// Whether a transaction whose reply was not seen has been committed. The ultravisor answers in the
/// order of the requests, so a transaction that its log does not show by now will not be carried
/// out.
pub async fn is_committed(context: &Rc<Context>, staged: &Staged) -> Result<bool, Failure> {
    let Staged { boot, request, since, ref edits } = *staged;
    let is_now = boot == context.state.borrow().boot();
    if is_now {
        match told_by_log(&context.requests, request, since).await? {
            (Some(Settled::Begun), _) => return Err(undecided(request)),
            (Some(outcome), _) => return Ok(outcome == Settled::Committed),
            (None, true) => return Ok(false),
            (None, false) => {}
        }
    }
    let stored = context.state.borrow().outcome(boot, COMMAND, request);
    match stored {
        Some(outcome) => Ok(outcome == Settled::Committed),
        // The log does not reach back so far, so the existing partitions decide.
        None if is_now => {
            partitions::read_all(context).await?;
            let rows = context.guests.rows.borrow();
            let there = |name: &str| rows.named(name).is_some();
            Ok(edits.iter().all(|edit| match edit {
                Edit::Put(record) => there(&record.definition.name),
                Edit::Forget(name) => !there(name),
            }))
        }
        None => {
            log(&format!(
                "request {request} of an earlier boot: the stored log does not say how it ended; \
                 definitions stay as they were before it, see `uvtool definitions`"
            ));
            Ok(false)
        }
    }
}

/// Searches the ultravisor's log for a request of `uvd`. Returns how the request ended, and whether
/// the log reaches back to the record where the search began.
async fn told_by_log(
    requests: &Requests,
    request: u64,
    since: u64,
) -> Result<(Option<Settled>, bool), Failure> {
    let (mut from, mut complete) = (since, true);
    loop {
        let query = Query::Log { from, most: RECORDS };
        let Answer::Log { rows, oldest, .. } = requests.ask(Body::Query(query)).await?.answer
        else {
            return Err(unexpected("the log"));
        };
        complete &= oldest <= from;
        let ours = |row: &&LogRow| row.who == COMMAND && row.request == request;
        if let Some(row) = rows.iter().rev().find(ours) {
            return Ok((Some(row.outcome), complete));
        }
        match rows.last() {
            Some(last) => from = last.sequence + 1,
            None => return Ok((None, complete)),
        }
    }
}

fn undecided(request: u64) -> Failure {
    let object = format!("request {request}");
    let reason = "the ultravisor is still carrying it out";
    refused(Code::Busy, &object, "outcome", reason, "ask again when it is done")
}

/// Connects the consoles of existing guests.
fn reconnect(context: &Context) {
    for row in context.guests.rows.borrow().values() {
        let there =
            matches!(row.state, state::RUNNING | state::PAUSED) || policy::end_of(row).is_some();
        if row.kind == kind::GUEST && there {
            batch::connect(context, &row.name, row.number, row.console_port);
        }
    }
}

/// Waits until there may be new records that no batch takes over.
async fn news(context: &Rc<Context>) {
    let late = Instant::now() + LATEST;
    let none = || !context.database.news.get() || context.turns.try_acquire().is_none();
    while none() && context.requests.has_session() && Instant::now() < late {
        let change = Box::pin(context.changed.wait());
        select(change, Box::pin(context.timers.sleep_until(late))).await;
    }
}

struct Records {
    rows: Vec<RecordRow>,
    oldest: u64,
    next: u64,
    version: u64,
}

async fn records(context: &Rc<Context>, from: u64) -> Result<Records, Failure> {
    records_most(context, from, RECORDS).await
}

async fn records_most(context: &Rc<Context>, from: u64, most: u32) -> Result<Records, Failure> {
    let id = context.requests.make_id();
    context.database.following.set(id);
    let replied = context.requests.ask_as(id, Body::Query(Query::Records { from, most })).await?;
    match replied.answer {
        Answer::Records { rows, oldest, next } => {
            Ok(Records { rows, oldest, next, version: replied.version })
        }
        _ => Err(unexpected("records")),
    }
}

/// Takes over the new records of the log. If few partitions changed, only those are read again.
pub async fn follow(context: &Rc<Context>) -> Result<(), Failure> {
    let _turn = context.database.followers.acquire().await;
    let (mut changed, mut concerned) = (Changed::default(), BTreeSet::new());
    context.database.news.set(false);
    loop {
        let from = context.database.replica.borrow().next();
        let records = records(context, from).await?;
        if records.oldest > from {
            log(&format!("records {from} to {} of the log were missed", records.oldest - 1));
            copy(context).await?;
            changed.all = true;
            continue;
        }
        if records.rows.is_empty() {
            context.database.replica.borrow_mut().set_version(records.version);
            break;
        }
        changed.add(records.rows.iter().map(|record| &record.row));
        remember(&mut context.state.borrow_mut(), &records.rows);
        if !take_over(&mut context.database.replica.borrow_mut(), &records) {
            log("a record does not fit the copy of the database, which is made anew");
            copy(context).await?;
            changed.all = true;
            continue;
        }
        concerned.extend(records.rows.iter().flat_map(|record| &record.row.partitions).copied());
        if context.database.replica.borrow().next() >= records.next {
            break;
        }
    }
    if changed.all {
        concerned.extend(context.database.replica.borrow().numbers());
    }
    defined::follow_disks(context, &concerned);
    if changed.all || !changed.numbers.is_empty() || changed.others {
        settled(context, &mut changed).await?;
        context.state.borrow_mut().store();
        if changed.all || changed.numbers.len() > MOST_AGAIN {
            partitions::read_all(context).await?;
        } else {
            partitions::read_again(context, &changed.numbers).await?;
        }
        context.changed.raise();
    }
    Ok(())
}

/// The changes that records describe.
#[derive(Default)]
struct Changed {
    /// Partitions by number.
    numbers: BTreeSet<u32>,
    /// Something changed that concerns no partition.
    others: bool,
    /// All partitions may have changed.
    all: bool,
}

impl Changed {
    fn add<'r>(&mut self, rows: impl Iterator<Item = &'r LogRow>) {
        for row in rows {
            self.others |= row.partitions.is_empty();
            self.numbers.extend(&row.partitions);
        }
    }
}

/// Applies records to the copy of the database; false if the copy cannot be used any more.
fn take_over(replica: &mut Replica, records: &Records) -> bool {
    replica.set_version(records.version);
    records.rows.iter().all(|record| replica.apply(record))
}

/// Takes over the outcome of records that had none when they were read.
async fn settled(context: &Rc<Context>, changed: &mut Changed) -> Result<(), Failure> {
    let open = context.state.borrow().unsettled();
    for sequence in open {
        let records = records_most(context, sequence, 1).await?;
        let row = records.rows.first().map(|record| &record.row);
        if let Some(row) = row.filter(|row| row.sequence == sequence) {
            changed.add(std::iter::once(row));
            context.state.borrow_mut().add_log(std::slice::from_ref(row), Vec::new());
        }
    }
    Ok(())
}

/// Stores records, and the lives that begin and end with them.
fn remember(state: &mut State, records: &[RecordRow]) {
    let rows: Vec<LogRow> = records.iter().map(|record| record.row.clone()).collect();
    let mut lives: Vec<(String, Life)> = Vec::new();
    let boot = state.boot();
    for record in records.iter().filter(|record| took_effect(&record.row)) {
        let sequence = record.row.sequence;
        for bytes in &record.changes {
            let change = postcard::from_bytes::<Change>(bytes).ok();
            let Some((number, [before, after])) = change.and_then(|change| change.names()) else {
                continue;
            };
            // A renamed partition lives on.
            let mut first = sequence;
            if let Some(name) = before {
                let known = lives.iter().rev().find(|(known, _)| *known == name);
                let life = known.map(|(_, life)| *life).or_else(|| state.life(&name));
                let life = life.filter(|life| (life.boot, life.number) == (boot, number));
                let life = life.unwrap_or(Life { boot, number, first: 0, last: None });
                first = life.first;
                lives.push((name, Life { last: Some(sequence), ..life }));
            }
            if let Some(name) = after {
                lives.push((name, Life { boot, number, first, last: None }));
            }
        }
    }
    state.add_log(&rows, lives);
}

fn took_effect(row: &LogRow) -> bool {
    !matches!(row.outcome, Settled::Refused | Settled::Begun)
}

/// Fetches the copy of the database again. Changes by clients wait meanwhile, so that no stream of
/// transactions can prevent the copy.
async fn copy(context: &Rc<Context>) -> Result<(), Failure> {
    context.database.copying.set(true);
    let copied = try_copy(context).await;
    context.database.copying.set(false);
    copied
}

async fn try_copy(context: &Rc<Context>) -> Result<(), Failure> {
    for _ in 0..TRIES {
        let before = records(context, u64::MAX).await?;
        let pages = arena(context).await?;
        let after = records(context, u64::MAX).await?;
        if (before.next, before.version) == (after.next, after.version) {
            *context.database.replica.borrow_mut() =
                Replica::new(&pages, after.version, after.next);
            return backlog(context, after.oldest, after.next).await;
        }
    }
    log("the database changes too fast for a copy; it is tried again with the next record");
    Ok(())
}

/// Stores the records of this boot that are older than the copy.
async fn backlog(context: &Rc<Context>, oldest: u64, next: u64) -> Result<(), Failure> {
    let stored = context.state.borrow().log(1).last().map_or(0, |row| row.sequence + 1);
    let mut from = stored.max(oldest);
    while from < next {
        let records = records(context, from).await?;
        let Some(last) = records.rows.last() else {
            break;
        };
        from = last.row.sequence + 1;
        remember(&mut context.state.borrow_mut(), &records.rows);
    }
    context.state.borrow_mut().store();
    Ok(())
}

/// The pages of the arena. The pages of the log are left empty: the records are read separately,
/// and no copy uses these pages.
async fn arena(context: &Rc<Context>) -> Result<Vec<Vec<u8>>, Failure> {
    let mut all: Vec<Vec<u8>> = Vec::new();
    let mut log = 0..0;
    loop {
        let first = all.len() as u32;
        let most = if first < log.start { log.start - first } else { PAGES };
        let query = Query::Arena { first, most: most.min(PAGES) };
        let Answer::Arena { pages, contents, .. } =
            context.requests.ask(Body::Query(query)).await?.answer
        else {
            return Err(unexpected("the arena"));
        };
        let stuck = contents.is_empty();
        all.extend(contents.into_iter().map(|page| page.into_vec()));
        if first == 0 {
            let header = all.first().map_or(&[][..], Vec::as_slice);
            context.state.borrow_mut().begin_boot(replica::boot_identity(header));
            log = replica::log_pages(header);
            all.truncate(if log.start == 0 { all.len() } else { log.start as usize });
        }
        if log.start != 0 && all.len() as u32 == log.start {
            all.resize(log.end.min(pages) as usize, Vec::new());
        }
        if stuck || all.len() as u32 >= pages {
            return Ok(all);
        }
    }
}

/// Compares the copy with the master.
pub async fn compare(context: &Rc<Context>) -> Result<ServiceAnswer, Failure> {
    let mut versions = (0, 0);
    for _ in 0..TRIES {
        follow(context).await?;
        let before = records(context, u64::MAX).await?;
        let pages = arena(context).await?;
        let after = records(context, u64::MAX).await?;
        versions = (context.database.replica.borrow().version(), after.version);
        let next = context.database.replica.borrow().next();
        if (before.next, before.version) == (after.next, after.version) && next == after.next {
            let master = Replica::new(&pages, after.version, after.next);
            let differences = context.database.replica.borrow().differences(&master);
            return Ok(ServiceAnswer::Replica { versions, differences });
        }
    }
    Ok(ServiceAnswer::Replica { versions, differences: Vec::new() })
}
