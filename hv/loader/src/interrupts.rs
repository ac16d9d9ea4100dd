//! The interrupt descriptor table, one for all CPUs.

use handover::layout::RING0_CS;

/// The privilege that a partition needs to raise `vector` by an instruction.
fn gate_privilege(vector: usize) -> u64 {
    if matches!(vector, 3 | 4 | 0x80) { 3 } else { 0 }
}

/// The interrupt stack that `vector` uses; 0 is the main stack.
fn gate_stack(vector: usize) -> u64 {
    match vector {
        8 => 1,
        2 => 2,
        // A debug exception can come in ring 0 before it has a stack of its own (after `mov ss`,
        // then `syscall`). Machine checks share the stack, since the last one never returns.
        1 | 18 => 3,
        _ => 0,
    }
}

/// The table for stubs of 16 bytes each, which start at address `stubs`.
#[must_use]
pub fn table(stubs: u64) -> [[u64; 2]; 256] {
    core::array::from_fn(|vector| {
        let stub = stubs + vector as u64 * 16;
        let kind = 0x8e | gate_privilege(vector) << 5;
        let low = (stub & 0xffff)
            | u64::from(RING0_CS) << 16
            | gate_stack(vector) << 32
            | kind << 40
            | (stub >> 16 & 0xffff) << 48;
        [low, stub >> 32]
    })
}
