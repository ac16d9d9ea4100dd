//! `uvtool log`.

use control::command::{LogRow, Settled};
use serde::Serialize;

use uvd_protocol::EarlierBoot;

use super::{Names, View};
use crate::table::{Align, Table};
use crate::words::date;

/// Records of the audit log, oldest first.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Log {
    records: Vec<Record>,
    /// The earlier boot that the records are of; `None` if they are of this boot.
    #[serde(skip)]
    earlier: Option<EarlierBoot>,
}

/// A record.
#[derive(Serialize)]
struct Record {
    sequence: u64,
    time_ns: u64,
    who: String,
    request: u64,
    version: u64,
    outcome: Settled,
    what: String,
    reason: String,
    /// For an earlier boot, its number, and when `uvd` first saw it.
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot_met: Option<String>,
}

impl Log {
    /// A view of these records.
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
            boot: None,
            boot_met: None,
        };
        Self { records: rows.into_iter().map(record).collect(), earlier: None }
    }

    /// Marks the records as those of an earlier boot; their times count from its start.
    pub fn of_boot(mut self, earlier: Option<EarlierBoot>) -> Self {
        for record in &mut self.records {
            record.boot = earlier.map(|boot| boot.number);
            record.boot_met = earlier.and_then(|boot| boot.met).map(date);
        }
        self.earlier = earlier;
        self
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
                record.outcome.word().to_owned(),
                record.what.clone(),
                record.reason.clone(),
            ]);
        }
        match self.earlier {
            None => table.to_string(),
            Some(EarlierBoot { number, now, met }) => {
                let met = met.map_or_else(|| "at a time not known".into(), date);
                let note = "times count from its start";
                format!("boot {number}, first met {met}; this is boot {now}; {note}\n{table}")
            }
        }
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
    fn records_of_an_earlier_boot_say_which() {
        let log = |met| {
            let boot = EarlierBoot { number: 2, now: 5, met };
            Log::new(samples::log(1), &Names::new(&[])).of_boot(Some(boot))
        };
        let text = log(Some(1_795_902_026)).text();
        let first = "boot 2, first met 2026-11-28T21:40:26Z; this is boot 5; times count from its \
            start\nRECORD ";
        assert!(text.starts_with(first), "{text}");
        assert!(log(None).text().starts_with("boot 2, first met at a time not known; "));
        let json = serde_json::to_value(log(Some(0))).unwrap();
        assert_eq!(json[0]["boot"], 2);
        assert_eq!(json[0]["boot_met"], "1970-01-01T00:00:00Z");
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
