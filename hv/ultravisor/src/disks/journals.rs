//! Journal pages: one for each ring that is attached, granted to the service.
//!
//! The pages outlive the server that maps them, so that its successor finds what was taken and not
//! answered (crate `journal`).
//!
//! Rule: a page is lent to one set of rings, and zero when that begins. It is lent again only after
//! the rings are gone *and* nobody maps it any more. While a dead server's mapping is left, the page
//! rests, and another page is lent.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

/// The pages, by number from 0.
pub trait Pages {
    /// Fills a page with zeros and grants it to the service. Returns its grant reference, or `None`
    /// if there is no memory for it. Nobody maps the page now.
    fn lend(&mut self, page: u32) -> Option<u32>;
    /// Ends the grant of a page. Returns `false` while somebody maps the page.
    fn take_back(&mut self, page: u32) -> bool;
}

/// The pages of one set of rings.
#[derive(Debug)]
struct Lent {
    incarnation: u64,
    pages: Vec<u32>,
    references: Vec<u32>,
}

/// The pages, and the endpoints whose rings have them.
#[derive(Debug)]
pub struct Journals<P> {
    pages: P,
    free: BTreeSet<u32>,
    /// By endpoint.
    lent: BTreeMap<u32, Lent>,
    /// Pages whose rings are gone, and that may still be mapped.
    resting: BTreeSet<u32>,
}

impl<P: Pages> Journals<P> {
    /// A pool of `count` pages.
    pub fn new(pages: P, count: u32) -> Self {
        let (lent, resting) = (BTreeMap::new(), BTreeSet::new());
        Self { pages, free: (0..count).collect(), lent, resting }
    }

    /// Lends journal pages to the rings of an endpoint, unless they have theirs already. Returns
    /// the references of the pages, or `None` if there are not enough pages.
    pub fn references(
        &mut self,
        endpoint: u32,
        incarnation: u64,
        rings: usize,
    ) -> Option<Vec<u32>> {
        if let Some(lent) = self.lent.get(&endpoint)
            && (lent.incarnation, lent.pages.len()) == (incarnation, rings)
        {
            return Some(lent.references.clone());
        }
        self.part_with(endpoint);
        if self.free.len() < rings {
            return None;
        }
        let (mut pages, mut references) = (Vec::new(), Vec::new());
        while pages.len() < rings {
            let page = self.free.pop_first()?;
            pages.push(page);
            let Some(reference) = self.pages.lend(page) else {
                self.resting.extend(pages);
                return None;
            };
            references.push(reference);
        }
        let lent = Lent { incarnation, pages, references: references.clone() };
        self.lent.insert(endpoint, lent);
        Some(references)
    }

    /// Takes back the pages of an endpoint, whose rings are gone, once nobody maps them.
    pub fn part_with(&mut self, endpoint: u32) {
        if let Some(lent) = self.lent.remove(&endpoint) {
            self.resting.extend(lent.pages);
        }
        let Self { pages, free, resting, .. } = self;
        free.extend(resting.extract_if(.., |page| pages.take_back(*page)));
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Pages that remember what was done to them.
    #[derive(Debug, Default)]
    pub struct Fake {
        pub lent: BTreeSet<u32>,
        pub mapped: BTreeSet<u32>,
        /// Pages that there is no memory for.
        pub missing: BTreeSet<u32>,
    }

    impl Pages for Fake {
        fn lend(&mut self, page: u32) -> Option<u32> {
            assert!(!self.mapped.contains(&page), "page {page} is mapped");
            if self.missing.contains(&page) {
                return None;
            }
            assert!(self.lent.insert(page), "page {page} is lent twice");
            Some(100 + page)
        }

        fn take_back(&mut self, page: u32) -> bool {
            !self.mapped.contains(&page) && {
                self.lent.remove(&page);
                true
            }
        }
    }

    #[test]
    fn the_same_rings_keep_their_pages_and_others_get_fresh_ones() {
        let mut journals = Journals::new(Fake::default(), 4);
        let first = journals.references(7, 1, 2).unwrap();
        assert_eq!(first, [100, 101]);
        // A successor of the server gets them again.
        assert_eq!(journals.references(7, 1, 2), Some(first));
        assert_eq!(journals.references(8, 1, 1), Some([102].into()));
        assert_eq!(journals.references(9, 1, 2), None);
        journals.part_with(7);
        assert_eq!(journals.references(9, 1, 2), Some([100, 101].into()));
        assert_eq!(journals.pages.lent.len(), 3);
    }

    #[test]
    fn a_page_that_is_mapped_rests_and_another_is_lent() {
        let mut journals = Journals::new(Fake::default(), 2);
        journals.references(7, 1, 1).unwrap();
        journals.pages.mapped.insert(0);
        journals.part_with(7);
        assert_eq!(journals.references(7, 2, 1), Some([101].into()));
        journals.part_with(7);
        assert_eq!(journals.references(7, 3, 1), Some([101].into()));
        assert_eq!(journals.references(8, 1, 1), None);
        // The mapping goes with the partition that had it.
        journals.pages.mapped.clear();
        assert_eq!(journals.references(8, 1, 1), Some([100].into()));
    }

    #[test]
    fn without_memory_no_page_is_lost() {
        let mut journals = Journals::new(Fake::default(), 2);
        journals.pages.missing.insert(1);
        assert_eq!(journals.references(7, 1, 2), None);
        journals.pages.missing.clear();
        assert_eq!(journals.references(7, 1, 2), Some([100, 101].into()));
    }
}
