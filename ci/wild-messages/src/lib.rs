//! Messages for the command channel and the build channel that no proper client sends: whole ones
//! with wild numbers, and damaged ones. They serve tests of the servers.

use control::build::{self, BuildRequest, File};
use control::command::{
    Body, DiskLimits, Extent, Medium, Operation, PROTOCOL, Query, Range, Request, Start, Target,
    Transaction,
};
use pv_abi::uv::database::{COMMAND, FIRST_GUEST, ULTRAVISOR, channel_kind, kind};

/// A generator of pseudo-random numbers.
pub struct Random(u64);

impl Random {
    /// The numbers that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number, of any value.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit
    }

    /// One of a few numbers, often one near a limit.
    pub fn wild(&mut self) -> u64 {
        match self.below(6) {
            0 => self.below(20),
            1 => u64::from(FIRST_GUEST) + self.below(8),
            2 => self.below(9000),
            3 => u64::MAX - self.below(3),
            4 => 1 << self.below(64),
            _ => self.word(),
        }
    }

    fn number(&mut self) -> u32 {
        match self.below(4) {
            0 => self.wild() as u32,
            _ => FIRST_GUEST + self.below(8) as u32,
        }
    }

    fn target(&mut self) -> Target {
        match self.below(3) {
            0 => Target::CreatedBy(self.below(4) as u32),
            _ => Target::Number(self.number()),
        }
    }

    fn text(&mut self) -> String {
        let length = [0, 1, 3, 31, 32, 5000][self.below(6) as usize];
        let letter = ['a', 'z', '\u{1}', '"', 'ü'][self.below(5) as usize];
        (0..length).map(|_| letter).chain([(b'a' + self.below(26) as u8) as char]).collect()
    }

    fn list(&mut self, most: u64) -> Vec<u32> {
        (0..self.below(most)).map(|_| self.wild() as u32).collect()
    }

    fn operation(&mut self) -> Operation {
        let partition = self.target();
        match self.below(19) {
            0 | 1 => Operation::CreatePartition {
                number: (self.below(4) == 0).then(|| self.number()),
                kind: [kind::GUEST, kind::GUEST, kind::GUEST, self.wild() as u32]
                    [self.below(4) as usize],
                rights: [0, 0, 0, self.wild() as u32][self.below(4) as usize],
                name: self.text(),
                vcpus: [1, 2, self.wild() as u32][self.below(3) as usize],
                cpu_weight: [256, self.wild() as u32][self.below(2) as usize],
                cpu_cap: [0, self.wild() as u32][self.below(2) as usize],
                cpu_affinity: self.list(3),
                cpu_dedicated: self.below(8) == 0,
                grant_frames: [4, self.wild() as u32][self.below(2) as usize],
            },
            2 => Operation::AssignMemory { partition, frames: self.wild() },
            3 => {
                let ranges =
                    (0..self.below(4)).map(|_| Range { first: self.wild(), frames: self.wild() });
                Operation::ReleaseMemory { partition, ranges: ranges.collect() }
            }
            4 => Operation::CreateChannel {
                partition,
                peer: [ULTRAVISOR, COMMAND, self.wild() as u32][self.below(3) as usize],
                kind: [channel_kind::CONSOLE, channel_kind::STORE, self.wild() as u32]
                    [self.below(3) as usize],
                frame: self.wild(),
                frames: [1, self.wild() as u32][self.below(2) as usize],
                grant: self.wild() as u32,
            },
            5 => {
                let mut word = || self.wild();
                let start = Start {
                    entry: word(),
                    stack: word(),
                    start_info: word(),
                    page_table: word(),
                    console_frame: word(),
                    store_frame: word(),
                };
                Operation::SetStart { partition, start }
            }
            6 => Operation::SetState { partition, state: self.below(8) as u32 },
            7 => Operation::SetCpu {
                partition,
                weight: Some(self.wild() as u32),
                cap: (self.below(2) == 0).then(|| self.wild() as u32),
                affinity: (self.below(2) == 0).then(|| self.list(4)),
                dedicated: (self.below(4) == 0).then_some(true),
            },
            8 => Operation::Rename { partition, name: self.text() },
            9 => Operation::SetMemoryTarget { partition, frames: self.wild() },
            10 => Operation::SetVcpusOnline { partition, vcpus: self.wild() as u32 },
            11 => Operation::Ask { partition, what: self.below(4) as u32 },
            12 => Operation::DestroyPartition { partition },
            13 => Operation::AssignDevice { function: self.below(8) as u32, partition },
            15 => self.attach_disk(partition),
            16 => Operation::DetachDisk { partition, device: 51_712 + 16 * self.below(3) as u32 },
            17 => Operation::MoveDevice { function: self.below(8) as u32, partition },
            14 => Operation::ReleaseDevice { function: self.wild() as u32, partition },
            _ => Operation::Complete { request: self.below(1 << 20) },
        }
    }

    fn attach_disk(&mut self, partition: Target) -> Operation {
        let function = self.below(6) as u32;
        let extent = |of: &mut Self| Extent { function, start: of.wild(), sectors: of.below(5000) };
        let medium = match self.below(3) {
            0 => Medium::Disk { function },
            1 => Medium::Partition { function, number: self.wild() as u32 },
            _ => Medium::Extents((0..self.below(70)).map(|_| extent(self)).collect()),
        };
        Operation::AttachDisk {
            partition,
            device: [51_712, 51_728, self.wild() as u32][self.below(3) as usize],
            medium,
            read_only: self.below(2) == 0,
            shared: self.below(2) == 0,
            limits: DiskLimits::default(),
        }
    }

    fn transaction(&mut self) -> Transaction {
        Transaction {
            planned_at: (self.below(16) == 0).then(|| self.wild()),
            pending: self.below(4) == 0,
            reason: self.text(),
            operations: (0..self.below(5)).map(|_| self.operation()).collect(),
        }
    }

    fn body(&mut self) -> Body {
        match self.below(20) {
            0 => Body::Open,
            1 => Body::Plan(self.transaction()),
            2 => Body::Undo { sequence: self.below(1000), reason: self.text() },
            3 => Body::RollBack {
                requests: (0..self.below(5)).map(|_| self.below(1 << 20)).collect(),
            },
            4 => Body::Query(match self.below(8) {
                0 => Query::Version,
                1 => Query::Partitions { after: self.wild() as u32 },
                2 => Query::Resources,
                3 if self.wild().is_multiple_of(2) => Query::Memory {
                    partition: self.wild() as u32,
                    first: self.wild(),
                    most: self.wild() as u32,
                },
                3 => Query::PageMap { first: self.wild(), most: self.wild() as u32 },
                4 => Query::Arena { first: self.wild() as u32, most: self.wild() as u32 },
                5 if self.wild().is_multiple_of(2) => Query::Disks { first: self.wild() as u32 },
                5 => Query::Devices { first: self.wild() as u32 },
                6 => Query::Log { from: self.wild(), most: self.wild() as u32 },
                _ => Query::Records { from: self.wild(), most: self.wild() as u32 },
            }),
            _ => Body::Transaction(self.transaction()),
        }
    }

    /// A message of the command channel, usually damaged.
    pub fn command_message(&mut self, id: u64) -> Vec<u8> {
        let id = if self.below(8) == 0 { self.below(1 << 20) } else { id };
        let protocol = if self.below(50) == 0 { self.word() as u16 } else { PROTOCOL };
        let request = Request { protocol, id, body: self.body() };
        let mut bytes = postcard::to_allocvec(&request).unwrap_or_default();
        bytes.truncate(24 * 1024);
        self.damage(&mut bytes);
        bytes
    }

    /// A message of the build channel, usually damaged.
    pub fn build_message(&mut self, id: u64) -> Vec<u8> {
        let file = if self.below(2) == 0 { File::Kernel } else { File::Initrd };
        let body = match self.below(6) {
            0 => BuildRequest::Abort,
            1 => BuildRequest::Heap,
            2 => BuildRequest::Data { file, offset: self.wild(), bytes: self.wild() },
            _ => BuildRequest::Begin {
                protocol: if self.below(8) == 0 { self.word() as u16 } else { build::PROTOCOL },
                partition: self.number(),
                kernel_bytes: self.wild(),
                initrd_bytes: self.wild(),
                command_line: self.text(),
                memory_target: self.wild(),
            },
        };
        let mut bytes = postcard::to_allocvec(&build::Request { id, body }).unwrap_or_default();
        self.damage(&mut bytes);
        bytes
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        match self.below(8) {
            0 => bytes.truncate(self.below(bytes.len() as u64 + 1) as usize),
            1 => *bytes = (0..self.below(200)).map(|_| self.word() as u8).collect(),
            2..=5 if !bytes.is_empty() => {
                for _ in 0..=self.below(4) {
                    let at = self.below(bytes.len() as u64) as usize;
                    bytes[at] = self.word() as u8;
                }
            }
            _ => {}
        }
    }
}
