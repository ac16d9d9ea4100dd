//! Traps and entry points: trap table, callbacks, and the frame of the `iret` call
//! (`arch-x86/xen.h`, `arch-x86/xen-x86_64.h`, `callback.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An entry of the trap table (`trap_info`); 16 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TrapInfo {
    /// Vector.
    pub vector: u8,
    /// The bits [`TRAP_DPL_MASK`] and [`TRAP_MASK_EVENTS`].
    pub flags: u8,
    /// Code selector of the handler.
    pub cs: u16,
    /// Padding.
    pub pad: u32,
    /// Address of the handler; 0 ends the list.
    pub address: u64,
}
/// In [`TrapInfo::flags`]: the lowest privilege (0 to 3) that may raise it by `int`.
pub const TRAP_DPL_MASK: u8 = 3;
/// In [`TrapInfo::flags`]: mask events on entry.
pub const TRAP_MASK_EVENTS: u8 = 1 << 2;

/// `callback_op`: register an entry point.
pub const CALLBACKOP_REGISTER: u64 = 0;
/// `callback_op`: remove an entry point.
pub const CALLBACKOP_UNREGISTER: u64 = 1;
/// Entry point for events.
pub const CALLBACK_EVENT: u16 = 0;
/// Entry point for a return that failed.
pub const CALLBACK_FAILSAFE: u16 = 1;
/// Entry point for 64-bit `syscall`.
pub const CALLBACK_SYSCALL: u16 = 2;
/// Old number of [`CALLBACK_SYSENTER`].
pub const CALLBACK_SYSENTER_DEPRECATED: u16 = 3;
/// Entry point for NMIs.
pub const CALLBACK_NMI: u16 = 4;
/// Entry point for `sysenter`.
pub const CALLBACK_SYSENTER: u16 = 5;
/// Entry point for 32-bit `syscall`.
pub const CALLBACK_SYSCALL32: u16 = 7;
/// In [`CallbackRegister::flags`]: mask events on entry.
pub const CALLBACKF_MASK_EVENTS: u16 = 1 << 0;

/// Register an entry point (`callback_register`); 16 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallbackRegister {
    /// One of the `CALLBACK_` constants.
    pub kind: u16,
    /// 0 or [`CALLBACKF_MASK_EVENTS`].
    pub flags: u16,
    /// Padding.
    pub pad: u32,
    /// Address of the handler.
    pub address: u64,
}

/// Remove an entry point (`callback_unregister`); 4 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallbackUnregister {
    /// One of the `CALLBACK_` constants.
    pub kind: u16,
    /// Unused.
    pub unused: u16,
}

/// The frame that the `iret` call reads at rsp (`iret_context`); 72 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IretContext {
    /// The value of rax after the return.
    pub rax: u64,
    /// The value of r11, unless [`VGCF_IN_SYSCALL`] is set.
    pub r11: u64,
    /// The value of rcx, unless [`VGCF_IN_SYSCALL`] is set.
    pub rcx: u64,
    /// [`VGCF_IN_SYSCALL`] or 0.
    pub flags: u64,
    /// Instruction pointer.
    pub rip: u64,
    /// Code selector; its low two bits are 3 for user mode, else kernel mode.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Stack selector.
    pub ss: u64,
}
/// In [`IretContext::flags`]: return from a system call; rcx and r11 need not be restored.
pub const VGCF_IN_SYSCALL: u64 = 1 << 8;

const _: () = {
    assert!(size_of::<TrapInfo>() == 16);
    assert!(core::mem::offset_of!(TrapInfo, cs) == 2);
    assert!(core::mem::offset_of!(TrapInfo, address) == 8);
    assert!(size_of::<CallbackRegister>() == 16);
    assert!(core::mem::offset_of!(CallbackRegister, address) == 8);
    assert!(size_of::<CallbackUnregister>() == 4);
    assert_offsets!(CallbackUnregister { kind: 0, unused: 2 });
    assert!(size_of::<IretContext>() == 72);
    assert!(core::mem::offset_of!(IretContext, rip) == 32);
};
