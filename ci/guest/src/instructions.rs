//! Tests privileged instructions that a kernel may use although it runs in ring 3, their refusals,
//! and FSGSBASE, which is available only to the kernel that enabled it.
//!
//! Each attempt can recover: a trap in it ends the attempt, not the guest.
#![expect(unsafe_code, reason = "privileged instructions")]

use crate::{calls, memory};
use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::sync::atomic::{AtomicU64, Ordering};
use partition_runtime::time;
use partition_runtime::traps::Trap;

/// The address at which an attempt continues after a trap; 0 outside of an attempt.
static RESUME: AtomicU64 = AtomicU64::new(0);
/// The stack pointer for that address.
static STACK: AtomicU64 = AtomicU64::new(0);
/// The vector of the last trap; [`NONE`] if there was none.
static VECTOR: AtomicU64 = AtomicU64::new(NONE);
const NONE: u64 = u64::MAX;

/// Ends the attempt in which the trap occurred; returns if no attempt is under way.
pub fn resume(trap: &Trap) {
    let place = RESUME.swap(0, Ordering::Relaxed);
    if place == 0 {
        return;
    }
    VECTOR.store(trap.vector, Ordering::Relaxed);
    // SAFETY: an attempt that has begun and not ended lies below on this stack.
    unsafe {
        asm!("mov rsp, [rip + {stack}]", "jmp {place}", stack = sym STACK, place = in(reg) place,
             options(noreturn));
    }
}

/// Executes an instruction with given values of rax and rdi; returns rax, or the vector of the
/// trap.
macro_rules! attempt {
    ($code:literal, $rax:expr, $rdi:expr) => {{
        let (mut rax, rdi): (u64, u64) = ($rax, $rdi);
        VECTOR.store(NONE, Ordering::Relaxed);
        // SAFETY: what the instruction writes is the caller's, and a trap goes on at the end.
        unsafe {
            asm!(
                "push rbx", "push rbp", "push r12", "push r13", "push r14", "push r15",
                "lea r8, [rip + 2f]",
                "mov [rip + {resume}], r8",
                "mov [rip + {stack}], rsp",
                $code,
                "2: mov qword ptr [rip + {resume}], 0",
                "pop r15", "pop r14", "pop r13", "pop r12", "pop rbp", "pop rbx",
                resume = sym RESUME,
                stack = sym STACK,
                inout("rax") rax,
                inout("rdi") rdi => _,
                clobber_abi("C"),
            );
        }
        match VECTOR.load(Ordering::Relaxed) {
            NONE => Ok(rax),
            vector => Err(vector),
        }
    }};
}

const DEBUG: u64 = 1;
const INVALID_OPCODE: u64 = 6;
const GENERAL_PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;

const CR4_DE: u64 = 1 << 3;
const CR4_FSGSBASE: u64 = 1 << 16;
const MILLISECOND: u64 = 1_000_000;

/// How often the guest waits while it checks state that is switched with the guest.
const TURNS: u32 = 100;

/// Checks everything; panics if a check fails.
pub fn check() {
    memory::upcall_mask().store(1, Ordering::Release);
    let timer = Timer::new();
    debug_registers(&timer);
    tables();
    bases(&timer);
}

/// Uses the base of FS for ever, with FSGSBASE on.
pub fn keep_bases() -> ! {
    memory::upcall_mask().store(1, Ordering::Release);
    let timer = Timer::new();
    set_cr4(CR4_FSGSBASE);
    loop {
        let value = 0x1000_0000 + (memory::now() & 0xff_f000);
        assert_eq!(attempt!("wrfsbase rax", value, 0), Ok(value));
        timer.wait();
        assert_eq!(attempt!("rdfsbase rax", 0, 0), Ok(value), "the base of FS after a wait");
    }
}

/// The port of the timer's event.
struct Timer(u32);

impl Timer {
    fn new() -> Self {
        let port = calls::bind_timer().expect("the timer");
        memory::unmask(port);
        Self(port)
    }

    /// Yields the CPU for a millisecond.
    fn wait(&self) {
        memory::expect(self.0);
        time::set_timer(memory::now() + MILLISECOND).expect("setting the timer");
        memory::wait();
    }
}

static WATCHED: AtomicU64 = AtomicU64::new(0);

fn debug_registers(timer: &Timer) {
    let watched = WATCHED.as_ptr() as u64;
    // A data breakpoint on writes of 8 bytes, in register 0.
    const ON: u64 = 1 | 0b1001 << 16;
    assert_eq!(attempt!("mov dr0, rax", watched, 0), Ok(watched));
    assert_eq!(attempt!("mov rax, dr0", 0, 0), Ok(watched));
    for register_4 in [
        attempt!("mov rax, dr6", 0, 0),
        attempt!(".byte 0x0f, 0x21, 0xe0", 0, 0), // mov rax, dr4
    ] {
        assert_eq!(register_4.map(|value| value & 0xf), Ok(0), "debug status");
    }
    assert_eq!(attempt!("mov dr7, rax", ON, 0), Ok(ON));
    assert_eq!(attempt!("mov rax, dr7", 0, 0), Ok(ON | 0x400));
    let write = || attempt!("mov [rdi], rax", 1, watched);
    assert_eq!(write(), Err(DEBUG), "a breakpoint");
    assert_eq!(attempt!("mov rax, dr6", 0, 0).map(|value| value & 0xf), Ok(1));
    assert_eq!(attempt!("mov dr6, rax", 0, 0), Ok(0));
    for _ in 0..10 {
        timer.wait();
        assert_eq!(write(), Err(DEBUG), "a breakpoint after a wait");
    }
    assert_eq!(attempt!("mov dr7, rax", 0, 0), Ok(0));
    assert_eq!(write(), Ok(1), "no breakpoint");
    // These addresses are the monitor's, or not canonical.
    for address in [0xffff_8000_0000_0000, 0xffff_82d0_8000_0000, 0xffff_87ff_ffff_ffff, 1 << 47] {
        let refused = [
            attempt!("mov dr0, rax", address, 0),
            attempt!("mov dr1, rax", address, 0),
            attempt!("mov dr2, rax", address, 0),
            attempt!("mov dr3, rax", address, 0),
        ];
        assert_eq!(refused, [Err(GENERAL_PROTECTION); 4], "a breakpoint at {address:#x}");
    }
    assert_eq!(attempt!("mov rax, dr0", 0, 0), Ok(watched));
    // Breakpoints on ports, and bits that do not exist.
    for value in [1 | 0b10 << 16, 1 << 32] {
        assert_eq!(attempt!("mov dr7, rax", value, 0), Err(GENERAL_PROTECTION), "{value:#x}");
    }
    set_cr4(CR4_DE);
    let (from, to) = (
        attempt!(".byte 0x0f, 0x21, 0xe8", 0, 0), // mov rax, dr5
        attempt!(".byte 0x0f, 0x23, 0xe0", 0, 0), // mov dr4, rax
    );
    assert_eq!((from, to), (Err(INVALID_OPCODE), Err(INVALID_OPCODE)), "debug registers 4 and 5");
    set_cr4(0);
}

/// Sets CR4 and checks that it reads back the same.
fn set_cr4(value: u64) {
    assert_eq!(attempt!("mov cr4, rax", value, 0), Ok(value));
    let read = attempt!("mov rax, cr4", 0, 0);
    assert_eq!(read.map(|read| read & (CR4_DE | CR4_FSGSBASE)), Ok(value), "CR4");
}

/// Tests the instructions that read descriptor tables, task and CR0; the monitor answers them if
/// the CPU denies them to ring 3.
fn tables() {
    if __cpuid_count(7, 0).ecx & 1 << 2 == 0 {
        return;
    }
    let mut bytes = [0xff_u8; 16];
    let place = bytes.as_mut_ptr() as u64;
    let mut stored = |what: &str, outcome: Result<u64, u64>, count: usize| {
        assert_eq!(outcome, Ok(!0), "{what}");
        assert!(bytes[count..].iter().all(|byte| *byte == 0xff), "{what} wrote {bytes:x?}");
        core::mem::replace(&mut bytes, [0xff; 16])
    };
    let gdt = stored("sgdt", attempt!("sgdt [rdi]", !0, place), 10);
    let idt = stored("sidt", attempt!("sidt [rdi]", !0, place), 10);
    assert_eq!([&gdt[..10], &idt[..10]], [&[0; 10]; 2], "the monitor's tables");
    stored("sldt", attempt!("sldt [rdi]", !0, place), 2);
    let status = stored("smsw", attempt!("smsw [rdi]", !0, place), 2);
    assert_eq!(status[..2], [0x33, 0], "the low half of CR0");
    assert_eq!(attempt!("sldt eax", !0, 0), Ok(0));
    assert_eq!(attempt!("str ax", !0, 0), Ok(!0xffff));
    assert_eq!(attempt!("smsw rax", !0, 0), Ok(0x8005_0033));
    // The kernel learns of the fault.
    assert_eq!(attempt!("sgdt [rdi]", 0, 0x7000), Err(PAGE_FAULT));
    assert!((0x7000..0x700a).contains(&memory::fault_address(0)), "the address of the fault");
    for address in [0xffff_8000_0000_0000, 0xffff_82d0_8000_0000, 1 << 47] {
        assert_eq!(attempt!("sidt [rdi]", 0, address), Err(GENERAL_PROTECTION), "{address:#x}");
    }
}

/// Whether the CPU has FSGSBASE.
fn has_bases() -> bool {
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & 1 != 0
}

/// Tests that the instructions for the bases of FS and GS work as long as this kernel enables them,
/// whatever other kernels set meanwhile (XSA-293).
fn bases(timer: &Timer) {
    let read = || attempt!("rdfsbase rax", 0, 0);
    if !has_bases() {
        assert_eq!(attempt!("mov cr4, rax", CR4_FSGSBASE, 0), Ok(CR4_FSGSBASE));
        assert_eq!(read(), Err(INVALID_OPCODE));
        return;
    }
    for _ in 0..TURNS {
        assert_eq!(read(), Err(INVALID_OPCODE), "FSGSBASE, which this kernel did not turn on");
        timer.wait();
    }
    set_cr4(CR4_FSGSBASE);
    let value = 0x1234_5678_9000;
    assert_eq!(attempt!("wrfsbase rax", value, 0), Ok(value));
    assert_eq!(attempt!("wrgsbase rax", value + 1, 0), Ok(value + 1));
    for _ in 0..TURNS {
        timer.wait();
        assert_eq!(read(), Ok(value), "the base of FS");
        assert_eq!(attempt!("rdgsbase rax", 0, 0), Ok(value + 1), "the base of GS");
    }
    set_cr4(0);
    assert_eq!(read(), Err(INVALID_OPCODE), "FSGSBASE, which was turned off");
}
