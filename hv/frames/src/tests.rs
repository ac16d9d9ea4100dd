//! Compares a frame with a model that lists the holders of references.

use crate::{Acquired, Frame, Kind, Refused, Released, Type};
use proptest::prelude::*;

const TYPES: [Type; 6] = [Type::Writable, Type::L1, Type::L2, Type::L3, Type::L4, Type::SegDesc];

#[derive(Clone, Debug)]
enum Step {
    GetRef(u32),
    PutRef,
    GetTyped(u32, usize),
    GetType,
    PutTyped,
    PutType,
    /// Continues work on a partial frame: finishes it, or drops it.
    Finish(bool),
    Pin,
    Unpin,
    SetOwner(u32, u32, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (1..3u32).prop_map(Step::GetRef),
        1 => Just(Step::PutRef),
        3 => (1..3u32, 0..6usize).prop_map(|(owner, ty)| Step::GetTyped(owner, ty)),
        1 => Just(Step::GetType),
        3 => Just(Step::PutTyped),
        1 => Just(Step::PutType),
        2 => any::<bool>().prop_map(Step::Finish),
        1 => Just(Step::Pin),
        1 => Just(Step::Unpin),
        2 => (0..3u32, 0..3u32, any::<bool>()).prop_map(|(a, b, k)| Step::SetOwner(a, b, k)),
    ]
}

/// The state that the frame should have.
#[derive(Debug)]
struct Model {
    owner: u32,
    kind: Kind,
    ty: Type,
    plain: u32,
    typed: u32,
    partial: bool,
    pinned: bool,
    /// The clock when the type count last went to 0.
    ended: u32,
    clock: u32,
}

impl Model {
    fn new() -> Self {
        Self {
            owner: 0,
            kind: Kind::Ram,
            ty: Type::None,
            plain: 0,
            typed: 0,
            partial: false,
            pinned: false,
            ended: 0,
            clock: 1,
        }
    }

    /// Typed references that the caller can release.
    fn held(&self) -> u32 {
        if self.partial { 0 } else { self.typed - u32::from(self.pinned) }
    }

    fn expect_get(&self, owner: u32, ty: Type) -> Result<(), Refused> {
        if owner != self.owner || (self.kind != Kind::Ram && ty.is_checked()) {
            Err(Refused::NotOwned)
        } else if self.typed > 0 && self.ty != ty {
            Err(Refused::WrongType)
        } else {
            Ok(())
        }
    }

    fn get_typed(&mut self, frame: &Frame, owner: u32, ty: Type, reference: bool) {
        let expected = self.expect_get(owner, ty);
        let got = if reference { frame.get_typed(owner, ty) } else { frame.get_type(owner, ty) };
        assert_eq!(got.map(|_| ()), expected);
        let Ok(acquired) = got else { return };
        let retyped = self.typed == 0 && ![ty, Type::None].contains(&self.ty);
        let stamp = retyped.then_some(self.ended);
        let validate = ty.is_checked() && (self.typed == 0 || self.partial);
        assert_eq!(
            acquired,
            match (validate, stamp) {
                (true, stamp) => Acquired::Validate { stamp, resumed: self.partial },
                (false, Some(stamp)) => Acquired::Settle { stamp },
                (false, None) => Acquired::Ready,
            }
        );
        if stamp.is_some() {
            assert_eq!(frame.get_typed(owner, ty), Err(Refused::Again));
            frame.settle();
        }
        if validate {
            assert_eq!(frame.progress(), if self.partial { 100 } else { 0 });
            frame.set_progress(100);
        }
        self.ty = ty;
        if !self.partial {
            self.typed += 1;
            self.plain -= u32::from(!reference);
        }
        self.partial = validate;
    }

    fn put_typed(&mut self, frame: &Frame, reference: bool) {
        let clock = self.clock;
        let put = |frame: &Frame| {
            if reference { frame.put_typed(|| clock) } else { frame.put_type(|| clock) }
        };
        if self.typed == 0 {
            assert_eq!(put(frame), Released::Broken);
        } else if self.held() > 0 && (reference || !self.ty.is_checked()) {
            if self.typed == 1 && self.ty.is_checked() {
                assert_eq!(put(frame), Released::Devalidate);
                assert_eq!(frame.progress(), 512);
                frame.set_progress(100);
                self.partial = true;
                return;
            }
            assert_eq!(put(frame), Released::Done);
            self.typed -= 1;
            self.plain += u32::from(!reference);
            if self.typed == 0 {
                self.ended = clock;
            }
        }
    }

    fn run(&mut self, frame: &Frame, step: &Step) {
        match *step {
            Step::GetRef(owner) => {
                let allowed = owner == self.owner && self.kind != Kind::Private;
                assert_eq!(frame.get_ref(owner).is_ok(), allowed);
                self.plain += u32::from(allowed);
            }
            Step::PutRef => {
                assert_eq!(frame.put_ref(), self.plain > 0);
                self.plain = self.plain.saturating_sub(1);
            }
            Step::GetTyped(owner, ty) => self.get_typed(frame, owner, TYPES[ty], true),
            Step::GetType if self.plain > 0 => {
                self.get_typed(frame, self.owner, Type::Writable, false);
            }
            Step::GetType => {}
            Step::PutTyped => self.put_typed(frame, true),
            Step::PutType => self.put_typed(frame, false),
            Step::Finish(true) if self.partial => {
                frame.set_validated();
                self.partial = false;
            }
            Step::Finish(false) if self.partial => {
                assert_eq!(frame.retire(|| self.clock), Released::Done);
                (self.partial, self.typed, self.ended) = (false, 0, self.clock);
            }
            Step::Finish(_) => assert_eq!(frame.retire(|| 0), Released::Broken),
            Step::Pin => {
                if self.ty.is_checked() && self.held() > 0 {
                    assert_eq!(frame.pin(), !self.pinned);
                    self.pinned = true;
                }
            }
            Step::Unpin => {
                assert_eq!(frame.unpin(), self.pinned);
                self.pinned = false;
            }
            Step::SetOwner(from, to, shared) => {
                let kind = if shared { Kind::InstanceShared } else { Kind::Ram };
                let allowed = from == self.owner && self.plain + self.typed == 0;
                assert_eq!(frame.set_owner(from, to, kind).is_ok(), allowed);
                if allowed {
                    self.ty = if from == to { self.ty } else { Type::None };
                    (self.owner, self.kind) = (to, kind);
                }
            }
        }
        self.clock += 1;
    }

    fn check(&self, frame: &Frame) {
        let word = frame.word();
        assert_eq!(frame.owner(), self.owner);
        assert_eq!(word.kind(), self.kind);
        assert_eq!(word.ty(), self.ty);
        assert_eq!(word.count(), self.typed);
        assert_eq!(word.references(), self.plain + self.typed);
        assert_eq!(word.is_partial(), self.partial);
        assert_eq!(word.is_validated(), self.typed > 0 && self.ty.is_checked() && !self.partial);
        assert_eq!(word.is_pinned(), self.pinned);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]
    #[test]
    fn follows_the_model(steps in prop::collection::vec(step(), 1..120)) {
        let frame = Frame::default();
        let mut model = Model::new();
        model.run(&frame, &Step::SetOwner(0, 1, false));
        for step in &steps {
            model.run(&frame, step);
            model.check(&frame);
        }
    }
}

#[test]
fn counts_refuse_to_overflow() {
    let frame = Frame::default();
    frame.set_owner(0, 1, Kind::Ram).unwrap();
    let full = (1u32 << crate::COUNT_BITS) - 1;
    for _ in 0..full {
        assert_eq!(frame.get_typed(1, Type::Writable), Ok(Acquired::Ready));
    }
    assert_eq!(frame.get_typed(1, Type::Writable), Err(Refused::Overflow));
    assert_eq!(frame.word().count(), full);
    assert_eq!(frame.word().references(), full);
    assert_eq!(frame.word().ty(), Type::Writable);
}

#[test]
fn io_memory_is_told_from_ram() {
    let frame = Frame::default();
    frame.set_owner(0, 5 | crate::OWNER_IO, Kind::Ram).unwrap();
    assert_eq!(frame.owner_word(), 5 | crate::OWNER_IO);
    assert_eq!(frame.owner(), 5);
    assert_eq!(frame.set_owner(5, 6, Kind::Ram), Err(Refused::NotOwned));
}

#[test]
fn private_frames_are_refused() {
    let frame = Frame::default();
    frame.set_owner(0, 1, Kind::Private).unwrap();
    assert_eq!(frame.get_ref(1), Err(Refused::NotOwned));
    assert_eq!(frame.get_typed(1, Type::Writable), Err(Refused::NotOwned));
}

#[test]
fn an_instance_keeps_its_frames_whatever_their_kind() {
    for kind in [Kind::Private, Kind::InstanceShared] {
        let frame = Frame::default();
        frame.set_owner(0, 5, Kind::Ram).unwrap();
        assert_eq!(frame.keep(6), Err(Refused::NotOwned), "another's");
        frame.set_owner(5, 5, kind).unwrap();
        frame.keep(5).unwrap();
        for (to, kind) in [(5, Kind::Ram), (6, Kind::Ram), (0, Kind::Private)] {
            assert_eq!(frame.set_owner(5, to, kind), Err(Refused::InUse));
        }
        // The partition's own mapping and unmapping does not release it.
        if frame.get_ref(5).is_ok() {
            assert_eq!(kind, Kind::InstanceShared);
            assert!(frame.put_ref());
        }
        assert_eq!(frame.set_owner(5, 6, Kind::Ram), Err(Refused::InUse));
        assert!(frame.put_ref());
        assert!(!frame.put_ref(), "given back once");
        frame.set_owner(5, 6, Kind::Ram).unwrap();
    }
}
