//! The tasks of `cargo xtask`: it builds the host, makes its bootable image, and boots it in QEMU.
//!
//! It is a library so that the nested scenarios of `ci` use the same code as the commands.
#![forbid(unsafe_code)]

pub mod bench;
pub mod bench_create;
pub mod bench_paths;
pub mod bench_scale;
pub mod boot_image;
pub mod checks;
pub mod command_image;
pub mod cpio;
pub mod debian;
pub mod exec;
pub mod floors;
pub mod guest_image;
pub mod host;
pub mod hv_build;
pub mod interrupt;
pub mod kernel;
pub mod machine;
pub mod metrics;
pub mod modules;
pub mod options;
pub mod pipes;
pub mod prompt;
pub mod provision;
pub mod qemu;
pub mod source;
pub mod stays;
pub mod terminal;
pub mod workspace;
pub mod xen_tools;

pub use kernel_image::confined::serve_if_asked;
