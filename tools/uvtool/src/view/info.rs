//! `uvtool info NAME`.

use std::collections::BTreeMap;

use control::command::PartitionRow;
use serde::Serialize;

use super::{Names, View};
use crate::table::printable;
use crate::words::{
    Word, bytes, cause_words, errno_word, kind_word, memory, rights_words, seconds, state_word,
};

/// One partition.
#[derive(Serialize)]
pub struct Info {
    name: String,
    number: u32,
    kind: Word,
    state: Word,
    cause: Option<String>,
    rights: Vec<String>,
    owner: String,
    vcpus: u32,
    vcpus_up: u32,
    cpu_weight: u32,
    cpu_cap_percent: Option<u32>,
    cpu_affinity: Vec<u32>,
    cpu_dedicated: bool,
    cpu_time_ns: u64,
    wait_time_ns: u64,
    service_time_ns: u64,
    refused_calls: BTreeMap<String, u64>,
    memory_bytes: u64,
    memory_target_bytes: u64,
    instance_bytes: u64,
    created_at_version: u64,
    #[serde(skip)]
    row: PartitionRow,
}

impl Info {
    /// A view of this partition.
    pub fn new(row: &PartitionRow, names: &Names<'_>) -> Self {
        Self {
            name: row.name.clone(),
            number: row.number,
            kind: kind_word(row.kind),
            state: state_word(row.state),
            cause: cause_words(row.cause, row.cause_detail),
            rights: rights_words(row.rights),
            owner: names.of(row.owner),
            vcpus: row.vcpus,
            vcpus_up: row.vcpus_up,
            cpu_weight: row.cpu_weight,
            cpu_cap_percent: (row.cpu_cap != 0).then_some(row.cpu_cap),
            cpu_affinity: row.cpu_affinity.clone(),
            cpu_dedicated: row.cpu_dedicated,
            cpu_time_ns: row.cpu_time,
            wait_time_ns: row.wait_time,
            service_time_ns: row.service_time,
            refused_calls: row
                .refusals
                .iter()
                .map(|(of, count)| (errno_word(*of), *count))
                .collect(),
            memory_bytes: bytes(row.memory_frames),
            memory_target_bytes: bytes(row.memory_target),
            instance_bytes: bytes(row.instance_frames),
            created_at_version: row.created_at,
            row: row.clone(),
        }
    }

    fn cpus_text(&self) -> String {
        if self.cpu_affinity.is_empty() {
            return "all".into();
        }
        let list: Vec<String> = self.cpu_affinity.iter().map(u32::to_string).collect();
        list.join(",") + if self.cpu_dedicated { ", nothing else runs on them" } else { "" }
    }

    fn refused_text(&self) -> String {
        if self.refused_calls.is_empty() {
            return "none".into();
        }
        let of: Vec<_> =
            self.refused_calls.iter().map(|(of, count)| format!("{of} {count}")).collect();
        let all =
            self.row.refusals.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        format!("{all}: {}", of.join(", "))
    }

    fn owner_text(&self) -> String {
        match self.row.owner {
            0 => "none".into(),
            number => format!("{} ({number})", self.owner),
        }
    }
}

impl View for Info {
    fn text(&self) -> String {
        let or = |text: String, none: &str| if text.is_empty() { none.into() } else { text };
        let target = match self.row.memory_target {
            0 => String::new(),
            frames => memory(frames),
        };
        let cap = self.cpu_cap_percent.map(|cap| format!("{cap} % of one CPU"));
        let lines = [
            ("Name", self.name.clone()),
            ("Number", self.number.to_string()),
            ("Kind", self.kind.to_string()),
            ("State", self.state.to_string()),
            ("Cause", self.cause.clone().unwrap_or_else(|| "none".into())),
            ("Rights", or(self.rights.join(", "), "none")),
            ("Owner", self.owner_text()),
            ("Virtual CPUs", format!("{}, {} up", self.vcpus, self.vcpus_up)),
            ("CPU weight", self.cpu_weight.to_string()),
            ("CPU cap", cap.unwrap_or_else(|| "none".into())),
            ("CPUs", self.cpus_text()),
            ("CPU time", seconds(self.cpu_time_ns)),
            ("Waited for a CPU", seconds(self.wait_time_ns)),
            ("Served", format!("{} by the ultravisor", seconds(self.service_time_ns))),
            ("Refused calls", self.refused_text()),
            ("Memory", memory(self.row.memory_frames)),
            ("Memory target", or(target, "all of it")),
            ("Monitor instance", memory(self.row.instance_frames)),
            ("Created at", format!("version {} of the database", self.created_at_version)),
        ];
        let line = |(name, value): &(&str, String)| format!("{name:<18}{}\n", printable(value));
        lines.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples;

    fn of(name: &str) -> Info {
        let rows = samples::partitions();
        Info::new(rows.iter().find(|row| row.name == name).unwrap(), &Names::new(&rows))
    }

    #[test]
    fn every_field_has_its_line() {
        let text = of("web").text();
        assert_eq!(
            text,
            "\
Name              web
Number            16
Kind              guest
State             crashed
Cause             trap 13 without a handler
Rights            none
Owner             command (3)
Virtual CPUs      4, 0 up
CPU weight        512
CPU cap           150 % of one CPU
CPUs              all
CPU time          0.00 s
Waited for a CPU  0.00 s
Served            0.00 s by the ultravisor
Refused calls     15: ENOSYS 1, EPERM 12, other 2
Memory            1020 KiB
Memory target     1020 KiB
Monitor instance  256 KiB
Created at        version 12 of the database
"
        );
    }

    #[test]
    fn programs_get_null_for_none() {
        let info = of("ultravisor");
        let json = serde_json::to_value(&info).unwrap();
        assert_eq!(json["cause"], serde_json::Value::Null);
        assert_eq!(json["cpu_cap_percent"], serde_json::Value::Null);
        assert_eq!(json["rights"], serde_json::json!(["lead", "serial"]));
        assert!(json.get("row").is_none());
        assert_eq!(json["refused_calls"], serde_json::json!({}));
        assert!(info.text().contains("Refused calls     none\n"));
        assert!(info.text().contains("Owner             none\n"));
    }
}
