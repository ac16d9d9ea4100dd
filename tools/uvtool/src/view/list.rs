//! `uvtool list`.

use control::command::ListRow;
use pv_abi::uv::database::kind;
use serde::{Serialize, Serializer};

use super::View;
use crate::table::{Align, Table};
use crate::words::{Memory, Seconds, Word, bytes, kind_word, push_number, state_word};

/// The partitions.
pub struct List<'a> {
    rows: Vec<&'a ListRow>,
}

/// A partition, for programs.
#[derive(Serialize)]
struct Partition<'a> {
    name: &'a str,
    number: u32,
    kind: Word,
    state: Word,
    memory_bytes: u64,
    vcpus: u32,
    vcpus_up: u32,
    cpu_time_ns: u64,
}

impl<'a> List<'a> {
    /// A view of these partitions; pseudo-partitions, which never run, are shown only if `pseudo`
    /// is set.
    pub fn new(rows: &'a [ListRow], pseudo: bool) -> Self {
        Self { rows: rows.iter().filter(|row| pseudo || row.kind != kind::PSEUDO).collect() }
    }
}

impl<'a> Partition<'a> {
    fn new(row: &'a ListRow) -> Self {
        Self {
            name: &row.name,
            number: row.number,
            kind: kind_word(row.kind),
            state: state_word(row.state),
            memory_bytes: bytes(row.memory_frames),
            vcpus: row.vcpus,
            vcpus_up: row.vcpus_up,
            cpu_time_ns: row.cpu_time,
        }
    }
}

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.rows.iter().map(|row| Partition::new(row)))
    }
}

impl View for List<'_> {
    fn text(&self) -> String {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("NUMBER", Align::Right),
            ("KIND", Align::Left),
            ("STATE", Align::Left),
            ("MEMORY", Align::Right),
            ("VCPUS", Align::Right),
            ("CPU-TIME", Align::Right),
        ]);
        table.reserve(self.rows.len());
        for row in &self.rows {
            table
                .text(&row.name)
                .pushed(|text| push_number(text, row.number.into()))
                .pushed(|text| text.push_str(&kind_word(row.kind)))
                .pushed(|text| text.push_str(&state_word(row.state)))
                .pushed(|text| Memory(row.memory_frames).push_to(text))
                .pushed(|text| push_number(text, row.vcpus.into()))
                .pushed(|text| Seconds(row.cpu_time).push_to(text));
        }
        table.lines()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples;

    #[test]
    fn the_list_is_a_table() {
        let text = List::new(&samples::list(), false).text();
        assert_eq!(
            text,
            "\
NAME        NUMBER  KIND        STATE      MEMORY  VCPUS  CPU-TIME
ultravisor       1  ultravisor  running    16 MiB      1    0.25 s
boot             2  boot        running   100 MiB      1    1.00 s
command          3  command     running   800 MiB      2   12.35 s
web             16  guest       crashed  1020 KiB      4    0.00 s
"
        );
        let all = List::new(&samples::list(), true).text();
        assert!(all.contains("\nmonitor"), "{all}");
    }

    #[test]
    fn programs_get_numbers_with_units_in_their_names() {
        let rows = samples::list();
        let list = List::new(&rows[..1], false);
        let json = serde_json::to_value(&list).unwrap();
        let expected = serde_json::json!([{
            "name": "ultravisor", "number": 1, "kind": "ultravisor", "state": "running",
            "memory_bytes": 16 << 20, "vcpus": 1, "vcpus_up": 1, "cpu_time_ns": 250_000_000,
        }]);
        assert_eq!(json, expected);
    }

    #[test]
    fn no_partitions_are_a_heading_and_an_empty_array() {
        let list = List::new(&[], false);
        assert_eq!(list.text().lines().count(), 1);
        assert_eq!(serde_json::to_string(&list).unwrap(), "[]");
    }
}
