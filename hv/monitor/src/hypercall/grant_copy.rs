//! Grant copies: bytes between two frames, each granted or the caller's own.
#![expect(unsafe_code, reason = "copies between frames through the direct map")]

use frames::Frame;
use grants::Access;
use pv_abi::xen::grants as abi;

use super::named;
use crate::{machine, partition::Partition, vcpu::Vcpu};

/// One end of a copy, held until dropped.
struct End {
    mfn: u64,
    frame: &'static Frame,
    writable: bool,
    grant: Option<(&'static Partition, u32, Access)>,
}

impl End {
    fn take(vcpu: &Vcpu, end: &abi::CopyEnd, by_grant: bool, writable: bool) -> Result<Self, i16> {
        let owner = named(vcpu, end.domid).map_err(|_| abi::GNTST_BAD_DOMAIN)?;
        let access = if writable { Access::Write } else { Access::Read };
        let (mfn, grant) = if by_grant {
            let reference = end.frame as u32;
            let frame = owner
                .with_grants(|table| table.acquire(reference, vcpu.partition.domid(), access))?;
            (frame.into(), Some((owner, reference, access)))
        } else if core::ptr::eq(owner, vcpu.partition) {
            (end.frame, None)
        } else {
            return Err(abi::GNTST_PERMISSION_DENIED);
        };
        hold(owner.number, mfn, writable)
            .map(|frame| Self { mfn, frame, writable, grant })
            .ok_or_else(|| {
                give_back(grant);
                abi::GNTST_BAD_PAGE
            })
    }
}

fn hold(owner: u32, mfn: u64, writable: bool) -> Option<&'static Frame> {
    if writable {
        return machine::hold_writable(owner, mfn);
    }
    let frame = machine::frame(mfn)?;
    frame.get_ref(owner).ok()?;
    Some(frame)
}

fn give_back(grant: Option<(&'static Partition, u32, Access)>) {
    if let Some((owner, reference, access)) = grant {
        let _ = owner.with_grants(|table| table.release(reference, access));
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if self.writable {
            machine::release_writable(self.frame);
        } else {
            let _ = self.frame.put_ref();
        }
        give_back(self.grant);
    }
}

/// Performs one copy.
///
/// # Errors
/// A `GNTST_` status.
pub fn copy(vcpu: &Vcpu, op: &abi::GrantCopy) -> Result<(), i16> {
    let bytes = u64::from(op.len);
    let (from, to) = (u64::from(op.source.offset), u64::from(op.dest.offset));
    if from + bytes > 4096 || to + bytes > 4096 {
        return Err(abi::GNTST_BAD_COPY_ARG);
    }
    let source = End::take(vcpu, &op.source, op.flags & abi::GNTCOPY_SOURCE_GREF != 0, false)?;
    let dest = End::take(vcpu, &op.dest, op.flags & abi::GNTCOPY_DEST_GREF != 0, true)?;
    let source_address = machine::bytes(source.mfn) as u64 + from;
    let dest_address = machine::bytes(dest.mfn) as u64 + to;
    // SAFETY: both frames are RAM held by references of the right kind, and the span lies within
    // a page; partitions may change the bytes meanwhile, which `copy` of bytes tolerates.
    unsafe {
        core::ptr::copy(source_address as *const u8, dest_address as *mut u8, bytes as usize);
    }
    Ok(())
}
