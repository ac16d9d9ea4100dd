//! `uvtool definitions`.

use definition::{Definition, Policies};
use serde::Serialize;
use uvd_protocol::Defined;

use super::View;
use crate::table::{Align, Table};
use crate::words::cause_words;

/// What is defined.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Definitions {
    programs: Vec<Row>,
    #[serde(skip)]
    all: Vec<Defined>,
}

/// A partition that is defined, for programs.
#[derive(Serialize)]
struct Row {
    definition: Fields,
    number: Option<u32>,
    console_bytes: u64,
    last_end: Option<String>,
}

/// A definition, for programs: each number has its unit in its name.
#[derive(Serialize)]
pub struct Fields {
    name: String,
    kernel: String,
    initrd: Option<String>,
    command_line: String,
    memory_bytes: u64,
    max_memory_bytes: u64,
    vcpus: u32,
    max_vcpus: u32,
    cpu: Cpu,
    grant_frames: u32,
    on: Policies,
    domain: Option<String>,
}

#[derive(Serialize)]
struct Cpu {
    weight: u32,
    cap_percent: Option<u32>,
    affinity: Vec<u32>,
    dedicated: bool,
}

impl From<&Definition> for Fields {
    fn from(one: &Definition) -> Self {
        let path = |path: &std::path::Path| path.display().to_string();
        let cpu = &one.cpu;
        Self {
            name: one.name.clone(),
            kernel: path(&one.kernel),
            initrd: one.initrd.as_deref().map(path),
            command_line: one.command_line.clone(),
            memory_bytes: one.memory,
            max_memory_bytes: one.max_memory,
            vcpus: one.vcpus,
            max_vcpus: one.max_vcpus,
            cpu: Cpu {
                weight: cpu.weight,
                cap_percent: (cpu.cap != 0).then_some(cpu.cap),
                affinity: cpu.affinity.clone(),
                dedicated: cpu.dedicated,
            },
            grant_frames: one.grant_frames,
            on: one.on,
            domain: one.domain.clone(),
        }
    }
}

impl Definitions {
    /// These definitions.
    pub fn new(all: Vec<Defined>) -> Self {
        let row = |one: &Defined| Row {
            definition: Fields::from(&one.definition),
            number: one.number,
            console_bytes: one.console_bytes,
            last_end: one.last_end.and_then(|end| cause_words(end.cause, end.detail)),
        };
        Self { programs: all.iter().map(row).collect(), all }
    }
}

impl View for Definitions {
    fn text(&self) -> String {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("NUMBER", Align::Right),
            ("MEMORY", Align::Right),
            ("VCPUS", Align::Right),
            ("WEIGHT", Align::Right),
            ("CAP", Align::Right),
            ("KERNEL", Align::Left),
            ("LAST END", Align::Left),
        ]);
        for one in &self.all {
            let definition = &one.definition;
            let end = one.last_end.and_then(|end| cause_words(end.cause, end.detail));
            table.row([
                definition.name.clone(),
                one.number.map_or_else(|| "-".into(), |number| number.to_string()),
                format!("{} MiB", definition.memory >> 20),
                definition.vcpus.to_string(),
                definition.cpu.weight.to_string(),
                definition.cpu.cap.to_string(),
                definition.kernel.display().to_string(),
                end.unwrap_or_else(|| "-".into()),
            ]);
        }
        table.to_string()
    }
}
