//! `vcpu_op`: brings virtual CPUs up and down, and sets their timers and areas; also the initial
//! registers of a virtual CPU (`vcpu.h`, `arch-x86/xen.h`).

use super::traps::TrapInfo;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Set the start state of a virtual CPU that is down: [`VcpuGuestContext`].
pub const INITIALISE: u64 = 0;
/// Bring it up.
pub const UP: u64 = 1;
/// Take it down.
pub const DOWN: u64 = 2;
/// Returns 1 if it is up, 0 if it is down, `-ENOENT` if there is none.
pub const IS_UP: u64 = 3;
/// Fill a [`super::time::RunstateInfo`].
pub const GET_RUNSTATE_INFO: u64 = 4;
/// Keep a [`super::time::RunstateInfo`] up to date: [`RegisterArea`].
pub const REGISTER_RUNSTATE_MEMORY_AREA: u64 = 5;
/// Start a periodic timer: period in nanoseconds (u64).
pub const SET_PERIODIC_TIMER: u64 = 6;
/// Stop the periodic timer.
pub const STOP_PERIODIC_TIMER: u64 = 7;
/// Start the singleshot timer: [`SetSingleshotTimer`].
pub const SET_SINGLESHOT_TIMER: u64 = 8;
/// Stop the singleshot timer.
pub const STOP_SINGLESHOT_TIMER: u64 = 9;
/// Set the place of its `vcpu_info`, once: [`RegisterVcpuInfo`].
pub const REGISTER_VCPU_INFO: u64 = 10;
/// Send it an NMI.
pub const SEND_NMI: u64 = 11;
/// Get the physical CPU it is on.
pub const GET_PHYSID: u64 = 12;
/// Keep a [`super::time::VcpuTimeInfo`] up to date: [`RegisterArea`].
pub const REGISTER_VCPU_TIME_MEMORY_AREA: u64 = 13;

/// Argument of [`REGISTER_RUNSTATE_MEMORY_AREA`] and [`REGISTER_VCPU_TIME_MEMORY_AREA`]; 8 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterArea {
    /// Guest virtual address; 0 for none.
    pub address: u64,
}

/// Argument of [`SET_SINGLESHOT_TIMER`] (`vcpu_set_singleshot_timer`); 16 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetSingleshotTimer {
    /// Absolute system time in nanoseconds.
    pub timeout_abs_ns: u64,
    /// 0 or [`SINGLESHOT_FUTURE`].
    pub flags: u32,
    /// Padding.
    pub pad: u32,
}
/// Refuse a time in the past with `-ETIME` instead of firing at once.
pub const SINGLESHOT_FUTURE: u32 = 1 << 0;

/// Argument of [`REGISTER_VCPU_INFO`] (`vcpu_register_vcpu_info`); 16 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterVcpuInfo {
    /// Machine frame.
    pub mfn: u64,
    /// Offset in the frame.
    pub offset: u32,
    /// Unused.
    pub reserved: u32,
}

/// Registers (`cpu_user_regs`); 200 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[expect(missing_docs, reason = "the registers' own names")]
pub struct CpuUserRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub error_code: u32,
    pub entry_vector: u32,
    pub rip: u64,
    pub cs: u16,
    pub pad0: u16,
    pub saved_upcall_mask: u8,
    pub pad1: [u8; 3],
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u16,
    pub pad2: [u16; 3],
    pub es: u16,
    pub pad3: [u16; 3],
    pub ds: u16,
    pub pad4: [u16; 3],
    pub fs: u16,
    pub pad5: [u16; 3],
    pub gs: u16,
    pub pad6: [u16; 3],
}

/// State of a virtual CPU (`vcpu_guest_context`); 5168 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuGuestContext {
    /// FPU state in FXSAVE layout.
    pub fpu_ctxt: [u8; 512],
    /// `VGCF_` bits.
    pub flags: u64,
    /// Registers.
    pub user_regs: CpuUserRegs,
    /// Trap table, by vector.
    pub trap_ctxt: [TrapInfo; 256],
    /// Address of the local descriptor table.
    pub ldt_base: u64,
    /// Number of its entries.
    pub ldt_ents: u64,
    /// Machine frames of the descriptor table.
    pub gdt_frames: [u64; 16],
    /// Number of its entries.
    pub gdt_ents: u64,
    /// Stack selector for traps from user mode.
    pub kernel_ss: u64,
    /// Stack pointer for traps from user mode.
    pub kernel_sp: u64,
    /// Control registers: 0; 1 = user page table, if any; 3 = kernel page table; 4.
    pub ctrlreg: [u64; 8],
    /// Debug registers.
    pub debugreg: [u64; 8],
    /// Entry point for events.
    pub event_callback_eip: u64,
    /// Entry point for a return that failed.
    pub failsafe_callback_eip: u64,
    /// Entry point for `syscall`.
    pub syscall_callback_eip: u64,
    /// Assists, one bit each.
    pub vm_assist: u64,
    /// Base of fs.
    pub fs_base: u64,
    /// Base of gs in kernel mode.
    pub gs_base_kernel: u64,
    /// Base of gs in user mode.
    pub gs_base_user: u64,
}
/// In [`VcpuGuestContext::flags`]: `fpu_ctxt` is valid.
pub const VGCF_I387_VALID: u64 = 1 << 0;
/// In [`VcpuGuestContext::flags`]: in kernel mode.
pub const VGCF_IN_KERNEL: u64 = 1 << 2;
/// In [`VcpuGuestContext::flags`]: the failsafe entry masks events.
pub const VGCF_FAILSAFE_DISABLES_EVENTS: u64 = 1 << 3;
/// In [`VcpuGuestContext::flags`]: the system call entry masks events.
pub const VGCF_SYSCALL_DISABLES_EVENTS: u64 = 1 << 4;
/// In [`VcpuGuestContext::flags`]: up.
pub const VGCF_ONLINE: u64 = 1 << 5;

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<RegisterArea>() == 8);
    assert_offsets!(RegisterArea { address: 0 });
    assert!(size_of::<SetSingleshotTimer>() == 16);
    assert_offsets!(SetSingleshotTimer { timeout_abs_ns: 0, flags: 8, pad: 12 });
    assert!(size_of::<RegisterVcpuInfo>() == 16);
    assert_offsets!(RegisterVcpuInfo { mfn: 0, offset: 8, reserved: 12 });
    assert!(size_of::<CpuUserRegs>() == 200);
    assert!(offset_of!(CpuUserRegs, rax) == 80);
    assert!(offset_of!(CpuUserRegs, rip) == 128);
    assert!(offset_of!(CpuUserRegs, saved_upcall_mask) == 140);
    assert!(offset_of!(CpuUserRegs, rflags) == 144);
    assert!(offset_of!(CpuUserRegs, gs) == 192);
    assert!(size_of::<VcpuGuestContext>() == 5168);
    assert!(offset_of!(VcpuGuestContext, flags) == 512);
    assert!(offset_of!(VcpuGuestContext, user_regs) == 520);
    assert!(offset_of!(VcpuGuestContext, trap_ctxt) == 720);
    assert!(offset_of!(VcpuGuestContext, ldt_base) == 4816);
    assert!(offset_of!(VcpuGuestContext, gdt_frames) == 4832);
    assert!(offset_of!(VcpuGuestContext, kernel_ss) == 4968);
    assert!(offset_of!(VcpuGuestContext, ctrlreg) == 4984);
    assert!(offset_of!(VcpuGuestContext, event_callback_eip) == 5112);
    assert!(offset_of!(VcpuGuestContext, gs_base_user) == 5160);
};
