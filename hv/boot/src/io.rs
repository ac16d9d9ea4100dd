//! Builds and starts the I/O partitions, by transactions alone, where the machine has a function
//! that they can drive.
//!
//! Both have the image of the module `io`. A failure is logged and leaves the host without that
//! partition: whoever operates the host finds the reason in the log. Nothing of the partition stays
//! then, since its transactions are pending until the last.
//!
//! A partition that ended is built anew when its number is free ([`crate::lives`]). It takes no
//! function from the other one, and gets those that nobody has.

use crate::failure::Failure;
use crate::link::Link;
use crate::lives::{Lives, MOST};
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
    IO_A, IO_B, SYSTEM_CPU_WEIGHT, ULTRAVISOR, UNASSIGNED, channel_kind, kind, state,
};

/// The name of the module.
const MODULE: &str = "io";
/// The partitions: number and name.
const PARTITIONS: [(u32, &str); 2] = [(IO_A, "io-a"), (IO_B, "io-b")];
/// Heap of 4 MiB, DMA region of 2 MiB.
const SIZES: SystemSizes = SystemSizes { heap: 1024, dma: 512, grant_frames: 8 };

/// Ids of the functions that the I/O partitions can drive: virtio block and SCSI, transitional and
/// modern (Virtual I/O Device 1.2, 4.1.2.1 and 5).
const DRIVEN: [u32; 4] = [0x1001_1af4, 0x1042_1af4, 0x1004_1af4, 0x1048_1af4];

/// The I/O partitions that are kept running.
#[derive(Default)]
pub struct Members {
    module: Option<Module>,
    members: Vec<Member>,
}

struct Member {
    number: u32,
    name: &'static str,
    lives: Lives,
}

/// Makes sure that the I/O partitions run, if the machine needs them.
pub fn provide(link: &mut Link, foreign: &mut Foreign) -> Members {
    let Some(module) = module_named(MODULE) else { return Members::default() };
    let functions = match unassigned(link) {
        Ok(functions) => functions,
        Err(failure) => {
            log!("no I/O partitions: {failure}");
            return Members::default();
        }
    };
    if functions.is_empty() && !is_always(module.options) {
        return Members::default();
    }
    if let Err(error) = events::bind_virq(VIRQ_TIMER) {
        log!("no timer: {error}; an I/O partition that ends soon again stays away");
    }
    let mut members = Vec::new();
    for (share, (number, name)) in PARTITIONS.into_iter().enumerate() {
        // The functions are dealt out in turn.
        let own: Vec<u32> = functions.iter().copied().skip(share).step_by(2).collect();
        let mut member = Member { number, name, lives: Lives::new() };
        member.build(link, foreign, &module, &own);
        members.push(member);
    }
    Members { module: Some(module), members }
}

impl Members {
    /// Builds anew those that ended, when it is time, and sets the timer for the next.
    pub fn keep(&mut self, link: &mut Link, foreign: &mut Foreign) {
        let Some(module) = &self.module else { return };
        loop {
            if link.is_told() {
                self.members.iter_mut().for_each(|member| member.look(link));
            }
            let now = time::now();
            let is_due = |member: &&mut Member| member.lives.due().is_some_and(|due| due <= now);
            let Some(member) = self.members.iter_mut().find(is_due) else { break };
            if member.build(link, foreign, module, &[]) {
                member.take_unassigned(link);
            }
        }
        if let Some(due) = self.members.iter().filter_map(|member| member.lives.due()).min()
            && let Err(error) = time::set_timer(due)
        {
            log!("the timer is not set: {error}");
        }
    }
}

impl Member {
    /// Builds and starts the partition. Returns whether it runs.
    fn build(
        &mut self,
        link: &mut Link,
        foreign: &mut Foreign,
        module: &Module,
        functions: &[u32],
    ) -> bool {
        match provide_one(link, foreign, module, self, functions) {
            Ok(()) => {
                self.lives.began(time::now());
                true
            }
            Err(failure) => {
                log!("cannot start {}: {failure}", self.name);
                link.abandon();
                let is_tried = self.lives.failed(time::now());
                self.tell(is_tried);
                false
            }
        }
    }

    /// Notes if its number is free.
    fn look(&mut self, link: &mut Link) {
        match link.descriptor(self.number) {
            Ok(None) => {
                let is_tried = self.lives.ended(time::now());
                self.tell(is_tried);
            }
            Ok(Some(_)) => {}
            Err(failure) => log!("{}: {failure}", self.name),
        }
    }

    /// Logs that it stays away.
    fn tell(&self, is_tried: bool) {
        if !is_tried {
            log!(
                "{} failed {MOST} times in a row and stays away: `uvtool why {}` has the causes; \
                 restart the host to try again",
                self.name,
                self.name
            );
        }
    }

    /// Gives it the functions that nobody has. It runs already, so that a function which the other
    /// partition loses meanwhile is either here to be seen, or comes to it from the ultravisor.
    fn take_unassigned(&self, link: &mut Link) {
        const WHAT: &str = "giving an I/O partition the functions that nobody has";
        let partition = Target::Number(self.number);
        let assigned = unassigned(link).and_then(|functions| {
            let assign = |function| Operation::AssignDevice { function, partition };
            let operations: Vec<Operation> = functions.into_iter().map(assign).collect();
            if operations.is_empty() { Ok(Vec::new()) } else { link.apply(WHAT, operations) }
        });
        if let Err(failure) = assigned {
            log!("{}: {failure}", self.name);
        }
    }
}

/// The functions that an I/O partition can drive, and that nobody has.
fn unassigned(link: &mut Link) -> Result<Vec<u32>, Failure> {
    let rows = link.devices()?;
    Ok(rows.iter().filter(|row| is_driven(row)).map(|row| row.index).collect())
}

/// Returns whether the module's options ask for the partitions on every machine.
fn is_always(options: &str) -> bool {
    options.split_whitespace().any(|word| word == "always")
}

/// Returns whether an I/O partition can drive a function and have it.
fn is_driven(function: &DeviceRow) -> bool {
    DRIVEN.contains(&function.id) && function.refused == 0 && function.owner == UNASSIGNED
}

fn provide_one(
    link: &mut Link,
    foreign: &mut Foreign,
    module: &Module,
    member: &Member,
    functions: &[u32],
) -> Result<(), Failure> {
    let Member { number, name, .. } = *member;
    let restarts = member.lives.restarts();
    let partition = Target::Number(number);
    match link.descriptor(number)?.map(|descriptor| descriptor.state) {
        Some(state::RUNNING | state::PAUSED) => return Ok(()),
        Some(_) => {
            let operations = vec![Operation::DestroyPartition { partition }];
            link.finish("destroying what is left of an I/O partition", operations)?;
        }
        None => {}
    }
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
        };
        for id in DRIVEN {
            assert!(is_driven(&row(id, 0, UNASSIGNED)), "{id:#x}");
            assert!(!is_driven(&row(id, 1, UNASSIGNED)), "{id:#x}");
            assert!(!is_driven(&row(id, 0, IO_B)), "{id:#x}");
        }
        assert!(!is_driven(&row(0x1000_1af4, 0, UNASSIGNED)), "a network");
        assert!(is_always("inject=die:4 always") && !is_always("never"));
    }
}
