//! The page tables that a virtual CPU runs on: the level-4 tables of its kernel and of user mode.
//!
//! Rule: a virtual CPU holds a reference on each of its tables, and on the old table until the CPU
//! has loaded the new one.

use core::sync::atomic::Ordering;

use page_tables::{Base, Mfn, Space, get_base, put_base};
use refusal::{Refused, errno, require};

use crate::{context::Registers, hardware, lock::RunningCell, machine::Host, vcpu::Vcpu, view};

/// Makes `root` hold `mfn` (0 stands for none), calls `loaded`, and then releases the table that
/// `root` held before.
fn replace(
    space: &mut Space,
    root: &RunningCell<Option<Base>>,
    mfn: Mfn,
    loaded: impl FnOnce(),
) -> Result<(), Refused> {
    let base = if mfn.is_none() { None } else { Some(get_base(&Host, space, mfn)?) };
    let old = root.replace(base);
    loaded();
    if let Some(old) = old {
        put_base(&Host, space, old)?;
    }
    Ok(())
}

/// Loads another kernel root on the virtual CPU that runs here, in kernel mode.
pub fn load_kernel(vcpu: &Vcpu, space: &mut Space, mfn: Mfn) -> Result<(), Refused> {
    require(!mfn.is_none(), errno::EINVAL)?;
    replace(space, &vcpu.kernel_root, mfn, || {
        view::lead_from_kernel(vcpu);
        hardware::load_root(vcpu);
    })?;
    view::hide_from_user(vcpu);
    Ok(())
}

/// Sets the first kernel root of a virtual CPU that does not run; it replaces a root that was set
/// before and never used.
pub fn set_first(vcpu: &Vcpu, kernel: Mfn) -> Result<(), Refused> {
    let mut space = vcpu.partition.space.lock_or_again()?;
    space.finish(&Host)?;
    replace(&mut space, &vcpu.kernel_root, kernel, || view::lead_from_kernel(vcpu))
}

/// Sets the level-4 table of user mode of the virtual CPU that runs here, in kernel mode; 0 stands
/// for none.
pub fn set_user(vcpu: &Vcpu, space: &mut Space, mfn: Mfn) -> Result<(), Refused> {
    replace(space, &vcpu.user_root, mfn, || ())?;
    view::hide_from_user(vcpu);
    Ok(())
}

/// Validates the page tables under `root` and gives virtual CPU 0 its start state.
///
/// # Errors
/// [`Refused::Again`], or the reason why the tables are refused.
pub fn first_state(vcpu: &Vcpu, root: Mfn, registers: Registers) -> Result<(), Refused> {
    if vcpu.kernel_root.get().is_none() {
        set_first(vcpu, root)?;
    }
    let mut space = vcpu.partition.space.lock_or_again()?;
    page_tables::pin(&Host, &mut space, 4, root)?;
    vcpu.registers.set(registers);
    vcpu.initialised.store(true, Ordering::Release);
    vcpu.partition.started.store(true, Ordering::Release);
    Ok(())
}
