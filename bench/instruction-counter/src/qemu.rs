//! QEMU's interface for plugins, as far as this plugin uses it: version 1, of QEMU 4.2 to 8.
//!
//! It follows QEMU's `docs/devel/tcg-plugins.rst` and the names that the program exports. Rule:
//! data that QEMU lends during a translation is visible only through [`Block`] and [`Instruction`],
//! which end with the translation.
#![expect(unsafe_code, reason = "calls from and into a C program")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

/// QEMU's identifier of this plugin.
pub type Plugin = u64;
/// A function that QEMU calls when an instruction is executed, with the virtual CPU and the
/// registered data.
pub type OnExecution = extern "C" fn(u32, *mut c_void);

/// QEMU's operation that adds to a 64-bit word.
const ADD_U64: c_int = 0;
/// The callback reads no registers.
const NO_REGISTERS: c_int = 0;

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(plugin: Plugin, call: extern "C" fn(Plugin, Handle));
    fn qemu_plugin_tb_n_insns(block: Handle) -> usize;
    fn qemu_plugin_tb_vaddr(block: Handle) -> u64;
    fn qemu_plugin_tb_get_insn(block: Handle, index: usize) -> Handle;
    fn qemu_plugin_insn_data(instruction: Handle) -> *const u8;
    fn qemu_plugin_insn_size(instruction: Handle) -> usize;
    fn qemu_plugin_register_vcpu_insn_exec_inline(
        instruction: Handle,
        operation: c_int,
        word: *mut u64,
        operand: u64,
    );
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: Handle,
        call: OnExecution,
        registers: c_int,
        data: *mut c_void,
    );
}

/// A pointer to an object of QEMU's.
type Handle = *mut c_void;

/// Tells QEMU which interface the plugin was made for.
// SAFETY: no other symbol of a plugin has this name.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = 1;

/// QEMU calls this once, before the machine starts.
///
/// # Safety
/// Only QEMU may call it.
// SAFETY: no other symbol of a plugin has this name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    plugin: Plugin,
    _about: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let text = |index| {
        // SAFETY: QEMU passes `count` strings that stay while this runs.
        let text = unsafe { CStr::from_ptr(*arguments.add(index)) };
        text.to_str().unwrap_or_default()
    };
    let arguments: Vec<_> = (0..usize::try_from(count).unwrap_or(0)).map(text).collect();
    crate::install(plugin, &arguments)
}

static ON_TRANSLATION: OnceLock<fn(&Block)> = OnceLock::new();

/// Registers `call` for each block that QEMU translates.
pub fn on_translation(plugin: Plugin, call: fn(&Block)) {
    let _ = ON_TRANSLATION.set(call);
    // SAFETY: `plugin` is the identifier that QEMU gave, and the function lives as long as the
    // process.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(plugin, translation) };
}

extern "C" fn translation(_plugin: Plugin, block: Handle) {
    if let Some(call) = ON_TRANSLATION.get() {
        call(&Block(block));
    }
}

/// A block that is being translated.
pub struct Block(Handle);

impl Block {
    /// The virtual address of its first instruction.
    pub fn address(&self) -> u64 {
        // SAFETY: the block is QEMU's and lives while it is translated.
        unsafe { qemu_plugin_tb_vaddr(self.0) }
    }

    /// Its instructions.
    pub fn instructions(&self) -> impl Iterator<Item = Instruction<'_>> {
        // SAFETY: as above.
        let count = unsafe { qemu_plugin_tb_n_insns(self.0) };
        // SAFETY: as above, and the index is below the count.
        let get = |index| unsafe { qemu_plugin_tb_get_insn(self.0, index) };
        (0..count).map(move |index| Instruction(get(index), PhantomData))
    }
}

/// An instruction of a block.
pub struct Instruction<'a>(Handle, PhantomData<&'a Block>);

impl Instruction<'_> {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: QEMU keeps the bytes with the block, which outlives this.
        unsafe {
            let size = qemu_plugin_insn_size(self.0);
            std::slice::from_raw_parts(qemu_plugin_insn_data(self.0), size)
        }
    }

    /// Adds one to a cell at each execution.
    pub fn count(&self, cell: &'static AtomicU64) {
        // SAFETY: the instruction lives, and the cell lives for ever. The one thread that runs the
        // machine's CPUs writes the cell, and reads it, too.
        unsafe { qemu_plugin_register_vcpu_insn_exec_inline(self.0, ADD_U64, cell.as_ptr(), 1) };
    }

    /// Calls a function at each execution.
    pub fn call(&self, call: OnExecution, data: *mut c_void) {
        // SAFETY: the instruction lives, and the function lives as long as the process; QEMU only
        // hands the data back.
        unsafe { qemu_plugin_register_vcpu_insn_exec_cb(self.0, call, NO_REGISTERS, data) };
    }
}
