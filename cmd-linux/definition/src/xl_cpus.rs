//! The setting `cpus` of xl.cfg.
//!
//! A text is one set for all virtual CPUs: numbers and ranges, of which `^` removes some. A list
//! has a set for each virtual CPU. It is accepted only if all sets are equal, because a partition
//! has one set.

use std::collections::BTreeSet;

use crate::draft::{At, Draft};
use crate::issue::{Sink, quoted};
use crate::units::{self, MAX_CPU};
use crate::value::{Entry, Value};

/// A set of CPUs; `None` means all of the machine's.
type Set = Option<BTreeSet<u32>>;
/// The mistake, and the way out.
type Wrong = (String, String);

/// Reads the setting. `draft` already has the number of virtual CPUs.
pub(crate) fn read(entry: &Entry<'_>, draft: &Draft, sink: &mut Sink<'_>) -> Option<At<Vec<u32>>> {
    let (at, field) = (entry.item.at, entry.key.clone());
    let read = match &entry.item.value {
        Value::Text(text) => set(text),
        Value::Integer(number) => set(&number.to_string()),
        Value::List(items) => {
            let most = draft.number("max_vcpus").or(draft.number("vcpus"));
            let vcpus = most.map_or(1, |most| most as usize);
            if items.len() > vcpus {
                let problem = format!("ignored: entries for more than {vcpus} virtual CPUs");
                sink.warn(at, &field, problem, "");
            }
            let sets = items.iter().take(vcpus).map(|item| match &item.value {
                Value::Text(text) => set(text),
                Value::Integer(number) => set(&number.to_string()),
                other => Err((format!("{} names no CPU", other.kind()), numbers())),
            });
            sets.collect::<Result<Vec<Set>, Wrong>>().and_then(|sets| one(&sets, vcpus))
        }
        other => Err((format!("{} names no CPU", other.kind()), numbers())),
    };
    match read {
        Ok(set) => {
            let value = set.map(|set| set.into_iter().collect()).unwrap_or_default();
            Some(At { value, at, field: field.into_owned() })
        }
        Err((problem, way_out)) => {
            sink.error(at, &field, problem, way_out);
            None
        }
    }
}

fn numbers() -> String {
    format!("give numbers from 0 to {MAX_CPU}, such as \"0-3,^1\"")
}

/// The set that all virtual CPUs share; `sets` has a set for each of the first virtual CPUs. Sets
/// that differ are refused.
fn one(sets: &[Set], vcpus: usize) -> Result<Set, Wrong> {
    // Virtual CPUs without an entry may use all CPUs.
    let rest = (sets.len() < vcpus).then_some(&None);
    let all = || sets.iter().chain(rest);
    let first = all().next().cloned().flatten();
    if all().all(|set| *set == first) {
        return Ok(first);
    }
    let union: Option<BTreeSet<u32>> =
        all().cloned().collect::<Option<Vec<_>>>().map(|sets| sets.into_iter().flatten().collect());
    let shown = union.map_or("all".into(), |set| units::cpus(&Vec::from_iter(set)));
    let problem =
        "each entry is for one virtual CPU, and all virtual CPUs of a partition share one set";
    let way_out = format!("write cpus = {shown:?} if each of them may run on all of these");
    Err((problem.into(), way_out))
}

/// The set that a text describes.
fn set(text: &str) -> Result<Set, Wrong> {
    let mut set = BTreeSet::new();
    let mut is_all = false;
    for part in text.split(',').map(str::trim) {
        let (is_not, cpus) = part.strip_prefix('^').map_or((false, part), |rest| (true, rest));
        if cpus.starts_with("node:") || cpus.starts_with("nodes:") {
            let problem = format!("{} names NUMA nodes", quoted(part));
            return Err((problem, "name the CPUs; `uvtool resources` shows them".into()));
        }
        if cpus == "all" && !is_not {
            is_all = true;
            continue;
        }
        let Ok(found) = units::parse_cpus(cpus) else {
            return Err((format!("{} names no CPU", quoted(part)), numbers()));
        };
        if is_not && is_all {
            let problem = format!("{} excludes CPUs from all CPUs of the machine", quoted(part));
            return Err((problem, "name the CPUs that it may use".into()));
        }
        for cpu in found {
            if is_not {
                set.remove(&cpu);
            } else {
                set.insert(cpu);
            }
        }
    }
    if is_all {
        return Ok(None);
    }
    if set.is_empty() {
        return Err((format!("{} leaves no CPU", quoted(text)), numbers()));
    }
    Ok(Some(set))
}
