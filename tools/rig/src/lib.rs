//! The test rig: builds the host, makes its bootable image, and boots it in QEMU.
//!
//! The commands of `cargo xtask`, the benchmarks and the nested scenarios of `ci` all use it.
#![forbid(unsafe_code)]

pub mod build;
pub mod image;
pub mod interrupt;
pub mod machine;
pub mod options;
pub mod workspace;

pub use kernel_image::confined::serve_if_asked;
