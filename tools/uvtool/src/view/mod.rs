//! What the commands show: for programs (JSON) and for people (text), from one value.
//!
//! Rule: a view is made from answers alone and printed by no one here, so that tests see every
//! line. JSON names carry their unit (`memory_bytes`, `cpu_time_ns`).

pub mod definitions;
pub mod doctor;
pub mod info;
pub mod list;
pub mod log;
pub mod plan;
pub mod released;
pub mod resources;
pub mod undone;
pub mod verify;
pub mod version;
pub mod waited;

use std::collections::BTreeMap;

use pv_abi::uv::command::{ListRow, PartitionRow};
use pv_abi::uv::database::UNASSIGNED;
use serde::Serialize;

use crate::answer::status;

/// What a command shows.
pub trait View: Serialize {
    /// For people; ends with a newline.
    fn text(&self) -> String;

    /// What is wrong with what is shown, if anything: the command then fails.
    fn problem(&self) -> Option<String> {
        None
    }

    /// The status to end with where there is a problem.
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
        if number == UNASSIGNED {
            return "free".into();
        }
        self.0.get(&number).map_or_else(|| format!("#{number}"), |name| (*name).to_string())
    }
}

#[cfg(test)]
pub mod samples;

#[cfg(test)]
mod schema_tests;
