//! The work on a frame when the database gives it to another owner, or to nobody.
//!
//! A frame without an owner is *clean* ([`Kind::Private`]: zeros) or *dirty* ([`Kind::Ram`]: bytes
//! of its last owner, or those that the machine left in it). No partition can reach either. So
//! releasing a frame only makes it dirty, which takes no time. The frame is scrubbed when the
//! database says once more that it has no owner, or at the latest when it gets an owner.
//!
//! The loader decides once which frames are RAM and which are I/O memory or holes, and no frame
//! ever changes between them. Otherwise RAM could reach its next owner with old bytes: an I/O
//! partition may write memory called I/O memory, and I/O memory is not scrubbed.
//!
//! Rule: the caller never decides which frames are clean. A frame of RAM that gets an owner holds
//! zeros, whatever calls were made, and in whatever order.

use crate::{Kind, OWNER_IO, OWNER_NUMBER};

/// The refusal of a change from RAM to I/O memory, or the reverse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherMemory;

/// A change of a frame's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// Whether the frame holds another owner's bytes, and must be scrubbed while no partition can
    /// reach it.
    pub scrub: bool,
    /// Whether translations of the old owner may be cached, and must be flushed before the new
    /// owner gets it.
    pub flush: bool,
    /// The kind of the frame afterwards.
    pub kind: Kind,
}

impl HandOver {
    /// The work to change the owner word of a frame of `kind` from `before` to `wanted`. Returns
    /// `None` if there is nothing to do.
    ///
    /// # Errors
    /// [`OtherMemory`] if one of the words says RAM and the other I/O memory.
    pub fn of(before: u32, kind: Kind, wanted: u32) -> Result<Option<Self>, OtherMemory> {
        if (before ^ wanted) & OWNER_IO != 0 {
            return Err(OtherMemory);
        }
        let dirty = before == 0 && kind == Kind::Ram;
        if before == wanted {
            // Nobody owned it before or will own it after: this is the time to scrub it.
            return Ok(dirty.then_some(Self { scrub: true, flush: false, kind: Kind::Private }));
        }
        // The bytes of I/O memory are the device's, so they are not scrubbed.
        let ram = wanted & OWNER_IO == 0;
        let scrub = ram && (before != 0 || dirty) && wanted != 0;
        Ok(Some(Self { scrub, flush: before & OWNER_NUMBER != 0, kind: Kind::Ram }))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame: its words, and the owner of the bytes in it.
    #[derive(Debug)]
    struct Model {
        owner: u32,
        kind: Kind,
        bytes_of: Option<u32>,
    }

    impl Model {
        fn give(&mut self, wanted: u32) {
            match HandOver::of(self.owner, self.kind, wanted) {
                Ok(Some(change)) => {
                    if change.scrub {
                        self.bytes_of = None;
                    }
                    (self.owner, self.kind) = (wanted, change.kind);
                }
                Ok(None) => assert_eq!(self.owner, wanted),
                Err(OtherMemory) => assert_ne!((self.owner ^ wanted) & OWNER_IO, 0),
            }
        }
    }

    proptest! {
        #[test]
        fn whoever_gets_a_frame_finds_zeros(
            owners in prop::collection::vec((0..4u32, prop::bool::weighted(0.3)), 1..40)
        ) {
            // The bytes that the machine left in it belong to nobody either.
            let mut frame = Model { owner: 0, kind: Kind::Ram, bytes_of: Some(u32::MAX) };
            for (number, io) in owners {
                frame.give(if io { OWNER_IO | number } else { number });
                let owner = frame.owner & OWNER_NUMBER;
                prop_assert!(io || owner == number);
                let strange = frame.bytes_of.filter(|of| *of != owner);
                if owner != 0 {
                    prop_assert_eq!(strange, None);
                    frame.bytes_of = Some(owner);
                } else if frame.kind == Kind::Private {
                    prop_assert_eq!(strange, None);
                }
            }
        }
    }

    fn given(before: u32, kind: Kind, wanted: u32) -> HandOver {
        HandOver::of(before, kind, wanted).unwrap().unwrap()
    }

    #[test]
    fn a_frame_is_given_back_without_being_scrubbed_and_is_clean_when_looked_at_again() {
        let back = given(5, Kind::Ram, 0);
        assert_eq!(back, HandOver { scrub: false, flush: true, kind: Kind::Ram });
        let again = given(0, back.kind, 0);
        assert_eq!(again, HandOver { scrub: true, flush: false, kind: Kind::Private });
        assert_eq!(HandOver::of(0, again.kind, 0), Ok(None));
        let next = given(0, again.kind, 6);
        assert_eq!(next, HandOver { scrub: false, flush: false, kind: Kind::Ram });
    }

    #[test]
    fn a_dirty_frame_that_is_asked_for_is_scrubbed_first() {
        let asked = given(0, Kind::Ram, 6);
        assert_eq!(asked, HandOver { scrub: true, flush: false, kind: Kind::Ram });
        assert!(given(5, Kind::Ram, 6).scrub);
    }

    #[test]
    fn io_memory_changes_hands_as_it_is() {
        for wanted in [OWNER_IO, OWNER_IO | 6] {
            let change = given(OWNER_IO | 5, Kind::Ram, wanted);
            assert_eq!(change, HandOver { scrub: false, flush: true, kind: Kind::Ram });
        }
    }

    #[test]
    fn ram_is_never_io_memory_whoever_has_it() {
        for kind in [Kind::Ram, Kind::Private] {
            for (ram, io) in [(0, 0), (0, 5), (5, 0), (5, 5), (5, 6)] {
                assert_eq!(HandOver::of(ram, kind, OWNER_IO | io), Err(OtherMemory));
                assert_eq!(HandOver::of(OWNER_IO | io, kind, ram), Err(OtherMemory));
            }
        }
    }
}
