use super::*;
use crate::tests::samples;
use proptest::prelude::*;

fn dedicated(name: &str, vcpus: u32, affinity: &[u32]) -> Definition {
    let mut one = samples::definition(name);
    (one.vcpus, one.max_vcpus) = (vcpus, vcpus);
    (one.cpu.dedicated, one.cpu.affinity) = (true, affinity.to_vec());
    one
}

#[test]
fn memory_is_refused_with_the_numbers() {
    let one = samples::definition("a");
    let need = frames(&one);
    assert!(memory(&[&one], need).is_ok());
    let failure = memory(&[&one, &one], 2 * need - 1).unwrap_err().to_string();
    assert_eq!(
        failure,
        "2 partitions: memory: 33 MiB needed, 32 MiB free; ask for 1 MiB less, or destroy a \
         partition first; see `uvtool resources`"
    );
}

#[test]
fn who_wants_cpus_of_its_own_and_names_none_gets_the_last_that_are_nobodys() {
    let mut row = samples::row(16, "there");
    (row.cpu_dedicated, row.cpu_affinity) = (true, vec![3]);
    let named = dedicated("b", 1, &[2]);
    let definitions = [&dedicated("a", 2, &[]), &named];
    let chosen = choose(&definitions, [row].iter(), &[0, 1, 2, 3, 4, 5]).unwrap();
    assert_eq!(chosen, [vec![4, 5], vec![2]]);
}

proptest! {
    #[test]
    fn chosen_cpus_are_disjoint_and_one_stays(
        wants in proptest::collection::vec(1u32..5, 0..6),
        cpus in 1u32..12,
    ) {
        let definitions: Vec<_> = wants.iter().map(|vcpus| dedicated("x", *vcpus, &[])).collect();
        let definitions: Vec<_> = definitions.iter().collect();
        let cpus: Vec<u32> = (0..cpus).collect();
        match choose(&definitions, [].iter(), &cpus) {
            Ok(chosen) => {
                let mut all = chosen.concat();
                prop_assert_eq!(all.len() as u32, wants.iter().sum::<u32>());
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(all.len() as u32, wants.iter().sum::<u32>());
                prop_assert!(definitions.is_empty() || all.len() < cpus.len());
            }
            Err(_) => prop_assert!(wants.iter().sum::<u32>() as usize >= cpus.len()),
        }
    }
}
