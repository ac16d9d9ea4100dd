//! From the loader's jump to the first partition.
#![expect(unsafe_code, reason = "leaves the boot code for the first partition")]

use core::{
    arch::global_asm,
    sync::atomic::{AtomicBool, Ordering},
};

use page_tables::Mfn;

use handover::{FirstPartition, Handover, IMAGE_MAGIC, VERSION, layout::RING0_CS};
use pv_abi::uv::{
    database::{ULTRAVISOR, state},
    start::mitigation,
};
use refusal::Refused;

use crate::{
    context::{Registers, flag, selector},
    cpu, create, database, device,
    hardware::{self, msr},
    leave, machine, partition, platform, roots, schedule,
};

global_asm!(
    include_str!("platform/boot.S"),
    magic = const IMAGE_MAGIC,
    version = const VERSION,
    entry = sym start,
    entry_of_others = sym start_secondary,
    interrupts = sym platform::descriptors::INTERRUPTS,
);

/// Set when the first two partitions exist: other CPUs may look for work then.
static READY: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    fn below_frame(function: extern "C" fn() -> !) -> !;
    fn enter_first(frame: *mut Registers) -> !;
    static syscall_common: u8;
    static entry_page: u8;
    static entry_page_compat: u8;
    static entry_page_sysenter: u8;
}

/// The entry point. It runs on the main stack of CPU 0, with the final page tables and interrupts
/// off.
extern "C" fn start(handover: &'static Handover) -> ! {
    platform::set_up(handover);
    hardware::probe();
    cpu::SMAP_ON.store(platform::features().smap, Ordering::Relaxed);
    cpu::VERW_ON.store(platform::mitigated(mitigation::VERW), Ordering::Relaxed);
    if platform::mitigated(mitigation::L1TF) {
        machine::MEMORY_END.store(handover.frames << 12, Ordering::Relaxed);
    }
    for index in 0..platform::cpu_count() {
        cpu::prepare(index, &raw const syscall_common as u64);
    }
    database::set_arena(handover.arena.first, handover.arena.count);
    device::set_functions(&handover.functions);
    handover.partitions.iter().for_each(create);
    if let Some(ultravisor) = partition::find(ULTRAVISOR) {
        ultravisor.state.store(state::RUNNING, Ordering::Release);
        if let Some(vcpu) = ultravisor.vcpu(0) {
            schedule::bring_up(vcpu);
        }
    }
    READY.store(true, Ordering::Release);
    // SAFETY: `run` does not return.
    unsafe { below_frame(run) }
}

/// Creates one of the first two partitions from the memory that the loader filled.
fn create(first: &FirstPartition) {
    let number = first.descriptor.number;
    let fail = |error: Refused| -> ! {
        platform::refuse(format_args!("partition {number} could not be built: {error:?}"))
    };
    let partition = create::create(&first.descriptor).unwrap_or_else(|error| fail(error));
    let Some(vcpu) = partition.vcpu(0) else {
        return;
    };
    let FirstPartition { root, entry, stack, start_block, .. } = *first;
    let registers =
        Registers { rdi: start_block, ..Registers::at_start(entry, stack, start_block) };
    if let Err(error) = roots::first_state(vcpu, Mfn::new(root), registers) {
        fail(error);
    }
}

/// The entry point of every other CPU, on its main stack.
extern "C" fn start_secondary(cpu: u32) -> ! {
    platform::set_up_other(cpu);
    while !READY.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    // SAFETY: `run` does not return.
    unsafe { below_frame(run) }
}

/// Runs partitions on this CPU from now on.
extern "C" fn run() -> ! {
    set_syscall_entries();
    let frame = (cpu::this().stack_top - size_of::<Registers>() as u64) as *mut Registers;
    let mut registers = Registers::default();
    schedule::begin(&mut registers);
    leave::leave(&mut registers);
    // SAFETY: the frame is the top of this CPU's main stack, which `below_frame` kept free.
    unsafe {
        frame.write(registers);
        enter_first(frame)
    }
}

/// Flags that `syscall` clears: those that would change how ring 0 runs.
const SYSCALL_CLEARS: u64 =
    flag::TF | flag::IF | flag::DF | flag::IOPL | flag::NT | flag::AC | flag::RF | flag::VM;

/// Points `syscall` and `sysenter` at this CPU's mapping of the entry page.
fn set_syscall_entries() {
    let area = core::ptr::from_ref(cpu::this()) as u64;
    let base = &raw const entry_page as u64;
    let entry = |symbol: *const u8| area + 4096 + (symbol as u64 - base);
    let star = u64::from(RING0_CS) << 32 | selector::CS32 << 48;
    // SAFETY: the entry page is mapped, and its code takes the states that these registers set.
    unsafe {
        hardware::write_msr(msr::STAR, star);
        hardware::write_msr(msr::LSTAR, entry(&raw const entry_page));
        hardware::write_msr(msr::CSTAR, entry(&raw const entry_page_compat));
        hardware::write_msr(msr::SFMASK, SYSCALL_CLEARS);
        hardware::write_msr(msr::SYSENTER_CS, RING0_CS.into());
        hardware::write_msr(msr::SYSENTER_ESP, cpu::this().stack_top);
        hardware::write_msr(msr::SYSENTER_EIP, entry(&raw const entry_page_sysenter));
    }
}
