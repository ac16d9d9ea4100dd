//! `uvtool resources --verify`.

use control::command::Difference;
use serde::Serialize;
use uvd_protocol::Sentence;

use super::{Names, View};
use crate::table::{Align, Table};

/// The comparison of the database with the lead monitor, frame by frame.
#[derive(Serialize)]
pub struct Verified {
    frames: u64,
    frames_compared: u64,
    differences: Vec<Row>,
}

/// A frame whose owner or kind differs between the database and the monitor.
#[derive(Serialize)]
struct Row {
    frame: u64,
    database: String,
    monitor: Option<String>,
}

impl Verified {
    /// A view of a comparison that covered the first `compared` of `frames`.
    pub fn new(frames: u64, compared: u64, found: &[Difference], names: &Names<'_>) -> Self {
        let owner = |(number, io): (u32, bool)| {
            let kind = if io { "I/O" } else { "RAM" };
            format!("{kind} of {}", names.of(number))
        };
        let row = |one: &Difference| Row {
            frame: one.frame,
            database: owner(one.database),
            monitor: one.monitor.map(owner),
        };
        Self { frames, frames_compared: compared, differences: found.iter().map(row).collect() }
    }
}

impl View for Verified {
    fn text(&self) -> String {
        if self.differences.is_empty() && self.frames_compared == self.frames {
            return format!("The monitor and the database agree on {} frames.\n", self.frames);
        }
        let mut table = Table::new(&[
            ("FRAME", Align::Right),
            ("DATABASE", Align::Left),
            ("MONITOR", Align::Left),
        ]);
        for row in &self.differences {
            let monitor = row.monitor.clone().unwrap_or_else(|| "nothing".into());
            table.row([format!("{:#x}", row.frame), row.database.clone(), monitor]);
        }
        format!("{table}Compared {} of {} frames.\n", self.frames_compared, self.frames)
    }

    fn problem(&self) -> Option<Sentence> {
        if self.differences.is_empty() && self.frames_compared == self.frames {
            return None;
        }
        let count = self.differences.len();
        let problem =
            format!("page map: the monitor and the database disagree on {count} frames or more");
        Some(Sentence::new(problem, "see `uvtool log`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples;

    #[test]
    fn agreement_is_one_line() {
        let verified = Verified::new(262_144, 262_144, &[], &Names::new(&[]));
        assert_eq!(verified.text(), "The monitor and the database agree on 262144 frames.\n");
        assert_eq!(verified.problem(), None);
    }

    #[test]
    fn each_difference_is_a_line_and_the_command_fails() {
        let found = [
            Difference { frame: 0x10, database: (3, false), monitor: Some((1, false)) },
            Difference { frame: 0xfee00, database: (8, true), monitor: None },
        ];
        let partitions = samples::partitions();
        let verified = Verified::new(262_144, 20_000, &found, &Names::new(&partitions));
        assert_eq!(
            verified.text(),
            "  FRAME  DATABASE        MONITOR\n   \
               0x10  RAM of command  RAM of ultravisor\n\
             0xfee00  I/O of #8       nothing\n\
             Compared 20000 of 262144 frames.\n"
        );
        assert!(verified.problem().unwrap().to_string().contains("disagree on 2 frames"));
    }

    #[test]
    fn a_part_that_was_not_compared_is_no_agreement() {
        assert!(Verified::new(10, 5, &[], &Names::new(&[])).problem().is_some());
    }
}
