//! `uvtool undo N`.

use control::command::Outcome;
use serde::Serialize;

use super::View;

/// A transaction that was undone.
#[derive(Serialize)]
pub struct Undone {
    record: u64,
    version: u64,
    operations: usize,
}

impl Undone {
    /// A view of the record, and of the version of the database with its inverse.
    pub const fn new(record: u64, version: u64, outcomes: &[Outcome]) -> Self {
        Self { record, version, operations: outcomes.len() }
    }
}

impl View for Undone {
    fn text(&self) -> String {
        format!("record {} is undone; the database is at version {}\n", self.record, self.version)
    }
}
