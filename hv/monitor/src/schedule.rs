//! Chooses which virtual CPU each physical CPU runs, and keeps its timers.
//!
//! Every virtual CPU belongs to one physical CPU's queue at a time (`Vcpu::cpu`). Its scheduling
//! state and its runstate change only under that queue's lock. No CPU holds the locks of two
//! queues. Interrupts and other CPUs only set `CpuLocal::reschedule`; [`schedule`] decides, on the
//! way back to ring 3. The pure crate `scheduler` has the rules of fairness.

use core::sync::atomic::{AtomicPtr, Ordering};

use pv_abi::{
    uv::database::MAX_MACHINE_VCPUS,
    xen::{events::VIRQ_TIMER, time as area},
};
use scheduler::{Entity, FAR, Group, Leads, RunQueue, TimerQueue};

use crate::{
    context::Registers,
    cpu::{self, CpuLocal, MAX_CPUS},
    delivery, descriptors, device, hardware,
    lock::{SpinLock, relax},
    platform, time,
    vcpu::{self, Vcpu, run},
};

/// Virtual CPUs that the whole machine has room for.
pub const SLOTS: usize = MAX_MACHINE_VCPUS as usize;

/// A CPU's run queue and timers. Timer `2 n` is the single-shot timer of slot `n`, and `2 n + 1` is
/// the timeout of its poll.
struct Queue {
    run: RunQueue<'static, SLOTS>,
    timers: TimerQueue<{ 2 * SLOTS }>,
}

static QUEUES: [SpinLock<Queue>; MAX_CPUS] =
    [const { SpinLock::new(Queue { run: RunQueue::new(), timers: TimerQueue::new() }) }; MAX_CPUS];

static VCPUS: [AtomicPtr<Vcpu>; SLOTS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; SLOTS];

fn queue(cpu: u32) -> &'static SpinLock<Queue> {
    &QUEUES[cpu as usize % MAX_CPUS]
}

/// The virtual CPU in a slot.
fn in_slot(slot: u16) -> Option<&'static Vcpu> {
    vcpu::at(VCPUS.get(usize::from(slot))?.load(Ordering::Acquire))
}

/// The virtual CPUs of all partitions.
pub fn all_vcpus() -> impl Iterator<Item = &'static Vcpu> {
    VCPUS.iter().filter_map(|slot| vcpu::at(slot.load(Ordering::Acquire)))
}

/// Finds a free slot, which `claim` marks as taken until [`register`] fills it.
pub fn take_slot() -> Option<u16> {
    let claimed = core::ptr::dangling_mut::<Vcpu>();
    VCPUS
        .iter()
        .position(|slot| {
            let null = core::ptr::null_mut();
            slot.compare_exchange(null, claimed, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
        .and_then(|slot| u16::try_from(slot).ok())
}

/// Fills the slot of a virtual CPU, and chooses a CPU for it to start on.
pub fn register(vcpu: &'static Vcpu) {
    let group = &vcpu.partition.group;
    vcpu.entity.set(Some(Entity::new(vcpu.slot, group)));
    vcpu.cpu.store(least_loaded(group), Ordering::Relaxed);
    let pointer = core::ptr::from_ref(vcpu).cast_mut();
    VCPUS[usize::from(vcpu.slot) % SLOTS].store(pointer, Ordering::Release);
}

/// Frees a virtual CPU's slot.
pub fn unregister(vcpu: &Vcpu) {
    cancel_timers(vcpu);
    VCPUS[usize::from(vcpu.slot) % SLOTS].store(core::ptr::null_mut(), Ordering::Release);
}

fn least_loaded(group: &Group) -> u32 {
    cpu::all()
        .filter(|c| c.is_online() && group.allows(c.index))
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

/// Calls `act` while no CPU can change the scheduling state or the runstate of a virtual CPU.
pub fn while_still<R>(vcpu: &Vcpu, act: impl FnOnce() -> R) -> R {
    with_queue(vcpu, |_, _| act())
}

/// Makes a CPU take a new scheduling decision.
pub fn kick(local: &CpuLocal) {
    local.reschedule.store(true, Ordering::Release);
    if local.index != cpu::this().index {
        platform::send_ipi(local.index, platform::VECTOR_RESCHEDULE);
    }
}

/// Wakes a virtual CPU, if it waits for events.
pub fn wake(vcpu: &Vcpu) {
    if vcpu.state.load(Ordering::SeqCst) == run::BLOCKED && end_wait(vcpu) {
        make_runnable(vcpu);
    }
}

/// If the virtual CPU waits, ends the wait, cancels the timer and clears the port of a poll, and
/// returns `true`. The function holds the lock of the virtual CPU's queue throughout. So the virtual
/// CPU cannot begin another wait whose timer or port this would clear.
pub fn end_wait(vcpu: &Vcpu) -> bool {
    let (from, to) = (run::BLOCKED, run::RUNNABLE);
    with_queue(vcpu, |_, queue| {
        let ended =
            vcpu.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::Acquire).is_ok();
        if ended {
            queue.timers.cancel(poll_timer(vcpu));
            vcpu.polls.store(0, Ordering::Release);
        }
        ended
    })
}

/// Number of the timer for the timeout of a poll.
fn poll_timer(vcpu: &Vcpu) -> u16 {
    2 * vcpu.slot + 1
}

/// Enqueues a virtual CPU that may run, unless its partition stands still.
pub fn make_runnable(vcpu: &Vcpu) {
    find_place(vcpu);
    let look = with_queue(vcpu, |home, queue| {
        if !is_ready(vcpu) {
            return None;
        }
        let entity = vcpu.entity.get()?;
        let now = time::now();
        let look = queue.run.enqueue(entity, now).ok()?;
        vcpu.entity.set(None);
        vcpu.enter_runstate(area::RUNSTATE_RUNNABLE, now);
        // What runs here may go on: only the end of its slice has come nearer.
        if look && home == cpu::this().index && !queue.run.should_preempt(now) {
            program_timer(queue);
            return None;
        }
        look.then_some(home)
    });
    if let Some(home) = look {
        kick(cpu::cpu(home));
    }
}

/// Lets an initialised virtual CPU be scheduled.
pub fn bring_up(target: &Vcpu) {
    let (from, to) = (run::DOWN, run::RUNNABLE);
    if target.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        make_runnable(target);
    }
}

/// Returns whether the states of a virtual CPU and its partition let it run.
fn is_ready(vcpu: &Vcpu) -> bool {
    vcpu.partition.runs() && vcpu.state.load(Ordering::SeqCst) == run::RUNNABLE
}

/// Chooses the CPU of a virtual CPU that is in no queue: its present CPU if that is idle, else an
/// idle CPU, else its present CPU if allowed, else the least loaded one.
fn find_place(vcpu: &Vcpu) {
    let group = &vcpu.partition.group;
    let allowed = |c: &&CpuLocal| group.allows(c.index);
    let home = cpu::cpu(vcpu.cpu.load(Ordering::Acquire));
    if allowed(&home) && home.is_idle() {
        return;
    }
    let place = match cpu::all().filter(allowed).find(|c| c.is_idle()) {
        Some(idle) => idle.index,
        None if allowed(&home) => return,
        None => least_loaded(group),
    };
    with_queue(vcpu, |_, _| {
        if let Some(entity) = vcpu.entity.get() {
            vcpu.entity.set(Some(entity.uprooted()));
            vcpu.cpu.store(place, Ordering::Release);
        }
    });
}

/// Applies changed limits of the partition to a virtual CPU: a waiting one is placed anew, and the
/// CPU of a running one takes a new decision.
pub fn reconsider(vcpu: &Vcpu) {
    let waited = with_queue(vcpu, |_, queue| {
        let entity = queue.run.dequeue(vcpu.slot);
        entity.inspect(|entity| vcpu.entity.set(Some(*entity))).is_some()
    });
    if waited {
        make_runnable(vcpu);
    } else {
        kick(cpu::cpu(vcpu.cpu.load(Ordering::Acquire)));
    }
}

/// Dequeues a virtual CPU that may no longer run, or notifies the CPU that runs it. Returns whether
/// no CPU has it any more.
pub fn withdraw(vcpu: &Vcpu) -> bool {
    let parked = with_queue(vcpu, |_, queue| {
        if let Some(entity) = queue.run.dequeue(vcpu.slot) {
            vcpu.entity.set(Some(entity));
            vcpu.enter_runstate(area::RUNSTATE_OFFLINE, time::now());
        }
        // A virtual CPU that is chosen, runs, or moves to another CPU has its entity elsewhere.
        vcpu.entity.get().is_some() && !vcpu.on_cpu.load(Ordering::Acquire)
    });
    if !parked {
        kick(cpu::cpu(vcpu.cpu.load(Ordering::Acquire)));
    }
    parked
}

/// Withdraws a virtual CPU of a stopped partition, and waits until no CPU has it. Only calls of the
/// lead monitor may use this: no other CPU waits for their caller.
pub fn expel(vcpu: &Vcpu) {
    while !withdraw(vcpu) {
        relax();
    }
}

/// Blocks the virtual CPU that runs on this CPU until an event comes, or until `deadline`.
pub fn block(vcpu: &Vcpu, deadline: Option<u64>) {
    // The timer is set first: after the store below, others may end the wait.
    if let Some(deadline) = deadline {
        let home = cpu::this().index;
        queue(home).lock().timers.set(poll_timer(vcpu), deadline.min(FAR));
    }
    vcpu.state.store(run::BLOCKED, Ordering::SeqCst);
    cpu::this().reschedule.store(true, Ordering::Release);
}

/// Unmasks events and waits for one. Returns at once if an event is pending.
pub fn wait_for_event(vcpu: &Vcpu) {
    vcpu.info().upcall_mask.store(0, Ordering::SeqCst);
    block(vcpu, None);
    // An event that came before the state changed has not woken the virtual CPU.
    if vcpu.event_pending() {
        wake(vcpu);
    }
}

/// Makes the virtual CPU that runs on this CPU let others run first.
pub fn yield_now() {
    queue(cpu::this().index).lock().run.yield_current(time::now());
    cpu::this().reschedule.store(true, Ordering::Release);
}

/// Sets or cancels the single-shot timer of the virtual CPU that runs on this CPU.
pub fn set_timer(vcpu: &Vcpu, deadline: Option<u64>) {
    let timer = 2 * vcpu.slot;
    let here = cpu::this().index;
    let before = vcpu.timer_cpu.get();
    if before != here {
        queue(before).lock().timers.cancel(timer);
        vcpu.timer_cpu.set(here);
    }
    let mut held = queue(here).lock();
    match deadline {
        Some(deadline) => held.timers.set(timer, deadline.min(FAR)),
        None => held.timers.cancel(timer),
    };
    program_timer(&held);
}

fn cancel_timers(vcpu: &Vcpu) {
    for local in cpu::all() {
        let mut held = queue(local.index).lock();
        held.timers.cancel(2 * vcpu.slot);
        held.timers.cancel(poll_timer(vcpu));
    }
}

/// Sets this CPU's hardware timer to the earliest deadline.
fn program_timer(queue: &Queue) {
    let local = cpu::this();
    let timer = queue.timers.next().map_or(u64::MAX, |(deadline, _)| deadline);
    let next = timer.min(queue.run.next_event().unwrap_or(u64::MAX));
    let next = next.min(device::next_release());
    if local.timer.get() != next {
        local.timer.set(next);
        platform::set_deadline((next != u64::MAX).then_some(next));
    }
}

/// Maximum number of expired timers that one interrupt handles.
const EXPIRED: u32 = 32;

/// Handles the CPU's timer interrupt: raises the events of expired timers; the time slice may be
/// over.
pub fn timer_interrupt() {
    let local = cpu::this();
    local.timer.set(u64::MAX);
    let now = time::now();
    device::release_held(now);
    // The interrupt comes again at once if expired timers are left.
    for _ in 0..EXPIRED {
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

/// Decides which virtual CPU runs on this CPU, and puts its registers into `registers`.
pub fn schedule(registers: &mut Registers) {
    let local = cpu::this();
    loop {
        let before = vcpu::current();
        let next = choose(local, before);
        if before.zip(next).is_some_and(|(before, next)| core::ptr::eq(before, next)) {
            return;
        }
        if let Some(before) = before {
            switch_out(local, before, registers);
        }
        match next {
            Some(next) => return switch_in(local, next, registers),
            None => idle(local),
        }
    }
}

/// The result of a look at the queue.
enum Decision {
    Run(&'static Vcpu),
    /// This virtual CPU may no longer run here, and must be placed elsewhere first.
    Displaced(&'static Vcpu),
    Idle,
}

/// The next virtual CPU for this CPU, from its queue or from another CPU's.
fn choose(local: &CpuLocal, mut before: Option<&'static Vcpu>) -> Option<&'static Vcpu> {
    balance(local);
    loop {
        let mut held = queue(local.index).lock();
        let decision = decide(local, &mut held, &mut before, time::now());
        program_timer(&held);
        drop(held);
        match decision {
            Decision::Run(vcpu) => return Some(vcpu),
            Decision::Displaced(vcpu) => make_runnable(vcpu),
            Decision::Idle if steal(local) => {}
            Decision::Idle => return None,
        }
    }
}

/// Chooses from this CPU's queue. `before` is the virtual CPU that runs here, or `None` once it has
/// left the queue.
fn decide(
    local: &CpuLocal,
    queue: &mut Queue,
    before: &mut Option<&'static Vcpu>,
    now: u64,
) -> Decision {
    let stays = |vcpu: &Vcpu| is_ready(vcpu) && vcpu.partition.group.allows(local.index);
    let mut next = before.filter(|vcpu| !stays(vcpu)).or_else(|| pick(queue, now));
    while let Some(vcpu) = next {
        if stays(vcpu) {
            break;
        }
        vcpu.entity.set(queue.run.block_current(now));
        before.take_if(|before| core::ptr::eq(*before, vcpu));
        vcpu.enter_runstate(resting(vcpu), now);
        if is_ready(vcpu) {
            return Decision::Displaced(vcpu);
        }
        next = pick(queue, now);
    }
    if let Some(before) =
        before.take_if(|before| next.is_none_or(|next| !core::ptr::eq(*before, next)))
    {
        before.enter_runstate(area::RUNSTATE_RUNNABLE, now);
    }
    let Some(next) = next else {
        return Decision::Idle;
    };
    if next.runstate.load(Ordering::Relaxed) != area::RUNSTATE_RUNNING {
        next.enter_runstate(area::RUNSTATE_RUNNING, now);
    }
    Decision::Run(next)
}

fn pick(queue: &mut Queue, now: u64) -> Option<&'static Vcpu> {
    in_slot(queue.run.pick_next(now)?)
}

/// The runstate of a virtual CPU that is in no queue.
fn resting(vcpu: &Vcpu) -> u32 {
    match vcpu.state.load(Ordering::Acquire) {
        run::BLOCKED => area::RUNSTATE_BLOCKED,
        run::RUNNABLE if vcpu.partition.runs() => area::RUNSTATE_RUNNABLE,
        _ => area::RUNSTATE_OFFLINE,
    }
}

/// Moves a waiting virtual CPU from another queue into this CPU's, which is empty.
fn steal(local: &CpuLocal) -> bool {
    let count = platform::cpu_count();
    let mut others = (1..count).map(|n| (local.index + n) % count);
    let found = others.find_map(|victim| {
        let mut held = queue(victim).lock();
        let entity = held.run.steal(local.index)?;
        assign(&entity, local.index);
        Some(entity)
    });
    found.is_some_and(|entity| queue(local.index).lock().run.enqueue(entity, time::now()).is_ok())
}

/// Migrates a waiting virtual CPU from this queue to a CPU whose virtual time is ahead.
fn balance(local: &CpuLocal) {
    let Some(position) = queue(local.index).lock().run.balance_from(time::now()) else {
        return;
    };
    let mut leads = Leads::<MAX_CPUS>::default();
    for other in cpu::all().filter(|c| c.index != local.index && c.is_online()) {
        leads.note(other.index, queue(other.index).lock().run.lead(position, time::now()));
    }
    let mut held = queue(local.index).lock();
    let Some((entity, to)) = held.run.give(&leads) else {
        return;
    };
    assign(&entity, to);
    drop(held);
    if queue(to).lock().run.enqueue(entity, time::now()) == Ok(true) {
        kick(cpu::cpu(to));
    }
}

/// Makes `cpu` the CPU of a virtual CPU that was taken out of a queue, whose lock is still held.
fn assign(entity: &Entity<'_>, cpu: u32) {
    if let Some(vcpu) = in_slot(entity.slot) {
        vcpu.cpu.store(cpu, Ordering::Release);
    }
}

fn switch_out(local: &CpuLocal, vcpu: &'static Vcpu, registers: &Registers) {
    let now = time::now();
    local.busy.fetch_add(now.saturating_sub(local.since.get()), Ordering::Relaxed);
    local.since.set(now);
    vcpu.registers.set(*registers);
    vcpu.segments.set(hardware::save_segments());
    hardware::save_extended(vcpu);
    local.clear_current();
    hardware::load_idle_root();
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
    vcpu::set_current(local, vcpu);
    local.loaded.store(vcpu.partition.number, Ordering::SeqCst);
    hardware::forget_branches(local, vcpu.partition.serial);
    hardware::load_root(vcpu);
    descriptors::load_gdt(vcpu);
    descriptors::load_ldt(vcpu);
    hardware::load_segments(&vcpu.segments.get());
    hardware::load_fsgsbase(local, vcpu);
    hardware::load_extended(vcpu);
    hardware::load_debug(&vcpu.debug.get());
    *registers = vcpu.registers.get();
}

fn idle(local: &CpuLocal) {
    loop {
        local.note_quiet();
        cpu::serve_flush();
        let is_due = local.reschedule.swap(false, Ordering::AcqRel);
        if is_due || queue(local.index).lock().run.waiting() > 0 {
            return;
        }
        hardware::halt();
    }
}

/// The entry of a CPU that has no partition to run yet; `registers` is the frame at the top of its
/// stack.
pub fn begin(registers: &mut Registers) {
    let local = cpu::this();
    local.since.set(time::now());
    local.set_online();
    schedule(registers);
}
