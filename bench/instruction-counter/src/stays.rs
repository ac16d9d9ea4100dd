//! The longest stays in ring 0: how many instructions a CPU executes from its entry into the
//! monitor until it leaves for ring 3, or halts.
//!
//! Only the CPU's own instructions count. Instructions that other CPUs execute while this CPU waits
//! for them are theirs, so the count does not depend on how QEMU shares its one thread among the
//! CPUs.
//!
//! A block of the monitor's part of the address space is in ring 0. `iretq`, `sysretq` and `hlt`
//! there may end a stay. It has ended if the CPU's next block there is an entry: a stub of a
//! vector, which begins with a push of a constant, or the entry page, which begins by saving rsp.
//! (An `iretq` from a fault that ring 0 recovers from continues elsewhere in ring 0.)

#![expect(unsafe_code, reason = "QEMU hands addresses of blocks back")]

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::qemu;

/// Addresses of ring 0: level-4 slots 256 to 271.
const RING_0: Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;
/// Shorter stays are not recorded.
const LEAST: u64 = 2_000;
/// First bytes of the first instruction of an entry: `push imm8`, `push imm32`, `mov [rip + ..],
/// rsp`.
const ENTRIES: [&[u8]; 3] = [&[0x6a], &[0x68], &[0x48, 0x89, 0x25]];
/// `iretq`, `sysretq`, `hlt`.
const EXITS: [&[u8]; 3] = [&[0x48, 0xcf], &[0x48, 0x0f, 0x07], &[0xf4]];

/// A translated block of ring 0.
struct Block {
    address: u64,
    instructions: u64,
    is_entry: bool,
}

/// The state of a CPU.
#[derive(Default)]
struct Cpu {
    /// Whether it has left ring 0 once; before that, it ran the monitor's start-up.
    started: bool,
    /// Whether it executed an exit.
    left: bool,
    instructions: u64,
    blocks: Vec<&'static Block>,
}

/// The state of all CPUs.
struct Stays {
    out: File,
    cpus: Vec<Cpu>,
    /// The longest stay by its entry and the block that took most of it.
    longest: HashMap<(u64, u64), u64>,
}

static STAYS: OnceLock<Mutex<Stays>> = OnceLock::new();

/// Starts recording stays in `out`.
pub fn start(plugin: qemu::Plugin, out: File) -> bool {
    let stays = Stays { out, cpus: Vec::new(), longest: HashMap::new() };
    let first = STAYS.set(Mutex::new(stays)).is_ok();
    qemu::on_translation(plugin, translated);
    first
}

fn translated(block: &qemu::Block) {
    let address = block.address();
    if !RING_0.contains(&address) {
        return;
    }
    let Some(first) = block.instructions().next() else {
        return;
    };
    let is = |kinds: [&[u8]; 3], bytes: &[u8]| kinds.iter().any(|kind| bytes.starts_with(kind));
    let instructions = block.instructions().count() as u64;
    let is_entry = is(ENTRIES, first.bytes());
    let found = Box::leak(Box::new(Block { address, instructions, is_entry }));
    first.call(executed, std::ptr::from_mut(found).cast());
    for instruction in block.instructions().filter(|one| is(EXITS, one.bytes())) {
        instruction.call(left, std::ptr::null_mut());
    }
}

/// Calls `act` with the state of a CPU.
fn with(cpu: u32, act: impl FnOnce(&mut Stays, usize)) {
    let Some(stays) = STAYS.get() else {
        return;
    };
    let mut stays = stays.lock().unwrap_or_else(PoisonError::into_inner);
    let cpu = cpu as usize;
    if stays.cpus.len() <= cpu {
        stays.cpus.resize_with(cpu + 1, Cpu::default);
    }
    act(&mut stays, cpu);
}

/// QEMU calls this when a CPU begins a block of ring 0.
extern "C" fn executed(cpu: u32, block: *mut c_void) {
    // SAFETY: `translated` passes blocks that live for ever and never change.
    let block: &'static Block = unsafe { &*block.cast() };
    with(cpu, |stays, cpu| {
        let state = &mut stays.cpus[cpu];
        if std::mem::take(&mut state.left) && block.is_entry {
            stays.note(cpu);
        }
        let state = &mut stays.cpus[cpu];
        if state.started {
            state.instructions += block.instructions;
            state.blocks.push(block);
        }
    });
}

/// QEMU calls this when a CPU is about to execute an exit of ring 0.
extern "C" fn left(cpu: u32, _: *mut c_void) {
    with(cpu, |stays, cpu| {
        let state = &mut stays.cpus[cpu];
        (state.started, state.left) = (true, true);
    });
}

impl Stays {
    /// Records the stay that has ended, if it is the longest of its kind by a twentieth.
    fn note(&mut self, cpu: usize) {
        let state = &mut self.cpus[cpu];
        let count = std::mem::take(&mut state.instructions);
        let blocks = std::mem::take(&mut state.blocks);
        let Some(entry) = blocks.first().filter(|_| count >= LEAST) else {
            // The allocation is kept for the next stay.
            state.blocks = blocks;
            state.blocks.clear();
            return;
        };
        let mut shares = HashMap::<u64, u64>::new();
        for block in &blocks {
            *shares.entry(block.address).or_default() += block.instructions;
        }
        let most = shares.iter().max_by_key(|(_, share)| **share).map_or(0, |(most, _)| *most);
        let longest = self.longest.entry((entry.address, most)).or_default();
        if count <= *longest + *longest / 20 {
            return;
        }
        *longest = count;
        let mut text = format!("stay {count} {cpu} {:x}\n", entry.address);
        for (address, share) in shares {
            let _ = writeln!(text, "at {address:x} {share}");
        }
        text.push_str("end\n");
        if let Err(error) = self.out.write_all(text.as_bytes()) {
            eprintln!("instruction-counter: {error}");
        }
    }
}
