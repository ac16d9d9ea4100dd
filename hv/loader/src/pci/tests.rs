use std::cell::RefCell;
use std::collections::BTreeMap;

use super::*;

/// A function whose registers behave as the specification says.
#[derive(Clone)]
struct Fake {
    words: [u32; 64],
    /// The bits of each BAR that can be written.
    masks: [u32; BARS],
}

impl Fake {
    fn new(class: u32) -> Self {
        let mut fake = Self { words: [0; 64], masks: [0; BARS] };
        fake.set(0, 0x1001_1af4);
        fake.set(CLASS, class << 24);
        fake.set(COMMAND, 0x0007);
        fake
    }

    fn set(&mut self, offset: u16, value: u32) {
        self.words[usize::from(offset / 4)] = value;
    }

    fn bar(mut self, index: usize, value: u32, mask: u32) -> Self {
        self.set(FIRST_BAR + 4 * index as u16, value);
        self.masks[index] = mask;
        self
    }

    /// Adds capabilities, each with its words, from offset 40h on, 16 bytes apart.
    fn with_capabilities(mut self, capabilities: &[&[u32]]) -> Self {
        self.set(COMMAND, 0x0007 | HAS_CAPABILITIES);
        self.set(CAPABILITIES, 0x40);
        for (index, words) in capabilities.iter().enumerate() {
            let offset = 0x40 + 16 * index as u16;
            let next = if index + 1 < capabilities.len() { u32::from(offset) + 16 } else { 0 };
            self.set(offset, words[0] | next << 8);
            for (word, value) in (1..).zip(&words[1..]) {
                self.set(offset + 4 * word, *value);
            }
        }
        self
    }
}

#[derive(Default)]
struct Machine {
    functions: RefCell<BTreeMap<u32, Fake>>,
}

impl Configuration for Machine {
    fn read(&self, function: u32, offset: u16) -> u32 {
        let functions = self.functions.borrow();
        functions.get(&function).map_or(ABSENT, |fake| fake.words[usize::from(offset / 4)])
    }

    fn write(&self, function: u32, offset: u16, value: u32) {
        let mut functions = self.functions.borrow_mut();
        let fake = functions.get_mut(&function).expect("only functions that exist are written");
        assert!(!is_bridge(fake), "bridges are left as they are");
        let index = usize::from(offset / 4);
        let old = fake.words[index];
        fake.words[index] = match offset {
            COMMAND => {
                assert_eq!(value >> 16, 0, "a bit of the status register would be cleared");
                old & 0xffff_0000 | value
            }
            0x10..0x28 => {
                let command = fake.words[1];
                assert_eq!(command & (DECODING | BUS_MASTER), 0, "sized while it decodes");
                let mask = fake.masks[index - 4];
                old & !mask | value & mask
            }
            _ => value,
        };
    }
}

fn is_bridge(fake: &Fake) -> bool {
    fake.words[2] >> 24 == CLASS_BRIDGE || fake.words[3] >> 16 & 0x7f != 0
}

/// The records of the functions, and the registers afterwards.
fn enumerated(fakes: Vec<(u32, Fake)>) -> (Vec<DeviceFunction>, BTreeMap<u32, Fake>) {
    let machine = Machine { functions: RefCell::new(fakes.into_iter().collect()) };
    let mut found = Functions::new();
    enumerate(&machine, |bar| bar.address == 0xfec0_0000, &mut found);
    (found.to_vec(), machine.functions.into_inner())
}

type Vec<T> = std::vec::Vec<T>;

fn record_of(fake: Fake) -> DeviceFunction {
    enumerated(vec![(0x18, fake)]).0[0]
}

/// A BAR of 4 KiB at an address.
fn page(index: usize, address: u32) -> Fake {
    Fake::new(1).bar(index, address, 0xffff_f000)
}

#[test]
fn bars_of_all_kinds_are_sized_and_restored() {
    let fake = Fake::new(1)
        .bar(0, 0xc001, 0xffff_ff80) // ports
        .bar(1, 0xfebd_1000, 0xffff_f000)
        .bar(2, 0x0000_000c, 0)
        .bar(3, 0x0000_0008, 0xffff_fffe) // the upper half of BAR 2, 8 GiB
        .bar(4, 0xfe00_0008, 0xffff_c000);
    let (found, after) = enumerated(vec![(0x18, fake.clone())]);
    let none = Bar { address: 0, bytes: 0 };
    let expected = [
        none,
        Bar { address: 0xfebd_1000, bytes: 0x1000 },
        Bar { address: 0x8_0000_0000, bytes: 0x2_0000_0000 },
        none,
        Bar { address: 0xfe00_0000, bytes: 0x4000 },
        none,
    ];
    assert_eq!(found[0].bars, expected);
    let wide = flags::BAR_64 << 2 | flags::BAR_PREFETCHABLE << 2 | flags::BAR_PREFETCHABLE << 4;
    assert_eq!((found[0].flags, found[0].refused), (wide, 0));
    assert_eq!(after[&0x18].words[4..10], fake.words[4..10], "the BARs are restored");
    assert_eq!(after[&0x18].words[1], 0b011 | INTX_OFF, "decodes, but masters no bus");
}

#[test]
fn a_lone_half_of_a_wide_bar_is_narrow() {
    let record = record_of(Fake::new(1).bar(5, 0xfe00_0004, 0xffff_f000));
    assert_eq!(record.bars[5], Bar { address: 0xfe00_0000, bytes: 0x1000 });
}

#[test]
fn capabilities_are_recorded_and_their_interrupts_turned_off() {
    let capabilities: [&[u32]; 4] = [
        &[0x05 | MSI_ON],
        &[0x11 | MSIX_ON | 0x40 << 16, 1, 0x801],
        &[0x10, FUNCTION_RESET],
        &[0x09],
    ];
    let fake = page(1, 0xfebd_0000).bar(4, 0xfe00_0000, 0xffff_f000);
    let (found, after) = enumerated(vec![(0x18, fake.with_capabilities(&capabilities))]);
    let record = found[0];
    assert_eq!((record.msix_capability, record.msix_vectors), (0x50, 0x41));
    assert_eq!((record.msix_table, record.msix_pending), (0xfebd_0000, 0xfebd_0800));
    assert_eq!((record.express_capability, record.flags), (0x60, flags::FUNCTION_RESET));
    assert_eq!(record.refused, 0);
    let words = after[&0x18].words;
    assert_eq!((words[0x10] & MSI_ON, words[0x14] & MSIX_ON), (0, 0));
}

#[test]
fn a_list_of_capabilities_that_leads_into_itself_ends() {
    let mut fake = page(0, 0xfebd_0000).with_capabilities(&[&[0x09]]);
    fake.set(0x40, 0x4009);
    assert_eq!(record_of(fake).refused, 0);
}

#[test]
fn a_vector_table_outside_of_its_bar_is_refused() {
    for place in [0xff1, 0x1001, 0, 7] {
        let capabilities: [&[u32]; 1] = [&[0x11 | 3 << 16, place, 0x801]];
        let record = record_of(page(1, 0xfebd_0000).with_capabilities(&capabilities));
        assert_eq!(record.refused, refused::BAD_ADDRESS, "{place:#x}");
        assert_eq!((record.msix_vectors, record.msix_table), (0, 0));
    }
}

#[test]
fn a_vector_table_beside_registers_is_refused() {
    let capabilities: [&[u32]; 1] = [&[0x11, 1, 0x81]];
    let small = |index, address| {
        let fake = Fake::new(1).bar(1, 0xfebd_0000, 0xffff_ff00);
        record_of(fake.bar(index, address, 0xffff_ff00).with_capabilities(&capabilities)).refused
    };
    assert_eq!(small(2, 0xfebd_0100), refused::TABLE_BESIDE_REGISTERS);
    assert_eq!(small(2, 0xfebd_1000), 0);
}

#[test]
fn pages_of_two_functions_are_refused_to_both() {
    let small = |address| Fake::new(1).bar(0, address, 0xffff_ff00);
    let fakes = vec![(0x08, small(0xfebd_0000)), (0x10, page(0, 0xfebe_0000))];
    let (found, _) = enumerated([fakes, vec![(0x18, small(0xfebd_0f00))]].concat());
    let reasons: Vec<_> = found.iter().map(|record| record.refused).collect();
    assert_eq!(reasons, [refused::SHARED_PAGE, 0, refused::SHARED_PAGE]);
}

#[test]
fn bridges_are_left_alone_and_no_partition_gets_them() {
    let mut header = Fake::new(1);
    header.set(HEADER_TYPE, 0x0001_0000);
    let (found, after) = enumerated(vec![(0x08, header), (0x10, Fake::new(CLASS_BRIDGE))]);
    assert!(found.iter().all(|r| r.refused == refused::BRIDGE && r.flags == flags::BRIDGE));
    assert!(after.values().all(|fake| fake.words[1] == 0x0007));
}

#[test]
fn functions_without_usable_memory_are_refused() {
    assert_eq!(record_of(Fake::new(1).bar(0, 0xc001, 0xffff_ff80)).refused, refused::NO_MEMORY);
    let strange = Fake::new(1).bar(0, 0xfebd_0000, 0xffff_9000);
    for fake in [page(0, 0xfec0_0000), strange] {
        assert_eq!(record_of(fake).refused, refused::BAD_ADDRESS);
    }
}

#[test]
fn only_devices_of_several_functions_are_searched_for_more() {
    let mut several = page(0, 0xfebd_0000);
    several.set(HEADER_TYPE, SEVERAL_FUNCTIONS);
    let others = [(0x0d, page(0, 0xfebe_0000)), (0x10, page(0, 0xfebf_0000))];
    let unseen = (0x11, page(0, 0xfeba_0000));
    let fakes = [(0x08, several)].into_iter().chain(others).chain([unseen]).collect();
    let addresses: Vec<_> = enumerated(fakes).0.iter().map(|record| record.address).collect();
    assert_eq!(addresses, [0x08, 0x0d, 0x10]);
}
