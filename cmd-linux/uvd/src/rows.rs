//! Partitions as they were last read, found by number and by name.
//!
//! Rule: the time to find a partition does not depend on how many there are.

use std::collections::{BTreeMap, HashMap};

use control::command::PartitionRow;
use foldhash::fast::RandomState;

/// See the module's head.
#[derive(Default)]
pub struct Rows {
    by_number: BTreeMap<u32, PartitionRow>,
    /// While names are exchanged, it has one of two partitions with the same name.
    by_name: HashMap<String, u32, RandomState>,
}

impl Rows {
    /// The partition with this number.
    pub fn get(&self, number: u32) -> Option<&PartitionRow> {
        self.by_number.get(&number)
    }

    /// The partition with this name.
    pub fn named(&self, name: &str) -> Option<&PartitionRow> {
        self.get(*self.by_name.get(name)?)
    }

    /// Whether there is a partition with this name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// All rows, by number.
    pub fn values(&self) -> impl Iterator<Item = &PartitionRow> {
        self.by_number.values()
    }

    /// Inserts a row.
    pub fn insert(&mut self, row: PartitionRow) {
        self.remove(row.number);
        self.by_name.insert(row.name.clone(), row.number);
        self.by_number.insert(row.number, row);
    }

    /// Removes a partition and returns its row.
    pub fn remove(&mut self, number: u32) -> Option<PartitionRow> {
        let row = self.by_number.remove(&number)?;
        if self.by_name.get(&row.name) == Some(&number) {
            self.by_name.remove(&row.name);
        }
        Some(row)
    }

    /// All rows, by number.
    pub fn into_inner(self) -> BTreeMap<u32, PartitionRow> {
        self.by_number
    }
}

impl FromIterator<PartitionRow> for Rows {
    fn from_iter<I: IntoIterator<Item = PartitionRow>>(rows: I) -> Self {
        let mut all = Self::default();
        rows.into_iter().for_each(|row| all.insert(row));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::samples::row;

    #[test]
    fn names_that_change_hands_one_after_the_other_are_found() {
        let mut rows: Rows = [row(16, "a"), row(17, "b")].into_iter().collect();
        rows.insert(row(16, "b"));
        rows.insert(row(17, "a"));
        let number = |rows: &Rows, name: &str| rows.named(name).map(|row| row.number);
        assert_eq!((number(&rows, "a"), number(&rows, "b")), (Some(17), Some(16)));
        assert_eq!(rows.remove(17).map(|row| row.name), Some("a".into()));
        assert_eq!((number(&rows, "a"), number(&rows, "b")), (None, Some(16)));
        assert_eq!(rows.values().count(), 1);
    }
}
