//! Files as people write them.

use std::path::{Path, PathBuf};

use super::{toml, with};
use crate::{Cpu, Definition, Policies, Policy, changes, load, parse, read, to_toml};

const MIB: u64 = 1 << 20;

fn web() -> Definition {
    Definition {
        name: "web".to_owned(),
        kernel: "/k".into(),
        initrd: None,
        command_line: String::new(),
        memory: 256 * MIB,
        max_memory: 256 * MIB,
        vcpus: 1,
        max_vcpus: 1,
        cpu: Cpu::default(),
        grant_frames: 4,
        on: Policies::default(),
        domain: None,
        description: None,
    }
}

#[test]
fn three_lines_are_a_partition() {
    assert_eq!(toml(&with("")), Ok(vec![web()]));
}

#[test]
fn every_field_is_read() {
    let text = r#"
        name = "web"
        kernel = "boot/vmlinuz"     # relative to the file
        initrd = "../initrd.img"
        command_line = "console=hvc0 root=/dev/xvda"
        memory = "256 MiB"
        max_memory = "1G"
        vcpus = 2
        max_vcpus = 4
        grant_frames = 32
        domain = "front"
        description = "a server, \"web\""
        [cpu]
        weight = 512
        cap = 150
        affinity = "2,0-1,5"
        dedicated = true
        [on]
        poweroff = "preserve"
        reboot = "destroy"
        crash = "restart"
    "#;
    let whole = Definition {
        kernel: "/d/boot/vmlinuz".into(),
        initrd: Some(PathBuf::from("/d/../initrd.img")),
        command_line: "console=hvc0 root=/dev/xvda".to_owned(),
        max_memory: 1024 * MIB,
        vcpus: 2,
        max_vcpus: 4,
        grant_frames: 32,
        domain: Some("front".to_owned()),
        description: Some("a server, \"web\"".to_owned()),
        cpu: Cpu { weight: 512, cap: 150, affinity: vec![0, 1, 2, 5], dedicated: true },
        on: Policies {
            poweroff: Policy::Preserve,
            reboot: Policy::Destroy,
            crash: Policy::Restart,
        },
        ..web()
    };
    assert_eq!(toml(text), Ok(vec![whole]));
}

#[test]
fn a_file_may_define_several() {
    let one = with("").replace("web", "one");
    let two = with("vcpus = 2\n[partition.on]\ncrash = \"preserve\"").replace("web", "two");
    let read = toml(&format!("[[partition]]\n{one}[[partition]]\n{two}")).unwrap();
    assert_eq!(read[0], Definition { name: "one".to_owned(), ..web() });
    assert_eq!((&*read[1].name, read[1].vcpus, read[1].max_vcpus), ("two", 2, 2));
    assert_eq!(read[1].on.crash, Policy::Preserve);
}

#[test]
fn defaults_follow_what_is_given() {
    let read = toml(&with("max_vcpus = 8\ncpu.cap = 800\ncpu.affinity = \"all\"")).unwrap();
    assert_eq!((read[0].vcpus, read[0].max_vcpus, read[0].cpu.cap), (1, 8, 800));
    assert!(read[0].cpu.affinity.is_empty());
}

#[test]
fn limits_between_fields_hold_exactly() {
    for (right, wrong) in [
        ("vcpus = 3\nmax_vcpus = 3", "vcpus = 4\nmax_vcpus = 3"),
        ("max_memory = \"262144K\"", "max_memory = \"262140K\""),
        ("vcpus = 2\ncpu.cap = 200", "vcpus = 2\ncpu.cap = 201"),
        (
            "cpu = { dedicated = true, affinity = \"0\" }",
            "cpu = { dedicated = true, affinity = [] }",
        ),
    ] {
        assert!(toml(&with(right)).is_ok(), "{right}");
        assert!(toml(&with(wrong)).is_err(), "{wrong}");
    }
}

#[test]
fn a_long_command_line_is_refused_by_its_length() {
    let line = |bytes| with(&format!("command_line = \"{}\"", "x".repeat(bytes)));
    assert_eq!(toml(&line(1023)).unwrap()[0].command_line.len(), 1023);
    assert_eq!(
        toml(&line(1024)).unwrap_err().to_string(),
        "/d/a.toml:4:16: partition \"web\": command_line: 1024 bytes are more than 1023; \
         give at most 1023 bytes"
    );
}

#[test]
fn an_xl_file_is_read() {
    let text = r#"
        # as of xl.cfg(5)
        name = 'web'; type = "pv"
        kernel = "/k"
        ramdisk = "/i"
        root = "/dev/xvda"
        extra = "quiet console=hvc0"
        memory = 256
        maxmem = "512"
        vcpus = 0x2
        maxvcpus = 4
        cpu_weight = 512
        cap = 150
        cpus = "0-2,5,^2"
        on_poweroff = "destroy"
        on_reboot = "restart"
        on_crash = "preserve"
        bootloader = "pygrub"
        uuid = "06ed00fe-1162-4fc4-b5d8-11993ee4a8b9"
        disk = [
               ]        # over lines
    "#;
    let read = read(text, Path::new("/d/web.cfg")).unwrap();
    let expected = Definition {
        initrd: Some("/i".into()),
        command_line: "root=/dev/xvda quiet console=hvc0".to_owned(),
        max_memory: 512 * MIB,
        vcpus: 2,
        max_vcpus: 4,
        cpu: Cpu { weight: 512, cap: 150, affinity: vec![0, 1, 5], dedicated: false },
        on: Policies { crash: Policy::Preserve, ..Policies::default() },
        ..web()
    };
    assert_eq!(read.definitions, [expected]);
    let warnings: Vec<_> = read.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "/d/web.cfg:18:9: partition \"web\": bootloader: passed over: no boot loader runs on \
             the host; the kernel is read from the file that kernel names",
            "/d/web.cfg:19:9: partition \"web\": uuid: passed over: a partition has a name and a \
             number",
        ]
    );
}

#[test]
fn cmdline_goes_before_root_and_extra() {
    let text = "name='web'\nkernel='/k'\nmemory=256\ncmdline='a'\nextra='b'\n";
    let read = read(text, Path::new("/d/web.cfg")).unwrap();
    assert_eq!(read.definitions[0].command_line, "a");
    assert_eq!(
        read.warnings[0].to_string(),
        "/d/web.cfg:5:1: partition \"web\": extra: passed over: cmdline is there, too; \
         leave it out, or cmdline"
    );
}

#[test]
fn the_format_is_told_by_the_contents_where_no_extension_tells_it() {
    let plain = Path::new("/d/web");
    let xl = "name = \"web\"\nkernel = \"/k\"\nmemory = 256\nmaxmem = 256\n";
    assert_eq!(parse(xl, plain), Ok(vec![web()]));
    assert_eq!(parse(&xl.replace('"', "'"), plain), Ok(vec![web()]));
    assert_eq!(
        parse("name = 'web'\nkernel = '/k'\nmemory = 256\ncpus = [\"1\" ]", plain).unwrap()[0]
            .cpu
            .affinity,
        [1]
    );
    assert_eq!(parse(&with(""), plain), Ok(vec![web()]));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let absent = load(Path::new("/nowhere/web.toml")).unwrap_err().to_string();
    assert_eq!(
        absent,
        "/nowhere/web.toml: cannot be read: No such file or directory (os error 2); \
         give a file of definitions"
    );
    let program = load(Path::new("/proc/self/exe")).unwrap_err().to_string();
    assert!(program.contains("has more than 1M; split it"), "{program}");
    let directory = load(Path::new("/")).unwrap_err().to_string();
    assert!(directory.starts_with("/: cannot be read: Is a directory"), "{directory}");
}

#[test]
fn changes_name_fields_values_and_whether_they_are_live() {
    let new = Definition {
        memory: 128 * MIB,
        vcpus: 2,
        max_vcpus: 2,
        initrd: Some("/i".into()),
        cpu: Cpu { weight: 1, cap: 50, affinity: vec![0, 1, 2], dedicated: false },
        ..web()
    };
    let told: Vec<_> = changes(&web(), &new)
        .into_iter()
        .map(|change| format!("{} {}>{} {}", change.field, change.from, change.to, change.live))
        .collect();
    assert_eq!(
        told,
        [
            "initrd none>/i false",
            "memory 256M>128M true",
            "vcpus 1>2 false",
            "max_vcpus 1>2 false",
            "cpu.weight 256>1 true",
            "cpu.cap none>50% true",
            "cpu.affinity all>0-2 true",
        ]
    );
    assert_eq!(changes(&new, &new), []);
}

#[test]
fn toml_is_written_as_a_person_would() {
    let text = to_toml(&[web()]);
    for line in ["name = \"web\"", "memory = \"256M\"", "[cpu]", "crash = \"destroy\""] {
        assert!(text.lines().any(|other| other == line), "{line} in {text}");
    }
}
