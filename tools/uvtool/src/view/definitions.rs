//! `uvtool definitions`.

use serde::Serialize;
use uvd_protocol::Defined;

use super::View;
use crate::table::{Align, Table};
use crate::words::cause_words;

/// The definitions.
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
    definition: definition::Map,
    number: Option<u32>,
    console_bytes: u64,
    last_end: Option<String>,
}

impl Definitions {
    /// A view of these definitions.
    pub fn new(all: Vec<Defined>) -> Self {
        let row = |one: &Defined| Row {
            definition: definition::to_json(&one.definition),
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
