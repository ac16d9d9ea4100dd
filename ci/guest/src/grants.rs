//! Tests grants of a partition to itself: mapped for its kernel and for devices, removed in parts,
//! and replaced by other mappings.
#![expect(unsafe_code, reason = "grant operations and pages that move")]

use crate::{calls, memory};
use core::sync::atomic::{AtomicU64, Ordering};
use partition_runtime::hypercall::{Errno, call};
use pv_abi::xen::events::{AllocUnbound, EvtchnStatus};
use pv_abi::xen::grants::{self as abi, MapGrantRef, SetupTable, UnmapAndReplace, UnmapGrantRef};
use pv_abi::xen::{domid, hypercall as number};

const BOTH: u32 = abi::GNTMAP_HOST_MAP | abi::GNTMAP_DEVICE_MAP;
/// The first entry of the grant table that is used here, after the reserved ones.
const FIRST: u32 = abi::RESERVED_ENTRIES;

/// The state of the checks.
struct Stage {
    own: u16,
    /// Address of the mapped grant table.
    table: u64,
    /// The first free page; each free page is mapped at its own address.
    page: u64,
}

/// Checks everything; panics if a check fails.
pub fn check() {
    let stage = Stage::make();
    stage.for_devices();
    stage.in_parts();
    stage.replaced();
    stage.map_in_pieces();
}

fn plain(command: u64, operations: u64, count: u64) -> Result<u64, Errno> {
    // SAFETY: the callers pass structures of their own, which name their own pages.
    unsafe { call(number::GRANT_TABLE_OP, [command, operations, count, 0, 0]) }
}

fn must_do<T>(command: u64, operation: &mut T) {
    assert_eq!(plain(command, (&raw mut *operation) as u64, 1), Ok(0), "grant operation {command}");
}

fn words(address: u64) -> &'static [AtomicU64; 512] {
    // SAFETY: the callers name a page that is mapped and that nothing else uses.
    unsafe { &*core::ptr::with_exposed_provenance(address as usize) }
}

impl Stage {
    fn make() -> Self {
        let (first, count) = memory::free_pages();
        assert!(count > 40, "{count} free pages");
        let page = memory::BASE + first * memory::PAGE;
        let table = page;
        let mut frame = 0_u64;
        let mut setup = SetupTable {
            dom: domid::SELF,
            pad0: 0,
            nr_frames: 1,
            status: 0,
            pad1: [0; 6],
            frame_list: (&raw mut frame) as u64,
        };
        must_do(abi::SETUP_TABLE, &mut setup);
        assert_eq!(setup.status, 0, "setting the table up");
        let entry = (frame * memory::PAGE) | memory::WRITABLE;
        calls::update_va_mapping(table, entry).expect("mapping the grant table");
        Self { own: own_number(), table, page: page + memory::PAGE }
    }

    /// Address of free page `n`.
    fn address(&self, n: u64) -> u64 {
        self.page + n * memory::PAGE
    }

    fn frame(&self, n: u64) -> u64 {
        let frame = (self.address(n) - memory::BASE) / memory::PAGE;
        memory::machine_frame(frame).expect("a page has a frame")
    }

    /// Grants free page `n` to the partition itself with entry `FIRST + n`.
    fn grant(&self, n: u64, flags: u16) {
        let flags = u64::from(abi::GTF_PERMIT_ACCESS | flags);
        let entry = flags | u64::from(self.own) << 16 | self.frame(n) << 32;
        words(self.table)[FIRST as usize + n as usize].store(entry, Ordering::SeqCst);
    }

    /// Whether the entry of page `n` is in use.
    fn in_use(&self, n: u64) -> bool {
        let entry = words(self.table)[FIRST as usize + n as usize].load(Ordering::SeqCst);
        entry & u64::from(abi::GTF_READING | abi::GTF_WRITING) != 0
    }

    fn map(&self, n: u64, flags: u32, host_addr: u64) -> MapGrantRef {
        let mut map = MapGrantRef {
            host_addr,
            flags,
            grant_ref: FIRST + n as u32,
            dom: self.own,
            ..MapGrantRef::default()
        };
        must_do(abi::MAP_GRANT_REF, &mut map);
        map
    }

    fn unmap(&self, handle: u32, host_addr: u64, dev_bus_addr: u64) -> i16 {
        let mut unmap = UnmapGrantRef { host_addr, dev_bus_addr, handle, status: 1, pad: 0 };
        must_do(abi::UNMAP_GRANT_REF, &mut unmap);
        unmap.status
    }

    fn replace(&self, handle: u32, host_addr: u64, new_addr: u64) -> i16 {
        let mut replace = UnmapAndReplace { host_addr, new_addr, handle, status: 1, pad: 0 };
        must_do(abi::UNMAP_AND_REPLACE, &mut replace);
        replace.status
    }

    /// Maps page `n` at its own address again, as it was at the start.
    fn restore(&self, n: u64) {
        let entry = (self.frame(n) * memory::PAGE) | memory::WRITABLE;
        calls::update_va_mapping(self.address(n), entry).expect("mapping a page");
    }

    /// Maps a grant for devices only: there is an address and a reference on the frame, but no
    /// page-table entry.
    fn for_devices(&self) {
        self.grant(0, 0);
        let none = self.map(0, 0, 0);
        assert_eq!(none.status, abi::GNTST_GENERAL_ERROR, "a handle without a mapping");
        let map = self.map(0, abi::GNTMAP_DEVICE_MAP, 0);
        assert_eq!((map.status, map.dev_bus_addr), (0, self.frame(0) * memory::PAGE));
        assert!(self.in_use(0));
        // A page that a device may write stays the partition's memory.
        calls::update_va_mapping(self.address(0), 0).expect("unmapping a page");
        let mut frames = [self.frame(0)];
        assert_eq!(calls::give_back(&mut frames), Ok(0), "the frame that a device may write");
        assert_eq!(self.unmap(map.handle, 0, 8), abi::GNTST_BAD_DEV_ADDR);
        assert_eq!(self.unmap(map.handle, 0, map.dev_bus_addr), 0);
        assert!(!self.in_use(0));
        assert_eq!(self.unmap(map.handle, 0, map.dev_bus_addr), abi::GNTST_BAD_HANDLE);
        self.restore(0);
        // The grant is read-only.
        self.grant(0, abi::GTF_READONLY);
        let write = self.map(0, abi::GNTMAP_DEVICE_MAP, 0);
        assert_eq!(
            write.status,
            abi::GNTST_GENERAL_ERROR,
            "writing to a page that is granted for reading"
        );
        let read = self.map(0, abi::GNTMAP_DEVICE_MAP | abi::GNTMAP_READONLY, 0);
        assert_eq!((read.status, self.unmap(read.handle, 0, read.dev_bus_addr)), (0, 0));
        assert!(!self.in_use(0));
    }

    /// Maps a grant both ways at once, and removes the two parts in either order.
    fn in_parts(&self) {
        let place = self.address(1);
        for host_first in [true, false] {
            calls::update_va_mapping(place, 0).expect("unmapping a page");
            self.grant(0, 0);
            words(self.address(0))[3].store(7, Ordering::SeqCst);
            let map = self.map(0, BOTH, place);
            assert_eq!(map.status, 0);
            assert_eq!(words(place)[3].load(Ordering::SeqCst), 7, "the granted page");
            let host = |handle| self.unmap(handle, place, 0);
            let device = |handle| self.unmap(handle, 0, map.dev_bus_addr);
            let both: [&dyn Fn(u32) -> i16; 2] =
                if host_first { [&host, &device] } else { [&device, &host] };
            assert_eq!(self.unmap(map.handle, place + memory::PAGE, 0), abi::GNTST_BAD_VIRT_ADDR);
            assert_eq!(
                both[0](map.handle),
                0,
                "unmapping the first part, host first: {host_first}"
            );
            assert!(self.in_use(0), "one part is left");
            assert_eq!(
                both[1](map.handle),
                0,
                "unmapping the second part, host first: {host_first}"
            );
            assert!(!self.in_use(0), "nothing is left");
            assert_eq!(host(map.handle), abi::GNTST_BAD_HANDLE);
        }
        // A failed mapping at an invalid address leaves nothing behind.
        let nowhere = self.map(0, BOTH, 0xffff_8000_0000_0000);
        assert_eq!(nowhere.status, abi::GNTST_BAD_VIRT_ADDR);
        assert!(!self.in_use(0));
        self.restore(1);
        let mut frames = [self.frame(0)];
        calls::update_va_mapping(self.address(0), 0).expect("unmapping a page");
        assert_eq!(calls::give_back(&mut frames), Ok(1), "nothing holds the frame");
        let mut taken = [(self.address(0) - memory::BASE) / memory::PAGE];
        assert_eq!(calls::take_back(&mut taken), Ok(1));
        memory::machine_frames()[((self.address(0) - memory::BASE) / memory::PAGE) as usize]
            .store(taken[0], Ordering::Relaxed);
        self.restore(0);
    }

    /// A mapping of a grant is replaced by the mapping of another address.
    fn replaced(&self) {
        let (place, other) = (self.address(1), self.address(2));
        self.grant(0, 0);
        words(other)[0].store(22, Ordering::SeqCst);
        calls::update_va_mapping(place, 0).expect("unmapping a page");
        let map = self.map(0, abi::GNTMAP_HOST_MAP, place);
        words(place)[0].store(11, Ordering::SeqCst);
        assert_eq!((map.status, words(self.address(0))[0].load(Ordering::SeqCst)), (0, 11));
        for wrong in [place, 0xffff_8000_0000_0000, 0x7fff_f000, 1 << 47] {
            assert_ne!(
                self.replace(map.handle, place, wrong),
                0,
                "replacing the mapping by the page at {wrong:#x}"
            );
        }
        assert_eq!(self.replace(map.handle, other, place), abi::GNTST_BAD_VIRT_ADDR);
        assert_eq!(words(place)[0].load(Ordering::SeqCst), 11, "refused");
        assert_eq!(self.replace(map.handle, place, other), 0);
        assert!(!self.in_use(0));
        assert_eq!(words(place)[0].load(Ordering::SeqCst), 22, "the page of the other address");
        assert!(calls::update_va_mapping(place, 0).is_ok());
        assert_eq!(self.replace(map.handle, place, other), abi::GNTST_BAD_HANDLE);
        // Without a replacement, the address is unmapped.
        let map = self.map(0, abi::GNTMAP_HOST_MAP, place);
        assert_eq!((map.status, self.replace(map.handle, place, 0)), (0, 0));
        assert!(!self.in_use(0));
        self.restore(1);
        self.restore(2);
    }

    /// Makes one call with so many operations that the monitor executes it in pieces.
    fn map_in_pieces(&self) {
        const COUNT: usize = 30;
        let mut maps = [MapGrantRef::default(); COUNT];
        for (n, map) in (0_u64..).zip(&mut maps) {
            self.grant(n, 0);
            (map.flags, map.grant_ref, map.dom) =
                (abi::GNTMAP_DEVICE_MAP, FIRST + n as u32, self.own);
            map.status = 1;
        }
        for _ in 0..20 {
            let list = maps.as_mut_ptr() as u64;
            assert_eq!(plain(abi::MAP_GRANT_REF, list, COUNT as u64), Ok(0));
            assert!(maps.iter().all(|map| map.status == 0), "maps in one call");
            let mut unmaps = maps.map(|map| UnmapGrantRef {
                dev_bus_addr: map.dev_bus_addr,
                handle: map.handle,
                status: 1,
                ..UnmapGrantRef::default()
            });
            let list = unmaps.as_mut_ptr() as u64;
            assert_eq!(plain(abi::UNMAP_GRANT_REF, list, COUNT as u64), Ok(0));
            assert!(unmaps.iter().all(|unmap| unmap.status == 0), "unmaps in one call");
        }
        assert!((0..COUNT as u64).all(|n| !self.in_use(n)));
    }
}

/// The partition's own number, read as the partner of a port that waits for the partition itself.
fn own_number() -> u16 {
    let mut wanted =
        AllocUnbound { dom: domid::SELF, remote_dom: domid::SELF, ..AllocUnbound::default() };
    calls::alloc_unbound(&mut wanted).expect("a port");
    let mut status =
        EvtchnStatus { dom: domid::SELF, port: wanted.port, ..EvtchnStatus::default() };
    calls::port_status(&mut status).expect("the state of a port");
    status.detail as u16
}
