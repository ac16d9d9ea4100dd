//! `uvtool doctor`.

use control::command::{IssueRow, IssueState, IssuesAnswer};
use serde::Serialize;
use uvd_protocol::Sentence;

use super::View;
use crate::table::{Align, Table, printable};

/// What the CPU leaks, and the mitigations in force.
#[derive(Serialize)]
pub struct Doctor {
    cpu: String,
    microcode: u32,
    microcode_update: String,
    smt: bool,
    iommu: bool,
    guests_start: bool,
    issues: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    issue: String,
    state: &'static str,
    verdict: String,
    way_out: Option<String>,
}

impl Doctor {
    /// A view of the ultravisor's answer; without `all`, it has only the issues that affect this
    /// CPU.
    pub fn new(answer: IssuesAnswer, all: bool) -> Self {
        let shown = |row: &IssueRow| all || row.state != IssueState::NotAffected;
        let row = |row: IssueRow| Row {
            issue: row.name,
            state: match row.state {
                IssueState::NotAffected => "not-affected",
                IssueState::Mitigated => "mitigated",
                IssueState::Open => "open",
            },
            verdict: row.verdict,
            way_out: Some(row.way_out).filter(|text| !text.is_empty()),
        };
        Self {
            cpu: answer.cpu,
            microcode: answer.microcode,
            microcode_update: answer.microcode_update,
            smt: answer.smt,
            iommu: answer.iommu,
            guests_start: answer.guests_start,
            issues: answer.issues.into_iter().filter(shown).map(row).collect(),
        }
    }
}

impl View for Doctor {
    fn text(&self) -> String {
        let threads = match self.smt {
            true => {
                "two threads of each core run; the monitor's option smt=off turns the second one \
                off"
            }
            false => "one thread of each core runs",
        };
        let iommu = match self.iommu {
            true => "in use",
            false => "not in use: a device may reach all memory; no partition has a device",
        };
        let guests = if self.guests_start { "start" } else { "do not start" };
        let mut table = Table::new(&[
            ("ISSUE", Align::Left),
            ("VERDICT", Align::Left),
            ("WHAT WOULD CHANGE IT", Align::Left),
        ]);
        for row in &self.issues {
            let way_out = row.way_out.clone().unwrap_or_else(|| "-".into());
            table.row([row.issue.clone(), row.verdict.clone(), way_out]);
        }
        let (cpu, microcode) = (printable(&self.cpu), self.microcode);
        let update = printable(&self.microcode_update);
        format!(
            "CPU        {cpu}\nmicrocode  {microcode:#x}: {update}\nthreads    {threads}\n\
             IOMMU      {iommu}\nguests     {guests}\n\n{table}"
        )
    }

    fn problem(&self) -> Option<Sentence> {
        let problem = "CPU: guests do not start on a CPU with Meltdown";
        let way_out = "add accept=meltdown to the options of the module \"ultravisor\" in GRUB's \
                       entry, or use another CPU";
        (!self.guests_start).then(|| Sentence::new(problem, way_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples;

    #[test]
    fn what_the_cpu_has_is_a_line_with_its_way_out() {
        let doctor = Doctor::new(samples::issues(), false);
        assert_eq!(
            doctor.text(),
            "\
CPU        GenuineIntel family 0x6 model 0x2a stepping 7
microcode  0x2f: no module; the revision is the firmware's
threads    two threads of each core run; the monitor's option smt=off turns the second one off
IOMMU      not in use: a device may reach all memory; no partition has a device
guests     do not start

ISSUE     VERDICT              WHAT WOULD CHANGE IT
meltdown  open because of it   another CPU
l1tf      mitigated by a rule  -
"
        );
        assert!(doctor.problem().unwrap().to_string().contains("accept=meltdown"));
        let answer = IssuesAnswer { guests_start: true, smt: false, ..samples::issues() };
        let doctor = Doctor::new(answer, true);
        assert_eq!(doctor.problem(), None);
        assert!(doctor.text().contains("mds       not affected"), "{}", doctor.text());
        let json = serde_json::to_value(&doctor).unwrap();
        assert_eq!(json["issues"][0]["state"], "open");
        assert_eq!(
            (&json["issues"][1]["way_out"], &json["microcode"]),
            (&serde_json::Value::Null, &47.into())
        );
    }
}
