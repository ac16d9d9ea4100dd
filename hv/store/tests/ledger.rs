//! Compares the ledger with the allocator: the bytes counted for clients are at least those in use.

#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use proptest::prelude::*;
use store::{Path, Permissions, Store, home, limits};

/// Counts the allocations of each thread, like an allocator with chunks of 16 bytes and a header
/// word before each.
struct Counting;

thread_local! {
    static IN_USE: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(layout: Layout, sign: isize) {
    let size = (layout.size() + 8).next_multiple_of(16).max(32) as isize;
    let _ = IN_USE.try_with(|bytes| {
        bytes.set(bytes.get() + sign * size);
        let _ = MOST.try_with(|most| most.set(most.get().max(bytes.get())));
    });
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: the system's allocator keeps the contract, and gets the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout, 1);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(layout, -1);
        // SAFETY: as above.
        unsafe { System.dealloc(place, layout) };
    }
}

const SERVER: u32 = 1;
const CLIENTS: [u32; 3] = [3, 16, 17];
const BUDGET: usize = 1 << 20;

/// A store, and its bytes by the allocator.
struct Measured {
    store: Store,
    bytes: isize,
    most: isize,
}

impl Measured {
    fn new() -> Self {
        let mut store = None;
        let bytes = used(|| store = Some(Store::new(SERVER, BUDGET))).0;
        let store = store.unwrap();
        let mut measured = Self { store, bytes, most: bytes };
        for client in CLIENTS {
            let home = Path::new(&home(client)).unwrap();
            measured.act(|store| {
                store.make(&home, &Permissions::private(client)).unwrap();
                store.connect(client, client == CLIENTS[0]);
            });
        }
        measured
    }

    fn act(&mut self, act: impl FnOnce(&mut Store)) {
        let store = &mut self.store;
        let (bytes, most) = used(|| act(store));
        self.most = self.most.max(self.bytes + most);
        self.bytes += bytes;
    }

    fn request(&mut self, client: u32, kind: u32, transaction: u32, payload: &[u8]) {
        let bytes = request(kind, transaction, payload);
        self.act(|store| {
            // Refused requests count as well.
            let _ = store.feed(client, &bytes);
        });
    }

    fn read(&mut self, client: u32, bytes: usize) {
        self.act(|store| store.sent(client, bytes));
    }

    fn holds(&self) -> bool {
        self.store.bytes() as isize >= self.bytes
    }
}

/// The bytes that `act` leaves in use, and the most in between.
fn used(act: impl FnOnce()) -> (isize, isize) {
    let before = IN_USE.get();
    MOST.set(before);
    act();
    (IN_USE.get() - before, MOST.get() - before)
}

fn request(kind: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
    let words = [kind, 77, transaction, payload.len() as u32];
    let head = words.iter().flat_map(|word| word.to_le_bytes());
    head.chain(payload.iter().copied()).collect()
}

const WATCH: u32 = 4;
const BEGIN: u32 = 6;
const END: u32 = 7;
const WRITE: u32 = 11;
const MKDIR: u32 = 12;
const RM: u32 = 13;
const SET_PERMS: u32 = 14;

/// A client writes 2 KiB 10,000 times, always to the same node, in a transaction that stays open.
#[test]
fn a_transaction_keeps_a_node_once() {
    let mut measured = Measured::new();
    measured.request(3, BEGIN, 0, b"\0");
    let payload = [b"data/x\0".as_slice(), &[b'x'; limits::VALUE]].concat();
    for _ in 0..10_000 {
        measured.request(3, WRITE, 1, &payload);
        measured.read(3, 100);
    }
    assert!(measured.store.bytes_of(3) < 8 * 1024, "{}", measured.store.bytes_of(3));
    assert!(measured.holds());
    measured.request(3, END, 1, b"T\0");
    let node = Path::new("/local/domain/3/data/x").unwrap();
    assert_eq!(measured.store.read(&node).map(<[u8]>::len), Some(limits::VALUE));
}

/// Clients that take all they can get stay within the budget, and the next client is still served.
#[test]
fn greedy_clients_leave_room_for_others() {
    let mut measured = Measured::new();
    for client in [3, 16] {
        for node in 0..2000 {
            let payload = [format!("n/{node}\0").as_bytes(), &[b'x'; limits::VALUE]].concat();
            measured.request(client, WRITE, 0, &payload);
            measured.read(client, 100);
        }
        for watch in 0..200 {
            measured.request(client, WATCH, 0, format!("w/{watch}\0t\0").as_bytes());
            measured.read(client, 100);
        }
        for transaction in 1..=10 {
            measured.request(client, BEGIN, 0, b"\0");
            for node in 0..200 {
                let payload = [format!("t/{node}\0").as_bytes(), &[b'x'; limits::VALUE]].concat();
                measured.request(client, WRITE, transaction, &payload);
                measured.read(client, 100);
            }
        }
    }
    assert!(measured.holds(), "{} counted, {} used", measured.store.bytes(), measured.bytes);
    assert!(measured.most < BUDGET as isize, "{}", measured.most);
    let payload = [b"data/x\0".as_slice(), &[b'x'; limits::VALUE]].concat();
    measured.request(17, WRITE, 0, &payload);
    let node = Path::new("/local/domain/17/data/x").unwrap();
    assert_eq!(measured.store.read(&node).map(<[u8]>::len), Some(limits::VALUE));
}

/// A client that reads nothing, and watches what another changes, has bounded output.
#[test]
fn events_that_nobody_reads_are_bounded() {
    let mut measured = Measured::new();
    for watch in 0..limits::WATCHES {
        measured.request(3, WATCH, 0, format!("/local/domain/16\0token-{watch}\0").as_bytes());
        measured.read(3, 200);
    }
    measured.request(16, SET_PERMS, 0, b"/local/domain/16\0r16\0");
    for round in 0..5_000 {
        let node = format!("{}/{}\0x", "n".repeat(round % 200 + 1), round % 7);
        measured.request(16, WRITE, 0, node.as_bytes());
        measured.read(16, 1000);
    }
    assert!(measured.holds(), "{} counted, {} used", measured.store.bytes(), measured.bytes);
    assert!(measured.most < BUDGET as isize, "{}", measured.most);
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let path = prop_oneof![
        "[a-c]{1,2}(/[a-c]{1,3}){0,4}",
        "/local/domain/(3|16|17)(/[a-c]{1,2}){0,4}",
        "[a-c]{1,400}(/[a-c]{1,200}){0,2}",
    ];
    let rest = prop_oneof![
        Just(b"\0".to_vec()),
        "\0[a-z]{0,600}".prop_map(String::into_bytes),
        "\0[a-z]{0,20}\0".prop_map(String::into_bytes),
        "\0[nrwb](3|16|17)\0(b(3|16|17)\0){0,12}".prop_map(String::into_bytes),
    ];
    prop_oneof![
        8 => (path, rest).prop_map(|(path, rest)| [path.into_bytes(), rest].concat()),
        1 => Just(b"T\0".to_vec()),
        1 => Just(b"\0".to_vec()),
    ]
}

fn kind() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => Just(WRITE), 2 => Just(WATCH), 2 => Just(SET_PERMS), 2 => Just(BEGIN), 1 => Just(END),
        1 => Just(RM), 1 => Just(MKDIR), 2 => 0..24u32
    ]
}

proptest! {
    #[test]
    fn the_ledger_counts_at_least_what_there_is(
        requests in prop::collection::vec(
            (prop::sample::select(&CLIENTS), kind(), 0..3u32, payload(), 0..600usize), 1..100),
        gone in any::<bool>(),
    ) {
        let mut measured = Measured::new();
        for (client, kind, transaction, payload, read) in requests {
            measured.request(client, kind, transaction, &payload);
            measured.read(client, read);
            prop_assert!(
                measured.holds(), "{} counted, {} used", measured.store.bytes(), measured.bytes
            );
        }
        if gone {
            measured.act(|store| {
                let home = Path::new(&home(16)).unwrap();
                store.disconnect(16);
                store.remove(&home).unwrap();
                store.purge(16);
            });
            prop_assert_eq!(measured.store.bytes_of(16), 0);
            prop_assert_eq!(measured.store.nodes_of(16), 0);
            prop_assert!(measured.holds());
        }
    }
}
