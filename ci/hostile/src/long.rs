//! Very long calls, during which another virtual CPU must make progress.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow};
use pv_abi::xen::domid;
use pv_abi::xen::hypercall as number;
use pv_abi::xen::mmu::{EXT_TLB_FLUSH_ALL, MmuUpdate, MmuextOp};
use zerocopy::IntoBytes;

use crate::attempt::Call;
use crate::frames::update;
use crate::ground::Page;
use crate::linux::{self, Hypercalls, stay_on_cpu};
use crate::report::Report;

/// The beginning of the names of these attempts.
pub const LONG: &str = "long batch";

/// Bytes of a pattern of whole requests and whole pages; 16 and 24 divide it.
const PATTERN: usize = 12288;
/// The file with the pattern, before it is mapped.
const FILE: &str = "/tmp/requests";
/// The fewest updates that another virtual CPU must make during one of the calls.
const MEANWHILE: u64 = 20;
/// The most calls that are tried until the other virtual CPU made so many updates during one of
/// them; more than one, because a virtual CPU may lose its CPU during a call.
const CALLS: usize = 64;

/// Makes the long calls, while another virtual CPU makes short ones. If both share the machine's
/// only CPU, the scheduler decides whether the other one runs meanwhile, and the long call only has
/// to end.
///
/// # Errors
/// The memory of the requests cannot be mapped, or a thread failed.
pub fn all(
    hypercalls: &Hypercalls,
    pages: &[Page],
    cpus: usize,
    report: &mut Report,
) -> Result<()> {
    let least = if cpus > 1 { MEANWHILE } else { 0 };
    let [page, ..] = pages else { return Ok(()) };
    let request = MmuUpdate { ptr: page.mfn << 12, val: 0 };
    let flush = MmuextOp { cmd: EXT_TLB_FLUSH_ALL, pad: 0, arg1: 0, arg2: 0 };
    let batches = [
        ("updates of one entry", number::MMU_UPDATE, request.as_bytes(), 128),
        ("flushes of all translations", number::MMUEXT_OP, flush.as_bytes(), 16),
    ];
    for (what, call, request, times) in batches {
        let (address, count) = requests(request, times)?;
        let args = [address, count, 0, domid::SELF.into(), 0];
        let (result, meanwhile) = beside(*page, least, &|| hypercalls.on_own_memory(call, args))?;
        let held = result == 0 && meanwhile >= least;
        let expected = format!("0, and {least} updates by another CPU during a call");
        let came = format!("{result}, {meanwhile} updates");
        let name = format!("{LONG}: {count} {what}");
        report.line(&name, "XSA-45: no call holds up others", held, &expected, &came);
    }
    Ok(())
}

/// Fills memory with this request; returns its address and the number of requests.
fn requests(request: &[u8], times: usize) -> Result<(u64, u64)> {
    let pattern = request.repeat(PATTERN / request.len());
    File::create(FILE).and_then(|mut file| file.write_all(&pattern)).context(FILE)?;
    let file = File::open(FILE).context(FILE)?;
    let address = linux::mapped_again(&file, PATTERN, times)?;
    std::fs::remove_file(FILE)?;
    Ok((address, (times * PATTERN / request.len()) as u64))
}

/// Runs `act` on the first virtual CPU while the second updates one entry, one update for each
/// call, until the second has made at least `least` updates during one run. Returns the result of
/// the last run, and the most updates.
fn beside(page: Page, least: u64, act: &dyn Fn() -> i64) -> Result<(i64, u64)> {
    let (count, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let other = scope.spawn(|| -> Result<()> {
            stay_on_cpu(1)?;
            let hypercalls = Hypercalls::open()?;
            let args = update(page.mfn, 1, 0, 0).into();
            let call = Call { number: number::MMU_UPDATE, args };
            while !over.load(Ordering::Relaxed) {
                hypercalls.perform(&call);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        while count.load(Ordering::Relaxed) == 0 && !other.is_finished() {
            std::thread::yield_now();
        }
        let (mut result, mut most) = (0, 0);
        for _ in 0..CALLS {
            let before = count.load(Ordering::Relaxed);
            result = act();
            most = most.max(count.load(Ordering::Relaxed) - before);
            if result != 0 || most >= least {
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        other.join().map_err(|_| anyhow!("a thread failed"))??;
        Ok((result, most))
    })
}
