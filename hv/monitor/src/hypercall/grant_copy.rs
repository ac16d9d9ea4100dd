//! Grant copies: copy bytes between two frames, each granted or the caller's own.
#![expect(unsafe_code, reason = "copies between frames through the direct map")]

use grants::Access;
use page_tables::{Error, Mfn, Release};
use pv_abi::xen::grants as abi;

use super::{grant::Stopped, named};
use crate::{
    machine::{self, Host},
    partition::Partition,
    vcpu::Vcpu,
};

/// A use of a grant: the granter, the grant reference, and the access.
type Grant = Option<(&'static Partition, u32, Access)>;

/// One end of a copy. It holds its frame until dropped.
struct End {
    held: Release,
    grant: Grant,
}

impl End {
    fn take(
        vcpu: &Vcpu,
        end: &abi::CopyEnd,
        by_grant: bool,
        writable: bool,
    ) -> Result<Self, Stopped> {
        let owner = named(vcpu, end.domid).map_err(|_| abi::GNTST_BAD_DOMAIN)?;
        let access = if writable { Access::Write } else { Access::Read };
        let (mfn, grant) = if by_grant {
            let reference = narrow::low_32(end.frame);
            let frame = owner
                .with_grants(|table| table.acquire(reference, vcpu.partition.domids(), access))?;
            (Mfn::new(frame.into()), Some((owner, reference, access)))
        } else if core::ptr::eq(owner, vcpu.partition) {
            (Mfn::new(end.frame), None)
        } else {
            return Err(abi::GNTST_PERMISSION_DENIED.into());
        };
        machine::hold(owner.number, mfn, writable).map(|held| Self { held, grant }).map_err(
            |error| {
                give_back(grant);
                if error == Error::Again { Stopped::Again } else { abi::GNTST_BAD_PAGE.into() }
            },
        )
    }

    /// The address in the direct map of a byte of the frame.
    fn address(&self, offset: u64) -> u64 {
        machine::bytes(self.held.mfn) as u64 + offset
    }
}

fn give_back(grant: Grant) {
    if let Some((owner, reference, access)) = grant {
        let _ = owner.with_grants(|table| table.release(reference, access));
    }
}

impl Drop for End {
    fn drop(&mut self) {
        page_tables::release(&Host, self.held);
        give_back(self.grant);
    }
}

/// Performs one copy.
///
/// # Errors
/// A `GNTST_` status, or [`Stopped::Again`] if the call has to run again.
pub fn copy(vcpu: &Vcpu, op: &abi::GrantCopy) -> Result<(), Stopped> {
    let bytes = u64::from(op.len);
    let (from, to) = (u64::from(op.source.offset), u64::from(op.dest.offset));
    if from + bytes > 4096 || to + bytes > 4096 {
        return Err(abi::GNTST_BAD_COPY_ARG.into());
    }
    let source_end = End::take(vcpu, &op.source, op.flags & abi::GNTCOPY_SOURCE_GREF != 0, false)?;
    let dest_end = End::take(vcpu, &op.dest, op.flags & abi::GNTCOPY_DEST_GREF != 0, true)?;
    let (source, dest) = (source_end.address(from), dest_end.address(to));
    // SAFETY: both frames are RAM held by references of the right kind, and the span lies within a
    // page; partitions may change the bytes meanwhile, which a copy of bytes tolerates.
    unsafe { core::ptr::copy(source as *const u8, dest as *mut u8, narrow::size(bytes)) };
    Ok(())
}
