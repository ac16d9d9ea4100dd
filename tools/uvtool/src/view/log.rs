//! `uvtool log`.

use pv_abi::uv::command::LogRow;
use serde::Serialize;

use super::{Names, View};
use crate::table::{Align, Table};

/// Records of the audit log, oldest first.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Log {
    records: Vec<Record>,
}

/// A record.
#[derive(Serialize)]
struct Record {
    sequence: u64,
    time_ns: u64,
    who: String,
    request: u64,
    version: u64,
    outcome: String,
    what: String,
    reason: String,
}

impl Log {
    /// These records.
    pub fn new(rows: Vec<LogRow>, names: &Names<'_>) -> Self {
        let record = |row: LogRow| Record {
            sequence: row.sequence,
            time_ns: row.time,
            who: names.of(row.who),
            request: row.request,
            version: row.version,
            outcome: row.outcome,
            what: row.what,
            reason: row.reason,
        };
        Self { records: rows.into_iter().map(record).collect() }
    }
}

impl View for Log {
    fn text(&self) -> String {
        let mut table = Table::new(&[
            ("RECORD", Align::Right),
            ("TIME", Align::Right),
            ("WHO", Align::Left),
            ("VERSION", Align::Right),
            ("OUTCOME", Align::Left),
            ("WHAT", Align::Left),
            ("REASON", Align::Left),
        ]);
        for record in &self.records {
            table.row([
                record.sequence.to_string(),
                format!("{:.3} s", record.time_ns as f64 / 1e9),
                record.who.clone(),
                record.version.to_string(),
                record.outcome.clone(),
                record.what.clone(),
                record.reason.clone(),
            ]);
        }
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples;

    #[test]
    fn records_are_lines() {
        let partitions = samples::partitions();
        let text = Log::new(samples::log(2), &Names::new(&partitions)).text();
        assert_eq!(
            text,
            "\
RECORD     TIME  WHO      VERSION  OUTCOME    WHAT         REASON
     0  0.000 s  boot           1  committed  operation 0  because
     1  0.500 s  monitor        2  committed  operation 1  because
"
        );
    }

    #[test]
    fn a_record_with_control_characters_stays_one_line() {
        let mut rows = samples::log(1);
        rows[0].reason = "two\nlines\x1b[31m".into();
        rows[0].who = 99;
        let text = Log::new(rows, &Names::new(&[])).text();
        assert_eq!(text.lines().count(), 2);
        assert!(text.contains("#99") && text.contains("two?lines?[31m"), "{text}");
    }
}
