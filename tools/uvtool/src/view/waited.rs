//! `uvtool wait NAME`.

use control::command::PartitionRow;
use pv_abi::uv::calls::cause;
use serde::Serialize;
use uvd_protocol::{End, Sentence, Until, way_out};

use super::View;
use crate::answer::status;
use crate::words::{Word, cause_words, state_word};

/// The result of a wait.
#[derive(Serialize)]
pub struct Waited {
    name: String,
    state: Option<Word>,
    cause: Option<String>,
    #[serde(skip)]
    crashed: bool,
    /// Whether the partition is gone although another state was awaited.
    #[serde(skip)]
    missed: bool,
}

impl Waited {
    /// A view of the row as it was last read, and of how the partition ended.
    pub fn new(name: &str, until: Until, row: Option<&PartitionRow>, end: Option<End>) -> Self {
        let clean = [cause::NONE, cause::STOPPED];
        let crashed = end.is_some_and(|end| match end.cause {
            cause::SHUTDOWN => end.detail > 2,
            other => !clean.contains(&other),
        });
        Self {
            name: name.into(),
            state: row.map(|row| state_word(row.state)),
            cause: end.and_then(|end| cause_words(end.cause, end.detail)),
            crashed,
            missed: row.is_none() && matches!(until, Until::Running | Until::Paused),
        }
    }
}

impl View for Waited {
    fn text(&self) -> String {
        let state = self.state.as_deref().unwrap_or("gone");
        match &self.cause {
            Some(cause) => format!("{}: {state}: {cause}\n", self.name),
            None => format!("{}: {state}\n", self.name),
        }
    }

    fn problem(&self) -> Option<Sentence> {
        let cause = self.cause.as_deref().unwrap_or("unknown cause");
        if self.crashed {
            let problem = format!("partition {:?}: crashed: {cause}", self.name);
            return Some(Sentence::new(problem, ""));
        }
        let start = || way_out::with_name(way_out::START, &self.name);
        let problem = || format!("partition {:?}: is not there", self.name);
        self.missed.then(|| Sentence::new(problem(), start()))
    }

    fn status(&self) -> u8 {
        if self.crashed { status::CRASHED } else { status::FAILED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples;

    #[test]
    fn a_crash_is_a_problem_and_a_power_off_is_none() {
        let rows = samples::partitions();
        let row = rows.iter().find(|row| row.name == "web");
        let crash = Waited::new("web", Until::Stopped, row, Some(End { cause: 1, detail: 3 }));
        assert!(crash.problem().unwrap().to_string().contains("said that it crashed"));
        assert_eq!(crash.status(), status::CRASHED);
        let off = Waited::new("web", Until::Stopped, None, Some(End { cause: 1, detail: 0 }));
        assert_eq!((off.problem(), off.text().as_str()), (None, "web: gone: it powered off\n"));
        let trap = Waited::new("web", Until::Stopped, row, Some(End { cause: 2, detail: 13 }));
        assert!(trap.problem().is_some());
        let missed = Waited::new("web", Until::Running, None, None);
        assert_eq!(missed.status(), status::FAILED);
        let missed = missed.problem().unwrap().to_string();
        assert!(missed.ends_with("is not there; start it with `uvtool start web`"), "{missed}");
        assert_eq!(Waited::new("web", Until::Gone, None, None).problem(), None);
    }
}
