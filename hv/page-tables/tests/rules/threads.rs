//! Two partitions and their CPUs at once, on real threads.

use crate::invariants::check;
use crate::machine::Sim;
use crate::random::{Player, Step, contents, destroy_all, outside, step};
use proptest::prelude::*;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 200..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn counts_are_exact_afterwards(
        contents in [contents(), contents()],
first in steps(), second in steps()) {
        let sim = Sim::new();
        let mut players = [Player::new(&sim, 1), Player::new(&sim, 2)];
        for n in [0, 1] {
            players[n].fill(&contents[n]);
        }
        let [a, b] = &mut players;
        std::thread::scope(|scope| {
            scope.spawn(|| first.iter().for_each(|step| {
 let _ = a.run(step);
 }));
            scope.spawn(|| second.iter().for_each(|step| {
 let _ = b.run(step);
 }));
        });
        check(&sim, &outside(&players));
        destroy_all(&sim, &mut players);
    }
}
