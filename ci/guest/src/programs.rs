//! The programs that a command line can name.

use crate::command::{NAMES, Program};
use crate::{calls, console, grants, memory, println, timers, view};
use alloc::vec::Vec;
use partition_runtime::hypercall::{Shutdown, shutdown};
use partition_runtime::time;

/// Runs a program and ends the guest.
pub fn run_program(program: Program<'_>) -> ! {
    let reason = match program {
        Program::Hello => hello(),
        Program::Spin(seconds) => spin(seconds),
        Program::Beat(seconds) => beat(seconds),
        Program::Echo => echo(),
        Program::Crash => panic!("asked to"),
        Program::Reboot => Shutdown::Reboot,
        Program::Idle => idle(),
        Program::Balloon(times) => balloon(times),
        Program::Timers => {
            timers::check();
            println!("timers: all were right");
            Shutdown::PowerOff
        }
        Program::Grants => {
            grants::check();
            println!("grants: all were right");
            Shutdown::PowerOff
        }
        Program::View(times) => {
            grants::check();
            view::watch(times);
            Shutdown::PowerOff
        }
        Program::Instructions => check_instructions(),
        Program::Bases => keep_bases(),
        Program::Flood(kinds) => flood(&kinds),
        Program::Disk(words) => check_disk(&words),
        Program::DiskBench(words) => measure_disk(&words),
        Program::DiskHostile(words) => attack_disk(&words),
        Program::Fuzz(words) => fuzz(&words),
        Program::Unknown(name) => {
            println!("no program `{name}`; programs are: {NAMES}");
            Shutdown::Crash
        }
    };
    console::flush();
    shutdown(reason)
}

fn hello() -> Shutdown {
    println!("hello from a minimal guest of {} KiB", memory::start().nr_pages * 4);
    Shutdown::PowerOff
}

const SECOND: u64 = 1_000_000_000;

/// Counts for CPU time. Prints a line each second: its number, the nanoseconds in it that this
/// virtual CPU ran and that it waited for a CPU, the longest time between two readings of the
/// clock, and the number of rounds.
fn spin(seconds: u64) -> Shutdown {
    const RUNNABLE: usize = 1;
    let (mut second, mut rounds) = (0, 0_u64);
    let (mut last, mut before) = (memory::now(), calls::runstate().time);
    let (mut looked, mut longest) = (last, 0);
    while seconds == 0 || second < seconds {
        for _ in 0..1000 {
            rounds = core::hint::black_box(rounds + 1);
        }
        let now = memory::now();
        longest = longest.max(now - looked);
        looked = now;
        if now < last + SECOND {
            continue;
        }
        // All time that no other state accounts for is time that it ran, including the current
        // stretch.
        let times = calls::runstate().time;
        let spent = |state: usize| times[state].wrapping_sub(before[state]);
        let waited = spent(RUNNABLE);
        let ran = (now - last).saturating_sub((RUNNABLE..times.len()).map(spent).sum());
        second += 1;
        println!("second {second} ran {ran} waited {waited} longest {longest} rounds {rounds}");
        (before, last, longest) = (times, now, 0);
    }
    Shutdown::PowerOff
}

/// Computes a little, prints the number of the second, and waits for the next one.
fn beat(seconds: u64) -> Shutdown {
    const ROUNDS: u64 = 10_000;
    let timer = calls::bind_timer().expect("the timer");
    memory::unmask(timer);
    let (mut second, mut rounds) = (0, 0_u64);
    let mut due = memory::now();
    while seconds == 0 || second < seconds {
        due += SECOND;
        while memory::now() < due {
            time::set_timer(due).expect("setting the timer");
            memory::wait();
        }
        for _ in 0..ROUNDS {
            rounds = core::hint::black_box(rounds + 1);
        }
        second += 1;
        println!("beat {second} rounds {rounds}");
    }
    Shutdown::PowerOff
}

fn echo() -> Shutdown {
    println!("echo: type lines, `quit` ends");
    let mut line = Vec::new();
    loop {
        match console::read() {
            None => memory::wait(),
            Some(b'\r' | b'\n') => {
                console::write(b"\n");
                console::write(&line);
                console::write(b"\n");
                if line == b"quit" {
                    return Shutdown::PowerOff;
                }
                line.clear();
            }
            Some(byte) => line.push(byte),
        }
    }
}

fn idle() -> ! {
    println!("idle");
    loop {
        memory::wait();
    }
}

#[cfg(target_os = "none")]
fn check_instructions() -> Shutdown {
    crate::instructions::check();
    println!("instructions: all were right");
    Shutdown::PowerOff
}

#[cfg(target_os = "none")]
fn keep_bases() -> Shutdown {
    println!("bases: kept");
    crate::instructions::keep_bases()
}

#[cfg(not(target_os = "none"))]
fn check_instructions() -> Shutdown {
    Shutdown::Crash
}

#[cfg(not(target_os = "none"))]
fn keep_bases() -> Shutdown {
    Shutdown::Crash
}

#[cfg(target_os = "none")]
fn flood(kinds: &[&str]) -> Shutdown {
    crate::flood::repeat_steps(kinds);
    Shutdown::Crash
}

#[cfg(not(target_os = "none"))]
fn flood(_kinds: &[&str]) -> Shutdown {
    Shutdown::Crash
}

#[cfg(target_os = "none")]
fn check_disk(words: &[&str]) -> Shutdown {
    crate::disk::check(words)
}

#[cfg(not(target_os = "none"))]
fn check_disk(_words: &[&str]) -> Shutdown {
    Shutdown::Crash
}

#[cfg(target_os = "none")]
fn measure_disk(words: &[&str]) -> Shutdown {
    crate::disk::measure(words)
}

#[cfg(not(target_os = "none"))]
fn measure_disk(_words: &[&str]) -> Shutdown {
    Shutdown::Crash
}

#[cfg(target_os = "none")]
fn attack_disk(words: &[&str]) -> Shutdown {
    crate::disk::be_hostile(words)
}

#[cfg(not(target_os = "none"))]
fn attack_disk(_words: &[&str]) -> Shutdown {
    Shutdown::Crash
}

#[cfg(target_os = "none")]
fn fuzz(words: &[&str]) -> Shutdown {
    crate::fuzz::run_programs(words)
}

#[cfg(not(target_os = "none"))]
fn fuzz(_words: &[&str]) -> Shutdown {
    Shutdown::Crash
}

/// Releases half of the free pages and takes them again.
fn balloon(times: u64) -> Shutdown {
    let (first, count) = memory::free_pages();
    let (first, count) = (first + count / 2, count / 2);
    for _ in 0..times {
        let mut frames = Vec::new();
        for page in first..first + count {
            let address = memory::BASE + page * memory::PAGE;
            calls::update_va_mapping(address, 0).expect("unmapping a page");
            frames.push(memory::machine_frame(page).expect("a page has a frame"));
        }
        let given = calls::give_back(&mut frames);
        let mut list: Vec<u64> = (first..first + count).collect();
        let taken = calls::take_back(&mut list);
        println!("balloon: {count} pages, gave back {given:?}, took {taken:?}");
        if given != Ok(count) || taken != Ok(count) {
            return Shutdown::Crash;
        }
        for (page, frame) in (first..).zip(&list) {
            memory::machine_frames()[page as usize]
                .store(*frame, core::sync::atomic::Ordering::Relaxed);
            let address = memory::BASE + page * memory::PAGE;
            let entry = (frame * memory::PAGE) | memory::WRITABLE;
            calls::update_va_mapping(address, entry).expect("mapping a page");
        }
    }
    Shutdown::PowerOff
}
