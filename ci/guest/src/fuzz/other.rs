//! The second virtual CPU, which executes the other steps of a program while the first one executes
//! its own.
//!
//! The first virtual CPU gives the second one a job, and waits for its end before it checks or
//! restores anything, so each program begins from the same state. The interleaving in between is
//! not determined: both CPUs work on the same pages, tables, ports and grants. Each wait for the
//! other CPU is bounded. After that, the first CPU ends the second one's step by an NMI, and
//! restarts it. The second CPU does the same if the first one waits for an event that can no longer
//! come, because a step of the second closed its port.
#![expect(unsafe_code, reason = "a job that one virtual CPU hands to the other")]

use super::attempt::{self, Outcome};
use super::stage::{Actor, Stage, other_stack};
use super::time;
use crate::memory;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use fuzz_programs::Step;
use partition_runtime::hypercall::{Errno, call, yield_now};
use pv_abi::xen::descriptors::{FLAT_RING3_CS64, FLAT_RING3_SS};
use pv_abi::xen::hypercall::{GET_DEBUGREG, VCPU_OP};
use pv_abi::xen::vcpu::{self, VGCF_IN_KERNEL, VcpuGuestContext};
use zerocopy::FromZeros;

/// The number of the second virtual CPU.
const NUMBER: u64 = 1;
/// CR4.TSD, a bit that kernels may choose.
const CR4_TSD: u64 = 1 << 2;
/// The address of a breakpoint that the second virtual CPU starts with, and that is not enabled.
const START: u64 = 0x1234_5000;
/// The longest time in nanoseconds for a step once the first virtual CPU is done.
const STEP_TIME: u64 = 50_000_000;
/// The time in nanoseconds after which the second, once it is done, ends a wait of the first
/// virtual CPU.
const WAIT_TIME: u64 = 500_000_000;
/// The time in nanoseconds after which the second is given up.
const LOST: u64 = 20_000_000_000;

/// Steps for the second virtual CPU.
struct Job<'a> {
    stage: &'a Stage,
    steps: Vec<&'a Step>,
    outcomes: Vec<Outcome>,
}

/// There is no job.
const IDLE: u32 = 0;
/// The second virtual CPU has the job.
const HANDED: u32 = 1;
/// The job is done, and the first virtual CPU has not taken it back yet.
const DONE: u32 = 2;

static PHASE: AtomicU32 = AtomicU32::new(IDLE);
static JOB: AtomicPtr<Job<'static>> = AtomicPtr::new(core::ptr::null_mut());
static STARTED: AtomicBool = AtomicBool::new(false);

fn operation(command: u64, cpu: u64) -> Result<u64, Errno> {
    // SAFETY: the operations used here touch no memory.
    unsafe { call(VCPU_OP, [command, cpu, 0, 0, 0]) }
}

/// Starts the second virtual CPU; `false` if it does not exist.
pub fn start() -> bool {
    if operation(vcpu::IS_UP, NUMBER).is_err() {
        return false;
    }
    let mut context = Box::new(VcpuGuestContext::new_zeroed());
    context.flags = VGCF_IN_KERNEL;
    context.user_regs.rip = attempt::other_start();
    (context.user_regs.cs, context.user_regs.ss) = (FLAT_RING3_CS64, FLAT_RING3_SS);
    context.user_regs.rflags = 0x202;
    context.user_regs.rsp = other_stack();
    let root = memory::machine_frame((memory::start().pt_base - memory::BASE) / memory::PAGE);
    (context.ctrlreg[4], context.debugreg[1], context.debugreg[2]) = (CR4_TSD, START, u64::MAX / 2);
    context.ctrlreg[3] = root.unwrap_or(0) << 12;
    memory::mask_upcalls(NUMBER as usize);
    let arguments = [vcpu::INITIALISE, NUMBER, (&raw const *context) as u64, 0, 0];
    // SAFETY: the operation reads the context, which names the start and the stack of the CPU.
    let made = unsafe { call(VCPU_OP, arguments) };
    let started = made.and_then(|_| operation(vcpu::UP, NUMBER)).is_ok();
    STARTED.store(started, Ordering::Relaxed);
    started
}

/// Restarts the second virtual CPU, if a step stopped it.
pub fn revive() {
    if STARTED.load(Ordering::Relaxed) {
        let _ = operation(vcpu::UP, NUMBER);
    }
}

/// Makes the second virtual CPU execute steps while the first one runs `own`; returns the outcomes
/// of `steps`. `None` if the second does not come back.
pub fn beside(stage: &Stage, steps: Vec<&Step>, own: impl FnOnce()) -> Option<Vec<Outcome>> {
    if steps.is_empty() || !STARTED.load(Ordering::Relaxed) {
        own();
        return Some(Vec::new());
    }
    let outcomes = Vec::with_capacity(steps.len());
    // If the second virtual CPU does not come back, it keeps the memory.
    let job = Box::into_raw(Box::new(Job { stage, steps, outcomes }));
    JOB.store(job.cast(), Ordering::Release);
    PHASE.store(HANDED, Ordering::Release);
    own();
    let begin = time::now();
    let mut next = begin + STEP_TIME;
    while PHASE.load(Ordering::Acquire) != DONE {
        let now = time::now();
        if now > begin + LOST {
            return None;
        }
        if now > next {
            revive();
            let _ = operation(vcpu::SEND_NMI, NUMBER);
            next = now + STEP_TIME;
        }
        yield_now();
    }
    PHASE.store(IDLE, Ordering::Release);
    // SAFETY: made above, and the second virtual CPU is done with it.
    Some(unsafe { Box::from_raw(job) }.outcomes)
}

/// Checks that the second virtual CPU starts with the control and debug registers of its context, as
/// far as the calls that set them would accept their values.
fn check_start() {
    let cr4: u64;
    // SAFETY: reads a register, by an instruction that the host emulates.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack)) };
    assert_eq!(cr4 & CR4_TSD, CR4_TSD, "CR4");
    for (register, value) in [(0, 0), (1, START), (2, 0), (6, 0xffff_0ff0), (7, 0x400)] {
        // SAFETY: the operation touches no memory.
        let found = unsafe { call(GET_DEBUGREG, [register, 0, 0, 0, 0]) };
        assert_eq!(found, Ok(value), "debug register {register}");
    }
}

/// The main loop of the second virtual CPU.
pub extern "C" fn main() -> ! {
    check_start();
    let mut actor = Actor::new(NUMBER as usize);
    actor.restore();
    let mut since = 0;
    loop {
        let now = time::now();
        match PHASE.load(Ordering::Acquire) {
            HANDED => {
                // SAFETY: the job belongs to this virtual CPU until it is done, and lives until
                // then.
                if let Some(job) = unsafe { JOB.load(Ordering::Acquire).as_mut() } {
                    for step in &job.steps {
                        job.outcomes.push(job.stage.perform(&mut actor, step));
                    }
                }
                actor.restore();
                since = time::now();
                PHASE.store(DONE, Ordering::Release);
            }
            DONE if now > since + WAIT_TIME => {
                let _ = operation(vcpu::SEND_NMI, 0);
                since = now;
            }
            _ => {}
        }
        yield_now();
    }
}
