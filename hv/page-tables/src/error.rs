//! Why an operation was refused.

use frames::Refused;

/// Why an operation was refused. The table gives the errno of the Xen ABI that a guest gets for it.
///
/// | error | errno |
/// |---|---|
/// | `Invalid`, `ReservedBits`, `NoFrame`, `WrongType` | `-EINVAL` |
/// | `NotOwned` | `-EPERM` |
/// | `Busy` | `-EBUSY` |
/// | `Overflow` | `-ENOMEM` |
/// | `Again` | none: the call runs again |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Error {
    /// An argument is meaningless: an index past the table, an entry that differs from the expected
    /// one, a table that is pinned already or not at all.
    Invalid,
    /// An entry has bits that a partition may not set.
    ReservedBits,
    /// There is no such machine frame.
    NoFrame,
    /// The frame belongs to another partition, or no partition may use it this way.
    NotOwned,
    /// The frame is in use as something else.
    WrongType,
    /// The table is partly validated or partly dropped.
    Busy,
    /// A reference count is full.
    Overflow,
    /// The work is not finished. Handle the pending requests to this CPU, then make the same call
    /// again.
    Again,
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotOwned => Self::NotOwned,
            Refused::WrongType => Self::WrongType,
            Refused::InUse => Self::Busy,
            Refused::Overflow => Self::Overflow,
            Refused::Again => Self::Again,
        }
    }
}
