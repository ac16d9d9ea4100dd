//! The successor: from the page that a dead server left to a journal in service.

use block_ring::{Broken, Cursor, Ring, RingMemory};

use crate::page::{self, ENTRIES, JournalPage, Life, Line, Phase, Publish, State};
use crate::{Detaching, Journal};

/// The state in which a successor finds a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Found {
    /// No client: the incarnation has not started, or has ended.
    Vacant,
    /// The client is going. The successor finishes the detach and issues nothing again.
    Detaching(Detaching),
    /// The answers are settled. The successor sends the event that may be owed
    /// ([`Ring::event_owed_at_attach`]), issues every taken entry again, and looks at the ring.
    Serving(Journal),
    /// The client broke its ring. The successor detaches it, with this cause.
    Broken(Broken, Journal),
}

/// The reason why a ring is held: the page is damaged, so it is not known which answers the client
/// got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    /// Magic, version or size of the ring do not fit, or the word LIFE is zero.
    Header,
    /// The page serves another incarnation.
    Incarnation {
        /// The incarnation in the page.
        found: u64,
    },
    /// The entries that are taken are not as many as the requests consumed and unanswered.
    State {
        /// The entries that are taken, one bit each.
        taken: u32,
        /// Requests consumed and unanswered.
        outstanding: u32,
    },
    /// A line names an entry that is not taken, or that another line names, too.
    Line {
        /// The line.
        at: u32,
    },
    /// The checksum of an entry does not fit.
    Seal {
        /// The entry.
        entry: u32,
    },
}

/// Settles the journal of a dead server. The caller has fenced that server, has reset the device,
/// has seen the reset confirmed, and has dropped the device's pins. If the caller dies too, the
/// next successor settles again.
///
/// # Errors
/// The page is damaged. Nothing was stored.
pub fn settle(
    page: &impl JournalPage,
    ring: &Ring<'_, impl RingMemory>,
    incarnation: u64,
) -> Result<Found, Held> {
    let life = Life::load(page);
    match life.phase {
        Phase::Fresh if !page::has_header(page) => return Ok(Found::Vacant),
        Phase::Fresh => return Err(Held::Header),
        Phase::Free if life.incarnation <= incarnation => return Ok(Found::Vacant),
        _ if life.incarnation != incarnation => {
            return Err(Held::Incarnation { found: life.incarnation });
        }
        Phase::Detaching => return Ok(Found::Detaching(Detaching { incarnation })),
        _ if !page::header_fits(page, ring.size()) => return Err(Held::Header),
        _ => {}
    }
    settle_answers(page, ring, incarnation)
}

fn settle_answers(
    page: &impl JournalPage,
    ring: &Ring<'_, impl RingMemory>,
    incarnation: u64,
) -> Result<Found, Held> {
    let State { taken, consumed } = State::load(page);
    let Publish { base, count } = Publish::load(page);
    let cursor = Cursor { consumed, produced: base };
    let outstanding = cursor.outstanding();
    let is_cleared = match outstanding.checked_sub(taken.count_ones()) {
        Some(0) => false,
        Some(missing) if missing == count => true,
        _ => return Err(Held::State { taken, outstanding }),
    };
    check_seals(page, taken, incarnation)?;
    let cleared = if is_cleared { 0 } else { check_lines(page, taken, count)? };
    let mut journal = Journal { incarnation, cursor, taken };
    let found = ring.responses_in_ring();
    if found == base.wrapping_add(count) {
        // The client may have seen the answers.
        if count > 0 {
            journal.publish(page, ring, cleared, count, false);
        }
    } else if found == base && !is_cleared {
        journal.write_responses(page, ring, count);
        journal.publish(page, ring, cleared, count, true);
    } else {
        let stored = base.wrapping_add(count);
        return Ok(Found::Broken(Broken::ResponsesMoved { found, stored }, journal));
    }
    Ok(Found::Serving(journal))
}

fn check_seals(page: &impl JournalPage, taken: u32, incarnation: u64) -> Result<(), Held> {
    for entry in (0..ENTRIES).filter(|entry| taken & 1 << entry != 0) {
        if !page::seal_fits(page, entry, incarnation) {
            return Err(Held::Seal { entry });
        }
    }
    Ok(())
}

/// The entries that the lines name.
fn check_lines(page: &impl JournalPage, taken: u32, count: u32) -> Result<u32, Held> {
    let mut named = 0u32;
    for at in 0..count {
        if at >= ENTRIES {
            return Err(Held::Line { at });
        }
        let entry = u32::from(Line::load(page, at as usize).entry);
        if entry >= ENTRIES || taken & !named & 1 << entry == 0 {
            return Err(Held::Line { at });
        }
        named |= 1 << entry;
    }
    Ok(named)
}

/// Detaches the client of a page that is held, at the operator's word. What was unanswered is
/// discarded, as at a detach.
pub fn abandon(page: &impl JournalPage, incarnation: u64) -> Detaching {
    Life { incarnation, phase: Phase::Detaching }.store(page);
    Detaching { incarnation }
}
