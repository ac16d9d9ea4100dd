//! Files as people write them.

use std::path::{Path, PathBuf};

use super::{toml, with};
use control::command::DiskNumber;

use crate::{
    Autostart, Cpu, Definition, Disk, DiskExtent, Function, Policies, Policy, changes, load, parse,
    read, to_toml,
};

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
        autostart: Autostart::default(),
        disks: Vec::new(),
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
        [autostart]
        enabled = true
        order = 20
        delay = 5
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
        autostart: Autostart { enabled: true, order: 20, delay: 5 },
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
            "/d/web.cfg:18:9: partition \"web\": bootloader: ignored: no boot loader runs on \
             the host; the kernel is read from the file that kernel names",
            "/d/web.cfg:19:9: partition \"web\": uuid: ignored: a partition has a name and a \
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
        "/d/web.cfg:5:1: partition \"web\": extra: ignored: cmdline is there, too; \
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

fn disk(device: char, address: u32) -> Disk {
    Disk {
        device: DiskNumber::of_letter(device).unwrap().0,
        function: Function::Address(address),
        partition: None,
        extents: Vec::new(),
        read_only: false,
        shared: false,
    }
}

#[test]
fn disks_are_read() {
    let lines = r#"
        [[disk]]
        device = "xvda"
        function = "00:05.0"
        [[disk]]
        device = 51728
        function = "0001:02:1f.7"
        partition = 2
        read_only = true
        [[disk]]
        device = "xvdz"
        function = 3
        shared = true
        extents = [{ start = 2048, sectors = 8 }, { start = 0, sectors = 1 }]
    "#;
    let extents = vec![DiskExtent { start: 2048, sectors: 8 }, DiskExtent { start: 0, sectors: 1 }];
    let third = Disk { function: Function::Index(3), shared: true, extents, ..disk('z', 0) };
    let second = disk('b', 1 << 16 | 2 << 8 | 0x1f << 3 | 7);
    let disks =
        vec![disk('a', 5 << 3), Disk { partition: Some(2), read_only: true, ..second }, third];
    let whole = Definition { disks, ..web() };
    assert_eq!(toml(&with(lines)), Ok(vec![whole.clone()]));
    let several =
        format!("[[partition]]\n{}", with(lines).replace("[[disk]]", "[[partition.disk]]"));
    assert_eq!(toml(&several), Ok(vec![whole.clone()]));
    let json = crate::to_json(&whole);
    assert_eq!(json["disk"][0]["device"], "xvda");
    assert_eq!(json["disk"][1]["function"], "0001:02:1f.7");
    assert_eq!(json["disk"][2]["extents"][0]["start"], 2048);
    assert_eq!(whole.check(), Ok(()));
}

#[test]
fn a_disk_comes_and_goes_while_the_partition_runs_but_a_device_keeps_its_disk() {
    let of = |disks: &[Disk]| Definition { disks: disks.to_vec(), ..web() };
    let (one, two) = (of(&[disk('a', 8)]), of(&[disk('a', 8), disk('b', 16)]));
    let change = |old: &Definition, new: &Definition| changes(old, new).remove(0);
    let added = change(&one, &two);
    assert_eq!(
        (&*added.field, &*added.from, &*added.to, added.live),
        ("disk", "xvda on 0000:00:01.0", "xvda on 0000:00:01.0, xvdb on 0000:00:02.0", true)
    );
    let gone = change(&one, &web());
    assert_eq!((&*gone.to, gone.live), ("none", true));
    assert!(!change(&one, &of(&[disk('a', 16)])).live);
}

#[test]
fn a_disk_of_a_request_is_checked_as_one_of_a_file() {
    let wrong = Definition { disks: vec![disk('a', 8), disk('a', 16)], ..web() };
    let unfit = wrong.check().unwrap_err();
    assert_eq!((unfit.field, &*unfit.problem), ("disk", "xvda: device: xvda is listed twice"));
    let wrong = Disk { device: 7, ..disk('a', 8) };
    assert_eq!(wrong.check().unwrap_err().field, "device");
}

#[test]
fn disks_of_xl_name_functions() {
    let read = |disk: &str| {
        let text = format!("name='web'\nkernel='/k'\nmemory=256\ndisk=[{disk}]\n");
        let reading = read(&text, Path::new("/d/web.cfg")).unwrap();
        (reading.definitions[0].disks.clone(), reading.warnings.len())
    };
    let one = disk('a', 5 << 3);
    let read_only = Disk { read_only: true, ..one.clone() };
    for text in [
        "'phy:pci:00:05.0,xvda,w'",
        "'pci:00:05.0,,xvda'",
        "'pci:00:05.0,raw,xvda,rw'",
        "'format=raw, vdev=xvda, access=rw, target=pci:0000:00:05.0'",
        "'vdev=xvda,target=phy:pci:00:05.0'",
        "'phy:pci:00:05.0,xvda:disk,w'",
    ] {
        assert_eq!(read(text), (vec![one.clone()], 0), "{text}");
    }
    for text in ["'file:pci:00:05.0,xvda,r'", "'access=ro,vdev=xvda,target=pci:00:05.0'"] {
        assert_eq!(read(text), (vec![read_only.clone()], 0), "{text}");
    }
    let second = Disk { partition: Some(2), shared: true, ..disk('b', 6 << 3) };
    let both = "'phy:pci:00:05.0,xvda,w', 'backendtype=phy,phy:pci:00:06.0/2,xvdb,w!,discard'";
    assert_eq!(read(both), (vec![one, second], 2));
}

#[test]
fn disks_of_xl_that_are_no_functions_are_refused_with_a_way_out() {
    for (disk, says) in [
        ("'/dev/vg/web,raw,xvda,rw'", "\"/dev/vg/web\" names no PCI function"),
        ("'file:/srv/web.img,xvda,w'", "\"/srv/web.img\" names no PCI function"),
        ("'pci:00:05.0,qcow2,xvda,rw'", "qcow2 is a format of image files; give raw"),
        ("'phy:pci:00:05.0,sda,w'", "vdev: \"sda\" is not a whole disk; give xvda to xvdz"),
        ("'phy:pci:00:05.0,xvda1,w'", "vdev: \"xvda1\" is not a whole disk"),
        ("'phy:pci:00:05.0,xvda,x'", "access: \"x\" is unknown; give r or w"),
        ("'phy:pci:00:05.0,xvda,w,y'", "\"y\" is one word too many"),
        ("'phy:pci:00:05.0,xvda:cdrom,r'", "is only for HVM guests"),
        ("'phy:pci:00:05.0,script=x,xvda'", "\"script\" does not exist here"),
        ("'vdev=xvda'", "names no PCI function"),
        ("'phy:pci:00:05.0/x,xvda'", "is not a GPT partition of a function"),
        ("'phy:pci:00:05.0/0,xvda'", "partition: 0 is less than 1"),
        ("'phy:pci:00:05,xvda'", "is not a PCI function"),
        ("'phy:pci:0:5.0,xvda','phy:pci:0:6.0,xvda'", "vdev: xvda is listed twice"),
        ("7", "a number is given, a text is needed"),
    ] {
        let text = format!("name='web'\nkernel='/k'\nmemory=256\ndisk=[{disk}]\n");
        let told = read(&text, Path::new("/d/web.cfg")).unwrap_err().to_string();
        assert!(told.contains(says), "{disk}: {told}");
        assert!(told.lines().count() == 1 && told.contains("disk: "), "{disk}: {told}");
    }
}
