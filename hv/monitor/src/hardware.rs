//! Control registers, model-specific registers and extended state, as thin named functions.
//!
//! The book's soundness chapter lists which module may touch each of them.
#![expect(unsafe_code, reason = "privileged instructions")]

use core::{
    arch::asm,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use page_tables::Mfn;

use pv_abi::uv::start::mitigation;
use x86_64::{
    instructions::segmentation::{DS, ES, FS, GS, Segment},
    registers::{control::Cr2, xcontrol::XCr0},
};

use crate::{
    cpu::CpuLocal,
    platform::{self, processor::read_msr},
    recovery::recover,
    vcpu::{Segments, Vcpu},
};

/// MSR numbers (Intel SDM vol. 4, AMD APM vol. 2 appendix A).
pub mod msr {
    /// Extended features.
    pub const EFER: u32 = 0xC000_0080;
    /// `syscall` selectors.
    pub const STAR: u32 = 0xC000_0081;
    /// 64-bit `syscall` target.
    pub const LSTAR: u32 = 0xC000_0082;
    /// Compatibility-mode `syscall` target.
    pub const CSTAR: u32 = 0xC000_0083;
    /// Flags that `syscall` clears.
    pub const SFMASK: u32 = 0xC000_0084;
    /// Bit 0: indirect branch prediction barrier.
    pub const PREDICTION_COMMAND: u32 = 0x49;
    /// FS base.
    pub const FS_BASE: u32 = 0xC000_0100;
    /// GS base.
    pub const GS_BASE: u32 = 0xC000_0101;
    /// The base that `swapgs` exchanges.
    pub const KERNEL_GS_BASE: u32 = 0xC000_0102;
    /// `rdtscp` auxiliary value.
    pub const TSC_AUX: u32 = 0xC000_0103;
    /// `sysenter` selectors.
    pub const SYSENTER_CS: u32 = 0x174;
    /// `sysenter` stack.
    pub const SYSENTER_ESP: u32 = 0x175;
    /// `sysenter` target.
    pub const SYSENTER_EIP: u32 = 0x176;
}

pub use crate::platform::processor::write_msr;

/// Exchanges the GS base with the inactive one: each mode of a partition has its own.
pub fn swap_gs() {
    // SAFETY: the monitor does not use GS.
    unsafe { GS::swap() };
}

/// Loads the level-4 table of the present mode of `vcpu`, if it has one, and flushes non-global
/// translations.
pub fn load_root(vcpu: &Vcpu) {
    if let Some(root) = vcpu.root() {
        // SAFETY: the virtual CPU holds the reference that the [`page_tables::Base`] stands for
        // until it has loaded another table, and a validated level-4 table has the monitor's slots.
        unsafe { write_cr3(root.frame()) };
    }
}

/// Loads the monitor's own tables, and flushes non-global translations.
pub fn load_idle_root() {
    // SAFETY: these tables are never changed while a CPU runs, and map the monitor.
    unsafe { write_cr3(platform::idle_root()) };
}

/// Loads a level-4 table.
///
/// # Safety
/// The frame is a level-4 table that has the monitor's slots, and stays one while it is loaded.
unsafe fn write_cr3(root: Mfn) {
    // SAFETY: the caller vouches for the table.
    unsafe { asm!("mov cr3, {}", in(reg) root.address(), options(nostack)) };
}

/// A segment base, which belongs to the partition that runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SegmentBase(u32);

impl SegmentBase {
    /// The base of FS.
    pub const FS: Self = Self(msr::FS_BASE);
    /// The base of GS in the present mode.
    pub const GS: Self = Self(msr::GS_BASE);
    /// The base of GS in the other mode.
    pub const OTHER_GS: Self = Self(msr::KERNEL_GS_BASE);
}

/// Reads a segment base.
pub fn read_base(register: SegmentBase) -> u64 {
    read_msr(register.0)
}

/// Writes a segment base; `base` is canonical, or the monitor stops.
pub fn write_base(register: SegmentBase, base: u64) {
    // SAFETY: the monitor uses neither FS nor GS.
    unsafe { write_msr(register.0, base) };
}

/// Writes TSC_AUX, which the CPU has; the upper half of `value` is 0, or the monitor stops.
pub fn write_tsc_aux(value: u64) {
    // SAFETY: the register is only read, by the partition.
    unsafe { write_msr(msr::TSC_AUX, value) };
}

/// Issues a branch-prediction barrier if another partition trained this CPU's predictors, before
/// the partition with serial number `serial` runs.
pub fn forget_branches(local: &CpuLocal, serial: u64) {
    if local.trained_by.replace(serial) != serial && platform::mitigated(mitigation::IBPB) {
        // SAFETY: the command only forgets predictions, and the CPU has it.
        unsafe { write_msr(msr::PREDICTION_COMMAND, 1) };
    }
}

/// CR4.FSGSBASE: ring 3 may use `rdfsbase`, `wrfsbase` and the like.
pub const CR4_FSGSBASE: u64 = 1 << 16;

/// Sets CR4.FSGSBASE if the kernel of `vcpu`, which runs on this CPU, turned it on, and clears it
/// otherwise. XSA-293: a kernel that did not turn it on relies on programs being unable to change
/// the bases.
pub fn load_fsgsbase(local: &CpuLocal, vcpu: &Vcpu) {
    let wanted = vcpu.cr4.get() & CR4_FSGSBASE != 0;
    if local.fsgsbase.replace(wanted) != wanted {
        platform::set_fsgsbase(wanted);
    }
}

/// The address of this CPU's last page fault.
pub fn fault_address() -> u64 {
    Cr2::read_raw()
}

/// Returns whether a selector names 64-bit code.
pub fn is_long_code(selector: u16) -> bool {
    let access: u32;
    // SAFETY: reads a descriptor of the tables that are loaded, or leaves the register as it is.
    unsafe {
        asm!("xor {0:e}, {0:e}", "lar {0:e}, {1:e}", out(reg) access, in(reg) u32::from(selector),
             options(nomem, nostack));
    }
    access & 1 << 21 != 0
}

/// The selectors in DS, ES, FS and GS.
pub fn data_selectors() -> [u16; 4] {
    [DS::get_reg().0, ES::get_reg().0, FS::get_reg().0, GS::get_reg().0]
}

/// A selector register that a partition may load.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Data {
    Ds,
    Es,
    Fs,
    Gs,
}

/// Loads a selector. If that faults, loads the null selector and returns `false`.
pub fn load_selector(register: Data, selector: u16) -> bool {
    try_load_selector(register, selector) || {
        try_load_selector(register, 0);
        false
    }
}

/// Loads a selector. Returns `false` if the CPU refuses it.
fn try_load_selector(register: Data, selector: u16) -> bool {
    let failed: u64;
    let value = u64::from(selector);
    macro_rules! load {
        ($register:literal) => {
            asm!("mov {1:e}, 1", concat!("2: mov ", $register, ", {0:e}"), "xor {1:e}, {1:e}", "3:",
                 recover!("2b", "3b", "3b"), in(reg) value, out(reg) failed, options(nostack))
        };
    }
    // SAFETY: loading DS, ES, FS or GS does not affect ring 0 in long mode, and a fault continues
    // at `3` with the register that says so still set.
    unsafe {
        match register {
            Data::Ds => load!("ds"),
            Data::Es => load!("es"),
            Data::Fs => load!("fs"),
            Data::Gs => load!("gs"),
        }
    }
    failed == 0
}

/// Saves the segment selectors and the FS and GS bases of the partition that has run.
#[must_use]
pub fn save_segments() -> Segments {
    let [ds, es, fs, gs] = data_selectors();
    Segments {
        ds,
        es,
        fs,
        gs,
        fs_base: read_base(SegmentBase::FS),
        gs_base: read_base(SegmentBase::GS),
        gs_base_other: read_base(SegmentBase::OTHER_GS),
    }
}

/// Loads the selectors and bases; a selector that can no longer be loaded becomes null.
pub fn load_segments(segments: &Segments) {
    load_selector(Data::Ds, segments.ds);
    load_selector(Data::Es, segments.es);
    load_selector(Data::Fs, segments.fs);
    load_selector(Data::Gs, segments.gs);
    write_base(SegmentBase::FS, segments.fs_base);
    write_base(SegmentBase::GS, segments.gs_base);
    write_base(SegmentBase::OTHER_GS, segments.gs_base_other);
}

static HAS_TSC_AUX: AtomicBool = AtomicBool::new(false);
static XSTATES: AtomicU64 = AtomicU64::new(3);

/// State components that fit the 8 KiB save area: x87, SSE, AVX and AVX-512; not MPX, not PKRU.
const XSTATES_KNOWN: u64 = 0b1110_0111;

/// Executes CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// Detects the CPU's features; called once, before partitions run.
pub fn probe() {
    let extended = cpuid(0x8000_0001, 0)[3];
    let rdpid = cpuid(7, 0)[2] & 1 << 22 != 0;
    HAS_TSC_AUX.store(extended & 1 << 27 != 0 || rdpid, Ordering::Relaxed);
    if has_xsave() {
        let leaf = cpuid(0xd, 0);
        let offered = u64::from(leaf[3]) << 32 | u64::from(leaf[0]);
        XSTATES.store(offered & XSTATES_KNOWN, Ordering::Relaxed);
    }
}

/// Returns whether the CPU has XSAVE.
pub fn has_xsave() -> bool {
    platform::features().xsave
}

/// The state components that a partition may enable.
pub fn xstates() -> u64 {
    XSTATES.load(Ordering::Relaxed)
}

/// Loads XCR0.
pub fn set_xcr0(value: u64) {
    // SAFETY: the value was checked against what the CPU offers; the monitor uses no such state.
    unsafe { XCr0::write_raw(value) };
}

/// Saves the extended state of `vcpu`.
pub fn save_extended(vcpu: &Vcpu) {
    clear_task_switched();
    let area = vcpu.xsave_area();
    // SAFETY: the area is 8 KiB, 64-byte aligned, and only this CPU uses it now; XSTATES_KNOWN
    // keeps the components within it.
    unsafe {
        if has_xsave() {
            set_xcr0(xstates());
            asm!("xsave64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX);
        } else {
            asm!("fxsave64 [{}]", in(reg) area);
        }
    }
}

/// Loads the extended state of `vcpu`, and its view of CR0.TS.
pub fn load_extended(vcpu: &Vcpu) {
    clear_task_switched();
    let area = vcpu.xsave_area();
    // SAFETY: loads a word of the area. Some AMD CPUs do not load the pointers of the last FPU
    // instruction below: this overwrites them, so that a partition never sees those of another.
    unsafe { asm!("fnclex", "emms", "fild dword ptr [{}]", in(reg) area, options(nostack)) };
    // SAFETY: the area holds what `save_extended` or creation (zeros and default control words)
    // put there, and the partition cannot write it.
    unsafe {
        if has_xsave() {
            set_xcr0(xstates());
            asm!("xrstor64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX);
            set_xcr0(vcpu.xcr0.get() | 1);
        } else {
            asm!("fxrstor64 [{}]", in(reg) area);
        }
    }
    if vcpu.task_switched.get() {
        set_task_switched();
    }
    if HAS_TSC_AUX.load(Ordering::Relaxed) {
        write_tsc_aux(vcpu.tsc_aux.get());
    }
}

/// Returns whether the CPU has `rdtscp` or `rdpid`, and so TSC_AUX.
pub fn has_tsc_aux() -> bool {
    HAS_TSC_AUX.load(Ordering::Relaxed)
}

/// Gives a new virtual CPU the initial extended state, as `xrstor` makes it (FCW 0x37f, MXCSR
/// 0x1f80).
pub fn reset_extended(vcpu: &Vcpu) {
    let area = vcpu.xsave_area();
    // SAFETY: the area is 8 KiB of the virtual CPU's own, which does not run yet.
    unsafe {
        area.write_bytes(0, 8192);
        area.cast::<u16>().write(0x37f);
        area.add(24).cast::<u32>().write(0x1f80);
        // XSTATE_BV: x87 and SSE are in the area.
        area.add(512).cast::<u64>().write(3);
    }
    vcpu.xcr0.set(1);
}

/// Sets CR0.TS, so that the partition's next FPU instruction traps.
pub fn set_task_switched() {
    // SAFETY: TS only makes FPU instructions trap; the monitor has none outside this module.
    unsafe {
        asm!("mov {0}, cr0", "or {0}, 8", "mov cr0, {0}", out(reg) _, options(nomem, nostack));
    }
}

/// Clears CR0.TS.
pub fn clear_task_switched() {
    // SAFETY: see `set_task_switched`.
    unsafe { asm!("clts", options(nomem, nostack)) };
}

/// Sets or clears CR0.TS as the partition sees it, and makes its FPU instructions trap accordingly.
pub fn show_task_switched(vcpu: &Vcpu, set: bool) {
    vcpu.task_switched.set(set);
    if set {
        set_task_switched();
    } else {
        clear_task_switched();
    }
}

/// Loads debug registers 0 to 3, 6 and 7.
pub fn load_debug(registers: &[u64; 8]) {
    // SAFETY: addresses were checked to lie outside the monitor's part when they were set, and
    // the general-detect bit is masked.
    unsafe {
        asm!("mov dr7, {}", in(reg) 0x400u64, options(nomem, nostack));
        if registers[7] & 0xff != 0 {
            asm!("mov dr0, {}", in(reg) registers[0], options(nomem, nostack));
            asm!("mov dr1, {}", in(reg) registers[1], options(nomem, nostack));
            asm!("mov dr2, {}", in(reg) registers[2], options(nomem, nostack));
            asm!("mov dr3, {}", in(reg) registers[3], options(nomem, nostack));
            asm!("mov dr6, {}", in(reg) registers[6], options(nomem, nostack));
            asm!("mov dr7, {}", in(reg) registers[7], options(nomem, nostack));
        }
    }
}

/// Reads and resets DR6.
#[must_use]
pub fn take_debug_status() -> u64 {
    let value;
    // SAFETY: DR6 only reports.
    unsafe {
        asm!("mov {}, dr6", out(reg) value, options(nomem, nostack));
        asm!("mov dr6, {}", in(reg) 0xffff_0ff0u64, options(nomem, nostack));
    }
    value
}

/// Turns interrupts on, waits for one, and turns them off again.
pub fn halt() {
    // SAFETY: interrupts that arrive find handlers that run on the present stack.
    unsafe { asm!("sti", "hlt", "cli", options(nomem)) };
}
