//! Makes the files that a machine boots: RAM disks, and the image with the host in it.

pub mod boot_image;
pub mod command_image;
pub mod cpio;
pub mod guest_disk;
pub mod guest_image;
pub mod host;
pub mod modules;
pub mod state_disk;
