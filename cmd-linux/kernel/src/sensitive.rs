//! The instructions that behave differently in ring 3 than on a bare machine, and how they behave
//! here.
//!
//! The facts are those of the book's ABI chapter ("Instructions done for a kernel") and of the
//! soundness tables (CR4); the Intel SDM, vol. 2, says how the CPU itself executes an instruction
//! in ring 3.

use iced_x86::{Code, Instruction, Mnemonic, Register};

use crate::Fate;

/// A kind of sensitive instruction.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) fate: Fate,
    pub(crate) name: &'static str,
    pub(crate) meaning: &'static str,
}

macro_rules! kind {
    ($fate:ident, $name:expr, $meaning:expr) => {
        &Kind { fate: Fate::$fate, name: $name, meaning: $meaning }
    };
}

/// The kind of `cpuid` behind the forced-emulation prefix.
pub(crate) static FORCED_CPUID: &Kind =
    kind!(Emulated, "ud2; \"xen\"; cpuid", "the monitor's answer, with its CPUID policy");

/// The kind of an instruction, if it is sensitive.
pub(crate) fn kind_of(instruction: &Instruction) -> Option<&'static Kind> {
    move_kind(instruction)
        .or_else(|| flag_and_time_kind(instruction.mnemonic()))
        .or_else(|| table_kind(instruction.mnemonic()))
        .or_else(|| port_and_cache_kind(instruction.mnemonic()))
        .or_else(|| other_kind(instruction.mnemonic()))
}

/// Moves to and from control, debug and segment registers.
fn move_kind(instruction: &Instruction) -> Option<&'static Kind> {
    let (to, from) = (instruction.op0_register(), instruction.op1_register());
    Some(match instruction.code() {
        Code::Mov_cr_r64 | Code::Mov_cr_r32 => match to {
            Register::CR0 => kind!(Emulated, "mov cr0, reg", "the TS bit is kept, nothing else"),
            Register::CR2 => kind!(Emulated, "mov cr2, reg", "kept in vcpu_info"),
            Register::CR3 => kind!(Emulated, "mov cr3, reg", "as mmuext_op new_baseptr"),
            Register::CR4 => kind!(Emulated, "mov cr4, reg", "kept as a number to read again"),
            _ => kind!(Faults, "mov cr8, reg", "general protection"),
        },
        Code::Mov_r64_cr | Code::Mov_r32_cr => match from {
            Register::CR0 => kind!(Emulated, "mov reg, cr0", "PG AM WP NE ET MP PE, and TS"),
            Register::CR2 => kind!(Emulated, "mov reg, cr2", "the address in vcpu_info"),
            Register::CR3 => kind!(Emulated, "mov reg, cr3", "the frame of the kernel's table"),
            Register::CR4 => kind!(Emulated, "mov reg, cr4", "the value that was written, and PAE"),
            _ => kind!(Faults, "mov reg, cr8", "general protection"),
        },
        Code::Mov_dr_r64 | Code::Mov_dr_r32 => {
            kind!(Emulated, "mov dr, reg", "as set_debugreg")
        }
        Code::Mov_r64_dr | Code::Mov_r32_dr => {
            kind!(Emulated, "mov reg, dr", "as get_debugreg")
        }
        Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16 => kind!(
            Native,
            "mov sreg, reg",
            "loads from the partition's own tables; a selector of DPL below 3 faults"
        ),
        _ => return None,
    })
}

/// Flags, time, returns.
fn flag_and_time_kind(mnemonic: Mnemonic) -> Option<&'static Kind> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Cli => kind!(
            Ignored,
            "cli",
            "no effect after set_iopl 1 (else it faults): events are masked in vcpu_info"
        ),
        M::Sti => kind!(
            Ignored,
            "sti",
            "no effect after set_iopl 1 (else it faults): events are unmasked in vcpu_info"
        ),
        M::Popf | M::Popfd | M::Popfq => {
            kind!(Native, "popf", "no fault, and IF and IOPL do not change")
        }
        M::Pushf | M::Pushfd | M::Pushfq => {
            kind!(Native, "pushf", "shows IF set whatever the event mask says")
        }
        M::Iret | M::Iretd | M::Iretq => {
            kind!(
                Native,
                "iret",
                "within ring 3 only: IF stays, a selector of RPL 0 faults; the hypercall iret does the rest"
            )
        }
        M::Hlt => kind!(Emulated, "hlt", "as sched_op block: unmasks events and waits"),
        M::Rdtsc => kind!(Native, "rdtsc", "the CPU's counter"),
        M::Rdtscp => kind!(Native, "rdtscp", "the CPU's counter, and the partition's TSC_AUX"),
        M::Rdpmc => kind!(Faults, "rdpmc", "general protection: there are no counters"),
        M::Cpuid => kind!(Native, "cpuid", "the CPU's own answer, not the monitor's"),
        M::Clac | M::Stac => {
            kind!(Faults, "clac, stac", "invalid opcode; CPUID does not show SMAP")
        }
        _ => return None,
    })
}

/// Descriptor tables, system calls, segment bases.
fn table_kind(mnemonic: Mnemonic) -> Option<&'static Kind> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Lgdt => kind!(Hypercall, "lgdt", "general protection; use set_gdt"),
        M::Lidt => kind!(Hypercall, "lidt", "general protection; use set_trap_table"),
        M::Lldt => kind!(Hypercall, "lldt", "general protection; use mmuext_op set_ldt"),
        M::Ltr => kind!(Hypercall, "ltr", "general protection; use stack_switch"),
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => kind!(
            Emulated,
            "sgdt, sidt, sldt, str, smsw",
            "zeros, and the kernel's CR0; where the CPU has no UMIP they show the monitor's tables"
        ),
        M::Lmsw => kind!(Faults, "lmsw", "general protection"),
        M::Lar | M::Lsl | M::Verr | M::Verw => kind!(
            Native,
            "lar, lsl, verr, verw",
            "look at the descriptors that the CPU uses, the monitor's among them"
        ),
        M::Swapgs => kind!(
            Hypercall,
            "swapgs",
            "general protection; the monitor swaps, set_segment_base sets"
        ),
        M::Sysret | M::Sysretq | M::Sysexit | M::Sysexitq => {
            kind!(Hypercall, "sysret, sysexit", "general protection; use the hypercall iret")
        }
        M::Syscall => kind!(Native, "syscall", "a hypercall"),
        M::Sysenter => kind!(Faults, "sysenter", "general protection"),
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => kind!(
            Hypercall,
            "rdfsbase, wrgsbase and the like",
            "invalid opcode until the kernel sets CR4.FSGSBASE, which CPUID does not show; use \
            set_segment_base or the MSRs"
        ),
        _ => return None,
    })
}

/// Ports, MSRs, caches, the TLB.
fn port_and_cache_kind(mnemonic: Mnemonic) -> Option<&'static Kind> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::In => {
            kind!(Emulated, "in", "all ones after set_iopl 1 (else it faults): no port is there")
        }
        M::Out => kind!(Ignored, "out", "no effect after set_iopl 1 (else it faults)"),
        M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd => {
            kind!(Faults, "ins, outs", "general protection")
        }
        M::Rdmsr => kind!(
            Emulated,
            "rdmsr",
            "segment bases, EFER, PAT, APIC base, TSC_AUX and a few zeros; else general protection"
        ),
        M::Wrmsr => kind!(Emulated, "wrmsr", "segment bases and TSC_AUX; else general protection"),
        M::Invlpg => {
            kind!(Hypercall, "invlpg", "general protection; use mmuext_op invlpg_local")
        }
        M::Invpcid | M::Invlpga | M::Invlpgb | M::Tlbsync => {
            kind!(Faults, "invpcid, invlpgb", "general protection; CPUID does not show them")
        }
        M::Invd | M::Wbinvd => kind!(
            Ignored,
            "wbinvd, invd",
            "no effect: a partition's memory is cached the same everywhere"
        ),
        M::Wbnoinvd => kind!(Faults, "wbnoinvd", "general protection"),
        M::Clts => kind!(Emulated, "clts", "as fpu_taskswitch 0"),
        M::Xsetbv => kind!(Emulated, "xsetbv", "XCR0 within what is offered"),
        M::Xsaves | M::Xsaves64 | M::Xrstors | M::Xrstors64 => {
            kind!(Faults, "xsaves, xrstors", "general protection; CPUID does not show them")
        }
        _ => return None,
    })
}

/// Virtualization, and the other instructions that only ring 0 may execute.
fn other_kind(mnemonic: Mnemonic) -> Option<&'static Kind> {
    use Mnemonic as M;
    Some(match mnemonic {
        M::Vmcall | M::Vmmcall => kind!(Faults, "vmcall, vmmcall", "invalid opcode"),
        M::Vmlaunch
        | M::Vmresume
        | M::Vmxon
        | M::Vmxoff
        | M::Vmptrld
        | M::Vmptrst
        | M::Vmclear
        | M::Vmread
        | M::Vmwrite
        | M::Invept
        | M::Invvpid
        | M::Vmfunc
        | M::Vmrun
        | M::Vmload
        | M::Vmsave
        | M::Stgi
        | M::Clgi
        | M::Skinit => {
            kind!(
                Faults,
                "vmlaunch, vmrun and the like",
                "a fault: there is no virtualization to use"
            )
        }
        M::Monitor | M::Mwait | M::Monitorx | M::Mwaitx => {
            kind!(Faults, "monitor, mwait", "invalid opcode; CPUID does not show them")
        }
        M::Rsm => kind!(Faults, "rsm", "invalid opcode"),
        M::Getsec | M::Encls | M::Enclv | M::Pconfig => {
            kind!(Faults, "getsec, encls, pconfig", "a fault: CPUID does not show them")
        }
        _ => return None,
    })
}
