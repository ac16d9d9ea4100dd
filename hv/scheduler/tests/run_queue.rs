//! Scenarios and properties of one run queue: shares by weight, caps, no starvation, wake-ups.

use proptest::prelude::*;
use scheduler::{
    CpuMask, Entity, Group, Limits, PERIOD, RunQueue, SLICE, WAKE_CREDIT, WAKE_GRANULARITY,
};

type Queue = RunQueue<'static, 32>;

fn limited(weight: u32, cap: u32) -> &'static Group {
    Box::leak(Box::new(Group::new(&Limits { weight, cap, allowed: CpuMask::ALL }, 0)))
}

/// A virtual CPU in a partition of its own.
fn vcpu(slot: u16, weight: u32) -> Entity<'static> {
    Entity::new(slot, limited(weight, 0))
}

/// Runs for `total` nanoseconds, and chooses again when the queue says so. Returns the time per
/// slot.
fn run(queue: &mut Queue, now: &mut u64, total: u64) -> [u64; 32] {
    let mut used = [0; 32];
    let end = *now + total;
    while *now < end {
        let slot = queue.pick_next(*now);
        let until = queue.next_event().unwrap_or(end).min(end).max(*now + 1);
        if let Some(slot) = slot {
            used[usize::from(slot)] += until - *now;
        }
        *now = until;
    }
    used
}

#[test]
fn an_idle_cpu_has_nothing_to_run() {
    let mut queue = Queue::new();
    assert_eq!(queue.pick_next(5), None);
    assert!(!queue.should_preempt(10));
    assert_eq!(queue.next_event(), None);
    assert!(queue.block_current(10).is_none());
}

#[test]
fn one_that_sleeps_much_preempts_a_busy_one() {
    let mut queue = Queue::new();
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
fn one_of_much_weight_preempts_though_it_just_slept() {
    let mut queue = Queue::new();
    for slot in 1..10 {
        queue.enqueue(vcpu(slot, 256), 0).unwrap();
    }
    let mut now = 0;
    run(&mut queue, &mut now, 50 * SLICE);
    let mut system = vcpu(0, 65535);
    for round in 0..1000 {
        now += 200_000;
        queue.pick_next(now);
        assert!(queue.enqueue(system, now).unwrap() || round < 100);
        if queue.pick_next(now) != Some(0) {
            now += WAKE_GRANULARITY;
            assert!(queue.should_preempt(now) || round < 100);
            // At first all have run for no time, and are equally entitled.
            while queue.pick_next(now) != Some(0) {
                assert!(round < 100, "{round}");
                now += SLICE;
            }
        }
        now += 200_000;
        system = queue.block_current(now).unwrap();
    }
}

/// The command partition weighs as much as 16 guests: it must not run 16 times as long on credit
/// from sleeping.
#[test]
fn great_weight_does_not_make_a_wake_longer() {
    let mut queue = Queue::new();
    queue.enqueue(vcpu(1, 4096), 0).unwrap();
    assert_eq!(queue.pick_next(0), Some(1));
    let sleeper = queue.block_current(1000).unwrap();
    let mut now = 1000;
    queue.enqueue(vcpu(2, 256), now).unwrap();
    run(&mut queue, &mut now, 100 * SLICE);
    queue.enqueue(sleeper, now).unwrap();
    while queue.pick_next(now) != Some(1) {
        now = queue.next_event().unwrap();
    }
    let begin = now;
    while queue.pick_next(now) == Some(1) {
        now = queue.next_event().unwrap();
    }
    assert!(now - begin <= 16 * WAKE_GRANULARITY + SLICE, "{} ns", now - begin);
}

#[test]
fn sleep_is_not_saved_up() {
    let mut queue = Queue::new();
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
fn yielding_lets_another_run_for_a_slice_and_costs_no_share() {
    let mut queue = Queue::new();
    queue.enqueue(vcpu(1, 256), 0).unwrap();
    queue.enqueue(vcpu(2, 256), 0).unwrap();
    let (mut now, mut used) = (0, [0; 3]);
    while now < 1000 * SLICE {
        let slot = queue.pick_next(now).unwrap();
        let runs = if slot == 1 { 100_000 } else { SLICE };
        now += runs;
        used[usize::from(slot)] += runs;
        if slot == 1 {
            queue.yield_current(now);
            assert!(queue.should_preempt(now));
            assert_eq!(queue.pick_next(now), Some(2));
        }
    }
    assert!(used[1] * 40 >= used[2], "{used:?}");
}

#[test]
fn a_slot_past_the_queue_is_refused() {
    let mut queue = RunQueue::<2>::new();
    queue.enqueue(vcpu(1, 256), 0).unwrap();
    assert!(queue.enqueue(vcpu(2, 256), 0).is_err());
    assert_eq!((queue.waiting(), queue.load()), (1, 1));
    assert!(queue.dequeue(2).is_none());
    assert!(queue.dequeue(1).is_some());
    assert_eq!(queue.pick_next(0), None);
}

#[test]
fn a_change_of_weight_takes_effect_at_once() {
    let mut queue = Queue::new();
    let changed = limited(256, 0);
    queue.enqueue(Entity::new(1, changed), 0).unwrap();
    queue.enqueue(vcpu(2, 256), 0).unwrap();
    let mut now = 0;
    run(&mut queue, &mut now, 10 * SLICE);
    let heavier = Limits { weight: 768, cap: 0, allowed: CpuMask::ALL };
    assert!(changed.set(&heavier, now));
    assert!(!changed.set(&heavier, now));
    let used = run(&mut queue, &mut now, 1000 * SLICE);
    assert!((used[1] / 3).abs_diff(used[2]) < 10 * SLICE, "{used:?}");
}

#[test]
fn one_whose_weight_was_raised_owes_nothing_of_before_once_it_is_placed_anew() {
    let mut queue = Queue::new();
    let changed = limited(1, 0);
    queue.enqueue(Entity::new(1, changed), 0).unwrap();
    queue.enqueue(vcpu(2, 256), 0).unwrap();
    let mut now = 0;
    run(&mut queue, &mut now, 100 * SLICE);
    changed.set(&Limits { weight: 65535, cap: 0, allowed: CpuMask::ALL }, now);
    if let Some(entity) = queue.dequeue(1) {
        queue.enqueue(entity, now).unwrap();
    }
    let used = run(&mut queue, &mut now, 20 * SLICE);
    assert!(used[1] >= 17 * SLICE, "{used:?}");
}

#[test]
fn the_virtual_cpus_of_a_partition_share_its_weight() {
    let mut queue = Queue::new();
    let wide = limited(256, 0);
    for slot in 0..8 {
        queue.enqueue(Entity::new(slot, wide), 0).unwrap();
    }
    queue.enqueue(vcpu(9, 256), 0).unwrap();
    let total = 2000 * SLICE;
    let used = run(&mut queue, &mut 0, total);
    let of_wide: u64 = used[..8].iter().sum();
    assert!(of_wide.abs_diff(used[9]) < total / 100, "{used:?}");
}

#[test]
fn a_cap_that_is_lifted_or_set_takes_effect() {
    let mut queue = Queue::new();
    let capped = limited(256, 20);
    queue.enqueue(Entity::new(1, capped), 0).unwrap();
    let mut now = 0;
    let ran = run(&mut queue, &mut now, 10 * PERIOD)[1];
    assert!(ran.abs_diff(2 * PERIOD) <= PERIOD / 4, "{ran}");
    let free = Limits { weight: 256, cap: 0, allowed: CpuMask::ALL };
    assert!(capped.set(&free, now));
    // The monitor does this to waiting virtual CPUs.
    if let Some(entity) = queue.dequeue(1) {
        queue.enqueue(entity, now).unwrap();
    }
    assert_eq!(run(&mut queue, &mut now, 10 * PERIOD)[1], 10 * PERIOD);
}

#[test]
fn a_cap_is_not_saved_up() {
    let mut queue = Queue::new();
    queue.enqueue(Entity::new(1, limited(256, 20)), 0).unwrap();
    queue.pick_next(0);
    let sleeper = queue.block_current(1000).unwrap();
    let mut now = 1000 * PERIOD;
    queue.enqueue(sleeper, now).unwrap();
    let ran = run(&mut queue, &mut now, 10 * PERIOD)[1];
    assert!(ran <= 3 * PERIOD, "{ran}");
}

proptest! {
    /// Over a long run each virtual CPU gets its share by weight, within a few slices.
    #[test]
    fn time_is_shared_by_weight(weights in prop::collection::vec(16u32..2048, 2..8)) {
        let mut queue = Queue::new();
        for (slot, weight) in (0u16..).zip(&weights) {
            queue.enqueue(vcpu(slot, *weight), 0).unwrap();
        }
        let total = 4000 * SLICE;
        let used = run(&mut queue, &mut 0, total);
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        // A slice of the lightest one corresponds to this much of the heaviest one's time.
        let max = u64::from(*weights.iter().max().unwrap());
        let min = u64::from(*weights.iter().min().unwrap());
        let slack = 2 * SLICE * (max / min + 2);
        for (slot, weight) in weights.iter().enumerate() {
            let due = total / sum * u64::from(*weight);
            prop_assert!(used[slot].abs_diff(due) <= slack, "{slot}: {} of {due}", used[slot]);
        }
    }

    /// A cap holds over every ten or more periods, within a fiftieth of a CPU: from above and, if
    /// the CPU has the time, from below. It holds for several virtual CPUs too.
    #[test]
    fn caps_hold(caps in prop::collection::vec((1u32..40, 1u16..4), 1..4), others in 0u16..3) {
        let mut queue = Queue::new();
        let groups: Vec<_> = caps.iter().map(|(cap, _)| limited(256, *cap)).collect();
        let mut owner = vec![];
        for (n, (_, vcpus)) in caps.iter().enumerate() {
            for _ in 0..*vcpus {
                queue.enqueue(Entity::new(owner.len() as u16, groups[n]), 0).unwrap();
                owner.push(n);
            }
        }
        for n in 0..others {
            queue.enqueue(vcpu(31 - n, 1), 0).unwrap();
        }
        let mut now = 0;
        for _ in 0..20 {
            let used = run(&mut queue, &mut now, 10 * PERIOD);
            let sum: u32 = caps.iter().map(|c| c.0).sum();
            for (n, (cap, _)) in caps.iter().enumerate() {
                let ran: u64 = owner.iter().zip(used).filter(|(o, _)| **o == n).map(|(_, u)| u).sum();
                let due = 10 * PERIOD / 100 * u64::from(*cap);
                // The rest of a period, and a step past the end of a budget.
                prop_assert!(ran <= due + due / 5 + PERIOD / 20, "{n}: {ran} of {due}");
                if sum <= 90 {
                    prop_assert!(ran + due / 5 + PERIOD / 20 >= due, "{n}: {ran} of {due}");
                }
            }
        }
    }

    /// Whatever wakes and sleeps, a runnable virtual CPU runs within a bounded time.
    #[test]
    fn nobody_starves(
        sleepers in prop::collection::vec((1u64..SLICE, 1u64..3 * SLICE), 0..6),
        weight in 64u32..1024,
    ) {
        let mut queue = Queue::new();
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
            let event = queue.next_event().unwrap_or(u64::MAX).max(now + 1);
            let end = (now + burst).min(next_wake.max(now + 1)).min(event);
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
    fn no_entity_is_lost_or_doubled(
        steps in prop::collection::vec((0u8..8, 0u16..20, 0u64..SLICE), 0..300),
        caps in prop::collection::vec(0u32..30, 20),
    ) {
        let mut queues = [Queue::new(), Queue::new()];
        let mut outside: Vec<Entity> =
            (0..20).map(|s| Entity::new(s, limited(256, caps[usize::from(s)]))).collect();
        let mut inside: Vec<Vec<u16>> = vec![vec![], vec![]];
        let mut now = 0;
        for (what, slot, time) in steps {
            now += time;
            let which = usize::from(slot % 2);
            let queue = &mut queues[which];
            let gone = match what {
                0..=2 => {
                    if let Some(at) = outside.iter().position(|e| e.slot == slot) {
                        queue.enqueue(outside.remove(at), now).unwrap();
                        inside[which].push(slot);
                    }
                    None
                }
                3 => { queue.pick_next(now); None }
                4 => queue.block_current(now),
                5 => { queue.yield_current(now); None }
                6 => queue.dequeue(slot),
                _ => queue.steal(9),
            };
            if let Some(entity) = gone {
                inside[which].retain(|s| *s != entity.slot);
                outside.push(entity);
            }
            for (queue, inside) in queues.iter().zip(&inside) {
                prop_assert_eq!(queue.load(), inside.len());
                prop_assert!(queue.current().is_none_or(|s| inside.contains(&s)));
            }
        }
    }
}
