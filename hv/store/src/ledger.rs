//! The ledger: the bytes that the store keeps for each partition, and the limits on them.
//!
//! ```text
//! budget = clients * (FIXED + RESERVE) + shared
//! a client's bytes = nodes it owns + watches + open transactions + queued events
//! ```
//!
//! `RESERVE` bytes belong to each client; no other client can use them. Bytes beyond a client's
//! reserve come from the shared part. A client may take bytes there only while at least as many
//! stay free as the client then has taken. So a single greedy client gets half of the shared part,
//! `n` greedy clients get `1 / (n + 1)` each, and a newcomer always finds some.
//!
//! Rule: the ledger counts at least the bytes that the allocator uses (`tests/ledger.rs`), and the
//! sum over all clients stays within the budget. Only the client that exceeds its limit is refused.
//! Writes of the server itself are never refused, and count against the node's owner.

use alloc::collections::BTreeMap;

use crate::limits::{BYTES, FIXED, NODES, RESERVE};

/// The account of one partition.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    connected: bool,
    bytes: usize,
    nodes: u32,
}

impl Account {
    /// Bytes beyond the reserve.
    const fn over(&self) -> usize {
        if self.connected { self.bytes.saturating_sub(RESERVE) } else { 0 }
    }
}

/// How a change affects one partition's account.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Difference {
    pub(crate) more: usize,
    pub(crate) less: usize,
    pub(crate) more_nodes: u32,
    pub(crate) less_nodes: u32,
}

/// Differences by partition.
pub(crate) type Differences = BTreeMap<u32, Difference>;

/// The accounts of all partitions.
#[derive(Debug)]
pub(crate) struct Ledger {
    budget: usize,
    clients: usize,
    /// Bytes of all clients beyond their reserves.
    shared: usize,
    accounts: BTreeMap<u32, Account>,
}

impl Ledger {
    /// Makes a ledger with a budget of `budget` bytes for all clients together.
    pub(crate) const fn new(budget: usize) -> Self {
        Self { budget, clients: 0, shared: 0, accounts: BTreeMap::new() }
    }

    /// Returns whether `clients` more clients would each have their reserve.
    pub(crate) const fn has_room_for(&self, clients: usize) -> bool {
        let clients = self.clients.saturating_add(clients);
        clients.saturating_mul(FIXED + RESERVE).saturating_add(self.shared) <= self.budget
    }

    /// Free bytes of the shared part.
    const fn free(&self) -> usize {
        let reserved = self.clients.saturating_mul(FIXED + RESERVE);
        self.budget.saturating_sub(reserved).saturating_sub(self.shared)
    }

    fn change(&mut self, who: u32, change: impl FnOnce(&mut Account)) {
        let account = self.accounts.entry(who).or_default();
        let before = account.over();
        change(account);
        let now = *account;
        self.shared = self.shared.saturating_sub(before).saturating_add(now.over());
        if !now.connected && now.bytes == 0 && now.nodes == 0 {
            self.accounts.remove(&who);
        }
    }

    /// Notes that a partition became a client, or no longer is one.
    pub(crate) fn set_connected(&mut self, who: u32, connected: bool) {
        let before = self.accounts.get(&who).is_some_and(|account| account.connected);
        self.change(who, |account| account.connected = connected);
        self.clients = self.clients + usize::from(connected) - usize::from(before);
    }

    fn account(&self, who: u32) -> Account {
        self.accounts.get(&who).copied().unwrap_or_default()
    }

    /// Returns whether a partition may have `more` bytes in addition. A partition that is not a
    /// client may not.
    fn allows(&self, who: u32, more: usize) -> bool {
        let before = self.account(who);
        let after = Account { bytes: before.bytes.saturating_add(more), ..before };
        let left = self.free().checked_sub(after.over() - before.over());
        before.connected
            && after.bytes <= BYTES
            && (after.over() == before.over() || left.is_some_and(|left| left >= after.over()))
    }

    /// Charges bytes to a partition, if it may have them. Returns whether it may.
    pub(crate) fn charge(&mut self, who: u32, bytes: usize) -> bool {
        let allowed = self.allows(who, bytes);
        if allowed {
            self.change(who, |account| account.bytes += bytes);
        }
        allowed
    }

    /// Releases bytes of a partition.
    pub(crate) fn release(&mut self, who: u32, bytes: usize) {
        self.change(who, |account| account.bytes = account.bytes.saturating_sub(bytes));
    }

    /// Returns whether all partitions may have the bytes that the differences add.
    pub(crate) fn admits(&self, differences: &Differences) -> bool {
        differences.iter().all(|(&who, difference)| {
            let more = difference.more.saturating_sub(difference.less);
            let nodes = self.account(who).nodes.saturating_add(difference.more_nodes);
            let few = nodes.saturating_sub(difference.less_nodes) <= NODES;
            let fewer = difference.more_nodes <= difference.less_nodes;
            (more == 0 || self.allows(who, more)) && (few || fewer)
        })
    }

    /// Applies the differences to the accounts.
    pub(crate) fn book(&mut self, differences: &Differences) {
        for (&who, difference) in differences {
            self.change(who, |account| {
                account.bytes = (account.bytes + difference.more).saturating_sub(difference.less);
                let nodes = account.nodes.saturating_add(difference.more_nodes);
                account.nodes = nodes.saturating_sub(difference.less_nodes);
            });
        }
    }

    /// Number of nodes of a partition.
    pub(crate) fn nodes(&self, who: u32) -> u32 {
        self.account(who).nodes
    }

    /// Bytes of a partition.
    pub(crate) fn bytes(&self, who: u32) -> usize {
        self.account(who).bytes
    }

    /// Bytes of all partitions and the server.
    pub(crate) fn total(&self) -> usize {
        let bytes: usize = self.accounts.values().map(|account| account.bytes).sum();
        bytes + self.clients * FIXED
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FULL: usize = 64 * (FIXED + RESERVE);

    #[test]
    fn one_greedy_client_gets_half_and_many_leave_some() {
        for greedy in 1..8u32 {
            let mut ledger = Ledger::new(FULL);
            (0..greedy).for_each(|who| ledger.set_connected(who, true));
            let shared = ledger.free();
            for who in (0..greedy).cycle().take(100_000) {
                ledger.charge(who, 64);
            }
            let due = (shared / (greedy as usize + 1)).min(BYTES - RESERVE);
            for who in 0..greedy {
                let over = ledger.bytes(who) - RESERVE;
                assert!(over.abs_diff(due) <= 64 * 8, "{greedy}: {over} of {due}");
            }
        }
    }

    proptest! {
        /// Whatever clients request, the sum of their bytes stays within the budget, and each
        /// client has its reserve.
        #[test]
        fn the_sum_stays_within_the_budget(
            steps in prop::collection::vec((0..40u32, 0..BYTES, any::<bool>()), 1..400)
        ) {
            let mut ledger = Ledger::new(FULL);
            for (who, bytes, more) in steps {
                if !ledger.account(who).connected && ledger.has_room_for(1) {
                    ledger.set_connected(who, true);
                } else if more {
                    ledger.charge(who, bytes);
                } else {
                    ledger.release(who, bytes);
                }
                prop_assert!(ledger.total() <= FULL);
            }
            for who in 0..40 {
                if ledger.account(who).connected && ledger.bytes(who) < RESERVE {
                    let rest = RESERVE - ledger.bytes(who);
                    prop_assert!(ledger.charge(who, rest));
                }
            }
            prop_assert!(ledger.total() <= FULL);
        }
    }
}
