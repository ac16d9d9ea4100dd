//! Numbers of the Xen ABI that the runtime uses, under the names it uses them by.

pub const CONSOLE_IO: u64 = 18;
pub const GRANT_TABLE_OP: u64 = 20;
pub const VCPU_OP: u64 = 24;
pub const SCHED_OP: u64 = 29;
pub const EVENT_CHANNEL_OP: u64 = 32;

pub const SCHEDOP_YIELD: u64 = 0;
pub const SCHEDOP_BLOCK: u64 = 1;
pub const SCHEDOP_SHUTDOWN: u64 = 2;
pub const SHUTDOWN_POWEROFF: u32 = 0;
pub const SHUTDOWN_REBOOT: u32 = 1;
pub const SHUTDOWN_CRASH: u32 = 3;

pub const VCPUOP_SET_SINGLESHOT_TIMER: u64 = 8;
pub const VCPUOP_STOP_SINGLESHOT_TIMER: u64 = 9;

pub const EVTCHNOP_BIND_INTERDOMAIN: u64 = 0;
pub const EVTCHNOP_BIND_VIRQ: u64 = 1;
pub const EVTCHNOP_CLOSE: u64 = 3;
pub const EVTCHNOP_SEND: u64 = 4;
pub const EVTCHNOP_ALLOC_UNBOUND: u64 = 6;
pub const EVTCHNOP_UNMASK: u64 = 9;
pub const DOMID_SELF: u16 = 0x7FF0;

pub const GNTTABOP_MAP_GRANT_REF: u64 = 0;
pub const GNTTABOP_UNMAP_GRANT_REF: u64 = 1;
pub const GNTMAP_HOST_MAP: u32 = 1 << 1;
pub const GTF_PERMIT_ACCESS: u32 = 1;
/// Reading or writing: the other side has it mapped.
pub const GTF_IN_USE: u32 = 3 << 3;

#[cfg(target_os = "none")]
pub mod start {
    //! What only the entry code needs.
    pub const SET_TRAP_TABLE: u64 = 0;
    pub const IRET: u32 = 23;
    pub const CALLBACK_OP: u64 = 30;
    pub const CALLBACKOP_REGISTER: u64 = 0;
    pub const CALLBACKTYPE_EVENT: u16 = 0;
    pub const FLAT_KERNEL_CS64: u16 = 0xe033;
}
