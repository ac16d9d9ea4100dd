//! Checks the part of the machine-to-physical table that this guest sees: the entries of its own
//! frames, and nothing of others.
#![expect(unsafe_code, reason = "reads the monitor's table, and sets entries in it")]

use crate::{calls, memory, println};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use partition_runtime::hypercall::call;
use partition_runtime::time;
use pv_abi::xen::mmu::{M2P_INVALID, M2P_START, MACHPHYS_UPDATE, MmuUpdate};
use pv_abi::xen::{domid, hypercall as number};

const SECOND: u64 = 1_000_000_000;
/// The monitor's mark on the entries of frames that a partition released.
const IDLE: u64 = 1 << 62;

/// Reads the whole table each second, this many times; 0 means for ever. Before every other reading
/// it releases half of the free pages.
pub fn watch(times: u64) {
    let timer = calls::bind_timer().expect("the timer");
    memory::unmask(timer);
    let last = calls::last_machine_frame();
    let (mut time, mut due) = (0, memory::now());
    let (first, count) = memory::free_pages();
    let mut aside = Vec::new();
    while times == 0 || time < times {
        time += 1;
        print_counts(time, last);
        if time % 2 == 1 {
            aside = give_back(first + count / 2, count / 2);
        } else {
            take_back(first + count / 2, &mut aside);
        }
        set_entries();
        due += SECOND;
        while memory::now() < due {
            time::set_timer(due).expect("setting the timer");
            memory::wait();
        }
    }
}

/// The entry of a machine frame.
fn entry(frame: u64) -> u64 {
    let place = core::ptr::with_exposed_provenance::<u64>((M2P_START + frame * 8) as usize);
    // SAFETY: the ABI has the table readable up to the last machine frame.
    unsafe { place.read_volatile() }
}

/// Counts entries and prints the counts: own frames with the right number, released frames, and all
/// others that have a value.
fn print_counts(time: u64, last: u64) {
    let (mut own, mut idle, mut strange, mut example) = (0, 0, 0, None);
    for frame in 0..=last {
        let pfn = entry(frame);
        if pfn == M2P_INVALID {
            continue;
        }
        if memory::machine_frame(pfn) == Some(frame) {
            own += 1;
        } else if pfn & IDLE != 0 {
            idle += 1;
        } else {
            strange += 1;
            example = Some((frame, pfn));
        }
    }
    println!("view {time}: own {own} idle {idle} strange {strange} {example:x?}");
}

/// Releases pages; returns their machine frames.
fn give_back(first: u64, count: u64) -> Vec<u64> {
    let mut frames = Vec::new();
    for page in first..first + count {
        let address = memory::BASE + page * memory::PAGE;
        calls::update_va_mapping(address, 0).expect("unmapping a page");
        frames.push(memory::machine_frame(page).expect("a page has a frame"));
        memory::machine_frames()[page as usize].store(M2P_INVALID, Ordering::Relaxed);
    }
    assert_eq!(calls::give_back(&mut frames), Ok(count));
    frames
}

/// Takes memory for these pages again, as many as there are `frames`.
fn take_back(first: u64, frames: &mut [u64]) {
    frames.iter_mut().zip(first..).for_each(|(place, page)| *place = page);
    assert_eq!(calls::take_back(frames), Ok(frames.len() as u64));
    for (page, frame) in (first..).zip(frames) {
        memory::machine_frames()[page as usize].store(*frame, Ordering::Relaxed);
        let address = memory::BASE + page * memory::PAGE;
        let entry = (*frame * memory::PAGE) | memory::WRITABLE;
        calls::update_va_mapping(address, entry).expect("mapping a page");
    }
}

/// Checks that each written entry reads back the same, in every part of the memory.
fn set_entries() {
    let own = |page: &u64| memory::machine_frame(*page).is_some_and(|mfn| mfn != M2P_INVALID);
    for page in (0..memory::start().nr_pages).step_by(37).filter(own) {
        let Some(frame) = memory::machine_frame(page) else { continue };
        for value in [0x1234_5678, page] {
            let mut request =
                MmuUpdate { ptr: (frame * memory::PAGE) | MACHPHYS_UPDATE, val: value };
            let arguments = [(&raw mut request) as u64, 1, 0, domid::SELF.into(), 0];
            // SAFETY: changes an entry of the table that nothing else reads meanwhile.
            let done = unsafe { call(number::MMU_UPDATE, arguments) };
            assert_eq!((done, entry(frame)), (Ok(0), value), "entry of page {page}");
        }
    }
}
