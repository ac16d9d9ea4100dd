//! Properties that hold for any input.

use std::path::Path;

use control::command::DiskNumber;
use proptest::prelude::*;

use super::with;
use crate::units::{cpus, parse_cpus, parse_size, size};
use crate::{
    Autostart, Cpu, Definition, Disk, DiskExtent, Function, Listed, Policies, Policy, changes,
    parse, to_toml,
};

fn policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(&Policy::ALL[..])
}

prop_compose! {
    fn cpu(vcpus: u32)(
        weight in 1_u32..=65_535,
        cap in 0..=vcpus * 100,
        affinity in prop::collection::btree_set(0_u32..=255, 0..40),
        dedicated: bool,
    ) -> Cpu {
        let affinity: Vec<u32> = affinity.into_iter().collect();
        Cpu { weight, cap, dedicated: dedicated && !affinity.is_empty(), affinity }
    }
}

/// Disks, each with a device of its own.
fn disks() -> impl Strategy<Value = Vec<Disk>> {
    let function = prop_oneof![
        any::<u32>().prop_map(Function::Address),
        any::<u32>().prop_map(Function::Index),
    ];
    // Each extent lies in a range of its own.
    let extents = prop::collection::vec((0_u64..1 << 40, 1_u64..1 << 40), 0..4).prop_map(|all| {
        let extent = |(at, (start, sectors))| DiskExtent { start: start + (at << 42), sectors };
        (0u64..).zip(all).map(extent).collect::<Vec<_>>()
    });
    let sectors = prop_oneof![
        (1_u32..=128).prop_map(|number| (Some(number), Vec::new())),
        extents.prop_map(|extents| (None, extents)),
    ];
    let letters = prop::collection::btree_set(prop::char::range('a', 'z'), 0..4);
    let one = (function, sectors, any::<bool>(), any::<bool>());
    (letters, prop::collection::vec(one, 4)).prop_map(|(letters, all)| {
        let disks = letters.into_iter().zip(all).map(|(letter, one)| {
            let (function, (partition, extents), read_only, shared) = one;
            let device = DiskNumber::of_letter(letter).expect("a letter").0;
            Disk { device, function, partition, extents, read_only, shared }
        });
        disks.collect()
    })
}

prop_compose! {
    fn partition()(vcpus in 1_u32..=32)(
        name in "[a-zé][a-z0-9 é_.-]{0,14}[a-z0-9]",
        kernel in "/[a-z\"\\\\ é/]{1,40}",
        initrd in prop::option::of("/[a-z\n/]{1,40}"),
        command_line in "[ -~\té]{0,500}",
        (low, high) in (256_u64..1 << 28, 256_u64..1 << 28),
        up in 1..=vcpus,
        cpu in cpu(vcpus),
        grant_frames in 1_u32..=64,
        (poweroff, reboot, crash) in (policy(), policy(), policy()),
        domain in prop::option::of("[a-z]{1,31}"),
        description in prop::option::of("[ -~é]{0,99}"),
        (enabled, order, delay) in (any::<bool>(), 0_u32..=65_535, 0_u32..=3600),
        disks in disks(),
        vcpus in Just(vcpus),
    ) -> Definition {
        Definition {
            name, kernel: kernel.into(), initrd: initrd.map(Into::into), command_line,
            memory: low.min(high) * 4096, max_memory: low.max(high) * 4096,
            vcpus: up, max_vcpus: vcpus, cpu, grant_frames,
            on: Policies { poweroff, reboot, crash },
            autostart: Autostart { enabled, order, delay }, domain, description, disks,
        }
    }
}

/// Lines that are nearly right, in both syntaxes.
fn nearly() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "name",
        "kernel",
        "initrd",
        "memory",
        "maxmem",
        "max_memory",
        "vcpus",
        "maxvcpus",
        "cpus",
        "cpu",
        "cpu.affinity",
        "on.crash",
        "autostart.enabled",
        "autostart.order",
        "autostart.delay",
        "[[partition]]",
        "[on]",
        "[[disk]]\ndevice = \"xvda\"\nfunction",
        "partition",
        "disk",
        "extra",
    ]);
    let value = prop_oneof![
        "\"[ -~]{0,20}\"",
        "[-0-9x]{1,25}",
        "\\[[ -~\n]{0,30}\\]?",
        "'[^\n']{0,9}'?",
        Just("true".to_owned()),
        Just("{}".to_owned()),
        "\\PC{0,10}",
    ];
    let line = (key, "( = |=|\\+=| )", value)
        .prop_map(|(key, equals, value)| format!("{key}{equals}{value}"));
    prop::collection::vec(line, 0..8).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        definitions in prop::collection::vec(partition(), 1..4)
    ) {
        let mut definitions = definitions;
        for (index, definition) in definitions.iter_mut().enumerate() {
            definition.name.push_str(&format!("-{index}"));
        }
        let text = to_toml(&definitions);
        prop_assert_eq!(parse(&text, Path::new("/d/a.toml")), Ok(definitions), "{}", text);
    }

    #[test]
    fn no_text_panics(text in "(?s).{0,300}") {
        for file in ["a.toml", "a.cfg", "a"] {
            let _ = parse(&text, Path::new(file));
        }
    }

    #[test]
    fn what_is_accepted_is_within_its_limits(text in nearly(), whole: bool) {
        let text = if whole { with(&text) } else { text };
        for file in ["/d/a.toml", "/d/a.cfg", "/d/a"] {
            match parse(&text, Path::new(file)) {
                Ok(definitions) => {
                    prop_assert!(!definitions.is_empty());
                    for definition in definitions {
                        prop_assert!((1..=31).contains(&definition.name.len()));
                        prop_assert!(definition.kernel.is_absolute());
                        prop_assert!(definition.memory <= definition.max_memory);
                        prop_assert!((1..=definition.max_vcpus).contains(&definition.vcpus));
                        prop_assert!(definition.max_vcpus <= 32);
                        prop_assert!(definition.memory.is_multiple_of(4096));
                    }
                }
                Err(errors) => {
                    prop_assert!(!errors.issues.is_empty());
                    for issue in errors.issues {
                        prop_assert!(issue.line >= 1 && issue.line <= text.lines().count().max(1) + 1);
                        prop_assert!(!issue.to_string().contains('\n'), "{}", issue);
                    }
                }
            }
        }
    }

    /// A file in which one byte is damaged.
    #[test]
    fn damaged_files_do_not_panic(definition in partition(), at: prop::sample::Index, byte: u8) {
        let mut bytes = to_toml(&[definition]).into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = parse(&String::from_utf8_lossy(&bytes), Path::new("/d/a.toml"));
        let _ = parse(&String::from_utf8_lossy(&bytes), Path::new("/d/a.cfg"));
    }

    #[test]
    fn sizes_are_written_exactly(bytes: u64) {
        prop_assert_eq!(parse_size(&size(bytes)), Ok(bytes));
        let round = bytes >> 12 << 12;
        prop_assert_eq!(parse_size(&size(round)), Ok(round));
    }

    #[test]
    fn cpus_are_written_exactly(set in prop::collection::btree_set(0_u32..=255, 1..60)) {
        let set: Vec<u32> = set.into_iter().collect();
        prop_assert_eq!(parse_cpus(&cpus(&set)), Ok(set));
    }

    #[test]
    fn changes_are_there_exactly_when_something_differs(one in partition(), two in partition()) {
        prop_assert_eq!(changes(&one, &two).is_empty(), one == two);
        prop_assert_eq!(changes(&one, &one), []);
        for change in changes(&one, &two) {
            prop_assert_ne!(change.from, change.to);
        }
    }
}

#[test]
fn lists_in_lists_end() {
    let deep = format!("name = {}", "[".repeat(100_000));
    for file in ["a.toml", "a.cfg", "a"] {
        assert!(parse(&deep, Path::new(file)).is_err());
    }
}

/// Files of plain lines, or nearly so.
fn plain_file() -> impl Strategy<Value = String> {
    let fleet = (lines(), lines(), 1..4_usize).prop_map(|(first, lines, times)| {
        let one = |number: usize| format!("[[partition]]\nname = \"g{number}\"\n{lines}\n");
        first + "\n" + &(0..times).map(one).collect::<String>()
    });
    prop_oneof![lines(), fleet]
}

/// Lines, most of them plain.
fn lines() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        4 => Just("[[partition]]".to_owned()),
        4 => "name = \"[a-c]\"",
        4 => "kernel = \"/[a-c]\"",
        4 => "memory = \"[1-9]M\"",
        2 => "vcpus = [0-9]{1,2}",
        2 => "(command_line|description|domain|initrd|max_memory) ?= ?\"[ -~é\t]{0,4}\"",
        1 => "[a-z_.\"=# ]{0,9}[ =\"#\\r\\t]{0,3}[a-z0-9\"']{0,3}",
        1 => prop::sample::select(vec![
            "[cpu]", "[[partition]] ", "[[ partition ]]", "[partition]", "partition = 1",
            "cpu.cap = 1", "vcpus = 00", "vcpus = 1_0", "vcpus = +1", "vcpus = 2 # two",
            "vcpus=2", "\tvcpus =3\t", "domain = \"\"", "domain = \"\"\"\"\"\"", "domain = 'd'",
        ]).prop_map(str::to_owned),
        1 => "#[ -~\t\r]{0,5}",
        1 => Just(String::new()),
    ];
    prop::collection::vec(line, 0..14).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A file read as plain lines gives what the TOML library reads from it.
    #[test]
    fn plain_lines_mean_what_they_mean_in_toml(text in plain_file()) {
        if let Some(plain) = crate::read_plain(&text, Path::new("/d/a.toml")) {
            let entries = crate::toml_text::try_read(&text);
            prop_assert!(entries.is_some(), "no TOML: {text:?}");
            // A comment that is not plain changes only the way in which the file is read.
            let odd = format!("{text}\n# \té'");
            prop_assert!(crate::read_plain(&odd, Path::new("/d/a.toml")).is_none());
            let general = parse(&odd, Path::new("/d/a.toml"));
            prop_assert_eq!(general.unwrap(), crate::whole(plain));
        }
    }
}

#[test]
fn partitions_that_differ_in_their_names_are_listed_by_name() {
    let file = Path::new("/d/a.toml");
    let one = |name: &str, memory: &str| {
        format!("[[partition]]\nname = \"{name}\"\nkernel = \"k\"\nmemory = \"{memory}\"\n")
    };
    let like = |name: &str| Listed::Like(name.into());
    let text = [one("a", "4M"), one("b", "4M"), one("c", "8M"), one("d", "8M")].concat();
    let listed = crate::read_plain(&text, file).expect("it is plain");
    assert!(matches!(listed[..], [Listed::Whole(_), _, Listed::Whole(_), _]), "{listed:?}");
    assert_eq!([&listed[1], &listed[3]], [&like("b"), &like("d")]);
    let memory: Vec<_> = crate::whole(listed).into_iter().map(|one| one.memory >> 20).collect();
    assert_eq!(memory, [4, 4, 8, 8]);
    // Another line behind the same lines makes another partition; the last line may lack its end.
    let more = crate::read_plain(&(text.clone() + "vcpus = 2"), file).expect("it is plain");
    assert!(matches!(more.last(), Some(Listed::Whole(last)) if last.vcpus == 2), "{more:?}");
    // A name is checked wherever it stands.
    for wrong in ["a", "boot", "7", "x/y", "", "\\u0041", "\u{7f}"] {
        let text = [one("a", "4M"), one(wrong, "4M")].concat();
        assert_eq!(crate::read_plain(&text, file), None, "{wrong:?}");
    }
}

#[test]
fn a_file_of_plain_lines_is_read_as_such_and_told_of_by_the_library() {
    let file = Path::new("/d/a.toml");
    let one = |name: &str| {
        format!("[[partition]]\nname = \"{name}\"\nkernel = \"k\"\nmemory = \"4M\"\nvcpus = 2\n\n")
    };
    let text = format!("# two\n{}{}", one("a"), one("b"));
    let plain = crate::read_plain(&text, file).expect("it is plain");
    let plain = crate::whole(plain);
    let names: Vec<_> = plain.iter().map(|one| (one.name.as_str(), one.vcpus)).collect();
    assert_eq!(names, [("a", 2), ("b", 2)]);
    assert_eq!(parse(&format!("{text}# \té"), file).unwrap(), plain);
    for wrong in [
        text.replace("\"b\"", "\"a\""),
        text.replace("4M", "4"),
        text.replace("vcpus", "cpus"),
        format!("name = \"c\"\n{text}"),
    ] {
        assert_eq!(crate::read_plain(&wrong, file), None, "{wrong}");
        assert!(parse(&wrong, file).unwrap_err().issues[0].line > 0, "{wrong}");
    }
}
