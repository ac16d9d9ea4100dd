//! The invariants of the whole machine after every operation, computed from scratch.

use crate::machine::{FRAMES, Sim};
use crate::numbers::frame_of;
use frames::Type;
use page_tables::{ENTRIES, MONITOR_SLOTS, bits};

/// References that no table holds.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    /// Loaded level-4 bases: (partition, frame).
    pub bases: Vec<(u32, u64)>,
    /// Descriptor pages in use: (partition, frame).
    pub descriptors: Vec<(u32, u64)>,
    /// The monitor's own references: frame, writable.
    pub held: Vec<(u64, bool)>,
    /// Frames that a partition was ever allowed to map from another: (partition, frame, writable).
    pub granted: Vec<(u32, u64, bool)>,
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Counts {
    references: u32,
    typed: u32,
}

struct Check<'a> {
    sim: &'a Sim,
    outside: &'a Outside,
    counts: Vec<Counts>,
}

/// Panics if an invariant is broken.
pub fn check(sim: &Sim, outside: &Outside) {
    let mut check = Check { sim, outside, counts: vec![Counts::default(); FRAMES as usize] };
    for mfn in 0..FRAMES {
        check.table(mfn);
    }
    for &(_, mfn) in &outside.bases {
        check.typed(mfn, Type::L4);
    }
    for &(_, mfn) in &outside.descriptors {
        check.typed(mfn, Type::SegDesc);
    }
    for &(mfn, writable) in &outside.held {
        if writable {
            check.typed(mfn, Type::Writable);
        } else {
            check.counts[mfn as usize].references += 1;
        }
    }
    for mfn in 0..FRAMES {
        let word = sim.word(mfn);
        let found = Counts { references: word.references(), typed: word.count() };
        assert_eq!(found, check.counts[mfn as usize], "frame {mfn}: counted, expected; {word:?}");
    }
}

impl Check<'_> {
    fn typed(&mut self, mfn: u64, ty: Type) {
        let word = self.sim.word(mfn);
        assert_eq!(word.ty(), ty, "frame {mfn} is referred to as {ty:?}");
        if ty.is_checked() {
            assert!(word.is_validated(), "frame {mfn}, in use as {ty:?}, is {word:?}");
        }
        self.counts[mfn as usize].references += 1;
        self.counts[mfn as usize].typed += 1;
    }

    fn table(&mut self, mfn: u64) {
        let word = self.sim.word(mfn);
        if word.is_partial() {
            assert_eq!(word.count(), 1);
            self.counts[mfn as usize].references += 1;
            self.counts[mfn as usize].typed += 1;
        }
        if word.is_pinned() {
            self.typed(mfn, word.ty());
        }
        let (Some(level), true) = (word.ty().level(), word.count() > 0) else {
            return;
        };
        let frame = &self.sim.frames[mfn as usize];
        let end = if word.is_validated() { ENTRIES } else { frame.progress() };
        for index in 0..end {
            let entry = self.sim.raw(mfn, index);
            if level == 4 && MONITOR_SLOTS.contains(&index) {
                if word.is_validated() {
                    assert_eq!(entry, self.sim.slots[index - MONITOR_SLOTS.start]);
                }
            } else if entry & bits::P != 0 {
                self.entry(frame.owner(), level, entry);
            }
        }
    }

    fn entry(&mut self, partition: u32, level: u8, entry: u64) {
        let mfn = frame_of(entry);
        let owner = self.sim.frames[mfn as usize].owner();
        let writable = entry & bits::RW != 0;
        assert_eq!(entry & (bits::CACHE | bits::G | bits::US), bits::US, "{entry:#x}");
        if level > 1 {
            assert_eq!(owner, partition);
            self.typed(mfn, Type::table(level - 1).unwrap());
            return;
        }
        let leave = |&(to, frame, rw): &(u32, u64, bool)| {
            to == partition && frame == mfn && (rw || !writable)
        };
        assert!(
            owner == partition || self.outside.granted.iter().any(leave),
            "partition {partition} maps frame {mfn} of {owner}, writable: {writable}"
        );
        if writable {
            self.typed(mfn, Type::Writable);
        } else {
            self.counts[mfn as usize].references += 1;
        }
    }
}
