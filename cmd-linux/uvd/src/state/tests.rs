use super::*;
use crate::tests::{own_path, samples};
use proptest::prelude::*;

fn row(sequence: u64, partitions: &[u32]) -> LogRow {
    LogRow {
        sequence,
        time: 1,
        who: 3,
        request: sequence,
        version: 1,
        outcome: Settled::Committed,
        what: "x".into(),
        reason: String::new(),
        partitions: partitions.to_vec(),
    }
}

fn record(name: &str) -> Record {
    Record::new(samples::definition(name), true)
}

#[test]
fn what_was_written_is_there_again() {
    let path = own_path("again.redb");
    let _ = std::fs::remove_file(&path);
    let life = Life { boot: 0, number: 16, first: 2, last: Some(4) };
    let staged = Staged { boot: 0, request: 7, since: 0, edits: vec![Edit::Forget("a".into())] };
    {
        let mut state = State::open(&path);
        assert!(state.is_persistent());
        state.edit(&[Edit::Put(record("a")), Edit::Put(record("b"))]);
        state.add_log(
            &[row(1, &[]), row(2, &[16]), row(3, &[17]), row(5, &[16])],
            vec![("a".into(), life)],
        );
        state.stage(&staged);
    }
    let mut state = State::open(&path);
    assert_eq!(state.records().keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(state.log(2).iter().map(|row| row.sequence).collect::<Vec<_>>(), [3, 5]);
    assert_eq!(state.life("a"), Some(life));
    assert_eq!(state.why(&life), [row(2, &[16])]);
    assert_eq!(state.staged(), std::slice::from_ref(&staged));
    state.settle(&staged, false);
    state.store();
    let stored = |state: &State| state.disk.staged().unwrap();
    assert_eq!((stored(&state), state.records().len()), (vec![], 2));
    state.stage(&staged);
    state.settle(&staged, true);
    assert!(state.staged().is_empty());
    assert_eq!((stored(&state), state.records().len()), (vec![staged], 1), "not written yet");
    state.store();
    assert_eq!((stored(&state), state.records().len()), (vec![], 1));
    std::fs::remove_file(path).unwrap();
}

/// A later version may have written outcomes that this one does not know.
#[test]
fn a_record_with_an_unknown_word_is_skipped_and_the_rest_is_there() {
    let path = own_path("unknown.redb");
    let _ = std::fs::remove_file(&path);
    let mut state = State::open(&path);
    state.edit(&[Edit::Put(record("a"))]);
    state.add_log(&[row(1, &[16]), row(2, &[16]), row(3, &[16])], Vec::new());
    state.store();
    for unknown in [2, 4] {
        let json = serde_json::to_string(&row(unknown, &[16])).unwrap();
        let json = json.replace("\"committed\"", "\"deferred\"");
        state.disk.write_row((0, unknown), &json);
    }
    drop(state);
    let state = State::open(&path);
    assert!(state.is_persistent() && check::aside(&path).unwrap().is_empty());
    assert_eq!(state.records().len(), 1);
    assert_eq!(state.log(2), [row(1, &[16]), row(3, &[16])]);
    assert_eq!(state.rows(0, 1, 9), [row(1, &[16]), row(3, &[16])]);
    state.disk.write_row((0, 5), "{ torn");
    drop(state);
    assert_eq!(State::open(&path).records().len(), 0, "what is no record at all is damage");
    std::fs::remove_file(&path).unwrap();
    for (_, aside) in check::aside(&path).unwrap() {
        std::fs::remove_file(aside).unwrap();
    }
}

/// Each boot of the host counts its records, partitions and requests anew.
#[test]
fn what_is_of_one_boot_is_not_taken_for_anothers() {
    let path = own_path("boots.redb");
    let _ = std::fs::remove_file(&path);
    let mut state = State::open(&path);
    let named = |state: &State| Life { boot: state.boot(), number: 16, first: 2, last: None };
    let staged = |state: &State, edits| Staged { boot: state.boot(), request: 7, since: 1, edits };
    let why = |state: &State, name: &str| -> Vec<String> {
        state.why(&state.life(name).unwrap()).into_iter().map(|row| row.reason).collect()
    };
    for (identity, reason) in [(70, "first"), (30, "second"), (70, "first")] {
        state.begin_boot(identity);
        let rows = [1, 2, 3].map(|one| LogRow { reason: reason.into(), ..row(one, &[16]) });
        let life = named(&state);
        state.add_log(&rows, vec![(reason.into(), life), ("web".into(), life)]);
        state.store();
    }
    assert_eq!(state.boot(), 1, "a boot that was met before");
    state.begin_boot(30);
    let earlier = state.life("first").and_then(|life| state.earlier(life.boot)).unwrap();
    assert_eq!((earlier.number, earlier.now), (1, 2));
    assert!(earlier.met.is_some_and(|seconds| seconds > 1_700_000_000), "{earlier:?}");
    assert_eq!(state.life("second").and_then(|life| state.earlier(life.boot)), None);
    assert_eq!(why(&state, "first"), ["first", "first"]);
    assert_eq!(why(&state, "second"), ["second", "second"]);
    assert_eq!(state.log(9).len(), 3);
    assert!(state.log(9).iter().all(|row| row.reason == "second"));
    assert_eq!(state.outcome(1, 3, 2), Some(Settled::Committed));
    state.stage(&staged(&state, vec![Edit::Put(record("a"))]));
    state.begin_boot(99);
    state.stage(&staged(&state, vec![Edit::Put(record("b"))]));
    drop(state);
    let mut state = State::open(&path);
    let all = state.staged().to_vec();
    assert_eq!(all.iter().map(|one| (one.boot, one.request)).collect::<Vec<_>>(), [(2, 7), (3, 7)]);
    state.settle(&all[1], true);
    state.store();
    drop(state);
    let state = State::open(&path);
    assert_eq!((state.staged(), state.records().contains_key("b")), (&all[..1], true));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_full_table_keeps_what_is_new_and_drops_the_oldest() {
    let mut state = State::open(Path::new("/dev/null/state"));
    state.begin_boot(5);
    let rows: Vec<LogRow> = (100_000..120_000).map(|one| row(one, &[16])).collect();
    state.add_log(&rows, Vec::new());
    state.store();
    state.begin_boot(6);
    let life = |at: u64, last| Life { boot: 1 + at / 3000, number: 16, first: at, last };
    let lives = (0..3000).map(|at| (format!("old-{at}"), life(at, Some(at + 1))));
    let there = (6000..6100).map(|at| (format!("there-{at}"), Life { boot: 2, ..life(at, None) }));
    let new = (6000..6500).map(|at| (format!("new-{at}"), Life { boot: 2, ..life(at, Some(at)) }));
    state.add_log(&[row(1, &[16])], lives.collect());
    state.store();
    state.add_log(&[row(2, &[16])], there.chain(new).collect());
    state.store();
    assert_eq!(state.log(u64::MAX), [row(1, &[16]), row(2, &[16])]);
    let of_before = state.rows(1, 0, u64::MAX);
    assert_eq!((of_before.len(), of_before[0].sequence), (19_998, 100_002));
    assert!((6000..6100).all(|at| state.life(&format!("there-{at}")).is_some()));
    assert!((6000..6500).all(|at| state.life(&format!("new-{at}")).is_some()));
    assert!(state.life("old-0").is_none() && state.life("old-2999").is_some());
}

/// A file of a version that did not record boots.
#[test]
fn an_older_file_is_read_and_its_log_is_of_no_boot_that_comes() {
    use redb::{Database, TableDefinition};
    const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
    const TEXTS: fn(&'static str) -> TableDefinition<'static, &'static str, &'static [u8]> =
        TableDefinition::new;
    let path = own_path("older.redb");
    let _ = std::fs::remove_file(&path);
    let database = Database::create(&path).unwrap();
    let write = database.begin_write().unwrap();
    let rows = [1, 2].map(|one| (one, serde_json::to_vec(&row(one, &[16])).unwrap()));
    for (sequence, bytes) in &rows {
        write.open_table(LOG).unwrap().insert(sequence, bytes.as_slice()).unwrap();
    }
    let texts = |table: &'static str, key: &str, text: &str| {
        write.open_table(TEXTS(table)).unwrap().insert(key, text.as_bytes()).unwrap();
    };
    texts("lives", "web", r#"{"number":16,"first":1,"last":2}"#);
    texts("staged", "", r#"{"request":7,"edits":[{"Forget":"a"}]}"#);
    texts("definitions", "a", &serde_json::to_string(&record("a")).unwrap());
    write.commit().unwrap();
    drop(database);
    let mut state = State::open(&path);
    assert!(state.is_persistent() && check::aside(&path).unwrap().is_empty());
    state.begin_boot(5);
    assert_eq!((state.boot(), state.log(9), state.records().len()), (1, vec![], 1));
    assert_eq!(state.why(&state.life("web").unwrap()).len(), 2);
    let staged = Staged { boot: 0, request: 7, since: 0, edits: vec![Edit::Forget("a".into())] };
    assert_eq!(state.staged(), std::slice::from_ref(&staged));
    state.settle(&staged, true);
    state.store();
    drop(state);
    let state = State::open(&path);
    assert!(state.staged().is_empty() && state.records().is_empty());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn records_from_the_first_without_an_end_on_are_at_hand_and_not_stored() {
    let path = own_path("unsettled.redb");
    let _ = std::fs::remove_file(&path);
    let sequences =
        |state: &State| -> Vec<u64> { state.log(9).iter().map(|row| row.sequence).collect() };
    let mut state = State::open(&path);
    let pending = LogRow { outcome: Settled::Pending, ..row(2, &[16]) };
    let life = Life { boot: 0, number: 16, first: 2, last: None };
    state.add_log(&[row(1, &[]), pending, row(3, &[16])], vec![("a".into(), life)]);
    state.store();
    assert_eq!((sequences(&state), state.unsettled()), (vec![1, 2, 3], vec![2]));
    assert_eq!((state.life("a"), state.why(&life).len()), (Some(life), 2));
    drop(state);
    let mut state = State::open(&path);
    assert_eq!(sequences(&state), [1], "what is asked for again");
    state.add_log(&[row(2, &[16]), row(3, &[16])], Vec::new());
    state.store();
    drop(state);
    assert_eq!(sequences(&State::open(&path)), [1, 2, 3]);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_record_without_an_end_does_not_keep_many_from_being_stored() {
    let path = own_path("many.redb");
    let _ = std::fs::remove_file(&path);
    let mut state = State::open(&path);
    let begun = LogRow { outcome: Settled::Begun, ..row(1, &[]) };
    let rows: Vec<LogRow> = (2..=MOST_QUEUED as u64 + 1).map(|one| row(one, &[])).collect();
    state.add_log(&[begun], Vec::new());
    state.add_log(&rows, Vec::new());
    state.store();
    assert_eq!(state.unsettled(), [1], "it is still asked for");
    drop(state);
    assert_eq!(State::open(&path).log(u64::MAX).len(), MOST_QUEUED + 1);
    std::fs::remove_file(path).unwrap();
}

/// The file that a child of the tests checks.
pub const CHECKED: &str = "UVD_TEST_CHECKED";

/// The body of a child; it does nothing in the parent.
#[test]
fn a_child_checks_what_it_is_told() {
    if let Some(path) = std::env::var_os(CHECKED) {
        std::process::exit(check::serve(Path::new(&path)).into());
    }
}

/// A store with something in each table.
fn filled(name: &str) -> PathBuf {
    let directory = own_path(name);
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("state.redb");
    let mut state = State::open(&path);
    let names: Vec<String> = (0..20).map(|number| format!("p{number}")).collect();
    state.edit(&names.iter().map(|name| Edit::Put(record(name))).collect::<Vec<_>>());
    let life = Life { boot: 0, number: 16, first: 1, last: None };
    let rows: Vec<LogRow> = (1..=300).map(|sequence| row(sequence, &[16])).collect();
    state.add_log(&rows, vec![("p1".into(), life)]);
    state.store();
    state.stage(&Staged { boot: 0, request: 7, since: 0, edits: vec![Edit::Forget("p1".into())] });
    path
}

/// Opens a file twice and writes; returns how much is there the second time.
fn survives(path: &Path) -> usize {
    let mut state = State::open(path);
    assert!(state.is_persistent(), "a new store takes the place of a damaged one");
    let staged = state.staged().to_vec();
    state.edit(&[Edit::Put(record("new"))]);
    state.add_log(&[row(301, &[])], Vec::new());
    state.store();
    drop((state.log(u64::MAX), state.life("p1"), staged, state));
    let aside = check::aside(path).unwrap().len();
    let state = State::open(path);
    assert!(state.is_persistent() && state.records().contains_key("new"));
    assert_eq!(check::aside(path).unwrap().len(), aside, "what was written anew is sound");
    state.records().len()
}

#[test]
fn a_damaged_file_is_kept_under_another_name_and_a_new_one_begins() {
    let path = filled("aside");
    for round in 1..=5 {
        std::fs::write(&path, format!("this is no store {round}")).unwrap();
        assert_eq!(survives(&path), 1);
    }
    let aside = check::aside(&path).unwrap();
    assert_eq!(aside.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(std::fs::read(&aside[2].1).unwrap(), b"this is no store 5");
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn a_sound_file_and_one_that_is_in_use_stay_as_they_are() {
    let path = filled("sound");
    let open = State::open(&path);
    assert_eq!(open.records().len(), 20);
    assert!(!State::open(&path).is_persistent(), "another uvd has it");
    drop(open);
    assert_eq!(State::open(&path).records().len(), 20);
    assert!(check::aside(&path).unwrap().is_empty());
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

/// Damages every byte of the headers, and bytes everywhere; cuts the file at lengths from none to
/// all.
#[test]
fn no_damage_ends_the_process_or_is_met_twice() {
    let path = filled("damage");
    let good = std::fs::read(&path).unwrap();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let mut aside = 0;
    for round in 0..DAMAGES {
        let mut bytes = good.clone();
        match round % 4 {
            0 => bytes.truncate(next(good.len())),
            1 => bytes[next(4096)] ^= 1 << next(8),
            2 => (0..=next(30)).for_each(|_| bytes[next(good.len())] = next(256) as u8),
            _ => {
                let at = next(good.len());
                let end = good.len().min(at + next(5000));
                bytes[at..end].fill(if round % 8 < 4 { 0 } else { 0xff });
            }
        }
        std::fs::write(&path, bytes).unwrap();
        let there = survives(&path);
        assert!([1, 2, 20, 21].contains(&there), "round {round}: {there} definitions");
        aside += usize::from(there == 1);
    }
    assert!(aside > DAMAGES / 4, "{aside} of {DAMAGES} were noticed");
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

/// How often a file is damaged; each time costs two processes.
const DAMAGES: usize = 60;

/// Simulates a full disk: the process may write no file longer than this. The test runs in its own
/// process, because the limit applies to a process.
#[test]
fn a_full_disk_loses_nothing() {
    use nix::sys::resource::{Resource, setrlimit};
    const CHILD: &str = "UVD_TEST_FULL_DISK";
    let path = own_path("full.redb");
    if std::env::var_os(CHILD).is_none() {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "state::tests::a_full_disk_loses_nothing"]).env(CHILD, "1");
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("uvd goes on without it: make room"), "{text}");
        return;
    }
    let _ = std::fs::remove_file(&path);
    let mut state = State::open(&path);
    state.edit(&[Edit::Put(record("first"))]);
    state.add_log(&[row(1, &[])], Vec::new());
    assert!(state.is_persistent());
    let limit = std::fs::metadata(&path).unwrap().len();
    // Otherwise the signal would end the process.
    nix::sys::signal::SigSet::from(nix::sys::signal::Signal::SIGXFSZ).thread_block().unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, limit, limit).unwrap();
    let mut count = 0;
    while state.is_persistent() {
        count += 1;
        assert!(count < 100_000, "the limit is never met");
        let mut record = record(&format!("p{count}"));
        record.definition.command_line = "x".repeat(1000);
        state.edit(&[Edit::Put(record)]);
    }
    state.add_log(&[row(2, &[])], Vec::new());
    assert_eq!(state.records().len(), count + 1);
    assert_eq!(state.log(9), [row(1, &[]), row(2, &[])], "what was on the disk is at hand");
    std::fs::remove_file(path).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn the_store_says_what_a_map_says(
        steps in proptest::collection::vec((0u8..5, any::<bool>(), 0u8..4), 1..20),
    ) {
        let path = own_path("model.redb");
        let _ = std::fs::remove_file(&path);
        let mut state = State::open(&path);
        let mut model = BTreeMap::new();
        for (name, put, how) in steps {
            let name = format!("p{name}");
            let edit = if put { Edit::Put(record(&name)) } else { Edit::Forget(name.clone()) };
            let staged = Staged { boot: 0, request: 1, since: 0, edits: vec![edit.clone()] };
            let holds = match how {
                0 => { state.edit(&[edit]); true }
                1 => { state.stage(&staged); state.settle(&staged, true); state.store(); true }
                2 => { state.stage(&staged); state.settle(&staged, false); state.store(); false }
                _ => { drop(state); state = State::open(&path); false }
            };
            if holds && put {
                model.insert(name.clone(), record(&name));
            } else if holds {
                model.remove(&name);
            }
            prop_assert_eq!(state.records(), &model);
        }
        drop(state);
        let again = State::open(&path);
        prop_assert_eq!(again.records(), &model);
        std::fs::remove_file(path).unwrap();
    }
}
