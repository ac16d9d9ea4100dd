//! Sample answers for tests.

use control::command::{
    BarRow, Code, CpuRow, DeviceRow, DiskLimits, DiskNumber, DiskRow, DiskState, DiskStatus,
    Extent, Heap, IssueRow, IssueState, IssuesAnswer, ListRow, LogRow, MapRow, Medium, MemoryRow,
    PartitionRow, Refusal, ResourcesAnswer, Settled, Turns, VersionAnswer,
};
use pv_abi::uv::calls::cause;
use pv_abi::uv::database::{kind, rights, state};
use pv_abi::uv::devices::refused;
use uvd_protocol::FunctionMove;

/// The three system partitions, the monitor, and a guest that crashed.
pub fn partitions() -> Vec<PartitionRow> {
    let row = |number, name: &str, kind, rights, memory_frames, cpu_time| PartitionRow {
        number,
        name: name.into(),
        kind,
        state: state::RUNNING,
        rights,
        owner: 0,
        vcpus: 1,
        vcpus_up: 1,
        cpu_weight: 256,
        cpu_cap: 0,
        cpu_affinity: Vec::new(),
        cpu_dedicated: false,
        vcpus_online: 1,
        memory_target: memory_frames,
        asked: 0,
        console_port: 0,
        wait_time: 0,
        service_time: 0,
        memory_frames,
        instance_frames: 64,
        cpu_time,
        refusals: Vec::new(),
        cause: cause::NONE,
        cause_detail: 0,
        created_at: 1,
    };
    let lead = rights::LEAD | rights::SERIAL;
    let mut rows = vec![
        row(1, "ultravisor", kind::ULTRAVISOR, lead, 16 * 256, 250_000_000),
        row(2, "boot", kind::BOOT, rights::BUILD, 100 * 256, 1_000_000_000),
        row(3, "command", kind::COMMAND, rights::HOST_POWER, 800 * 256, 12_345_678_901),
        row(7, "monitor", kind::PSEUDO, 0, 4096, 0),
        row(16, "web", kind::GUEST, 0, 255, 0),
    ];
    (rows[2].vcpus, rows[2].vcpus_up) = (2, 2);
    let web = &mut rows[4];
    (web.vcpus, web.vcpus_up, web.owner, web.created_at) = (4, 0, 3, 12);
    (web.state, web.cause, web.cause_detail) = (state::CRASHED, cause::UNHANDLED_TRAP, 13);
    (web.cpu_weight, web.cpu_cap) = (512, 150);
    web.refusals = vec![(0, 2), (1, 12), (38, 1)];
    rows
}

/// The short rows of the same partitions.
pub fn list() -> Vec<ListRow> {
    let row = |row: PartitionRow| ListRow {
        number: row.number,
        name: row.name.as_str().into(),
        kind: row.kind,
        state: row.state,
        vcpus: row.vcpus,
        vcpus_up: row.vcpus_up,
        memory_frames: row.memory_frames,
        cpu_time: row.cpu_time,
    };
    partitions().into_iter().map(row).collect()
}

/// A machine of 1 GiB whose sums agree.
pub fn resources() -> ResourcesAnswer {
    let memory = |owner, io, tiers: [u64; 3], frames| MemoryRow { owner, io, tiers, frames };
    ResourcesAnswer {
        frames: 262_144,
        memory: vec![
            memory(0, false, [0, 10, 0], 10_240),
            memory(1, false, [0, 4, 0], 4096),
            memory(3, false, [0, 200, 0], 204_800),
            memory(7, false, [0, 41, 1008], 42_992),
            memory(8, true, [0, 0, 16], 16),
        ],
        firmware: vec![(1, 262_000), (2, 144)],
        cpus: vec![
            CpuRow { index: 0, apic_id: 0, online: true, busy: 25, idle: 75 },
            CpuRow { index: 1, apic_id: 2, online: false, busy: 0, idle: 0 },
        ],
        arena: (512, 40),
        channels: 3,
        heap: Heap { bytes: 8 << 20, in_use: 1 << 20, most: 3 << 19 },
        unscrubbed: 512,
        turns: Turns { longest: 2_500_000, long: 0 },
    }
}

/// A bridge, and a disk of the command partition's.
pub fn devices() -> Vec<DeviceRow> {
    let bar = |register, address, bytes| BarRow { register, address, bytes };
    vec![
        DeviceRow {
            index: 0,
            address: 8,
            id: 0x7000_8086,
            class: 0x0601_0000,
            subsystem: 0,
            vectors: 0,
            bars: vec![],
            refused: refused::BRIDGE | refused::NO_MEMORY,
            owner: 0,
            next: 0,
        },
        DeviceRow {
            index: 1,
            address: 4 << 3,
            id: 0x1042_1af4,
            class: 0x0100_0000,
            subsystem: 0x1100_1af4,
            vectors: 3,
            bars: vec![bar(1, 0xfebd_1000, 4096), bar(4, 0x0038_0000_0000, 1 << 20)],
            refused: 0,
            owner: 3,
            next: 0,
        },
    ]
}

/// Two disks of the guest, and one of the command partition.
pub fn disks() -> Vec<DiskRow> {
    let status = |state, server, sectors, cause: Option<&str>| DiskStatus {
        state,
        server,
        sectors,
        cause: cause.map(Into::into),
    };
    let row = |index, partition, letter, medium, status| DiskRow {
        index,
        partition,
        device: DiskNumber::of_letter(letter).unwrap().0,
        medium,
        read_only: false,
        shared: false,
        limits: DiskLimits::default(),
        status,
    };
    let extent = |start| Extent { function: 1, start, sectors: 10_240 };
    let unserved = status(DiskState::Unserved, None, None, Some("no I/O partition drives it"));
    let extents = Medium::Extents(vec![extent(0), extent(20_480)]);
    let mut all = vec![
        row(
            0,
            16,
            'b',
            Medium::Partition { function: 7, number: 2 },
            status(DiskState::Waiting, Some(4), None, None),
        ),
        row(1, 16, 'a', Medium::Disk { function: 1 }, unserved),
        row(2, 3, 'a', extents, status(DiskState::Attached, Some(4), Some(20_480), None)),
    ];
    (all[1].read_only, all[2].shared) = (true, true);
    all
}

/// A guest, the command partition, and two I/O partitions.
pub fn io_list() -> Vec<ListRow> {
    let row = |number, name: &str, kind| ListRow {
        number,
        name: name.into(),
        kind,
        state: state::RUNNING,
        vcpus: 1,
        vcpus_up: 1,
        memory_frames: 1792,
        cpu_time: 0,
    };
    vec![
        row(3, "command", kind::COMMAND),
        row(4, "io-a", kind::IO),
        row(5, "io-b", kind::IO),
        row(16, "web", kind::GUEST),
    ]
}

/// A function that moved.
pub fn moves() -> Vec<FunctionMove> {
    vec![FunctionMove { function: 1, from: 4, to: 5 }]
}

/// The page map of [`resources`].
pub fn map() -> Vec<MapRow> {
    let range = |first, frames, owner, io| MapRow { first, frames, owner, io };
    vec![
        range(0, 16, 8, true),
        range(16, 42_992, 7, false),
        range(43_008, 4096, 1, false),
        range(47_104, 10_240, 0, false),
        range(57_344, 204_800, 3, false),
    ]
}

/// The first `count` log records.
pub fn log(count: u64) -> Vec<LogRow> {
    let row = |sequence| LogRow {
        sequence,
        time: sequence * 500_000_000,
        who: if sequence % 2 == 0 { 2 } else { 7 },
        request: sequence + 100,
        version: sequence + 1,
        outcome: Settled::Committed,
        what: format!("operation {sequence}"),
        reason: "because".into(),
        partitions: Vec::new(),
    };
    (0..count).map(row).collect()
}

/// Versions.
pub fn version() -> VersionAnswer {
    VersionAnswer {
        ultravisor: "9.9.9".into(),
        protocol: 1,
        abi: 1,
        arena: 1,
        xen: 4 << 16 | 17,
        command_line: String::new(),
    }
}

/// A CPU with Meltdown, and without MDS.
pub fn issues() -> IssuesAnswer {
    let row = |name: &str, state, verdict: &str, way_out: &str| IssueRow {
        name: name.into(),
        state,
        verdict: verdict.into(),
        way_out: way_out.into(),
    };
    IssuesAnswer {
        cpu: "GenuineIntel family 0x6 model 0x2a stepping 7".into(),
        microcode: 0x2f,
        microcode_update: "no module; the revision is the firmware's".into(),
        smt: true,
        iommu: false,
        guests_start: false,
        issues: vec![
            row("meltdown", IssueState::Open, "open because of it", "another CPU"),
            row("l1tf", IssueState::Mitigated, "mitigated by a rule", ""),
            row("mds", IssueState::NotAffected, "not affected", ""),
        ],
    }
}

/// A refusal that came from the monitor.
pub fn refusal() -> Refusal {
    Refusal {
        code: Code::Busy,
        operation: Some(0),
        object: "frames 0x8800 to 0x8801".into(),
        field: "activation".into(),
        reason: "busy: something still refers to it (errno 16)".into(),
        way_out: "stop it first".into(),
    }
}
