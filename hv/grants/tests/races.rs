//! Every interleaving of a use that begins with a granter that ends or changes the grant.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p grants --test races --release`
#![cfg(loom)]

use grants::{Access, GrantTable, PinnedEntry, entry};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering::SeqCst};
use loom::thread;
use pv_abi::xen::grants as abi;

const IN_USE: u64 = (abi::GTF_READING | abi::GTF_WRITING) as u64;

/// Ends access as a kernel does: clears the entry unless it is in use.
fn end_access(shared: &AtomicU64) -> bool {
    let mut old = shared.load(SeqCst);
    while old & IN_USE == 0 {
        match shared.compare_exchange(old, 0, SeqCst, SeqCst) {
            Ok(_) => return true,
            Err(now) => old = now,
        }
    }
    false
}

#[test]
fn access_either_ended_or_began() {
    loom::model(|| {
        let shared = Arc::new([AtomicU64::new(entry(1, 9, Access::Write))]);
        let granter = {
            let shared = shared.clone();
            thread::spawn(move || end_access(&shared[0]))
        };
        let mut pinned = [PinnedEntry::default()];
        let mut table = GrantTable::new(&*shared, &mut pinned);
        let got = table.acquire(0, [1, 1], Access::Write);
        assert_eq!(granter.join().unwrap(), got.is_err());
        if got.is_ok() {
            table.release(0, Access::Write).unwrap();
            assert_eq!(shared[0].load(SeqCst) & IN_USE, 0);
        }
    });
}

#[test]
fn a_frame_that_changes_is_pinned_as_one_or_the_other() {
    loom::model(|| {
        let shared = Arc::new([AtomicU64::new(entry(1, 9, Access::Write))]);
        let granter = {
            let shared = shared.clone();
            thread::spawn(move || {
                let old = entry(1, 9, Access::Write);
                let new = entry(2, 8, Access::Write);
                shared[0].compare_exchange(old, new, SeqCst, SeqCst).is_ok()
            })
        };
        let mut pinned = [PinnedEntry::default()];
        let mut table = GrantTable::new(&*shared, &mut pinned);
        let first = table.acquire(0, [1, 1], Access::Read);
        let changed = granter.join().unwrap();
        match first {
            Ok(frame) => assert!(frame == 9 && !changed),
            Err(_) => assert!(changed),
        }
    });
}
