//! Calls that set virtual processor state: gates, stacks, segments, debug registers.

use core::sync::atomic::Ordering;

use page_tables::Mfn;

use pv_abi::{
    uv::calls::cause,
    xen::{
        descriptors::{SEGBASE_FS, SEGBASE_GS_KERNEL, SEGBASE_GS_USER, SEGBASE_GS_USER_SEL},
        features,
        traps::{CALLBACKOP_REGISTER, CALLBACKOP_UNREGISTER, CallbackRegister, TrapInfo},
    },
};

use super::{Call, Outcome, errno, require};
use crate::{
    bounce, debug_registers, descriptors, failure,
    guest_memory::{self, GuestPointer, is_canonical},
    hardware::{self, Data, SegmentBase},
    machine::Host,
    vcpu::{CALLBACKS, Gate, Vcpu, callback},
};

/// Maximum number of gates that one call may set; a table has 256.
const MOST_GATES: u64 = 257;

/// `set_trap_table(TrapInfo *list)`: sets gates until the first entry without an address; a null
/// list clears all gates.
pub fn set_trap_table(call: &mut Call) -> Outcome {
    let [list, ..] = call.args;
    if list == 0 {
        (0..=255).for_each(|vector| call.vcpu.set_gate(vector, Gate::default()));
        return Ok(0);
    }
    for index in 0..MOST_GATES {
        let address = list.wrapping_add(index * size_of::<TrapInfo>() as u64);
        let info: TrapInfo = guest_memory::read(address)?;
        if info.address == 0 {
            break;
        }
        require(is_canonical(info.address), errno::EINVAL)?;
        let gate = Gate::new(info.address, info.cs, u16::from(info.flags & 7));
        call.vcpu.set_gate(info.vector, gate);
    }
    Ok(0)
}

/// `set_gdt(u64 *frames, entries)`: replaces the descriptor table.
pub fn set_gdt(call: &mut Call) -> Outcome {
    let [list, entries, ..] = call.args;
    let pages = entries.div_ceil(512);
    require(pages <= 14, errno::EINVAL)?;
    let pointer = GuestPointer::<u64>::new(list, pages)?;
    let mut frames = [Mfn::NONE; 14];
    for (index, frame) in (0..pages).zip(frames.iter_mut()) {
        *frame = Mfn::new(pointer.read(index)?);
    }
    descriptors::replace_gdt(call.vcpu, &frames)?;
    Ok(0)
}

/// `update_descriptor(machine address, descriptor)`.
pub fn update_descriptor(call: &mut Call) -> Outcome {
    let [address, value, ..] = call.args;
    require(address & 7 == 0, errno::EINVAL)?;
    let mut space = call.vcpu.partition.space.lock_or_again()?;
    let index = narrow::entry_index(address);
    page_tables::update_descriptor(&Host, &mut space, Mfn::of_address(address), index, value)?;
    Ok(0)
}

/// `stack_switch(ss, sp)`: sets the kernel's stack for entries from user mode.
pub fn stack_switch(call: &mut Call) -> Outcome {
    let [_, stack, ..] = call.args;
    require(is_canonical(stack), errno::EINVAL)?;
    call.vcpu.kernel_stack.set(stack);
    call.vcpu.update_fast_path();
    Ok(0)
}

/// `set_callbacks(event, failsafe, syscall)`: the older form of `callback_op`.
pub fn set_callbacks(call: &mut Call) -> Outcome {
    let [event, failsafe, syscall, ..] = call.args;
    require([event, failsafe, syscall].into_iter().all(is_canonical), errno::EINVAL)?;
    with_callbacks(call.vcpu, |callbacks| {
        callbacks[callback::EVENT] = event;
        callbacks[callback::FAILSAFE] = failsafe;
        callbacks[callback::SYSCALL] = syscall;
    });
    Ok(0)
}

/// Changes the callbacks of a virtual CPU.
pub fn with_callbacks(vcpu: &Vcpu, change: impl FnOnce(&mut [u64; CALLBACKS])) {
    let mut callbacks = vcpu.callbacks.get();
    change(&mut callbacks);
    vcpu.callbacks.set(callbacks);
    vcpu.update_fast_path();
}

/// `callback_op(command, argument)`.
pub fn callback_op(call: &mut Call) -> Outcome {
    let [command, argument, ..] = call.args;
    let (kind, address, flags) = match command {
        CALLBACKOP_REGISTER => {
            let register: CallbackRegister = guest_memory::read(argument)?;
            (register.kind, register.address, register.flags)
        }
        CALLBACKOP_UNREGISTER => (guest_memory::read::<u16>(argument)?, 0, 0),
        _ => return Err(errno::ENOSYS),
    };
    let kind = usize::from(kind);
    if kind >= CALLBACKS || kind == 3 || kind == 6 {
        return Err(errno::ENOSYS);
    }
    require(is_canonical(address), errno::EINVAL)?;
    let masks = call.vcpu.callback_masks.get() & !(1 << kind);
    call.vcpu.callback_masks.set(masks | u32::from(flags & 1) << kind);
    with_callbacks(call.vcpu, |callbacks| callbacks[kind] = address);
    Ok(0)
}

/// `fpu_taskswitch(set)`: the kernel's CR0.TS.
pub fn fpu_taskswitch(call: &mut Call) -> Outcome {
    hardware::show_task_switched(call.vcpu, call.args[0] != 0);
    Ok(0)
}

/// `set_debugreg(register, value)`.
pub fn set_debug_register(call: &mut Call) -> Outcome {
    let [register, value, ..] = call.args;
    debug_registers::write(call.vcpu, register, value).map(|()| 0)
}

/// `get_debugreg(register)`.
pub fn get_debug_register(call: &mut Call) -> Outcome {
    debug_registers::read(call.vcpu, call.args[0])
}

/// `set_segment_base(which, value)`.
pub fn set_segment_base(call: &mut Call) -> Outcome {
    let [which, value, ..] = call.args;
    let target = match narrow::low_32(which) {
        SEGBASE_FS => SegmentBase::FS,
        SEGBASE_GS_USER => SegmentBase::OTHER_GS,
        SEGBASE_GS_KERNEL => SegmentBase::GS,
        SEGBASE_GS_USER_SEL => return Ok(load_user_gs(narrow::low_16(value))),
        _ => return Err(errno::EINVAL),
    };
    // XSA-193: a base that is not canonical would fault in ring 0.
    require(is_canonical(value), errno::EINVAL)?;
    hardware::write_base(target, value);
    Ok(0)
}

/// Loads %gs as user mode will see it; a selector that faults becomes null.
fn load_user_gs(selector: u16) -> u64 {
    hardware::swap_gs();
    hardware::load_selector(Data::Gs, selector);
    hardware::swap_gs();
    0
}

/// `vm_assist(command, type)`: accepts the assists that Linux asks for, which are always on or have
/// no meaning here.
pub fn vm_assist(call: &mut Call) -> Outcome {
    use features::assist;
    let [command, kind, ..] = call.args;
    require(command <= 1, errno::ENOSYS)?;
    match narrow::low_32(kind) {
        assist::WRITABLE_PAGETABLES => Ok(0),
        assist::RUNSTATE_UPDATE_FLAG => {
            let on = command == u64::from(assist::ENABLE);
            call.vcpu.partition.runstate_update_flag.store(on, Ordering::Relaxed);
            Ok(0)
        }
        _ => Err(errno::EINVAL),
    }
}

/// `iret`: returns by the frame at rsp.
pub fn iret(call: &mut Call) -> Outcome {
    if bounce::interrupt_return(call.vcpu, call.registers).is_err() {
        failure::crash(call.vcpu, call.registers, cause::BAD_FRAME, 0);
    }
    Ok(0)
}
