//! Which virtual CPU each physical CPU runs, and its timers.
//!
//! Every virtual CPU belongs to one physical CPU's queue at a time (`Vcpu::cpu`); all changes of
//! its scheduling state happen under that queue's lock. Interrupts and other CPUs only set
//! `CpuLocal::reschedule`; [`schedule`] decides, on the way back to ring 3.

use core::sync::atomic::{AtomicPtr, Ordering};

use pv_abi::xen::{events::VIRQ_TIMER, time as area};
use scheduler::{CpuMask, Entity, RunQueue, TimerQueue};

use crate::{
    context::Registers,
    cpu::{self, CpuLocal, MAX_CPUS},
    delivery, descriptors, hardware,
    lock::{SpinLock, relax},
    partition, platform, time,
    vcpu::{Vcpu, run},
};

/// Virtual CPUs of the whole machine.
pub const SLOTS: usize = 1024;

/// A CPU's run queue and timers; timer `2 n` is the single-shot timer of slot `n`, `2 n + 1` the
/// timeout of its poll.
struct Queue {
    run: RunQueue<SLOTS>,
    timers: TimerQueue<{ 2 * SLOTS }>,
}

static QUEUES: [SpinLock<Queue>; MAX_CPUS] = {
    // The number of the CPU in its queue only names it.
    const fn queue(cpu: u16) -> SpinLock<Queue> {
        SpinLock::new(Queue { run: RunQueue::new(cpu), timers: TimerQueue::new() })
    }
    let mut queues = [const { queue(0) }; MAX_CPUS];
    let mut n = 0;
    while n < MAX_CPUS {
        queues[n] = queue(n as u16);
        n += 1;
    }
    queues
};

static VCPUS: [AtomicPtr<Vcpu>; SLOTS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; SLOTS];

fn queue(cpu: u32) -> &'static SpinLock<Queue> {
    &QUEUES[cpu as usize % MAX_CPUS]
}

/// The virtual CPU in a slot.
fn in_slot(slot: u16) -> Option<&'static Vcpu> {
    partition::vcpu_at(VCPUS.get(usize::from(slot))?.load(Ordering::Acquire))
}

/// A free slot, marked as taken by `claim` until [`register`] fills it.
pub fn take_slot() -> Option<u32> {
    let claimed = core::ptr::dangling_mut::<Vcpu>();
    VCPUS
        .iter()
        .position(|slot| {
            let null = core::ptr::null_mut();
            slot.compare_exchange(null, claimed, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
        .map(|slot| slot as u32)
}

/// Fills the slot of a virtual CPU and gives it a place to start.
pub fn register(vcpu: &'static Vcpu, weight: u32, affinity: [u64; 4]) {
    let entity = Entity::new(vcpu.slot as u16, weight, CpuMask(affinity));
    vcpu.entity.set(Some(entity));
    vcpu.cpu.store(least_loaded(&entity), Ordering::Relaxed);
    let pointer = core::ptr::from_ref(vcpu).cast_mut();
    VCPUS[vcpu.slot as usize % SLOTS].store(pointer, Ordering::Release);
}

/// Gives a slot back.
pub fn unregister(vcpu: &Vcpu) {
    cancel_timers(vcpu);
    VCPUS[vcpu.slot as usize % SLOTS].store(core::ptr::null_mut(), Ordering::Release);
}

fn least_loaded(entity: &Entity) -> u32 {
    cpu::all()
        .filter(|c| c.is_online() && entity.affinity.contains(c.index as u16))
        .min_by_key(|c| queue(c.index).lock().run.load())
        .map_or(0, |c| c.index)
}

/// Locks the queue that a virtual CPU belongs to.
fn with_queue<R>(vcpu: &Vcpu, act: impl FnOnce(u32, &mut Queue) -> R) -> R {
    loop {
        let home = vcpu.cpu.load(Ordering::Acquire);
        let mut held = queue(home).lock();
        if vcpu.cpu.load(Ordering::Acquire) == home {
            return act(home, &mut held);
        }
    }
}

fn kick(local: &CpuLocal) {
    local.reschedule.store(true, Ordering::Release);
    if local.index != cpu::this().index {
        platform::send_ipi(local.index, platform::VECTOR_RESCHEDULE);
    }
}

/// Ends a virtual CPU's wait for events, if it waits.
pub fn wake(vcpu: &Vcpu) {
    let woken = vcpu.state.compare_exchange(
        run::BLOCKED,
        run::RUNNABLE,
        Ordering::AcqRel,
        Ordering::Acquire,
    );
    if woken.is_ok() {
        vcpu.polls.store(0, Ordering::Release);
        make_runnable(vcpu);
    }
}

/// Puts a virtual CPU that may run into a queue, unless its partition stands still.
pub fn make_runnable(vcpu: &Vcpu) {
    move_to_idle(vcpu);
    let now = time::now();
    let chosen = with_queue(vcpu, |home, queue| {
        if !vcpu.partition.runs() || vcpu.state.load(Ordering::Acquire) != run::RUNNABLE {
            return None;
        }
        let entity = vcpu.entity.get()?;
        let preempts = queue.run.enqueue(entity, now).ok()?;
        vcpu.entity.set(None);
        vcpu.enter_runstate(area::RUNSTATE_RUNNABLE, now);
        (preempts || queue.run.len() == 1).then_some(home)
    });
    if let Some(home) = chosen {
        kick(cpu::cpu(home));
    }
}

/// A virtual CPU whose CPU is busy goes to an idle one that it may use.
fn move_to_idle(vcpu: &Vcpu) {
    with_queue(vcpu, |home, _| {
        let Some(entity) = vcpu.entity.get() else {
            return;
        };
        if cpu::cpu(home).is_idle() {
            return;
        }
        let idle = cpu::all().find(|c| c.is_idle() && entity.affinity.contains(c.index as u16));
        if let Some(idle) = idle {
            vcpu.cpu.store(idle.index, Ordering::Release);
        }
    });
}

/// Takes a virtual CPU that may no longer run out of its queue; the CPU that runs it is told.
/// Returns whether no CPU has it any more.
pub fn withdraw(vcpu: &Vcpu) -> bool {
    let parked = with_queue(vcpu, |_, queue| {
        if let Some(entity) = queue.run.dequeue(vcpu.slot as u16) {
            vcpu.entity.set(Some(entity));
            vcpu.enter_runstate(area::RUNSTATE_OFFLINE, time::now());
        }
        // One that is chosen, runs, or is on its way to another CPU has its entity there.
        vcpu.entity.get().is_some() && !vcpu.on_cpu.load(Ordering::Acquire)
    });
    if !parked {
        kick(cpu::cpu(vcpu.cpu.load(Ordering::Acquire)));
    }
    parked
}

/// Withdraws a virtual CPU of a partition that stands still, and waits until no CPU has it. Only
/// for the lead monitor's caller, which no other CPU waits for.
pub fn expel(vcpu: &Vcpu) {
    while !withdraw(vcpu) {
        relax();
    }
}

/// The virtual CPU that runs here waits for an event, until `deadline` at most.
pub fn block(vcpu: &Vcpu, deadline: Option<u64>) {
    vcpu.state.store(run::BLOCKED, Ordering::SeqCst);
    if let Some(deadline) = deadline {
        let home = cpu::this().index;
        queue(home).lock().timers.set(2 * vcpu.slot as u16 + 1, deadline);
    }
    cpu::this().reschedule.store(true, Ordering::Release);
}

/// The virtual CPU that runs here lets others go first.
pub fn yield_now() {
    queue(cpu::this().index).lock().run.yield_current(time::now());
    cpu::this().reschedule.store(true, Ordering::Release);
}

/// How often [`should_yield`] is asked for each time that it looks at the clock. A step of any
/// work takes a few microseconds at most.
const LOOKS: u32 = 8;

/// Whether long work for the present virtual CPU should stop and be continued later.
pub fn should_yield() -> bool {
    let local = cpu::this();
    let turn = local.turns.get().wrapping_add(1);
    local.turns.set(turn);
    local.reschedule.load(Ordering::Relaxed)
        || turn.is_multiple_of(LOOKS) && time::now() >= local.timer.get()
}

/// Sets or cancels the single-shot timer of the virtual CPU that runs here.
pub fn set_timer(vcpu: &Vcpu, deadline: Option<u64>) {
    let timer = 2 * vcpu.slot as u16;
    let here = cpu::this().index;
    let before = vcpu.timer_cpu.get();
    if before != here {
        queue(before).lock().timers.cancel(timer);
        vcpu.timer_cpu.set(here);
    }
    let mut held = queue(here).lock();
    match deadline {
        Some(deadline) => held.timers.set(timer, deadline),
        None => held.timers.cancel(timer),
    };
    program_timer(&held);
}

fn cancel_timers(vcpu: &Vcpu) {
    for local in cpu::all() {
        let mut held = queue(local.index).lock();
        held.timers.cancel(2 * vcpu.slot as u16);
        held.timers.cancel(2 * vcpu.slot as u16 + 1);
    }
}

/// Sets this CPU's timer to the next thing due.
fn program_timer(queue: &Queue) {
    let local = cpu::this();
    let timer = queue.timers.next().map_or(u64::MAX, |(deadline, _)| deadline);
    let next = timer.min(queue.run.slice_end().unwrap_or(u64::MAX));
    if local.timer.get() != next {
        local.timer.set(next);
        platform::set_deadline((next != u64::MAX).then_some(next));
    }
}

/// The CPU's timer fired: expired timers raise their events, and the slice may be over.
pub fn timer_interrupt() {
    let local = cpu::this();
    local.timer.set(u64::MAX);
    let now = time::now();
    loop {
        let expired = queue(local.index).lock().timers.pop_expired(now);
        let Some(timer) = expired else { break };
        let Some(vcpu) = in_slot(timer / 2) else {
            continue;
        };
        if timer % 2 == 0 {
            delivery::raise_virq(vcpu, VIRQ_TIMER);
        } else {
            wake(vcpu);
        }
    }
    let mut held = queue(local.index).lock();
    if held.run.should_preempt(now) {
        local.reschedule.store(true, Ordering::Release);
    }
    program_timer(&held);
}

/// Decides who runs on this CPU, and makes `registers` that one's.
pub fn schedule(registers: &mut Registers) {
    let local = cpu::this();
    loop {
        let before = cpu::current();
        let next = choose(local, before);
        match (before, next) {
            (Some(before), Some(next)) if core::ptr::eq(before, next) => return,
            (_, Some(next)) => {
                if let Some(before) = before {
                    switch_out(local, before, registers);
                }
                switch_in(local, next, registers);
                return;
            }
            (before, None) => {
                if let Some(before) = before {
                    switch_out(local, before, registers);
                }
                idle(local);
            }
        }
    }
}

/// The next virtual CPU for this CPU, by its queue or from another's.
fn choose(local: &CpuLocal, before: Option<&'static Vcpu>) -> Option<&'static Vcpu> {
    let now = time::now();
    let mut held = queue(local.index).lock();
    if let Some(vcpu) = before {
        let goes_on = vcpu.partition.runs() && vcpu.state.load(Ordering::SeqCst) == run::RUNNABLE;
        if !goes_on {
            if let Some(entity) = held.run.block_current(now) {
                vcpu.entity.set(Some(entity));
            }
        }
    }
    let mut next = pick(&mut held, now);
    if next.is_none() {
        drop(held);
        let stolen = steal(local);
        held = queue(local.index).lock();
        if let Some(entity) = stolen {
            let _ = held.run.enqueue(entity, now);
        }
        next = pick(&mut held, now);
    }
    program_timer(&held);
    next
}

/// The next in the queue that may run; those that may not any more are parked.
fn pick(queue: &mut Queue, now: u64) -> Option<&'static Vcpu> {
    loop {
        let vcpu = in_slot(queue.run.pick_next(now)?)?;
        if vcpu.partition.runs() && vcpu.state.load(Ordering::SeqCst) == run::RUNNABLE {
            return Some(vcpu);
        }
        vcpu.entity.set(queue.run.block_current(now));
    }
}

/// Takes a waiting virtual CPU from the longest queue.
fn steal(local: &CpuLocal) -> Option<Entity> {
    let victim = cpu::all()
        .filter(|c| c.index != local.index && c.is_online())
        .max_by_key(|c| queue(c.index).lock().run.len())?;
    let mut held = queue(victim.index).lock();
    let entity = held.run.steal(local.index as u16)?;
    if let Some(vcpu) = in_slot(entity.slot) {
        vcpu.cpu.store(local.index, Ordering::Release);
    }
    Some(entity)
}

fn switch_out(local: &CpuLocal, vcpu: &'static Vcpu, registers: &Registers) {
    let now = time::now();
    local.busy.fetch_add(now.saturating_sub(local.since.get()), Ordering::Relaxed);
    local.since.set(now);
    vcpu.registers.set(*registers);
    vcpu.segments.set(hardware::save_segments());
    hardware::save_extended(vcpu);
    let state = match vcpu.state.load(Ordering::Acquire) {
        run::BLOCKED => area::RUNSTATE_BLOCKED,
        run::DOWN => area::RUNSTATE_OFFLINE,
        _ => area::RUNSTATE_RUNNABLE,
    };
    vcpu.enter_runstate(state, now);
    local.set_current(None);
    hardware::load_root(platform::idle_root() >> 12);
    local.loaded.store(0, Ordering::SeqCst);
    vcpu.on_cpu.store(false, Ordering::Release);
}

fn switch_in(local: &CpuLocal, vcpu: &'static Vcpu, registers: &mut Registers) {
    // The CPU that ran it last may still be saving its registers.
    while vcpu.on_cpu.swap(true, Ordering::AcqRel) {
        relax();
    }
    local.switches.fetch_add(1, Ordering::Relaxed);
    let now = time::now();
    local.idle.fetch_add(now.saturating_sub(local.since.get()), Ordering::Relaxed);
    local.since.set(now);
    vcpu.enter_runstate(area::RUNSTATE_RUNNING, now);
    local.set_current(Some(vcpu));
    local.loaded.store(vcpu.partition.number, Ordering::SeqCst);
    hardware::load_root(vcpu.root());
    descriptors::load_gdt(vcpu);
    descriptors::load_ldt(vcpu);
    hardware::load_segments(&vcpu.segments.get());
    hardware::load_extended(vcpu);
    hardware::load_debug(&vcpu.debug.get());
    *registers = vcpu.registers.get();
}

fn idle(local: &CpuLocal) {
    loop {
        local.note_quiet();
        cpu::serve_flush();
        if local.reschedule.swap(false, Ordering::AcqRel)
            || !queue(local.index).lock().run.is_empty()
        {
            return;
        }
        hardware::halt();
    }
}

/// A CPU without a partition to run begins here; `registers` is the frame at the top of its stack.
pub fn begin(registers: &mut Registers) {
    let local = cpu::this();
    local.since.set(time::now());
    local.set_online();
    schedule(registers);
}
