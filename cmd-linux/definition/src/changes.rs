//! The differences between two definitions of a partition.

use serde::{Deserialize, Serialize};

use crate::Definition;
use crate::rows::{Effect, ROWS, Row};

/// A field that differs between two definitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// The field as a definition writes it, such as `cpu.weight`.
    pub field: String,
    /// Its value before.
    pub from: String,
    /// Its value after.
    pub to: String,
    /// Whether the field can be changed while the partition runs.
    pub live: bool,
}

/// The fields that differ, in the order in which a definition is written. A field that is not
/// [live](FieldChange::live) takes effect when the partition is restarted.
#[must_use]
pub fn changes(old: &Definition, new: &Definition) -> Vec<FieldChange> {
    let words = |row: &Row, definition: &Definition| {
        (row.get)(definition).map_or_else(|| "none".to_owned(), |value| row.kind.words(&value))
    };
    let change = |row: &Row| {
        let live = match row.effect {
            Effect::Live => true,
            Effect::Restart => false,
            Effect::LiveIf(fits) => fits(old, new),
        };
        let (from, to) = (words(row, old), words(row, new));
        FieldChange { field: row.name.to_owned(), from, to, live }
    };
    let differs = |row: &&Row| (row.get)(old) != (row.get)(new);
    let all = ROWS.iter().filter(differs).map(change);
    all.filter(|change| change.from != change.to).collect()
}
