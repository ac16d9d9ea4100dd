//! The objects that programs work on (pages, tables, a grant table, a timer, entries), and their
//! restoration.
//!
//! Both virtual CPUs work on the stage, and the first one restores it while the second is idle. An
//! actor is the state of one virtual CPU.
//!
//! Calls made here should succeed. If an earlier program makes one fail, the page is lost to later
//! programs, and the guest goes on with the others.
#![expect(unsafe_code, reason = "hypercalls, and pages that programs write")]

use super::attempt::{self, ARGUMENTS, CPUS, Outcome, Registers, Way, entries, register_traps};
use super::store::StoreLine;
use super::{mix, other, time};
use crate::memory::{BASE, PAGE, WRITABLE};
use crate::{calls, memory};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use fuzz_programs::{Batch, CODES, Frame, PAGES, PATTERN_WORDS, Place, Role, STORES, Step, Word};
use partition_runtime::hypercall::call;
use pv_abi::xen::descriptors::{FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS};
use pv_abi::xen::events::{self, EvtchnReset, EvtchnStatus, STATUS_VIRQ};
use pv_abi::xen::grants::{self, CopyEnd, GrantCopy, SetupTable, UnmapGrantRef};
use pv_abi::xen::mmu::{self, MmuUpdate, MmuextOp, PTE_ADDRESS, PTE_NX, PTE_PRESENT, PTE_RW};
use pv_abi::xen::traps::{CALLBACK_FAILSAFE, CALLBACK_SYSCALL};
use pv_abi::xen::{domid, hypercall as number, vcpu};
use zerocopy::FromZeros;

/// The longest time in nanoseconds for a program, or for a step that waits.
const PROGRAM_TIME: u64 = 50_000_000;
/// The most words of memory for a step.
const STEP_WORDS: usize = 1024;

#[repr(C, align(4096))]
struct Pages<const WORDS: usize>(UnsafeCell<[u64; WORDS]>);

// SAFETY: these are plain words, written by volatile stores between steps; those that both virtual
// CPUs write have contents that programs may write, too.
unsafe impl<const WORDS: usize> Sync for Pages<WORDS> {}

impl<const WORDS: usize> Pages<WORDS> {
    const fn new() -> Self {
        Self(UnsafeCell::new([0; WORDS]))
    }

    fn address(&self) -> u64 {
        self.0.get() as u64
    }

    fn write(&self, at: usize, words: &[u64]) {
        for (index, word) in (at..WORDS).zip(words) {
            // SAFETY: within the array; nobody else writes or reads it now.
            unsafe { self.0.get().cast::<u64>().add(index).write_volatile(*word) }
        }
    }

    /// The words of the first page.
    fn words(&self) -> &[AtomicU64; 512] {
        // SAFETY: an atomic is as its number; the array has a page of them or more, which stays
        // mapped.
        unsafe { &*self.0.get().cast() }
    }
}

/// The memory of a step, and after it an unmapped page, which stops a count that is too large.
static MEMORY: [Pages<{ STEP_WORDS + 512 }>; CPUS] = [const { Pages::new() }; CPUS];
/// The code of a step.
static CODE: [Pages<512>; CPUS] = [const { Pages::new() }; CPUS];
/// Frames for `iret`, with space below for the frame of a fault.
static FRAMES: [Pages<512>; CPUS] = [const { Pages::new() }; CPUS];
/// The stack for traps from user mode.
static TRAPS: [Pages<1024>; CPUS] = [const { Pages::new() }; CPUS];
/// A place for the runstate record between programs.
static RUNSTATE: [Pages<512>; CPUS] = [const { Pages::new() }; CPUS];
/// The mapping of the grant table's first frame.
static GRANTS: Pages<512> = Pages::new();
/// The list of a batch, which is mapped many times at [`LIST`].
static BATCH: Pages<{ LIST_PAGES * 512 }> = Pages::new();
/// The stack of the second virtual CPU.
static OTHER_STACK: Pages<4096> = Pages::new();

/// Pages of [`BATCH`]; a whole number of entries of 16, 24, 32, 40 and 64 bytes fills them.
const LIST_PAGES: usize = 15;
/// Address of the list: gigabytes that map the same 2 MiB again and again.
const LIST: u64 = BASE - LIST_GIGABYTES * GIGABYTE;
/// Entries of the level-3 table that lead to the list.
const LIST_GIGABYTES: u64 = 128;
const GIGABYTE: u64 = 1 << 30;

/// The end of the second virtual CPU's stack.
pub fn other_stack() -> u64 {
    OTHER_STACK.address() + 4096 * 8
}

/// A grant that a program mapped.
struct Mapped {
    place: u64,
    handle: u32,
}

/// The stage.
pub struct Stage {
    /// Pseudo-physical number of the first page.
    first: u64,
    /// Machine frames of the pages; `None` if the frame is lost.
    frames: [Option<u64>; PAGES as usize],
    /// All frames that the guest had at its start, sorted.
    own: Vec<u64>,
    /// Digest of the data by which escapes are judged, because programs may write any memory of the
    /// guest.
    known: u64,
    grant_frame: u64,
    number: u64,
    last_frame: u64,
    timer: AtomicU32,
    programs: u64,
}

/// The state of one virtual CPU.
pub struct Actor {
    cpu: usize,
    mapped: Vec<Mapped>,
    /// The store's ring, which only the first virtual CPU uses.
    store: StoreLine,
}

fn extended(command: u32, first: u64, second: u64) -> bool {
    let operation = MmuextOp { cmd: command, pad: 0, arg1: first, arg2: second };
    let arguments = [(&raw const operation) as u64, 1, 0, u64::from(domid::SELF), 0];
    // SAFETY: this pins, unpins and loads tables that programs use; the guest's own tables stay
    // loaded.
    unsafe { call(number::MMUEXT_OP, arguments) }.is_ok()
}

fn plain(number: u64, arguments: [u64; 5]) -> bool {
    // SAFETY: as for `extended`; this resets state of programs to what the guest starts with.
    unsafe { call(number, arguments) }.is_ok()
}

fn update(place: u64, value: u64) -> bool {
    let request = MmuUpdate { ptr: place, val: value };
    plain(number::MMU_UPDATE, [(&raw const request) as u64, 1, 0, u64::from(domid::SELF), 0])
}

impl Stage {
    /// Sets up the stage.
    pub fn set() -> Self {
        let (first, _) = memory::free_pages();
        let mut stage = Self {
            first: first.next_multiple_of(u64::from(PAGES)),
            frames: [None; PAGES as usize],
            own: memory::machine_frames().iter().map(|f| f.load(Ordering::Relaxed)).collect(),
            known: 0,
            grant_frame: 0,
            number: 0,
            last_frame: 0,
            timer: AtomicU32::new(0),
            programs: 0,
        };
        for (page, frame) in (stage.first..).zip(&mut stage.frames) {
            *frame = memory::machine_frame(page);
        }
        for memory in &MEMORY {
            let end = memory.address() + STEP_WORDS as u64 * 8;
            calls::update_va_mapping(end, 0).expect("unmapping a page");
        }
        stage.map_list();
        stage.own.sort_unstable();
        stage.last_frame = maximum_frame();
        stage.map_grants();
        stage.find_number();
        stage.known = stage.digest();
        stage
    }

    /// Maps the pages of [`BATCH`] throughout the addresses from [`LIST`] on, with two tables.
    fn map_list(&self) {
        let tables = self.first + u64::from(PAGES);
        let [Some(l1), Some(l2)] = [tables, tables + 1].map(memory::machine_frame) else {
            panic!("no frames for the list's tables");
        };
        // The list is not executable, because stray code could otherwise run through gigabytes of
        // zeros, which are valid instructions.
        let bits = WRITABLE | PTE_NX;
        let link = |table: u64, index: u64, to: u64| {
            assert!(update(table * PAGE + index * 8, (to * PAGE) | bits), "mapping the list");
        };
        for table in [tables, tables + 1] {
            calls::update_va_mapping(BASE + table * PAGE, 0).expect("unmapping a page");
        }
        let first = (BATCH.address() - BASE) / PAGE;
        for index in 0..512 {
            let page = first + index % LIST_PAGES as u64;
            link(l1, index, memory::machine_frame(page).expect("a page has a frame"));
            link(l2, index, l1);
        }
        let own = (memory::start().pt_base - BASE) / PAGE + 1;
        let top = memory::machine_frame(own).expect("a page has a frame");
        for gigabyte in 0..LIST_GIGABYTES {
            link(top, (LIST + gigabyte * GIGABYTE) >> 30 & 511, l2);
        }
    }

    fn map_grants(&mut self) {
        let mut list = [0_u64; 4];
        let mut setup = SetupTable::new_zeroed();
        (setup.dom, setup.nr_frames) = (domid::SELF, 1);
        setup.frame_list = list.as_mut_ptr() as u64;
        let arguments = [grants::SETUP_TABLE, (&raw mut setup) as u64, 1, 0, 0];
        plain(number::GRANT_TABLE_OP, arguments);
        self.grant_frame = list[0];
        let entry = (list[0] * PAGE) | WRITABLE;
        calls::update_va_mapping(GRANTS.address(), entry).expect("mapping the grant table");
    }

    /// Finds the guest's own number: a grant copy to itself works only if the entry names it.
    fn find_number(&mut self) {
        let frame = self.frames[5].unwrap_or(0);
        for number in 0..4096_u64 {
            GRANTS.write(8, &[u64::from(grants::GTF_PERMIT_ACCESS) | number << 16 | frame << 32]);
            let mut copy = GrantCopy::new_zeroed();
            let end = |frame| CopyEnd { frame, domid: domid::SELF, ..CopyEnd::new_zeroed() };
            (copy.source, copy.dest) = (end(8), end(frame));
            (copy.len, copy.flags) = (8, grants::GNTCOPY_SOURCE_GREF);
            let arguments = [grants::COPY, (&raw mut copy) as u64, 1, 0, 0];
            if plain(number::GRANT_TABLE_OP, arguments) && copy.status == grants::GNTST_OKAY {
                self.number = number;
                break;
            }
        }
        GRANTS.write(8, &[0]);
    }

    fn address(&self, page: u8) -> u64 {
        BASE + (self.first + u64::from(page % PAGES)) * PAGE
    }

    /// The machine address of the entry that maps a page.
    fn entry_place(&self, page: u8) -> u64 {
        let pfn = self.first + u64::from(page % PAGES);
        let table = (memory::start().pt_base - BASE) / PAGE + 3 + pfn / 512;
        memory::machine_frame(table).unwrap_or(0) * PAGE + pfn % 512 * 8
    }

    /// The entry that maps a page.
    fn entry(&self, page: u8) -> u64 {
        Self::entry_at(self.address(page))
    }

    /// The entry that maps an address of the kernel.
    fn entry_at(address: u64) -> u64 {
        let place = memory::start().pt_base + 3 * PAGE + (address - BASE) / PAGE * 8;
        // SAFETY: the loader's level-1 tables lie one after the other, and are mapped for reading.
        unsafe { core::ptr::with_exposed_provenance::<u64>(place as usize).read_volatile() }
    }

    /// Restores everything, on the first virtual CPU while the second is idle; returns `false` if
    /// too little is left to go on.
    pub fn restore(&mut self, actor: &mut Actor) -> bool {
        self.programs += 1;
        actor.restore();
        time::spoil_clock();
        self.restore_events();
        if !self.restore_grants() {
            return false;
        }
        for page in 0..PAGES {
            if let Some(frame) = self.frames[usize::from(page)] {
                extended(mmu::EXT_UNPIN_TABLE, frame, 0);
            }
        }
        // A table can be released once no other table links to it.
        for _ in 0..4 {
            let done = (0..PAGES).filter(|page| self.map(*page)).count();
            if done == usize::from(PAGES) {
                break;
            }
        }
        let usable = (0..PAGES).filter(|page| self.settle(*page)).count();
        usable * 2 >= usize::from(PAGES)
    }

    /// Closes the ports of programs from time to time, and starts the clock of the next program.
    fn restore_events(&mut self) {
        if self.programs % 32 == 1 {
            let reset = EvtchnReset { dom: domid::SELF };
            let arguments = [events::RESET, (&raw const reset) as u64, 0, 0, 0];
            plain(number::EVENT_CHANNEL_OP, arguments);
            self.timer.store(0, Ordering::Relaxed);
        }
        memory::take_events();
        self.start_clock();
    }

    /// Sets the timer; returns whether it will come.
    fn start_clock(&self) -> bool {
        if !self.has_timer() {
            self.timer.store(calls::bind_timer().unwrap_or(0), Ordering::Relaxed);
        }
        let timer = self.timer.load(Ordering::Relaxed);
        if timer == 0 {
            return false;
        }
        memory::expect(timer);
        let deadline = time::now() + PROGRAM_TIME;
        plain(number::SET_TIMER_OP, [deadline, 0, 0, 0, 0])
    }

    fn has_timer(&self) -> bool {
        let port = self.timer.load(Ordering::Relaxed);
        let mut status = EvtchnStatus { dom: domid::SELF, port, ..Default::default() };
        let arguments = [events::STATUS, (&raw mut status) as u64, 0, 0, 0];
        port != 0
            && plain(number::EVENT_CHANNEL_OP, arguments)
            && (status.status, status.detail) == (STATUS_VIRQ, events::VIRQ_TIMER)
    }

    /// Maps the grant table again, and clears the entries of programs.
    fn restore_grants(&self) -> bool {
        let entry = (self.grant_frame * PAGE) | WRITABLE;
        let mapped = calls::update_va_mapping(GRANTS.address(), entry).is_ok();
        if mapped {
            GRANTS.write(8, &[0; 8]);
        }
        mapped
    }

    /// Maps a page writable; if its frame is gone, maps another frame.
    fn map(&mut self, page: u8) -> bool {
        let index = usize::from(page);
        if self.frames[index].is_some_and(|frame| self.map_as(page, frame, WRITABLE)) {
            return true;
        }
        let mut list = [self.first + u64::from(page)];
        if calls::take_back(&mut list) != Ok(1) {
            return false;
        }
        self.frames[index] = Some(list[0]);
        memory::machine_frames()[(self.first + u64::from(page)) as usize]
            .store(list[0], Ordering::Relaxed);
        self.map_as(page, list[0], WRITABLE)
    }

    fn map_as(&self, page: u8, frame: u64, bits: u64) -> bool {
        calls::update_va_mapping(self.address(page), (frame * PAGE) | bits).is_ok()
    }

    /// Clears a mapped page and gives it its role.
    fn settle(&mut self, page: u8) -> bool {
        let Some(frame) = self.frames[usize::from(page)] else {
            return false;
        };
        let entry = self.entry(page);
        if entry & PTE_PRESENT == 0 || entry & PTE_RW == 0 || (entry & PTE_ADDRESS) / PAGE != frame
        {
            return false;
        }
        let address = core::ptr::with_exposed_provenance_mut::<u8>(self.address(page) as usize);
        // SAFETY: the page is mapped writable, as its entry says, and only programs use it.
        unsafe { address.write_bytes(0, PAGE as usize) };
        match Role::of(page) {
            Role::ReadOnly => self.map_as(page, frame, WRITABLE & !PTE_RW),
            Role::Unmapped => calls::update_va_mapping(self.address(page), 0).is_ok(),
            _ => true,
        }
    }

    /// Makes tables in pages 0 to 3 and pins them.
    fn make_tables(&self) -> bool {
        let [Some(l1), Some(l2), Some(l3), Some(l4)] = [0, 1, 2, 3].map(|page| self.frames[page])
        else {
            return false;
        };
        let own = (memory::start().pt_base - BASE) / PAGE + 1;
        let top = memory::machine_frame(own).unwrap_or(0);
        let link = |table: u64, index: u64, to: u64| {
            update(table * PAGE + index * 8, (to * PAGE) | WRITABLE)
        };
        let mut done = link(l2, 0, l1) && link(l3, 0, l2) && link(l4, 0, l3) && link(l4, 511, top);
        for (page, frame) in (0_u8..).zip([l1, l2, l3, l4]) {
            done &= self.map_as(page, frame, WRITABLE & !PTE_RW);
        }
        for (command, frame) in (mmu::EXT_PIN_L1_TABLE..).zip([l1, l2, l3, l4]) {
            done &= extended(command, frame, 0);
        }
        done
    }

    fn frame(&self, frame: Frame) -> u64 {
        let start = memory::start();
        let table = (start.pt_base - BASE) / PAGE;
        match frame {
            Frame::Page(page) => self.frames[usize::from(page % PAGES)].unwrap_or(0),
            Frame::Shared => start.shared_info / PAGE,
            Frame::StartInfo => {
                let page = (core::ptr::from_ref(start) as u64 - BASE) / PAGE;
                memory::machine_frame(page).unwrap_or(0)
            }
            Frame::Console => start.console_mfn,
            Frame::Store => start.store_mfn,
            Frame::Grants(after) => self.grant_frame.wrapping_add_signed(after.into()),
            Frame::Table(level) => {
                let page = table + 4 - u64::from(level.clamp(1, 4));
                memory::machine_frame(page).unwrap_or(0)
            }
            Frame::Foreign(seed) => {
                let frame = u64::from(seed) % (self.last_frame + 1);
                (frame..frame + 64).find(|frame| !self.is_own(*frame)).unwrap_or(0)
            }
            Frame::At(frame) => frame,
            Frame::Past(after) => self.last_frame + 1 + u64::from(after),
        }
    }

    /// Whether a frame is the guest's; its machine-to-physical entry does not tell, because
    /// programs may change it.
    fn is_own(&self, frame: u64) -> bool {
        self.own.binary_search(&frame).is_ok()
    }

    fn word(&self, cpu: usize, word: Word) -> u64 {
        match word {
            Word::Number(value) => value,
            Word::FrameNumber(frame) => self.frame(frame),
            Word::Entry(frame, bits) => (self.frame(frame) << 12) ^ bits,
            Word::EntryOf(page, bits) => self.entry_place(page) ^ bits,
            Word::Address(place, offset) => {
                let address = match place {
                    Place::Page(page) => self.address(page),
                    Place::Shared => memory::shared_address(),
                    Place::Grants => GRANTS.address(),
                    Place::Stack => TRAPS[cpu].address(),
                    Place::At(address) => address,
                };
                address.wrapping_add_signed(offset.into())
            }
            Word::Memory(offset) => MEMORY[cpu].address() + u64::from(offset),
            Word::Batch => LIST,
            Word::Time(after) => time::now().wrapping_add_signed(after),
            Word::Own(shift, bits) => (self.number << shift) ^ bits,
        }
    }

    /// Executes a step on the actor's virtual CPU.
    pub fn perform(&self, actor: &mut Actor, step: &Step) -> Outcome {
        let cpu = actor.cpu;
        if step.may_wait_later() || step.may_wait() && !(cpu == 0 && self.start_clock()) {
            return Outcome::Returned(0);
        }
        // A list may take too long, so the clock is started. A list of the other virtual CPU is
        // ended by an NMI instead.
        if cpu == 0 && matches!(step, Step::Batch(_)) && !self.start_clock() {
            return Outcome::Returned(0);
        }
        match step {
            Step::Tables => Outcome::Returned(u64::from(!self.make_tables())),
            Step::Call { number, args, memory } => self.call(actor, *number, *args, memory),
            Step::Code { code, user, registers } => {
                let bytes = CODES.get(usize::from(*code)).map_or(&[][..], |code| code.1);
                self.code(cpu, bytes, *user, *registers)
            }
            Step::Store { how, address, value } => {
                let bytes = STORES.get(usize::from(*how)).map_or(&[][..], |store| store.1);
                let mut registers = [Word::default(); 6];
                (registers[0], registers[5]) = (*value, *address);
                self.code(cpu, bytes, false, registers)
            }
            Step::Grant { index, entry } => self.grant(*index, self.word(cpu, *entry)),
            Step::Iret(frame) => {
                let mut frame = frame.map(|word| self.word(cpu, word));
                // CPUs drop the upper half of an address in 32-bit code. QEMU 7.2 keeps it, and
                // crashes when a breakpoint is met there.
                if frame[5] as u16 | 3 == FLAT_RING3_CS32 {
                    frame[4] &= 0xffff_ffff;
                }
                iret(cpu, &frame, [0; 8])
            }
            Step::Requests(requests) => Outcome::Returned(actor.store.perform(requests)),
            Step::Batch(batch) => self.batch(actor, batch),
        }
    }

    /// Writes an entry of the grant table.
    fn grant(&self, index: u16, entry: u64) -> Outcome {
        let page = (entry >> 32) as u8;
        let frame = if entry >> 32 < u64::from(PAGES) {
            self.frame(Frame::Page(page))
        } else {
            entry >> 32
        };
        // A program may have removed the mapping.
        let writable = PTE_PRESENT | PTE_RW;
        if Self::entry_at(GRANTS.address()) & writable == writable {
            GRANTS.write(usize::from(index) % 512, &[entry & 0xffff_ffff | frame << 32]);
        }
        Outcome::Returned(0)
    }

    fn call(&self, actor: &mut Actor, number: u64, args: [Word; 5], memory: &[Word]) -> Outcome {
        let cpu = actor.cpu;
        let words: Vec<u64> = memory.iter().map(|word| self.word(cpu, *word)).collect();
        // Words read beyond the step's own are no valid call and no address.
        MEMORY[cpu].write(0, &[u64::MAX; STEP_WORDS]);
        MEMORY[cpu].write(0, &words);
        let mut registers = Registers::default();
        registers.words[0] = number;
        for (register, word) in ARGUMENTS.into_iter().zip(args) {
            registers.words[register] = self.word(cpu, word);
        }
        let outcome = attempt(cpu, Way::Call, &registers);
        if number == number::GRANT_TABLE_OP && args[0] == Word::Number(0) {
            let (list, count) = match args[1] {
                Word::Batch => (&BATCH.words()[..], 8),
                _ => (&MEMORY[cpu].words()[..], memory.len() / 4),
            };
            actor.note_mapped(list, count);
        }
        outcome
    }

    /// Fills the list with the words of a batch and makes the call.
    fn batch(&self, actor: &mut Actor, batch: &Batch) -> Outcome {
        let mut pattern = [0; PATTERN_WORDS];
        let count = batch.pattern.len().clamp(1, PATTERN_WORDS);
        for (to, word) in pattern.iter_mut().zip(&batch.pattern) {
            *to = self.word(actor.cpu, *word);
        }
        for at in (0..LIST_PAGES * 512).step_by(count) {
            BATCH.write(at, &pattern[..count]);
        }
        self.call(actor, batch.number, batch.args, &batch.memory)
    }

    fn code(&self, cpu: usize, bytes: &[u8], user: bool, registers: [Word; 6]) -> Outcome {
        // The code returns to the kernel, or ends by a system call.
        let end: &[u8] = if user { &[0x0f, 0x05, 0x0f, 0x0b] } else { &[0xc3] };
        let mut code = [0_u8; 64];
        for (to, from) in code.iter_mut().zip(bytes.iter().chain(end)) {
            *to = *from;
        }
        let (words, _) = code.as_chunks::<8>();
        for (at, word) in words.iter().enumerate() {
            CODE[cpu].write(at, &[u64::from_le_bytes(*word)]);
        }
        let mut all = [0; 8];
        for (to, word) in all.iter_mut().zip(registers) {
            *to = self.word(cpu, word);
        }
        let place = CODE[cpu].address();
        if user {
            let (cs, ss) = (FLAT_RING3_CS64.into(), FLAT_RING3_SS.into());
            let stack = self.address(7) + 2048;
            let frame = [all[0], 0, all[1], 0, place, cs, 0x202, stack, ss];
            return iret(cpu, &frame, all);
        }
        attempt(cpu, Way::Code, &Registers { words: all, place })
    }

    /// Whether the guest's record of its frames is unchanged since its start. If a program wrote
    /// over the record, the guest cannot judge escapes.
    pub fn knows_its_frames(&self) -> bool {
        self.digest() == self.known
    }

    /// Returns a digest of the guest's record of its frames and of the addresses by which it finds
    /// its tables.
    fn digest(&self) -> u64 {
        let start = memory::start();
        let found = [start.nr_pages, start.shared_info, start.pt_base, start.mfn_list];
        let all = found.iter().chain([&self.grant_frame]).chain(&self.own);
        all.fold(self.own.len() as u64, |digest, word| mix(digest, *word))
    }

    /// The first evidence, if any, that a page of the stage shows memory that is not the guest's.
    pub fn escaped(&self) -> Option<String> {
        let start = memory::start();
        (0..PAGES).find_map(|page| {
            let entry = self.entry(page);
            let frame = (entry & PTE_ADDRESS) / PAGE;
            let shared = frame == start.shared_info / PAGE
                || (self.grant_frame..self.grant_frame + 64).contains(&frame);
            let allowed = entry & PTE_PRESENT == 0 || shared || self.is_own(frame);
            (!allowed).then(|| format!("page {page} is mapped by {entry:#x}"))
        })
    }
}

impl Actor {
    /// The actor of a virtual CPU.
    pub fn new(cpu: usize) -> Self {
        let store = if cpu == 0 { StoreLine::open() } else { StoreLine::default() };
        Self { cpu: cpu % CPUS, mapped: Vec::new(), store }
    }

    /// Restores the state of this virtual CPU. Runs on that virtual CPU.
    pub fn restore(&mut self) {
        let cpu = self.cpu;
        register_traps(cpu).expect("set_trap_table");
        let [event, system_call, failsafe] = entries(cpu);
        calls::register_upcall(event);
        for (kind, address) in [(CALLBACK_SYSCALL, system_call), (CALLBACK_FAILSAFE, failsafe)] {
            calls::register_callback(kind, address).expect("a callback");
        }
        let root = memory::machine_frame((memory::start().pt_base - BASE) / PAGE).unwrap_or(0);
        extended(mmu::EXT_NEW_BASEPTR, root, 0);
        // User mode gets the kernel's address space, because the question is what user mode may do
        // in it.
        extended(mmu::EXT_NEW_USER_BASEPTR, root, 0);
        extended(mmu::EXT_SET_LDT, 0, 0);
        plain(number::SET_GDT, [MEMORY[cpu].address(), 0, 0, 0, 0]);
        let stack = TRAPS[cpu].address() + 8192;
        plain(number::STACK_SWITCH, [FLAT_RING3_SS.into(), stack, 0, 0, 0]);
        plain(number::FPU_TASKSWITCH, [0; 5]);
        for register in [7, 0, 1, 2, 3] {
            plain(number::SET_DEBUGREG, [register, 0, 0, 0, 0]);
        }
        let area = [RUNSTATE[cpu].address(), 0];
        let (place, vcpu) = (area.as_ptr() as u64, cpu as u64);
        plain(number::VCPU_OP, [vcpu::REGISTER_RUNSTATE_MEMORY_AREA, vcpu, place, 0, 0]);
        plain(number::VCPU_OP, [vcpu::REGISTER_VCPU_TIME_MEMORY_AREA, vcpu, place + 8, 0, 0]);
        plain(number::VCPU_OP, [vcpu::STOP_PERIODIC_TIMER, vcpu, 0, 0, 0]);
        if cpu != 0 {
            plain(number::SET_TIMER_OP, [0; 5]);
        }
        self.unmap_grants();
    }

    /// Notes the mappings that a call on grants made, from the operations it left.
    fn note_mapped(&mut self, list: &[AtomicU64], count: usize) {
        for operation in list.chunks_exact(4).take(count.min(8)) {
            let [place, _, status, _] = operation else { return };
            let status = status.load(Ordering::Relaxed);
            if (status >> 16) as u16 == 0 {
                let handle = (status >> 32) as u32;
                self.mapped.push(Mapped { place: place.load(Ordering::Relaxed), handle });
            }
        }
    }

    /// Removes the grant mappings of programs.
    fn unmap_grants(&mut self) {
        for mapped in self.mapped.drain(..) {
            let mut unmap = UnmapGrantRef::new_zeroed();
            (unmap.host_addr, unmap.handle) = (mapped.place, mapped.handle);
            let arguments = [grants::UNMAP_GRANT_REF, (&raw mut unmap) as u64, 1, 0, 0];
            plain(number::GRANT_TABLE_OP, arguments);
        }
    }
}

/// Executes a step, then restarts the second virtual CPU, which may have held the heap's lock.
fn attempt(cpu: usize, way: Way, registers: &Registers) -> Outcome {
    let outcome = attempt::attempt(cpu, way, registers);
    if cpu == 0 {
        other::revive();
    }
    outcome
}

/// Makes the `iret` call with a frame.
fn iret(cpu: usize, frame: &[u64; 9], words: [u64; 8]) -> Outcome {
    const AT: usize = 400;
    FRAMES[cpu].write(AT, frame);
    let place = FRAMES[cpu].address() + AT as u64 * 8;
    attempt(cpu, Way::Iret, &Registers { words, place })
}

fn maximum_frame() -> u64 {
    // SAFETY: touches no memory.
    unsafe { call(number::MEMORY_OP, [pv_abi::xen::memory::MAXIMUM_RAM_PAGE, 0, 0, 0, 0]) }
        .unwrap_or(0)
}
