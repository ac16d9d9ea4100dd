//! The host's allocation policy: checks whether there are enough resources.
//!
//! Rule: a request that cannot succeed is refused before anything is sent, with the wanted and the
//! free amounts. A request that is sent may still be refused, because the ultravisor decides.

use control::command::Code;
use definition::Definition;
use pv_abi::PAGE_SIZE;
use pv_abi::uv::database::instance_frames;
use uvd_protocol::{Failure, way_out};

use crate::context::refusal::refused;
use crate::rows::Rows;

/// Frames that a partition takes, its monitor instance included.
fn frames(what: &Definition) -> u64 {
    what.max_memory / PAGE_SIZE as u64 + instance_frames(what.max_vcpus, what.grant_frames)
}

/// Checks that all definitions fit next to the existing partitions, into the free frames.
pub fn check(definitions: &[&Definition], rows: &Rows, free: Option<u64>) -> Result<(), Failure> {
    names(definitions, rows)?;
    memory(definitions, free.unwrap_or(u64::MAX))
}

fn names(definitions: &[&Definition], rows: &Rows) -> Result<(), Failure> {
    for definition in definitions {
        if let Some(row) = rows.named(&definition.name) {
            let object = format!("partition {:?}", definition.name);
            let reason = format!("partition {} has it", row.number);
            let way_out = way_out::with_name(way_out::DESTROY, &row.name);
            return Err(refused(Code::NameTaken, &object, "name", &reason, &way_out));
        }
    }
    Ok(())
}

fn memory(definitions: &[&Definition], free: u64) -> Result<(), Failure> {
    let asked: u64 = definitions.iter().map(|one| frames(one)).sum();
    if asked <= free {
        return Ok(());
    }
    let object = match definitions {
        [one] => format!("partition {:?}", one.name),
        many => format!("{} partitions", many.len()),
    };
    let reason = format!("{} needed, {} free", mebibytes(asked, true), mebibytes(free, false));
    let way_out = format!(
        "ask for {} less, or destroy a partition first; {}",
        mebibytes(asked - free, true),
        way_out::RESOURCES
    );
    Err(refused(Code::NoMemory, &object, "memory", &reason, &way_out))
}

fn mebibytes(frames: u64, up: bool) -> String {
    let mebibyte = (1 << 20) / PAGE_SIZE as u64;
    let whole = if up { frames.div_ceil(mebibyte) } else { frames / mebibyte };
    format!("{whole} MiB")
}

#[cfg(test)]
mod tests;
