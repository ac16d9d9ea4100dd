//! Definitions as TOML, the way a person would write them.

use toml::{Table, Value};

use crate::{Definition, units};

/// A file that [`parse`](crate::parse) makes these definitions of. What cannot be written as
/// text, a path that is no UTF-8, is written with replacement characters.
#[must_use]
pub fn to_toml(definitions: &[Definition]) -> String {
    match definitions {
        [one] => table(one).to_string(),
        several => {
            let tables = several.iter().map(|one| Value::Table(table(one))).collect();
            Table::from_iter([("partition".to_owned(), Value::Array(tables))]).to_string()
        }
    }
}

fn table(definition: &Definition) -> Table {
    let text = |text: &str| Value::String(text.to_owned());
    let number = |number: u32| Value::Integer(i64::from(number));
    let path = |path: &std::path::Path| Value::String(path.to_string_lossy().into_owned());
    let cpu = &definition.cpu;
    let on = &definition.on;
    let cpu = Table::from_iter([
        ("weight".to_owned(), number(cpu.weight)),
        ("cap".to_owned(), number(cpu.cap)),
        ("affinity".to_owned(), text(&units::cpus(&cpu.affinity))),
        ("dedicated".to_owned(), Value::Boolean(cpu.dedicated)),
    ]);
    let on = Table::from_iter([
        ("poweroff".to_owned(), text(on.poweroff.word())),
        ("reboot".to_owned(), text(on.reboot.word())),
        ("crash".to_owned(), text(on.crash.word())),
    ]);
    let fields = [
        ("name", Some(text(&definition.name))),
        ("kernel", Some(path(&definition.kernel))),
        ("initrd", definition.initrd.as_deref().map(path)),
        ("command_line", Some(text(&definition.command_line))),
        ("memory", Some(text(&units::size(definition.memory)))),
        ("max_memory", Some(text(&units::size(definition.max_memory)))),
        ("vcpus", Some(number(definition.vcpus))),
        ("max_vcpus", Some(number(definition.max_vcpus))),
        ("grant_frames", Some(number(definition.grant_frames))),
        ("domain", definition.domain.as_deref().map(text)),
        ("cpu", Some(Value::Table(cpu))),
        ("on", Some(Value::Table(on))),
    ];
    fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}
