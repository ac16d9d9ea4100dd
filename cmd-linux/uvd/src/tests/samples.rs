//! Sample values for tests.

use control::command::PartitionRow;
use definition::Definition;
use pv_abi::uv::database::{kind, state};

/// A definition with 16 MiB of memory.
pub fn definition(name: &str) -> Definition {
    super::host::definition(name, "/kernel".as_ref())
}

/// A guest that runs.
pub fn row(number: u32, name: &str) -> PartitionRow {
    PartitionRow {
        number,
        name: name.into(),
        kind: kind::GUEST,
        state: state::RUNNING,
        rights: 0,
        owner: 3,
        vcpus: 2,
        vcpus_up: 1,
        cpu_weight: 256,
        cpu_cap: 0,
        cpu_affinity: vec![],
        cpu_dedicated: false,
        vcpus_online: 1,
        memory_target: 4096,
        asked: 0,
        console_port: 1,
        wait_time: 0,
        service_time: 0,
        memory_frames: 4096,
        instance_frames: 40,
        cpu_time: 0,
        refusals: vec![],
        cause: 0,
        cause_detail: 0,
        created_at: 1,
    }
}
