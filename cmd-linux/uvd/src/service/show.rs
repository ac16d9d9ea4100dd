//! What is asked and changes nothing.

use std::rc::Rc;

use pv_abi::uv::command::LogRow;
use pv_abi::uv::database::state;
use uvd_protocol::{Defined, Failure, MAX_MESSAGE, ServiceAnswer, Until};

use super::policy;
use crate::hub::{Hub, refused};

/// What is defined.
pub fn definitions(hub: &Hub) -> ServiceAnswer {
    let (rows, consoles) = (hub.rows.borrow(), hub.consoles.borrow());
    let state = hub.state.borrow();
    let defined = state.records().iter().map(|(name, record)| Defined {
        definition: record.definition.clone(),
        number: rows.values().find(|row| row.name == *name).map(|row| row.number),
        console_bytes: consoles.kept(name),
        last_end: record.last_end,
    });
    ServiceAnswer::Definitions(defined.collect())
}

/// Attaches a console.
pub async fn console(
    hub: &Rc<Hub>,
    reader: Option<(u64, u64)>,
    name: &str,
    history: bool,
    once: bool,
) -> Result<(), Failure> {
    let name = match super::find(hub, name).await {
        Ok(row) => row.name,
        Err(failure) => {
            let defined = hub.state.borrow().records().contains_key(name);
            let kept = hub.consoles.borrow().kept(name) != 0;
            if !defined && !kept {
                return Err(failure);
            }
            if !history && !once {
                return Err(failure);
            }
            name.to_string()
        }
    };
    let mut consoles = hub.consoles.borrow_mut();
    if !consoles.is_connected(&name) && consoles.kept(&name) == 0 && !once {
        let object = format!("partition {name:?}");
        let way_out = "only guest partitions that were built by this host have one";
        return Err(refused("no-console", &object, "console", "has none", way_out));
    }
    if let Some(reader) = reader {
        consoles.attach(reader, &name, history, once);
    }
    Ok(())
}

/// Records that led to a partition's present state.
pub fn why(hub: &Hub, name: &str) -> Result<ServiceAnswer, Failure> {
    let number = name.parse::<u32>().ok();
    let row = hub.rows.borrow().values().find(|row| Some(row.number) == number).cloned();
    let name = row.map_or_else(|| name.to_string(), |row| row.name);
    let state = hub.state.borrow();
    match state.life(&name) {
        Some(life) => Ok(ServiceAnswer::Log(fitting(state.why(&life)))),
        None => {
            let object = format!("partition {name:?}");
            let way_out = "see `uvtool list --all` for those that are there";
            let reason = "the log has no partition of this name";
            Err(refused("no-such-partition", &object, "name", reason, way_out))
        }
    }
}

/// The newest records that a message has room for.
pub fn fitting(mut rows: Vec<LogRow>) -> Vec<LogRow> {
    let mut room = MAX_MESSAGE / 2;
    let fits = rows.iter().rev().take_while(|row| {
        // What JSON adds to the texts, and escapes in them, is covered by the half left over.
        let bytes = 200 + row.what.len() + row.reason.len() + row.partitions.len() * 6;
        room = room.saturating_sub(bytes);
        room > 0
    });
    let fits = fits.count();
    rows.drain(..rows.len() - fits);
    rows
}

/// The answer to a wait, once there is one.
pub fn waited(hub: &Hub, name: &str, until: Until) -> Option<ServiceAnswer> {
    if hub.is_restarting(name) {
        return None;
    }
    let row = hub.rows.borrow().values().find(|row| row.name == name).cloned();
    let last_end = hub.state.borrow().records().get(name).and_then(|record| record.last_end);
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
