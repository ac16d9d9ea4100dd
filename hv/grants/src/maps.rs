//! The mapper's side: the records of a partition's mappings, by handle.
//!
//! A handle is the index of a record. The free records form a list, so finding one takes no search,
//! and a handle in use can be distinguished from a free one.

use crate::Result;
use pv_abi::xen::grants as abi;

/// Marks a free record.
const FREE: u32 = u32::MAX;
/// Ends the list of free records.
const END: u32 = u32::MAX;

/// The record of a mapping; 24 bytes. [`MapTable::new`] makes a table of fresh memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct MapRecord {
    /// The granting partition.
    pub partition: u32,
    /// The entry in its table.
    pub reference: u32,
    /// The mapped frame.
    pub frame: u32,
    /// The `GNTMAP_` bits of the mapping.
    pub flags: u32,
    /// The place of the host mapping: a virtual address, or the machine address of the entry.
    pub host_addr: u64,
}

const _: () = assert!(size_of::<MapRecord>() == 24);

impl MapRecord {
    /// A free record that ends the list.
    pub const EMPTY: Self =
        Self { partition: FREE, reference: END, frame: 0, flags: 0, host_addr: 0 };
}

/// The records of the grants that a partition has mapped, in storage `S` of the caller.
#[derive(Debug)]
pub struct MapTable<S> {
    records: S,
    first_free: u32,
}

impl<S: AsRef<[MapRecord]> + AsMut<[MapRecord]>> MapTable<S> {
    /// A table with no record in use; the storage is overwritten. Handles have 32 bits, so records
    /// beyond that are not used.
    pub fn new(mut records: S) -> Self {
        let mut first_free = END;
        for (handle, record) in (0..END).zip(records.as_mut()).rev() {
            *record = MapRecord { reference: first_free, ..MapRecord::EMPTY };
            first_free = handle;
        }
        Self { records, first_free }
    }

    /// Stores a record and returns its handle. Returns `GNTST_no_space` if none is free,
    /// `GNTST_bad_domain` if `record.partition` is not a partition's number.
    pub fn insert(&mut self, record: MapRecord) -> Result<u32> {
        if record.partition == FREE {
            return Err(abi::GNTST_BAD_DOMAIN);
        }
        let handle = self.first_free;
        let place = self.place(handle).ok_or(abi::GNTST_NO_SPACE)?;
        let next = core::mem::replace(place, record).reference;
        self.first_free = next;
        Ok(handle)
    }

    /// The record with this handle. Returns `GNTST_bad_handle` if there is none.
    pub fn get(&self, handle: u32) -> Result<MapRecord> {
        usize::try_from(handle)
            .ok()
            .and_then(|index| masked::get(self.records.as_ref(), index).copied())
            .filter(|record| record.partition != FREE)
            .ok_or(abi::GNTST_BAD_HANDLE)
    }

    /// Changes the `GNTMAP_` bits of a record. Returns `GNTST_bad_handle` if there is none.
    pub fn set_flags(&mut self, handle: u32, flags: u32) -> Result<()> {
        self.get(handle)?;
        self.place(handle).ok_or(abi::GNTST_BAD_HANDLE)?.flags = flags;
        Ok(())
    }

    /// Removes a record and returns it. Returns `GNTST_bad_handle` if there is none.
    pub fn remove(&mut self, handle: u32) -> Result<MapRecord> {
        let record = self.get(handle)?;
        let next = self.first_free;
        let place = self.place(handle).ok_or(abi::GNTST_BAD_HANDLE)?;
        *place = MapRecord { reference: next, ..MapRecord::EMPTY };
        self.first_free = handle;
        Ok(record)
    }

    /// The first record in use from handle `from` on, for a caller that releases all.
    #[must_use]
    pub fn next_used(&self, from: u32) -> Option<(u32, MapRecord)> {
        let records = self.records.as_ref().iter();
        (0..END)
            .zip(records)
            .skip(usize::try_from(from).ok()?)
            .find(|(_, record)| record.partition != FREE)
            .map(|(handle, record)| (handle, *record))
    }

    fn place(&mut self, handle: u32) -> Option<&mut MapRecord> {
        masked::get_mut(self.records.as_mut(), usize::try_from(handle).ok()?)
    }
}
