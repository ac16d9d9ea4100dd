//! Why ring 0 does not answer a request with a value: an error of the ABI, or work that is not
//! finished.
//!
//! Rule: *again* is not an error number. It never reaches a partition, and code that compares or
//! counts errors cannot mistake it for one. An [`Errno`] becomes a number only where a call ends
//! ([`Errno::wire`]).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

use core::num::NonZeroI64;

/// An error of the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(NonZeroI64);

impl Errno {
    /// The number in rax or in a result: negative.
    #[must_use]
    #[inline]
    pub const fn wire(self) -> i64 {
        self.0.get()
    }
}

/// Why an operation returns no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The work is not finished: the call, or the instruction that faulted, runs again.
    Again,
    /// The operation is refused.
    Errno(Errno),
}

/// Returns `refusal` unless the condition holds.
///
/// # Errors
/// `refusal`.
#[inline]
pub const fn require(holds: bool, refusal: Refused) -> Result<(), Refused> {
    if holds { Ok(()) } else { Err(refusal) }
}

// A result is passed in two registers.
const _: () = assert!(size_of::<Refused>() == 8 && size_of::<Result<u64, Refused>>() == 16);

/// The refusals with the numbers of [`pv_abi::xen::errno`].
pub mod errno {
    use super::{Errno, Refused};
    use core::num::NonZeroI64;

    macro_rules! refusals {
        ($($name:ident)*) => {
            $(
                #[doc = concat!("See [`pv_abi::xen::errno::", stringify!($name), "`].")]
                pub const $name: Refused = match NonZeroI64::new(pv_abi::xen::errno::$name) {
                    Some(number) => Refused::Errno(Errno(number)),
                    None => panic!("an errno is not 0"),
                };
            )*
        };
    }
    refusals!(EPERM ENOENT ESRCH ENOMEM EFAULT EBUSY EEXIST ENODEV EINVAL ENOSPC ENOSYS ETIME EBADMSG);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_number_of_the_abi() {
        for (refused, number) in
            [(errno::EPERM, pv_abi::xen::errno::EPERM), (errno::ENOSYS, pv_abi::xen::errno::ENOSYS)]
        {
            assert!(matches!(refused, Refused::Errno(error) if error.wire() == number));
            assert_ne!(refused, Refused::Again);
            assert_eq!(require(false, refused), Err(refused));
            assert_eq!(require(true, refused), Ok(()));
        }
    }
}
