//! Compares grant entries with a model of uses, while a granter changes entries in between.
#![cfg(not(loom))]

use grants::{Access, GrantTable, PinnedEntry, entry};
use proptest::prelude::*;
use pv_abi::uv::database::{IO_A, IO_B, IO_SERVICE};
use pv_abi::xen::grants as abi;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const READING: u64 = abi::GTF_READING as u64;
const WRITING: u64 = abi::GTF_WRITING as u64;

#[derive(Clone, Copy, Debug)]
enum Step {
    Grant { at: usize, to: u16, frame: u32, access: Access },
    Acquire { at: usize, by: [u16; 2], access: Access },
    Release { at: usize, access: Access },
}

/// The domids of two partitions, and of the two members of a service.
const PARTITIONS: [[u16; 2]; 4] = [[1, 1], [2, 2], MEMBERS[0], MEMBERS[1]];
const MEMBERS: [[u16; 2]; 2] = [[IO_A as u16, SERVICE], [IO_B as u16, SERVICE]];
const SERVICE: u16 = IO_SERVICE as u16;

fn step() -> impl Strategy<Value = Step> {
    let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
    let at = 0usize..3;
    prop_oneof![
        1 => (at.clone(), prop::sample::select(vec![1, 4, SERVICE]), 0u32..2, access.clone())
            .prop_map(|(at, to, frame, access)| Step::Grant { at, to, frame, access }),
        3 => (at.clone(), prop::sample::select(&PARTITIONS), access.clone())
            .prop_map(|(at, by, access)| Step::Acquire { at, by, access }),
        2 => (at, access).prop_map(|(at, access)| Step::Release { at, access }),
    ]
}

/// The model of an entry: the grant, and its uses.
#[derive(Clone, Default)]
struct Model {
    grant: Option<(u16, u32, Access)>,
    uses: Vec<(u16, u32, Access)>,
}

impl Model {
    fn acquire(&mut self, by: [u16; 2], access: Access) -> Result<u32, i16> {
        let (to, frame, most) = self.grant.ok_or(abi::GNTST_BAD_GNTREF)?;
        let same = self.uses.iter().all(|u| (u.0, u.1) == (to, frame));
        if !by.contains(&to) || (access == Access::Write && most == Access::Read) || !same {
            return Err(abi::GNTST_GENERAL_ERROR);
        }
        self.uses.push((to, frame, access));
        Ok(frame)
    }

    fn release(&mut self, access: Access) -> Result<(), i16> {
        let at = self.uses.iter().position(|u| u.2 == access).ok_or(abi::GNTST_BAD_GNTREF)?;
        self.uses.remove(at);
        Ok(())
    }
}

proptest! {
    #[test]
    fn entries_agree_with_the_model(steps in prop::collection::vec(step(), 0..150)) {
        let shared: [AtomicU64; 3] = Default::default();
        let mut pinned = [PinnedEntry::default(); 3];
        let mut table = GrantTable::new(&shared, &mut pinned);
        let mut model: [Model; 3] = Default::default();
        for step in steps {
            match step {
                Step::Grant { at, to, frame, access } => {
                    let in_use = shared[at].load(Relaxed) & (READING | WRITING);
                    shared[at].store(entry(to, frame, access) | in_use, Relaxed);
                    model[at].grant = Some((to, frame, access));
                }
                Step::Acquire { at, by, access } => {
                    let got = table.acquire(at as u32, by, access);
                    prop_assert_eq!(got, model[at].acquire(by, access));
                }
                Step::Release { at, access } => {
                    let got = table.release(at as u32, access);
                    prop_assert_eq!(got, model[at].release(access));
                }
            }
            for (at, model) in model.iter().enumerate() {
                let flags = shared[at].load(Relaxed);
                let writers = model.uses.iter().any(|u| u.2 == Access::Write);
                prop_assert_eq!(flags & READING != 0, !model.uses.is_empty());
                prop_assert_eq!(flags & WRITING != 0, writers);
            }
        }
    }

    /// Whatever a granter writes, `acquire` does not panic, and does not grant to the wrong
    /// partition.
    #[test]
    fn any_word_is_judged(word in any::<u64>(), by in any::<u16>(), reference in 0u32..2) {
        let shared = [AtomicU64::new(word)];
        let mut pinned = [PinnedEntry::default()];
        let mut table = GrantTable::new(&shared, &mut pinned);
        if let Ok(frame) = table.acquire(reference, [by; 2], Access::Write) {
            prop_assert_eq!(reference, 0);
            prop_assert_eq!(u64::from(frame), word >> 32);
            prop_assert_eq!(word >> 16 & 0xffff, u64::from(by));
            prop_assert_eq!(word & 0b111, 1);
        }
    }
}

#[test]
fn uses_are_counted_and_bounded() {
    let shared = [AtomicU64::new(entry(1, 9, Access::Write))];
    let mut pinned = [PinnedEntry::default()];
    let mut table = GrantTable::new(&shared, &mut pinned);
    for _ in 0..255 {
        assert_eq!(table.acquire(0, [1, 1], Access::Write), Ok(9));
    }
    assert_eq!(table.acquire(0, [1, 1], Access::Write), Err(abi::GNTST_GENERAL_ERROR));
    assert_eq!(table.acquire(0, [1, 1], Access::Read), Ok(9));
    for _ in 0..255 {
        table.release(0, Access::Write).unwrap();
    }
    assert_eq!(table.release(0, Access::Write), Err(abi::GNTST_BAD_GNTREF));
    assert_eq!(shared[0].load(Relaxed) & (READING | WRITING), READING);
    table.release(0, Access::Read).unwrap();
    assert_eq!(shared[0].load(Relaxed) & (READING | WRITING), 0);
}

#[test]
fn members_use_what_their_service_is_granted_and_nobody_else_does() {
    let shared = [SERVICE, IO_A as u16].map(|to| AtomicU64::new(entry(to, 9, Access::Write)));
    let mut pinned = [PinnedEntry::default(); 2];
    let mut table = GrantTable::new(&shared, &mut pinned);
    let refused = Err(abi::GNTST_GENERAL_ERROR);
    for guest in [7, 16] {
        assert_eq!(table.acquire(0, [guest; 2], Access::Read), refused);
    }
    // Both members use one entry at once. One cannot use what the other alone is granted.
    for by in MEMBERS {
        assert_eq!(table.acquire(0, by, Access::Write), Ok(9));
    }
    assert_eq!(table.acquire(1, MEMBERS[0], Access::Read), Ok(9));
    assert_eq!(table.acquire(1, MEMBERS[1], Access::Read), refused);
    // While the entry is in use for the service, it is in use for no member alone.
    let in_use = shared[0].load(Relaxed) & (READING | WRITING);
    shared[0].store(entry(IO_A as u16, 9, Access::Write) | in_use, Relaxed);
    assert_eq!(table.acquire(0, MEMBERS[0], Access::Read), refused);
    table.release(0, Access::Write).unwrap();
    assert_eq!(shared[0].load(Relaxed) & (READING | WRITING), READING | WRITING);
    table.release(0, Access::Write).unwrap();
    assert_eq!(shared[0].load(Relaxed) & (READING | WRITING), 0);
}
