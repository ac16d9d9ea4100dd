//! Validating and dropping tables.

use crate::{Error, Machine, Space};

/// See [`Space::finish`].
pub(crate) fn finish<M: Machine>(machine: &M, space: &mut Space) -> Result<(), Error> {
    let _ = (machine, space);
    todo!()
}
