//! The published schema agrees with the reader: each limit is tried from both sides.

use serde_json::Value;

use super::{toml, with};
use crate::rows::{self, Effect, ROWS};
use crate::{Definition, SCHEMA};

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("JSON")
}

fn keys(object: &Value) -> Vec<String> {
    object["properties"].as_object().expect("properties").keys().cloned().collect()
}

fn sorted(known: &[&str]) -> Vec<String> {
    let mut known: Vec<String> = known.iter().map(|key| (*key).to_owned()).collect();
    known.sort();
    known
}

/// The book says when a change of each field takes effect.
#[test]
fn the_book_has_the_same_effects() {
    let book = include_str!("../../../../docs/src/definitions.md");
    let heading = book.find("## What takes effect when").expect("the heading");
    let line = book[heading..].lines().find(|line| line.starts_with("| `")).expect("the table");
    let cells: Vec<_> = line.split('|').collect();
    for row in &ROWS {
        let (table, key) = row.place();
        let name = if table.is_empty() { key } else { table };
        let restart = matches!(row.effect, Effect::Restart);
        for (cell, expected) in [(cells[1], !restart), (cells[2], restart)] {
            assert_eq!(cell.contains(&format!("`{name}`")), expected, "{} in {cell}", row.name);
        }
    }
}

#[test]
fn it_has_the_same_fields() {
    let schema = schema();
    let defs = &schema["$defs"];
    assert_eq!(keys(&defs["partition"]), sorted(&rows::keys("")));
    for table in ["cpu", "on", "autostart"] {
        assert_eq!(keys(&defs[table]), sorted(&rows::keys(table)));
    }
    assert_eq!(keys(&defs["disk"]), sorted(&crate::disks::KEYS));
    let required: Vec<_> =
        ROWS.iter().filter(|row| row.required.is_some()).map(|row| row.name).collect();
    assert_eq!(defs["partition"]["required"], serde_json::json!(required));
    assert_eq!(
        schema["oneOf"][1]["properties"]["partition"]["maxItems"],
        serde_json::json!(crate::fields::MAX_PARTITIONS)
    );
    for object in ["partition", "cpu", "on", "autostart", "disk", "extent"] {
        assert_eq!(defs[object]["additionalProperties"], Value::Bool(false));
    }
}

/// A definition in which this field has this value, and fields that depend on it have values that
/// fit.
fn set(field: &str, value: &str) -> String {
    let room = ["max_vcpus = 32", "cpu.affinity = [0]", "max_memory = \"4T\""];
    let line = format!("{field} = {value}");
    let mut lines: Vec<_> = room.into_iter().filter(|other| !other.starts_with(field)).collect();
    lines.push(&line);
    let text = with(&lines.join("\n"));
    let once = ["name", "kernel", "memory"].into_iter().find(|required| *required == field);
    match once {
        Some(field) => {
            let mut seen = text.lines().filter(|other| other.starts_with(&format!("{field} = ")));
            let first = seen.next().expect("required").to_owned();
            text.replacen(&first, "", 1)
        }
        None => text,
    }
}

fn reads(field: &str, value: &str) -> bool {
    toml(&set(field, value)).is_ok()
}

/// Every field, with its schema.
fn fields() -> Vec<(String, Value)> {
    let schema = schema();
    let mut fields = Vec::new();
    let tables = [("partition", ""), ("cpu", "cpu."), ("on", "on."), ("autostart", "autostart.")];
    for (object, prefix) in tables {
        for (key, value) in schema["$defs"][object]["properties"].as_object().expect("properties") {
            let mut value = value.clone();
            if let Some(name) = value["$ref"].as_str().and_then(|name| name.rsplit('/').next()) {
                let target = schema["$defs"][name].clone();
                value
                    .as_object_mut()
                    .expect("object")
                    .extend(target.as_object().expect("object").clone());
            }
            fields.push((format!("{prefix}{key}"), value));
        }
    }
    fields
}

#[test]
fn numbers_have_the_same_limits() {
    let mut tried = 0;
    for (field, schema) in fields() {
        if schema["type"] == "integer" {
            let limit = |name: &str| schema[name].as_i64().expect("a limit");
            let (least, most) = (limit("minimum"), limit("maximum"));
            for (number, expected) in
                [(least - 1, false), (least, true), (most, true), (most + 1, false)]
            {
                assert_eq!(reads(&field, &number.to_string()), expected, "{field} = {number}");
            }
            assert!(!reads(&field, "\"1\""), "{field} as text");
            tried += 1;
        }
    }
    assert_eq!(tried, 7);
}

#[test]
fn texts_have_the_same_limits() {
    let mut tried = 0;
    for (field, schema) in fields() {
        if schema["type"] == "string" && schema["maxLength"].is_u64() {
            let most = schema["maxLength"].as_u64().expect("a number") as usize;
            let least = schema["minLength"].as_u64().unwrap_or(0) as usize;
            let text = |bytes| format!("\"{}\"", "x".repeat(bytes));
            assert!(reads(&field, &text(least)) && reads(&field, &text(most)), "{field}");
            assert!(!reads(&field, &text(most + 1)), "{field}");
            assert!(least == 0 || !reads(&field, &text(least - 1)), "{field}");
            assert!(!reads(&field, "1"), "{field} as a number");
            tried += 1;
        }
    }
    assert_eq!(tried, 6);
}

#[test]
fn words_truths_and_sizes_are_the_same() {
    for (field, schema) in fields() {
        if let Some(words) = schema["enum"].as_array() {
            assert!(words.iter().all(|word| reads(&field, &word.to_string())), "{field}");
            assert!(!reads(&field, "\"rename-restart\""), "{field}");
        }
        if schema["type"] == "boolean" {
            assert!(reads(&field, "true") && reads(&field, "false") && !reads(&field, "1"));
        }
    }
    for size in ["2048K", "2048 kib", " 64m ", "64MB", "1073741824B", "1g"] {
        assert!(reads("memory", &format!("{size:?}")), "{size}");
    }
    for size in ["64", "64X", "1.5G", "M", "-64M"] {
        assert!(!reads("memory", &format!("{size:?}")), "{size}");
    }
}

/// If a field is left out, the reader uses the schema's default.
#[test]
fn defaults_are_the_same() {
    let plain = toml(&with("")).expect("right");
    let mut tried = 0;
    for (field, schema) in fields() {
        let Some(default) = schema.get("default") else { continue };
        let written: Vec<Definition> =
            toml(&with(&format!("{field} = {default}"))).expect("a default is right");
        assert_eq!(written, plain, "{field}");
        tried += 1;
    }
    assert_eq!(tried, 14);
}

/// The keys of disks have the schema's limits.
#[test]
fn disks_have_the_same_limits() {
    let defs = &schema()["$defs"];
    let disk = &defs["disk"]["properties"];
    let reads = |lines: &str| toml(&with(&format!("[[disk]]\n{lines}"))).is_ok();
    let needed = "device = \"xvda\"\nfunction = 0";
    assert!(reads(needed));
    for required in ["device", "function"] {
        let without: Vec<_> = needed.lines().filter(|line| !line.starts_with(required)).collect();
        assert!(!reads(&without.join("\n")), "{required}");
    }
    let required = serde_json::json!(["device", "function"]);
    assert_eq!(defs["disk"]["required"], required);
    let most = disk["partition"]["maximum"].as_u64().expect("a number");
    for (number, expected) in [(0, false), (1, true), (most, true), (most + 1, false)] {
        assert_eq!(reads(&format!("{needed}\npartition = {number}")), expected, "{number}");
    }
    let count = disk["extents"]["maxItems"].as_u64().expect("a number") as usize;
    for (count, expected) in [(0, false), (1, true), (count, true), (count + 1, false)] {
        let all: Vec<_> = (0..count).map(|at| format!("{{ start = {at}, sectors = 1 }}")).collect();
        let text = format!("{needed}\nextents = [{}]", all.join(", "));
        assert_eq!(reads(&text), expected, "{count}");
    }
    let most = defs["partition"]["properties"]["disk"]["maxItems"].as_u64().expect("a number");
    assert_eq!(most, crate::MAX_DISKS as u64);
    let letters = ('a'..='z').map(|letter| format!("device = \"xvd{letter}\"\nfunction = 0"));
    assert!(reads(&letters.collect::<Vec<_>>().join("\n[[disk]]\n")));
    for function in ["00:05.0", "0:5.0", "ffff:ff:1f.7"] {
        assert!(reads(&format!("device = \"xvda\"\nfunction = \"{function}\"")), "{function}");
    }
    for function in ["", "5.0", "00:20.0", "00:05.8", "00:05", "1:2:3:4.0", "00:+5.0", "100:00.0"] {
        assert!(!reads(&format!("device = \"xvda\"\nfunction = \"{function}\"")), "{function}");
    }
}
