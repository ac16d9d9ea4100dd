use super::*;
use crate::tests::samples;
use proptest::prelude::*;

fn records(definitions: &[(Definition, bool)]) -> BTreeMap<String, Record> {
    let record = |(one, applied): &(Definition, bool)| {
        (one.name.clone(), Record::new(one.clone(), *applied))
    };
    definitions.iter().map(record).collect()
}

/// A plan with these records.
fn planned(
    records: &BTreeMap<String, Record>,
    rows: &Rows,
    definitions: &[Definition],
    prune: bool,
) -> Result<Plan, Failure> {
    let kept = |(name, record): (&String, &Record)| Some((name.clone(), Kept::of(record)?));
    let kept = records.iter().filter_map(kept).collect();
    plan((records, &kept), rows, &definitions.into(), prune)
}

#[test]
fn a_name_twice_is_refused() {
    let twice = [samples::definition("a"), samples::definition("a")];
    let failure =
        planned(&BTreeMap::new(), &Rows::default(), &twice, false).unwrap_err().to_string();
    assert!(failure.starts_with("partition \"a\": name: is defined twice"), "{failure}");
}

#[test]
fn a_partition_that_was_not_defined_here_is_not_taken_over() {
    let rows = Rows::from_iter([samples::row(16, "a")]);
    let failure = planned(&BTreeMap::new(), &rows, &[samples::definition("a")], false).unwrap_err();
    assert!(failure.to_string().contains("was not defined here"), "{failure}");
}

proptest! {
    /// Whatever the state before, once the plan is carried out, another plan changes nothing.
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
        let Plan { batch, applied, .. } = planned(&records, &rows, &definitions, prune).unwrap();
        applied.iter().for_each(|name| records.get_mut(name).unwrap().applied = true);
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
        let again = planned(&records, &rows, &definitions, prune).unwrap().changes;
        let same = |one: &Planned| matches!(one, Planned::Same { .. });
        prop_assert!(again.iter().all(same), "{again:?}");
        let untouched = |name: &String| definitions.iter().any(|one| one.name == *name)
            || !prune || !records[name].applied;
        prop_assert!(records.keys().all(untouched));
    }
}

#[test]
fn a_definition_is_as_it_should_be_by_its_bytes_alone() {
    let rows = Rows::from_iter([samples::row(16, "a")]);
    let one = samples::definition("a");
    let records = records(&[(one.clone(), true)]);
    let plan_of = |bytes: &[u8], rows: &Rows| {
        // The planner would fail on these records, so only the bytes are compared.
        let kept = Kept { bytes: bytes.into(), applied: true };
        let kept = HashMap::from_iter([("a".to_owned(), kept)]);
        plan((&BTreeMap::new(), &kept), rows, &[one.clone()].into(), false)
    };
    let same = plan_of(&uvd_protocol::packed(&one), &rows).unwrap();
    assert_eq!(same.changes, [Planned::Same { name: "a".into() }]);
    assert!(same.batch.edits.is_empty() && same.applied.is_empty());
    assert!(plan_of(b"another", &rows).is_err(), "it was not looked at");
    let gone = plan_of(&uvd_protocol::packed(&one), &Rows::default()).unwrap();
    assert!(matches!(gone.changes[..], [Planned::Create { .. }]), "{gone:?}");
    // A partition with too little memory for its kernel is refused although nothing changes.
    let mut short = records["a"].clone();
    short.least_memory = one.memory + 1;
    assert_eq!(Kept::of(&short), None);
    let records = BTreeMap::from([("a".to_owned(), short)]);
    let failure = planned(&records, &rows, std::slice::from_ref(&one), false).unwrap_err();
    assert!(failure.to_string().contains("is less than its kernel needs"), "{failure}");
}

#[test]
fn what_is_no_definition_is_refused_before_anything_is_planned() {
    let bytes = postcard::to_allocvec(&[3u8, 0, 0, 0, 9, b'a', b'b'][..].to_vec()).unwrap();
    let definitions = postcard::from_bytes::<Definitions>(&bytes).unwrap();
    let failure =
        plan((&BTreeMap::new(), &HashMap::default()), &Rows::default(), &definitions, true);
    assert!(matches!(failure, Err(Failure::Malformed(_))), "{failure:?}");
}
