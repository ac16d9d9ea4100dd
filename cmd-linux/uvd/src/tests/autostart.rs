//! Partitions that start with the host.

use std::path::Path;

use definition::Autostart;
use uvd_protocol::{Service, ServiceAnswer, Until};

use super::host::{Client, Host, definition, kernel_file};
use super::lifecycle::answer;
use super::own_path;
use crate::state::{Edit, Record, State};

/// The identity of the fake host's boot.
const THIS_BOOT: u64 = 0x5eed;

/// A state file of an earlier boot with these partitions, whether each starts with the host, and its
/// order.
fn state(name: &str, kernel: &Path, all: &[(&str, bool, u32)]) -> (std::path::PathBuf, State) {
    let path = own_path(&format!("{name}.redb"));
    let _ = std::fs::remove_file(&path);
    let mut state = State::open(&path);
    state.begin_boot(1);
    let record = |&(name, enabled, order): &(&str, bool, u32)| {
        let autostart = Autostart { enabled, order, delay: 0 };
        Record::new(definition::Definition { autostart, ..definition(name, kernel) }, true)
    };
    state.edit(&all.iter().map(record).map(Edit::Put).collect::<Vec<_>>());
    (path, state)
}

/// The number of a partition that runs, or will.
fn number(client: &mut Client, name: &str) -> u32 {
    answer(client.ask(Service::Wait { name: name.into(), until: Until::Running }));
    let ServiceAnswer::Log(rows) = answer(client.ask(Service::Log { most: 100 })) else { panic!() };
    let reason = format!("autostart: start {name}");
    let row = rows.iter().find(|row| row.reason == reason).expect("a record of the start");
    row.partitions[0]
}

#[test]
fn a_new_boot_starts_what_starts_with_the_host_in_order() {
    let kernel = kernel_file("autostart.elf", 100);
    let all = [("a", true, 30), ("b", true, 10), ("c", false, 0), ("d", true, 10)];
    let (path, state) = state("autostart", &kernel, &all);
    drop(state);
    let host = Host::with_state("autostart", path);
    let mut client = host.client();
    let numbers = ["b", "d", "a"].map(|name| number(&mut client, name));
    assert!(numbers.is_sorted(), "{numbers:?}");
    assert_eq!(host.end().guests, ["b", "d", "a"]);
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn a_boot_that_is_known_starts_only_what_an_earlier_uvd_left() {
    let kernel = kernel_file("autostart-known.elf", 100);
    let (path, mut state) = state("autostart-known", &kernel, &[("a", true, 0), ("b", true, 1)]);
    // It started this one, and was killed.
    state.begin_boot(THIS_BOOT);
    state.change("a", |record| record.autostarting = false);
    drop(state);
    let host = Host::with_state("autostart-known", path);
    let mut client = host.client();
    number(&mut client, "b");
    assert_eq!(host.end().guests, ["b"]);
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn what_cannot_be_started_holds_up_no_other() {
    let kernel = kernel_file("autostart-gone.elf", 100);
    let (path, mut state) = state("autostart-gone", &kernel, &[("a", true, 0), ("b", true, 1)]);
    state.change("a", |record| record.definition.kernel = "/no/such/kernel".into());
    drop(state);
    let host = Host::with_state("autostart-gone", path.clone());
    let mut client = host.client();
    number(&mut client, "b");
    assert_eq!(host.end().guests, ["b"]);
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn what_a_policy_owed_in_an_earlier_boot_is_not_restarted() {
    let path = own_path("autostart-owed.redb");
    let _ = std::fs::remove_file(&path);
    let mut state = State::open(&path);
    state.begin_boot(1);
    let owed = |name: &str, enabled| {
        let autostart = Autostart { enabled, ..Autostart::default() };
        let definition = definition(name, Path::new("/k"));
        let record = Record::new(definition::Definition { autostart, ..definition }, true);
        Edit::Put(Record { restarting: true, ..record })
    };
    state.edit(&[owed("a", false), owed("b", true)]);
    drop(state);
    let mut state = State::open(&path);
    let marks = |state: &State| {
        let marks = state.records().values().map(|one| (one.restarting, one.autostarting));
        marks.collect::<Vec<_>>()
    };
    state.begin_boot(1);
    assert_eq!(marks(&state), [(true, false), (true, false)], "the boot is known");
    state.begin_boot(2);
    assert_eq!(marks(&state), [(false, false), (false, true)]);
    drop(state);
    assert_eq!(marks(&State::open(&path)), [(false, false), (false, true)], "it is stored");
    std::fs::remove_file(path).unwrap();
}
