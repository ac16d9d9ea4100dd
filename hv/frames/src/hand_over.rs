//! What a frame needs when the database gives it to another owner, or to nobody.
//!
//! A frame that nobody owns is *clean* ([`Kind::Private`]: zeros) or *dirty* ([`Kind::Ram`]: bytes
//! of its last owner, or what the machine left in it). Nobody can reach either. So a frame that is
//! given back only becomes dirty, which takes no time, and is scrubbed when the database says once
//! more that nobody owns it, or at the latest when it gets an owner.
//!
//! Rule: who asks says nothing about what is clean. A frame that gets an owner holds zeros,
//! whatever it was asked for, and in whatever order.

use crate::{Kind, OWNER_IO, OWNER_NUMBER};

/// A change of a frame's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOver {
    /// The frame holds another's bytes: it is scrubbed in between, while nobody can reach it.
    pub scrub: bool,
    /// Translations of the owner before may be cached: they are flushed in between.
    pub flush: bool,
    /// What the frame is afterwards.
    pub kind: Kind,
}

impl HandOver {
    /// What is to be done to a frame whose owner word is `before`, and which is of `kind`, so that
    /// its owner word may become `wanted`; `None` where there is nothing to do.
    #[must_use]
    pub fn of(before: u32, kind: Kind, wanted: u32) -> Option<Self> {
        let dirty = before == 0 && kind == Kind::Ram;
        if before == wanted {
            // Nobody owned it, and nobody will: it is time to scrub it.
            return dirty.then_some(Self { scrub: true, flush: false, kind: Kind::Private });
        }
        // What lies in I/O memory is the device's, not RAM to be scrubbed.
        let left = before & OWNER_IO == 0 && before != 0;
        let kind = if wanted == 0 && !left { Kind::Private } else { Kind::Ram };
        let scrub = (left || dirty) && wanted != 0;
        Some(Self { scrub, flush: before & OWNER_NUMBER != 0, kind })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame: its words, and whose bytes are in it.
    #[derive(Debug)]
    struct Model {
        owner: u32,
        kind: Kind,
        bytes_of: Option<u32>,
    }

    impl Model {
        fn give(&mut self, wanted: u32) {
            let Some(change) = HandOver::of(self.owner, self.kind, wanted) else {
                assert_eq!(self.owner, wanted);
                return;
            };
            if change.scrub {
                self.bytes_of = None;
            }
            (self.owner, self.kind) = (wanted, change.kind);
        }
    }

    proptest! {
        #[test]
        fn whoever_gets_a_frame_finds_zeros(owners in prop::collection::vec(0..4u32, 1..40)) {
            // What the machine left in it is nobody's either.
            let mut frame = Model { owner: 0, kind: Kind::Ram, bytes_of: Some(u32::MAX) };
            for wanted in owners {
                frame.give(wanted);
                prop_assert_eq!(frame.owner, wanted);
                let strange = frame.bytes_of.filter(|of| *of != wanted);
                if wanted != 0 {
                    prop_assert_eq!(strange, None);
                    frame.bytes_of = Some(wanted);
                } else if frame.kind == Kind::Private {
                    prop_assert_eq!(strange, None);
                }
            }
        }
    }

    #[test]
    fn a_frame_is_given_back_without_being_scrubbed_and_is_clean_when_looked_at_again() {
        let back = HandOver::of(5, Kind::Ram, 0).unwrap();
        assert_eq!(back, HandOver { scrub: false, flush: true, kind: Kind::Ram });
        let again = HandOver::of(0, back.kind, 0).unwrap();
        assert_eq!(again, HandOver { scrub: true, flush: false, kind: Kind::Private });
        assert_eq!(HandOver::of(0, again.kind, 0), None);
        let next = HandOver::of(0, again.kind, 6).unwrap();
        assert_eq!(next, HandOver { scrub: false, flush: false, kind: Kind::Ram });
    }

    #[test]
    fn a_dirty_frame_that_is_asked_for_is_scrubbed_first() {
        let asked = HandOver::of(0, Kind::Ram, 6).unwrap();
        assert_eq!(asked, HandOver { scrub: true, flush: false, kind: Kind::Ram });
        // From partition to partition, as RAM or as I/O memory.
        for wanted in [6, OWNER_IO | 6, OWNER_IO] {
            assert!(HandOver::of(5, Kind::Ram, wanted).unwrap().scrub);
            assert!(HandOver::of(0, Kind::Ram, wanted).unwrap().scrub);
        }
    }

    #[test]
    fn what_is_no_ram_is_not_scrubbed() {
        for wanted in [0, 5, OWNER_IO | 6] {
            assert!(!HandOver::of(OWNER_IO | 5, Kind::Ram, wanted).unwrap().scrub);
        }
        assert_eq!(HandOver::of(OWNER_IO | 5, Kind::Ram, 0).unwrap().kind, Kind::Private);
    }
}
