//! Checks whether a definition is within its limits, wherever it comes from: a request to `uvd`
//! need not come from a file.

use rules::Wrong;

use crate::rows::{self, ROWS};
use crate::{Definition, Disk, disks};

/// A field of a definition that is not within its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The field, such as `cpu.weight`.
    pub field: &'static str,
    /// The fault in the value, with the limit.
    pub problem: String,
    /// The value to give instead.
    pub way_out: String,
}

impl Definition {
    /// Checks every field against the limits that can be known without the machine.
    ///
    /// # Errors
    /// Returns the first field that is not within its limits.
    pub fn check(&self) -> Result<(), Unfit> {
        let unfit = |field, Wrong { problem, way_out }| Unfit { field, problem, way_out };
        for row in &ROWS {
            let checked = (row.get)(self).map_or(Ok(()), |value| row.kind.check(&value));
            checked.map_err(|wrong| unfit(row.name, wrong))?;
        }
        let conflict = rows::conflicts(self, &str::to_owned).into_iter().next();
        conflict.map_or(Ok(()), |(field, wrong)| Err(unfit(field, wrong)))
    }
}

impl Disk {
    /// Checks a disk by itself against the limits that can be known without the machine.
    ///
    /// # Errors
    /// Returns the first key that is not within its limits.
    pub fn check(&self) -> Result<(), Unfit> {
        let wrong = disks::wrongs(std::slice::from_ref(self)).into_iter().next();
        wrong.map_or(Ok(()), |(_, field, Wrong { problem, way_out })| {
            Err(Unfit { field, problem, way_out })
        })
    }
}
