//! The lead monitor as the transaction engine sees it.
//!
//! Rule: before the monitor drops a partition's references, this partition unmaps everything that
//! it has mapped of that partition; otherwise that memory would stay referenced.
#![expect(unsafe_code, reason = "one hypercall that the runtime has no function for")]

use budget::Budget;
use control::command::{DiskStatus, Heap, Range, Turns};
use partition_runtime::hypercall::{self, Errno};
use partition_runtime::{lead, log, time};
use pv_abi::uv::calls::{CpuUsage, PartitionUsage};
use pv_abi::xen::hypercall::XEN_VERSION;
use pv_abi::xen::version::VERSION;
use transaction::{AGAIN, Action, Gauges, GivenUp, Monitor};

use crate::disks::Disks;
use crate::services::Services;

/// The monitor's answer about a partition that it does not have.
const NO_PARTITION: Errno = Errno(pv_abi::xen::errno::ESRCH.unsigned_abs() as i32);

/// The monitor's answer if functions that a partition had may still write its memory.
const RESET_OWED: i32 = -pv_abi::xen::errno::ENODEV as i32;

/// The errno for an action that a test option refuses.
const EIO: i32 = -pv_abi::xen::errno::EIO as i32;

/// Calls the lead monitor.
pub struct Lead<'s> {
    /// The services, which have memory of partitions mapped.
    pub services: &'s mut Services,
    /// When the turn of the loop is over.
    pub until: u64,
}

impl Monitor for Lead<'_> {
    fn perform(&mut self, action: Action) -> Result<(), i32> {
        match action {
            Action::Partition(number) => match lead::activate_partition(number) {
                // The partition is in neither the database nor the monitor, so the two agree.
                Err(Errno::ENOENT) => Ok(()),
                result => result,
            },
            Action::Pages { first, frames } => lead::activate_pages(first, frames),
            Action::Channel(index) => lead::activate_channel(index),
            Action::Device(index) => lead::activate_device(index),
            Action::Start(number) => {
                while !lead::start(number).map_err(|errno| errno.0)? {}
                crate::inject::started(number);
                Ok(())
            }
            Action::Stop(number) => lead::stop(number),
            Action::Destroy(number) => {
                self.services.detach(number);
                while !destroy(number).map_err(|errno| errno.0)? {}
                Ok(())
            }
        }
        .map_err(|errno| errno.0)
    }

    fn attempt(&mut self, action: Action) -> Result<(), i32> {
        if crate::inject::refuses() {
            log!("injected: {action:?} refused");
            return Err(EIO);
        }
        self.resume(action)
    }

    fn resume(&mut self, action: Action) -> Result<(), i32> {
        let Action::Start(number) = action else {
            return self.perform(action);
        };
        if !self.part_by_part(|| lead::start(number))? {
            return Err(AGAIN);
        }
        crate::inject::started(number);
        Ok(())
    }

    fn drop_tables(&mut self, partition: u32, range: Range) -> Result<bool, i32> {
        if crate::inject::names_no_memory() {
            return Ok(true);
        }
        self.part_by_part(|| or_gone(lead::drop_tables(partition, range.first, range.frames)))
    }

    fn give_up(&mut self, partition: u32) -> Result<GivenUp, i32> {
        self.services.detach(partition);
        match self.part_by_part(|| destroy(partition)) {
            Ok(true) => Ok(GivenUp::Done),
            Ok(false) => Ok(GivenUp::NotYet),
            Err(RESET_OWED) => Ok(GivenUp::ResetOwed),
            Err(errno) => Err(errno),
        }
    }

    fn now(&mut self, _: u64) -> u64 {
        time::now()
    }

    fn drained(&mut self, endpoint: u32) -> bool {
        self.services.disks.is_drained(endpoint)
    }

    fn turn_over(&mut self) -> bool {
        time::now() >= self.until
    }

    fn frame_owner(&mut self, frame: u64) -> Option<(u32, bool)> {
        lead::frame_owner(frame).ok()
    }

    fn in_use(&mut self, frame: u64) -> bool {
        lead::frame_in_use(frame).unwrap_or(false)
    }
}

impl Lead<'_> {
    /// Repeats a call that takes several parts, until it is done or the turn is over. Returns
    /// whether it is done.
    fn part_by_part(&mut self, call: impl Fn() -> Result<bool, Errno>) -> Result<bool, i32> {
        loop {
            match call() {
                Ok(false) if !self.turn_over() => {}
                result => return result.map_err(|errno| errno.0),
            }
        }
    }
}

/// Makes the monitor drop all that a partition refers to, and remove the partition. Returns whether
/// that is done; if not, call again.
///
/// A partition may have page tables in frames that the database no longer assigns to it, if the
/// monitor refused to take back a frame that was in use. So, if tables are left after the
/// partition's memory was named, this names all memory; the monitor drops only the partition's own
/// tables.
fn destroy(number: u32) -> Result<bool, Errno> {
    match or_gone(lead::destroy(number)) {
        Err(Errno::EBUSY) => {
            if !or_gone(lead::drop_tables(number, 0, u64::MAX))? {
                return Ok(false);
            }
            log!("partition {number} had page tables in memory that the database does not give it");
            or_gone(lead::destroy(number))
        }
        result => result,
    }
}

/// Treats a partition that is gone as destroyed to the end.
const fn or_gone(result: Result<bool, Errno>) -> Result<bool, Errno> {
    match result {
        // It was destroyed before, by a transaction that was refused later on.
        Err(NO_PARTITION) => Ok(true),
        result => result,
    }
}

/// The monitor's counters, and this partition's own.
#[derive(Clone, Copy, Debug)]
pub struct Counters<'b> {
    /// The time that this partition spends on clients.
    pub budget: &'b Budget,
    /// The disks of partitions.
    pub disks: &'b Disks,
    /// Statistics of the loop's turns.
    pub turns: Turns,
}

impl Gauges for Counters<'_> {
    fn service_time(&self, number: u32) -> u64 {
        self.budget.spent(number)
    }

    fn partition(&self, number: u32) -> Option<PartitionUsage> {
        lead::usage(number).ok()
    }

    fn running(&self, number: u32) -> (u32, u64) {
        lead::running(number).unwrap_or_default()
    }

    fn cpu(&self, index: u32) -> Option<CpuUsage> {
        lead::cpu_usage(index).ok()
    }

    fn frame(&self, frame: u64) -> Option<(u32, bool)> {
        lead::frame_owner(frame).ok()
    }

    fn disk(&self, endpoint: u32) -> Option<DiskStatus> {
        self.disks.status(endpoint)
    }

    fn turns(&self) -> Turns {
        self.turns
    }

    fn heap(&self) -> Heap {
        partition_runtime::heap::usage()
    }
}

/// The version of the Xen ABI that the monitor reports: major << 16 | minor; 0 if it reports none.
pub fn xen_version() -> u32 {
    // SAFETY: the operation touches no memory.
    let version = unsafe { hypercall::call(XEN_VERSION, [VERSION, 0, 0, 0, 0]) };
    version.ok().and_then(|version| u32::try_from(version).ok()).unwrap_or(0)
}
