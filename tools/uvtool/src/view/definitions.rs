//! `uvtool definitions`.

use serde::Serialize;
use uvd_protocol::Defined;

use super::View;
use crate::table::{Align, Table};
use crate::words::cause_words;

/// What is defined.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Definitions {
    all: Vec<Defined>,
}

impl Definitions {
    /// These definitions.
    pub const fn new(all: Vec<Defined>) -> Self {
        Self { all }
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
