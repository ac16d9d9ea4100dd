//! A disk with its pieces in flight: which piece a slot of a queue has.

use crate::Tag;
use alloc::vec::Vec;
use virtio::drive::{Drive, Medium, Outcome, Request, Unsubmitted};
use virtio::queue::{SLOTS, Segment};
use virtio::registers::Fault;

/// A disk that serves pieces.
#[derive(Debug)]
pub struct Driven<D> {
    drive: D,
    /// The piece of each slot, queue after queue.
    tags: Vec<Option<Tag>>,
    /// The queue that gets the next piece, if it has room.
    next: usize,
    /// Queues of which the disk does not know all pieces yet.
    untold: Vec<bool>,
    in_flight: usize,
}

impl<D: Drive> Driven<D> {
    /// A disk without pieces in flight.
    #[must_use]
    pub fn new(drive: D) -> Self {
        let queues = drive.queues();
        let tags = alloc::vec![None; queues * usize::from(SLOTS)];
        Self { drive, tags, next: 0, untold: alloc::vec![false; queues], in_flight: 0 }
    }

    /// The medium of the disk: its size and its limits.
    #[must_use]
    pub fn medium(&self) -> Medium {
        *self.drive.medium()
    }

    /// The disk.
    pub fn drive(&mut self) -> &mut D {
        &mut self.drive
    }

    /// Submits a piece to the disk. The device sees the piece after [`Driven::tell`].
    ///
    /// # Errors
    /// See [`Unsubmitted`].
    pub fn submit(
        &mut self,
        request: Request,
        segments: &[Segment],
        tag: Tag,
    ) -> Result<(), Unsubmitted> {
        let queues = self.untold.len();
        for queue in (0..queues).map(|n| (self.next + n) % queues) {
            match self.drive.submit(queue, request, segments) {
                Ok(slot) => {
                    if let Some(place) = self.tags.get_mut(place(queue, slot)) {
                        *place = Some(tag);
                        self.in_flight += 1;
                    }
                    self.untold[queue] = true;
                    self.next = (queue + 1) % queues;
                    return Ok(());
                }
                Err(Unsubmitted::Full) => {}
                Err(Unsubmitted::Refused) => return Err(Unsubmitted::Refused),
            }
        }
        if queues == 0 { Err(Unsubmitted::Refused) } else { Err(Unsubmitted::Full) }
    }

    /// Notifies the device of all pieces that were submitted.
    pub fn tell(&mut self) {
        for (queue, untold) in self.untold.iter_mut().enumerate() {
            if core::mem::take(untold) {
                self.drive.kick(queue);
            }
        }
    }

    /// See [`Drive::silence`].
    pub fn silence(&mut self) {
        self.drive.silence();
    }

    /// See [`Drive::listen`].
    pub fn listen(&mut self) -> bool {
        self.drive.listen()
    }

    /// The next piece that is done.
    ///
    /// # Errors
    /// The disk is broken. Its pieces stay in flight until it was reset ([`Driven::forget`]).
    pub fn completed(&mut self) -> Result<Option<(Tag, Outcome)>, Fault> {
        for queue in 0..self.untold.len() {
            while let Some((slot, outcome)) = self.drive.completed(queue)? {
                let tag = self.tags.get_mut(place(queue, slot)).and_then(Option::take);
                if let Some(tag) = tag {
                    self.in_flight = self.in_flight.saturating_sub(1);
                    return Ok(Some((tag, outcome)));
                }
            }
        }
        Ok(None)
    }

    /// Number of pieces in flight.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The next piece that the disk will never end, because it was reset.
    pub fn forget(&mut self) -> Option<Tag> {
        let tag = self.tags.iter_mut().find_map(Option::take)?;
        self.in_flight = self.in_flight.saturating_sub(1);
        Some(tag)
    }
}

fn place(queue: usize, slot: u16) -> usize {
    queue * usize::from(SLOTS) + usize::from(slot)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// Two queues with two slots each.
    #[derive(Default)]
    struct Fake {
        medium: Medium,
        flying: [VecDeque<u16>; 2],
        kicks: [u32; 2],
        broken: bool,
    }

    impl Drive for Fake {
        fn medium(&self) -> &Medium {
            &self.medium
        }
        fn queues(&self) -> usize {
            2
        }
        fn submit(
            &mut self,
            queue: usize,
            request: Request,
            _: &[Segment],
        ) -> Result<u16, Unsubmitted> {
            if request != Request::Flush {
                return Err(Unsubmitted::Refused);
            }
            let free = (0..2).find(|slot| !self.flying[queue].contains(slot));
            let slot = free.ok_or(Unsubmitted::Full)?;
            self.flying[queue].push_back(slot);
            Ok(slot)
        }
        fn kick(&mut self, queue: usize) {
            self.kicks[queue] += 1;
        }
        fn completed(&mut self, queue: usize) -> Result<Option<(u16, Outcome)>, Fault> {
            if self.broken {
                return Err(Fault::UsedRing);
            }
            Ok(self.flying[queue].pop_back().map(|slot| (slot, Outcome::Done)))
        }
        fn check(&self) -> Result<(), Fault> {
            Ok(())
        }
        fn reset(&mut self, _: &mut dyn FnMut() -> bool) -> Result<(), Fault> {
            Ok(())
        }
    }

    fn tag(entry: u32) -> Tag {
        Tag { endpoint: 1, entry }
    }

    #[test]
    fn pieces_use_all_queues_and_come_back_with_their_tags() {
        let mut disk = Driven::new(Fake::default());
        let refused = disk.submit(Request::Read(0), &[], tag(9));
        assert_eq!(refused, Err(Unsubmitted::Refused));
        for entry in 0..4 {
            assert_eq!(disk.submit(Request::Flush, &[], tag(entry)), Ok(()));
        }
        assert_eq!(disk.submit(Request::Flush, &[], tag(4)), Err(Unsubmitted::Full));
        assert_eq!(disk.in_flight(), 4);
        disk.tell();
        disk.tell();
        assert_eq!(disk.drive().kicks, [1, 1]);
        let mut ended = Vec::new();
        while let Some((tag, outcome)) = disk.completed().expect("an honest disk") {
            assert_eq!(outcome, Outcome::Done);
            ended.push(tag.entry);
        }
        assert_eq!(ended, [2, 0, 3, 1], "the last of a queue first");
        assert_eq!((disk.forget(), disk.in_flight()), (None, 0));
    }

    #[test]
    fn pieces_of_a_broken_disk_are_forgotten_once() {
        let mut disk = Driven::new(Fake::default());
        (0..3).for_each(|entry| disk.submit(Request::Flush, &[], tag(entry)).expect("room"));
        disk.drive().broken = true;
        assert_eq!(disk.completed(), Err(Fault::UsedRing));
        let forgotten: Vec<_> = core::iter::from_fn(|| disk.forget()).collect();
        assert_eq!((forgotten, disk.in_flight()), (vec![tag(0), tag(2), tag(1)], 0));
    }
}
