//! How far a long question has come, for who waits at a terminal or reads a log.
//!
//! Rule: what ends within a second says nothing; what takes longer says one line a second.

use std::io::Write;
use std::time::{Duration, Instant};

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Tells on standard error how much is done.
pub struct Progress {
    doing: &'static str,
    due: Instant,
}

impl Progress {
    /// Begins to do something; `doing` is what the lines begin with.
    pub fn new(doing: &'static str) -> Self {
        let due = Instant::now() + INTERVAL;
        Self { doing, due }
    }

    /// So many of `all` are done.
    pub fn done(&mut self, count: u64, all: u64) {
        if let Some(line) = self.line(Instant::now(), count, all) {
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn line(&mut self, now: Instant, count: u64, all: u64) -> Option<String> {
        if now < self.due {
            return None;
        }
        self.due = now + INTERVAL;
        let percent = u128::from(count) * 100 / u128::from(all.max(1));
        Some(format!("uvtool: {}: {percent} %\n", self.doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_second_and_none_before() {
        let mut progress = Progress::new("comparing");
        let start = progress.due - INTERVAL;
        let mut at = |ms| progress.line(start + Duration::from_millis(ms), 1, 4);
        assert_eq!(at(999), None);
        assert_eq!(at(1001).unwrap(), "uvtool: comparing: 25 %\n");
        assert_eq!(at(1500), None);
        assert!(at(2001).is_some());
    }

    #[test]
    fn nothing_to_do_is_no_division_by_nothing() {
        let mut progress = Progress::new("comparing");
        let due = progress.due;
        assert!(progress.line(due, 0, 0).unwrap().contains("0 %"));
    }
}
