//! A test option: the monitor's refusal of an action, made up here.
//!
//! `inject=refuse:N` refuses the N-th action that requests ask of the monitor, from the first
//! start on. `inject=sweep` refuses the first action asked for by the command partition, then the
//! second after that refusal, then the third, and so on: whoever repeats a piece of work until it
//! succeeds has seen it refused at each action.
//!
//! Rule: nothing is refused that no option asked for, and never what takes something back.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The action that is refused; 0: none.
static AT: AtomicU32 = AtomicU32::new(0);
/// Actions since the last that was refused.
static COUNT: AtomicU32 = AtomicU32::new(0);
/// Each refusal is one action later than the one before.
static SWEEP: AtomicBool = AtomicBool::new(false);
/// The command partition asks.
static COMMAND_ASKS: AtomicBool = AtomicBool::new(false);

/// Takes the option's value; returns whether it is one.
pub fn set(value: &str) -> bool {
    if value == "sweep" {
        SWEEP.store(true, Ordering::Relaxed);
        AT.store(1, Ordering::Relaxed);
        return true;
    }
    match value.strip_prefix("refuse:").map(str::parse) {
        Some(Ok(at @ 1..)) => {
            AT.store(at, Ordering::Relaxed);
            true
        }
        _ => false,
    }
}

/// Who asks for the actions that come.
pub fn asked_by(client: u32) {
    let command = client == pv_abi::uv::database::COMMAND;
    COMMAND_ASKS.store(command, Ordering::Relaxed);
}

/// Whether the next action is refused.
pub fn refuses() -> bool {
    let at = AT.load(Ordering::Relaxed);
    let sweep = SWEEP.load(Ordering::Relaxed);
    if at == 0 || (sweep && !COMMAND_ASKS.load(Ordering::Relaxed)) {
        return false;
    }
    if COUNT.fetch_add(1, Ordering::Relaxed) + 1 != at {
        return false;
    }
    COUNT.store(0, Ordering::Relaxed);
    AT.store(if sweep { at + 1 } else { 0 }, Ordering::Relaxed);
    true
}
