//! The PV page-table rules: which entries a partition's page tables may have.
//!
//! Partitions run on page tables that they build themselves, with machine addresses. The monitor
//! lets the CPU walk a table only after it has checked every entry of it (*validation*). From then
//! on every change to the table goes through this crate. The invariants:
//!
//! 1. A present entry refers only to a frame of the partition itself, or to a frame mapped by
//!    [`map_foreign`] with its owner's permission, or to device memory that the monitor mapped by
//!    [`map_device`].
//! 2. A frame that is a page table or a descriptor table is not mapped writable anywhere.
//! 3. An entry of level *n* leads to a table of level *n-1*, never to one of the same level.
//! 4. Each present entry holds a reference on the frame it refers to: a plain one for a read-only
//!    page, a typed one for a writable page or a table. So the counts of a frame equal the number
//!    of entries that refer to it, plus pins, loaded bases and the monitor's own references. Entries
//!    of device memory hold none; the monitor counts them for each device.
//! 5. Before a frame's type changes, no CPU holds a translation of its former use.
//!
//! # Locks and races
//! The caller serializes all operations on tables of one partition: put the [`Space`] inside that
//! lock. Two things happen concurrently: CPUs set accessed and dirty bits in live tables (so
//! entries change by atomic operations that keep these bits), and other partitions take references
//! on this partition's frames (so frames change by compare-and-swap).
//! [`Machine::flush_before_retype`] is called with the lock held; a CPU that spins for the lock
//! must keep serving flush requests.
//!
//! # Long work
//! A level-4 table may lead to 2^27 entries. Work on tables stops between entries of levels 2 and
//! up, and after 64 entries of level 1, if [`Machine::should_yield`] says so. An operation that
//! takes a table then returns [`Error::Again`], and the same call, made again, continues. An
//! operation that releases a table never fails: the [`Space`] remembers the rest of the work,
//! [`Space::finish`] does it, and it is finished before any other operation starts.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]

mod descriptor;
mod device;
mod entry;
mod error;
mod find;
mod foreign;
mod machine;
mod pin;
mod table;
mod update;
mod walk;

pub use descriptor::{get_descriptors, put_descriptors, update_descriptor};
pub use device::map_device;
pub use entry::{ENTRIES, MONITOR_SLOTS, bits};
pub use error::Error;
pub use find::{Place, find_entry, is_canonical};
pub use foreign::{Release, hold, map_foreign, release, replace_entry_expect, unmap_entry_expect};
pub use machine::{Machine, Space, Table};
pub use mfn::Mfn;
pub use pin::{Base, drop_range, get_base, pin, put_base, unpin};
pub use update::{Operation, Request, update_entries, update_entry, update_entry_emulated};
