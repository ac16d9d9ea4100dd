//! When a partition stops by itself: what it left pending is rolled back, and why is written down.
//!
//! Rule: nothing that the monitor did by itself goes unrecorded, and no half-built partition
//! outlives the one that was building it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pv_abi::uv::calls::{MonitorEvent, cause};
use pv_abi::uv::command::Refusal;
use pv_abi::uv::database::{MONITOR, state};

use crate::engine::{Engine, Origin, Pending};
use crate::log::Settled;
use crate::plan::Plan;
use crate::refusal::{from_write, label};
use crate::{Action, Monitor, operations};

impl Engine<'_> {
    /// Rolls back what partition `who` left pending: what it created is destroyed, what it
    /// assigned is released. Returns how many transactions that were.
    pub fn client_failed(&mut self, monitor: &mut dyn Monitor, who: u32, time: u64) -> usize {
        let (mut mine, others) = core::mem::take(&mut self.pending)
            .into_iter()
            .partition::<Vec<_>, _>(|pending| pending.who == who);
        self.pending = others;
        self.clients.remove(&who);
        let count = mine.len();
        while let Some(pending) = mine.pop() {
            let origin = Origin { who, time, request: pending.request };
            let why = format!("partition {who} failed");
            let to = Settled::RolledBack;
            if self.roll_back(monitor, origin, &pending, &why).is_ok() {
                let _ = self.log.settle(&mut self.database, pending.sequence, to, &why);
            } else {
                self.pending.push(pending);
            }
        }
        count
    }

    fn roll_back(
        &mut self,
        monitor: &mut dyn Monitor,
        origin: Origin,
        pending: &Pending,
        why: &str,
    ) -> Result<(), Refusal> {
        let mut plan = Plan::new(&self.database);
        for &number in &pending.created {
            if let Some(mut target) = plan.descriptor(number) {
                if matches!(target.state, state::RUNNING | state::PAUSED) {
                    plan.actions.push(Action::Stop(number));
                    target.state = state::DYING;
                }
                operations::destroy(&mut plan, &target)?;
            }
        }
        for &(number, range) in &pending.assigned {
            operations::release_assigned(&mut plan, number, range);
        }
        let (changes, actions) = (plan.changes(), plan.actions);
        let what = format!("roll back request {}", pending.request);
        let record = self.new_record(origin, Settled::Begun, &what, why, changes);
        let changes = record.changes.clone();
        let sequence = self.log.record(&mut self.database, record).map_err(from_write)?;
        let result = self.carry_out(monitor, &changes, &actions, &[]);
        let version = self.database.contents().saturating_add(u64::from(result.is_ok()));
        self.database.set_contents(version).map_err(from_write)?;
        let to = if result.is_ok() { Settled::Committed } else { Settled::Refused };
        self.log.settle(&mut self.database, sequence, to, "").map_err(from_write)?;
        result
    }

    /// Writes down what the monitor did to a partition by itself: state and cause in its
    /// descriptor, a record in the log, and the rollback of what the partition left pending.
    pub fn monitor_did(&mut self, monitor: &mut dyn Monitor, event: &MonitorEvent) {
        let plan = Plan::new(&self.database);
        let Some(mut target) = plan.descriptor(event.partition) else {
            return;
        };
        let mut plan = plan;
        let asked = event.cause == cause::SHUTDOWN && event.detail != SHUTDOWN_CRASH;
        target.state = if asked { state::SHUTDOWN } else { state::CRASHED };
        (target.cause, target.cause_detail) = (event.cause, event.detail);
        target.cause_address = event.address;
        let what = format!("{}: {}", label(&target), describe_cause(event));
        plan.set_descriptor(target);
        let changes = plan.changes();
        let origin = Origin { who: MONITOR, time: event.time, request: 0 };
        let mut record = self.new_record(origin, Settled::Monitor, &what, "", changes);
        record.version = record.version.saturating_add(1);
        let changes = record.changes.clone();
        let _ = self.log.record(&mut self.database, record);
        for change in &changes {
            let _ = change.apply(&mut self.database);
        }
        let version = self.database.contents().saturating_add(1);
        let _ = self.database.set_contents(version);
        self.client_failed(monitor, event.partition, event.time);
    }
}

/// `SHUTDOWN_crash` of the public `sched.h`.
const SHUTDOWN_CRASH: u32 = 3;

/// The cause of a stop in words.
fn describe_cause(event: &MonitorEvent) -> String {
    let (vcpu, address) = (event.vcpu, event.address);
    match (event.cause, event.detail) {
        (cause::SHUTDOWN, 0) => "powered off".to_string(),
        (cause::SHUTDOWN, 1) => "asked to be rebooted".to_string(),
        (cause::SHUTDOWN, 2) => "suspended".to_string(),
        (cause::SHUTDOWN, SHUTDOWN_CRASH) => "said that it crashed".to_string(),
        (cause::SHUTDOWN, reason) => format!("shut down with reason {reason}"),
        (cause::UNHANDLED_TRAP, vector) => {
            format!("trap {vector} without a handler, vCPU {vcpu} at {address:#x}")
        }
        (cause::BAD_FRAME, _) => format!("unusable stack or frame, vCPU {vcpu} at {address:#x}"),
        (cause::BAD_PAGE_TABLE, detail) => format!("page tables refused ({detail:#x})"),
        (cause::PAGE_TABLE, detail) => format!("page-table state ({detail:#x})"),
        (cause::STOPPED, _) => "stopped by the ultravisor".to_string(),
        (other, detail) => format!("stopped: cause {other}, detail {detail:#x}"),
    }
}
