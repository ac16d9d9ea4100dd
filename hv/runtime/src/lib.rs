//! The library of the Rust partitions: start-up, hypercalls, events, the mapping window.
//!
//! A Rust partition is one event loop on one virtual CPU. Events stay masked while it works; only
//! [`events::Events::wait`] lets them in, so nothing here is ever interrupted or reentered.
//!
//! * [`entry!`] names the function in which the partition starts; [`log!`] writes to the monitor's
//!   log; a panic or a fault is logged and ends the partition as crashed.
//! * [`partition`] gives access to the start block: modules, pages, frames. [`window`] maps other
//!   partitions' memory ([`grants`], [`building`]).
//! * [`devices`] drives functions of the machine.
//! * [`events`], [`time`], [`lead`] and [`hypercall`] are the calls to the monitor.
//! * `traps` has the entry points of traps and of the event upcall; kernels with another start code
//!   use them too.
//!
//! The rule it keeps: all machine-level `unsafe` code of a Rust partition is here. On a host target
//! hypercalls return `-ENOSYS` and there is no start block, so that everything compiles, and the
//! pure parts are tested there.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod building;
#[cfg(target_arch = "x86_64")]
mod bytes;
pub mod devices;
#[cfg(all(target_os = "none", feature = "start"))]
mod entry;
pub mod events;
pub mod grants;
pub mod heap;
pub mod hypercall;
pub mod lead;
pub mod log;
pub mod page_ranges;
pub mod partition;
pub mod pending;
pub mod scribble;
pub mod time;
#[cfg(target_os = "none")]
pub mod traps;
pub mod window;

/// Names the function in which a partition starts: `entry!(run);` where
/// `fn run(start: &'static StartBlock) -> !`. The function must not be called `main`.
///
/// The crate that uses it opens with `#![cfg_attr(target_os = "none", no_std, no_main)]`. On a host
/// target it makes a `main` that says where the program must run.
#[macro_export]
macro_rules! entry {
    ($run:path) => {
        #[cfg(target_os = "none")]
        const _: () = {
            /// The runtime calls this once the heap works.
            // SAFETY: the one definition of this symbol in a partition's image.
            #[allow(unsafe_code)]
            #[unsafe(no_mangle)]
            fn __partition_run(start: &'static $crate::StartBlock) -> ! {
                $crate::log::set_name(env!("CARGO_PKG_NAME"));
                let run: fn(&'static $crate::StartBlock) -> ! = $run;
                run(start)
            }
        };
        #[cfg(not(target_os = "none"))]
        fn main() {
            let _: fn(&'static $crate::StartBlock) -> ! = $run;
            panic!("this program is a partition: build it for x86_64-unknown-none");
        }
    };
}

pub use pv_abi::uv::start::StartBlock;
