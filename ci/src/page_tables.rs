//! Checks the live page tables, as QEMU walks them.
//!
//! `info tlb` prints a line for each page, `ADDRESS: FRAME FLAGS`. The flags are `X` (no
//! execution), `G`, `P` (large page), `D`, `A`, `C`, `T`, `U` (ring 3 may) and `W`; `-` stands for
//! a clear flag. The flags are those of the last level; the upper levels of the monitor's tables
//! grant every right.

use anyhow::{Context, Result, ensure};

use crate::host::Host;

/// Level-4 slots 256 to 271 are the monitor's in every address space.
const MONITOR: std::ops::Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;
/// The machine-to-physical table, which partitions read.
const FRAME_NUMBERS: std::ops::Range<u64> = 0xffff_8000_0000_0000..0xffff_8080_0000_0000;

/// A mapped page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    address: u64,
    executable: bool,
    user: bool,
    writable: bool,
}

/// One line of QEMU's dump.
fn page(line: &str) -> Option<Page> {
    let (address, rest) = line.split_once(':')?;
    let flags = rest.split_whitespace().last()?;
    Some(Page {
        address: u64::from_str_radix(address.trim(), 16).ok()?,
        executable: !flags.contains('X'),
        user: flags.contains('U'),
        writable: flags.contains('W'),
    })
}

/// The monitor's pages in the current CPU's address space.
fn monitor_pages(host: &mut Host) -> Result<Vec<Page>> {
    let dump = host.machine.prompt.ask("info tlb")?;
    let pages: Vec<_> = dump.lines().filter_map(page).collect();
    let monitors: Vec<_> = pages.into_iter().filter(|p| MONITOR.contains(&p.address)).collect();
    let first = monitors.first().context("QEMU shows no page of the monitor")?;
    ensure!(monitors.iter().any(|p| p.executable), "no page of {} is code", first.address);
    Ok(monitors)
}

/// Checks that no page of the monitor is both writable and executable.
pub fn write_xor_execute(host: &mut Host) -> Result<()> {
    let pages = monitor_pages(host)?;
    let bad: Vec<_> = pages.iter().filter(|page| page.writable && page.executable).collect();
    ensure!(bad.is_empty(), "writable and executable: {bad:x?}");
    Ok(())
}

/// Checks that ring 3 reaches no page of the monitor except the table of frame numbers, which it
/// can only read.
pub fn monitor_out_of_reach(host: &mut Host) -> Result<()> {
    let pages = monitor_pages(host)?;
    let allowed = |page: &Page| FRAME_NUMBERS.contains(&page.address) && !page.writable;
    let bad: Vec<_> = pages.iter().filter(|page| page.user && !allowed(page)).collect();
    ensure!(bad.is_empty(), "within reach of ring 3: {bad:x?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_dump_are_read() {
        let line = "ffff82d080200000: 0000000001000000 XG-DA---W";
        let expected =
            Page { address: 0xffff_82d0_8020_0000, executable: false, user: false, writable: true };
        assert_eq!(page(line), Some(expected));
        let line = "0000000000400000: 0000000002000000 ----A--U-";
        assert_eq!(
            page(line).map(|p| (p.executable, p.user, p.writable)),
            Some((true, true, false))
        );
        assert_eq!(page("PG disabled"), None);
    }
}
