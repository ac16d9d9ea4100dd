//! The faults that ring 0 expects, and where the monitor continues after each.
//!
//! An instruction may fault because of a value from a partition: an address, a selector, a return
//! frame. Rule: every such instruction has a row in one table, which `RECOVER` in `entry.S` and
//! [`recover!`] in Rust add to. A fault at any other instruction is a broken invariant.
#![cfg_attr(not(target_os = "none"), allow(dead_code, reason = "only tested on the host"))]
#![cfg_attr(
    target_os = "none",
    expect(unsafe_code, reason = "reads the table that the linker puts together")
)]

/// Assembly for a row of the table: a fault from the first label up to the second continues at the
/// third.
#[cfg(target_os = "none")]
macro_rules! recover {
    ($from:literal, $to:literal, $at:literal) => {
        concat!(
            ".pushsection .recoveries, \"a\"\n.quad ",
            $from,
            ", ",
            $to,
            ", ",
            $at,
            "\n.popsection"
        )
    };
}
#[cfg(target_os = "none")]
pub(crate) use recover;

/// What happens after an expected fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// The monitor continues at this address.
    ContinueAt(u64),
    /// The partition cannot continue and ends.
    EndPartition,
}

/// A row of the table, in addresses of the image.
#[derive(Clone, Copy)]
#[repr(C)]
struct Row {
    /// Address of the first instruction.
    from: u64,
    /// Address past the last instruction.
    to: u64,
    /// The address at which a fault in them continues; 0 ends the partition.
    at: u64,
}

/// A page of code that runs at another address than the one it has in the image.
#[derive(Clone, Copy)]
struct Alias {
    /// The page in the image.
    image: u64,
    /// The address where it runs.
    runs: u64,
}

impl Alias {
    /// Moves an address in the page at `from` to the page at `to`; returns any other address
    /// unchanged.
    fn moved(address: u64, from: u64, to: u64) -> u64 {
        match address.checked_sub(from) {
            Some(offset) if offset < 4096 => to + offset,
            _ => address,
        }
    }
}

/// The recovery from a fault at `rip`, by the rows of a table.
fn look_up(rows: &[Row], page: Alias, rip: u64) -> Option<Recovery> {
    let in_image = Alias::moved(rip, page.runs, page.image);
    let row = rows.iter().find(|row| (row.from..row.to).contains(&in_image))?;
    Some(match row.at {
        0 => Recovery::EndPartition,
        // A fault in the page continues in the page, unless the row leads out of it.
        at if in_image != rip => Recovery::ContinueAt(Alias::moved(at, page.image, page.runs)),
        at => Recovery::ContinueAt(at),
    })
}

/// The recovery from a fault of the monitor at `rip`. Returns `None` if no fault is expected there.
#[cfg(target_os = "none")]
pub fn at(rip: u64) -> Option<Recovery> {
    unsafe extern "C" {
        static recoveries_start: Row;
        static recoveries_end: Row;
        static entry_page: u8;
    }
    let (first, end) = (&raw const recoveries_start, &raw const recoveries_end);
    let count = (end as usize - first as usize) / size_of::<Row>();
    // SAFETY: the linker script puts these symbols around the rows, which are never written.
    let rows = unsafe { core::slice::from_raw_parts(first, count) };
    let runs = core::ptr::from_ref(crate::cpu::this()) as u64 + 4096;
    look_up(rows, Alias { image: &raw const entry_page as u64, runs }, rip)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Alias = Alias { image: 0x5000, runs: 0xa000 };
    const ROWS: [Row; 4] = [
        Row { from: 0x100, to: 0x104, at: 0x110 },
        Row { from: 0x5010, to: 0x5020, at: 0x5800 },
        Row { from: 0x5030, to: 0x5032, at: 0x200 },
        Row { from: 0x5040, to: 0x5048, at: 0 },
    ];

    fn at(rip: u64) -> Option<Recovery> {
        look_up(&ROWS, PAGE, rip)
    }

    #[test]
    fn only_the_instructions_of_a_row_recover() {
        assert_eq!(at(0xff), None);
        assert_eq!(at(0x100), Some(Recovery::ContinueAt(0x110)));
        assert_eq!(at(0x103), Some(Recovery::ContinueAt(0x110)));
        assert_eq!(at(0x104), None);
        assert_eq!(at(0x110), None);
    }

    #[test]
    fn the_page_recovers_where_it_runs() {
        assert_eq!(at(0xa010), Some(Recovery::ContinueAt(0xa800)));
        assert_eq!(at(0xa01f), Some(Recovery::ContinueAt(0xa800)));
        assert_eq!(at(0xa020), None);
        // This row leads out of the page, to the image's own address.
        assert_eq!(at(0xa030), Some(Recovery::ContinueAt(0x200)));
    }

    #[test]
    fn a_row_without_an_address_ends_the_partition() {
        assert_eq!(at(0xa040), Some(Recovery::EndPartition));
        assert_eq!(at(0xa048), None);
    }

    #[test]
    fn no_address_wraps_around() {
        for rip in [0, 0x9fff, 0xb000, u64::MAX] {
            assert_eq!(at(rip), None, "{rip:#x}");
        }
    }
}
