//! The time that a partition spends on requests of guests, charged to each of them.
//!
//! ```text
//! one bucket:  rate of a CPU, at most burst saved up       how much is done for guests in all
//! each guest:  virtual time = time spent / weight          whose turn it is
//! ```
//!
//! A partition that serves guests runs before them, so the time that it spends is lost to the other
//! partitions on its CPU. All guests together may have [`Limits::rate`] percent of a CPU. So the
//! rest of the CPU stays with guests that ask for nothing, whatever the others ask. The waiting
//! guests share that time by their CPU weights: the guest with the lowest virtual time is served
//! first. A guest that was idle starts at the virtual time of those served now, so it waits for at
//! most one turn of each, and has saved up no time. While the bucket is empty, guests' rings stay
//! unread.
//!
//! Time spent on system partitions is charged to them but not limited, because they belong to the
//! host.
//!
//! The ultravisor has such a budget for the store, and `uvd` has another for consoles.
//!
//! Rule: the clock is a parameter, and time is charged after it was spent. If a guest overdraws the
//! bucket, no guest is served until it refills.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::collections::BTreeMap;

/// The limits of the time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Percent of one CPU for the work on behalf of guests.
    pub rate: u64,
    /// Maximum number of nanoseconds that may be saved up.
    pub burst: i64,
    /// Nanoseconds that a turn takes. Guests are served again once this much time is available.
    pub turn: u64,
    /// Nanoseconds that a turn costs beside the measured time: the switches to the partition.
    pub switches: u64,
}

/// The weight of a guest whose weight is not known.
const USUAL_WEIGHT: u32 = 256;

/// The account of a client.
#[derive(Clone, Copy, Debug)]
struct Client {
    weight: u32,
    /// Nanoseconds spent on it, times 65536, divided by its weight.
    virtual_time: u64,
    /// Nanoseconds spent on it.
    spent: u64,
}

impl Default for Client {
    fn default() -> Self {
        Self { weight: USUAL_WEIGHT, virtual_time: 0, spent: 0 }
    }
}

/// The budget of all guests, and the account of each client.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    saved: i64,
    /// When it was last refilled, and the remainder of that refill.
    refilled: (u64, u64),
    /// The virtual time at which the last turn began.
    virtual_time: u64,
    clients: BTreeMap<u32, Client>,
}

impl Budget {
    /// A full bucket without clients.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            saved: limits.burst,
            refilled: (0, 0),
            virtual_time: 0,
            clients: BTreeMap::new(),
        }
    }

    /// Sets a client's CPU weight.
    pub fn set_weight(&mut self, who: u32, weight: u32) {
        self.clients.entry(who).or_default().weight = weight.max(1);
    }

    /// Removes a client that is destroyed.
    pub fn forget(&mut self, who: u32) {
        self.clients.remove(&who);
    }

    /// Nanoseconds spent on a client.
    #[must_use]
    pub fn spent(&self, who: u32) -> u64 {
        self.clients.get(&who).map_or(0, |client| client.spent)
    }

    /// The time from which on guests may be served; `now` if they may be served at once.
    pub fn due(&mut self, now: u64) -> u64 {
        let Limits { rate, burst, turn, .. } = self.limits;
        let (then, rest) = self.refilled;
        let gained = now.saturating_sub(then).min(1 << 40) * rate + rest;
        self.refilled = (now, gained % 100);
        let gained = i64::try_from(gained / 100).unwrap_or(burst);
        self.saved = self.saved.saturating_add(gained).min(burst);
        if self.saved > 0 {
            return now;
        }
        let lacks = self.saved.unsigned_abs() + turn / 4;
        now.saturating_add(lacks.saturating_mul(100) / rate)
    }

    /// The rank of a client among those that wait; the lowest is served first.
    #[must_use]
    pub fn rank(&self, who: u32) -> u64 {
        let virtual_time = self.clients.get(&who).map_or(0, |client| client.virtual_time);
        virtual_time.max(self.virtual_time)
    }

    /// Charges a turn that took `nanoseconds`. A system partition's turn does not reduce the
    /// guests' budget.
    pub fn spend(&mut self, who: u32, nanoseconds: u64, guest: bool) {
        let spent = nanoseconds.saturating_add(self.limits.switches);
        let start = self.rank(who);
        let client = self.clients.entry(who).or_default();
        client.spent = client.spent.saturating_add(spent);
        if guest {
            let part = spent.saturating_mul(65_536) / u64::from(client.weight);
            client.virtual_time = start.saturating_add(part);
            self.virtual_time = start;
            self.saved = self.saved.saturating_sub(i64::try_from(spent).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const LIMITS: Limits = Limits { rate: 6, burst: 2_000_000, turn: 200_000, switches: 8_000 };

    /// A client that sends a request every `every` nanoseconds, each of which takes `takes`
    /// nanoseconds.
    struct Asks {
        who: u32,
        every: u64,
        takes: u64,
        due: u64,
        waited: u64,
        served: u64,
    }

    fn asks(who: u32, every: u64, takes: u64) -> Asks {
        Asks { who, every, takes, due: 0, waited: 0, served: 0 }
    }

    /// Serves clients until `end`. Returns the nanoseconds spent.
    fn serve(budget: &mut Budget, clients: &mut [Asks], end: u64) -> u64 {
        let (mut now, mut spent) = (0, 0);
        while now < end {
            let due = budget.due(now);
            if due > now {
                now = due;
                continue;
            }
            let waiting = clients.iter_mut().filter(|client| client.due <= now);
            let Some(client) = waiting.min_by_key(|client| budget.rank(client.who)) else {
                now += 10_000;
                continue;
            };
            client.waited = client.waited.max(now - client.due);
            client.served += client.takes;
            budget.spend(client.who, client.takes, true);
            (now, spent) = (now + client.takes, spent + client.takes);
            client.due = now + client.every;
        }
        spent
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn whatever_guests_ask_they_have_their_part_of_a_cpu() {
        for count in [1, 3, 50] {
            let mut budget = Budget::new(LIMITS);
            let mut clients: Vec<_> = (0..count).map(|who| asks(who, 0, 50_000)).collect();
            let spent = serve(&mut budget, &mut clients, 10 * SECOND);
            let most = 10 * SECOND * LIMITS.rate / 100;
            assert!(spent <= most + LIMITS.burst.unsigned_abs() + LIMITS.turn, "{spent} of {most}");
            assert!(spent > most / 10 * 8, "{spent} of {most}");
        }
    }

    #[test]
    fn guests_that_flood_have_parts_by_their_weights() {
        let mut budget = Budget::new(LIMITS);
        budget.set_weight(1, 100);
        budget.set_weight(2, 300);
        let mut clients = [asks(1, 0, 50_000), asks(2, 0, 30_000)];
        serve(&mut budget, &mut clients, 10 * SECOND);
        let [light, heavy] = clients.map(|client| client.served);
        // The switches are charged as well, and the heavy client has more of them.
        assert!((20..=28).contains(&(light * 100 / (light + heavy))), "{light} {heavy}");
        assert!(budget.spent(1) > light && budget.spent(2) > heavy);
    }

    #[test]
    fn a_guest_that_asks_little_is_served_beside_those_that_flood() {
        let mut budget = Budget::new(LIMITS);
        let mut clients: Vec<_> = (0..9).map(|who| asks(who, 0, 100_000)).collect();
        clients.push(asks(9, 100_000_000, 20_000));
        serve(&mut budget, &mut clients, 10 * SECOND);
        let innocent = clients.last().unwrap();
        // Before its own turn, at most one turn of each is paid for.
        let turn = (100_000 + LIMITS.switches) * 100 / LIMITS.rate;
        assert!(innocent.waited < 10 * turn, "{}", innocent.waited);
        // It asks again 100 ms after each answer.
        assert!(innocent.served > 10 * SECOND / (100_000_000 + 10 * turn) * 20_000);
    }

    #[test]
    fn what_the_host_itself_asks_is_booked_and_takes_nothing_from_guests() {
        let mut budget = Budget::new(LIMITS);
        budget.spend(3, SECOND, false);
        assert_eq!(budget.due(5), 5);
        assert_eq!(budget.spent(3), SECOND + LIMITS.switches);
        assert_eq!(budget.rank(3), 0);
    }

    #[test]
    fn no_clock_and_no_cost_makes_it_panic() {
        let mut budget = Budget::new(LIMITS);
        budget.set_weight(1, 0);
        budget.spend(1, u64::MAX, true);
        budget.spend(1, u64::MAX, true);
        assert!(budget.due(u64::MAX) >= u64::MAX - 1);
        assert!(budget.due(0) > 0);
    }
}
