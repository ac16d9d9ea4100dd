//! Builds and starts the I/O partitions, by transactions alone, where the machine has a function
//! that they can drive.
//!
//! All have the image of the module `io`. A failure is logged and leaves the host without that
//! partition: whoever operates the host finds the reason in the log. Nothing of the partition stays
//! then, since its transactions are pending until the last.
//!
//! [`crate::members`] decides when each is built, and which functions it gets.

use crate::failure::Failure;
use crate::link::Link;
use crate::lives::Row;
use crate::members::{Ground, Member, Members, Standing};
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use builder::{SystemImage, SystemLayout, SystemPlace, SystemPlan, SystemSizes};
use control::command::{DeviceRow, Operation, Outcome, Target};
use partition_runtime::building::Foreign;
use partition_runtime::events::{self, VIRQ_TIMER};
use partition_runtime::partition::{Module, module_named};
use partition_runtime::{log, time};
use pv_abi::uv::channel::{COMMAND_PAGES, FIRST_CLIENT_PORT, IO_GRANT};
use pv_abi::uv::database::{
    IO_PARTITIONS, SYSTEM_CPU_WEIGHT, ULTRAVISOR, UNASSIGNED, channel_kind, kind, state,
};

/// The name of the module.
const MODULE: &str = "io";
/// Heap of 4 MiB, DMA region of 2 MiB.
const SIZES: SystemSizes = SystemSizes { heap: 1024, dma: 512, grant_frames: 8 };

/// Ids of the functions that the I/O partitions can drive: virtio block and SCSI, transitional and
/// modern (Virtual I/O Device 1.2, 4.1.2.1 and 5).
const DRIVEN: [u32; 4] = [0x1001_1af4, 0x1042_1af4, 0x1004_1af4, 0x1048_1af4];

/// The I/O partitions, and their image.
#[derive(Default)]
pub struct IoPartitions {
    module: Option<Module>,
    members: Members,
}

/// Makes sure that the I/O partitions run, if the machine needs them.
pub fn provide(link: &mut Link, foreign: &mut Foreign) -> IoPartitions {
    let Some(module) = module_named(MODULE) else { return IoPartitions::default() };
    let rows = match link.devices() {
        Ok(rows) => rows,
        Err(failure) => {
            log!("no I/O partitions: {failure}");
            return IoPartitions::default();
        }
    };
    if !rows.iter().any(is_of_io) && !is_always(module.options) {
        return IoPartitions::default();
    }
    if let Err(error) = events::bind_virq(VIRQ_TIMER) {
        log!("no timer: {error}; an I/O partition that ends soon again is not built anew");
    }
    let row = Row::new(is_ended_often(module.options));
    let mut host = Host { link, foreign, module: &module };
    let members = Members::start(&mut host, &unassigned(&rows), row);
    IoPartitions { module: Some(module), members }
}

impl IoPartitions {
    /// Builds anew those that ended, when it is time, and sets the timer for the next.
    pub fn keep(&mut self, link: &mut Link, foreign: &mut Foreign) {
        if let Some(module) = &self.module {
            self.members.keep(&mut Host { link, foreign, module });
        }
    }
}

/// The real system: the database through the command channel, and memory through the monitor.
struct Host<'h> {
    link: &'h mut Link,
    foreign: &'h mut Foreign,
    module: &'h Module,
}

impl Ground for Host<'_> {
    fn now(&mut self) -> u64 {
        time::now()
    }

    fn wake_at(&mut self, time: u64) {
        if let Err(error) = time::set_timer(time) {
            log!("the timer is not set: {error}");
        }
    }

    fn is_told(&mut self) -> bool {
        self.link.is_told()
    }

    fn standing(&mut self, number: u32) -> Result<Standing, Failure> {
        Ok(match self.link.descriptor(number)?.map(|descriptor| descriptor.state) {
            None => Standing::Free,
            Some(state::CRASHED | state::DYING) => Standing::Ended,
            Some(_) => Standing::Runs,
        })
    }

    fn unassigned(&mut self) -> Result<Vec<u32>, Failure> {
        Ok(unassigned(&self.link.devices()?))
    }

    fn assign(&mut self, number: u32, function: u32) -> Result<(), Failure> {
        const WHAT: &str = "giving an I/O partition a function that nobody has";
        let assign = Operation::AssignDevice { function, partition: Target::Number(number) };
        self.link.apply(WHAT, vec![assign]).map(drop)
    }

    fn build(&mut self, member: &Member, functions: &[u32]) -> Result<(), Failure> {
        let built = provide_one(self.link, self.foreign, self.module, member, functions);
        if built.is_err() {
            self.link.abandon();
        }
        built
    }
}

/// The functions that an I/O partition can drive, and that nobody has.
fn unassigned(rows: &[DeviceRow]) -> Vec<u32> {
    let nobodys = |row: &&DeviceRow| is_of_io(row) && row.owner == UNASSIGNED;
    rows.iter().filter(nobodys).map(|row| row.index).collect()
}

/// Returns whether the module's options ask for the partitions on every machine.
fn is_always(options: &str) -> bool {
    options.split_whitespace().any(|word| word == "always")
}

/// Returns whether the module's options end I/O partitions again and again, for a test.
fn is_ended_often(options: &str) -> bool {
    options.split_whitespace().any(|word| word.starts_with("inject=die-often:"))
}

/// Returns whether an I/O partition can drive a function, and has it or can have it.
fn is_of_io(function: &DeviceRow) -> bool {
    DRIVEN.contains(&function.id)
        && function.refused == 0
        && (function.owner == UNASSIGNED
            || IO_PARTITIONS.iter().any(|(number, _)| *number == function.owner))
}

fn provide_one(
    link: &mut Link,
    foreign: &mut Foreign,
    module: &Module,
    member: &Member,
    functions: &[u32],
) -> Result<(), Failure> {
    let Member { number, name, restarts, .. } = *member;
    let partition = Target::Number(number);
    let image = SystemImage::parse(module.bytes).map_err(Failure::System)?;
    let layout = SystemLayout::new(&image, SIZES).map_err(Failure::System)?;
    let place = SystemPlace { restarts, ..create(link, &layout, (number, name))? };
    connect(link, &layout, place)?;
    let plan = SystemPlan::new(image, layout, place, module.without_contents());
    let pages = fill(foreign, &plan, number)?;
    let assign = |&function: &u32| Operation::AssignDevice { function, partition };
    let mut operations: Vec<Operation> = functions.iter().map(assign).collect();
    operations.push(Operation::SetStart { partition, start: plan.start_state() });
    operations.push(Operation::SetState { partition, state: state::RUNNING });
    link.finish("starting an I/O partition", operations)?;
    log!("{name} started, restart {restarts}, {pages} pages written; functions: {functions:?}");
    Ok(())
}

/// Creates the partition with its memory, which must lie in one piece.
fn create(
    link: &mut Link,
    layout: &SystemLayout,
    (number, name): (u32, &str),
) -> Result<SystemPlace, Failure> {
    const WHAT: &str = "creating an I/O partition";
    let create = Operation::CreatePartition {
        number: Some(number),
        kind: kind::IO,
        rights: 0,
        name: name.to_string(),
        vcpus: 1,
        cpu_weight: SYSTEM_CPU_WEIGHT,
        cpu_cap: 0,
        cpu_affinity: Vec::new(),
        cpu_dedicated: false,
        grant_frames: SIZES.grant_frames,
    };
    let frames = layout.frames();
    let assign = Operation::AssignMemory { partition: Target::CreatedBy(0), frames };
    let outcomes = link.prepare(WHAT, vec![create, assign])?;
    let [Outcome::Partition(_), Outcome::Memory(ranges)] = &outcomes[..] else {
        return Err(Failure::Answer(WHAT));
    };
    let first_frame = match ranges[..] {
        [range] if range.frames == frames => range.first,
        _ => return Err(Failure::Apart(frames.div_ceil(256))),
    };
    let descriptor = link.descriptor(number)?.ok_or(Failure::Answer(WHAT))?;
    Ok(SystemPlace { number, restarts: 0, first_frame, instance: descriptor.instance_first })
}

/// Makes the channel to the ultravisor.
fn connect(link: &mut Link, layout: &SystemLayout, place: SystemPlace) -> Result<(), Failure> {
    const WHAT: &str = "making the channel of an I/O partition";
    let channel = Operation::CreateChannel {
        partition: Target::Number(place.number),
        peer: ULTRAVISOR,
        kind: channel_kind::IO,
        frame: place.first_frame + layout.channel.start,
        frames: COMMAND_PAGES as u32,
        grant: IO_GRANT,
    };
    match link.prepare(WHAT, vec![channel])?[..] {
        [Outcome::Channel { port: FIRST_CLIENT_PORT, .. }] => Ok(()),
        _ => Err(Failure::Answer(WHAT)),
    }
}

/// Writes the partition's pages. Returns their number.
fn fill(foreign: &mut Foreign, plan: &SystemPlan<'_>, number: u32) -> Result<usize, Failure> {
    let pages: Vec<u64> = plan.pages().collect();
    let frames: Vec<u64> = pages.iter().map(|&page| plan.frame(page)).collect();
    foreign
        .write(number, &frames, |index, to| plan.fill(pages[index], to))
        .map_err(|errno| Failure::Monitor("mapping memory of an I/O partition", errno))?;
    Ok(pages.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pv_abi::uv::database::{COMMAND, IO_A, IO_D};

    #[test]
    fn functions_that_can_be_driven_and_had_are_wanted() {
        let row = |id, refused, owner| DeviceRow {
            index: 0,
            address: 0,
            id,
            class: 0,
            subsystem: 0,
            vectors: 0,
            bars: Vec::new(),
            refused,
            owner,
            next: 0,
        };
        for id in DRIVEN {
            for (refused, owner, is_wanted, is_nobodys) in [
                (0, UNASSIGNED, true, true),
                (0, IO_A, true, false),
                (0, IO_D, true, false),
                (0, COMMAND, false, false),
                (1, UNASSIGNED, false, false),
            ] {
                let row = row(id, refused, owner);
                assert_eq!(is_of_io(&row), is_wanted, "{id:#x} {refused} {owner}");
                assert_eq!(!unassigned(&[row]).is_empty(), is_nobodys, "{id:#x} {refused} {owner}");
            }
        }
        assert!(!is_of_io(&row(0x1000_1af4, 0, UNASSIGNED)), "a network");
        assert!(is_always("inject=die:4 always") && !is_always("never"));
        assert!(is_ended_often("always inject=die-often:all:7") && !is_ended_often("inject=die:4"));
    }
}
