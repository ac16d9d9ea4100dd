//! Rows of answers about partitions.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::name::ShortName;

/// A partition in short, so that a list of a thousand partitions costs little for each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListRow {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: ShortName,
    /// See [`pv_abi::uv::database::kind`].
    pub kind: u32,
    /// See [`pv_abi::uv::database::state`].
    pub state: u32,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Number of virtual CPUs that are up.
    pub vcpus_up: u32,
    /// Number of frames assigned to it.
    pub memory_frames: u64,
    /// Nanoseconds in which it ran.
    pub cpu_time: u64,
}

/// A partition as a query shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionRow {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// See [`pv_abi::uv::database::kind`].
    pub kind: u32,
    /// See [`pv_abi::uv::database::state`].
    pub state: u32,
    /// See [`pv_abi::uv::database::rights`].
    pub rights: u32,
    /// The partition that created it.
    pub owner: u32,
    /// Number of virtual CPUs.
    pub vcpus: u32,
    /// Number of virtual CPUs that are up.
    pub vcpus_up: u32,
    /// CPU weight.
    pub cpu_weight: u32,
    /// CPU cap in percent of one CPU; 0 for none.
    pub cpu_cap: u32,
    /// Requested physical CPUs; empty for all.
    pub cpu_affinity: Vec<u32>,
    /// Whether these CPUs are reserved for it alone.
    pub cpu_dedicated: bool,
    /// Number of virtual CPUs that its kernel was told to bring up.
    pub vcpus_online: u32,
    /// Number of frames that its balloon driver was told to use.
    pub memory_target: u64,
    /// The request made to its kernel; see [`pv_abi::uv::database::asked`].
    pub asked: u32,
    /// Event port of its console; 0 if there is none.
    pub console_port: u32,
    /// Nanoseconds in which its virtual CPUs were runnable but did not run.
    pub wait_time: u64,
    /// Nanoseconds that the ultravisor spent on its requests: store, console, transactions.
    pub service_time: u64,
    /// Frames of RAM assigned for its own use.
    pub memory_frames: u64,
    /// Frames of its monitor instance.
    pub instance_frames: u64,
    /// CPU time in nanoseconds.
    pub cpu_time: u64,
    /// Refused hypercalls of its kernel, as pairs of a cause (an errno without its sign) and a
    /// count. The cause 0 stands for all that are not counted separately.
    pub refusals: Vec<(u32, u64)>,
    /// See [`pv_abi::uv::calls::cause`].
    pub cause: u32,
    /// Detail of the cause.
    pub cause_detail: u32,
    /// Version of the database it was created at.
    pub created_at: u64,
}
