//! The record of a failover: how far a group of endpoints has moved to its new server.
//!
//! The ultravisor keeps one record for each group. It does the phases in order, and notes each one
//! *after* its work. So whoever carries on after a death of the ultravisor does at most one phase
//! twice, and each phase can be repeated. Nothing is ever undone.
//!
//! | phase | its work |
//! |---|---|
//! | epoch | the group's epoch is raised: calls of the old server with the old epoch are refused |
//! | fenced | the old server's virtual CPUs are stopped, and every CPU has passed a quiescent point |
//! | moved | the device belongs to the successor |
//! | reset | the successor has reset the device with its own driver, and has seen that confirmed |
//! | unpinned | the pins of that device are dropped |
//! | re-pointed | ports and rings of the group's clients lead to the successor |
//! | attached | the successor has settled the journals and serves |
//!
//! If the successor dies, the failover begins again with the next successor, from whoever holds the
//! device now ([`Record::successor_died`]). What was reached before does not count, since a new
//! epoch, fence and reset are cheaper to repeat than to argue away. If the device's reset is not
//! confirmed, the record stays before *reset*: the rings are held, and nothing is issued again.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// A phase of a failover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Phase {
    /// The epoch is raised.
    Epoch = 1,
    /// The old server never runs again.
    Fenced = 2,
    /// The device belongs to the successor.
    Moved = 3,
    /// The device's reset is confirmed.
    Reset = 4,
    /// The device's pins are dropped.
    Unpinned = 5,
    /// Ports and rings lead to the successor.
    RePointed = 6,
    /// The successor serves.
    Attached = 7,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Self; 7] = [
        Self::Epoch,
        Self::Fenced,
        Self::Moved,
        Self::Reset,
        Self::Unpinned,
        Self::RePointed,
        Self::Attached,
    ];
}

/// A server: the number of its partition, and of its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// Number of the partition.
    pub partition: u32,
    /// Starts of the partition so far; a server that was fenced never runs again under it.
    pub start: u32,
}

/// Why a phase is not noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// A phase before it is not done.
    NotYet {
        /// The phase that is next.
        next: Phase,
    },
    /// It is the work of an earlier epoch: another failover has begun since.
    Stale {
        /// The epoch of the record.
        epoch: u32,
    },
    /// The successor is the server that the group leaves.
    SameServer,
    /// Epochs are used up.
    EpochsUsedUp,
}

/// The record of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "a failover that is not recorded is lost with the ultravisor"]
pub struct Record {
    from: Server,
    to: Server,
    epoch: u32,
    /// Number of phases that are done.
    done: u8,
}

impl Record {
    /// Begins a failover of a group at `epoch`: the phases raise it by one.
    ///
    /// # Errors
    /// Both servers are the same, or there is no next epoch.
    pub fn begin(from: Server, to: Server, epoch: u32) -> Result<Self, Refused> {
        if from == to {
            return Err(Refused::SameServer);
        }
        let epoch = epoch.checked_add(1).ok_or(Refused::EpochsUsedUp)?;
        Ok(Self { from, to, epoch, done: 0 })
    }

    /// The phase to do next; `None` if the failover is done.
    #[must_use]
    pub fn next(&self) -> Option<Phase> {
        Phase::ALL.get(usize::from(self.done)).copied()
    }

    /// Says whether a phase is done.
    #[must_use]
    pub const fn is_done(&self, phase: Phase) -> bool {
        self.done >= phase as u8
    }

    /// The server that the group leaves.
    #[must_use]
    pub const fn from(&self) -> Server {
        self.from
    }

    /// The successor.
    #[must_use]
    pub const fn to(&self) -> Server {
        self.to
    }

    /// The epoch of the group, from the first phase on.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The server that the device belongs to.
    #[must_use]
    pub const fn holder(&self) -> Server {
        if self.is_done(Phase::Moved) { self.to } else { self.from }
    }

    /// Notes that a phase's work was done in `epoch`. A phase that is noted already stays so.
    ///
    /// # Errors
    /// A phase before it is not done, or the epoch is an earlier one.
    pub fn note(&mut self, phase: Phase, epoch: u32) -> Result<(), Refused> {
        if epoch != self.epoch {
            return Err(Refused::Stale { epoch: self.epoch });
        }
        match self.next() {
            Some(next) if next < phase => Err(Refused::NotYet { next }),
            Some(next) if next == phase => {
                self.done = phase as u8;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Begins again with another successor, since this one died. Once the old server is fenced, the
    /// group leaves the dead successor: the device may be its own, even while *moved* is not noted.
    /// Before that the device has not moved, and the old server is still to be fenced.
    ///
    /// # Errors
    /// As for [`Record::begin`].
    pub fn successor_died(&self, to: Server) -> Result<Self, Refused> {
        let may_have_moved = self.is_done(Phase::Fenced);
        let from = if may_have_moved { self.to } else { self.from };
        if to == self.from || to == self.to {
            return Err(Refused::SameServer);
        }
        Self::begin(from, to, self.epoch)
    }
}
