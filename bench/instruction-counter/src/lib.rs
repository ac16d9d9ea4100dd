//! A plugin for QEMU's translator. It counts the instructions that a machine executes in all its
//! rings and address spaces, and writes the count whenever the machine passes a mark.
//!
//! The machine's clock would not do: under `-icount` it goes on while the CPU is halted, so a
//! difference of times is instructions and idle time. This plugin counts only executed
//! instructions.
//!
//! ```text
//! -plugin libinstruction_counter.so,out=FILE[,profile=on|,stays=on]
//!
//! mark NUMBER COUNT        a line for each mark, instructions since the machine started
//! at ADDRESS CODE COUNT    with profile=on, after each mark: instructions since the mark before it,
//!                          by the address at which a translated block begins and by its first
//!                          instruction (both hexadecimal), which tells address spaces apart
//!
//! With stays=on, no marks, but whenever a stay in ring 0 is the longest of its kind so far:
//! stay COUNT CPU ADDRESS   its instructions, and the address where the CPU came in (hexadecimal)
//! at ADDRESS COUNT         what of them is the block's that begins at the address
//! end
//! ```
//!
//! Every instruction adds one to a cell of the block that it was translated in; a mark sums the
//! cells. An instruction that faults is counted again when it is executed again, and a repeated
//! string instruction counts once for each repetition, as under `-icount`.
//!
//! The plugin works only if all virtual CPUs of the machine share one thread, because cells are
//! plain memory to QEMU.

mod qemu;
mod stays;

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The counts, and the file that they are written to.
struct Counter {
    out: File,
    profile: bool,
    /// Whether stays in ring 0 are recorded instead of marks.
    stays: bool,
    /// The blocks: each has its cell, and the cell's value at the last mark.
    blocks: HashMap<Key, (&'static AtomicU64, u64)>,
}

/// Identifies a block: its address and its first instruction.
type Key = (u64, Vec<u8>);

static COUNTER: OnceLock<Mutex<Counter>> = OnceLock::new();

impl Counter {
    /// Reads the plugin's arguments.
    fn new<'a>(arguments: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let (mut out, mut profile, mut stays) = (None, false, false);
        for argument in arguments {
            match argument.split_once('=') {
                Some(("out", path)) => out = Some(path),
                Some(("profile", "on")) => profile = true,
                Some(("profile", "off")) => profile = false,
                Some(("stays", "on")) => stays = true,
                _ => {
                    return Err(format!(
                        "{argument}: there are out=FILE, profile=on|off, stays=on"
                    ));
                }
            }
        }
        let path = out.ok_or("out=FILE is missing")?;
        let out = File::create(path).map_err(|error| format!("{path}: {error}"))?;
        Ok(Self { out, profile, stays, blocks: HashMap::new() })
    }

    /// Returns the cell of a block. If no profile is wanted, all blocks share one cell.
    fn cell(&mut self, block: &qemu::Block) -> &'static AtomicU64 {
        let first = block.instructions().next().filter(|_| self.profile);
        let key = first.map_or((0, Vec::new()), |code| (block.address(), code.bytes().to_vec()));
        self.blocks.entry(key).or_insert_with(|| (Box::leak(Box::default()), 0)).0
    }

    /// Writes the counts at a mark.
    fn mark(&mut self, number: u64) -> std::io::Result<()> {
        let (mut total, mut text) = (0_u64, String::new());
        for ((address, code), (cell, last)) in &mut self.blocks {
            let count = cell.load(Ordering::Relaxed);
            total += count;
            if self.profile && count > *last {
                let code: String = code.iter().map(|byte| format!("{byte:02x}")).collect();
                let _ = writeln!(text, "at {address:x} {code} {}", count - *last);
            }
            *last = count;
        }
        self.out.write_all(format!("mark {number} {total}\n{text}").as_bytes())
    }
}

/// Starts the plugin; returns 0 if it counts.
fn install(plugin: qemu::Plugin, arguments: &[&str]) -> i32 {
    let counter = match Counter::new(arguments.iter().copied()) {
        Ok(counter) => counter,
        Err(problem) => {
            eprintln!("instruction-counter: {problem}");
            return 1;
        }
    };
    if counter.stays {
        return i32::from(!stays::start(plugin, counter.out));
    }
    // QEMU installs a plugin once.
    if COUNTER.set(Mutex::new(counter)).is_err() {
        return 1;
    }
    qemu::on_translation(plugin, translated);
    0
}

/// Instruments a translated block: every instruction is counted, and its marks are written.
fn translated(block: &qemu::Block) {
    let Some(counter) = COUNTER.get() else {
        return;
    };
    let cell = counter.lock().unwrap_or_else(PoisonError::into_inner).cell(block);
    for instruction in block.instructions() {
        instruction.count(cell);
        if let Some(number) = marks::number(instruction.bytes()) {
            instruction.call(passed, usize::from(number) as *mut c_void);
        }
    }
}

/// QEMU calls this when a mark is executed.
extern "C" fn passed(_cpu: u32, number: *mut c_void) {
    let Some(counter) = COUNTER.get() else {
        return;
    };
    let mut counter = counter.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = counter.mark(number.addr() as u64) {
        eprintln!("instruction-counter: {error}");
    }
}
