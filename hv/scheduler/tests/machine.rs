//! Several CPUs together: a model of the monitor's loop around the queues, and the shares of the
//! whole machine that partitions get by it.

use proptest::prelude::*;
use scheduler::{BALANCE, CpuMask, Entity, Group, Leads, Limits, RunQueue, SLICE};

const SECOND: u64 = 1_000_000_000;

/// The behaviour of a virtual CPU.
#[derive(Clone, Copy, Debug)]
enum Work {
    Computes,
    /// Runs for a time, then sleeps for a time.
    Sleeps {
        runs: u64,
        sleeps: u64,
    },
}

struct Vcpu {
    entity: Option<Entity<'static>>,
    cpu: usize,
    group: &'static Group,
    work: Work,
    used: u64,
    /// The used time at which it sleeps next.
    sleeps_at: u64,
    wakes_at: u64,
    waits_since: Option<u64>,
    longest_wait: u64,
}

/// A machine under test.
struct Machine {
    queues: Vec<RunQueue<'static, 128>>,
    vcpus: Vec<Vcpu>,
    now: u64,
    moves: u64,
    idle: u64,
    /// CPU time by physical CPU and virtual CPU.
    ran_on: Vec<Vec<u64>>,
}

fn limits(weight: u32, cap: u32, mask: u64) -> Limits {
    Limits { weight, cap, allowed: CpuMask([mask, 0, 0, 0]) }
}

impl Machine {
    fn new(cpus: usize) -> Self {
        Self {
            queues: vec![RunQueue::new(); cpus],
            vcpus: vec![],
            now: 0,
            moves: 0,
            idle: 0,
            ran_on: vec![vec![0; 128]; cpus],
        }
    }

    /// Adds a partition. Returns its account and the slots of its virtual CPUs.
    fn partition(
        &mut self,
        limits: Limits,
        vcpus: usize,
        work: Work,
    ) -> (&'static Group, Vec<usize>) {
        let group: &'static Group = Box::leak(Box::new(Group::new(&limits, self.now)));
        let first = self.vcpus.len();
        for slot in first..first + vcpus {
            let sleeps_at = match work {
                Work::Computes => u64::MAX,
                Work::Sleeps { runs, .. } => runs,
            };
            self.vcpus.push(Vcpu {
                entity: Some(Entity::new(slot as u16, group)),
                cpu: 0,
                group,
                work,
                used: 0,
                sleeps_at,
                wakes_at: u64::MAX,
                waits_since: None,
                longest_wait: 0,
            });
            self.place(slot, true);
        }
        (group, (first..first + vcpus).collect())
    }

    /// Places a virtual CPU that becomes runnable, as the monitor does.
    fn place(&mut self, slot: usize, new: bool) {
        let vcpu = &mut self.vcpus[slot];
        let idle = |q: &RunQueue<'static, 128>| q.current().is_none() && q.waiting() == 0;
        let home = vcpu.cpu;
        let mut entity = vcpu.entity.take().unwrap();
        let may = |cpu: usize| vcpu.group.allows(cpu as u32);
        if new || !may(home) || !idle(&self.queues[home]) {
            let count = self.queues.len();
            let found = (0..count).find(|c| may(*c) && idle(&self.queues[*c]));
            let least = || (0..count).filter(|c| may(*c)).min_by_key(|c| self.queues[*c].load());
            let to = match found {
                Some(cpu) => cpu,
                None if !new && may(home) => home,
                None => least().unwrap(),
            };
            if to != home {
                entity = entity.uprooted();
            }
            vcpu.cpu = to;
        }
        vcpu.wakes_at = u64::MAX;
        vcpu.waits_since = Some(self.now);
        self.queues[vcpu.cpu].enqueue(entity, self.now).unwrap();
    }

    fn arrive(&mut self, entity: Entity<'static>, cpu: usize) {
        self.vcpus[usize::from(entity.slot)].cpu = cpu;
        self.moves += 1;
        self.queues[cpu].enqueue(entity, self.now).unwrap();
    }

    fn balance(&mut self, cpu: usize) {
        let Some(position) = self.queues[cpu].balance_from(self.now) else { return };
        let mut leads = Leads::<8>::default();
        for other in (0..self.queues.len()).filter(|c| *c != cpu) {
            leads.note(other as u32, self.queues[other].lead(position, self.now));
        }
        if let Some((entity, to)) = self.queues[cpu].give(&leads) {
            self.arrive(entity, to as usize);
        }
    }

    fn choose(&mut self, cpu: usize) {
        self.balance(cpu);
        loop {
            match self.queues[cpu].pick_next(self.now) {
                None => {
                    let count = self.queues.len();
                    let others = (1..count).map(|n| (cpu + n) % count);
                    let found = others.fold(None, |found, other| {
                        found.or_else(|| self.queues[other].steal(cpu as u32))
                    });
                    let Some(entity) = found else { return };
                    self.arrive(entity, cpu);
                }
                Some(slot) if !self.vcpus[usize::from(slot)].group.allows(cpu as u32) => {
                    let entity = self.queues[cpu].block_current(self.now);
                    self.vcpus[usize::from(slot)].entity = entity;
                    self.place(slot.into(), false);
                }
                Some(_) => return,
            }
        }
    }

    /// Applies changed limits, as the monitor does.
    fn reconsider(&mut self, slots: &[usize]) {
        for &slot in slots {
            if let Some(entity) = self.queues[self.vcpus[slot].cpu].dequeue(slot as u16) {
                self.vcpus[slot].entity = Some(entity);
                self.place(slot, false);
            }
        }
        (0..self.queues.len()).for_each(|cpu| self.choose(cpu));
    }

    fn run(&mut self, time: u64) {
        let end = self.now + time;
        while self.now < end {
            let due: Vec<usize> =
                (0..self.vcpus.len()).filter(|v| self.vcpus[*v].wakes_at <= self.now).collect();
            due.into_iter().for_each(|slot| self.place(slot, false));
            let mut next = end;
            for cpu in 0..self.queues.len() {
                if self.queues[cpu].should_preempt(self.now) {
                    self.choose(cpu);
                }
            }
            for queue in &self.queues {
                next = next.min(queue.next_event().unwrap_or(end));
                if let Some(slot) = queue.current() {
                    let vcpu = &self.vcpus[usize::from(slot)];
                    next = next.min(self.now.saturating_add(vcpu.sleeps_at - vcpu.used));
                }
            }
            next = self.vcpus.iter().map(|v| v.wakes_at).fold(next, u64::min).max(self.now + 1);
            self.pass(next - self.now);
        }
    }

    fn pass(&mut self, time: u64) {
        self.now += time;
        for cpu in 0..self.queues.len() {
            let Some(slot) = self.queues[cpu].current().map(usize::from) else {
                self.idle += time;
                continue;
            };
            let vcpu = &mut self.vcpus[slot];
            vcpu.used += time;
            self.ran_on[cpu][slot] += time;
            let waited = vcpu.waits_since.take().map_or(0, |since| self.now - since);
            vcpu.longest_wait = vcpu.longest_wait.max(waited);
            if let (true, Work::Sleeps { runs, sleeps }) = (vcpu.used >= vcpu.sleeps_at, vcpu.work)
            {
                vcpu.sleeps_at = vcpu.used + runs;
                vcpu.wakes_at = self.now + sleeps;
                vcpu.entity = self.queues[cpu].block_current(self.now);
                self.choose(cpu);
            }
        }
        let now = self.now;
        for (slot, vcpu) in self.vcpus.iter_mut().enumerate() {
            let runs = self.queues[vcpu.cpu].current() == Some(slot as u16);
            if !runs && vcpu.entity.is_none() {
                vcpu.waits_since.get_or_insert(now);
            }
        }
    }

    fn used(&self, slots: &[usize]) -> u64 {
        slots.iter().map(|s| self.vcpus[*s].used).sum()
    }
}

#[test]
fn one_to_three_on_one_cpu() {
    let mut machine = Machine::new(2);
    let (_, light) = machine.partition(limits(100, 0, 1), 1, Work::Computes);
    let (_, heavy) = machine.partition(limits(300, 0, 1), 1, Work::Computes);
    machine.run(10 * SECOND);
    let (light, heavy) = (machine.used(&light), machine.used(&heavy));
    assert_eq!(light + heavy, 10 * SECOND);
    assert!(light.abs_diff(10 * SECOND / 4) < SECOND / 50, "{light} {heavy}");
}

#[test]
fn one_to_three_with_two_virtual_cpus_each_on_two_cpus() {
    let mut machine = Machine::new(2);
    let (_, light) = machine.partition(limits(256, 0, 3), 2, Work::Computes);
    let (_, heavy) = machine.partition(limits(768, 0, 3), 2, Work::Computes);
    machine.run(10 * SECOND);
    let (light, heavy) = (machine.used(&light), machine.used(&heavy));
    assert!(light.abs_diff(5 * SECOND) < SECOND / 5, "{light} {heavy}");
}

#[test]
fn three_that_compute_share_two_cpus() {
    let mut machine = Machine::new(2);
    let all: Vec<_> =
        (0..3).map(|_| machine.partition(limits(256, 0, 3), 1, Work::Computes).1).collect();
    machine.run(10 * SECOND);
    for one in &all {
        assert!(machine.used(one).abs_diff(20 * SECOND / 3) < SECOND / 10, "{}", machine.used(one));
    }
    assert!(machine.moves < 1000, "{} moves", machine.moves);
}

#[test]
fn a_weight_that_more_than_fills_a_cpu_takes_nothing_from_the_others_balance() {
    let mut machine = Machine::new(2);
    let (_, heavy) = machine.partition(limits(2560, 0, 3), 1, Work::Computes);
    let light: Vec<_> =
        (0..3).map(|_| machine.partition(limits(256, 0, 3), 1, Work::Computes).1).collect();
    machine.run(10 * SECOND);
    assert!(machine.used(&heavy) > 10 * SECOND - SECOND / 10);
    for one in &light {
        assert!(machine.used(one).abs_diff(10 * SECOND / 3) < SECOND / 10, "{}", machine.used(one));
    }
    // It leaves: the time it did not get is not owed to those that stay.
    machine.run(10 * SECOND);
    let before: Vec<_> = light.iter().map(|one| machine.used(one)).collect();
    let (_, fresh) = machine.partition(limits(256, 0, 3), 1, Work::Computes);
    machine.run(4 * SECOND);
    for (one, before) in light.iter().zip(before) {
        let got = machine.used(one) - before;
        assert!(got.abs_diff(machine.used(&fresh)) < SECOND / 5, "{got}");
    }
}

#[test]
fn a_dedicated_cpu_runs_nothing_else_from_the_moment_it_is() {
    let mut machine = Machine::new(3);
    let others: Vec<_> =
        (0..7).map(|_| machine.partition(limits(256, 0, 7), 2, Work::Computes)).collect();
    let sleeper = Work::Sleeps { runs: 300_000, sleeps: 700_000 };
    let (group, sleepy) = machine.partition(limits(256, 0, 7), 4, sleeper);
    machine.run(SECOND);
    for (group, slots) in &others {
        group.set(&limits(256, 0, 5), machine.now);
        machine.reconsider(slots);
    }
    group.set(&limits(256, 0, 5), machine.now);
    machine.reconsider(&sleepy);
    let before = machine.ran_on[1].clone();
    let (_, own) = machine.partition(limits(256, 0, 2), 1, Work::Computes);
    machine.run(5 * SECOND);
    let mut after = machine.ran_on[1].clone();
    assert_eq!(after[own[0]], 5 * SECOND);
    after[own[0]] = before[own[0]];
    assert_eq!(before, after);
    let used: Vec<_> = others.iter().map(|(_, slots)| machine.used(slots)).collect();
    let spread = used.iter().max().unwrap() - used.iter().min().unwrap();
    assert!(spread < SECOND / 4, "{used:?}");
}

#[test]
fn pinned_partitions_keep_their_ratio_beside_those_that_move() {
    let mut machine = Machine::new(4);
    let (_, light) = machine.partition(limits(256, 0, 1), 1, Work::Computes);
    let (_, heavy) = machine.partition(limits(768, 0, 1), 1, Work::Computes);
    let free: Vec<_> =
        (0..5).map(|_| machine.partition(limits(256, 0, 14), 1, Work::Computes).1).collect();
    machine.run(10 * SECOND);
    let (light, heavy) = (machine.used(&light), machine.used(&heavy));
    assert!((light * 3).abs_diff(heavy) < SECOND / 50, "{light} {heavy}");
    for one in &free {
        assert!(machine.used(one).abs_diff(6 * SECOND) < SECOND / 10, "{}", machine.used(one));
    }
}

#[test]
fn a_cap_holds_for_all_virtual_cpus_together_on_several_cpus() {
    let mut machine = Machine::new(4);
    let (_, capped) = machine.partition(limits(256, 150, 15), 8, Work::Computes);
    let (_, other) = machine.partition(limits(256, 0, 15), 4, Work::Computes);
    machine.run(10 * SECOND);
    let used = machine.used(&capped);
    assert!(used.abs_diff(15 * SECOND) < SECOND / 10, "{used}");
    assert!(machine.used(&other) > 24 * SECOND);
}

#[test]
fn time_that_a_cpu_was_idle_is_nobodys_claim() {
    let mut machine = Machine::new(2);
    let pinned: Vec<_> =
        (0..2).flat_map(|_| machine.partition(limits(256, 0, 1), 1, Work::Computes).1).collect();
    machine.run(10 * SECOND);
    let before = machine.used(&pinned);
    for _ in 0..2 {
        machine.partition(limits(256, 0, 3), 1, Work::Computes);
    }
    machine.run(2 * SECOND);
    // Each of the four gets half a CPU.
    let got = machine.used(&pinned) - before;
    assert!(got.abs_diff(2 * SECOND) < SECOND / 20, "{got}");
}

#[test]
fn a_hundred_partitions_share_four_cpus() {
    let mut machine = Machine::new(4);
    let all: Vec<_> =
        (0..100).map(|_| machine.partition(limits(256, 0, 15), 1, Work::Computes).1).collect();
    machine.run(10 * SECOND);
    for one in &all {
        assert!(machine.used(one).abs_diff(SECOND * 4 / 10) < SECOND / 20, "{}", machine.used(one));
    }
    assert_eq!(machine.idle, 0);
}

#[test]
fn what_the_host_needs_is_not_kept_waiting_by_guests() {
    let mut machine = Machine::new(2);
    let work = Work::Sleeps { runs: 200_000, sleeps: 800_000 };
    for _ in 0..40 {
        machine.partition(limits(256, 0, 3), 1, Work::Computes);
        machine.partition(limits(256, 0, 3), 1, work);
    }
    let (_, system) = machine.partition(limits(65535, 0, 3), 1, work);
    machine.run(SECOND);
    machine.vcpus[system[0]].longest_wait = 0;
    machine.run(10 * SECOND);
    let system = &machine.vcpus[system[0]];
    // Forty others are always ready on its CPU; a slice for each would take 160 ms.
    assert!(system.longest_wait < 3 * SLICE, "{}", system.longest_wait);
    assert!(system.used > 11 * SECOND / 6, "{}", system.used);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Partitions without affinity get their shares of the machine, as far as their virtual CPUs
    /// can use them; no CPU idles while a virtual CPU waits. Each virtual CPU moves by itself, so
    /// the error of a partition adds up over its virtual CPUs: it may be a sixtieth of a CPU for
    /// each, and a thirtieth at least. (With five CPUs and 21 virtual CPUs of eight partitions, a
    /// partition with three of them was off by 0.039 of a CPU.)
    #[test]
    fn shares_of_the_machine_go_by_weight(
        cpus in 1usize..6,
        partitions in prop::collection::vec((64u32..1024, 1usize..5), 1..10),
    ) {
        let mut machine = Machine::new(cpus);
        let mask = (1 << cpus) - 1;
        let slots: Vec<_> = partitions
            .iter()
            .map(|(weight, vcpus)| machine.partition(limits(*weight, 0, mask), *vcpus, Work::Computes).1)
            .collect();
        machine.run(4 * SECOND);
        let before: Vec<_> = slots.iter().map(|s| machine.used(s)).collect();
        let idle = machine.idle;
        machine.run(20 * SECOND);
        for ((slots, before), due) in slots.iter().zip(before).zip(due(cpus, &partitions)) {
            let got = (machine.used(slots) - before) as f64 / 20e9;
            let off = (slots.len() as f64 / 60.0).max(1.0 / 30.0);
            prop_assert!((got - due).abs() < off, "{got} of {due}, {partitions:?}");
        }
        let vcpus: usize = partitions.iter().map(|p| p.1).sum();
        prop_assert!(vcpus < cpus || machine.idle == idle);
    }

    /// Whatever changes, every virtual CPU is in one place, none runs on a CPU that it may not use,
    /// and a virtual CPU that is ready and not capped runs within a bounded time.
    #[test]
    fn changes_lose_nobody(
        changes in prop::collection::vec((0usize..6, 1u32..2000, 0u32..3, 1u64..16), 1..40),
        sleep in 100_000u64..5_000_000,
    ) {
        let mut machine = Machine::new(4);
        let all: Vec<_> = (0..6)
            .map(|n| {
                let work = if n % 2 == 0 { Work::Computes } else { Work::Sleeps { runs: 400_000, sleeps: sleep } };
                machine.partition(limits(256, 0, 15), 3, work)
            })
            .collect();
        for (which, weight, cap, mask) in changes {
            let (group, slots) = &all[which];
            group.set(&limits(weight, cap * 40, mask), machine.now);
            machine.reconsider(slots);
            let before = machine.ran_on.clone();
            machine.run(2 * BALANCE);
            for (cpu, (before, after)) in before.iter().zip(&machine.ran_on).enumerate() {
                let ran = slots.iter().any(|s| before[*s] != after[*s]);
                prop_assert!(!ran || mask >> cpu & 1 == 1);
            }
        }
        for (group, slots) in &all {
            group.set(&limits(256, 0, 15), machine.now);
            machine.reconsider(slots);
        }
        let before: Vec<_> = machine.vcpus.iter().map(|v| v.used).collect();
        machine.run(2 * SECOND);
        for (slot, before) in before.iter().enumerate() {
            prop_assert!(machine.vcpus[slot].used > before + SECOND / 50, "{slot} got little");
        }
    }
}

/// The CPUs that each partition is entitled to: by weight, but never more than the number of its
/// virtual CPUs.
fn due(cpus: usize, partitions: &[(u32, usize)]) -> Vec<f64> {
    let mut due = vec![0.0; partitions.len()];
    let (mut left, mut open) = (cpus as f64, (0..partitions.len()).collect::<Vec<_>>());
    loop {
        let weight: f64 = open.iter().map(|n| f64::from(partitions[*n].0)).sum();
        let full =
            |n: &usize| left * f64::from(partitions[*n].0) / weight >= partitions[*n].1 as f64;
        let Some(at) = open.iter().position(full) else {
            for n in open {
                due[n] = left * f64::from(partitions[n].0) / weight;
            }
            return due;
        };
        let n = open.remove(at);
        due[n] = partitions[n].1 as f64;
        left -= due[n];
    }
}
