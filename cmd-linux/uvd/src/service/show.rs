//! Requests that change nothing.

use std::ops::Bound;
use std::rc::Rc;

use control::command::{Code, LogRow, Refusal};
use pv_abi::uv::database::state;
use uvd_protocol::{
    Answered, Defined, Failure, From, MAX_INPUT, MAX_MESSAGE, ServiceAnswer, Until, fitting,
    seconds, way_out,
};

use super::policy;
use crate::console::Consoles;
use crate::console::typed::Unread;
use crate::context::Context;
use crate::context::guests::Guests;
use crate::context::refusal::refused;
use crate::rows::Rows;
use crate::state::State;

/// The definitions by name, from the name after `after` on, as many as fit into an answer.
pub fn definitions(
    state: &State,
    rows: &Rows,
    consoles: &Consoles,
    after: Option<&str>,
) -> ServiceAnswer {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let all = state.records().range::<str, _>((from, Bound::Unbounded));
    let defined = fitting(all.map(|(name, record)| Defined {
        definition: record.definition.clone(),
        number: rows.named(name).map(|row| row.number),
        console_bytes: consoles.kept(name),
        last_end: record.last_end,
    }));
    let last = defined.last().map(|one| one.definition.name.as_str());
    let more = last != state.records().last_key_value().map(|(name, _)| name.as_str());
    ServiceAnswer::Definitions { more: more && last.is_some(), defined }
}

/// Attaches to a console.
pub async fn console(
    context: &Rc<Context>,
    reader: Option<(u64, u64)>,
    name: &str,
    from: From,
    once: bool,
) -> Result<(), Failure> {
    let found = super::find(context, name).await;
    if let (Err(_), Some((client, id)), From::Partition(number)) = (&found, reader, from)
        && !context.consoles.borrow().shows(name, number)
        && let end @ Some(_) =
            context.state.borrow().records().get(name).and_then(|one| one.last_end)
    {
        // The partition ended before anybody saw its console, and its policy destroyed it.
        context.outbox.send(client, id, Ok(Answered::Attached), false);
        context.outbox.finish(client, id, Ok(ServiceAnswer::Ended { end }));
        return Ok(());
    }
    let name = match found {
        Ok(row) => row.name,
        Err(failure) => {
            let defined = context.state.borrow().records().contains_key(name);
            let kept = context.consoles.borrow().kept(name) != 0;
            match failure {
                _ if once && (defined || kept) => {}
                Failure::Refused(refusal) if kept && from == From::Now => {
                    let way_out = way_out::with_name(way_out::HISTORY, name);
                    return Err(Failure::Refused(Box::new(Refusal { way_out, ..*refusal })));
                }
                _ if kept => {}
                failure => return Err(failure),
            }
            name.to_string()
        }
    };
    let mut consoles = context.consoles.borrow_mut();
    let there = match from {
        From::Partition(number) => consoles.has_begun(&name, number),
        From::Oldest | From::Now => consoles.is_connected(&name) || consoles.kept(&name) != 0,
    };
    if !there && !once {
        let object = format!("partition {name:?}");
        let reason = "has none; guests that were built by this host have";
        return Err(refused(Code::NoConsole, &object, "console", reason, way_out::GUEST));
    }
    if let Some(reader) = reader {
        consoles.attach(reader, &name, from, once);
        context.outbox.send(reader.0, reader.1, Ok(Answered::Attached), false);
    }
    Ok(())
}

/// The failure of a wait whose time is up.
pub fn time_is_up(name: &str, until: Until, milliseconds: u32) -> Failure {
    let still = match until {
        Until::Running => "does not run",
        Until::Stopped => "has not stopped",
        Until::Gone => "is still there",
        Until::Paused => "is not paused",
    };
    let object = format!("partition {name:?}");
    let reason = format!("{still} after {}", seconds(milliseconds));
    refused(Code::TimeIsUp, &object, "state", &reason, "wait again with a longer --timeout")
}

/// The failure for typed input that was not read.
pub fn unread(unread: Unread) -> Failure {
    let refuse =
        |code, field, reason: &str, way_out: &str| refused(code, "console", field, reason, way_out);
    match unread {
        Unread::NotAttached => {
            refuse(Code::NotAttached, "request", "is not attached", "attach to it first")
        }
        Unread::Busy => {
            let reason = "its kernel has not read what was typed before";
            refuse(Code::ConsoleBusy, "input", reason, "type on when that is answered")
        }
        Unread::TooLong => {
            let reason = format!("more than {MAX_INPUT} bytes at once");
            refuse(Code::TooLarge, "input", &reason, "type it in pieces")
        }
        Unread::Ended(bytes) => {
            let reason = format!("it ended before the partition had read all of {bytes} bytes");
            refuse(Code::ConsoleEnded, "input", &reason, way_out::LIST)
        }
    }
}

/// The records that led to a partition's present state. Refuses a name that the log does not have.
pub fn why(state: &State, rows: &Rows, name: &str) -> Result<ServiceAnswer, Failure> {
    let numbered = name.parse().ok().and_then(|number| rows.get(number));
    let name = numbered.map_or(name, |row| row.name.as_str());
    match state.life(name) {
        Some(life) => {
            let (rows, earlier) = (newest(state.why(&life)), state.earlier(life.boot));
            Ok(ServiceAnswer::Why { rows, earlier })
        }
        None => {
            let object = format!("partition {name:?}");
            let reason = "the log has no partition of this name";
            Err(refused(Code::NoSuchPartition, &object, "name", reason, way_out::LIST))
        }
    }
}

/// The newest records that fit into a message.
pub fn newest(mut rows: Vec<LogRow>) -> Vec<LogRow> {
    let mut room = MAX_MESSAGE / 2;
    let fits = rows.iter().rev().take_while(|row| {
        // The half of the message that is left over covers what the encoding adds to the texts.
        let bytes = 200 + row.what.len() + row.reason.len() + row.partitions.len() * 6;
        room = room.saturating_sub(bytes);
        room > 0
    });
    let fits = fits.count();
    rows.drain(..rows.len() - fits);
    rows
}

/// Returns the answer to a wait, or `None` while the wait goes on.
pub fn waited(guests: &Guests, state: &State, name: &str, until: Until) -> Option<ServiceAnswer> {
    if guests.is_restarting(name) {
        return None;
    }
    let row = guests.rows.borrow().named(name).cloned();
    let last_end = state.records().get(name).and_then(|record| record.last_end);
    let Some(row) = row else {
        return Some(ServiceAnswer::Waited { row: None, end: last_end });
    };
    let reached = match until {
        Until::Running => row.state == state::RUNNING,
        Until::Stopped => matches!(row.state, state::SHUTDOWN | state::CRASHED | state::DYING),
        Until::Gone => false,
        Until::Paused => row.state == state::PAUSED,
    };
    let end = policy::end_of(&row);
    reached.then_some(ServiceAnswer::Waited { row: Some(row), end })
}
