//! Why an operation was refused.

use refusal::errno;

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
    /// The machine frame does not exist.
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

impl From<frames::Refused> for Error {
    fn from(refused: frames::Refused) -> Self {
        match refused {
            frames::Refused::NotOwned => Self::NotOwned,
            frames::Refused::WrongType => Self::WrongType,
            frames::Refused::InUse => Self::Busy,
            frames::Refused::Overflow => Self::Overflow,
            frames::Refused::Again => Self::Again,
        }
    }
}

impl From<Error> for refusal::Refused {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid | Error::ReservedBits | Error::NoFrame | Error::WrongType => {
                errno::EINVAL
            }
            Error::NotOwned => errno::EPERM,
            Error::Busy => errno::EBUSY,
            Error::Overflow => errno::ENOMEM,
            Error::Again => Self::Again,
        }
    }
}
