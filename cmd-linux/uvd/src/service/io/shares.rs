//! Which functions go where, so that I/O partitions are empty or have equal shares.

use control::io::MAX_FUNCTIONS;
use uvd_protocol::FunctionMove;

/// An I/O partition that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub number: u32,
    /// The functions that it has and keeps.
    pub functions: Vec<u32>,
    /// Number of functions that are moving to it.
    pub coming: usize,
}

impl Member {
    fn share(&self) -> usize {
        self.functions.len() + self.coming
    }
}

/// Why a partition cannot be drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uneven {
    /// No other I/O partition runs.
    Alone,
    /// The others have too little room.
    Full {
        /// Number of functions for which they have room.
        free: usize,
        /// Maximum number of functions of each.
        most: usize,
    },
}

/// The moves that take all functions from a partition: each goes to the one that has the fewest.
///
/// # Errors
/// See [`Uneven`]. A partition without functions needs no other.
pub fn drained(members: &[Member], number: u32) -> Result<Vec<FunctionMove>, Uneven> {
    let (own, mut others): (Vec<Member>, Vec<Member>) =
        members.iter().cloned().partition(|member| member.number == number);
    let functions: Vec<u32> = own.into_iter().flat_map(|member| member.functions).collect();
    if functions.is_empty() {
        return Ok(Vec::new());
    }
    if others.is_empty() {
        return Err(Uneven::Alone);
    }
    let room = |member: &Member| MAX_FUNCTIONS.saturating_sub(member.share());
    let free: usize = others.iter().map(room).sum();
    if free < functions.len() {
        return Err(Uneven::Full { free, most: MAX_FUNCTIONS });
    }
    let mut moves = Vec::new();
    for function in functions {
        let least = others.iter_mut().min_by_key(|member| member.share());
        if let Some(to) = least {
            to.coming += 1;
            moves.push(FunctionMove { function, from: number, to: to.number });
        }
    }
    Ok(moves)
}

/// The fewest moves after which no partition has two functions more than another.
pub fn balanced(members: &[Member]) -> Vec<FunctionMove> {
    let mut members = members.to_vec();
    let mut moves = Vec::new();
    loop {
        let Some(most) =
            members.iter().filter(|one| !one.functions.is_empty()).max_by_key(|one| one.share())
        else {
            return moves;
        };
        let (from, above) = (most.number, most.share());
        let Some(to) = members.iter_mut().min_by_key(|one| one.share()) else { return moves };
        if above < to.share() + 2 {
            return moves;
        }
        to.coming += 1;
        let to = to.number;
        let giver = members.iter_mut().find(|one| one.number == from);
        // The last one came last: what was there at the start stays.
        let Some(function) = giver.and_then(|giver| giver.functions.pop()) else { return moves };
        moves.push(FunctionMove { function, from, to });
    }
}

/// The moves that give a partition these functions back, wherever they are now.
pub fn returned(members: &[Member], number: u32, had: &[u32]) -> Vec<FunctionMove> {
    let others = members.iter().filter(|member| member.number != number);
    let all = others.flat_map(|member| {
        let back = member.functions.iter().filter(|function| had.contains(function));
        back.map(|&function| FunctionMove { function, from: member.number, to: number })
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(number: u32, functions: &[u32]) -> Member {
        Member { number, functions: functions.to_vec(), coming: 0 }
    }

    /// The members after moves, each of which must begin where the function is.
    fn after(members: &[Member], moves: &[FunctionMove]) -> Vec<Member> {
        let mut members = members.to_vec();
        for one in moves {
            let of = |number| move |member: &&mut Member| member.number == number;
            let from = members.iter_mut().find(of(one.from)).expect("the giver");
            let at = from.functions.iter().position(|f| *f == one.function).expect("its own");
            from.functions.remove(at);
            members.iter_mut().find(of(one.to)).expect("the taker").functions.push(one.function);
        }
        members
    }

    /// I/O partitions, with the number of functions of each.
    fn some() -> impl Strategy<Value = Vec<Member>> {
        prop::collection::vec(0..=MAX_FUNCTIONS, 1..5).prop_map(|shares| {
            let mut next = 0..;
            let members = (4..).zip(shares);
            members
                .map(|(number, share)| {
                    member(number, &next.by_ref().take(share).collect::<Vec<_>>())
                })
                .collect()
        })
    }

    #[test]
    fn the_functions_of_a_drained_partition_are_spread() {
        let members = [member(4, &[0, 2, 5]), member(5, &[1, 3]), member(6, &[])];
        let moves = drained(&members, 4).expect("room");
        let to: Vec<(u32, u32)> = moves.iter().map(|one| (one.function, one.to)).collect();
        assert_eq!(to, [(0, 6), (2, 6), (5, 5)]);
        assert_eq!(drained(&members[..1], 4), Err(Uneven::Alone));
        assert_eq!(drained(&[member(4, &[])], 4), Ok(vec![]));
        let full: Vec<u32> = (10..22).collect();
        let refused = drained(&[member(4, &[0]), member(5, &full)], 4);
        assert_eq!(refused, Err(Uneven::Full { free: 0, most: 12 }));
    }

    #[test]
    fn what_a_partition_had_comes_back() {
        let members = [member(4, &[]), member(5, &[0, 1]), member(6, &[2, 3])];
        let moves = returned(&members, 4, &[0, 2]);
        assert_eq!(after(&members, &moves)[0].functions, [0, 2]);
    }

    proptest! {
        #[test]
        fn a_drain_empties_one_and_fills_none_above_its_limit(members in some()) {
            let number = members[0].number;
            match drained(&members, number) {
                Ok(moves) => {
                    let after = after(&members, &moves);
                    prop_assert!(after[0].functions.is_empty());
                    prop_assert!(after.iter().all(|one| one.functions.len() <= MAX_FUNCTIONS));
                }
                Err(Uneven::Alone) => prop_assert!(members.len() == 1),
                Err(Uneven::Full { free, .. }) => prop_assert!(free < members[0].functions.len()),
            }
        }

        #[test]
        fn shares_are_equal_after_the_fewest_moves(members in some()) {
            let moves = balanced(&members);
            let after = after(&members, &moves);
            let shares = || after.iter().map(|one| one.functions.len());
            let (least, most) = (shares().min().unwrap(), shares().max().unwrap());
            prop_assert!(most - least <= 1);
            // What is above the larger of the two shares has to move, and no more than fills the others.
            let all: usize = shares().sum();
            let low = all / members.len();
            let above = |limit: usize| {
                members.iter().map(|one| one.functions.len().saturating_sub(limit)).sum::<usize>()
            };
            let below = members.iter().map(|one| low.saturating_sub(one.functions.len())).sum::<usize>();
            let high = if all.is_multiple_of(members.len()) { low } else { low + 1 };
            prop_assert_eq!(moves.len(), above(high).max(below));
            prop_assert!(balanced(&after).is_empty());
        }
    }
}
