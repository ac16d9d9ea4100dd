//! Sets up the [`Ground`] on the machine, and removes it.
//!
//! ```text
//! granted pages:  L1 <- L2 <- L3 <- L4   descriptors   data
//!                 read-only in the kernel's direct map,  writable
//!                 pinned / loaded
//! ```
//!
//! Rule: every step is within an ordinary kernel's rights, and is checked to succeed. Changes to
//! the kernel's own state are undone before the program ends.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use pv_abi::xen::domid;
use pv_abi::xen::grants::{ENTRIES_PER_FRAME, QUERY_SIZE, QuerySize, SETUP_TABLE, SetupTable};
use pv_abi::xen::hypercall as number;
use pv_abi::xen::memory::{DECREASE_RESERVATION, POPULATE_PHYSMAP};
use pv_abi::xen::mmu::{self, PTE_ACCESSED, PTE_DIRTY, PTE_NX, UVMF_ALL, UVMF_TLB_FLUSH};
use zerocopy::{FromBytes, FromZeros};

use crate::attempt::{Arg, Call, memory, name_of, with_list};
use crate::frames::{EXTENT_START, extended, readable, reservation, update, writable};
use crate::ground::{Foreign, Ground, Page, instance_frames};
use crate::linux::{Granted, Hypercalls, Memory};
use crate::race::Grants;

/// The number of descriptors in the loaded page.
const DESCRIPTORS: u64 = 512;
/// Index of a data segment in it, present and not accessed.
const DATA_SEGMENT: u64 = 3;
/// Selector of that segment, in the local table, for ring 3.
pub const DATA_SELECTOR: u16 = (DATA_SEGMENT as u16) << 3 | 4 | 3;
/// A flat data segment of ring 3 that was not accessed.
const NOT_ACCESSED: u64 = 0x00cf_f200_0000_ffff;

/// Pages that the virtual CPUs race on.
const RACED: usize = 5;

/// The ground, and the resources that keep it valid.
pub struct Stage<'h> {
    hypercalls: &'h Hypercalls,
    /// The objects that the attempts name.
    pub ground: Ground,
    /// Further pages, mapped writable by the kernel, for the race of virtual CPUs.
    pub raced: Vec<Page>,
    /// The grants of these pages, and the table that maps them.
    pub raced_grants: Grants,
    /// The partition's own grant table.
    table: Memory,
    /// The value of the spare entry between attempts.
    spare: u64,
    _granted: Granted,
    _page: Memory,
}

/// Makes a call that must return 0.
fn must(hypercalls: &Hypercalls, what: &str, number: u64, args: impl Into<Vec<Arg>>) -> Result<()> {
    let args = args.into();
    let outcome = hypercalls.perform(&Call { number, args });
    ensure!(outcome.result == 0, "{what}: {}", name_of(outcome.result));
    Ok(())
}

/// The frames of the own grant table.
fn grant_frames(hypercalls: &Hypercalls) -> Result<Vec<u64>> {
    let mut query = QuerySize::new_zeroed();
    query.dom = domid::SELF;
    let call = |command: u64, argument| Call {
        number: number::GRANT_TABLE_OP,
        args: vec![command.into(), argument, 1.into()],
    };
    let answer = hypercalls.perform(&call(QUERY_SIZE, memory(&query))).memory;
    let query = QuerySize::read_from_bytes(&answer).ok().context("size of the grant table")?;
    let count = query.nr_frames;
    let mut setup = SetupTable::new_zeroed();
    (setup.dom, setup.nr_frames) = (domid::SELF, count);
    let list = std::mem::offset_of!(SetupTable, frame_list);
    let argument = with_list(&setup, list, &vec![0; count as usize]);
    let answer = hypercalls.perform(&call(SETUP_TABLE, argument)).memory;
    let frames = answer.get(size_of::<SetupTable>()..).unwrap_or_default();
    let (words, _) = frames.as_chunks::<8>();
    let frames: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    ensure!(!frames.is_empty() && !frames.contains(&0), "no grant table: {frames:x?}");
    Ok(frames)
}

/// The granted pages, with the frame that the grant table has for each.
fn pages(granted: &Granted, table: &Memory) -> Result<Vec<Page>> {
    let page = |(reference, pfn): (&u32, &u64)| {
        let entry = table.words().get(*reference as usize);
        let entry = entry.context("a reference past the table")?.load(Ordering::Acquire);
        let mfn = entry >> 32;
        ensure!(mfn != 0, "grant {reference} says {entry:#x}");
        Ok(Page { mfn, pfn: *pfn })
    };
    granted.references.iter().zip(&granted.frames).map(page).collect()
}

impl<'h> Stage<'h> {
    /// Sets up the stage. `foreign` are frames of others; those of the own instance are added.
    pub fn set(
        hypercalls: &'h Hypercalls,
        number: u32,
        vcpus: u32,
        mut foreign: Vec<Foreign>,
    ) -> Result<Self> {
        let frames = grant_frames(hypercalls)?;
        let (table, errors) = hypercalls.map(domid::SELF, &frames)?;
        ensure!(errors.iter().all(|error| *error == 0), "own grant table: {errors:?}");
        foreign.extend(instance_frames(frames[0], frames.len() as u64, vcpus));
        let granted = Granted::allocate(number as u16, 7 + RACED)?;
        let pages = pages(&granted, &table)?;
        let [l1, l2, l3, l4, descriptors, data, raced @ .., _] = pages.as_slice() else {
            bail!("{} pages, not {}", pages.len(), 7 + RACED);
        };
        let spare = *granted.references.last().context("no spare grant")?;
        ensure!(frames.len() * ENTRIES_PER_FRAME > spare as usize, "spare grant {spare}");
        let page = crate::linux::locked_pages(1)?;
        let ground = Ground {
            number,
            tables: [*l1, *l2, *l3, *l4],
            descriptors: *descriptors,
            data: *data,
            page_address: page.address(),
            grant: spare,
            foreign,
        };
        let spare = table.words()[spare as usize].load(Ordering::Acquire);
        let raced_grants =
            Grants { references: granted.references[6..][..RACED].into(), table: l1.mfn };
        let stage = Self {
            hypercalls,
            ground,
            raced: raced.to_vec(),
            raced_grants,
            table,
            spare,
            _granted: granted,
            _page: page,
        };
        stage.lay_out()?;
        Ok(stage)
    }

    fn kept(&self) -> impl Iterator<Item = Page> {
        self.ground.tables.into_iter().chain([self.ground.descriptors])
    }

    /// Maps a page in the kernel's direct map, for reading or for writing.
    fn map_directly(&self, page: Page, entry: u64) -> Result<()> {
        let entry = entry | PTE_ACCESSED | PTE_DIRTY | PTE_NX;
        let args = [page.address(), entry, UVMF_TLB_FLUSH | UVMF_ALL].map(Arg::from);
        must(self.hypercalls, "mapping a page", number::UPDATE_VA_MAPPING, args)
    }

    fn lay_out(&self) -> Result<()> {
        let [l1, l2, l3, l4] = self.ground.tables;
        for (table, below) in [(l2, l1), (l3, l2), (l4, l3)] {
            let args = update(table.mfn, 0, 0, writable(below.mfn));
            must(self.hypercalls, "filling a table", number::MMU_UPDATE, args)?;
        }
        for page in self.kept() {
            self.map_directly(page, readable(page.mfn))?;
        }
        for (cmd, table) in (mmu::EXT_PIN_L1_TABLE..).zip(self.ground.tables) {
            let args = extended(cmd, table.mfn, 0);
            must(self.hypercalls, "pinning a table", number::MMUEXT_OP, args)?;
        }
        let page = self.ground.descriptors;
        let args = extended(mmu::EXT_SET_LDT, page.address(), DESCRIPTORS);
        must(self.hypercalls, "loading descriptors", number::MMUEXT_OP, args)?;
        let place = (page.mfn << 12 | DATA_SEGMENT << 3).into();
        let args = [place, NOT_ACCESSED.into()];
        must(self.hypercalls, "writing a descriptor", number::UPDATE_DESCRIPTOR, args)
    }

    /// Removes the stage, so that everything is as the kernel left it.
    pub fn clear(self) -> Result<()> {
        let args = extended(mmu::EXT_SET_LDT, 0, 0);
        must(self.hypercalls, "unloading descriptors", number::MMUEXT_OP, args)?;
        for table in self.ground.tables.iter().rev() {
            let args = extended(mmu::EXT_UNPIN_TABLE, table.mfn, 0);
            must(self.hypercalls, "unpinning a table", number::MMUEXT_OP, args)?;
        }
        for page in self.kept() {
            self.map_directly(page, writable(page.mfn))?;
        }
        Ok(())
    }

    /// Releases a page, as a kernel that shrinks does: nothing maps it, and it is idle.
    pub fn give_back(&self, page: Page) -> Result<()> {
        let args = [page.address(), 0, UVMF_TLB_FLUSH | UVMF_ALL].map(Arg::from);
        must(self.hypercalls, "unmapping a page", number::UPDATE_VA_MAPPING, args)?;
        let (done, _) = self.balloon(DECREASE_RESERVATION, page.mfn);
        ensure!(done == 1, "giving a page back: {}", name_of(done));
        Ok(())
    }

    /// Takes an idle frame for a page; returns whether it is the frame that was released.
    pub fn take_back(&self, page: Page) -> Result<bool> {
        let (done, mfn) = self.balloon(POPULATE_PHYSMAP, page.pfn);
        if done != 1 {
            return Ok(false);
        }
        self.map_directly(page, writable(mfn))?;
        Ok(mfn == page.mfn)
    }

    /// A balloon call for one frame; returns its result, and the list's entry afterwards.
    fn balloon(&self, command: u64, frame: u64) -> (i64, u64) {
        let list = with_list(&reservation(domid::SELF, 0, 1), EXTENT_START, &[frame]);
        let call = Call { number: number::MEMORY_OP, args: vec![command.into(), list] };
        let outcome = self.hypercalls.perform(&call);
        let word = outcome.memory.last_chunk().copied().unwrap_or_default();
        (outcome.result, u64::from_le_bytes(word))
    }

    /// Sets the spare entry of the grant table to `entry`, or to its first value.
    pub fn set_grant(&self, entry: Option<u64>) {
        if let Some(place) = self.table.words().get(self.ground.grant as usize) {
            place.store(entry.unwrap_or(self.spare), Ordering::SeqCst);
        }
    }
}
