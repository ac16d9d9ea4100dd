//! Why an operation was refused.

use frames::Refused;

/// Why an operation was refused. The table says which errno of the Xen ABI tells it to a guest.
///
/// | error | errno |
/// |---|---|
/// | `Invalid`, `ReservedBits`, `NoFrame`, `WrongType` | `-EINVAL` |
/// | `NotOwned` | `-EPERM` |
/// | `Busy` | `-EBUSY` |
/// | `Overflow` | `-ENOMEM` |
/// | `Again` | none: the call is made again |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Error {
    /// An argument makes no sense: an index past the table, an entry that differs from what was
    /// expected, a table that is pinned already or not at all.
    Invalid,
    /// An entry has bits that a partition may not set.
    ReservedBits,
    /// No such machine frame.
    NoFrame,
    /// The frame belongs to another partition, or may not be used this way by anyone.
    NotOwned,
    /// The frame is in use as something else.
    WrongType,
    /// The table is half validated or half dropped.
    Busy,
    /// A reference count is full.
    Overflow,
    /// Not finished. Serve what is pending on this CPU, then make the same call again.
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
