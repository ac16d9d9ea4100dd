//! Hypercalls: one function per operation, found through tables.
//!
//! An operation returns a value, an errno, or [`Refused::Again`]. In the last case it has done part
//! of its work and changed its arguments to name the rest; the partition executes the instruction
//! once more, after other due work. No operation of the monitor runs for an unbounded time on
//! behalf of a partition.

use core::{mem::offset_of, sync::atomic::Ordering};

use pv_abi::xen::{
    domid,
    hypercall::{self as number, MulticallEntry},
};

pub use refusal::{Refused, errno, require};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    context::Registers,
    guest_memory::{self, Fault, GuestPointer},
    partition::{self, Partition},
    vcpu::Vcpu,
};

mod build;
mod console;
mod cpu_state;
mod device;
mod event;
mod grant;
mod grant_copy;
mod lead;
mod memory;
mod mmu;
mod mmuext;
mod ours;
mod physdev;
mod sched;
mod vcpu_op;
mod version;

pub use event::close_all;
pub use grant::end_mapping;

/// The result of an operation.
pub type Outcome = Result<u64, Refused>;

/// A call in progress.
pub struct Call<'a> {
    /// The virtual CPU that made the call.
    pub vcpu: &'static Vcpu,
    /// The caller's registers (the arguments are in `args`, not here).
    pub registers: &'a mut Registers,
    /// The arguments in order; an operation changes them before it returns [`Refused::Again`].
    pub args: [u64; 6],
}

impl Call<'_> {
    /// Returns [`Refused::Again`] for the rest of an array of `T` after `done` elements. The
    /// arguments `list` and `list + 1` are the array's address and length.
    fn go_on<T>(&mut self, list: usize, done: u64) -> Outcome {
        self.args[list] += done * size_of::<T>() as u64;
        self.args[list + 1] -= done;
        Err(Refused::Again)
    }
}

type Operation = fn(&mut Call) -> Outcome;

/// The operation with this hypercall number. The number is masked before it selects a table entry.
fn operation(hypercall: u64) -> Option<Operation> {
    Some(match masked::index(narrow::size(hypercall), 64)? as u64 {
        number::SET_TRAP_TABLE => cpu_state::set_trap_table,
        number::MMU_UPDATE => mmu::mmu_update,
        number::SET_GDT => cpu_state::set_gdt,
        number::STACK_SWITCH => cpu_state::stack_switch,
        number::SET_CALLBACKS => cpu_state::set_callbacks,
        number::FPU_TASKSWITCH => cpu_state::fpu_taskswitch,
        number::SET_DEBUGREG => cpu_state::set_debug_register,
        number::GET_DEBUGREG => cpu_state::get_debug_register,
        number::UPDATE_DESCRIPTOR => cpu_state::update_descriptor,
        number::MEMORY_OP => memory::memory_op,
        number::MULTICALL => multicall,
        number::UPDATE_VA_MAPPING => mmu::update_va_mapping,
        number::SET_TIMER_OP => sched::set_timer,
        number::XEN_VERSION => version::xen_version,
        number::CONSOLE_IO => console::console_io,
        number::GRANT_TABLE_OP => grant::grant_table_op,
        number::VM_ASSIST => cpu_state::vm_assist,
        number::IRET => cpu_state::iret,
        number::VCPU_OP => vcpu_op::vcpu_op,
        number::SET_SEGMENT_BASE => cpu_state::set_segment_base,
        number::MMUEXT_OP => mmuext::mmuext_op,
        number::SCHED_OP => sched::sched_op,
        number::CALLBACK_OP => cpu_state::callback_op,
        number::EVENT_CHANNEL_OP => event::event_channel_op,
        number::PHYSDEV_OP => physdev::physdev_op,
        number::ARCH_0 => ours::operation,
        // Calls to control the host do not exist here. By this answer, kernels and tools detect
        // that they are not the first domain.
        number::PLATFORM_OP | number::SYSCTL | number::DOMCTL | number::KEXEC_OP => {
            |_| Err(errno::EPERM)
        }
        _ => return None,
    })
}

/// Performs the hypercall that `registers` name.
pub fn dispatch(vcpu: &'static Vcpu, registers: &mut Registers) {
    // Only the CPU that runs the virtual CPU writes this counter.
    let count = vcpu.hypercalls.load(Ordering::Relaxed) + 1;
    vcpu.hypercalls.store(count, Ordering::Relaxed);
    let hypercall = registers.rax;
    let r = &*registers;
    let args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
    let mut call = Call { vcpu, registers, args };
    let outcome = perform(&mut call, hypercall);
    let args = call.args;
    if hypercall == number::IRET && outcome.is_ok() {
        return;
    }
    match outcome {
        Ok(value) => registers.rax = value,
        Err(Refused::Again) => restart(registers, args),
        Err(Refused::Errno(error)) => registers.rax = error.wire().cast_unsigned(),
    }
}

/// Performs one call. Counts a refusal by its cause, the caller's errno.
#[inline(always)]
fn perform(call: &mut Call, hypercall: u64) -> Outcome {
    let outcome = operation(hypercall).map_or(Err(errno::ENOSYS), |run| run(call));
    if let Err(Refused::Errno(error)) = outcome {
        let [others, causes @ ..] = &call.vcpu.partition.refusals;
        let at = usize::try_from(!error.wire()).ok();
        let count = at.and_then(|at| causes.get(at)).unwrap_or(others);
        count.fetch_add(1, Ordering::Relaxed);
    }
    outcome
}

/// Makes the two-byte `syscall` instruction run again with changed arguments.
fn restart(registers: &mut Registers, args: [u64; 6]) {
    registers.rip = registers.rip.wrapping_sub(2);
    [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9] = args;
}

impl From<Fault> for Refused {
    fn from(_: Fault) -> Self {
        errno::EFAULT
    }
}

/// Returns whether domid `id` of a call names the caller itself.
pub fn is_own(vcpu: &Vcpu, id: u16) -> bool {
    id == domid::SELF || u32::from(id) == vcpu.partition.number
}

/// The partition with domid `id`, for calls that name a partition; [`domid::SELF`] is the caller.
///
/// # Errors
/// `-ESRCH` if there is no such partition.
pub fn named(vcpu: &Vcpu, id: u16) -> Result<&'static Partition, Refused> {
    if is_own(vcpu, id) {
        return Ok(vcpu.partition);
    }
    partition::find(id.into()).ok_or(errno::ESRCH)
}

/// Performs an operation on the structure at `address`, and writes it back for the caller.
fn update<T>(address: u64, act: impl FnOnce(&mut T) -> Result<(), Refused>) -> Outcome
where
    T: FromBytes + IntoBytes + Immutable,
{
    let mut argument: T = guest_memory::read(address)?;
    act(&mut argument)?;
    guest_memory::write(address, &argument)?;
    Ok(0)
}

/// Runs an array of calls, each with its own result. Stops early when a call leaves kernel mode
/// (XSA-213).
fn multicall(call: &mut Call) -> Outcome {
    let [list, count, ..] = call.args;
    let entries = GuestPointer::<MulticallEntry>::new(list, count)?;
    for index in 0..count {
        if index != 0 && crate::stay::should_yield() {
            return call.go_on::<MulticallEntry>(0, index);
        }
        let mut entry = entries.read(index)?;
        let mut inner = Call { vcpu: call.vcpu, registers: &mut *call.registers, args: entry.args };
        let outcome = match entry.op {
            number::MULTICALL | number::IRET => Err(errno::EINVAL),
            hypercall => perform(&mut inner, hypercall),
        };
        let result = match outcome {
            Ok(value) => value.cast_signed(),
            Err(Refused::Errno(error)) => error.wire(),
            Err(Refused::Again) => {
                entry.args = inner.args;
                entries.write(index, &entry)?;
                return call.go_on::<MulticallEntry>(0, index);
            }
        };
        let place = list + index * size_of::<MulticallEntry>() as u64;
        guest_memory::write(place + offset_of!(MulticallEntry, result) as u64, &result)?;
        if !call.vcpu.in_kernel.get() {
            return Ok(0);
        }
    }
    Ok(0)
}
