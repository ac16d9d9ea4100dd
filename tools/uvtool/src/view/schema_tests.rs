//! Checks that the JSON of each command matches the published schema.

use serde_json::{Value, json};
use uvd_protocol::{Defined, End, Failure, Planned, Sentence};

use super::{Names, samples};
use crate::answer::{self, Problem};
use crate::cli::Cli;
use crate::source::Error;

const SCHEMA: &str = include_str!("../../../../docs/src/uvtool.schema.json");

/// The first place where a value does not match a schema, if any.
fn mismatch(root: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        return mismatch(root, root.pointer(&name[1..]).expect(name), value, at);
    }
    if let Some(all) = schema["oneOf"].as_array() {
        let fits = all.iter().filter(|one| mismatch(root, one, value, at).is_none()).count();
        return (fits != 1).then(|| format!("{at}: {fits} of its schemas fit {value}"));
    }
    if let Some(all) = schema["enum"].as_array() {
        return (!all.contains(value)).then(|| format!("{at}: {value} is none of {all:?}"));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        all => all.as_array().expect(at).iter().filter_map(Value::as_str).collect(),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is_number = kind == "integer" && types.contains(&"number");
    if !is_number && !types.contains(&kind) {
        return Some(format!("{at}: {kind}, not {types:?}"));
    }
    if let (Some(most), Some(number)) = (schema["maximum"].as_u64(), value.as_u64())
        && number > most
    {
        return Some(format!("{at}: {number} is more than {most}"));
    }
    match value {
        Value::Array(items) => (0..).zip(items).find_map(|(index, item)| {
            mismatch(root, &schema["items"], item, &format!("{at}/{index}"))
        }),
        Value::Object(fields) => object_mismatch(root, schema, fields, at),
        _ => None,
    }
}

fn object_mismatch(
    root: &Value,
    schema: &Value,
    fields: &serde_json::Map<String, Value>,
    at: &str,
) -> Option<String> {
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(missing) = required.into_iter().find(|name| !fields.contains_key(*name)) {
        return Some(format!("{at}: lacks {missing}"));
    }
    fields.iter().find_map(|(name, value)| {
        let at = format!("{at}/{name}");
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => Some(format!("{at}: is not in the schema")),
            (Value::Null, others) => mismatch(root, others, value, &at),
            (known, _) => mismatch(root, known, value, &at),
        }
    })
}

fn definition() -> definition::Definition {
    let text = "name = \"web\"\nkernel = \"/k\"\nmemory = \"256M\"\ncpu.cap = 50\n\
        [[disk]]\ndevice = \"xvda\"\nfunction = \"00:05.0\"\nextents = [{ start = 0, sectors = 8 }]\n\
        [[disk]]\ndevice = \"xvdb\"\nfunction = 3\npartition = 2\n";
    definition::parse(text, "/d.toml".as_ref()).unwrap().remove(0)
}

/// The JSON of the commands, by their names.
fn outputs() -> Vec<(&'static str, Value)> {
    let rows = samples::partitions();
    let names = Names::new(&rows);
    let text = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    fn of(view: &impl serde::Serialize) -> Value {
        serde_json::from_str(&answer::json(view)).unwrap()
    }
    let mut log = samples::log(2);
    log[0].request = u64::MAX;
    let fields = vec![definition::FieldChange {
        field: "vcpus".into(),
        from: "1".into(),
        to: "2".into(),
        live: true,
    }];
    let name = || "web".to_string();
    let changes = vec![
        Planned::Create { definition: Box::new(definition()) },
        Planned::Change { name: name(), fields },
        Planned::Destroy { name: name() },
        Planned::Same { name: name() },
    ];
    let end = Some(End { cause: 1, detail: 3 });
    let mut devices = samples::devices();
    (devices[1].owner, devices[1].next) = (4, 5);
    let defined =
        Defined { definition: definition(), number: None, console_bytes: 7, last_end: end };
    let resources = |map| {
        super::resources::Resources::new(
            &samples::resources(),
            &samples::devices(),
            None,
            &names,
            map,
        )
    };
    let report = kernel_image::Report {
        findings: vec![kernel_image::Finding {
            instruction: "hlt".into(),
            fate: kernel_image::Fate::Hypercall,
            meaning: "x".into(),
            count: 1,
            places: vec![kernel_image::Place { address: u64::MAX, symbol: "x".into(), count: 1 }],
        }],
        ..kernel_image::Report::default()
    };
    let plan = || of(&super::plan::Plan::new(3, changes.clone()));
    let boot = uvd_protocol::EarlierBoot { number: 1, now: 2, met: Some(7) };
    let earlier = super::log::Log::new(log.clone(), &names).of_boot(Some(boot));
    let log = of(&super::log::Log::new(log, &names));
    let created = text(answer::json_line(&json!({ "name": "web", "number": 16 })));
    let web = rows.iter().find(|row| row.name == "web").unwrap();
    let mut all = vec![
        ("create", created.clone()),
        ("start", created),
        ("plan", plan()),
        ("apply", plan()),
        ("definitions", of(&super::definitions::Definitions::new(vec![defined]))),
        ("console", json!({ "output": "x" })),
        ("console", json!({ "detached": false, "cause": null, "crashed": false })),
        (
            "wait",
            of(&super::waited::Waited::new("web", uvd_protocol::Until::Stopped, rows.last(), end)),
        ),
        ("why", log.clone()),
        ("why", of(&earlier)),
        ("log", log),
        ("undo", of(&super::undone::Undone::new(17, 18, &[]))),
        ("list", of(&super::list::List::new(&samples::list(), true))),
        (
            "disk",
            of(&super::disks::Disks::new(&samples::disks(), &samples::devices(), &names, None)),
        ),
        ("disk", json!({ "done": true })),
        ("io", of(&super::io::IoPartitions::new(&samples::io_list(), &devices, &samples::disks()))),
        ("io", of(&super::io::Moved::new(&samples::moves(), &devices, &names))),
        ("info", of(&super::info::Info::new(web, &names))),
        ("resources", of(&resources(None))),
        ("resources", of(&resources(Some(samples::map())))),
        ("resources", of(&super::verify::Verified::new(9, 9, &[], &names))),
        ("top", of(&crate::top::sample())),
        ("kernel", of(&report)),
        ("doctor", of(&super::doctor::Doctor::new(samples::issues(), true))),
        ("version", of(&super::version::Version::new(samples::version()))),
        ("diag", of(&super::released::Released::new(Ok(())))),
        ("diag", of(&super::released::Released::new(Err(samples::refusal())))),
        ("completion", json!({ "shell": "bash", "script": "x" })),
    ];
    for name in ["shutdown", "reboot", "destroy", "pause", "unpause", "rename", "set"] {
        all.push((name, json!({ "done": true })));
    }
    all
}

#[test]
fn every_command_has_json_that_the_schema_describes() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let outputs = outputs();
    for command in Cli::command().get_subcommands_mut() {
        let name = command.get_name().to_owned();
        command.build();
        let has_json = command.get_arguments().any(|option| option.get_long() == Some("json"));
        assert!(has_json, "{name} has no --json");
        let mut count = 0;
        for (_, output) in outputs.iter().filter(|(of, _)| *of == name) {
            let wrong = mismatch(&schema, &schema["properties"][&name], output, &name);
            assert_eq!(wrong, None, "{output:#}");
            count += 1;
        }
        assert!(count > 0, "{name} has no output here");
    }
    let known = outputs.iter().map(|(name, _)| *name).chain(["error"]);
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    known.dedup();
    let described = schema["properties"].as_object().unwrap();
    let mut described: Vec<&str> = described.keys().map(String::as_str).collect();
    described.sort_unstable();
    assert_eq!(described, known);
}

#[test]
fn the_schema_is_not_so_wide_that_anything_fits() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    for (name, mut output) in outputs() {
        let first = match &mut output {
            Value::Array(items) => items.first_mut().unwrap(),
            other => other,
        };
        first["more"] = json!(1);
        let wrong = mismatch(&schema, &schema["properties"][name], &output, name);
        assert!(wrong.is_some(), "{name}");
    }
}

#[test]
fn every_error_has_its_parts() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let io = || std::io::Error::other("x");
    let refused = Failure::Refused(samples::refusal().into());
    let broken = definition::parse("name = 3", "/d.toml".as_ref()).unwrap_err();
    for error in [
        Error::Unreachable { path: "/x".into(), error: io() },
        Error::Conversation(io().into()),
        Error::Silent(std::time::Duration::from_secs(1)),
        Error::Failure(refused),
        Error::Failure(Failure::NoChannel("x".into())),
        Error::Failure(Failure::Timeout(3)),
        Error::Failure(Failure::TooLarge { bytes: 2, limit: 1 }),
        Error::Failure(Failure::Malformed("x".into())),
        Error::Failure(Failure::ShuttingDown),
        Error::Other("x"),
        Error::Stuck("x"),
        Error::Given(Sentence::new("x", "y")),
        Error::Usage(Sentence::new("x", "y")),
        Error::Options(broken.clone()),
        Error::Definition(broken),
        Error::Terminal(io()),
        Error::NoSuchPartition { name: "x".into(), there: "y".into() },
    ] {
        let problem = Problem::from(&error);
        let output = json!({ "error": &problem });
        assert_eq!(mismatch(&schema, &schema["properties"]["error"], &output, "error"), None);
        assert!(!problem.limit.is_empty(), "{problem:?}");
        assert_eq!(problem.message, error.to_string());
    }
}
