//! xl.cfg files as people write them: the values read, and each mistake.

use std::path::Path;

use crate::{load, read};

const WHOLE: &str = "name = 'web'\nkernel = '/k'\nmemory = 256\n";

/// All messages about a text: mistakes and ignored settings.
fn told(text: &str) -> Vec<String> {
    match read(text, Path::new("/d/a.cfg")) {
        Ok(reading) => reading.warnings.iter().map(|one| format!("warning: {one}")).collect(),
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    }
}

/// The messages about a line below a whole definition, without the file's name.
fn told_of(line: &str) -> String {
    let all = told(&format!("{WHOLE}{line}\n"));
    all.join(" | ").replace("/d/a.cfg:", "").replace("partition \"web\": ", "")
}

/// Lines and their messages; no message means that the line has xl's meaning here.
const LINES: &[(&str, &str)] = &[
    ("vcpus = '2'; maxvcpus = 0x4 # four", ""),
    ("cpus = 3", ""),
    ("cpus = \"all\"", ""),
    ("vcpus = 2\ncpus = [ '0-1', \"1,0\" ]", ""),
    ("vcpus = 2\ncpus = [ ]", ""),
    ("builder = \"generic\"\ntype = 'pv'", ""),
    ("tsc_mode = 'native'", ""),
    ("tsc_mode = \"default\"\ne820_host = 0\ncpuid = [ ]", ""),
    ("extra = \"a 'quoted' \\\"word\\\"\"", ""),
    ("disk = [\n  # none\n\n]", ""),
    (";;", ""),
    ("max_grant_frames = 0x20\r", ""),
    // Numbers.
    (
        "cap = 0100",
        "4:7: cap: \"0100\" is in base 8 for xl, which is 64; write cap = 64, or leave the 0 out",
    ),
    ("cap = 09", "4:7: cap: a text is given, a number is needed; write cap = 0"),
    ("maxmem = 512M", "4:10: \"512M\" is not a number; write maxmem = 512, which is in MiB"),
    (
        "maxmem = '512M'",
        "4:10: maxmem: \"512M\" has a unit, and xl.cfg counts in MiB; write maxmem = 512",
    ),
    (
        "vcpus = 2 * 2",
        "4:11: \"vcpus\" is an expression; xl.cfg has no expressions; write the result of the \
        expression",
    ),
    (
        "vcpus = (2)",
        "4:9: the value is an expression; xl.cfg has no expressions; write the result of the \
        expression",
    ),
    (
        "vcpus = int(2)",
        "4:9: \"int\" is not in quotes; xl.cfg has no expressions; write the result of the \
        expression",
    ),
    ("acpi = True", "4:8: \"True\" is not in quotes; write 1"),
    ("pae = None", "4:7: \"None\" is not in quotes; leave the setting out"),
    // Texts.
    (
        "extra = 'a' + 'b'",
        "4:13: \"extra\" is an expression; xl.cfg has no expressions; write the result of the \
        expression",
    ),
    ("extra = 'a' 'b'", "4:13: two texts after \"extra\"; write them as one text in quotes"),
    ("extra = 'a\\x41'", "4:11: a backslash that escapes nothing; write the character itself"),
    (
        "import os",
        "4:1: no \"=\" after \"import\"; since Xen 4.1 xl.cfg is not a Python program; write KEY \
        = VALUE lines",
    ),
    // CPUs.
    (
        "vcpus = 2\ncpus = ['0','1']",
        "5:8: cpus: each entry is for one virtual CPU, and all virtual CPUs of a partition share \
        one set; write cpus = \"0-1\" if each of them may run on all of these",
    ),
    (
        "vcpus = 2\ncpus = ['0-3']",
        "5:8: cpus: each entry is for one virtual CPU, and all virtual CPUs of a partition share \
        one set; write cpus = \"all\" if each of them may run on all of these",
    ),
    ("cpus = ['0', '1']", "warning: 4:8: cpus: ignored: entries for more than 1 virtual CPUs"),
    (
        "cpus = \"all,^1\"",
        "4:8: cpus: \"^1\" excludes CPUs from all CPUs of the machine; name the CPUs that it may \
        use",
    ),
    (
        "cpus = \"^1\"",
        "4:8: cpus: \"^1\" leaves no CPU; give numbers from 0 to 255, such as \"0-3,^1\"",
    ),
    (
        "cpus = \"nodes:0\"",
        "4:8: cpus: \"nodes:0\" names NUMA nodes; name the CPUs; `uvtool resources` shows them",
    ),
    (
        "cpus = \"3-1\"",
        "4:8: cpus: \"3-1\" names no CPU; give numbers from 0 to 255, such as \"0-3,^1\"",
    ),
    // Settings that do not exist here.
    (
        "vnc = 1",
        "warning: 4:1: vnc: ignored: a PV guest has no screen; `uvtool console` shows its console",
    ),
    (
        "serial = 'pty'",
        "warning: 4:1: serial: ignored: the console is the only serial line; `uvtool console` \
        shows it",
    ),
    ("boot = 'c'", "warning: 4:1: boot: ignored: only an HVM guest has it"),
    (
        "max_event_channels = 1023",
        "warning: 4:1: max_event_channels: ignored: each partition has 4095 event channels, which \
        cost nothing until they are used",
    ),
    (
        "e820_host = 1",
        "4:1: e820_host: the memory of a partition has no holes, unlike the host's; leave it out",
    ),
    (
        "tsc_mode = 'always_emulate'",
        "4:1: tsc_mode: a partition reads the time stamp counter of the CPU itself, which is \"native\"; leave it out",
    ),
    (
        "cpuid = 'host,x2apic=0'",
        "4:1: cpuid: a partition sees the CPU features that the monitor shows, and none of them \
        can be masked; leave it out, or give an empty list",
    ),
    (
        "pci = ['01:00.0']",
        "4:1: pci: no host hardware is passed through to partitions; leave it out, or give an \
        empty list",
    ),
    (
        "builder = 'pv'",
        "4:11: builder: xl has no builder \"pv\"; write type = \"pv\", or builder = \"generic\"",
    ),
    (
        "builder = 'linux'",
        "4:11: builder: xl has no builder \"linux\"; write builder = \"generic\"",
    ),
    ("vcpuss = 2", "4:1: vcpuss: unknown setting of xl.cfg; did you mean vcpus?"),
    // A mistake hides neither the next mistake nor an ignored setting.
    (
        "cap = \nvnc = 1\nvcpus = 99",
        "4:7: there is no value here; give a number, a text in quotes or a list | \
         6:9: vcpus: 99 is more than 32; give 1 to 32 | \
         warning: 5:1: vnc: ignored: a PV guest has no screen; `uvtool console` shows its console",
    ),
    (
        "disk = [ 'a',\nvcpus = 99",
        "4:8: the list has no end; close it with ] | 5:9: vcpus: 99 is more than 32; give 1 to 32",
    ),
    (
        "disk = [ 'a'\n  'b' ]\nvcpus = 99",
        "5:3: no comma between the values of a list; separate them with commas | \
         6:9: vcpus: 99 is more than 32; give 1 to 32",
    ),
    (
        "disk = [ 'a,\n  'b' ]\nvcpus = 99",
        "4:10: the text has no end: ' is missing; close the quotes | \
         6:9: vcpus: 99 is more than 32; give 1 to 32",
    ),
    (
        "disk = [ 'a',, 'b' ]",
        "4:14: there is no value here; give a number, a text in quotes or a list",
    ),
];

#[test]
fn lines_have_the_meaning_of_xl_or_are_refused() {
    let wrong: Vec<String> = LINES
        .iter()
        .filter(|(line, expected)| told_of(line) != *expected)
        .map(|(line, expected)| format!("{line}\n  is     {}\n  wanted {expected}", told_of(line)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_taken_is_what_xl_would_take() {
    let one = |lines: &str| {
        let text = format!("\u{feff}{WHOLE}{lines}\n");
        read(&text, Path::new("/d/a.cfg")).unwrap().definitions.remove(0)
    };
    assert_eq!(one("cpus = '0-3,^1,5,^4'").cpu.affinity, [0, 2, 3, 5]);
    assert_eq!(one("cpus = 'all'").cpu.affinity, Vec::<u32>::new());
    assert_eq!(one("vcpus = 2\ncpus = ['1,0', '0-1']").cpu.affinity, [0, 1]);
    assert_eq!(one("vcpus = 2\ncpus = [3, 3]").cpu.affinity, [3]);
    assert_eq!(one("maxmem = '0x200'").max_memory, 512 << 20);
    assert_eq!(one("extra = \"a\\tb\"").command_line, "a\tb");
}

#[test]
fn bytes_that_are_no_utf8_are_told_with_their_place_and_hide_nothing() {
    let file = std::env::temp_dir().join(format!("definition-{}.cfg", std::process::id()));
    std::fs::write(&file, b"name = 'web'\nkernel = '/k'\n# caf\xe9\nmemory = 256\nvcpus = 99\n")
        .unwrap();
    let told = load(&file).unwrap_err().to_string();
    std::fs::remove_file(&file).unwrap();
    let name = file.display();
    assert_eq!(
        told,
        format!(
            "{name}:3:6: byte 0xe9 is not UTF-8; save the file as UTF-8\n\
             {name}:5:9: partition \"web\": vcpus: 99 is more than 32; give 1 to 32"
        )
    );
}

#[test]
fn mistakes_beyond_those_that_are_shown_are_counted() {
    let text = format!("{WHOLE}{}", "colour = 'red'\n".repeat(3).replace("colour", "x"));
    let lines: String = (0..60).map(|n| format!("unknown_{n} = 1\n")).collect();
    let all = told(&format!("{text}{lines}"));
    assert_eq!(all.last().unwrap(), "13 more mistakes", "{}", all.len());
}

#[test]
fn options_are_told_as_options() {
    use crate::{Given, from_options};
    let text = |text: &str| Given::Text(text.into());
    let wrong = [
        ("name", text("web")),
        ("kernel", text("/k")),
        ("memory", text("512")),
        ("vcpus", Given::Number(99)),
    ];
    assert_eq!(
        from_options(&wrong, Path::new("/d")).unwrap_err().to_string(),
        "partition \"web\": --memory: \"512\" has no unit; write \"512M\" for MiB\n\
         partition \"web\": --vcpus: 99 is more than 32; give 1 to 32"
    );
    let missing = from_options(&wrong[..2], Path::new("/d")).unwrap_err().to_string();
    assert_eq!(missing, "partition \"web\": --memory: missing; add --memory 256M");
    let good = [("name", text("web")), ("kernel", text("k")), ("memory", text("512M"))];
    let definition = from_options(&good, Path::new("/d")).unwrap();
    assert_eq!((definition.kernel.as_path(), definition.memory), (Path::new("/d/k"), 512 << 20));
}

#[test]
fn a_mistake_of_syntax_in_toml_hides_no_other() {
    let text = "name = \"web\"\nkernel = \"/k\"\nmemory = 512M\nvcpus = 99\n";
    let told = read(text, Path::new("/d/a.toml")).unwrap_err().to_string();
    let (first, second) = told.split_once('\n').unwrap();
    assert!(first.starts_with("/d/a.toml:3:"), "{told}");
    assert!(first.ends_with("; write memory = \"512M\""), "{told}");
    assert_eq!(second, "/d/a.toml:4:9: partition \"web\": vcpus: 99 is more than 32; give 1 to 32");
    // The way out works.
    assert!(
        read(&text.replace("512M", "\"512M\"").replace("99", "9"), Path::new("/d/a.toml")).is_ok()
    );
}
