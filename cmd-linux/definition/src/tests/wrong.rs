//! Wrong input: each line asserts the whole message that a person gets.

use std::path::Path;

use super::with;

/// The messages about a file in the directory `/d`.
fn told(file: &str, text: &str) -> String {
    match crate::parse(text, &Path::new("/d").join(file)) {
        Ok(definitions) => format!("accepted: {definitions:?}"),
        Err(errors) => errors.to_string(),
    }
}

/// Cases in which a line is added to a whole definition: the line, and the messages. The line is
/// the fourth of the file.
const LINES: &[(&str, &str)] = &[
    ("vcpu = 2", r#"/d/a.toml:4:1: partition "web": vcpu: unknown key; did you mean vcpus?"#),
    (
        r#"max-memory = "1G""#,
        r#"/d/a.toml:4:1: partition "web": max-memory: unknown key; did you mean max_memory?"#,
    ),
    (
        "maxmem = 512",
        r#"/d/a.toml:4:1: partition "web": maxmem: unknown key; the field is called max_memory here"#,
    ),
    (
        r#"cmdline = "quiet""#,
        r#"/d/a.toml:4:1: partition "web": cmdline: unknown key; the field is called command_line here"#,
    ),
    (
        r#"ramdisk = "/i""#,
        r#"/d/a.toml:4:1: partition "web": ramdisk: unknown key; the field is called initrd here"#,
    ),
    (
        "cpu_weight = 512",
        r#"/d/a.toml:4:1: partition "web": cpu_weight: unknown key; the field is called cpu.weight here"#,
    ),
    (
        r#"cpus = "0-3""#,
        r#"/d/a.toml:4:1: partition "web": cpus: unknown key; the field is called cpu.affinity here"#,
    ),
    (
        r#"disk = ["a"]"#,
        r#"/d/a.toml:4:9: partition "web": disk: a text is given, tables are needed; head each disk with a line [[disk]], or [[partition.disk]] below [[partition]]"#,
    ),
    (
        "[disk]\ndevice = \"xvda\"",
        r#"/d/a.toml:4:1: partition "web": disk: a table is given, tables are needed; head each disk with a line [[disk]], or [[partition.disk]] below [[partition]]"#,
    ),
    (
        r#"disks = ["a"]"#,
        r#"/d/a.toml:4:1: partition "web": disks: unknown key; the field is called disk here"#,
    ),
    (
        r#"vif = ["a"]"#,
        r#"/d/a.toml:4:1: partition "web": vif: unknown key; partitions have no devices but disks yet, leave it out"#,
    ),
    (
        "[[disk]]\nsize = 3",
        r#"/d/a.toml:4:1: partition "web": device: missing; add a line like device = "xvda"
/d/a.toml:4:1: partition "web": function: missing; add a line like function = "00:05.0"
/d/a.toml:5:1: partition "web": disk.size: unknown key; known are device, function, partition, extents, read_only, shared"#,
    ),
    (
        "[[disk]]\ndevice = \"sda\"\nfunction = \"00:05\"\nread-only = true\nshared = 1",
        r#"/d/a.toml:5:10: partition "web": disk.device: "sda" is not a whole disk; give xvda to xvdz
/d/a.toml:6:12: partition "web": disk.function: "00:05" is not a PCI function; give a PCI address such as "00:05.0"; `uvtool resources` shows the functions
/d/a.toml:7:1: partition "web": disk.read-only: unknown key; did you mean disk.read_only?
/d/a.toml:8:10: partition "web": disk.shared: a number is given, true or false is needed; write shared = true"#,
    ),
    (
        "[[disk]]\ndevice = \"xvda\"\nfunction = 3\n[[disk]]\ndevice = 51712\nfunction = 4",
        r#"/d/a.toml:8:10: partition "web": disk.device: xvda is listed twice; give each disk a device of its own"#,
    ),
    (
        "[[disk]]\ndevice = \"xvda\"\nfunction = 3\npartition = 129",
        r#"/d/a.toml:7:13: partition "web": disk.partition: 129 is more than 128; give 1 to 128"#,
    ),
    (
        "[[disk]]\ndevice = 51713\nfunction = -1",
        r#"/d/a.toml:5:10: partition "web": disk.device: 51713 is not a whole disk; give xvda to xvdz
/d/a.toml:6:12: partition "web": disk.function: -1 is not a PCI function; give a PCI address such as "00:05.0"; `uvtool resources` shows the functions"#,
    ),
    (
        "[[disk]]\ndevice = \"xvda\"\nfunction = 3\nextents = []",
        r#"/d/a.toml:7:11: partition "web": disk.extents: tables of start and sectors are needed; write extents = [{ start = 2048, sectors = 409600 }], in sectors of 512 bytes"#,
    ),
    (
        "[[disk]]\ndevice = \"xvda\"\nfunction = 3\npartition = 1\nextents = [{start = 0, sectors = 8}, {start = 7, sectors = 1}]",
        r#"/d/a.toml:8:11: partition "web": disk.extents: stand beside a partition; leave one of them out
/d/a.toml:8:11: partition "web": disk.extents: two extents have the sectors from 7 on in common; give extents that lie side by side on the disk"#,
    ),
    (
        r#"colour = "red""#,
        r#"/d/a.toml:4:1: partition "web": colour: unknown key; known are name, kernel, initrd, command_line, memory, max_memory, vcpus, max_vcpus, cpu, grant_frames, on, autostart, domain, description, disk"#,
    ),
    ("vcpus = 0", r#"/d/a.toml:4:9: partition "web": vcpus: 0 is less than 1; give 1 to 32"#),
    ("vcpus = 33", r#"/d/a.toml:4:9: partition "web": vcpus: 33 is more than 32; give 1 to 32"#),
    ("vcpus = -1", r#"/d/a.toml:4:9: partition "web": vcpus: -1 is less than 1; give 1 to 32"#),
    (
        r#"vcpus = "two""#,
        r#"/d/a.toml:4:9: partition "web": vcpus: a text is given, a number is needed; write vcpus = 1"#,
    ),
    (
        "vcpus = 1.5",
        r#"/d/a.toml:4:9: partition "web": vcpus: a number with a point is given, a number is needed; write vcpus = 1"#,
    ),
    (
        "vcpus = 99999999999999999999",
        r#"/d/a.toml:4:9: partition "web": vcpus: 99999999999999999999 is more than 32; give 1 to 32"#,
    ),
    (
        "vcpus = 4\nmax_vcpus = 2",
        r#"/d/a.toml:4:9: partition "web": vcpus: 4 is more than max_vcpus = 2; give 1 to 2, or raise max_vcpus"#,
    ),
    (
        "max_vcpus = 64",
        r#"/d/a.toml:4:13: partition "web": max_vcpus: 64 is more than 32; give 1 to 32"#,
    ),
    (
        r#"max_memory = "128M""#,
        r#"/d/a.toml:3:10: partition "web": memory: 256M is more than max_memory = 128M; give at most 128M, or raise max_memory"#,
    ),
    (
        "max_memory = 512",
        r#"/d/a.toml:4:14: partition "web": max_memory: 512 has no unit; write max_memory = "512M" for MiB"#,
    ),
    (
        r#"max_memory = "512""#,
        r#"/d/a.toml:4:14: partition "web": max_memory: "512" has no unit; write "512M" for MiB"#,
    ),
    (
        r#"max_memory = "lots""#,
        r#"/d/a.toml:4:14: partition "web": max_memory: "lots" is not a size; give a whole number with B, K, M, G or T, such as "256M""#,
    ),
    (
        r#"max_memory = "5T""#,
        r#"/d/a.toml:4:14: partition "web": max_memory: "5T" is more than 4T; give 1M to 4T"#,
    ),
    (
        r#"max_memory = "99999999999999999999G""#,
        r#"/d/a.toml:4:14: partition "web": max_memory: "99999999999999999999G" is more than 4T; give 1M to 4T"#,
    ),
    (
        r#"max_memory = "1025K""#,
        r#"/d/a.toml:4:14: partition "web": max_memory: "1025K" is not a multiple of 4 KiB; give 1M or another multiple"#,
    ),
    (
        "max_memory = true",
        r#"/d/a.toml:4:14: partition "web": max_memory: true or false is given, a text is needed; write max_memory = "256M""#,
    ),
    (
        "grant_frames = 0",
        r#"/d/a.toml:4:16: partition "web": grant_frames: 0 is less than 1; give 1 to 64"#,
    ),
    (
        "grant_frames = 65",
        r#"/d/a.toml:4:16: partition "web": grant_frames: 65 is more than 64; give 1 to 64"#,
    ),
    (
        r#"initrd = """#,
        r#"/d/a.toml:4:10: partition "web": initrd: an empty path; give the path of a file"#,
    ),
    (
        "initrd = 7",
        r#"/d/a.toml:4:10: partition "web": initrd: a number is given, a text is needed; write initrd = "/boot/FILE""#,
    ),
    (
        r#"initrd = "a\u0000b""#,
        r#"/d/a.toml:4:10: partition "web": initrd: a path with a zero byte in it; give a path without"#,
    ),
    (
        r#"command_line = ["quiet"]"#,
        r#"/d/a.toml:4:16: partition "web": command_line: a list is given, a text is needed; write command_line = "console=hvc0""#,
    ),
    (
        r#"command_line = "a\nb""#,
        r#"/d/a.toml:4:16: partition "web": command_line: '\n' is in it; give one line without control characters"#,
    ),
    (
        r#"domain = """#,
        r#"/d/a.toml:4:10: partition "web": domain: "" has 0 bytes; give 1 to 31 bytes"#,
    ),
    (
        r#"domain = "a/b""#,
        r#"/d/a.toml:4:10: partition "web": domain: "a/b" has '/' in it; give a name without control characters, '/' and '"'"#,
    ),
    (
        r#"domain = "front ""#,
        r#"/d/a.toml:4:10: partition "web": domain: "front " begins or ends with a space; leave the space out"#,
    ),
    (
        "cpu = 3",
        r#"/d/a.toml:4:7: partition "web": cpu: a number is given, a table is needed; write its fields below [cpu]"#,
    ),
    (
        "cpu.weight = 0",
        r#"/d/a.toml:4:14: partition "web": cpu.weight: 0 is less than 1; give 1 to 65535"#,
    ),
    (
        "cpu.weight = 65536",
        r#"/d/a.toml:4:14: partition "web": cpu.weight: 65536 is more than 65535; give 1 to 65535"#,
    ),
    (
        "cpu.cap = 101",
        r#"/d/a.toml:4:11: partition "web": cpu.cap: 101% is more than 1 virtual CPU(s) can use; give 1 to 100, or 0 for no cap"#,
    ),
    (
        "cpu.cap = 3201",
        r#"/d/a.toml:4:11: partition "web": cpu.cap: 3201 is more than 3200; give 0 to 3200"#,
    ),
    (
        "cpu.cap = -5",
        r#"/d/a.toml:4:11: partition "web": cpu.cap: -5 is less than 0; give 0 to 3200"#,
    ),
    (
        r#"cpu.affinity = "0-""#,
        r#"/d/a.toml:4:16: partition "web": cpu.affinity: "0-" names no CPU; give numbers from 0 to 255, such as "0-3,5""#,
    ),
    (
        r#"cpu.affinity = "3-1""#,
        r#"/d/a.toml:4:16: partition "web": cpu.affinity: "3-1" names no CPU; give numbers from 0 to 255, such as "0-3,5""#,
    ),
    (
        r#"cpu.affinity = "0-300""#,
        r#"/d/a.toml:4:16: partition "web": cpu.affinity: "0-300" names no CPU; give numbers from 0 to 255, such as "0-3,5""#,
    ),
    (
        r#"cpu.affinity = "1,2,1""#,
        r#"/d/a.toml:4:16: partition "web": cpu.affinity: CPU 1 is listed twice; name each CPU once"#,
    ),
    (
        "cpu.affinity = [0, 0]",
        r#"/d/a.toml:4:16: partition "web": cpu.affinity: CPU 0 is listed twice; name each CPU once"#,
    ),
    (
        r#"cpu.affinity = [0, "x"]"#,
        r#"/d/a.toml:4:16: partition "web": cpu.affinity: "x" names no CPU; give numbers from 0 to 255, such as "0-3,5""#,
    ),
    (
        "cpu.affinity = 3",
        r#"/d/a.toml:4:16: partition "web": cpu.affinity: a number is given, a list of CPUs is needed; write affinity = "0-3,5""#,
    ),
    (
        r#"cpu.dedicated = "yes""#,
        r#"/d/a.toml:4:17: partition "web": cpu.dedicated: a text is given, true or false is needed; write dedicated = true"#,
    ),
    (
        "cpu.dedicated = true",
        r#"/d/a.toml:4:17: partition "web": cpu.dedicated: true, and cpu.affinity names no CPUs; name the CPUs in cpu.affinity"#,
    ),
    (
        "cpu.weigth = 3",
        r#"/d/a.toml:4:5: partition "web": cpu.weigth: unknown key; did you mean cpu.weight?"#,
    ),
    (
        "cpu.maxmem = 3",
        r#"/d/a.toml:4:5: partition "web": cpu.maxmem: unknown key; known are weight, cap, affinity, dedicated"#,
    ),
    (
        r#"on.crash = "reboot""#,
        r#"/d/a.toml:4:12: partition "web": on.crash: "reboot" is not a policy; give destroy, restart or preserve"#,
    ),
    (
        "on.crash = 1",
        r#"/d/a.toml:4:12: partition "web": on.crash: a number is given, a text is needed; write crash = "destroy""#,
    ),
    (
        r#"on.crashes = "restart""#,
        r#"/d/a.toml:4:4: partition "web": on.crashes: unknown key; did you mean on.crash?"#,
    ),
    (
        r#"on = "restart""#,
        r#"/d/a.toml:4:6: partition "web": on: a text is given, a table is needed; write its fields below [on]"#,
    ),
    (r#"name = "other""#, "/d/a.toml:4:1: name: is set twice; leave one of them out"),
    (
        "vcpus = ",
        "/d/a.toml:4:9: not TOML: string values must be quoted, expected literal string; write \
        KEY = VALUE lines",
    ),
    (
        "vcpus 2",
        "/d/a.toml:4:7: not TOML: key with no value, expected `=`; write KEY = VALUE lines",
    ),
    (
        "max_memory = 512M",
        r#"/d/a.toml:4:14: not TOML: string values must be quoted, expected literal string; write max_memory = "512M""#,
    ),
    (
        r#"domain = "never closed"#,
        r#"/d/a.toml:4:23: not TOML: invalid basic string, expected `"`; write KEY = VALUE lines"#,
    ),
];

/// Whole files.
const FILES: &[(&str, &str, &str)] = &[
    (
        "a.toml",
        "",
        "/d/a.toml:1:1: partition: name: missing; add a line like name = \"web-1\"\n/d/a.toml:1:1: partition: kernel: missing; add a line like kernel = \"/boot/vmlinuz\"\n/d/a.toml:1:1: partition: memory: missing; add a line like memory = \"256M\"",
    ),
    (
        "a.toml",
        "name = \"\"\nkernel = \"/k\"\nmemory = \"256M\"\n",
        r#"/d/a.toml:1:8: partition: name: "" has 0 bytes; give 1 to 31 bytes"#,
    ),
    (
        "a.toml",
        "name = \"a-name-that-is-longer-than-31-bytes\"\nkernel = \"/k\"\nmemory = \"256M\"\n",
        r#"/d/a.toml:1:8: partition "a-name-that-is-longer-than-31-bytes": name: "a-name-that-is-longer-than-31-bytes" has 35 bytes; give 1 to 31 bytes"#,
    ),
    (
        "a.toml",
        "name = \"12\"\nkernel = \"/k\"\nmemory = \"256M\"\n",
        r#"/d/a.toml:1:8: partition "12": name: "12" would be taken for a partition's number; give a name with a letter in it"#,
    ),
    (
        "a.toml",
        "name = \"a\\u0007b\"\nkernel = \"/k\"\nmemory = \"256M\"\n",
        r#"/d/a.toml:1:8: partition "a\u{7}b": name: "a\u{7}b" has '\u{7}' in it; give a name without control characters, '/' and '"'"#,
    ),
    (
        "a.toml",
        "name = \"web\"\nkernel = \"/k\"\nmemory = \"512K\"\n",
        r#"/d/a.toml:3:10: partition "web": memory: "512K" is less than 1M; give 1M to 4T"#,
    ),
    (
        "a.toml",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\n",
        r#"/d/a.toml:3:10: partition "web": memory: 256 has no unit; write memory = "256M" for MiB"#,
    ),
    (
        "a.toml",
        "name = \"web\"\nkernel = \"\"\nmemory = \"256M\"\n",
        r#"/d/a.toml:2:10: partition "web": kernel: an empty path; give the path of a file"#,
    ),
    (
        "a.toml",
        "name = \"web\"\nkernel = \"/k\"\n",
        r#"/d/a.toml:1:1: partition "web": memory: missing; add a line like memory = "256M""#,
    ),
    (
        "a.toml",
        "[[partition]]\nname = \"a\"\nkernel = \"/k\"\nmemory = \"64M\"\n[[partition]]\nname = \"a\"\nkernel = \"/k\"\nmemory = \"64M\"\n",
        r#"/d/a.toml:6:8: partition 2: name: partition 1 has the name "a", too; give it another name"#,
    ),
    (
        "a.toml",
        "memory = \"1G\"\n[[partition]]\nname = \"a\"\nkernel = \"/k\"\nmemory = \"64M\"\n",
        "/d/a.toml:1:1: memory: stands beside [[partition]] tables and belongs to none of them; put it below a [[partition]] line",
    ),
    (
        "a.toml",
        "[partition]\nname = \"a\"\n",
        "/d/a.toml:1:2: partition: a table is given, tables are needed; head each partition with a line [[partition]]",
    ),
    (
        "a.toml",
        "partition = []\n",
        "/d/a.toml:1:1: partition: 0 partitions in a file; give 1 to 1024",
    ),
    (
        "a.toml",
        "partition = [1]\n",
        "/d/a.toml:1:14: partition 1: a number is given, a table is needed; head it with a line [[partition]]",
    ),
    (
        "a.toml",
        "[[partition]]\nname = \"a\"\nkernel = \"/k\"\nmemory = \"64M\"\n[[partition]]\nkernel = \"/k\"\nmemory = \"64M\"\nvcpus = 40\n",
        "/d/a.toml:8:9: partition 2: vcpus: 40 is more than 32; give 1 to 32\n/d/a.toml:5:1: partition 2: name: missing; add a line like name = \"web-1\"",
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\ntype = \"hvm\"\n",
        r#"/d/a.cfg:4:8: partition "web": type: "hvm" is a kind of guest that this host does not have; give "pv" and a kernel with CONFIG_XEN_PV"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\nbuilder = \"hvm\"\n",
        r#"/d/a.cfg:4:11: partition "web": builder: "hvm" is a kind of guest that this host does not have; give "generic" and a kernel with CONFIG_XEN_PV"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\ndisk = [ \"phy:/dev/vg/web,xvda,w\" ]\n",
        r#"/d/a.cfg:4:10: partition "web": disk: "/dev/vg/web" names no PCI function, and files cannot be disks here; name the disk of a PCI function, as in "phy:pci:00:05.0,xvda,w"; `uvtool resources` shows the functions"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\nvif = [ \"bridge=br0\" ]\n",
        r#"/d/a.cfg:4:1: partition "web": vif: partitions have no devices but disks yet; leave it out, or give an empty list"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\nmaxmem = 128\n",
        r#"/d/a.cfg:3:10: partition "web": memory: 256M is more than maxmem = 128M; give at most 128M, or raise maxmem"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = \"lots\"\n",
        r#"/d/a.cfg:3:10: partition "web": memory: a text is given, a number is needed; write memory = 256"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\nvcpus = 4\nmaxvcpus = 2\n",
        r#"/d/a.cfg:4:9: partition "web": vcpus: 4 is more than maxvcpus = 2; give 1 to 2, or raise maxvcpus"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\non_crash = \"coredump-restart\"\n",
        r#"/d/a.cfg:4:12: partition "web": on_crash: "coredump-restart" is an action that this host does not have; give "restart", or another of destroy, restart and preserve"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\non_crash = \"panic\"\n",
        r#"/d/a.cfg:4:12: partition "web": on_crash: "panic" is not a policy; give destroy, restart or preserve"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\nmaxcpus = 2\n",
        r#"/d/a.cfg:4:1: partition "web": maxcpus: unknown setting of xl.cfg; did you mean maxvcpus?"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\nmemory = 128\n",
        "/d/a.cfg:4:1: memory: is set twice; leave one of them out",
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\nextra += \"quiet\"\n",
        r#"/d/a.cfg:4:1: "+=" adds to "extra", which is not possible here; write the whole value with "=""#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256 MB\n",
        r#"/d/a.cfg:3:14: more text after the value of "memory"; put text with spaces in quotes"#,
    ),
    (
        "a.cfg",
        "name = web\nkernel = \"/k\"\nmemory = 256\n",
        r#"/d/a.cfg:1:8: "web" is not in quotes; write name = "web""#,
    ),
    (
        "a.cfg",
        "name = \"web\nkernel = \"/k\"\nmemory = 256\n",
        r#"/d/a.cfg:1:8: the text has no end: " is missing; close the quotes"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\ncpus = [ \"0\" \"1\" ]\n",
        "/d/a.cfg:4:14: no comma between the values of a list; separate them with commas",
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\ncpus = [ \"0\"\n",
        "/d/a.cfg:4:8: the list has no end; close it with ]",
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 12x\n",
        r#"/d/a.cfg:3:10: "12x" is not a number; give a whole number, or a text in quotes"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nmemory = 256\nbootloader = \"pygrub\"\n",
        r#"/d/a.cfg:3:1: partition "web": kernel: missing: bootloader would find the kernel on a disk, but no boot loader runs on this host; give the path of a kernel, or PV GRUB: kernel = "/usr/lib/grub-xen/grub-x86_64-xen.bin"
warning: /d/a.cfg:3:1: partition "web": bootloader: ignored: no boot loader runs on the host; the kernel is read from the file that kernel names"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\n",
        r#"/d/a.cfg:1:1: partition "web": memory: missing; add a line like memory = 256"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\nextra = [ \"quiet\" ]\n",
        r#"/d/a.cfg:4:9: partition "web": extra: a list is given, a text is needed; write extra = "...""#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\nfirmware = \"uefi\"\n",
        r#"/d/a.cfg:4:1: partition "web": firmware: a PV guest has no firmware; PV GRUB is given as kernel, see xl.cfg in the documentation; leave it out"#,
    ),
    (
        "a.cfg",
        "name = \"web\"\nkernel = \"/k\"\nmemory = 256\nextra = \"a\\qb\"\n",
        r#"/d/a.cfg:4:11: a backslash that escapes nothing; write \\ for a backslash"#,
    ),
];

#[test]
fn a_wrong_line_is_told_with_place_field_limit_and_way_out() {
    for (line, sentence) in LINES {
        assert_eq!(told("a.toml", &with(line)), *sentence, "of the line {line}");
    }
}

#[test]
fn a_wrong_file_is_told_with_place_field_limit_and_way_out() {
    for (file, text, sentence) in FILES {
        assert_eq!(told(file, text), *sentence, "of {file} with {text}");
    }
}

#[test]
fn the_table_is_long_enough() {
    assert!(LINES.len() + FILES.len() >= 60, "{}", LINES.len() + FILES.len());
}
