//! The floors of the monitor: which of its modules may use which.
//!
//! A module stands on a floor and uses modules of its own floor and of the floors below. The check
//! reads the paths that begin with `crate::` in every file of `hv/monitor/src` except tests, and
//! reports a use that runs up.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

use crate::checks::metrics;
use crate::checks::source::Line;
use rig::workspace;

/// The floors, from the lowest up, each with its modules. A folder is one module.
const FLOORS: [(&str, &[&str]); 7] = [
    ("platform", &["context", "platform"]),
    ("cpu", &["cpu", "lock", "recovery", "stay", "time"]),
    ("memory", &["database", "device", "guest_memory", "machine", "reach"]),
    ("partition", &["area", "building", "ending", "hardware", "partition", "vcpu", "view", "walk"]),
    (
        "guest",
        &[
            "bounce",
            "cpuid",
            "create",
            "debug_registers",
            "delivery",
            "descriptors",
            "emulate",
            "failure",
            "lead_events",
            "leave",
            "model_registers",
            "page_fault",
            "roots",
            "schedule",
            "trap",
        ],
    ),
    ("hypercall", &["hypercall", "relinquish", "syscall"]),
    ("start", &["entry", "main", "start"]),
];

/// A file of the monitor that uses one of its modules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    /// The file below `src`, without its extension.
    file: String,
    module: String,
}

/// The result of the check.
#[derive(Debug, Default)]
pub struct Floors {
    /// Uses of another module.
    uses: usize,
    /// Uses of a module on a higher floor.
    up: usize,
    violations: Vec<String>,
}

impl Floors {
    /// The number of uses, and how many run up, as text.
    pub fn report(&self) -> String {
        let (uses, up) = (self.uses, self.up);
        format!("uses between modules of the monitor: {uses}, of which {up} run up a floor\n")
    }

    /// The uses that break the rule, as sentences; empty if there are none.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }
}

/// Reads the monitor's source and compares its uses with the floors.
///
/// # Errors
/// A file cannot be read.
pub fn check() -> Result<Floors> {
    let root = workspace::root().join("hv/monitor/src");
    let mut uses = BTreeSet::new();
    for path in metrics::files(&root, "rs")? {
        let file = path.strip_prefix(&root).unwrap_or(&path).with_extension("");
        let lines = metrics::source_lines(&path)?;
        let file = file.display().to_string();
        uses.extend(used_modules(&lines).map(|module| Use { file: file.clone(), module }));
    }
    Ok(judge(&uses))
}

/// The modules that follow `crate::` in code that is no test.
fn used_modules(lines: &[Line]) -> impl Iterator<Item = String> {
    let code: String =
        lines.iter().filter(|line| !line.test).map(|l| l.code.clone() + "\n").collect();
    let mut modules = Vec::new();
    for (at, path) in code.match_indices("crate::") {
        let begins = code[..at].chars().next_back().is_none_or(|c| !is_of_a_name(c));
        if begins {
            modules.extend(first_names(&code[at + path.len()..]));
        }
    }
    modules.into_iter()
}

/// The first name of a path, or of each path of a list in braces.
fn first_names(path: &str) -> Vec<String> {
    let name = |path: &str| {
        let path = path.trim_start();
        path.split(|c| !is_of_a_name(c)).next().unwrap_or_default().to_owned()
    };
    let Some(list) = path.strip_prefix('{') else {
        return vec![name(path)];
    };
    let mut names = vec![name(list)];
    let mut depth = 0_u32;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(&list[at + 1..])),
            _ => {}
        }
    }
    // No name follows a comma at the end.
    names.retain(|name| !name.is_empty());
    names
}

fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The floor of a module, and its name.
fn floor_of(module: &str) -> Option<(usize, &'static str)> {
    let at = FLOORS.iter().position(|(_, modules)| modules.contains(&module))?;
    Some((at, FLOORS[at].0))
}

/// Compares uses with the floors.
fn judge(uses: &BTreeSet<Use>) -> Floors {
    let mut floors = Floors::default();
    for Use { file, module } in uses {
        let user = Path::new(file).iter().next().and_then(|part| part.to_str()).unwrap_or(file);
        if user == module {
            continue;
        }
        floors.uses += 1;
        let (Some((from, lower)), Some((to, higher))) = (floor_of(user), floor_of(module)) else {
            let unknown = if floor_of(user).is_none() { user } else { module };
            floors.violations.push(format!(
                "hv/monitor/src/{file}.rs: {unknown} is on no floor; add it to FLOORS"
            ));
            continue;
        };
        if to <= from {
            continue;
        }
        floors.up += 1;
        floors.violations.push(format!(
            "hv/monitor/src/{file}.rs: {lower} uses {module} of the higher floor {higher}; move \
            the code that it uses down, or pass a value in as a parameter"
        ));
    }
    floors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::source;

    fn uses(list: &[(&str, &str)]) -> BTreeSet<Use> {
        list.iter()
            .map(|&(file, module)| Use { file: file.into(), module: module.into() })
            .collect()
    }

    #[test]
    fn uses_are_read_from_lists_and_paths() {
        let source = "use crate::{\n    cpu::{self, Local},\n    // crate::comment\n    time,\n};\n\
            pub use crate::walk::place;\nfn f() { crate::trap::inject(\"crate::text\") }\n\
            #[cfg(test)]\nmod tests {\n    use crate::schedule;\n}\nuse othercrate::bounce;\n";
        let found: Vec<_> = used_modules(&source::lines(source)).collect();
        assert_eq!(found, ["cpu", "time", "walk", "trap"]);
    }

    #[test]
    fn a_use_may_run_down_and_along_a_floor() {
        let floors = judge(&uses(&[("trap", "cpu"), ("trap", "emulate"), ("cpu", "cpu")]));
        assert!(floors.violations.is_empty(), "{floors:?}");
        assert_eq!((floors.uses, floors.up), (2, 0));
    }

    #[test]
    fn a_use_that_runs_up_is_refused() {
        let up = uses(&[("platform/smp", "start")]);
        let [violation] = judge(&up).violations.try_into().expect("one");
        assert!(violation.contains("platform uses start of the higher floor start"), "{violation}");
    }

    #[test]
    fn a_module_without_a_floor_is_refused() {
        for pair in [("attic", "cpu"), ("cpu", "attic")] {
            let [violation] = judge(&uses(&[pair])).violations.try_into().expect("one");
            assert!(violation.contains("attic is on no floor"), "{violation}");
        }
    }

    #[test]
    fn a_module_stands_on_one_floor() {
        let all: Vec<_> = FLOORS.iter().flat_map(|(_, modules)| modules.iter()).collect();
        let once: BTreeSet<_> = all.iter().collect();
        assert_eq!(all.len(), once.len());
    }
}
