//! Commands that take partitions through their lives.
//!
//! Rule: a command that ends well says nothing but what was asked for; `create` and `start` say
//! the partition's number.

use std::process::ExitCode;

use pv_abi::uv::calls::cause;
use uvd_protocol::{End, Service, ServiceAnswer};

use super::define;
use crate::cli::lifecycle::{Create, Lifecycle};
use crate::connection::Uvd;
use crate::console::{self, Closed};
use crate::source::{Error, Source};
use crate::view::definitions::Definitions;
use crate::view::log::Log;
use crate::view::plan::Plan;
use crate::view::waited::Waited;
use crate::view::{Names, View};
use crate::words::cause_words;
use crate::{Shown, print, shown, terminal};

/// Status of a command that watched a partition crash.
const CRASHED: u8 = 3;

/// Does it; the status to end with.
pub fn run(command: &Lifecycle, json: bool, uvd: &mut Uvd) -> Result<ExitCode, Error> {
    match command {
        Lifecycle::Create(create) => self::create(create, json, uvd),
        Lifecycle::Start { name, console } => {
            let number = partition(uvd.service(Service::Start { name: name.clone() })?)?;
            if *console { watch(name, uvd) } else { Ok(tell_number(name, number, json)) }
        }
        Lifecycle::Console { name, no_history, once } => {
            let name = name.clone();
            let request = Service::Console { name, history: !no_history, once: *once };
            let typing = !once;
            if typing && terminal::is_interactive() {
                eprintln!("uvtool: attached; Ctrl-] detaches");
            }
            Ok(closed(&console::attach(uvd, request, typing)?))
        }
        Lifecycle::Apply { .. } => apply(command, json, uvd),
        Lifecycle::Shutdown { name, wait } => {
            done(uvd.service(Service::Shutdown { name: name.clone(), reboot: false })?)?;
            if *wait {
                let until = uvd_protocol::Until::Stopped;
                uvd.service(Service::Wait { name: name.clone(), until })?;
            }
            Ok(ExitCode::SUCCESS)
        }
        _ => match simple(command, uvd)? {
            Some(service) => done(uvd.service(service)?).map(|()| ExitCode::SUCCESS),
            None => view(command, json, uvd).map(print_shown),
        },
    }
}

/// The request of a command that has nothing to show.
fn simple(command: &Lifecycle, uvd: &mut Uvd) -> Result<Option<Service>, Error> {
    Ok(Some(match command {
        Lifecycle::Reboot { name } => Service::Shutdown { name: name.clone(), reboot: true },
        Lifecycle::Destroy { name, forget } => {
            Service::Destroy { name: name.clone(), forget: *forget }
        }
        Lifecycle::Pause { name } => Service::Pause { name: name.clone() },
        Lifecycle::Unpause { name } => Service::Unpause { name: name.clone() },
        Lifecycle::Rename { name, to } => Service::Rename { name: name.clone(), to: to.clone() },
        Lifecycle::Set(set) => {
            let defined = uvd.definitions()?;
            let now = defined.iter().find(|one| one.definition.name == set.name);
            let settings = define::settings(set, now.map(|one| one.definition.on))?;
            Service::Set { name: set.name.clone(), settings }
        }
        _ => return Ok(None),
    }))
}

/// What a command shows.
fn view(command: &Lifecycle, json: bool, uvd: &mut Uvd) -> Result<Shown, Error> {
    match command {
        Lifecycle::Plan { files, prune } => {
            let definitions = define::read(files)?;
            Ok(shown(&plan(uvd, Service::Plan { definitions, prune: *prune })?, json))
        }
        Lifecycle::Definitions => Ok(shown(&Definitions::new(uvd.definitions()?), json)),
        Lifecycle::Wait { name, until } => {
            let until = (*until).into();
            match uvd.service(Service::Wait { name: name.clone(), until })? {
                ServiceAnswer::Waited { row, end } => {
                    Ok(shown(&Waited::new(name, row.as_ref(), end), json))
                }
                _ => Err(Error::Other("a partition's end")),
            }
        }
        Lifecycle::Why { name } => match uvd.service(Service::Why { name: name.clone() })? {
            ServiceAnswer::Log(rows) => {
                let partitions = uvd.partitions()?;
                Ok(shown(&Log::new(rows, &Names::new(&partitions)), json))
            }
            _ => Err(Error::Other("log records")),
        },
        Lifecycle::Undo { record, reason } => {
            let outcomes = uvd.undo(*record, reason)?;
            Ok(shown(&outcomes, json))
        }
        _ => Err(Error::Other("a command")),
    }
}

fn print_shown(shown: Shown) -> ExitCode {
    print(shown.output.as_bytes(), shown.problem.as_deref())
}

fn create(create: &Create, json: bool, uvd: &mut Uvd) -> Result<ExitCode, Error> {
    let definition = define::wanted(create)?;
    let name = definition.name.clone();
    // The console is there when there is a partition, so it is attached to afterwards: what was
    // printed meanwhile is in its history.
    let number = partition(uvd.service(Service::Create { definition, paused: create.paused })?)?;
    if create.console { watch(&name, uvd) } else { Ok(tell_number(&name, number, json)) }
}

fn apply(command: &Lifecycle, json: bool, uvd: &mut Uvd) -> Result<ExitCode, Error> {
    let Lifecycle::Apply { files, prune, at, yes, reason } = command else {
        return Err(Error::Other("a command"));
    };
    let (definitions, prune) = (define::read(files)?, *prune);
    let planned = plan(uvd, Service::Plan { definitions: definitions.clone(), prune })?;
    let goes: Vec<&str> = planned.destroyed().collect();
    if !goes.is_empty() && !yes {
        if !terminal::is_interactive() {
            let goes = goes.join(", ");
            return Err(Error::Given(format!(
                "apply: would destroy {goes}; look at `uvtool plan`, then use --yes"
            )));
        }
        eprint!("{}", planned.text());
        if !terminal::confirm("Apply this?") {
            return Ok(ExitCode::FAILURE);
        }
    }
    let planned_at = Some(at.unwrap_or(planned.version()));
    let reason = if reason.is_empty() {
        let names: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        format!("apply {}", names.join(" "))
    } else {
        reason.clone()
    };
    let applied = plan(uvd, Service::Apply { definitions, prune, planned_at, reason })?;
    Ok(print_shown(shown(&applied, json)))
}

fn plan(uvd: &mut Uvd, request: Service) -> Result<Plan, Error> {
    match uvd.service(request)? {
        ServiceAnswer::Changes { version, changes } => Ok(Plan::new(version, changes)),
        _ => Err(Error::Other("a plan")),
    }
}

/// Shows the console of a partition until it stops.
fn watch(name: &str, uvd: &mut Uvd) -> Result<ExitCode, Error> {
    let request = Service::Console { name: name.into(), history: true, once: false };
    Ok(closed(&console::attach(uvd, request, true)?))
}

/// The status for how a console closed: 0 for a power-off or a reboot, else [`CRASHED`].
fn closed(closed: &Closed) -> ExitCode {
    match closed {
        Closed::Ended(Some(End { cause, detail })) => {
            let well = *cause == cause::SHUTDOWN && *detail <= 2;
            if well || *cause == cause::STOPPED {
                return ExitCode::SUCCESS;
            }
            if let Some(words) = cause_words(*cause, *detail) {
                eprintln!("uvtool: the partition crashed: {words}");
            }
            ExitCode::from(CRASHED)
        }
        Closed::Ended(None) | Closed::Detached => ExitCode::SUCCESS,
    }
}

fn tell_number(name: &str, number: u32, json: bool) -> ExitCode {
    let text = if json {
        format!("{}\n", serde_json::json!({ "name": name, "number": number }))
    } else {
        format!("{name}: partition {number}\n")
    };
    print(text.as_bytes(), None)
}

fn partition(answer: ServiceAnswer) -> Result<u32, Error> {
    match answer {
        ServiceAnswer::Partition(number) => Ok(number),
        _ => Err(Error::Other("a partition's number")),
    }
}

fn done(answer: ServiceAnswer) -> Result<(), Error> {
    match answer {
        ServiceAnswer::Done => Ok(()),
        _ => Err(Error::Other("that it is done")),
    }
}
