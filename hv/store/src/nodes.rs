//! The nodes, in maps: one map for each partition's home, and one for all other nodes.
//!
//! Nearly all accesses are within some home, so their time depends on the size of that home and not
//! on the number of partitions.
//!
//! Rule: a home's map holds `/local/domain/N` and everything below it, with N in decimal; no home's
//! map is empty.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Bound;

use crate::path::Path;
use crate::tree::Node;

/// The prefix of the paths of homes.
const HOMES: &str = "/local/domain/";

type Map = BTreeMap<Path, Box<Node>>;

/// The nodes; see the module.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    others: Map,
    homes: BTreeMap<u32, Map>,
}

/// The partition whose home contains a path.
fn home_of(path: &str) -> Option<u32> {
    // Every lookup asks this, so it is one loop over a few digits.
    let (mut number, mut digits) = (0_u32, 0);
    for &byte in path.as_bytes().strip_prefix(HOMES.as_bytes())? {
        match byte {
            b'/' => break,
            // No number but 0 begins with 0.
            b'0'..=b'9' if digits == 0 || number != 0 => {
                number = number.checked_mul(10)?.checked_add(u32::from(byte - b'0'))?;
                digits += 1;
            }
            _ => return None,
        }
    }
    (digits != 0).then_some(number)
}

/// Converts bounds of paths to bounds of texts.
pub(crate) fn as_str((from, to): &(Bound<String>, Bound<String>)) -> (Bound<&str>, Bound<&str>) {
    (from.as_ref().map(String::as_str), to.as_ref().map(String::as_str))
}

impl Nodes {
    fn map_of(&self, path: &str) -> Option<&Map> {
        match home_of(path) {
            Some(partition) => self.homes.get(&partition),
            None => Some(&self.others),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        self.map_of(path)?.get(path).map(|node| &**node)
    }

    pub(crate) fn get_mut(&mut self, path: &str) -> Option<&mut Node> {
        let map = match home_of(path) {
            Some(partition) => self.homes.get_mut(&partition)?,
            None => &mut self.others,
        };
        map.get_mut(path).map(|node| &mut **node)
    }

    pub(crate) fn insert(&mut self, path: Path, node: Node) -> Option<Box<Node>> {
        let map = match home_of(path.as_str()) {
            Some(partition) => self.homes.entry(partition).or_default(),
            None => &mut self.others,
        };
        map.insert(path, Box::new(node))
    }

    pub(crate) fn remove(&mut self, path: &Path) -> Option<Box<Node>> {
        let Some(partition) = home_of(path.as_str()) else {
            return self.others.remove(path);
        };
        let map = self.homes.get_mut(&partition)?;
        let node = map.remove(path);
        if map.is_empty() {
            self.homes.remove(&partition);
        }
        node
    }

    /// The nodes in homes that are below a path, if the path is above all homes.
    fn homes_below(&self, path: &Path) -> impl Iterator<Item = (&Path, &Node)> {
        let above = HOMES.starts_with(&path.prefix());
        let homes = above.then(|| self.homes.values()).into_iter().flatten();
        homes.flat_map(|map| map.iter().map(|(path, node)| (path, &**node)))
    }

    /// The nodes below a path. Those of one map are in the order of paths; those outside homes come
    /// first.
    pub(crate) fn below(&self, path: &Path) -> impl Iterator<Item = (&Path, &Node)> {
        let bounds = path.below();
        let map = self.map_of(path.as_str()).into_iter();
        let near = map.flat_map(move |map| map.range::<str, _>(as_str(&bounds)));
        near.map(|(path, node)| (path, &**node)).chain(self.homes_below(path))
    }

    /// The nodes directly below a path, with their names, in order.
    pub(crate) fn children<'t>(
        &'t self,
        path: &Path,
    ) -> impl Iterator<Item = (&'t str, &'t Node)> + use<'t> {
        let near = self.map_of(path.as_str()).map(|map| children_in(map, path));
        let mut homes: Vec<(&str, &Node)> = Vec::new();
        if path.prefix() == HOMES {
            homes.extend(self.homes.values().filter_map(|map| {
                let (path, node) = map.first_key_value()?;
                let name = path.as_str().strip_prefix(HOMES)?;
                (!name.contains('/')).then_some((name, &**node))
            }));
            // Names that are not partition numbers are in the other map.
            homes.extend(near.into_iter().flatten());
            homes.sort_unstable_by_key(|(name, _)| *name);
            return None.into_iter().flatten().chain(homes);
        }
        near.into_iter().flatten().chain(homes)
    }

    /// The first node from this path on that `wanted` accepts; nodes outside homes come first.
    pub(crate) fn find(&self, from: &str, wanted: impl Fn(&Node) -> bool) -> Option<&Path> {
        let from = (Bound::Included(from), Bound::Unbounded);
        let home = match from.0 {
            Bound::Included(path) => home_of(path),
            _ => None,
        };
        let others = home.is_none().then(|| self.others.range::<str, _>(from));
        let first = home.and_then(|partition| self.homes.get(&partition));
        let first = first.map(|map| map.range::<str, _>(from));
        let after = home.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.homes.range((after, Bound::Unbounded)).flat_map(|(_, map)| map.iter());
        let mut all = others.into_iter().chain(first).flatten().chain(rest);
        all.find(|(_, node)| wanted(node)).map(|(path, _)| path)
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Box<Node>> {
        self.others.values_mut().chain(self.homes.values_mut().flat_map(Map::values_mut))
    }
}

/// The nodes of a map directly below a path. Skips the nodes below those.
fn children_in<'t>(
    map: &'t Map,
    path: &Path,
) -> impl Iterator<Item = (&'t str, &'t Node)> + use<'t> {
    let (prefix, bounds) = (path.prefix().len(), path.below());
    let mut rest = map.range::<str, _>(as_str(&bounds));
    core::iter::from_fn(move || {
        loop {
            let (path, node) = rest.next()?;
            let name = path.as_str().get(prefix..)?;
            let Some((child, _)) = name.split_once('/') else {
                return Some((name, &**node));
            };
            // Continues after everything below the node that was listed.
            let end = path.as_str().get(..prefix + child.len()).unwrap_or_default();
            let next = (Bound::Included(alloc::format!("{end}0")), bounds.1.clone());
            rest = map.range::<str, _>(as_str(&next));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Permissions;
    use proptest::prelude::*;
    use std::collections::BTreeMap as Model;

    #[test]
    fn a_home_is_told_by_its_number_as_numbers_are_written() {
        for (path, home) in [
            ("/local/domain/0", Some(0)),
            ("/local/domain/12/device/x", Some(12)),
            ("/local/domain/4294967295", Some(u32::MAX)),
            ("/local/domain/4294967296", None),
            ("/local/domain/012", None),
            ("/local/domain/1a", None),
            ("/local/domain/00", None),
            ("/local/domain/", None),
            ("/local/domain//", None),
            ("/local/domain/0/x", Some(0)),
            ("/local/domain/+1", None),
            ("/local/domain", None),
            ("/local/domains/1", None),
            ("/vm/1", None),
        ] {
            assert_eq!(home_of(path), home, "{path}");
        }
    }

    fn path() -> impl Strategy<Value = String> {
        let name =
            prop::sample::select(vec!["a", "b", "b-1", "local", "domain", "1", "10", "2", "02"]);
        prop_oneof![
            prop::collection::vec(name.clone(), 1..4).prop_map(|names| names.join("/")),
            prop::collection::vec(name, 1..3)
                .prop_map(|names| format!("local/domain/{}", names.join("/"))),
        ]
        .prop_map(|names| format!("/{names}"))
    }

    fn node(generation: u64) -> Node {
        let permissions = Permissions::private(0);
        Node { value: Box::default(), permissions, generation, listed: 0 }
    }

    proptest! {
        /// Whatever is inserted and removed, lookups give the same as one map.
        #[test]
        fn it_is_one_map_to_who_looks(
            steps in prop::collection::vec((path(), prop::bool::weighted(0.7)), 1..60),
            asked in prop::collection::vec(path(), 1..8),
        ) {
            let (mut nodes, mut model) = (Nodes::default(), Model::new());
            for (at, (path, put)) in (0u64..).zip(&steps) {
                let key = Path::new(path).unwrap();
                let (was, expected) = if *put {
                    (nodes.insert(key, node(at)), model.insert(path.clone(), at))
                } else {
                    (nodes.remove(&key), model.remove(path))
                };
                prop_assert_eq!(was.map(|node| node.generation), expected);
            }
            prop_assert!(nodes.homes.values().all(|map| !map.is_empty()));
            prop_assert_eq!(nodes.values_mut().count(), model.len());
            let fixed = ["/", "/local", "/local/domain"].map(String::from);
            for path in asked.iter().chain(&fixed) {
                let key = Path::new(path).unwrap();
                let found = nodes.get(path).map(|node| node.generation);
                prop_assert_eq!(found, model.get(path).copied());
                let prefix = key.prefix();
                let inside = |at: &&String| at.starts_with(&prefix) && **at != prefix;
                let mut below: Vec<_> = nodes.below(&key).map(|(path, _)| path.to_string()).collect();
                below.sort();
                let expected: Vec<_> = model.keys().filter(inside).cloned().collect();
                prop_assert_eq!(&below, &expected);
                let found: Vec<_> = nodes.below(&key).filter_map(|(at, node)| {
                    let all = |one: &Node| core::ptr::eq(one, node);
                    nodes.find(at.as_str(), all).map(ToString::to_string)
                }).collect();
                prop_assert_eq!(found.len(), below.len());
                let names: Vec<_> = nodes.children(&key).map(|(name, _)| name.to_string()).collect();
                let direct = expected.iter().map(|path| path[prefix.len()..].to_string());
                let mut direct: Vec<_> = direct.filter(|name| !name.contains('/')).collect();
                direct.sort();
                prop_assert_eq!(names, direct);
            }
        }
    }
}
