//! The rules, called with plain frame numbers: the simulated machine has few frames, and scenarios
//! count with them.

use page_tables::{Error, Mfn, Operation, Place, Release, Request, Space};

use crate::machine::Sim;

const fn place(table: u64, index: usize) -> Place {
    Place { table: Mfn::new(table), index }
}

pub const fn frame_of(entry: u64) -> u64 {
    Mfn::of_entry(entry).number()
}

pub const fn reference(mfn: u64, writable: bool) -> Release {
    Release { mfn: Mfn::new(mfn), writable }
}

/// Functions that name one frame, with the arguments before it and after it.
macro_rules! by_number {
    ($($name:ident($($before:ident: $b:ty),*; $($after:ident: $a:ty),*) -> $result:ty;)*) => {$(
        pub fn $name(sim: &Sim, $($before: $b,)* mfn: u64 $(, $after: $a)*) -> $result {
            page_tables::$name(sim, $($before,)* Mfn::new(mfn) $(, $after)*)
        }
    )*};
}

by_number! {
    pin(space: &mut Space, level: u8;) -> Result<(), Error>;
    unpin(space: &mut Space;) -> Result<(), Error>;
    get_descriptors(space: &mut Space;) -> Result<(), Error>;
    put_descriptors(space: &Space;) -> ();
    update_descriptor(space: &mut Space; index: usize, value: u64) -> Result<(), Error>;
    update_entry(space: &mut Space; request: Request) -> Result<u64, Error>;
    hold(owner: u32; writable: bool) -> Result<Release, Error>;
}

pub fn get_base(sim: &Sim, space: &mut Space, mfn: u64) -> Result<(), Error> {
    let base = page_tables::get_base(sim, space, Mfn::new(mfn))?;
    sim.bases.lock().unwrap().insert(mfn, base);
    Ok(())
}

pub fn put_base(sim: &Sim, space: &mut Space, mfn: u64) -> Result<(), Error> {
    let base = sim.bases.lock().unwrap()[&mfn];
    page_tables::put_base(sim, space, base)
}

pub fn find_entry(sim: &Sim, space: &Space, root: u64, va: u64) -> Option<(u64, usize)> {
    let Place { table, index } = page_tables::find_entry(sim, space, Mfn::new(root), va)?;
    Some((table.number(), index))
}

pub fn map_foreign(
    sim: &Sim,
    space: &mut Space,
    table: u64,
    index: usize,
    new: u64,
    owner: u32,
) -> Result<u64, Error> {
    page_tables::map_foreign(sim, space, place(table, index), new, owner)
}

pub fn unmap_entry_expect(
    sim: &Sim,
    space: &mut Space,
    table: u64,
    index: usize,
    mfn: u64,
    writable: bool,
) -> Result<Release, Error> {
    page_tables::unmap_entry_expect(sim, space, place(table, index), Mfn::new(mfn), writable)
}

pub fn replace_entry_expect(
    sim: &Sim,
    space: &mut Space,
    to: (u64, usize),
    from: (u64, usize),
    mfn: u64,
    writable: bool,
) -> Result<Release, Error> {
    let (to, from) = (place(to.0, to.1), place(from.0, from.1));
    page_tables::replace_entry_expect(sim, space, to, from, Mfn::new(mfn), writable)
}

pub fn update_entry_emulated(
    sim: &Sim,
    space: &mut Space,
    table: u64,
    index: usize,
    operation: Operation,
) -> Result<u64, Error> {
    page_tables::update_entry_emulated(sim, space, place(table, index), operation)
}

pub fn drop_range(sim: &Sim, space: &mut Space, next: &mut u64, end: u64) -> Result<(), Error> {
    let mut mfn = Mfn::new(*next);
    let result = page_tables::drop_range(sim, space, &mut mfn, Mfn::new(end));
    *next = mfn.number();
    result
}
