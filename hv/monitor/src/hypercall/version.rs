//! The monitor's version and features, in the form of the ABI it is compatible with.

use pv_abi::xen::{features, version};

use super::{Call, Outcome, Refused, errno, update};
use crate::{cpuid::XEN_VERSION, guest_memory};

/// Features in submap 0.
const FEATURES: u32 = 1 << features::MMU_PT_UPDATE_PRESERVE_AD
    | 1 << features::PAE_PGDIR_ABOVE_4GB
    | 1 << features::HIGHMEM_ASSIST
    | 1 << features::GNTTAB_MAP_AVAIL_BITS;

/// `xen_version(command, argument)`. Command 0 also serves kernels as a call that only lets pending
/// events in.
pub fn xen_version(call: &mut Call) -> Outcome {
    let [command, argument, ..] = call.args;
    let put = |bytes: &[u8]| {
        guest_memory::write_bytes(argument, bytes).map_err(Refused::from).map(|()| 0)
    };
    match command {
        version::VERSION => Ok(XEN_VERSION.into()),
        version::EXTRAVERSION => put(&padded::<{ version::EXTRAVERSION_BYTES }>("-ultravisor")),
        version::COMPILE_INFO => put(&[0; size_of::<version::CompileInfo>()]),
        version::CAPABILITIES => {
            put(&padded::<{ version::CAPABILITIES_BYTES }>("xen-3.0-x86_64 ultravisor-1"))
        }
        version::CHANGESET => put(&padded::<{ version::CHANGESET_BYTES }>("ultravisor")),
        version::PLATFORM_PARAMETERS => put(&guest_memory::MONITOR_START.to_le_bytes()),
        version::GET_FEATURES => get_features(argument),
        version::PAGESIZE => Ok(4096),
        version::GUEST_HANDLE => put(&[0; 16]),
        version::COMMANDLINE => Err(errno::EPERM),
        _ => Err(errno::ENOSYS),
    }
}

fn get_features(argument: u64) -> Outcome {
    update(argument, |info: &mut version::FeatureInfo| {
        info.submap = FEATURES;
        if info.submap_idx < features::SUBMAPS { Ok(()) } else { Err(errno::EINVAL) }
    })
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    bytes
}
