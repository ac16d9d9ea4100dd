//! From what was found to a definition: defaults, and the limits between fields.

use std::path::{Path, PathBuf};

use crate::draft::{At, Draft};
use crate::issue::Sink;
use crate::{Cpu, Definition, Policies, Policy, units};

/// Frames of a grant table unless the file says otherwise: 2048 grants.
pub(crate) const GRANT_FRAMES: u32 = 4;
/// Share of CPU time unless the file says otherwise.
pub(crate) const WEIGHT: u32 = 256;

/// A definition, and where its name stands.
pub(crate) struct Found {
    pub(crate) definition: Definition,
    pub(crate) name_at: usize,
}

/// Makes a definition of what was found. Where required fields are missing, that was said before;
/// then the result only serves to find more errors.
pub(crate) fn finish(draft: Draft, sink: &mut Sink<'_>) -> Found {
    check_vcpus(&draft, sink);
    check_memory(&draft, sink);
    check_cpu(&draft, sink);
    let directory = directory(sink.file());
    let memory = or(&draft.memory, 0);
    let vcpus = or(&draft.vcpus, 1);
    let name_at = draft.name.as_ref().map_or(0, |name| name.at);
    let definition = Definition {
        name: text(draft.name).unwrap_or_default(),
        kernel: directory.join(text(draft.kernel).unwrap_or_default()),
        initrd: text(draft.initrd).map(|initrd| directory.join(initrd)),
        command_line: text(draft.command_line).unwrap_or_default(),
        memory,
        max_memory: or(&draft.max_memory, memory),
        vcpus,
        max_vcpus: or(&draft.max_vcpus, vcpus),
        cpu: Cpu {
            weight: or(&draft.weight, WEIGHT),
            cap: or(&draft.cap, 0),
            affinity: draft.affinity.map(|cpus| cpus.value).unwrap_or_default(),
            dedicated: or(&draft.dedicated, false),
        },
        grant_frames: or(&draft.grant_frames, GRANT_FRAMES),
        on: Policies {
            poweroff: or(&draft.poweroff, Policies::default().poweroff),
            reboot: or(&draft.reboot, Policies::default().reboot),
            crash: or(&draft.crash, Policies::default().crash),
        },
        domain: text(draft.domain),
    };
    Found { definition, name_at }
}

impl Default for Policies {
    /// What powers off or crashes goes, what reboots starts anew.
    fn default() -> Self {
        Self { poweroff: Policy::Destroy, reboot: Policy::Restart, crash: Policy::Destroy }
    }
}

impl Default for Cpu {
    /// The usual share of any CPU.
    fn default() -> Self {
        Self { weight: WEIGHT, cap: 0, affinity: Vec::new(), dedicated: false }
    }
}

fn or<T: Copy>(found: &Option<At<T>>, default: T) -> T {
    found.as_ref().map_or(default, |found| found.value)
}

fn text(found: Option<At<String>>) -> Option<String> {
    found.map(|found| found.value)
}

/// The directory that relative paths start from, absolute.
fn directory(file: &Path) -> PathBuf {
    let parent = file.parent().unwrap_or(Path::new(""));
    std::path::absolute(parent.join(".")).unwrap_or_else(|_| Path::new("/").join(parent))
}

fn check_vcpus(draft: &Draft, sink: &mut Sink<'_>) {
    let (Some(vcpus), Some(most)) = (&draft.vcpus, &draft.max_vcpus) else { return };
    if vcpus.value > most.value {
        let problem = format!("{} is more than {} = {}", vcpus.value, most.field, most.value);
        let way_out = format!("give 1 to {}, or raise {}", most.value, most.field);
        sink.error(vcpus.at, &vcpus.field, problem, way_out);
    }
}

fn check_memory(draft: &Draft, sink: &mut Sink<'_>) {
    let (Some(memory), Some(most)) = (&draft.memory, &draft.max_memory) else { return };
    if memory.value > most.value {
        let shown = units::size(most.value);
        let problem =
            format!("{} is more than {} = {shown}", units::size(memory.value), most.field);
        let way_out = format!("give at most {shown}, or raise {}", most.field);
        sink.error(memory.at, &memory.field, problem, way_out);
    }
}

fn check_cpu(draft: &Draft, sink: &mut Sink<'_>) {
    let vcpus = or(&draft.max_vcpus, or(&draft.vcpus, 1));
    if let Some(cap) = &draft.cap
        && cap.value > vcpus * 100
    {
        let problem = format!("{}% is more than {vcpus} virtual CPU(s) can use", cap.value);
        let way_out = format!("give 1 to {}, or 0 for no cap", vcpus * 100);
        sink.error(cap.at, &cap.field, problem, way_out);
    }
    let affinity = draft.affinity.as_ref().map_or(0, |cpus| cpus.value.len());
    if let Some(dedicated) = &draft.dedicated
        && dedicated.value
        && affinity == 0
    {
        let problem = "true, and cpu.affinity names no CPUs";
        sink.error(dedicated.at, &dedicated.field, problem, "name the CPUs in cpu.affinity");
    }
}
