//! The part of the ABI that is wire-compatible with Xen's x86-64 PV ABI.
//!
//! Each module covers one subject. The facts (numbers, layouts, meanings) are those of the public
//! headers of Xen 4.17; if a stock kernel expects more than they say, the item says so. The names
//! keep Xen's words (domid, event channel, grant), since kernels and tools show those, in Rust's
//! spelling and without the C prefixes: `EVTCHNOP_send` is [`events::SEND`].
//!
//! The rules: a structure has its size and offsets asserted beside it and no implicit padding; a
//! guest virtual address is a plain `u64`, which the code that uses it must check; a value that a
//! guest supplies is an integer with named constants.

pub mod block;
pub mod console;
pub mod cpuid;
pub mod descriptors;
pub mod domid;
pub mod elfnote;
pub mod errno;
pub mod events;
pub mod features;
pub mod grants;
pub mod hypercall;
pub mod memory;
pub mod mmu;
pub mod physdev;
pub mod sched;
pub mod shared_info;
pub mod start_info;
pub mod store;
pub mod time;
pub mod traps;
pub mod vcpu;
pub mod version;
pub mod xenbus;
