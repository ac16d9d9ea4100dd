//! The requests that `uvd` serves itself: each is a job.
//!
//! Rule: a job continues when its client goes away. A job makes its changes in one transaction, or
//! in a pending one that is completed at the end, so if it ends early, all of them are undone.

pub mod allocate;
pub mod autostart;
mod batch;
mod defined;
mod io;
pub mod live;
pub mod partitions;
pub mod plan;
pub mod policy;
mod reporter;
pub mod session;
mod show;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use batch::{Batch, Creation};
use control::command::{Body, Code, Heap, Operation, PartitionRow, Refusal, Target};
use definition::Definition;
use futures_util::future::{Either, select};
use pv_abi::uv::database::{asked, kind, state};
use uvd_protocol::{Failure, Service, ServiceAnswer, Until, way_out};

pub use reporter::Reporter;
pub use show::unread;

use crate::console::typed::Unread;
use crate::context::Context;
use crate::context::refusal::refused;
use crate::state::{Edit, Record};

/// Starts the job for a request.
pub fn start(
    context: &Rc<Context>,
    client: u64,
    (id, timeout_ms): (u64, Option<u32>),
    service: Service,
) {
    let reader = |console| (client, console);
    match service {
        // These requests are about a request that is under way, so they are served in the order in
        // which they arrive.
        Service::Input { console, bytes } => {
            let taken = context.consoles.borrow_mut().type_in(reader(console), id, bytes);
            if let Err(unread) = taken {
                context.outbox.finish(client, id, Err(show::unread(unread)));
            }
        }
        Service::Detach { console } => {
            let detached = context.consoles.borrow_mut().detach(reader(console));
            if detached {
                context.outbox.finish(client, console, Ok(ServiceAnswer::Ended { end: None }));
            }
            let not_attached = || show::unread(Unread::NotAttached);
            let result = if detached { Ok(ServiceAnswer::Done) } else { Err(not_attached()) };
            context.outbox.finish(client, id, result);
        }
        service => {
            let context = Rc::clone(context);
            context.clone().jobs.spawn(async move {
                let reporter = Reporter::new(&context, client, id);
                match run(&context, service, timeout_ms, &reporter).await {
                    Ok(None) => {}
                    Ok(Some(answer)) => context.outbox.finish(client, id, Ok(answer)),
                    Err(failure) => context.outbox.finish(client, id, Err(failure)),
                }
            });
        }
    }
}

/// Carries out a request. `None` means that the request goes on and another part of `uvd` sends its
/// last answer.
async fn run(
    context: &Rc<Context>,
    service: Service,
    timeout_ms: Option<u32>,
    reporter: &Reporter,
) -> Result<Option<ServiceAnswer>, Failure> {
    context.requests.ready().await?;
    check(&service)?;
    let answer = match service {
        Service::Plan { definitions, prune } => {
            plan::answer(context, &definitions, prune, reporter).await?
        }
        Service::Apply { definitions, prune, planned_at, reason } => {
            let wanted = plan::Wanted { definitions, prune, planned_at, reason };
            plan::apply(context, &wanted, reporter).await?
        }
        Service::Create { definition, paused } => {
            create(context, definition, paused, reporter).await?
        }
        Service::Start { name } => start_defined(context, &name, reporter).await?,
        Service::Shutdown { name, reboot } => {
            let what = if reboot { asked::REBOOT } else { asked::POWER_OFF };
            let word = if reboot { "reboot" } else { "shut down" };
            let operation = |partition| Operation::Ask { partition, what };
            one(context, &name, word, operation).await?
        }
        Service::Destroy { name, forget } => destroy(context, &name, forget, reporter).await?,
        Service::Pause { name } => {
            let pause = |partition| Operation::SetState { partition, state: state::PAUSED };
            one(context, &name, "pause", pause).await?
        }
        Service::Unpause { name } => {
            let run = |partition| Operation::SetState { partition, state: state::RUNNING };
            one(context, &name, "unpause", run).await?
        }
        Service::Rename { name, to } => live::rename(context, &name, &to, reporter).await?,
        Service::Set { name, settings } => live::set(context, &name, &settings, reporter).await?,
        Service::AttachDisk { name, disk } => {
            live::attach_disk(context, &name, &disk, reporter).await?
        }
        Service::DetachDisk { name, device } => {
            live::detach_disk(context, &name, device, reporter).await?
        }
        Service::Wait { name, until } => wait(context, &name, until, timeout_ms).await?,
        Service::Console { name, from, once } => {
            show::console(context, reporter.to(), &name, from, once).await?;
            return Ok(None);
        }
        Service::Definitions { after } => {
            if after.is_none() {
                partitions::update(context).await?;
            }
            let (state, rows) = (context.state.borrow(), context.guests.rows.borrow());
            show::definitions(&state, &rows, &context.consoles.borrow(), after.as_deref())
        }
        Service::Why { name } => {
            session::follow(context).await?;
            show::why(&context.state.borrow(), &context.guests.rows.borrow(), &name)?
        }
        Service::Log { most } => {
            session::follow(context).await?;
            ServiceAnswer::Log(show::newest(context.state.borrow().log(most)))
        }
        Service::Replica => session::compare(context).await?,
        Service::ConsoleTimes => {
            ServiceAnswer::ConsoleTimes(context.consoles.borrow().times().collect())
        }
        Service::BootHeap => ServiceAnswer::BootHeap(boot_heap(context).await?),
        Service::Io(change) => ServiceAnswer::Moved(io::change(context, change).await?),
        Service::Input { .. } | Service::Detach { .. } => ServiceAnswer::Done,
    };
    Ok(Some(answer))
}

/// Asks the boot partition how much of its heap it uses. Returns `None` while a job changes the
/// system, whether the boot partition builds or not.
async fn boot_heap(context: &Context) -> Result<Option<Heap>, Failure> {
    match context.turns.try_acquire() {
        Some(_turn) => context.builder.heap().await.map(Some),
        None => Ok(None),
    }
}

/// Checks the values of a request with the same validators that every other way in uses. The
/// definitions of a plan are checked where they are read.
fn check(service: &Service) -> Result<(), Failure> {
    match service {
        Service::Create { definition, .. } => check_definition(definition),
        Service::Rename { name, to } => rules::guest_name(to).map_err(|wrong| {
            let object = format!("partition {name:?}");
            refused(Code::InvalidValue, &object, "name", &wrong.problem, &wrong.way_out)
        }),
        Service::AttachDisk { name, disk } => disk.check().map_err(|unfit| {
            let object = format!("partition {name:?}");
            refused(Code::InvalidValue, &object, unfit.field, &unfit.problem, &unfit.way_out)
        }),
        _ => Ok(()),
    }
}

/// Checks that a definition is within its limits.
fn check_definition(definition: &Definition) -> Result<(), Failure> {
    definition.check().map_err(|unfit| {
        let object = format!("partition {}", rules::quoted(&definition.name));
        refused(Code::InvalidValue, &object, unfit.field, &unfit.problem, &unfit.way_out)
    })
}

/// Finds a partition by name, or by number.
pub async fn find(context: &Rc<Context>, name: &str) -> Result<PartitionRow, Failure> {
    let row =
        partitions::read(&context.requests, name).await?.ok_or_else(|| not_there(context, name))?;
    if policy::end_of(&row).is_some() {
        // If the partition ended, its policy is applied before any client sees the end.
        policy::seen_again(context, &BTreeSet::from([row.number]), vec![row.clone()]);
    }
    Ok(row)
}

fn not_there(context: &Context, name: &str) -> Failure {
    let object = format!("partition {name:?}");
    if context.state.borrow().records().contains_key(name) {
        return refused(
            Code::NoSuchPartition,
            &object,
            "state",
            "is defined and not started",
            &way_out::with_name(way_out::START, name),
        );
    }
    let rows = context.guests.rows.borrow();
    let way_out = format!("there are {}", some_of(rows.values().map(|row| row.name.as_str())));
    refused(Code::NoSuchPartition, &object, "name", "no such partition", &way_out)
}

/// The first of these names, and a mark if there are more.
fn some_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    const MOST: usize = 20;
    let mut names = names.fuse();
    let mut all = names.by_ref().take(MOST).collect::<Vec<_>>().join(", ");
    match names.count() {
        0 => {}
        more => all += &format!(" and {more} more"),
    }
    all
}

/// Carries out one operation on one partition.
async fn one(
    context: &Rc<Context>,
    name: &str,
    word: &str,
    operation: impl FnOnce(Target) -> Operation,
) -> Result<ServiceAnswer, Failure> {
    let row = find(context, name).await?;
    let reason = format!("{word} {}", row.name);
    let operations = vec![operation(Target::Number(row.number))];
    let body = batch::transaction(&reason, None, false, operations);
    context.fault.step();
    context.requests.ask(Body::Transaction(body)).await?;
    Ok(ServiceAnswer::Done)
}

async fn create(
    context: &Rc<Context>,
    definition: Definition,
    paused: bool,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    let reason = format!("create {}", definition.name);
    let record = Record::new(definition.clone(), false);
    let batch = Batch {
        reason,
        creates: vec![Creation { definition, paused }],
        edits: vec![Edit::Put(record)],
        ..Batch::default()
    };
    let numbers = batch::carry_out(context, batch, reporter).await?;
    Ok(ServiceAnswer::Partition(numbers.first().copied().unwrap_or(0)))
}

async fn start_defined(
    context: &Rc<Context>,
    name: &str,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    let record = context.state.borrow().records().get(name).cloned();
    let Some(record) = record else {
        let state = context.state.borrow();
        let defined = some_of(state.records().keys().map(String::as_str));
        let there = if defined.is_empty() { "none" } else { &defined };
        let way_out = format!("defined are: {there}; {}", way_out::CREATE);
        let object = format!("partition {name:?}");
        return Err(refused(Code::NotDefined, &object, "name", "is not defined", &way_out));
    };
    let batch = Batch {
        reason: format!("start {name}"),
        creates: vec![Creation { definition: record.definition, paused: false }],
        ..Batch::default()
    };
    let numbers = batch::carry_out(context, batch, reporter).await?;
    Ok(ServiceAnswer::Partition(numbers.first().copied().unwrap_or(0)))
}

async fn destroy(
    context: &Rc<Context>,
    name: &str,
    forget: bool,
    reporter: &Reporter,
) -> Result<ServiceAnswer, Failure> {
    let defined = context.state.borrow().records().contains_key(name);
    let edits = |name: &str| if forget { vec![Edit::Forget(name.into())] } else { Vec::new() };
    let batch = match find(context, name).await {
        Ok(row) if row.kind != kind::GUEST => {
            let object = format!("partition {name:?}");
            let reason = "is the host's own";
            return Err(refused(Code::SystemPartition, &object, "kind", reason, way_out::GUEST));
        }
        Ok(row) => Batch {
            reason: format!("destroy {}", row.name),
            edits: edits(&row.name),
            destroys: vec![row],
            ..Batch::default()
        },
        Err(_) if defined && forget => {
            Batch { reason: format!("forget {name}"), edits: edits(name), ..Batch::default() }
        }
        Err(Failure::Refused(refusal)) if defined => {
            let way_out = way_out::with_name(way_out::FORGET, name);
            return Err(Failure::Refused(Box::new(Refusal { way_out, ..*refusal })));
        }
        Err(failure) => return Err(failure),
    };
    let name = batch.destroys.first().map_or(name, |row| row.name.as_str()).to_string();
    match batch::carry_out(context, batch.clone(), reporter).await {
        // The partition went by itself meanwhile, or another client was faster; the wanted state is
        // reached.
        Err(Failure::Refused(refusal))
            if refusal.code == Code::NoSuchPartition && !batch.destroys.is_empty() =>
        {
            let rest = Batch { destroys: Vec::new(), ..batch };
            batch::carry_out(context, rest, reporter).await?;
        }
        done => drop(done?),
    }
    context.consoles.borrow_mut().end(&name, None);
    if forget {
        context.consoles.borrow_mut().retire(&name);
    }
    Ok(ServiceAnswer::Done)
}

/// Waits until a partition reaches a state.
async fn wait(
    context: &Rc<Context>,
    name: &str,
    until: Until,
    timeout_ms: Option<u32>,
) -> Result<ServiceAnswer, Failure> {
    let row = find(context, name).await;
    let defined = context.state.borrow().records().contains_key(name);
    let name = match row {
        Ok(row) => row.name,
        Err(_) if until == Until::Gone || defined => name.to_string(),
        Err(failure) => return Err(failure),
    };
    let waiting = Box::pin(async {
        loop {
            if let Some(answer) =
                show::waited(&context.guests, &context.state.borrow(), &name, until)
            {
                return answer;
            }
            context.changed.wait().await;
        }
    });
    let Some(most) = timeout_ms else {
        return Ok(waiting.await);
    };
    let time = context.timers.sleep_until(Instant::now() + Duration::from_millis(most.into()));
    match select(waiting, Box::pin(time)).await {
        Either::Left((answer, _)) => Ok(answer),
        Either::Right(_) => Err(show::time_is_up(&name, until, most)),
    }
}
