//! Scenarios and properties of a run queue: shares by weight, no starvation, wake-ups, stealing.

use proptest::prelude::*;
use scheduler::{CpuMask, Entity, RunQueue, SLICE, WAKE_CREDIT};

type Queue = RunQueue<16>;

fn vcpu(slot: u16, weight: u32) -> Entity {
    Entity::new(slot, weight, CpuMask::ALL)
}

/// Runs for `total` nanoseconds, choosing anew when the queue says so; returns time per slot.
fn run(queue: &mut Queue, now: &mut u64, total: u64) -> [u64; 32] {
    let mut used = [0; 32];
    let end = *now + total;
    while *now < end {
        let slot = queue.pick_next(*now).expect("something is runnable");
        let until = queue.slice_end().unwrap_or(end).min(end).max(*now + 1);
        used[usize::from(slot)] += until - *now;
        *now = until;
    }
    used
}

#[test]
fn an_idle_cpu_has_nothing_to_run() {
    let mut queue = Queue::new(0);
    assert_eq!(queue.pick_next(5), None);
    assert!(!queue.should_preempt(10));
    assert_eq!(queue.slice_end(), None);
    assert_eq!(queue.block_current(10), None);
}

#[test]
fn one_that_sleeps_much_preempts_a_busy_one() {
    let mut queue = Queue::new(0);
    queue.enqueue(vcpu(1, 256), 0).unwrap();
    assert_eq!(queue.pick_next(0), Some(1));
    queue.enqueue(vcpu(2, 256), 0).unwrap();
    assert_eq!(queue.pick_next(SLICE), Some(2));
    let sleeper = queue.block_current(SLICE + 1000).unwrap();
    assert_eq!(queue.pick_next(SLICE + 1000), Some(1));
    let woken = 100 * SLICE;
    assert!(queue.enqueue(sleeper, woken).unwrap());
    assert!(queue.should_preempt(woken));
    assert_eq!(queue.pick_next(woken), Some(2));
    assert!(!queue.should_preempt(woken + WAKE_CREDIT / 2));
}

#[test]
fn sleep_is_not_saved_up() {
    let mut queue = Queue::new(0);
    queue.enqueue(vcpu(1, 256), 0).unwrap();
    queue.enqueue(vcpu(2, 256), 0).unwrap();
    queue.pick_next(0);
    let sleeper = queue.block_current(10).unwrap();
    let mut now = 10;
    run(&mut queue, &mut now, 1000 * SLICE);
    queue.enqueue(sleeper, now).unwrap();
    let used = run(&mut queue, &mut now, 100 * SLICE);
    assert!(used[1].abs_diff(used[2]) <= 2 * SLICE + WAKE_CREDIT, "{used:?}");
}

#[test]
fn yielding_lets_all_others_go_first() {
    let mut queue = Queue::new(0);
    for slot in 0..4 {
        queue.enqueue(vcpu(slot, 256), 0).unwrap();
    }
    let first = queue.pick_next(0).unwrap();
    let mut seen = vec![];
    for now in 1..4 {
        queue.yield_current(now);
        assert!(queue.should_preempt(now));
        seen.push(queue.pick_next(now).unwrap());
    }
    assert!(!seen.contains(&first));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_full_queue_says_so_and_keeps_what_it_has() {
    let mut queue = RunQueue::<2>::new(0);
    queue.enqueue(vcpu(1, 256), 0).unwrap();
    queue.enqueue(vcpu(2, 256), 0).unwrap();
    assert!(queue.enqueue(vcpu(3, 256), 0).is_err());
    assert_eq!((queue.len(), queue.load()), (2, 2));
    assert!(queue.dequeue(3).is_none());
    assert!(queue.dequeue(2).is_some());
    assert_eq!(queue.pick_next(0), Some(1));
}

#[test]
fn stealing_respects_affinity_and_carries_no_debt() {
    let mut busy = Queue::new(0);
    let mut idle = Queue::new(1);
    let only_zero = CpuMask([1, 0, 0, 0]);
    busy.enqueue(Entity::new(1, 256, only_zero), 0).unwrap();
    busy.enqueue(Entity::new(2, 256, only_zero), 0).unwrap();
    busy.enqueue(vcpu(3, 256), 0).unwrap();
    let mut now = 0;
    run(&mut busy, &mut now, 30 * SLICE + 1);
    while busy.current() == Some(3) {
        now += SLICE;
        busy.pick_next(now);
    }
    let taken = busy.steal(1).expect("slot 3 may move");
    assert_eq!(taken.slot, 3);
    assert!(busy.steal(1).is_none());
    idle.enqueue(vcpu(4, 256), 0).unwrap();
    idle.enqueue(taken, now).unwrap();
    let mut time = now;
    let used = run(&mut idle, &mut time, 100 * SLICE);
    assert!(used[3].abs_diff(used[4]) <= 4 * SLICE, "{used:?}");
}

#[test]
fn the_one_that_would_wait_longest_is_stolen() {
    let mut queue = Queue::new(0);
    // Slot 1 ran for a slice, so it is behind slots 2 and 3 that did not.
    queue.enqueue(vcpu(1, 256), 0).unwrap();
    queue.pick_next(0);
    queue.enqueue(vcpu(2, 256), 0).unwrap();
    assert_eq!(queue.pick_next(SLICE), Some(2));
    queue.enqueue(vcpu(3, 256), SLICE).unwrap();
    assert_eq!(queue.steal(1).map(|e| e.slot), Some(1));
    assert_eq!(queue.steal(1).map(|e| e.slot), Some(3));
}

#[test]
fn a_change_of_weight_takes_effect_at_once() {
    let mut queue = Queue::new(0);
    queue.enqueue(vcpu(1, 256), 0).unwrap();
    queue.enqueue(vcpu(2, 256), 0).unwrap();
    let mut now = 0;
    run(&mut queue, &mut now, 10 * SLICE);
    assert!(queue.change(1, now, |e| e.weight = 768));
    assert!(!queue.change(9, now, |e| e.weight = 768));
    let used = run(&mut queue, &mut now, 1000 * SLICE);
    assert!((used[1] / 3).abs_diff(used[2]) < 10 * SLICE, "{used:?}");
}

proptest! {
    /// Over a long run each gets its share by weight, within a few slices.
    #[test]
    fn time_is_shared_by_weight(weights in prop::collection::vec(16u32..2048, 2..8)) {
        let mut queue = Queue::new(0);
        for (slot, weight) in (0u16..).zip(&weights) {
            queue.enqueue(vcpu(slot, *weight), 0).unwrap();
        }
        let total = 4000 * SLICE;
        let used = run(&mut queue, &mut 0, total);
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        // A slice of the lightest is worth this much of the heaviest's time.
        let max = u64::from(*weights.iter().max().unwrap());
        let min = u64::from(*weights.iter().min().unwrap());
        let slack = 2 * SLICE * (max / min + 2);
        for (slot, weight) in weights.iter().enumerate() {
            let due = total / sum * u64::from(*weight);
            prop_assert!(used[slot].abs_diff(due) <= slack, "{slot}: {} of {due}", used[slot]);
        }
    }

    /// Whatever wakes and sleeps, whoever is runnable runs within a bounded time.
    #[test]
    fn nobody_starves(
        sleepers in prop::collection::vec((1u64..SLICE, 1u64..3 * SLICE), 0..6),
        weight in 64u32..1024,
    ) {
        let mut queue = Queue::new(0);
        let mut wakes: Vec<(u64, Entity)> = (1u16..)
            .zip(&sleepers)
            .map(|(slot, s)| (s.1, vcpu(slot, 256)))
            .collect();
        queue.enqueue(vcpu(0, weight), 0).unwrap();
        let (mut now, mut last_run) = (0u64, 0u64);
        while now < 600 * SLICE {
            wakes.retain(|(at, entity)| {
                let due = *at <= now;
                if due {
                    queue.enqueue(*entity, now).unwrap();
                }
                !due
            });
            let Some(slot) = queue.pick_next(now) else { now += 1000; continue };
            let burst = match slot {
                0 => { last_run = now; SLICE }
                n => sleepers[usize::from(n) - 1].0,
            };
            let next_wake = wakes.iter().map(|w| w.0).min().unwrap_or(u64::MAX);
            let end = (now + burst).min(next_wake.max(now + 1));
            let blocks = slot != 0 && end == now + burst;
            now = end;
            if blocks {
                let entity = queue.block_current(now).unwrap();
                wakes.push((now + sleepers[usize::from(slot) - 1].1, entity));
            }
            let bound = SLICE * 4 * (sleepers.len() as u64 + 1) * (256 / u64::from(weight) + 1);
            prop_assert!(now - last_run <= bound, "slot 0 waited {}", now - last_run);
        }
    }

    /// Random operations keep every entity exactly once, and nothing panics.
    #[test]
    fn no_entity_is_lost_or_doubled(steps in prop::collection::vec((0u8..7, 0u16..20, 0u64..SLICE), 0..300)) {
        let mut queues = [Queue::new(0), Queue::new(1)];
        let mut outside: Vec<Entity> = (0..20).map(|s| vcpu(s, 256)).collect();
        let mut inside: Vec<Vec<u16>> = vec![vec![], vec![]];
        let mut now = 0;
        for (what, slot, time) in steps {
            now += time;
            let which = usize::from(slot % 2);
            let queue = &mut queues[which];
            match what {
                0 | 1 => if let Some(at) = outside.iter().position(|e| e.slot == slot) {
                    if queue.enqueue(outside[at], now).is_ok() {
                        outside.remove(at);
                        inside[which].push(slot);
                    } else {
                        prop_assert_eq!(queue.len(), 16);
                    }
                },
                2 => { queue.pick_next(now); }
                3 => if let Some(entity) = queue.block_current(now) {
                    inside[which].retain(|s| *s != entity.slot);
                    outside.push(entity);
                },
                4 => queue.yield_current(now),
                5 => if let Some(entity) = queue.dequeue(slot) {
                    inside[which].retain(|s| *s != entity.slot);
                    outside.push(entity);
                },
                _ => if let Some(entity) = queue.steal(9) {
                    inside[which].retain(|s| *s != entity.slot);
                    outside.push(entity);
                },
            }
            for (queue, inside) in queues.iter().zip(&inside) {
                prop_assert_eq!(queue.load(), inside.len());
                prop_assert!(queue.current().is_none_or(|s| inside.contains(&s)));
            }
        }
    }
}
