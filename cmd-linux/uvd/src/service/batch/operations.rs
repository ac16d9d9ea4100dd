//! The operations of the transactions of a batch.

use control::command::{Operation, PartitionRow, Target, Transaction};
use definition::Definition;
use pv_abi::PAGE_SIZE;
use pv_abi::uv::database::{kind, state};
use uvd_protocol::Failure;

use super::disks::{Names, attachment};
use super::{Batch, CREATED_AT_ONCE, Creation};

/// Makes a transaction.
pub fn transaction(
    reason: &str,
    planned_at: Option<u64>,
    pending: bool,
    operations: Vec<Operation>,
) -> Transaction {
    Transaction { planned_at, pending, reason: reason.into(), operations }
}

/// The operations that create partitions, split into one list for each transaction.
pub fn creations(
    definitions: &[&Definition],
    names: &Names,
) -> Result<Vec<Vec<Operation>>, Failure> {
    let piece = |piece: &[&Definition]| {
        let mut operations = Vec::new();
        piece.iter().try_for_each(|one| creation(one, names, &mut operations))?;
        Ok(operations)
    };
    definitions.chunks(CREATED_AT_ONCE).map(piece).collect()
}

/// The operations that destroy a partition.
pub fn destruction(row: &PartitionRow) -> Vec<Operation> {
    let partition = Target::Number(row.number);
    let mut operations = Vec::new();
    if row.state != state::DYING {
        operations.push(Operation::SetState { partition, state: state::DYING });
    }
    operations.push(Operation::DestroyPartition { partition });
    operations
}

/// The operations of the final transaction. It completes the pending changes, starts the created
/// partitions, changes partitions and their `disks`, and destroys partitions.
pub fn finals(
    batch: &Batch,
    pending: &[u64],
    numbers: &[u32],
    disks: &[Operation],
) -> Vec<Operation> {
    let mut operations: Vec<Operation> =
        pending.iter().map(|request| Operation::Complete { request: *request }).collect();
    for (creation, number) in batch.creates.iter().zip(numbers) {
        operations.extend(starting(creation, *number));
    }
    operations.extend(batch.changes.iter().chain(disks).cloned());
    operations.extend(batch.destroys.iter().flat_map(destruction));
    operations
}

/// Adds the operations that create a partition to `operations`.
fn creation(
    what: &Definition,
    names: &Names,
    operations: &mut Vec<Operation>,
) -> Result<(), Failure> {
    let partition = Target::CreatedBy(operations.len() as u32);
    operations.extend([
        Operation::CreatePartition {
            number: None,
            kind: kind::GUEST,
            rights: 0,
            name: what.name.clone(),
            vcpus: what.max_vcpus,
            cpu_weight: what.cpu.weight,
            cpu_cap: what.cpu.cap,
            cpu_affinity: what.cpu.affinity.clone(),
            cpu_dedicated: what.cpu.dedicated,
            grant_frames: what.grant_frames,
        },
        Operation::AssignMemory { partition, frames: what.max_memory / PAGE_SIZE as u64 },
    ]);
    for disk in &what.disks {
        operations.push(attachment(&what.name, partition, disk, names)?);
    }
    Ok(())
}

fn starting(creation: &Creation, number: u32) -> Vec<Operation> {
    let (what, partition) = (&creation.definition, Target::Number(number));
    let mut operations = Vec::new();
    if what.memory < what.max_memory {
        let frames = what.memory / PAGE_SIZE as u64;
        operations.push(Operation::SetMemoryTarget { partition, frames });
    }
    if what.vcpus < what.max_vcpus {
        operations.push(Operation::SetVcpusOnline { partition, vcpus: what.vcpus });
    }
    let state = if creation.paused { state::PAUSED } else { state::RUNNING };
    operations.push(Operation::SetState { partition, state });
    operations
}
