//! The PV page-table rules: what a partition's page tables may say.
//!
//! Partitions run on page tables that they make themselves, at machine addresses. The monitor
//! lets the CPU walk a table only after it has read every entry of it (*validation*), and from
//! then on every change to it passes through here. What is kept:
//!
//! 1. A present entry refers only to a frame of the partition itself, or to one that was mapped
//!    by [`map_foreign`] with leave of its owner.
//! 2. A frame that is a page table or a descriptor table is not mapped writable by anyone.
//! 3. An entry of level *n* leads to a table of level *n-1*, never to one of the same level.
//! 4. Each present entry holds a reference on what it refers to: a plain one for a read-only
//!    page, a typed one for a writable page or a table. So the counts of a frame are exactly the
//!    entries that refer to it, plus pins, loaded bases and what the monitor itself took.
//! 5. Before a frame's type changes, no CPU holds a translation of its former use.
//!
//! # Locks and races
//! All operations on tables of one partition are serialized by the caller: a [`Space`] is that
//! lock's content. What runs at the same time: CPUs that set accessed and dirty bits in live
//! tables (so entries change by atomic operations that keep what the CPU sets), and other
//! partitions that take references on this partition's frames (so frames change by
//! compare-and-swap). [`Machine::flush_before_retype`] is called with the lock held; a CPU that
//! spins for the lock must go on serving flush requests.
//!
//! # Long work
//! A level-4 table may hold 2^27 entries below it. Work over tables stops between entries of
//! levels 2 and up, and after 64 entries of level 1, when [`Machine::should_yield`] says so. Taking a table then returns
//! [`Error::Again`], and the same call made again carries on. Giving one back never fails: what
//! is left of the work is remembered in the [`Space`], done by [`Space::finish`], and finished
//! before any other operation starts.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]
#![cfg_attr(not(test), no_std)]

mod descriptor;
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
pub use entry::{ENTRIES, MONITOR_SLOTS, bits, frame_of};
pub use error::Error;
pub use find::{find_entry, is_canonical};
pub use foreign::{Release, hold, map_foreign, release, replace_entry_expect, unmap_entry_expect};
pub use machine::{Machine, Space, Table};
pub use pin::{drop_range, get_base, pin, put_base, unpin};
pub use update::{Operation, Request, update_entries, update_entry, update_entry_emulated};
