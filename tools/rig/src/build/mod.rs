//! Builds our programs, and fetches programs of Debian: kernels, packages, Xen and its tools.

pub mod debian;
pub mod hv_build;
pub mod kernel;
pub mod provision;
pub mod xen_tools;
