//! Concurrent operations of CPUs on one frame, in every order (`RUSTFLAGS="--cfg loom"`).

use crate::{Acquired, Frame, Kind, Refused, Released, Type};
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

fn owned() -> Arc<Frame> {
    let frame = Frame::default();
    frame.set_owner(0, 1, Kind::Ram).unwrap();
    Arc::new(frame)
}

/// Takes the type as an operation does: does the flush that is due, and validates if needed.
fn take(frame: &Frame, ty: Type) -> Result<Option<u32>, Refused> {
    Ok(match frame.get_typed(1, ty)? {
        Acquired::Ready => None,
        Acquired::Settle { stamp } => {
            frame.settle();
            Some(stamp)
        }
        Acquired::Validate { stamp, .. } => {
            if stamp.is_some() {
                frame.settle();
            }
            frame.set_validated();
            stamp
        }
    })
}

#[test]
fn never_writable_and_a_table() {
    loom::model(|| {
        let frame = owned();
        let uses = Arc::new((AtomicU32::new(0), AtomicU32::new(0)));
        let table = {
            let (frame, uses) = (frame.clone(), uses.clone());
            thread::spawn(move || {
                if take(&frame, Type::L1).is_ok() {
                    uses.0.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(uses.1.load(Ordering::SeqCst), 0);
                    uses.0.fetch_sub(1, Ordering::SeqCst);
                    assert_eq!(frame.put_typed(|| 1), Released::Devalidate);
                    assert_eq!(frame.retire(|| 1), Released::Done);
                }
            })
        };
        if take(&frame, Type::Writable).is_ok() {
            uses.1.fetch_add(1, Ordering::SeqCst);
            assert_eq!(uses.0.load(Ordering::SeqCst), 0);
            uses.1.fetch_sub(1, Ordering::SeqCst);
            assert_eq!(frame.put_typed(|| 2), Released::Done);
        }
        table.join().unwrap();
        assert_eq!(frame.word().references(), 0);
        assert_eq!(frame.word().count(), 0);
    });
}

/// The stamp that a type change sees is no older than the end of any earlier writable use.
#[test]
fn the_stamp_covers_every_former_use() {
    loom::model(|| {
        let frame = owned();
        let clock = Arc::new(AtomicU32::new(1));
        let ended = Arc::new(AtomicU32::new(0));
        let writers: [_; 2] = core::array::from_fn(|_| {
            let (frame, clock, ended) = (frame.clone(), clock.clone(), ended.clone());
            thread::spawn(move || {
                if take(&frame, Type::Writable).is_ok() {
                    // The use ends; the clock advances before anything else happens.
                    ended.fetch_max(clock.load(Ordering::SeqCst), Ordering::SeqCst);
                    clock.fetch_add(1, Ordering::SeqCst);
                    assert_eq!(frame.put_typed(|| clock.load(Ordering::SeqCst)), Released::Done);
                }
            })
        });
        // Several tries, since zero, one or both writers may have finished.
        for _ in 0..2 {
            if let Ok(stamp) = take(&frame, Type::L1) {
                let ended = ended.load(Ordering::SeqCst);
                assert!(stamp.unwrap_or(0) >= ended, "{stamp:?} {ended}");
                assert_eq!(frame.put_typed(|| u32::MAX), Released::Devalidate);
                assert_eq!(frame.retire(|| u32::MAX), Released::Done);
                break;
            }
        }
        for writer in writers {
            writer.join().unwrap();
        }
        assert_eq!(frame.word().references(), 0);
    });
}

/// A granted reference is on a frame of the caller's partition, and the frame keeps its owner while
/// the reference is held.
#[test]
fn the_owner_stays_while_referenced() {
    loom::model(|| {
        let frame = owned();
        let giver = {
            let frame = frame.clone();
            thread::spawn(move || frame.set_owner(1, 2, Kind::Ram).is_ok())
        };
        if frame.get_ref(1).is_ok() {
            assert_eq!(frame.owner(), 1);
            assert!(frame.put_ref());
        }
        if frame.get_typed(1, Type::Writable).is_ok() {
            assert_eq!(frame.owner(), 1);
            assert_eq!(frame.put_typed(|| 1), Released::Done);
        }
        let given = giver.join().unwrap();
        assert_eq!(frame.owner(), if given { 2 } else { 1 });
        assert_eq!(frame.word().references(), 0);
        assert_eq!(frame.word().count(), 0);
    });
}

/// If the owner changes and returns between the check and the reference, the result is the same as
/// without the change.
#[test]
fn an_owner_that_comes_back() {
    loom::model(|| {
        let frame = owned();
        let giver = {
            let frame = frame.clone();
            thread::spawn(move || {
                if frame.set_owner(1, 2, Kind::Ram).is_ok() {
                    let got = frame.get_typed(2, Type::Writable);
                    if got.is_ok() {
                        assert_eq!(frame.put_typed(|| 7), Released::Done);
                    }
                }
            })
        };
        match frame.get_typed(1, Type::Writable) {
            Ok(_) => {
                assert_eq!(frame.owner(), 1);
                assert_eq!(frame.put_typed(|| 1), Released::Done);
            }
            Err(refused) => assert!(matches!(refused, Refused::NotOwned | Refused::Again)),
        }
        giver.join().unwrap();
        assert_eq!(frame.word().references(), 0);
    });
}
