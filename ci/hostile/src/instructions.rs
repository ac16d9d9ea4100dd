//! Attempts of ring 3 without any call: privileged instructions, software interrupts, addresses of
//! the monitor, and flags and selectors that make ring 0's own instructions fault.
//!
//! Each attempt is a few bytes of machine code that a child process runs. Rule: only the end of the
//! child is checked; the host and the kernel must keep running.

/// The allowed ends of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// The child ends by a signal, because the instruction faulted.
    Faults,
    /// The child ends by a signal, or returns from the code; both leave the host as it was.
    Somehow,
    /// The child returns from the code.
    Returns,
}

/// Machine code, the danger it stands for, and its required end.
#[derive(Clone, Debug)]
pub struct Code {
    /// The name, which is unique.
    pub name: String,
    /// The danger that the code stands for.
    pub stands_for: &'static str,
    /// The bytes; a return instruction follows them.
    pub bytes: Vec<u8>,
    /// The required end.
    pub ends: Ends,
}

/// Instructions that only ring 0 may run.
const PRIVILEGED: [(&str, &[u8]); 33] = [
    ("cli", &[0xfa]),
    ("sti", &[0xfb]),
    ("hlt", &[0xf4]),
    ("in", &[0xec]),
    ("in, immediate", &[0xe4, 0x80]),
    ("out", &[0xee]),
    ("out to the debug-exit port", &[0xe6, 0xf4]),
    ("clts", &[0x0f, 0x06]),
    ("invd", &[0x0f, 0x08]),
    ("wbinvd", &[0x0f, 0x09]),
    ("mov from cr0", &[0x0f, 0x20, 0xc0]),
    ("mov to cr0", &[0x0f, 0x22, 0xc0]),
    ("mov to cr3", &[0x0f, 0x22, 0xd8]),
    ("mov to cr4", &[0x0f, 0x22, 0xe0]),
    ("mov from dr7", &[0x0f, 0x21, 0xf8]),
    ("mov to dr7", &[0x0f, 0x23, 0xf8]),
    ("rdmsr of EFER", &[0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32]),
    ("wrmsr of EFER", &[0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x30]),
    ("wrmsr of the kernel's GS base", &[0xb9, 0x02, 0x01, 0x00, 0xc0, 0x0f, 0x30]),
    ("lgdt", &[0x0f, 0x01, 0x14, 0x24]),
    ("lidt", &[0x0f, 0x01, 0x1c, 0x24]),
    ("lldt", &[0x0f, 0x00, 0xd0]),
    ("ltr", &[0x0f, 0x00, 0xd8]),
    ("lmsw", &[0x0f, 0x01, 0xf0]),
    ("invlpg", &[0x0f, 0x01, 0x3c, 0x24]),
    ("swapgs", &[0x0f, 0x01, 0xf8]),
    ("sysret", &[0x48, 0x0f, 0x07]),
    ("sysexit", &[0x48, 0x0f, 0x35]),
    ("xsetbv", &[0x0f, 0x01, 0xd1]),
    ("rdpmc", &[0x0f, 0x33]),
    ("rsm", &[0x0f, 0xaa]),
    // Ring 3 could run this one, but the kernel has not enabled it.
    ("rdfsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xc0]),
    ("wrgsbase", &[0xf3, 0x48, 0x0f, 0xae, 0xd8]),
];

/// Selectors of more privileged rings, with their names.
const SELECTORS: [(&str, u16); 4] = [
    ("ring 0 code of the kernel's table", 0x10),
    ("flat ring 0 stack", 0xe028),
    ("past the descriptor table", 0xfff8),
    ("task state of the CPU", 0xe040),
];

/// All code that a child is to run. `ldt` is the selector of a data segment, present and not
/// accessed, in the local descriptor table.
pub fn all(ldt: u16) -> Vec<Code> {
    let mut all: Vec<_> = PRIVILEGED
        .iter()
        .map(|(name, bytes)| Code {
            name: (*name).into(),
            stands_for: "the monitor does nothing privileged for a program",
            bytes: bytes.to_vec(),
            ends: Ends::Faults,
        })
        .collect();
    all.extend(describing());
    all.extend(interrupts());
    all.extend(crate::wild::MONITOR.into_iter().flat_map(memory));
    all.extend(crate::wild::NOT_CANONICAL.map(|address| jump(address, Ends::Faults)));
    all.extend(returns());
    all.extend(SELECTORS.map(|(name, selector)| Code {
        name: format!("ds = {name}"),
        stands_for: "a selector of a higher ring is no selector of ours",
        bytes: load_es(selector),
        ends: Ends::Somehow,
    }));
    all.push(Code {
        name: "es = segment that was not accessed".into(),
        stands_for: "the CPU marks a segment as accessed in a table that nobody may write",
        bytes: [load_es(ldt), load_es(0)].concat(),
        ends: Ends::Somehow,
    });
    all.extend(flags());
    all
}

/// Instructions that read the CPU's tables. The monitor executes them for a program and leaves out
/// what belongs to the monitor.
fn describing() -> Vec<Code> {
    let code = |name: &str, bytes: &[u8], ends| Code {
        name: name.into(),
        stands_for: "the monitor stores for a program only where the program may write",
        bytes: bytes.to_vec(),
        ends,
    };
    let mut all = vec![
        code("sgdt", &[0x0f, 0x01, 0x44, 0x24, 0xc0], Ends::Returns),
        code("sidt", &[0x0f, 0x01, 0x4c, 0x24, 0xc0], Ends::Returns),
        code("sldt", &[0x0f, 0x00, 0xc0], Ends::Returns),
        code("smsw", &[0x0f, 0x01, 0xe0], Ends::Returns),
    ];
    for address in crate::wild::MONITOR.into_iter().chain(crate::wild::NOT_CANONICAL) {
        let bytes = [load_rax(address), vec![0x0f, 0x01, 0x00]].concat();
        all.push(code(&format!("sgdt to {address:#x}"), &bytes, Ends::Faults));
    }
    all
}

/// `int n` with vectors that the hardware, the monitor and the kernel use.
fn interrupts() -> Vec<Code> {
    let code = |vector: u8| Code {
        name: format!("int {vector:#x}"),
        stands_for: "XSA-196: a software interrupt reaches the gates that are meant for it",
        bytes: vec![0xcd, vector],
        ends: Ends::Faults,
    };
    [0, 2, 6, 8, 0xd, 0xe, 0x12, 0x20, 0x30, 0x81, 0xd0, 0xf0, 0xfe, 0xff].map(code).into()
}

/// `mov rax, address`.
fn load_rax(address: u64) -> Vec<u8> {
    [&[0x48, 0xb8][..], &address.to_le_bytes()].concat()
}

fn jump(address: u64, ends: Ends) -> Code {
    Code {
        name: format!("jump to {address:#x}"),
        stands_for: "no page of the monitor is within reach of ring 3",
        bytes: [load_rax(address), vec![0xff, 0xe0]].concat(),
        ends,
    }
}

/// Reads, writes and executes an address of the monitor.
fn memory(address: u64) -> Vec<Code> {
    let code = |what: &str, bytes: &[u8], ends| Code {
        name: format!("{what} {address:#x}"),
        stands_for: "no page of the monitor is within reach of ring 3",
        bytes: [load_rax(address), bytes.to_vec()].concat(),
        ends,
    };
    vec![
        // The machine-to-physical table is readable for kernels only.
        code("read", &[0x48, 0x8b, 0x00], Ends::Faults),
        code("write", &[0x48, 0x89, 0x00], Ends::Faults),
        code("add, locked,", &[0xf0, 0x48, 0x01, 0x00], Ends::Faults),
        code("take as stack", &[0x48, 0x89, 0xc4, 0x50], Ends::Faults),
        jump(address, Ends::Faults),
    ]
}

/// `iretq` and far returns to more privileged rings.
fn returns() -> Vec<Code> {
    // push 0x2b; push rsp; push 0x202; push <cs>; call +0; iretq
    let iret = |cs: u8| {
        vec![0x6a, 0x2b, 0x54, 0x68, 0x02, 0x02, 0, 0, 0x6a, cs, 0xe8, 0, 0, 0, 0, 0x48, 0xcf]
    };
    // push <cs>; call +0; retfq
    let far = |cs: u8| vec![0x6a, cs, 0xe8, 0, 0, 0, 0, 0x48, 0xcb];
    let code = |name: &str, bytes| Code {
        name: name.into(),
        stands_for: "a return leads to ring 3",
        bytes,
        ends: Ends::Faults,
    };
    vec![
        code("iretq to ring 0", iret(0x08)),
        code("iretq to ring 1", iret(0x09)),
        code("far return to ring 0", far(0x08)),
        code("far return to nothing", far(0x00)),
    ]
}

/// `mov eax, selector; mov es, ax`.
fn load_es(selector: u16) -> Vec<u8> {
    let [low, high] = selector.to_le_bytes();
    vec![0xb8, low, high, 0, 0, 0x8e, 0xc0]
}

/// System calls with flags set that the monitor must not inherit.
fn flags() -> Vec<Code> {
    // pushfq; or dword ptr [rsp], <flag>; popfq; mov eax, 39 (getpid); syscall;
    // pushfq; and dword ptr [rsp], ~<flag>; popfq
    let system_call = |flag: u32| {
        let mut code = vec![0x9c, 0x81, 0x0c, 0x24];
        code.extend(flag.to_le_bytes());
        code.extend([0x9d, 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0x9c, 0x81, 0x24, 0x24]);
        code.extend((!flag).to_le_bytes());
        code.push(0x9d);
        code
    };
    let code = |name: &str, flag, ends| Code {
        name: format!("system call with {name}"),
        stands_for: "XSA-202: ring 0 does not run with flags of ring 3",
        bytes: system_call(flag),
        ends,
    };
    vec![
        code("single step", 1 << 8, Ends::Somehow),
        code("nested task", 1 << 14, Ends::Returns),
        code("alignment check", 1 << 18, Ends::Somehow),
        code("direction", 1 << 10, Ends::Returns),
        Code {
            name: "forced emulation, cut short".into(),
            stands_for: "XSA-200: an emulated instruction is exact in its bytes",
            bytes: vec![0x0f, 0x0b, 0x78, 0x65, 0x6e, 0x0f, 0x0b],
            ends: Ends::Faults,
        },
        Code {
            name: "sysenter".into(),
            stands_for: "an entry to ring 0 that has no stack of its own",
            bytes: vec![0x0f, 0x34],
            ends: Ends::Somehow,
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_code_is_short() {
        let all = all(0x1f);
        let mut names: Vec<_> = all.iter().map(|code| &code.name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|code| code.bytes.len() < 64));
    }

    #[test]
    fn no_address_of_the_monitor_may_be_touched() {
        let all: Vec<_> = crate::wild::MONITOR.into_iter().flat_map(memory).collect();
        assert!(all.iter().all(|code| code.ends == Ends::Faults));
    }
}
