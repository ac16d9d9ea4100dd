//! The views of commands: each has one value, shown to programs as JSON and to people as text.
//!
//! Rule: a view is made from answers alone and prints nothing itself, so that tests see every line.
//! Names in JSON carry their unit (`memory_bytes`, `cpu_time_ns`).

pub mod definitions;
pub mod disks;
pub mod doctor;
pub mod info;
pub mod io;
pub mod list;
pub mod log;
pub mod plan;
pub mod released;
pub mod resources;
pub mod undone;
pub mod verify;
pub mod version;
pub mod waited;

use std::borrow::Cow;
use std::collections::BTreeMap;

use control::command::{ListRow, PartitionRow};
use pv_abi::uv::database::UNASSIGNED;
use serde::Serialize;
use uvd_protocol::Sentence;

use crate::answer::status;

/// The view of a command.
pub trait View: Serialize {
    /// The text for people, which ends with a newline.
    fn text(&self) -> String;

    /// The problem with the shown state, if any; the command then fails.
    fn problem(&self) -> Option<Sentence> {
        None
    }

    /// The exit status if there is a problem.
    fn status(&self) -> u8 {
        status::FAILED
    }
}

/// Names of partitions by number.
pub struct Names<'a>(BTreeMap<u32, &'a str>);

impl<'a> Names<'a> {
    /// The names in these rows.
    pub fn new(rows: &'a [PartitionRow]) -> Self {
        Self(rows.iter().map(|row| (row.number, row.name.as_str())).collect())
    }

    /// The names in a list.
    pub fn of_list(rows: &'a [ListRow]) -> Self {
        Self(rows.iter().map(|row| (row.number, row.name.as_str())).collect())
    }

    /// The name of a partition; `free` for none, `#N` for one without a row.
    pub fn of(&self, number: u32) -> String {
        self.text_of(number).into_owned()
    }

    /// Does what [`Self::of`] does, without a copy of the name.
    pub fn text_of(&self, number: u32) -> Cow<'a, str> {
        if number == UNASSIGNED {
            return "free".into();
        }
        self.0.get(&number).map_or_else(|| format!("#{number}").into(), |name| (*name).into())
    }
}

#[cfg(test)]
pub mod samples;

#[cfg(test)]
mod schema_tests;
