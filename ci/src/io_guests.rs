//! Stock Debian guests with disks that the I/O partitions serve.
//!
//! Each guest has a shell on its console. A step is a command that is typed there; it ends with a
//! line that has the step's number and the command's status.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rig::build::kernel::{self, Kernel};
use rig::image::command_image::FileToSend;
use rig::image::{guest_disk, guest_image};
use rig::options::{BootOptions, MachineOptions};
use rig::workspace;
use serde_json::Value;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::host::Host;

mod fio;
mod from_disk;

const CHECKS: &[Check] = &[
    Check { name: "first-sector", run: first_sector },
    Check { name: "write-and-flush", run: write_and_flush },
    Check { name: "attach-detach", run: attach_and_detach },
    Check { name: "several-rings", run: several_rings },
    Check { name: "destroyed-under-load", run: destroyed_under_load },
    Check { name: "discard", run: discard },
    Check { name: "boots-from-disk", run: from_disk::boots },
    Check { name: "fio", run: fio::verifies },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// The paths of the guests' kernel and RAM disk in the command partition.
const KERNEL: &str = "/root/vmlinuz";
const RAM_DISK: &str = "/root/initrd";
/// The path of [`SCRIPT`] in a guest.
const SCRIPT_PATH: &str = "/root/disk";
/// The time limit of a step: the machine is emulated.
const LIMIT: Duration = Duration::from_secs(240);
/// The disks of the machine, in the order of their functions. The second is another I/O partition's
/// than the first. The third has a guest's root file system.
const DISKS: [u32; 3] = [0, 1, ROOT];
/// The disk with a guest's root file system.
const ROOT: u32 = 2;
/// Sectors of a disk.
const SECTORS: u64 = 32 << 11;
/// Sectors of the disk with a root file system.
const ROOT_SECTORS: u32 = 256 << 11;
/// Where a guest writes on its disk, and how many bytes.
const REGION: u64 = 1 << 20;
const REGION_BYTES: usize = 4 << 20;

/// Steps in a guest. A step that fails says why.
const SCRIPT: &str = r##"#!/bin/busybox sh
# there DEV: waits until the disk is there, and prints its sectors
# gone DEV: waits until it is not
# mark DEV: prints the text in the first sector, past all caches
# write DEV WORD: fills the region with lines of this word, and flushes
# read DEV WORD: the region has these lines, read past all caches, and again by way of the cache
# discard DEV: discards the region, and prints the bytes of the smallest discard
# load DEV: reads and writes until it is killed
# root: prints the kernel's release, the device of the root file system, and its type
# note WORD, noted: writes a word to the root file system, and prints it
# log: prints what the kernel has logged since the last such step
# fio DEV SECONDS: mixed reads, writes and flushes of 4 KiB to 64 KiB, then discards and writes,
#     all verified
wait_for() {
    n=0
    until eval "$1"; do
        n=$((n + 1)); [ $n -lt 1200 ] || { echo "in vain: $1"; exit 1; }
        usleep 100000
    done
}
lines() { yes "$1" | head -c 4194304; }
FIO="--thread --direct=1 --ioengine=libaio --iodepth=32 --offset=1m --verify=crc32c
    --verify_fatal=1 --serialize_overlap=1"
MIXED="--name=mixed --rw=randrw --bsrange=4k-64k --size=24m --fsync=32 --verify_backlog=128
    --time_based"
TRIMS="--name=trims --stonewall --rw=trimwrite --bs=64k --size=8m --fsync=16"
case $1 in
there) wait_for "[ -b /dev/$2 ] && [ \$(cat /sys/block/$2/size) -gt 0 ]"
    echo "sectors $(cat /sys/block/$2/size) rings $(ls /sys/block/$2/mq | wc -l)" ;;
gone) wait_for "! [ -e /sys/block/$2 ]" ;;
mark) dd if=/dev/$2 bs=4096 count=1 iflag=direct status=none | tr -d '\000' | head -n 1 ;;
write) lines $3 | dd of=/dev/$2 bs=64k seek=16 iflag=fullblock conv=fsync status=none && sync ;;
read) sum=$(lines $3 | md5sum)
    direct=$(dd if=/dev/$2 bs=64k skip=16 count=64 iflag=direct status=none | md5sum)
    echo 3 > /proc/sys/vm/drop_caches
    cached=$(dd if=/dev/$2 bs=64k skip=16 count=64 status=none | md5sum)
    [ "$sum" = "$direct" ] && [ "$sum" = "$cached" ] || { echo "$sum, $direct, $cached"; exit 1; } ;;
discard) blkdiscard -o 1048576 -l 4194304 /dev/$2 || exit 1
    cat /sys/block/$2/queue/discard_granularity ;;
load) while :; do
        dd if=/dev/urandom of=/dev/$2 bs=64k seek=200 count=64 conv=fsync status=none || exit 1
        dd if=/dev/$2 of=/dev/null bs=4k skip=3200 count=1024 iflag=direct status=none || exit 1
        echo "load goes on"
    done ;;
root) echo "$(uname -r) on $(awk '$2 == "/" { found = $1 " " $3 } END { print found }' /proc/mounts)" ;;
note) echo $2 > /root/note && sync ;;
noted) cat /root/note ;;
log) dmesg -c | grep -v 'crng init done'; true ;;
fio) fio --filename=/dev/$2 $FIO $MIXED --runtime=$3 $TRIMS > /tmp/fio 2>&1
    status=$?
    grep -E 'err=|IOPS=|fio:|verify' /tmp/fio
    exit $status ;;
esac
"##;

/// A machine with all disks.
fn machine() -> MachineOptions {
    let disk = DISKS.iter().filter_map(|number| disk_file(*number).ok()).collect();
    MachineOptions { cpus: 2, memory: "2G".into(), disk, ..MachineOptions::default() }
}

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let machine = machine();
    boots::run_wanted(&Boot { name: "io-guests", machine, boot: options, checks: CHECKS }, results);
    fio::run_scenarios(results);
    from_disk::run_scenarios(results);
}

fn disk_file(number: u32) -> Result<PathBuf> {
    let directory = workspace::directory(workspace::build_dir()?.join("disks"))?;
    Ok(directory.join(format!("guest-{number}.img")))
}

/// The line at the start of a disk.
fn mark(number: u32) -> String {
    format!("disk {number} of a guest")
}

/// Makes the disks, each with its mark. Returns boot options with files for guests on these disks.
fn options() -> Result<BootOptions> {
    for number in DISKS.into_iter().filter(|number| *number != ROOT) {
        empty_disk(number)?;
    }
    let kernel = kernel::guest_kernel()?;
    root_disk(&kernel)?;
    boot_options(&kernel)
}

/// Makes a disk with nothing but its mark.
fn empty_disk(number: u32) -> Result<()> {
    let file = disk_file(number)?;
    fs::write(&file, mark(number) + "\n")?;
    File::options().write(true).open(&file)?.set_len(SECTORS * 512)?;
    Ok(())
}

/// Makes the disk with a guest's root file system: its kernel, the steps, and fio.
fn root_disk(kernel: &Kernel) -> Result<()> {
    let mut files = fio::files()?;
    files.push(script()?);
    guest_disk::make(&disk_file(ROOT)?, ROOT_SECTORS, kernel, "console=hvc0 quiet", &files)
}

/// The steps, as a file for a guest.
fn script() -> Result<FileToSend> {
    let script = workspace::build_dir()?.join("guest-disk.sh");
    workspace::write_if_changed(&script, SCRIPT.as_bytes())?;
    Ok(FileToSend { host: script, guest: SCRIPT_PATH.into() })
}

/// Boot options with the files that guests start from: a kernel and a RAM disk, and PV GRUB.
fn boot_options(kernel: &Kernel) -> Result<BootOptions> {
    let initrd = guest_image::guest_initrd(kernel, &guest_disk::MODULES, &[script()?])?;
    let file = vec![
        FileToSend { host: kernel.bzimage.clone(), guest: KERNEL.into() },
        FileToSend { host: initrd, guest: RAM_DISK.into() },
        FileToSend { host: kernel::pv_grub()?, guest: from_disk::GRUB.into() },
    ];
    Ok(BootOptions { file, command_memory: Some("512M".into()), ..BootOptions::default() })
}

/// The PCI addresses of the disks, in the order of their functions.
fn functions(host: &mut Host) -> Result<Vec<String>> {
    let resources: Value = serde_json::from_str(&host.sh("uvtool resources --json")?)?;
    let rows = resources["pci"].as_array().context("no PCI functions")?;
    let disks =
        rows.iter().filter(|row| row["owner"].as_str().is_some_and(|o| o.starts_with("io-")));
    let address = |row: &Value| Some(row["address"].as_str()?.to_owned());
    let all: Vec<String> = disks.filter_map(address).collect();
    ensure!(all.len() == DISKS.len(), "{} functions are the I/O partitions'", all.len());
    Ok(all)
}

/// The definition of a Debian guest with these disks, each a device and a function.
fn definition(name: &str, vcpus: u32, disks: &[(&str, &str)]) -> String {
    definition_from(&linux(""), name, vcpus, disks)
}

/// The lines of a definition with the kernel, the RAM disk and more words for the kernel.
fn linux(words: &str) -> String {
    format!(
        "kernel = \"{KERNEL}\"\ninitrd = \"{RAM_DISK}\"\n\
         command_line = \"console=hvc0 quiet{words}\"\nmemory = \"192M\"\n"
    )
}

/// A definition with these lines about kernel and memory.
fn definition_from(start: &str, name: &str, vcpus: u32, disks: &[(&str, &str)]) -> String {
    let disk = |(device, function): &(&str, &str)| {
        format!("[[disk]]\ndevice = \"{device}\"\nfunction = \"{function}\"\n")
    };
    let disks: String = disks.iter().map(disk).collect();
    format!("name = \"{name}\"\n{start}vcpus = {vcpus}\n{disks}")
}

fn apply(host: &mut Host, definition: &str) -> Result<()> {
    let command = "cat > /root/guest.toml && uvtool apply /root/guest.toml";
    let output = host.run(&["sh", "-c", command], definition.as_bytes(), LIMIT)?;
    ensure!(output.status == 0, "`{command}`: {}{}", output.stdout, output.stderr);
    Ok(())
}

/// A Debian guest whose shell is up.
struct Guest<'h> {
    host: &'h mut Host,
    name: &'static str,
    steps: u32,
    /// The time limit of a step.
    limit: Duration,
}

impl<'h> Guest<'h> {
    /// Starts a guest of this definition.
    fn start(
        host: &'h mut Host,
        name: &'static str,
        vcpus: u32,
        disks: &[(&str, &str)],
    ) -> Result<Self> {
        Self::start_from(host, name, &definition(name, vcpus, disks), LIMIT)
    }

    /// Starts the guest of a definition. Its start and each of its steps have a time limit.
    fn start_from(
        host: &'h mut Host,
        name: &'static str,
        definition: &str,
        limit: Duration,
    ) -> Result<Self> {
        apply(host, definition)?;
        let mut guest = Self { host, name, steps: 0, limit };
        guest.console("/^guest: ready/ {print; exit}")?;
        Ok(guest)
    }

    /// Follows the console from its first byte on with an awk program, until the program exits.
    fn console(&mut self, program: &str) -> Result<String> {
        let name = self.name;
        // No other program stands between: it would keep lines until it has many.
        let awk = format!("{{sub(/\\r$/, \"\")}} {program}");
        let command = format!("uvtool console --follow {name} | awk '{awk}'");
        let output = self.host.run(&["sh", "-c", &command], b"", self.limit);
        let output = match output {
            Ok(output) => output,
            Err(error) => bail!("{error:#}\n{}", self.tail()),
        };
        ensure!(output.status == 0, "`{command}`: {}", output.stderr);
        Ok(output.stdout)
    }

    /// The end of what the guest printed, and the disks.
    fn tail(&mut self) -> String {
        let command = format!("uvtool console --once {} | tail -n 30; uvtool disk list", self.name);
        self.host.sh(&command).unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Types a line into the guest's shell.
    fn type_in(&mut self, line: &str) -> Result<()> {
        let command = format!("uvtool console --no-history {} > /dev/null", self.name);
        let output =
            self.host.run(&["sh", "-c", &command], format!("{line}\n").as_bytes(), LIMIT)?;
        ensure!(output.status == 0, "`{command}`: {}", output.stderr);
        Ok(())
    }

    /// Runs a step of [`SCRIPT`], which must succeed, and returns what it printed.
    fn step(&mut self, words: &str) -> Result<String> {
        self.steps += 1;
        let number = self.steps;
        // The line as it is typed, which the console shows, too, is neither of the two lines.
        let mark = |word: &str| format!("echo step-{number}-''{word}");
        let line = format!("{}; sh {SCRIPT_PATH} {words}; {} $?", mark("begins"), mark("ends"));
        self.type_in(&line)?;
        let program = format!(
            "/^step-{number}-ends/ {{print; exit}} on {{print}} /^step-{number}-begins/ {{on = 1}}"
        );
        let printed = self.console(&program)?;
        let end = format!("step-{number}-ends 0");
        if let Some(printed) = printed.trim_end().strip_suffix(&end) {
            return Ok(printed.trim().to_owned());
        }
        let (name, tail) = (self.name, self.tail());
        bail!("`{words}` in {name}: {printed}\n{tail}")
    }

    /// Destroys the guest, and forgets its definition.
    fn end(self) -> Result<()> {
        self.host.sh(&format!("uvtool destroy --forget {}", self.name)).map(drop)
    }
}

/// Starts a guest whose xvda is the first disk.
fn with_first_disk<'h>(host: &'h mut Host, name: &'static str, vcpus: u32) -> Result<Guest<'h>> {
    let functions = functions(host)?;
    Guest::start(host, name, vcpus, &[("xvda", &functions[0])])
}

/// The rows of `uvtool disk list`.
fn listed(host: &mut Host, name: &str) -> Result<Vec<Value>> {
    let text = host.sh(&format!("uvtool disk list {name} --json"))?;
    serde_json::from_str(&text).context("uvtool disk list --json")
}

/// Checks that a guest finds its disk with the right size, and reads its first sector.
fn first_sector(host: &mut Host) -> Result<()> {
    let mut guest = with_first_disk(host, "reader", 1)?;
    let there = guest.step("there xvda")?;
    ensure!(there == format!("sectors {SECTORS} rings 1"), "{there}");
    let found = guest.step("mark xvda")?;
    ensure!(found == mark(0), "{found:?}");
    let rows = listed(guest.host, "reader")?;
    let [row] = &rows[..] else { bail!("{rows:?}") };
    ensure!(row["state"] == "attached" && row["sectors"] == SECTORS, "{row}");
    ensure!(row["server"].as_str().is_some_and(|name| name.starts_with("io-")), "{row}");
    guest.end()?;
    let rows = listed(host, "")?;
    ensure!(rows.is_empty(), "{rows:?}");
    Ok(())
}

/// Checks that what a guest writes and flushes is on the machine's disk, and that it is read again.
fn write_and_flush(host: &mut Host) -> Result<()> {
    let mut guest = with_first_disk(host, "writer", 1)?;
    guest.step("there xvda")?;
    for word in ["first", "second"] {
        guest.step(&format!("write xvda {word}"))?;
        on_disk(0, word)?;
        guest.step(&format!("read xvda {word}"))?;
    }
    guest.end()
}

/// Checks that the region of a disk of the machine has lines of this word.
fn on_disk(number: u32, word: &str) -> Result<()> {
    let mut found = vec![0; REGION_BYTES];
    File::open(disk_file(number)?)?.read_exact_at(&mut found, REGION)?;
    let line = format!("{word}\n");
    let wrong = found.iter().zip(line.bytes().cycle()).position(|(found, wanted)| *found != wanted);
    ensure!(wrong.is_none(), "byte {wrong:?} of the region of disk {number} is wrong");
    Ok(())
}

/// Checks that a disk is attached to a running guest, by the command and by a changed definition,
/// and detached again; a disk that is only read refuses writes.
fn attach_and_detach(host: &mut Host) -> Result<()> {
    let functions = functions(host)?;
    let mut guest = Guest::start(host, "changing", 1, &[("xvda", &functions[0])])?;
    guest.step("there xvda")?;
    let attach =
        format!("uvtool disk attach changing xvdb --function {} --read-only", functions[1]);
    guest.host.sh(&attach)?;
    guest.step("there xvdb")?;
    let found = guest.step("mark xvdb")?;
    ensure!(found == mark(1), "{found:?}");
    ensure!(guest.step("write xvdb wrong").is_err(), "a disk that is only read was written");
    guest.host.sh("uvtool disk detach changing xvdb")?;
    guest.step("gone xvdb")?;
    // The function is free again, and so is the device.
    let both = [("xvda", functions[0].as_str()), ("xvdb", functions[1].as_str())];
    apply(guest.host, &definition("changing", 1, &both))?;
    guest.step("there xvdb")?;
    guest.step("write xvdb again")?;
    on_disk(1, "again")?;
    guest.step("read xvdb again")?;
    apply(guest.host, &definition("changing", 1, &both[..1]))?;
    guest.step("gone xvdb")?;
    let found = guest.step("mark xvda")?;
    ensure!(found == mark(0), "{found:?}");
    guest.end()
}

/// Checks that what a guest discards is a hole in the machine's disk, and that other sectors stay.
fn discard(host: &mut Host) -> Result<()> {
    let kept = || Ok::<_, anyhow::Error>(File::open(disk_file(0)?)?.metadata()?.blocks());
    let mut guest = with_first_disk(host, "discards", 1)?;
    guest.step("there xvda")?;
    guest.step("write xvda kept")?;
    on_disk(0, "kept")?;
    let before = kept()?;
    let smallest = guest.step("discard xvda")?;
    ensure!(smallest == "512", "the smallest discard has {smallest} bytes");
    let after = kept()?;
    let freed = REGION_BYTES as u64 / 512;
    ensure!(after + freed <= before, "{before} blocks were in use, and {after} are");
    let found = guest.step("mark xvda")?;
    ensure!(found == mark(0), "{found:?}");
    guest.end()
}

/// Checks that a guest with two virtual CPUs has two rings, and that both work.
fn several_rings(host: &mut Host) -> Result<()> {
    let mut guest = with_first_disk(host, "wide", 2)?;
    let there = guest.step("there xvda")?;
    ensure!(there == format!("sectors {SECTORS} rings 2"), "{there}");
    guest.step("write xvda rings")?;
    on_disk(0, "rings")?;
    guest.step("read xvda rings")?;
    guest.end()
}

/// Checks that a guest is destroyed while it uses its disk, and that the next guest has the disk.
fn destroyed_under_load(host: &mut Host) -> Result<()> {
    for _ in 0..2 {
        let mut guest = with_first_disk(host, "busy", 2)?;
        guest.step("there xvda")?;
        guest.type_in(&format!("sh {SCRIPT_PATH} load xvda & sh {SCRIPT_PATH} load xvda"))?;
        guest.console("/^load goes on/ {if (++n == 2) exit}")?;
        guest.end()?;
        let rows = listed(host, "")?;
        ensure!(rows.is_empty(), "{rows:?}");
    }
    let mut guest = with_first_disk(host, "next", 1)?;
    guest.step("there xvda")?;
    guest.step("write xvda next")?;
    on_disk(0, "next")?;
    guest.end()
}
