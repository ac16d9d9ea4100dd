//! Segment descriptor tables of virtual CPUs: taking references on their pages, and loading them.

use page_tables::{Mfn, Space, get_descriptors, put_descriptors};
use refusal::{Refused, errno};

use crate::{cpu, machine::Host, platform, vcpu::Vcpu};

/// Takes references on descriptor pages (0 stands for none). If one fails, takes none.
fn take(space: &mut Space, frames: &[Mfn]) -> Result<(), Refused> {
    for (index, &mfn) in frames.iter().enumerate().filter(|(_, mfn)| !mfn.is_none()) {
        if let Err(error) = get_descriptors(&Host, space, mfn) {
            put(space, frames.get(..index).unwrap_or_default());
            return Err(error.into());
        }
    }
    Ok(())
}

/// Releases the references of [`take`].
fn put(space: &Space, frames: &[Mfn]) {
    for &mfn in frames.iter().filter(|mfn| !mfn.is_none()) {
        put_descriptors(&Host, space, mfn);
    }
}

/// Makes `frames` (0 stands for none) the descriptor table of `vcpu`, which runs on this CPU or on
/// none.
///
/// # Errors
/// An errno if a page is unsuitable; the old table stays in use.
pub fn replace_gdt(vcpu: &Vcpu, frames: &[Mfn; 14]) -> Result<(), Refused> {
    let mut space = vcpu.partition.space.lock_or_again()?;
    take(&mut space, frames)?;
    let old = vcpu.gdt.replace(*frames);
    if cpu::this().runs(vcpu) {
        load_gdt(vcpu);
    }
    put(&space, &old);
    Ok(())
}

/// Shows the table of `vcpu` in this CPU's GDT window; rewrites only the frames that differ.
pub fn load_gdt(vcpu: &Vcpu) {
    let (local, wanted) = (cpu::this(), vcpu.gdt.get());
    if local.gdt.replace(wanted) != wanted {
        platform::set_gdt_frames(local.index, &wanted);
    }
}

/// Makes the `entries` descriptors at `va` the local descriptor table of `vcpu`, which runs on this
/// CPU or on none.
///
/// # Errors
/// An errno if a page is unsuitable; the old table stays in use.
pub fn replace_ldt(vcpu: &Vcpu, va: u64, entries: u32) -> Result<(), Refused> {
    if entries > 8192 || va & 4095 != 0 {
        return Err(errno::EINVAL);
    }
    let pages = u64::from(entries).div_ceil(512);
    let mut frames = [Mfn::NONE; 16];
    let mut space = vcpu.partition.space.lock_or_again()?;
    for (page, slot) in (0..pages).zip(frames.iter_mut()) {
        let entry = crate::walk::kernel_entry(&space, vcpu, va.wrapping_add(page * 4096));
        let mfn = entry.map(Mfn::of_entry);
        *slot = mfn.filter(|mfn| !mfn.is_none()).ok_or(errno::EINVAL)?;
    }
    take(&mut space, &frames)?;
    let old = vcpu.ldt_frames.replace(frames);
    vcpu.ldt.set((va, entries));
    if cpu::this().runs(vcpu) {
        load_ldt(vcpu);
    }
    put(&space, &old);
    Ok(())
}

/// Loads the local descriptor table of `vcpu` on this CPU.
pub fn load_ldt(vcpu: &Vcpu) {
    let (local, (_, entries)) = (cpu::this(), vcpu.ldt.get());
    // Most virtual CPUs have none, as the one before.
    if local.has_ldt.replace(entries != 0) || entries != 0 {
        platform::set_ldt_frames(local.index, &vcpu.ldt_frames.get(), entries);
    }
}
