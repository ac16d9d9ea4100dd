//! The known leaks of the CPU: logged at the start, and kept for queries.
//!
//! Rule: the verdicts come from `cpu-issues`; this module judges nothing. The console gets a line
//! for each open issue, and one line for all mitigated issues.

use core::arch::x86_64::__cpuid_count;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use control::command::{IssueRow, IssueState, IssuesAnswer};
use cpu_issues::{Cpu, ISSUES, Issue, Verdict};
use microcode_file::Outcome;
use partition_runtime::log;
use pv_abi::uv::start::{CPU_ONLINE, CPU_SIBLING};

use crate::machine::Description;

/// Judges the machine, and logs the open issues.
pub fn judge(description: &Description, accepts_meltdown: bool) -> IssuesAnswer {
    let machine = description.machine;
    let cpuid = |leaf, subleaf| {
        let answer = __cpuid_count(leaf, subleaf);
        [answer.eax, answer.ebx, answer.ecx, answer.edx]
    };
    let cpu = Cpu::read(cpuid, machine.arch_capabilities, machine.microcode);
    let both = CPU_ONLINE | CPU_SIBLING;
    let smt = description.cpus.iter().any(|cpu| cpu.flags & both == both);
    let host = cpu_issues::Host { cpu, mitigations: machine.mitigations, smt };
    let issues: Vec<_> = ISSUES.iter().map(|issue| row(issue, issue.verdict(&host))).collect();
    let guests_start = accepts_meltdown || !cpu_issues::has_meltdown(&host);
    let (family, model, stepping) = (cpu.family(), cpu.model(), cpu.stepping());
    let vendor = cpu.vendor_name();
    let answer = IssuesAnswer {
        cpu: format!("{vendor} family {family:#x} model {model:#x} stepping {stepping}"),
        microcode: cpu.microcode(),
        microcode_update: update(&description.machine.microcode_outcome),
        smt,
        // No IOMMU is used yet, so a device reaches all memory.
        iommu: false,
        guests_start,
        issues,
    };
    tell(&answer);
    answer
}

/// The source of the microcode revision, as text.
fn update(words: &[u32; 2]) -> String {
    outcome(*words).unwrap_or(Outcome::NoModule).to_string()
}

/// The result in two words of the machine description. Returns `None` if they are invalid.
fn outcome([kind, number]: [u32; 2]) -> Option<Outcome> {
    Some(match kind {
        0 => Outcome::NoModule,
        1 => Outcome::Loaded(number),
        2 => Outcome::Damaged(usize::try_from(number).ok()?),
        3 => Outcome::OtherVendor,
        4 => Outcome::OtherCpu,
        5 => Outcome::NotNewer(number),
        6 => Outcome::Virtual(number),
        7 => Outcome::NotTaken(number),
        _ => return None,
    })
}

fn row(issue: &Issue, verdict: Verdict) -> IssueRow {
    let state = match verdict {
        Verdict::NotAffected => IssueState::NotAffected,
        Verdict::Mitigated(_) => IssueState::Mitigated,
        Verdict::Open(_) => IssueState::Open,
    };
    let way_out = if state == IssueState::Open { issue.way_out } else { "" };
    IssueRow {
        name: issue.name.to_string(),
        state,
        verdict: verdict.to_string(),
        way_out: way_out.to_string(),
    }
}

fn tell(answer: &IssuesAnswer) {
    let of = |state| answer.issues.iter().filter(move |issue| issue.state == state);
    let names: Vec<_> = of(IssueState::Mitigated).map(|issue| issue.name.as_str()).collect();
    let IssuesAnswer { cpu, microcode, microcode_update, .. } = answer;
    log!("CPU: {cpu}, microcode {microcode:#x}: {microcode_update}");
    if !names.is_empty() {
        log!("CPU issues that are mitigated: {}", names.join(", "));
    }
    for issue in of(IssueState::Open) {
        log!("CPU issue {}: {}", issue.name, issue.verdict);
    }
    if !answer.guests_start {
        log!("guests do not start on this CPU unless the option accept=meltdown is given");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_pass_through_the_machine_description() {
        let plain = [Outcome::NoModule, Outcome::OtherVendor, Outcome::OtherCpu];
        let numbered = [Outcome::Loaded(7), Outcome::Damaged(8), Outcome::NotNewer(9)];
        let more = [Outcome::Virtual(10), Outcome::NotTaken(11)];
        for given in plain.into_iter().chain(numbered).chain(more) {
            assert_eq!(outcome(given.to_words()), Some(given));
        }
        assert_eq!(outcome([8, 0]), None);
    }
}
