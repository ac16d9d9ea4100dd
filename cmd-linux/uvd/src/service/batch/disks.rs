//! The disks that a batch attaches and detaches.

use control::command::{Code, DiskLimits, DiskNumber, Extent, Medium, Operation, Target};
use definition::{Definition, Disk, Function};
use uvd_protocol::{Failure, way_out};

use super::Batch;
use crate::context::Context;
use crate::context::functions::{self, Indices};
use crate::context::refusal::refused;

/// Changes of the disks of an existing partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskChanges {
    /// Number of the partition.
    pub number: u32,
    /// The partition's name, for messages.
    pub name: String,
    /// The devices of the disks to detach.
    pub detach: Vec<u32>,
    /// The disks to attach.
    pub attach: Vec<Disk>,
}

impl DiskChanges {
    /// The changes that turn the disks of the old definition into those of the new one; `None` if
    /// they are the same.
    pub fn between(number: u32, old: &Definition, new: &Definition) -> Option<Self> {
        let is_in = |disk: &Disk, disks: &[Disk]| disks.contains(disk);
        let gone = old.disks.iter().filter(|disk| !is_in(disk, &new.disks));
        let come = new.disks.iter().filter(|disk| !is_in(disk, &old.disks));
        let (detach, attach): (Vec<u32>, Vec<Disk>) =
            (gone.map(|disk| disk.device).collect(), come.cloned().collect());
        let differ = !detach.is_empty() || !attach.is_empty();
        differ.then(|| Self { number, name: new.name.clone(), detach, attach })
    }

    /// The operations that make the changes.
    fn operations(&self, names: &Names) -> Result<Vec<Operation>, Failure> {
        let partition = Target::Number(self.number);
        let detach = |device: &u32| Ok(Operation::DetachDisk { partition, device: *device });
        let attach = |disk: &Disk| attachment(&self.name, partition, disk, names);
        self.detach.iter().map(detach).chain(self.attach.iter().map(attach)).collect()
    }
}

/// How functions are looked up.
pub enum Names {
    /// The functions of the machine.
    Known(Indices),
    /// No function of a machine: each name gets an index that is as long as an index can be.
    Any,
}

impl Names {
    /// Asks for the functions, if a batch names any.
    pub async fn of(context: &Context, batch: &Batch) -> Result<Self, Failure> {
        let creates = batch.creates.iter().any(|one| !one.definition.disks.is_empty());
        if !creates && batch.disks.iter().all(|one| one.attach.is_empty()) {
            return Ok(Self::Any);
        }
        context.functions.get(&context.requests).await.map(Self::Known)
    }

    fn index(&self, function: Function) -> Option<u32> {
        match self {
            Self::Known(indices) => functions::index(indices, function),
            Self::Any => Some(u32::MAX),
        }
    }
}

/// The operations that change the disks of existing partitions.
pub fn changes(batch: &Batch, names: &Names) -> Result<Vec<Operation>, Failure> {
    let all: Result<Vec<_>, _> = batch.disks.iter().map(|one| one.operations(names)).collect();
    Ok(all?.into_iter().flatten().collect())
}

/// The operation that attaches a disk. Refuses a function that the machine does not have.
pub fn attachment(
    name: &str,
    partition: Target,
    disk: &Disk,
    names: &Names,
) -> Result<Operation, Failure> {
    let Some(function) = names.index(disk.function) else {
        let object = format!("{} of partition {name:?}", DiskNumber(disk.device));
        let reason = format!("the machine has no PCI function {}", disk.function);
        return Err(refused(Code::NoSuchDevice, &object, "function", &reason, way_out::RESOURCES));
    };
    let extent = |start, sectors| Extent { function, start, sectors };
    let medium = match (disk.partition, &disk.extents[..]) {
        (Some(number), _) => Medium::Partition { function, number },
        (None, []) => Medium::Disk { function },
        (None, all) => {
            Medium::Extents(all.iter().map(|one| extent(one.start, one.sectors)).collect())
        }
    };
    Ok(Operation::AttachDisk {
        partition,
        device: disk.device,
        medium,
        read_only: disk.read_only,
        shared: disk.shared,
        limits: DiskLimits::default(),
    })
}
