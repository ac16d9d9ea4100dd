//! Marks are instructions without effect. With them, a program inside the machine shows QEMU's
//! instruction counter (`bench/instruction-counter`) where it is.
//!
//! A mark is a no-operation with an operand that no compiler generates: it touches neither memory
//! nor registers, needs no privilege, and is harmless on a machine without a counter. So the same
//! program can be counted in a process, in a kernel and in a guest, on any hypervisor.
//!
//! ```text
//! 0f 1f 84 00 | nn 4d 56 55    nopl 0x55564dnn(%rax,%rax)    nn: number of the mark
//! ```
#![no_std]

/// The operand's displacement without the mark's number.
pub const BASE: u32 = 0x5556_4d00;
/// The instruction's bytes before the displacement (Intel SDM vol. 2, NOP: 0F 1F /0).
pub const OPCODE: [u8; 4] = [0x0f, 0x1f, 0x84, 0x00];

/// A command that creates a guest is about to be started.
pub const CREATE: u8 = 1;
/// A guest's first instruction.
pub const GUEST_STARTED: u8 = 2;
/// A command that created a guest has ended.
pub const CREATED: u8 = 3;
/// The first line of a guest's console was read.
pub const FIRST_LINE: u8 = 4;
/// A command that destroys a guest is about to be started.
pub const DESTROY: u8 = 5;
/// A command that destroyed a guest has ended.
pub const DESTROYED: u8 = 6;
/// A command that creates a guest and shows its console is about to be started.
pub const CREATE_WITH_CONSOLE: u8 = 7;

/// The part to profile begins.
pub const BEGIN: u8 = 8;
/// The part to profile has ended.
pub const END: u8 = 9;

/// The number of the mark, if the instruction is a mark.
pub fn number(instruction: &[u8]) -> Option<u8> {
    let displacement = instruction.strip_prefix(&OPCODE)?;
    let [number, rest @ ..] = u32::from_le_bytes(displacement.try_into().ok()?).to_le_bytes();
    (rest == [0x4d, 0x56, 0x55]).then_some(number)
}

/// Passes the mark `NUMBER`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(unsafe_code, reason = "an instruction that no function stands for")]
pub fn pass<const NUMBER: u8>() {
    // SAFETY: the instruction is a no-operation, whose operand is computed and not used. The
    // compiler does not move memory accesses across it.
    unsafe {
        core::arch::asm!(
            "nop dword ptr [rax + rax + {displacement}]",
            displacement = const BASE + NUMBER as u32,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_told_from_other_instructions() {
        assert_eq!(number(&[0x0f, 0x1f, 0x84, 0, 7, 0x4d, 0x56, 0x55]), Some(7));
        // Assemblers fill gaps with this instruction.
        assert_eq!(number(&[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0]), None);
        assert_eq!(number(&[0x0f, 0x1f, 0x84, 0, 7, 0x4d, 0x56]), None);
        assert_eq!(number(&[0x90]), None);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    #[expect(unsafe_code, reason = "looks at code")]
    fn what_is_passed_is_a_mark() {
        #[inline(never)]
        extern "C" fn passes() {
            pass::<9>();
        }
        passes();
        let start = passes as *const () as *const u8;
        // SAFETY: the code of this program goes on for more than 64 bytes after the function's
        // start.
        let code = unsafe { core::slice::from_raw_parts(start, 64) };
        assert_eq!(code.windows(8).find_map(number), Some(9));
    }
}
