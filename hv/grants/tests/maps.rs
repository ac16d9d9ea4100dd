//! The records against a map from handle to record.
#![cfg(not(loom))]

use grants::{MapRecord, MapTable};
use proptest::prelude::*;
use pv_abi::xen::grants as abi;
use std::collections::BTreeMap;

fn record(n: u32) -> MapRecord {
    let host_addr = u64::from(n) << 12;
    MapRecord { partition: n, reference: n ^ 5, frame: n, flags: 2, host_addr }
}

proptest! {
    #[test]
    fn records_agree_with_a_map(steps in prop::collection::vec((0u8..3, 0u32..10), 0..200)) {
        let mut table = MapTable::new([MapRecord::EMPTY; 6]);
        let mut model = BTreeMap::new();
        for (what, n) in steps {
            match what {
                0 | 1 => match table.insert(record(n)) {
                    Ok(handle) => prop_assert!(model.insert(handle, record(n)).is_none()),
                    Err(code) => {
                        prop_assert_eq!((code, model.len()), (abi::GNTST_NO_SPACE, 6));
                    }
                },
                _ => prop_assert_eq!(
                    table.remove(n),
                    model.remove(&n).ok_or(abi::GNTST_BAD_HANDLE)
                ),
            }
            for handle in 0..10 {
                let expected = model.get(&handle).copied();
                prop_assert_eq!(table.get(handle).ok(), expected);
                prop_assert_eq!(
                    table.next_used(handle),
                    model.range(handle..).next().map(|(h, r)| (*h, *r))
                );
            }
        }
    }
}

#[test]
fn wild_handles_and_partitions_are_refused() {
    let mut table = MapTable::new(vec![MapRecord::EMPTY; 2]);
    assert_eq!(table.get(u32::MAX), Err(abi::GNTST_BAD_HANDLE));
    assert_eq!(table.remove(u32::MAX), Err(abi::GNTST_BAD_HANDLE));
    assert_eq!(table.set_flags(u32::MAX, 0), Err(abi::GNTST_BAD_HANDLE));
    assert_eq!(table.set_flags(0, 0), Err(abi::GNTST_BAD_HANDLE));
    assert_eq!(table.insert(record(u32::MAX)), Err(abi::GNTST_BAD_DOMAIN));
    assert_eq!(table.next_used(u32::MAX), None);
    let mut none = MapTable::new(Vec::new());
    assert_eq!(none.insert(record(1)), Err(abi::GNTST_NO_SPACE));
}

#[test]
fn flags_of_a_record_change_alone() {
    let mut table = MapTable::new(vec![MapRecord::EMPTY; 2]);
    let handle = table.insert(record(3)).unwrap();
    table.set_flags(handle, 0x55).unwrap();
    assert_eq!(table.get(handle), Ok(MapRecord { flags: 0x55, ..record(3) }));
}
