//! Shows the progress of a long request to a user at a terminal or a reader of a log.
//!
//! Rule: a request that ends within a second shows no progress; a longer one shows a line each
//! second. A program that reads JSON sees no such lines.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::answer;
use crate::table::printable;

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reports on standard error how much is done.
pub struct Progress {
    doing: &'static str,
    due: Instant,
}

impl Progress {
    /// Begins an activity; each line begins with `doing`.
    pub fn new(doing: &'static str) -> Self {
        let due = Instant::now() + INTERVAL;
        Self { doing, due }
    }

    /// Notes that `count` of `all` are done.
    pub fn done(&mut self, count: u64, all: u64) {
        if let Some(line) = self.line(Instant::now(), count, all)
            && !answer::is_json()
        {
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

/// Shows the progress of a request of several steps, with a line each second for long steps.
#[derive(Default)]
pub struct Steps {
    last: Option<(String, String, Instant)>,
}

impl Steps {
    /// Shows this progress.
    pub fn show(&mut self, news: &uvd_protocol::Progress) {
        if let Some(line) = self.line(Instant::now(), news)
            && !answer::is_json()
        {
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }

    fn line(&mut self, now: Instant, news: &uvd_protocol::Progress) -> Option<String> {
        let due = match &self.last {
            Some((name, step, due)) if (name, step) == (&news.name, &news.step) => *due,
            _ => now + INTERVAL,
        };
        let shown = now >= due;
        let next = if shown { now + INTERVAL } else { due };
        self.last = Some((news.name.clone(), news.step.clone(), next));
        if !shown {
            return None;
        }
        let (name, step) = (printable(&news.name), printable(&news.step));
        Some(match u128::from(news.of) {
            0 => format!("uvtool: {name}: {step}\n"),
            of => format!("uvtool: {name}: {step}: {} %\n", u128::from(news.done) * 100 / of),
        })
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

    #[test]
    fn a_step_that_takes_long_is_shown_every_second() {
        let mut steps = Steps::default();
        let start = Instant::now();
        let mut at = |ms, step: &str, done| {
            let (name, step) = ("web".into(), step.into());
            let news = uvd_protocol::Progress { name, step, done, of: 200 };
            steps.line(start + Duration::from_millis(ms), &news)
        };
        assert_eq!(at(0, "building", 0), None);
        assert_eq!(at(900, "building", 20), None);
        assert_eq!(at(1000, "building", 50).unwrap(), "uvtool: web: building: 25 %\n");
        assert_eq!(at(1500, "building", 60), None);
        assert_eq!(
            at(1600, "starting", 0),
            None,
            "a step is shown only after it has lasted a second"
        );
    }
}
