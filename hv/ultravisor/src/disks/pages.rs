//! The journal pages themselves: pages of this partition's heap, granted to the service.

use core::sync::atomic::{AtomicU32, Ordering};

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;

use partition_runtime::{grants, heap, partition};
use pv_abi::uv::channel::JOURNAL_GRANT;
use pv_abi::uv::database::IO_SERVICE;

use super::journals::Pages;

/// If the heap has no free block of this many bytes, no page is allocated.
const ROOM: usize = 1 << 20;

/// Pages of the heap, each allocated when it is first lent, and kept: its address and its words.
#[derive(Debug, Default)]
pub struct HeapPages {
    pages: BTreeMap<u32, (u64, &'static [AtomicU32])>,
}

impl Pages for HeapPages {
    fn lend(&mut self, page: u32) -> Option<u32> {
        let (address, words) = match self.pages.entry(page) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let made = heap::has_room(ROOM).then(|| partition::shared_pages(1)).flatten()?;
                *entry.insert(made)
            }
        };
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let frame = u32::try_from(partition::frame_of(address)?).ok()?;
        let reference = JOURNAL_GRANT + page;
        let service = u16::try_from(IO_SERVICE).ok()?;
        grants::permit(reference, service, frame).then_some(reference)
    }

    fn take_back(&mut self, page: u32) -> bool {
        grants::revoke(JOURNAL_GRANT + page)
    }
}
