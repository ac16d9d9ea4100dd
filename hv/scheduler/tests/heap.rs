//! The timer queue against a model: a map from timer to deadline.

use proptest::prelude::*;
use scheduler::TimerQueue;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Set(u16, u64),
    Cancel(u16),
    Expire(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u16..20, 0u64..50).prop_map(|(t, d)| Step::Set(t, d)),
        1 => (0u16..20).prop_map(Step::Cancel),
        1 => (0u64..50).prop_map(Step::Expire),
    ]
}

proptest! {
    #[test]
    fn behaves_like_a_sorted_map(steps in prop::collection::vec(step(), 0..200)) {
        let mut queue = TimerQueue::<16>::new();
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Set(timer, deadline) => {
                    prop_assert_eq!(queue.set(timer, deadline), timer < 16);
                    if timer < 16 {
                        model.insert(timer, deadline);
                    }
                }
                Step::Cancel(timer) => {
                    prop_assert_eq!(queue.cancel(timer), model.remove(&timer).is_some());
                }
                Step::Expire(now) => {
                    let mut last = 0;
                    while let Some((deadline, _)) = queue.next().filter(|(d, _)| *d <= now) {
                        prop_assert!(deadline >= last);
                        last = deadline;
                        let timer = queue.pop_expired(now).expect("the next one is due");
                        prop_assert_eq!(model.remove(&timer), Some(deadline));
                    }
                    prop_assert_eq!(queue.pop_expired(now), None);
                    prop_assert!(model.values().all(|d| *d > now));
                }
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert_eq!(queue.is_empty(), model.is_empty());
            prop_assert_eq!(queue.next().map(|n| n.0), model.values().min().copied());
            for timer in 0..20 {
                prop_assert_eq!(queue.get(timer), model.get(&timer).copied());
            }
        }
    }
}
