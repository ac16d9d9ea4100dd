//! `vcpu_op`: brings virtual CPUs up and down, and registers their records.

use core::sync::atomic::Ordering;

use page_tables::{Error, Mfn};
use pv_abi::xen::{time as records, vcpu as abi};

use zerocopy::{FromBytes, IntoBytes};

use super::{Call, Outcome, Refused, cpu_state::with_callbacks, errno, require, sched::is_up};
use crate::{
    area::Area,
    context::{Registers, flag},
    debug_registers, delivery, descriptors,
    emulate::kept_cr4,
    guest_memory::{self, is_canonical},
    machine, partition, roots, schedule, time,
    vcpu::{Gate, InfoArea, Segments, Vcpu, run},
};

type Operation = fn(&mut Call, &'static Vcpu) -> Outcome;

/// `vcpu_op(command, id, argument)`.
pub fn vcpu_op(call: &mut Call) -> Outcome {
    let [command, id, ..] = call.args;
    let id = u32::try_from(id).map_err(|_| errno::ENOENT)?;
    let target = call.vcpu.partition.vcpu(id).ok_or(errno::ENOENT)?;
    let run: Operation = match command {
        abi::INITIALISE => initialise,
        abi::UP => up,
        abi::DOWN => down,
        abi::IS_UP => |_, target| Ok(is_up(target).into()),
        abi::GET_RUNSTATE_INFO => get_runstate,
        abi::REGISTER_RUNSTATE_MEMORY_AREA => register_runstate,
        // There is no periodic timer to stop.
        abi::STOP_PERIODIC_TIMER => |_, _| Ok(0),
        abi::SET_SINGLESHOT_TIMER => set_timer,
        abi::STOP_SINGLESHOT_TIMER => stop_timer,
        abi::REGISTER_VCPU_INFO => register_info,
        abi::SEND_NMI => send_nmi,
        abi::REGISTER_VCPU_TIME_MEMORY_AREA => register_time,
        _ => return Err(errno::ENOSYS),
    };
    // These operations read, check and then replace the state of a virtual CPU.
    let _held = call.vcpu.partition.vcpus_lock.lock_or_again()?;
    run(call, target)
}

fn initialise(call: &mut Call, target: &'static Vcpu) -> Outcome {
    if is_up(target) || target.initialised.load(Ordering::Acquire) {
        return Err(errno::EEXIST);
    }
    let address = call.args[2];
    let mut context = CONTEXT.lock_or_again()?;
    guest_memory::read_bytes(address, context.as_mut_bytes())?;
    load_context(target, &context)?;
    target.initialised.store(true, Ordering::Release);
    Ok(0)
}

/// A static, since five kilobytes would take much of the stack.
static CONTEXT: crate::lock::SpinLock<abi::VcpuGuestContext> =
    crate::lock::SpinLock::new(zerocopy::transmute!([0u8; size_of::<abi::VcpuGuestContext>()]));

/// Checks the start state that a kernel wrote for a virtual CPU, and takes it over.
fn load_context(target: &'static Vcpu, context: &abi::VcpuGuestContext) -> Result<(), Refused> {
    let bases = [
        context.fs_base,
        context.gs_base_kernel,
        context.gs_base_user,
        context.kernel_sp,
        context.event_callback_eip,
        context.failsafe_callback_eip,
        context.syscall_callback_eip,
    ];
    let in_kernel = context.flags & abi::VGCF_IN_KERNEL != 0;
    if !bases.into_iter().all(is_canonical) || !in_kernel || context.gdt_ents > 14 * 512 {
        return Err(errno::EINVAL);
    }
    for gate in &context.trap_ctxt {
        let entry = Gate::new(gate.address, gate.cs, u16::from(gate.flags & 7));
        let usable = gate.address != 0 && is_canonical(gate.address);
        target.set_gate(gate.vector, if usable { entry } else { target.gate(gate.vector) });
    }
    let mut frames = [Mfn::NONE; 14];
    let pages = narrow::size(context.gdt_ents.div_ceil(512));
    for (to, from) in frames.iter_mut().zip(context.gdt_frames).take(pages) {
        *to = Mfn::new(from);
    }
    roots::set_first(target, Mfn::of_entry(context.ctrlreg[3]))?;
    descriptors::replace_gdt(target, &frames)?;
    target.kernel_stack.set(context.kernel_sp);
    let [event, failsafe, syscall] =
        [context.event_callback_eip, context.failsafe_callback_eip, context.syscall_callback_eip];
    with_callbacks(target, |all| *all = [event, failsafe, syscall, 0, 0, 0, 0, 0]);
    target.segments.set(Segments {
        ds: context.user_regs.ds,
        es: context.user_regs.es,
        fs: context.user_regs.fs,
        gs: context.user_regs.gs,
        fs_base: context.fs_base,
        gs_base: context.gs_base_kernel,
        gs_base_other: context.gs_base_user,
    });
    target.cr4.set(kept_cr4(context.ctrlreg[4]));
    let mut debug = target.debug.get();
    // A value that is refused leaves the register as it is after reset.
    for (register, value) in (0..).zip(context.debugreg) {
        let _ = debug_registers::change(&mut debug, register, value);
    }
    target.debug.set(debug);
    // Kernels pass a virtual CPU's I/O privilege level in its first flags.
    target.iopl.set(narrow::low_32(context.user_regs.rflags >> 12 & 3));
    target.registers.set(registers_of(&context.user_regs));
    Ok(())
}

/// Converts the registers. The general registers have the same order in both structures; the other
/// registers are forced to ring-3 values.
fn registers_of(r: &abi::CpuUserRegs) -> Registers {
    let (general, _) = Registers::read_from_prefix(r.as_bytes()).unwrap_or_default();
    Registers {
        vector: 0,
        error: 0,
        rip: r.rip,
        cs: u64::from(r.cs) | 3,
        rflags: r.rflags | flag::IF,
        rsp: r.rsp,
        ss: u64::from(r.ss) | 3,
        ..general
    }
}
const _: () = assert!(core::mem::offset_of!(abi::CpuUserRegs, rdi) == 8 * 14);

fn up(_: &mut Call, target: &'static Vcpu) -> Outcome {
    require(target.initialised.load(Ordering::Acquire), errno::EINVAL)?;
    schedule::bring_up(target);
    Ok(0)
}

fn down(call: &mut Call, target: &'static Vcpu) -> Outcome {
    schedule::end_wait(target);
    target.state.store(run::DOWN, Ordering::SeqCst);
    if core::ptr::eq(call.vcpu, target) {
        crate::cpu::this().reschedule.store(true, Ordering::Release);
    } else {
        schedule::withdraw(target);
    }
    Ok(0)
}

fn get_runstate(call: &mut Call, target: &'static Vcpu) -> Outcome {
    guest_memory::write(call.args[2], &target.runstate_now())?;
    Ok(0)
}

fn register_runstate(call: &mut Call, target: &'static Vcpu) -> Outcome {
    let register: abi::RegisterArea = guest_memory::read(call.args[2])?;
    let bytes = size_of::<records::RunstateInfo>() as u64;
    let new = Area::new(call.vcpu, register.address, bytes)?;
    // A CPU that changes the runstate also writes to the area.
    let old = schedule::while_still(target, || {
        let old = target.runstate_area.replace(new);
        target.publish_runstate();
        old
    });
    old.release();
    Ok(0)
}

fn register_time(call: &mut Call, target: &'static Vcpu) -> Outcome {
    let register: abi::RegisterArea = guest_memory::read(call.args[2])?;
    let new = if register.address == 0 {
        Area::NONE
    } else {
        Area::new(call.vcpu, register.address, size_of::<records::VcpuTimeInfo>() as u64)?
    };
    target.time_area.replace(new).release();
    target.publish_time();
    Ok(0)
}

fn set_timer(call: &mut Call, target: &'static Vcpu) -> Outcome {
    require(core::ptr::eq(call.vcpu, target), errno::EINVAL)?;
    let set: abi::SetSingleshotTimer = guest_memory::read(call.args[2])?;
    if set.flags & abi::SINGLESHOT_FUTURE != 0 && set.timeout_abs_ns < time::now() {
        return Err(errno::ETIME);
    }
    schedule::set_timer(target, Some(set.timeout_abs_ns));
    Ok(0)
}

fn stop_timer(call: &mut Call, target: &'static Vcpu) -> Outcome {
    require(core::ptr::eq(call.vcpu, target), errno::EINVAL)?;
    schedule::set_timer(target, None);
    Ok(0)
}

/// Moves a virtual CPU's `vcpu_info` out of shared info; allowed once.
fn register_info(call: &mut Call, target: &'static Vcpu) -> Outcome {
    let register: abi::RegisterVcpuInfo = guest_memory::read(call.args[2])?;
    let offset = u64::from(register.offset);
    if target.info_frame.load(Ordering::Acquire) != 0
        || offset & 7 != 0
        || offset > 4096 - size_of::<InfoArea>() as u64
        || !core::ptr::eq(call.vcpu, target) && is_up(target)
    {
        return Err(errno::EINVAL);
    }
    let owner = target.partition.number;
    let held = machine::hold(owner, Mfn::new(register.mfn), true).map_err(|error| match error {
        Error::Again => Refused::Again,
        _ => errno::EINVAL,
    })?;
    let place = (machine::bytes(held.mfn) as u64 + offset) as *mut InfoArea;
    target.move_info(place);
    target.info_frame.store(register.mfn, Ordering::Release);
    partition::upcall(target).mark_all();
    target.publish_time();
    delivery::kick(target);
    Ok(0)
}

fn send_nmi(_: &mut Call, target: &'static Vcpu) -> Outcome {
    target.nmi_pending.store(true, Ordering::Release);
    schedule::wake(target);
    schedule::kick(crate::cpu::cpu(target.cpu.load(Ordering::Acquire)));
    Ok(0)
}
