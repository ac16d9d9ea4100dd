//! `uvtool plan` and `uvtool apply`.

use definition::FieldChange;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use uvd_protocol::Planned;

use super::View;
use crate::table::printable;

/// The changes that are planned, or were made.
pub struct Plan {
    version: u64,
    changes: Vec<Planned>,
}

/// The change of a partition, for programs.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    definition: Option<definition::Map>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<&'a [FieldChange]>,
}

impl Row<'_> {
    fn of(change: &Planned) -> Row<'_> {
        let (name, action, definition, fields) = match change {
            Planned::Create { definition } => {
                (&definition.name, "create", Some(definition::to_json(definition)), None)
            }
            Planned::Change { name, fields } => (name, "change", None, Some(&fields[..])),
            Planned::Destroy { name } => (name, "destroy", None, None),
            Planned::Same { name } => (name, "none", None, None),
        };
        Row { name, action, definition, fields }
    }
}

impl Serialize for Plan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut plan = serializer.serialize_struct("Plan", 2)?;
        plan.serialize_field("version", &self.version)?;
        let rows: Vec<Row<'_>> = self.changes.iter().map(Row::of).collect();
        plan.serialize_field("changes", &rows)?;
        plan.end()
    }
}

impl Plan {
    /// A view of these changes, planned at a version of the database.
    pub const fn new(version: u64, changes: Vec<Planned>) -> Self {
        Self { version, changes }
    }

    /// The version of the plan.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The partitions that it destroys.
    pub fn destroyed(&self) -> impl Iterator<Item = &str> {
        self.changes.iter().filter_map(|change| match change {
            Planned::Destroy { name } => Some(name.as_str()),
            _ => None,
        })
    }
}

impl View for Plan {
    fn text(&self) -> String {
        let mut text = String::new();
        let [mut created, mut changed, mut destroyed, mut same] = [0; 4];
        for change in &self.changes {
            match change {
                Planned::Create { definition } => {
                    created += 1;
                    let (memory, vcpus) = (definition.memory >> 20, definition.vcpus);
                    let name = printable(&definition.name);
                    text += &format!("+ {name}: {memory} MiB, {vcpus} virtual CPUs\n");
                }
                Planned::Change { name, fields } => {
                    changed += 1;
                    text += &format!("~ {}\n", printable(name));
                    for field in fields {
                        let (from, to) = (printable(&field.from), printable(&field.to));
                        text += &format!("    {}: {from} -> {to}\n", field.field);
                    }
                }
                Planned::Destroy { name } => {
                    destroyed += 1;
                    text += &format!("- {}\n", printable(name));
                }
                Planned::Same { .. } => same += 1,
            }
        }
        text + &format!(
            "{created} to create, {changed} to change, {destroyed} to destroy, {same} as they \
             should be; at version {}\n",
            self.version
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_change_has_its_sign() {
        let field =
            FieldChange { field: "cpu.cap".into(), from: "0".into(), to: "50".into(), live: true };
        let changes = vec![
            Planned::Change { name: "web".into(), fields: vec![field] },
            Planned::Destroy { name: "old".into() },
            Planned::Same { name: "db".into() },
        ];
        let plan = Plan::new(7, changes);
        assert_eq!(
            plan.text(),
            "\
~ web
    cpu.cap: 0 -> 50
- old
0 to create, 1 to change, 1 to destroy, 1 as they should be; at version 7
"
        );
        assert_eq!(plan.destroyed().collect::<Vec<_>>(), ["old"]);
    }
}
