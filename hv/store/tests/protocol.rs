//! The store as a kernel's xenbus uses it: scenarios on the wire, and hostile bytes.

use proptest::prelude::*;
use store::{Fault, Path, Permissions, Store, home, limits};

const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const GET_PERMS: u32 = 3;
const WATCH: u32 = 4;
const UNWATCH: u32 = 5;
const BEGIN: u32 = 6;
const END: u32 = 7;
const GET_DOMAIN_PATH: u32 = 10;
const WRITE: u32 = 11;
const MKDIR: u32 = 12;
const RM: u32 = 13;
const SET_PERMS: u32 = 14;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;
const DIRECTORY_PART: u32 = 22;

const SERVER: u32 = 1;
const ALICE: u32 = 3;
const BOB: u32 = 16;

fn path(text: &str) -> Path {
    Path::new(text).unwrap()
}

fn store() -> Store {
    let mut store = Store::new(SERVER, 8 << 20);
    for partition in [ALICE, BOB] {
        store.make(&path(&home(partition)), &Permissions::private(partition)).unwrap();
        store.connect(partition, partition == ALICE);
    }
    store
}

fn request(kind: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [kind, 77, transaction, payload.len() as u32] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// Takes all messages that wait for a client, as pairs of type and payload.
fn messages(store: &mut Store, partition: u32) -> Vec<(u32, String)> {
    let output = store.output(partition).to_vec();
    store.sent(partition, output.len());
    let mut rest = output.as_slice();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let word = |i: usize| u32::from_le_bytes(rest[i * 4..i * 4 + 4].try_into().unwrap());
        let (kind, length) = (word(0), word(3) as usize);
        all.push((kind, String::from_utf8_lossy(&rest[16..16 + length]).into_owned()));
        rest = &rest[16 + length..];
    }
    all
}

/// Sends a request and returns the one message that answers it.
fn ask(store: &mut Store, who: u32, kind: u32, transaction: u32, payload: &str) -> (u32, String) {
    let bytes = request(kind, transaction, payload.as_bytes());
    assert_eq!(store.feed(who, &bytes), Ok(bytes.len()));
    let mut all = messages(store, who);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn ok(store: &mut Store, who: u32, kind: u32, payload: &str) -> String {
    let (answered, text) = ask(store, who, kind, 0, payload);
    assert_eq!(answered, kind, "{text}");
    text
}

fn refused(store: &mut Store, who: u32, kind: u32, payload: &str) -> String {
    let (answered, text) = ask(store, who, kind, 0, payload);
    assert_eq!(answered, ERROR, "{text}");
    text
}

#[test]
fn values_are_read_back_and_directories_listed() {
    let mut store = store();
    assert_eq!(ok(&mut store, ALICE, WRITE, "control/feature-poweroff\x001"), "OK\0");
    assert_eq!(ok(&mut store, ALICE, READ, "control/feature-poweroff\0"), "1");
    assert_eq!(ok(&mut store, ALICE, READ, "/local/domain/3/control/feature-poweroff\0"), "1");
    ok(&mut store, ALICE, MKDIR, "control/b\0");
    assert_eq!(ok(&mut store, ALICE, DIRECTORY, "control\0"), "b\0feature-poweroff\0");
    assert_eq!(ok(&mut store, ALICE, RM, "control\0"), "OK\0");
    assert_eq!(refused(&mut store, ALICE, DIRECTORY, "control\0"), "ENOENT\0");
    assert_eq!(ok(&mut store, ALICE, RM, "control\0"), "OK\0");
    assert_eq!(ok(&mut store, ALICE, GET_DOMAIN_PATH, "16\0"), "/local/domain/16\0");
    assert_eq!(ok(&mut store, ALICE, GET_PERMS, "/local/domain/3\0"), "n3\0");
}

#[test]
fn a_partition_sees_its_home_and_what_it_was_shown() {
    let mut store = store();
    let back = path("/local/domain/1/backend/console/3/1");
    store.make(&back, &Permissions::readable_by(SERVER, ALICE)).unwrap();
    store.write(&path("/local/domain/1/backend/console/3/1/state"), b"2").unwrap();
    let state = "/local/domain/1/backend/console/3/1/state\0";
    assert_eq!(ok(&mut store, ALICE, READ, state), "2");
    assert_eq!(refused(&mut store, ALICE, WRITE, &format!("{state}4")), "EACCES\0");
    assert_eq!(refused(&mut store, BOB, READ, state), "EACCES\0");
    assert_eq!(refused(&mut store, BOB, READ, "/local/domain/3\0"), "EACCES\0");
    assert_eq!(refused(&mut store, BOB, RM, "/local/domain/3\0"), "EACCES\0");
    assert_eq!(refused(&mut store, BOB, DIRECTORY, "/\0"), "EACCES\0");
    assert_eq!(refused(&mut store, BOB, WRITE, "/tool/x\x001"), "EACCES\0");
    ok(&mut store, ALICE, WRITE, "data/x\x001");
    ok(&mut store, ALICE, SET_PERMS, "data/x\0n3\0r16\0");
    assert_eq!(ok(&mut store, BOB, READ, "/local/domain/3/data/x\0"), "1");
    assert_eq!(refused(&mut store, ALICE, SET_PERMS, "data/x\0n16\0"), "EACCES\0");
    assert_eq!(refused(&mut store, BOB, SET_PERMS, "/local/domain/3/data/x\0b16\0"), "EACCES\0");
}

#[test]
fn a_made_node_is_one_change_and_has_its_permissions() {
    let mut store = store();
    store.feed(ALICE, &request(WATCH, 0, b"device\0token\0")).unwrap();
    messages(&mut store, ALICE);
    let node = path("/local/domain/3/device/new/1");
    store.make(&node, &Permissions::readable_by(SERVER, ALICE)).unwrap();
    let event = |name: &str| (WATCH_EVENT, format!("{name}\0token\0"));
    assert_eq!(messages(&mut store, ALICE), [event("device/new/1")]);
    assert_eq!(ok(&mut store, ALICE, GET_PERMS, "device/new/1\0"), "n1\0r3\0");
    assert_eq!(ok(&mut store, ALICE, GET_PERMS, "device/new\0"), "n3\0");
    // A node that exists keeps its value and gets the permissions.
    store.write(&node, b"7").unwrap();
    store.make(&node, &Permissions::private(ALICE)).unwrap();
    assert_eq!(messages(&mut store, ALICE), [event("device/new/1"), event("device/new/1")]);
    assert_eq!(ok(&mut store, ALICE, GET_PERMS, "device/new/1\0"), "n3\0");
    assert_eq!(ok(&mut store, ALICE, READ, "device/new/1\0"), "7");
}

#[test]
fn paths_have_names_between_single_slashes() {
    for good in ["/", "/a", "/a/b-_@9", "/A/b/c"] {
        assert_eq!(Path::new(good).unwrap().as_str(), good);
    }
    for bad in ["", "a", "//", "/a/", "/a//b", "/a b", "/a/b.c", "/\0", "/é"] {
        assert!(Path::new(bad).is_err(), "{bad:?}");
    }
    let deep = "/a".repeat(limits::DEPTH);
    assert!(Path::new(&deep).is_ok());
    assert!(Path::new(&format!("{deep}/a")).is_err());
}

#[test]
fn a_watch_tells_once_at_once_and_then_of_changes() {
    let mut store = store();
    let bytes = request(WATCH, 0, b"device\0token\0");
    store.feed(ALICE, &bytes).unwrap();
    let all = messages(&mut store, ALICE);
    assert_eq!(all[0], (WATCH, "OK\0".into()));
    assert_eq!(all[1], (WATCH_EVENT, "device\0token\0".into()));
    store.write(&path("/local/domain/3/device/console/1/state"), b"1").unwrap();
    let told = messages(&mut store, ALICE);
    assert_eq!(told, [(WATCH_EVENT, "device/console/1/state\0token\0".into())]);
    store.write(&path("/local/domain/3/devices"), b"").unwrap();
    assert_eq!(messages(&mut store, ALICE), []);
    assert_eq!(refused(&mut store, ALICE, WATCH, "device\0token\0"), "EEXIST\0");
    ok(&mut store, ALICE, UNWATCH, "device\0token\0");
    assert_eq!(refused(&mut store, ALICE, UNWATCH, "device\0token\0"), "ENOENT\0");
    store.write(&path("/local/domain/3/device/x"), b"").unwrap();
    assert_eq!(messages(&mut store, ALICE), []);
}

#[test]
fn watches_with_absolute_paths_and_special_names() {
    let mut store = store();
    for (watch, told) in [
        ("/local/domain/3/a\0t\0", "/local/domain/3/a\0t\0"),
        ("@releaseDomain\0t\0", "@releaseDomain\0t\0"),
    ] {
        store.feed(ALICE, &request(WATCH, 0, watch.as_bytes())).unwrap();
        assert_eq!(messages(&mut store, ALICE)[1], (WATCH_EVENT, told.into()));
    }
    assert_eq!(refused(&mut store, ALICE, WATCH, "@other\0t\0"), "EINVAL\0");
    store.disconnect(BOB);
    assert_eq!(messages(&mut store, ALICE), [(WATCH_EVENT, "@releaseDomain\0t\0".into())]);
}

#[test]
fn removing_a_tree_tells_those_who_watch_inside_it() {
    let mut store = store();
    ok(&mut store, ALICE, WRITE, "a/b/c\x001");
    store.feed(ALICE, &request(WATCH, 0, b"a/b/c\0t\0")).unwrap();
    messages(&mut store, ALICE);
    store.feed(ALICE, &request(RM, 0, b"a\0")).unwrap();
    let all = messages(&mut store, ALICE);
    assert!(all.contains(&(WATCH_EVENT, "a/b/c\0t\0".into())), "{all:?}");
}

#[test]
fn nobody_is_told_of_what_it_may_not_read() {
    let mut store = store();
    for watch in ["/\0t\0", "/local/domain/3\0t\0"] {
        store.feed(BOB, &request(WATCH, 0, watch.as_bytes())).unwrap();
    }
    messages(&mut store, BOB);
    ok(&mut store, ALICE, WRITE, "secret\0x");
    ok(&mut store, ALICE, RM, "secret\0");
    assert_eq!(messages(&mut store, BOB), []);
}

#[test]
fn a_transaction_is_seen_by_others_only_when_it_ends() {
    let mut store = store();
    let number: u32 = ok(&mut store, ALICE, BEGIN, "\0").trim_end_matches('\0').parse().unwrap();
    assert_eq!(ask(&mut store, ALICE, WRITE, number, "ring-ref\08").1, "OK\0");
    assert_eq!(ask(&mut store, ALICE, READ, number, "ring-ref\0").1, "8");
    assert_eq!(refused(&mut store, ALICE, READ, "ring-ref\0"), "ENOENT\0");
    assert_eq!(ask(&mut store, ALICE, END, number, "T\0"), (END, "OK\0".into()));
    assert_eq!(ok(&mut store, ALICE, READ, "ring-ref\0"), "8");
    assert_eq!(ask(&mut store, ALICE, END, number, "T\0"), (ERROR, "ENOENT\0".into()));
}

#[test]
fn a_transaction_that_met_a_change_is_done_again() {
    let mut store = store();
    ok(&mut store, ALICE, WRITE, "a\x001");
    let number: u32 = ok(&mut store, ALICE, BEGIN, "\0").trim_end_matches('\0').parse().unwrap();
    assert_eq!(ask(&mut store, ALICE, READ, number, "a\0").1, "1");
    assert_eq!(ask(&mut store, ALICE, WRITE, number, "b\x002").1, "OK\0");
    store.write(&path("/local/domain/3/a"), b"3").unwrap();
    assert_eq!(ask(&mut store, ALICE, END, number, "T\0"), (ERROR, "EAGAIN\0".into()));
    assert_eq!(refused(&mut store, ALICE, READ, "b\0"), "ENOENT\0");
    // A change elsewhere causes no conflict.
    let number: u32 = ok(&mut store, ALICE, BEGIN, "\0").trim_end_matches('\0').parse().unwrap();
    assert_eq!(ask(&mut store, ALICE, WRITE, number, "b\x002").1, "OK\0");
    store.write(&path("/local/domain/3/a"), b"4").unwrap();
    assert_eq!(ask(&mut store, ALICE, END, number, "T\0"), (END, "OK\0".into()));
    assert_eq!(ok(&mut store, ALICE, READ, "a\0"), "4");
    assert_eq!(ok(&mut store, ALICE, READ, "b\0"), "2");
}

#[test]
fn a_large_directory_comes_in_parts() {
    let mut store = store();
    let names: Vec<_> = (0..900).map(|n| format!("name-{n:03}")).collect();
    for name in &names {
        store.write(&path(&format!("/local/domain/3/d/{name}")), b"").unwrap();
    }
    assert_eq!(refused(&mut store, ALICE, DIRECTORY, "d\0"), "E2BIG\0");
    let (mut offset, mut all) = (0, String::new());
    loop {
        let part = ok(&mut store, ALICE, DIRECTORY_PART, &format!("d\0{offset}\0"));
        let (_, rest) = part.split_once('\0').unwrap();
        all.push_str(rest);
        offset += rest.len();
        if rest.is_empty() || rest.ends_with("\0\0") {
            break;
        }
    }
    let listed: Vec<_> = all.trim_end_matches('\0').split('\0').collect();
    assert_eq!(listed, names);
}

#[test]
fn limits_hold() {
    let mut store = store();
    let long = "x".repeat(limits::VALUE + 1);
    assert_eq!(refused(&mut store, ALICE, WRITE, &format!("v\0{long}")), "ENOSPC\0");
    let mut made = 0;
    while ask(&mut store, ALICE, MKDIR, 0, &format!("n/{made}\0")).0 != ERROR {
        made += 1;
    }
    assert_eq!(store.nodes_of(ALICE), limits::NODES);
    assert_eq!(refused(&mut store, ALICE, MKDIR, "more\0"), "ENOSPC\0");
    ok(&mut store, BOB, MKDIR, "more\0");
    ok(&mut store, ALICE, RM, "n\0");
    assert_eq!(store.nodes_of(ALICE), 1);
    for n in 0..limits::WATCHES {
        store.feed(ALICE, &request(WATCH, 0, format!("w{n}\0t\0").as_bytes())).unwrap();
        messages(&mut store, ALICE);
    }
    assert_eq!(refused(&mut store, ALICE, WATCH, "w\0t\0"), "ENOSPC\0");
    for _ in 0..limits::TRANSACTIONS {
        ok(&mut store, ALICE, BEGIN, "\0");
    }
    assert_eq!(refused(&mut store, ALICE, BEGIN, "\0"), "ENOSPC\0");
}

#[test]
fn a_client_that_does_not_read_is_not_listened_to() {
    let mut store = store();
    ok(&mut store, ALICE, WRITE, &format!("v\0{}", "x".repeat(limits::VALUE)));
    let read = request(READ, 0, b"v\0");
    let mut fed = 0;
    while store.feed(ALICE, &read).unwrap() == read.len() {
        fed += 1;
        assert!(fed < 1000);
    }
    assert!(store.output(ALICE).len() <= limits::UNREAD + limits::VALUE + 16);
    messages(&mut store, ALICE);
    assert_eq!(store.feed(ALICE, &read), Ok(read.len()));
    assert!(!store.output(ALICE).is_empty());
}

#[test]
fn changes_by_clients_are_observed() {
    let mut store = store();
    let front = "/local/domain/3/device/console/1";
    store.observe(path(&format!("{front}/state")));
    store.write(&path(&format!("{front}/state")), b"1").unwrap();
    assert_eq!(store.take_change(), None);
    ok(&mut store, ALICE, WRITE, "device/console/1/ring-ref\08");
    assert_eq!(store.take_change(), None);
    ok(&mut store, ALICE, WRITE, "device/console/1/state\x003");
    assert_eq!(store.take_change(), Some(path(&format!("{front}/state"))));
    ok(&mut store, ALICE, RM, "device\0");
    assert!(store.take_change().is_some());
}

#[test]
fn of_the_observed_paths_those_at_above_and_below_a_change_are_taken() {
    let mut store = store();
    let home = home(ALICE);
    let paths = ["a", "a/b", "a/b/c", "a/b-1", "a/b0", "x"].map(|at| path(&format!("{home}/{at}")));
    paths.iter().for_each(|observed| store.observe(observed.clone()));
    let taken = |store: &mut Store| {
        let found: Vec<_> = std::iter::from_fn(|| store.take_change()).collect();
        found.iter().map(|path| path.as_str()[home.len() + 1..].to_string()).collect::<Vec<_>>()
    };
    ok(&mut store, ALICE, WRITE, "a/b/d\0");
    // Nodes that are made on the way are changes as well.
    assert_eq!(taken(&mut store), ["a", "a/b", "a/b-1", "a/b/c", "a/b0"]);
    ok(&mut store, ALICE, WRITE, "a/b/d\0again");
    assert_eq!(taken(&mut store), ["a", "a/b"]);
    ok(&mut store, ALICE, RM, "a/b\0");
    assert_eq!(taken(&mut store), ["a", "a/b", "a/b/c"]);
    ok(&mut store, ALICE, WRITE, "x\0");
    store.ignore(&paths[5]);
    assert_eq!(taken(&mut store), [""; 0]);
    ok(&mut store, ALICE, WRITE, "x\0again");
    assert_eq!(taken(&mut store), [""; 0]);
}

#[test]
fn a_message_that_is_too_long_ends_the_conversation() {
    let mut store = store();
    let mut head = request(READ, 0, b"");
    head[12..16].copy_from_slice(&4097u32.to_le_bytes());
    assert_eq!(store.feed(ALICE, &head), Err(Fault::MessageTooLong));
    assert_eq!(store.feed(ALICE, &request(READ, 0, b"a\0")), Err(Fault::MessageTooLong));
    assert_eq!(store.feed(99, &[]), Err(Fault::NotConnected));
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[a-c/]{0,8}(\0[a-c0-9nrwb]{0,4}){0,3}\0?".prop_map(String::into_bytes),
        "/local/domain/(3|16)(/[a-c]){0,3}\0[TFnr316]{0,3}\0?".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..40),
        Just(b"T\0".to_vec()),
        Just(b"\0".to_vec()),
    ]
}

proptest! {
    #[test]
    fn any_requests_get_one_answer_each(
        requests in prop::collection::vec((0..24u32, 0..4u32, text(), any::<bool>()), 1..60)
    ) {
        let mut store = store();
        for (kind, transaction, payload, alice) in requests {
            let who = if alice { ALICE } else { BOB };
            let bytes = request(kind, transaction, &payload);
            prop_assert_eq!(store.feed(who, &bytes), Ok(bytes.len()));
            let answers = messages(&mut store, who);
            let replies = answers.iter().filter(|(kind, _)| *kind != WATCH_EVENT);
            prop_assert_eq!(replies.count(), 1);
        }
        // The charges match the contents: once the homes are gone, nothing is charged.
        for partition in [ALICE, BOB] {
            let _ = store.remove(&path(&home(partition)));
        }
        prop_assert_eq!(store.nodes_of(ALICE) + store.nodes_of(BOB), 0);
    }

    #[test]
    fn any_bytes_in_any_pieces_are_borne(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..30)
    ) {
        let mut store = store();
        for piece in pieces {
            if store.feed(ALICE, &piece).is_err() {
                break;
            }
            let _ = messages(&mut store, ALICE);
        }
    }

    #[test]
    fn pieces_do_not_matter(cuts in prop::collection::vec(1..40usize, 1..60)) {
        let mut bytes = Vec::new();
        for n in 0..20 {
            bytes.extend(request(WRITE, 0, format!("k{n}\0{n}").as_bytes()));
            bytes.extend(request(READ, 0, format!("k{n}\0").as_bytes()));
        }
        let mut whole = store();
        whole.feed(ALICE, &bytes).unwrap();
        let mut pieces = store();
        let mut rest = bytes.as_slice();
        for cut in cuts.iter().cycle() {
            let (piece, more) = rest.split_at((*cut).min(rest.len()));
            pieces.feed(ALICE, piece).unwrap();
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(whole.output(ALICE), pieces.output(ALICE));
    }
}

/// A stock kernel accepts a request in a transaction, by emptying the node.
#[test]
fn a_kernel_takes_what_it_is_asked_for() {
    let mut store = store();
    let bytes = request(WATCH, 0, b"control/shutdown\0token\0");
    store.feed(BOB, &bytes).unwrap();
    assert_eq!(
        messages(&mut store, BOB),
        [(WATCH, "OK\0".into()), (WATCH_EVENT, "control/shutdown\0token\0".into())]
    );
    let (_, number) = ask(&mut store, BOB, BEGIN, 0, "\0");
    let number = number.trim_end_matches('\0').parse().unwrap();
    assert_eq!(
        ask(&mut store, BOB, READ, number, "control/shutdown\0"),
        (ERROR, "ENOENT\0".into())
    );
    assert_eq!(ask(&mut store, BOB, END, number, "F\0").0, END);
    ok(&mut store, BOB, WRITE, "control/feature-poweroff\x001");
    let node = path("/local/domain/16/control/shutdown");
    store.write(&node, b"poweroff").unwrap();
    assert_eq!(messages(&mut store, BOB), [(WATCH_EVENT, "control/shutdown\0token\0".into())]);
    let (_, number) = ask(&mut store, BOB, BEGIN, 0, "\0");
    let number = number.trim_end_matches('\0').parse().unwrap();
    assert_eq!(ask(&mut store, BOB, READ, number, "control/shutdown\0"), (READ, "poweroff".into()));
    assert_eq!(ask(&mut store, BOB, WRITE, number, "control/shutdown\0").0, WRITE);
    store.feed(BOB, &request(END, number, b"T\0")).unwrap();
    let event = (WATCH_EVENT, "control/shutdown\0token\0".into());
    assert!(messages(&mut store, BOB).contains(&event));
    assert_eq!(store.read(&node), Some(&b""[..]));
}

#[test]
fn a_list_has_only_what_its_reader_may_access() {
    let mut store = store();
    ok(&mut store, ALICE, WRITE, "data/open\x001");
    ok(&mut store, ALICE, WRITE, "data/secret\x001");
    ok(&mut store, ALICE, SET_PERMS, "data\0n3\0r16\0");
    ok(&mut store, ALICE, SET_PERMS, "data/open\0n3\0r16\0");
    assert_eq!(ok(&mut store, BOB, DIRECTORY, "/local/domain/3/data\0"), "open\0");
    assert!(
        ok(&mut store, BOB, DIRECTORY_PART, "/local/domain/3/data\x000\0").ends_with("open\0\0")
    );
    assert_eq!(ok(&mut store, ALICE, DIRECTORY, "data\0"), "open\0secret\0");
    assert_eq!(refused(&mut store, BOB, GET_PERMS, "/local/domain/3/data/secret\0"), "EACCES\0");
}

#[test]
fn only_the_privileged_watch_others_come_and_go() {
    let mut store = store();
    for name in ["@introduceDomain\0t\0", "@releaseDomain\0t\0"] {
        assert_eq!(refused(&mut store, BOB, WATCH, name), "EACCES\0");
        store.feed(ALICE, &request(WATCH, 0, name.as_bytes())).unwrap();
        assert_eq!(messages(&mut store, ALICE)[0].0, WATCH);
    }
    store.connect(17, false);
    store.disconnect(17);
    assert_eq!(messages(&mut store, ALICE).len(), 2);
    assert_eq!(messages(&mut store, BOB), []);
}

#[test]
fn what_a_partition_left_with_others_goes_with_it() {
    let mut store = store();
    ok(&mut store, ALICE, WRITE, "data/gate\x001");
    ok(&mut store, ALICE, SET_PERMS, "data/gate\0n3\0b16\0");
    ok(&mut store, ALICE, WRITE, "data/shown\x001");
    ok(&mut store, ALICE, SET_PERMS, "data/shown\0n3\0r16\0");
    ok(&mut store, BOB, WRITE, "/local/domain/3/data/gate/mine/deep\x001");
    // The home, and the nodes it made in Alice's home.
    assert_eq!(store.nodes_of(BOB), 3);
    let bytes = store.bytes_of(ALICE);
    store.disconnect(BOB);
    store.remove(&path(&home(BOB))).unwrap();
    store.purge(BOB);
    assert_eq!((store.nodes_of(BOB), store.bytes_of(BOB)), (0, 0));
    assert!(store.bytes_of(ALICE) < bytes);
    assert_eq!(ok(&mut store, ALICE, DIRECTORY, "data/gate\0"), "");
    assert_eq!(ok(&mut store, ALICE, GET_PERMS, "data/gate\0"), "n3\0");
    // The next partition with this number finds nothing.
    store.connect(BOB, false);
    assert_eq!(refused(&mut store, BOB, READ, "/local/domain/3/data/shown\0"), "EACCES\0");
    assert_eq!(refused(&mut store, BOB, WRITE, "/local/domain/3/data/gate/x\x001"), "EACCES\0");
}

#[test]
fn only_clients_that_got_something_to_read_are_named() {
    let mut store = store();
    let watch = request(WATCH, 0, b"data\0token\0");
    for who in [ALICE, BOB] {
        store.feed(who, &watch).unwrap();
        messages(&mut store, who);
    }
    store.take_readers();
    store.write(&path("/local/domain/16/data"), b"1").unwrap();
    assert_eq!(store.take_readers().into_iter().collect::<Vec<_>>(), [BOB]);
    assert_eq!(messages(&mut store, BOB).len(), 1);
    assert!(store.take_readers().is_empty());
    // A change that nobody watches causes no event.
    store.write(&path("/local/domain/3/other"), b"1").unwrap();
    assert!(store.take_readers().is_empty());
    // A change by another client is seen, too.
    ok(&mut store, ALICE, WRITE, "other\x002");
    ok(&mut store, ALICE, SET_PERMS, "other\0n3\0b16\0");
    store.feed(BOB, &request(WATCH, 0, b"/local/domain/3/other\0token\0")).unwrap();
    messages(&mut store, BOB);
    store.take_readers();
    ok(&mut store, ALICE, WRITE, "other\x003");
    assert_eq!(store.take_readers().into_iter().collect::<Vec<_>>(), [BOB]);
    // A client that is gone is no reader.
    ok(&mut store, ALICE, WRITE, "other\x004");
    store.disconnect(BOB);
    assert!(store.take_readers().is_empty());
}

#[test]
fn permissions_for_numbers_that_nobody_has_are_void() {
    let mut store = store();
    ok(&mut store, ALICE, WRITE, "data\x001");
    assert_eq!(ok(&mut store, ALICE, SET_PERMS, "data\0n3\0r99\0"), "OK\0");
    let (_, number) = ask(&mut store, ALICE, BEGIN, 0, "\0");
    let number = number.trim_end_matches('\0').parse().unwrap();
    ask(&mut store, ALICE, SET_PERMS, number, "data\0n3\0r16\0");
    store.disconnect(BOB);
    assert_eq!(ask(&mut store, ALICE, END, number, "T\0").0, END);
    for late in [BOB, 99] {
        store.connect(late, false);
        assert_eq!(refused(&mut store, late, READ, "/local/domain/3/data\0"), "EACCES\0");
    }
}

#[test]
fn a_transaction_is_its_clients_own() {
    let mut store = store();
    let (_, number) = ask(&mut store, ALICE, BEGIN, 0, "\0");
    let number = number.trim_end_matches('\0').parse().unwrap();
    for (kind, payload) in [(READ, "x\0"), (WRITE, "x\x001"), (END, "T\0")] {
        assert_eq!(ask(&mut store, BOB, kind, number, payload), (ERROR, "ENOENT\0".into()));
    }
    assert_eq!(ask(&mut store, ALICE, END, number, "F\0").0, END);
}

#[test]
fn a_transaction_sees_its_own_changes() {
    let mut store = store();
    for name in ["d/a", "d/b", "d/b/x", "d/b-2", "d/c/y"] {
        ok(&mut store, ALICE, WRITE, &format!("{name}\0old"));
    }
    let (_, number) = ask(&mut store, ALICE, BEGIN, 0, "\0");
    let number = number.trim_end_matches('\0').parse().unwrap();
    let mut inside = |kind, payload: &str| ask(&mut store, ALICE, kind, number, payload).1;
    assert_eq!(inside(RM, "d/b\0"), "OK\0");
    assert_eq!(inside(DIRECTORY, "d\0"), "a\0b-2\0c\0");
    assert_eq!(inside(READ, "d/b/x\0"), "ENOENT\0");
    assert_eq!(inside(WRITE, "d/b/z\0new"), "OK\0");
    assert_eq!(inside(DIRECTORY, "d\0"), "a\0b\0b-2\0c\0");
    assert_eq!(inside(DIRECTORY, "d/b\0"), "z\0");
    assert_eq!(inside(WRITE, "d/0\0new"), "OK\0");
    assert_eq!(inside(RM, "d/c\0"), "OK\0");
    assert_eq!(inside(RM, "d/c\0"), "OK\0");
    assert_eq!(inside(RM, "d/0\0"), "OK\0");
    assert_eq!(inside(DIRECTORY, "d\0"), "a\0b\0b-2\0");
    assert_eq!(ok(&mut store, ALICE, DIRECTORY, "d\0"), "a\0b\0b-2\0c\0");
    assert_eq!(ask(&mut store, ALICE, END, number, "T\0").0, END);
    assert_eq!(ok(&mut store, ALICE, DIRECTORY, "d\0"), "a\0b\0b-2\0");
    assert_eq!(ok(&mut store, ALICE, DIRECTORY, "d/b\0"), "z\0");
    assert_eq!(refused(&mut store, ALICE, READ, "d/b/x\0"), "ENOENT\0");
    ok(&mut store, ALICE, RM, "d\0");
    assert_eq!(store.nodes_of(ALICE), 1);
}

#[test]
fn a_name_that_came_meanwhile_is_not_overwritten() {
    let mut store = store();
    let (_, number) = ask(&mut store, ALICE, BEGIN, 0, "\0");
    let number = number.trim_end_matches('\0').parse().unwrap();
    ask(&mut store, ALICE, WRITE, number, "d/e/f\x001");
    ok(&mut store, ALICE, WRITE, "d\0theirs");
    assert_eq!(ask(&mut store, ALICE, END, number, "T\0"), (ERROR, "EAGAIN\0".into()));
    assert_eq!(ok(&mut store, ALICE, READ, "d\0"), "theirs");
}

/// A client that has not read for long gets at least one event for each of its watches, after the
/// last change.
#[test]
fn a_watch_whose_events_were_lost_fires_once_more() {
    let mut store = store();
    store.feed(ALICE, &request(WATCH, 0, b"d\0t\0")).unwrap();
    messages(&mut store, ALICE);
    for round in 0..20_000 {
        let node = path(&format!("/local/domain/3/d/{round}"));
        store.write(&node, b"").unwrap();
        store.remove(&node).unwrap();
    }
    assert!(store.bytes_of(ALICE) <= limits::BYTES);
    let told: Vec<_> =
        core::iter::from_fn(|| Some(messages(&mut store, ALICE)).filter(|all| !all.is_empty()))
            .flatten()
            .collect();
    assert_eq!(told.first(), Some(&(WATCH_EVENT, "d/0\0t\0".into())));
    assert_eq!(told.last(), Some(&(WATCH_EVENT, "d\0t\0".into())));
    store.write(&path("/local/domain/3/d/x"), b"").unwrap();
    assert_eq!(messages(&mut store, ALICE), [(WATCH_EVENT, "d/x\0t\0".into())]);
}

#[test]
fn while_memory_is_short_nothing_new_is_kept() {
    let mut store = store();
    ok(&mut store, ALICE, WRITE, "data\x001");
    store.set_tight(true);
    for (kind, payload) in [(WRITE, "x\x001"), (MKDIR, "x\0"), (WATCH, "x\0t\0"), (BEGIN, "\0")] {
        assert_eq!(refused(&mut store, ALICE, kind, payload), "ENOSPC\0");
    }
    assert_eq!(ok(&mut store, ALICE, READ, "data\0"), "1");
    ok(&mut store, ALICE, RM, "data\0");
}
