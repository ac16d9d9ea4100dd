//! Which I/O partition serves what: the database says who has a function, and reports say who drives
//! it.
//!
//! A *life* of an I/O partition lasts from its creation to its removal from the database. Each start
//! of its program has an *epoch*, a number that no other start has.
//!
//! Rule: a partition that is not running in the database serves nothing, whatever it reports.

use alloc::collections::BTreeMap;
use alloc::string::String;
use core::fmt;

use control::io::Medium;
use pv_abi::uv::database::{IO_PARTITIONS, UNASSIGNED, state};
use pv_abi::uv::endpoints::Endpoint;

/// What the database says.
pub trait Records {
    /// A partition's life and its state; `None` if there is no such partition.
    fn partition(&self, number: u32) -> Option<(u64, u32)>;
    /// The owner of a function.
    fn owner(&self, function: u32) -> u32;
    /// The partition that gets a function once its owner has let go of it; 0 for nobody.
    fn next_owner(&self, function: u32) -> u32;
    /// An entry of the endpoint table.
    fn endpoint(&self, index: u32) -> Option<alloc::boxed::Box<Endpoint>>;
}

/// A start of an I/O partition's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// The partition.
    pub member: u32,
    /// The partition's life.
    pub life: u64,
    /// The epoch of the start.
    pub epoch: u32,
}

/// Why nobody serves an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// No partition has this function.
    Unowned(u32),
    /// The endpoint's functions belong to these two partitions.
    Divided(u32, u32),
    /// The owner does not drive the function (yet).
    NotDriven {
        /// The function.
        function: u32,
        /// Its owner.
        owner: u32,
        /// Why not, as the owner reported it.
        reason: Option<String>,
    },
    /// This partition served the endpoint last, and is not gone yet.
    NotGone(u32),
    /// A function of the endpoint moves.
    Moves {
        /// The function.
        function: u32,
        /// The partition that gets it.
        to: u32,
    },
}

impl fmt::Display for Unserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unowned(function) => write!(
                f,
                "function {function} belongs to no I/O partition (`uvtool resources` shows who has it); \
                 the next one that starts gets it: the host's log says why none does"
            ),
            Self::Divided(one, other) => write!(
                f,
                "its functions belong to partitions {one} and {other}; a disk of the functions of \
                 one I/O partition can be served"
            ),
            Self::NotDriven { function, owner, reason: Some(reason) } => write!(
                f,
                "partition {owner} does not drive function {function}: {reason}; restart the host to \
                 try it again"
            ),
            Self::NotDriven { function, owner, reason: None } => write!(
                f,
                "partition {owner} does not drive function {function} yet; if that stays, read the \
                 host's log, or restart the host"
            ),
            Self::Moves { function, to } => {
                write!(f, "function {function} moves to partition {to}")
            }
            Self::NotGone(member) => {
                write!(f, "partition {member}, which served it, is not gone yet")
            }
        }
    }
}

#[derive(Debug, Default)]
struct Member {
    /// Its life, if it runs according to the database.
    running: Option<u64>,
    /// Its life, if it is in the database.
    present: Option<u64>,
    /// The epoch and the life in which it reported last that it runs.
    started: Option<(u32, u64)>,
    /// The functions that it drives since then.
    driven: BTreeMap<u32, Medium>,
    /// The functions that it has and reported not to drive, with the reasons.
    failed: BTreeMap<u32, String>,
}

/// The I/O partitions.
#[derive(Debug, Default)]
pub struct Servers {
    epoch: u32,
    members: BTreeMap<u32, Member>,
}

impl Servers {
    /// Reads the I/O partitions in the database.
    pub fn follow(&mut self, records: &impl Records) {
        for (number, _) in IO_PARTITIONS {
            let member = self.members.entry(number).or_default();
            let found = records.partition(number);
            member.present = found.map(|(life, _)| life);
            member.running =
                found.and_then(|(life, state)| (state == state::RUNNING).then_some(life));
            member.driven.retain(|&function, _| records.owner(function) == number);
            member.failed.retain(|&function, _| records.owner(function) == number);
        }
    }

    /// Notes a partition's report that it runs. It drives and serves nothing yet.
    pub fn started(&mut self, number: u32, records: &impl Records) {
        self.follow(records);
        let Some(member) = self.members.get_mut(&number) else {
            return;
        };
        member.driven.clear();
        member.failed.clear();
        // A u32 that counts starts of programs does not come round.
        self.epoch = self.epoch.wrapping_add(1);
        member.started = member.present.map(|life| (self.epoch, life));
    }

    /// Notes a partition's report that it drives a function, or why it does not. Ignores a report
    /// about a function that the partition does not have.
    pub fn drives(
        &mut self,
        number: u32,
        function: u32,
        medium: Result<Medium, String>,
        records: &impl Records,
    ) {
        if records.owner(function) != number {
            return;
        }
        let Some(member) = self.members.get_mut(&number).filter(|m| m.started.is_some()) else {
            return;
        };
        match medium {
            Ok(medium) => {
                member.failed.remove(&function);
                member.driven.insert(function, medium);
            }
            Err(reason) => {
                member.driven.remove(&function);
                member.failed.insert(function, reason);
            }
        }
    }

    /// Notes a partition's report that it has let go of a function.
    pub fn left(&mut self, number: u32, function: u32) {
        if let Some(member) = self.members.get_mut(&number) {
            member.driven.remove(&function);
            member.failed.remove(&function);
        }
    }

    /// Notes that a partition's channel is closed.
    pub fn ended(&mut self, number: u32) {
        if let Some(member) = self.members.get_mut(&number) {
            (member.started, member.running) = (None, None);
            member.driven.clear();
            member.failed.clear();
        }
    }

    /// The present start of a partition's program.
    pub fn server(&self, number: u32) -> Option<Server> {
        let member = self.members.get(&number)?;
        let (epoch, life) = member.started?;
        (member.running == Some(life)).then_some(Server { member: number, life, epoch })
    }

    /// The medium of a function, as its owner reported it.
    pub fn medium(&self, owner: u32, function: u32) -> Option<&Medium> {
        self.server(owner)?;
        self.members.get(&owner)?.driven.get(&function)
    }

    /// Returns whether a life of a partition has ended, with all that it had mapped.
    pub fn is_gone(&self, number: u32, life: u64) -> bool {
        self.members.get(&number).is_none_or(|member| member.present != Some(life))
    }

    /// The server of an endpoint with these functions.
    ///
    /// # Errors
    /// [`Unserved`] says why no partition serves the endpoint.
    pub fn server_of(&self, functions: &[u32], records: &impl Records) -> Result<Server, Unserved> {
        let mut owner = None;
        for &function in functions {
            match (records.owner(function), owner) {
                (UNASSIGNED, _) => return Err(Unserved::Unowned(function)),
                (other, Some(one)) if other != one => return Err(Unserved::Divided(one, other)),
                (other, _) => owner = Some(other),
            }
        }
        let owner = owner.unwrap_or(UNASSIGNED);
        let moves = |function: u32| {
            let to = records.next_owner(function);
            (to != UNASSIGNED).then_some(Unserved::Moves { function, to })
        };
        if let Some(moves) = functions.iter().copied().find_map(moves) {
            return Err(moves);
        }
        let undriven = functions.iter().find(|&&f| self.medium(owner, f).is_none());
        match (undriven, self.server(owner)) {
            (None, Some(server)) => Ok(server),
            (function, _) => {
                let function = function.or(functions.first()).copied().unwrap_or(0);
                let member = self.members.get(&owner);
                let reason = member.and_then(|member| member.failed.get(&function)).cloned();
                Err(Unserved::NotDriven { function, owner, reason })
            }
        }
    }
}
