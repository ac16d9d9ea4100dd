//! Commands that take partitions through their lives.
//!
//! Rule: a command that succeeds prints only the requested answer; `create` and `start` print the
//! partition's number. In JSON, a command without an answer reports that it is done.

use std::mem::ManuallyDrop;
use std::process::ExitCode;
use std::time::Duration;

use control::command::Code;
use pv_abi::uv::calls::cause;
use uvd_protocol::{End, From, Sentence, Service, ServiceAnswer};

use super::define;
use crate::answer::{self, status};
use crate::cli::Command;
use crate::cli::disks::{Disk, DiskRequest};
use crate::cli::lifecycle::{Apply, Create};
use crate::connection::Uvd;
use crate::console::{self, Closed, Input, Left};
use crate::source::{Error, Source};
use crate::view::definitions::Definitions;
use crate::view::io::Moved;
use crate::view::log::Log;
use crate::view::plan::Plan;
use crate::view::waited::Waited;
use crate::view::{Names, View};
use crate::words::cause_words;
use crate::{Shown, print, shown, terminal, top};

/// Carries out the command; returns the exit status.
pub fn run(command: &Command, json: bool, uvd: &mut Uvd) -> Result<ExitCode, Error> {
    match command {
        Command::Create(create) => self::create(create, json, uvd),
        Command::Start(options) => {
            let name = &options.name;
            let number = partition(uvd.service(Service::Start { name: name.clone() })?)?;
            if options.console {
                watch(name, number, uvd)
            } else {
                Ok(tell_number(name, number, json))
            }
        }
        Command::Console(options) => {
            let (name, once) = (options.name.clone(), options.once);
            let from = if options.no_history { From::Now } else { From::Oldest };
            let input = if once || options.follow { Input::Ignored } else { Input::TypedToTheEnd };
            let closed = console::attach(uvd, Service::Console { name, from, once }, input)?;
            Ok(self::closed(&closed))
        }
        Command::Apply(options) => apply(options, json, uvd),
        Command::Top(options) => {
            let (delay, until) = (Duration::from_secs_f64(options.delay), uvd.deadline());
            let done = top::top(uvd, delay, options.rounds, json, until)?;
            Ok(if done { ExitCode::SUCCESS } else { ExitCode::from(status::TIMED_OUT) })
        }
        Command::Shutdown(options) => {
            let name = &options.name;
            done(uvd.service(Service::Shutdown { name: name.clone(), reboot: false })?)?;
            if options.wait {
                let until = uvd_protocol::Until::Stopped;
                uvd.service(Service::Wait { name: name.clone(), until })?;
            }
            Ok(say_done(json))
        }
        _ => match simple(command)? {
            Some(service) => done(uvd.service(service)?).map(|()| say_done(json)),
            None => view(command, json, uvd).map(Shown::print),
        },
    }
}

/// The request of a command that shows nothing; `None` for other commands.
fn simple(command: &Command) -> Result<Option<Service>, Error> {
    Ok(Some(match command {
        Command::Reboot(options) => Service::Shutdown { name: options.name.clone(), reboot: true },
        Command::Destroy(options) => {
            Service::Destroy { name: options.name.clone(), forget: options.forget }
        }
        Command::Pause(options) => Service::Pause { name: options.name.clone() },
        Command::Unpause(options) => Service::Unpause { name: options.name.clone() },
        Command::Rename(options) => {
            Service::Rename { name: options.name.clone(), to: options.to.clone() }
        }
        Command::Disk(Disk { request: DiskRequest::Attach(options) }) => {
            Service::AttachDisk { name: options.partition.clone(), disk: options.disk() }
        }
        Command::Disk(Disk { request: DiskRequest::Detach { partition, device } }) => {
            Service::DetachDisk { name: partition.clone(), device: *device }
        }
        Command::Set(set) => {
            Service::Set { name: set.name.clone(), settings: define::settings(set)? }
        }
        _ => return Ok(None),
    }))
}

/// Makes the view that a command shows.
fn view(command: &Command, json: bool, uvd: &mut Uvd) -> Result<Shown, Error> {
    match command {
        Command::Plan(options) => {
            // The process ends after the answer, so a thousand definitions are not freed.
            let definitions = define::read(&options.files)?.leak().iter().collect();
            let planned = plan(uvd, Service::Plan { definitions, prune: options.prune })?;
            Ok(shown(&*ManuallyDrop::new(planned), json))
        }
        Command::Definitions(_) => Ok(shown(&Definitions::new(uvd.definitions()?), json)),
        Command::Wait(options) => {
            let (name, until) = (&options.name, options.until.into());
            match uvd.service(Service::Wait { name: name.clone(), until })? {
                ServiceAnswer::Waited { row, end } => {
                    Ok(shown(&Waited::new(name, until, row.as_ref(), end), json))
                }
                _ => Err(Error::Other("a partition's end")),
            }
        }
        Command::Why(options) => match uvd.service(Service::Why { name: options.name.clone() })? {
            ServiceAnswer::Why { rows, earlier } => {
                let partitions = uvd.list()?;
                let log = Log::new(rows, &Names::of_list(&partitions)).of_boot(earlier);
                Ok(shown(&log, json))
            }
            _ => Err(Error::Other("log records")),
        },
        Command::Io(options) => {
            let change = options.change().ok_or(Error::Other("a change"))?;
            let ServiceAnswer::Moved(moves) = uvd.service(Service::Io(change))? else {
                return Err(Error::Other("functions that moved"));
            };
            let (rows, devices) = (uvd.list()?, uvd.devices()?);
            Ok(shown(&Moved::new(&moves, &devices, &Names::of_list(&rows)), json))
        }
        Command::Undo(options) => {
            let outcomes = uvd.undo(options.record, &options.reason)?;
            Ok(shown(&outcomes, json))
        }
        _ => Err(Error::Other("a command")),
    }
}

fn create(create: &Create, json: bool, uvd: &mut Uvd) -> Result<ExitCode, Error> {
    let definition = define::wanted(create)?;
    let name = definition.name.clone();
    // The console exists once the partition exists, so it is attached afterwards; the history has
    // what was printed meanwhile.
    let number = partition(uvd.service(Service::Create { definition, paused: create.paused })?)?;
    if create.console { watch(&name, number, uvd) } else { Ok(tell_number(&name, number, json)) }
}

fn apply(options: &Apply, json: bool, uvd: &mut Uvd) -> Result<ExitCode, Error> {
    let Apply { files, prune, at, yes, reason } = options;
    let definitions: uvd_protocol::Definitions = define::read(files)?.iter().collect();
    let prune = *prune;
    let planned = plan(uvd, Service::Plan { definitions: definitions.clone(), prune })?;
    let goes: Vec<&str> = planned.destroyed().collect();
    if !goes.is_empty() && !yes {
        if !terminal::is_interactive() {
            let goes = goes.join(", ");
            let way_out = "look at `uvtool plan`, then use --yes";
            return Err(Error::Given(Sentence::new(
                format!("apply: would destroy {goes}"),
                way_out,
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
    Ok(shown(&applied, json).print())
}

fn plan(uvd: &mut Uvd, request: Service) -> Result<Plan, Error> {
    match uvd.service(request)? {
        ServiceAnswer::Changes { version, changes } => Ok(Plan::new(version, changes)),
        _ => Err(Error::Other("a plan")),
    }
}

/// Shows the console of this partition from its first byte on, until the partition stops.
fn watch(name: &str, number: u32, uvd: &mut Uvd) -> Result<ExitCode, Error> {
    let from = From::Partition(number);
    let request = Service::Console { name: name.into(), from, once: false };
    Ok(closed(&console::attach(uvd, request, Input::Typed)?))
}

/// Reports how a console was left, and returns the status: 0 after a power-off or a reboot,
/// [`CRASHED`] after any other end, 1 if input was not read.
fn closed(closed: &Closed) -> ExitCode {
    if answer::is_json() {
        return closed_in_json(closed);
    }
    if closed.unread != 0 {
        eprintln!("uvtool: console: the last {} bytes of input may not be read", closed.unread);
    }
    let read = if closed.unread == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    match closed.left {
        Left::Ended(Some(End { cause, detail })) => {
            if is_clean(End { cause, detail }) {
                return read;
            }
            if let Some(words) = cause_words(cause, detail) {
                eprintln!("uvtool: the partition crashed: {words}");
            }
            ExitCode::from(status::CRASHED)
        }
        Left::Ended(None) | Left::InputEnded => read,
        Left::Detached | Left::OutputClosed => ExitCode::SUCCESS,
        Left::TimeIsUp => {
            eprintln!("uvtool: console: the time is up; use a longer --timeout, or none");
            ExitCode::from(status::TIMED_OUT)
        }
    }
}

/// Prints the last line of a console in JSON, and a failure if there is one.
fn closed_in_json(closed: &Closed) -> ExitCode {
    let end = match closed.left {
        Left::Ended(end) => end,
        _ => None,
    };
    let detached = !matches!(closed.left, Left::Ended(_));
    let crashed = end.is_some_and(|end| !is_clean(end));
    let cause = end.and_then(|end| cause_words(end.cause, end.detail));
    let line = serde_json::json!({ "detached": detached, "cause": cause, "crashed": crashed });
    let printed = print(answer::json_line(&line).as_bytes());
    if crashed {
        return ExitCode::from(status::CRASHED);
    }
    let fail = |code, status, sentence: &Sentence| {
        answer::fail(&answer::Problem { status, ..answer::Problem::new(code, sentence) })
    };
    match closed.left {
        Left::TimeIsUp => {
            let way_out = "use a longer --timeout, or none";
            let sentence = Sentence::new("console: the time is up", way_out);
            fail(Code::TimedOut, status::TIMED_OUT, &sentence)
        }
        Left::Detached | Left::OutputClosed => printed,
        _ if closed.unread != 0 => {
            let problem =
                format!("console: the last {} bytes of input may not be read", closed.unread);
            fail(Code::InputUnread, status::FAILED, &Sentence::new(problem, ""))
        }
        _ => printed,
    }
}

/// Whether a partition ended by a power-off or a reboot.
fn is_clean(End { cause, detail }: End) -> bool {
    (cause == cause::SHUTDOWN && detail <= 2) || cause == cause::STOPPED
}

/// Reports in JSON that a command without an answer is done.
fn say_done(json: bool) -> ExitCode {
    match json {
        true => print(answer::json_line(&serde_json::json!({ "done": true })).as_bytes()),
        false => ExitCode::SUCCESS,
    }
}

fn tell_number(name: &str, number: u32, json: bool) -> ExitCode {
    let text = if json {
        answer::json_line(&serde_json::json!({ "name": name, "number": number }))
    } else {
        format!("{name}: partition {number}\n")
    };
    print(text.as_bytes())
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
        _ => Err(Error::Other("the outcome of the request")),
    }
}
