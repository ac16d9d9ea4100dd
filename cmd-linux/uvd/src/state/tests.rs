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
        outcome: "committed".into(),
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
    let life = Life { number: 16, first: 2, last: Some(4) };
    let staged = Staged { request: 7, edits: vec![Edit::Forget("a".into())] };
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
    assert_eq!(state.staged(), Some(staged.clone()));
    state.settle(&staged, false);
    state.store();
    assert_eq!((state.staged(), state.records().len()), (None, 2));
    state.stage(&staged);
    state.settle(&staged, true);
    assert_eq!((state.staged(), state.records().len()), (Some(staged), 1), "not written yet");
    state.store();
    assert_eq!((state.staged(), state.records().len()), (None, 1));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn records_from_the_first_without_an_end_on_are_at_hand_and_not_stored() {
    let path = own_path("unsettled.redb");
    let _ = std::fs::remove_file(&path);
    let sequences =
        |state: &State| -> Vec<u64> { state.log(9).iter().map(|row| row.sequence).collect() };
    let mut state = State::open(&path);
    let pending = LogRow { outcome: "pending".into(), ..row(2, &[16]) };
    let life = Life { number: 16, first: 2, last: None };
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
    let begun = LogRow { outcome: "begun".into(), ..row(1, &[]) };
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

/// What a child does; nothing where this is no child.
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
    let life = Life { number: 16, first: 1, last: None };
    let rows: Vec<LogRow> = (1..=300).map(|sequence| row(sequence, &[16])).collect();
    state.add_log(&rows, vec![("p1".into(), life)]);
    state.store();
    state.stage(&Staged { request: 7, edits: vec![Edit::Forget("p1".into())] });
    path
}

/// Opens a file twice and writes; what is there the second time.
fn survives(path: &Path) -> usize {
    let mut state = State::open(path);
    assert!(state.is_persistent(), "a new store takes the place of a damaged one");
    let staged = state.staged();
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

/// Every byte of the headers, and bytes everywhere; lengths from none to all.
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

/// How often a file is damaged; each costs two processes.
const DAMAGES: usize = 60;

/// A disk that takes no more: the process may write no file longer than this. Its own process,
/// for the limit is one of the process.
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
    // Else the signal ends the process.
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
            let staged = Staged { request: 1, edits: vec![edit.clone()] };
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
