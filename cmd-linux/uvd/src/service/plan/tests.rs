use super::*;
use crate::tests::samples;
use proptest::prelude::*;

fn records(definitions: &[(Definition, bool)]) -> BTreeMap<String, Record> {
    let record = |(one, applied): &(Definition, bool)| {
        (one.name.clone(), Record::new(one.clone(), *applied))
    };
    definitions.iter().map(record).collect()
}

#[test]
fn a_name_twice_is_refused() {
    let twice = [samples::definition("a"), samples::definition("a")];
    let failure = plan(&BTreeMap::new(), &Rows::default(), &twice, false).unwrap_err().to_string();
    assert!(failure.starts_with("partition \"a\": name: is defined twice"), "{failure}");
}

#[test]
fn a_partition_that_was_not_defined_here_is_not_taken_over() {
    let rows = Rows::from_iter([samples::row(16, "a")]);
    let failure = plan(&BTreeMap::new(), &rows, &[samples::definition("a")], false).unwrap_err();
    assert!(failure.to_string().contains("was not defined here"), "{failure}");
}

proptest! {
    /// Whatever was there before: once the plan is carried out, planning again changes nothing.
    #[test]
    fn a_plan_reaches_what_should_be(
        before in proptest::collection::btree_map(0u8..8, (any::<bool>(), any::<bool>(), 1u32..4), 0..8),
        wanted in proptest::collection::btree_map(0u8..8, 1u32..4, 0..8),
        prune in any::<bool>(),
    ) {
        let named = |name: u8, weight: u32| {
            let mut one = samples::definition(&format!("p{name}"));
            one.cpu.weight = weight;
            one
        };
        let defined: Vec<_> =
            before.iter().map(|(name, (applied, _, weight))| (named(*name, *weight), *applied)).collect();
        let mut records = records(&defined);
        let running = before.iter().filter(|(_, (_, runs, _))| *runs);
        let mut rows: Rows =
            running.map(|(name, _)| samples::row(16 + u32::from(*name), &format!("p{name}"))).collect();
        let definitions: Vec<_> = wanted.iter().map(|(name, weight)| named(*name, *weight)).collect();
        let planned = plan(&records, &rows, &definitions, prune).unwrap();
        let batch = batch(&records, &rows, &planned, &definitions);
        for edit in &batch.edits {
            match edit {
                Edit::Put(record) => drop(records.insert(record.definition.name.clone(), record.clone())),
                Edit::Forget(name) => drop(records.remove(name)),
            }
        }
        batch.destroys.iter().for_each(|row| drop(rows.remove(row.number)));
        let created = (100..).zip(&batch.creates);
        created.for_each(|(at, one)| rows.insert(samples::row(at, &one.definition.name)));
        for one in &definitions {
            prop_assert_eq!(&records[&one.name].definition, one);
            prop_assert!(rows.named(&one.name).is_some());
        }
        let again = plan(&records, &rows, &definitions, prune).unwrap();
        let same = |one: &Planned| matches!(one, Planned::Same { .. });
        prop_assert!(again.iter().all(same), "{again:?}");
        let untouched = |name: &String| definitions.iter().any(|one| one.name == *name)
            || !prune || !records[name].applied;
        prop_assert!(records.keys().all(untouched));
    }
}
