//! Guests: many minimal ones, a hostile one beside a well-behaved one, and stock Debian kernels.
//!
//! `GUESTS` and `CYCLES` in the environment set more Debian guests and more cycles of create and
//! destroy than CI has time for.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use pv_abi::uv::database::MAX_VCPUS;
use rig::build::{hv_build, kernel};
use rig::image::command_image::FileToSend;
use rig::image::cpio::Archive;
use rig::options::{BootOptions, MachineOptions};
use rig::workspace;
use serde_json::Value;

use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::host::Host;
use crate::{Results, number};

/// The checks with minimal guests, in this order; the first one runs only by name, because it takes
/// long.
const MINIMAL: &[Check] = &[
    Check { name: "hostile-neighbour", run: hostile_neighbour },
    Check { name: "ends", run: ends },
    Check { name: "instructions", run: instructions },
    Check { name: "view", run: view },
    Check { name: "cycles", run: cycles },
    Check { name: "hundred", run: hundred },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
];

/// The checks with Debian guests, in this order; the first one runs only by name.
const DEBIAN: &[Check] = &[
    Check { name: "lives", run: lives },
    Check { name: "wide", run: wide },
    Check { name: "resources", run: checks::resources },
    Check { name: "kernel-log", run: checks::kernel_log },
    Check { name: "monitor-log", run: checks::monitor_log },
];

/// The path of the minimal guest in the command partition.
pub const GUEST: &str = "/root/guest";
/// The paths of Debian's kernel and of a RAM disk for it.
const KERNEL: &str = "/root/vmlinuz";
const RAM_DISK: &str = "/root/initrd";
/// The time limit for guests that compute.
const LIMIT: Duration = Duration::from_secs(300);
/// The time limit for a step of Debian guests' lives: ten of them share two emulated CPUs.
const DEBIAN_LIMIT: Duration = Duration::from_secs(1200);

/// The checks to choose from. If the user named scenarios, these are all `checks`; otherwise they
/// are all but the first, which takes long.
fn checks_of(results: &Results, checks: &'static [Check]) -> &'static [Check] {
    let by_name = !results.words.is_empty();
    checks.get(usize::from(!by_name)..).unwrap_or_default()
}

/// Runs the requested checks with minimal guests.
pub fn run_minimal(results: &mut Results) {
    let checks = checks_of(results, MINIMAL);
    let machine = MachineOptions { cpus: 2, memory: "2G".into(), ..MachineOptions::default() };
    let boot = Boot { name: "guests", machine, boot: minimal_options, checks };
    boots::run_wanted(&boot, results);
}

/// Runs the requested checks with Debian guests.
pub fn run_debian(results: &mut Results) {
    let checks = checks_of(results, DEBIAN);
    let machine = MachineOptions { cpus: 4, memory: "4G".into(), ..MachineOptions::default() };
    let boot = Boot { name: "debian-guests", machine, boot: debian_options, checks };
    boots::run_wanted(&boot, results);
}

/// The minimal guest as a file for the command partition.
pub fn minimal_guest() -> Result<FileToSend> {
    Ok(FileToSend { host: hv_build::guest()?, guest: GUEST.into() })
}

/// Boot options with the minimal guest, and 512 MiB for the command partition.
pub fn minimal_options() -> Result<BootOptions> {
    let file = vec![minimal_guest()?];
    Ok(BootOptions { file, command_memory: Some("512M".into()), ..Default::default() })
}

fn debian_options() -> Result<BootOptions> {
    let files = debian_files(&kernel::guest_kernel()?.bzimage)?;
    // The rest of the memory is for ten guests.
    Ok(BootOptions { file: files, command_memory: Some("1G".into()), ..BootOptions::default() })
}

/// Makes a RAM disk for Debian guests. Returns it and the kernel, for the command partition.
pub fn debian_files(kernel: &Path) -> Result<Vec<FileToSend>> {
    let disk = workspace::build_dir()?.join("guest-initrd.cpio");
    workspace::write_if_changed(&disk, &ram_disk()?)?;
    Ok(vec![
        FileToSend { host: kernel.to_owned(), guest: KERNEL.into() },
        FileToSend { host: disk, guest: RAM_DISK.into() },
    ])
}

/// The init of a Debian guest: it says that it is up, and prints every second its memory, its
/// number of CPUs, and a checksum that it computed.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
echo \"up $(uname -r)\"
while :; do
  sum=$(seq 1 20000 | md5sum | cut -c1-8)
  memory=$(sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo)
  echo \"work $sum memory $memory cpus $(nproc) since $(cut -d. -f1 /proc/uptime)\"
  sleep 1
done
";

/// A RAM disk with busybox and [`INIT`]. The kernel runs `/sbin/poweroff` or `/sbin/reboot` on a
/// request to power off or reboot.
fn ram_disk() -> Result<Vec<u8>> {
    let busybox = workspace::read("/bin/busybox".as_ref())?;
    let mut archive = Archive::new();
    for directory in ["proc", "sys", "dev", "bin", "sbin"] {
        archive.directory(directory);
    }
    archive.character_device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, &busybox);
    archive.file("init", 0o755, INIT.as_bytes());
    for name in ["poweroff", "reboot"] {
        let script = format!("#!/bin/busybox sh\nexec /bin/busybox {name} -f\n");
        archive.file(&format!("sbin/{name}"), 0o755, script.as_bytes());
    }
    Ok(archive.finish())
}

/// Runs a command within [`LIMIT`]; returns its status and its output.
pub fn try_to(host: &mut Host, command: &str) -> Result<(i32, String)> {
    let output = host.run(&["sh", "-c", command], b"", LIMIT)?;
    Ok((output.status, output.stdout + &output.stderr))
}

/// Runs a command that must succeed.
pub fn must(host: &mut Host, command: &str) -> Result<String> {
    let (status, output) = try_to(host, command)?;
    ensure!(status == 0, "`{command}` ended with status {status}: {output}");
    Ok(output)
}

/// The command that creates a minimal guest running a program.
pub fn minimal(name: &str, program: &str) -> String {
    format!("uvtool create --name {name} --kernel {GUEST} --memory 4M --command-line '{program}'")
}

/// The definition of a minimal guest.
pub fn definition(name: &str, program: &str) -> String {
    format!(
        "[[partition]]\nname = \"{name}\"\nkernel = \"{GUEST}\"\n\
         command_line = \"{program}\"\nmemory = \"4M\"\n"
    )
}

/// Definitions of the minimal guests `PREFIX-1`, `PREFIX-2` and so on.
fn definitions(prefix: &str, count: u32, program: &str) -> String {
    (1..=count).map(|index| definition(&format!("{prefix}-{index}"), program)).collect()
}

/// Applies these definitions and that of `stays-1`, and no others, in one transaction; a file needs
/// at least one definition.
fn apply(host: &mut Host, others: &str) -> Result<()> {
    let command = "cat > /root/all.toml && uvtool apply --prune --yes /root/all.toml";
    let all = definitions("stays", 1, "idle") + others;
    let output = host.run(&["sh", "-c", command], all.as_bytes(), LIMIT)?;
    ensure!(output.status == 0, "`{command}`: {}{}", output.stdout, output.stderr);
    Ok(())
}

/// Frames of each owner that keeps running; they must be as before once guests are gone.
fn accounts(host: &mut Host) -> Result<Value> {
    let mut all = resources(host)?;
    checks::keep_accounts(&mut all)?;
    Ok(all)
}

fn resources(host: &mut Host) -> Result<Value> {
    let text = host.sh("uvtool resources --json")?;
    serde_json::from_str(&text).context("uvtool resources --json")
}

/// Bytes in use in the heaps of the ultravisor and the boot partition, which have all their memory
/// from the start.
fn heaps(host: &mut Host) -> Result<[u64; 2]> {
    let all = resources(host)?;
    let of = |name: &str| {
        let mut rows = all["heaps"].as_array()?.iter();
        rows.find(|row| row["partition"] == name)?["in_use_bytes"].as_u64()
    };
    let both = of("ultravisor").zip(of("boot"));
    both.map(|(a, b)| [a, b]).with_context(|| format!("no heaps: {}", all["heaps"]))
}

/// Memory of `uvd` in kilobytes.
fn daemon_memory(host: &mut Host) -> Result<u64> {
    host.number("sed -n 's/VmRSS:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$(pidof uvd)/status")
}

/// Checks the status of a command that shows a console: 0 if the guest powers off, another status
/// if it crashes; the command reports both ends.
fn ends(host: &mut Host) -> Result<()> {
    for (program, well, says) in [
        ("hello", true, "hello from a minimal guest of 4096 KiB"),
        ("balloon", true, "balloon: "),
        ("timers", true, "timers: all were right"),
        ("grants", true, "grants: all were right"),
        ("crash", false, "panic at "),
        ("nonsense", false, "no program `nonsense`"),
    ] {
        let name = format!("end-{program}");
        let command = format!("{} --console", minimal(&name, program));
        let (status, output) = try_to(host, &command)?;
        ensure!((status == 0) == well, "{program} ended with status {status}: {output}");
        ensure!(output.contains(says), "{program} did not say {says:?}: {output}");
        try_to(host, &format!("uvtool destroy --forget {name}"))?;
    }
    Ok(())
}

/// Checks privileged instructions of a kernel, while another kernel on the same CPU uses FSGSBASE.
fn instructions(host: &mut Host) -> Result<()> {
    let mut create = |name: &str, program: &str, more: &str| {
        let text = definition(name, program) + "cpu.affinity = \"0\"\n";
        let command = format!("cat > /root/one.toml && uvtool create {more} /root/one.toml");
        host.run(&["sh", "-c", &command], text.as_bytes(), LIMIT)
    };
    let output = create("bases", "bases", "")?;
    ensure!(output.status == 0, "{}{}", output.stdout, output.stderr);
    let output = create("tries", "instructions", "--console")?;
    let says = "instructions: all were right";
    ensure!(
        output.status == 0 && output.stdout.contains(says),
        "the guest ended with status {}: {}{}",
        output.status,
        output.stdout,
        output.stderr
    );
    // The other kernel still runs, so it reads back what it wrote.
    ensure!(rows(host, "bases")?.len() == 1, "the other kernel ended");
    must(host, "uvtool destroy --forget bases && uvtool destroy --forget tries").map(drop)
}

/// Checks that a guest reads in the machine-to-physical table where its own frames are, and nothing
/// of others, while neighbours come and go, and while it releases memory and takes it again.
fn view(host: &mut Host) -> Result<()> {
    let wait = |line: &str| format!("uvtool console --follow sees | grep -q -m 1 '^{line}'");
    must(host, &minimal("before", "beat 0"))?;
    must(host, &minimal("sees", "view 0"))?;
    must(host, &wait("view 3: "))?;
    must(host, &minimal("after", "beat 0"))?;
    must(host, &wait("view 5: "))?;
    must(host, "uvtool destroy --forget before && uvtool destroy --forget after")?;
    must(host, &minimal("again", "hello"))?;
    must(host, &wait("view 8: "))?;
    let console = must(host, "uvtool console --once sees")?;
    let looks: Vec<_> = console.lines().filter(|line| line.starts_with("view ")).collect();
    ensure!(looks.len() >= 8, "few reports of the guest: {console}");
    for line in looks {
        ensure!(line.contains(" strange 0 "), "the guest sees entries of other frames: {line}");
        let count = |what: &str| -> Result<u64> {
            let rest = line.split_once(what).with_context(|| line.to_owned())?.1;
            Ok(rest.split_whitespace().next().context("no number")?.parse()?)
        };
        // The guest has 4 MiB, whether or not the balloon has taken some of it.
        ensure!(
            count(" own ")? + count(" idle ")? == 1024,
            "the guest does not see all entries \
            of its own frames: {line}"
        );
    }
    must(host, "uvtool destroy --forget sees; uvtool destroy --forget again").map(drop)
}

/// Checks that all memory is back where it was after guests came and went.
fn cycles(host: &mut Host) -> Result<()> {
    /// The number of guests that one transaction creates or destroys.
    const BATCH: u32 = 20;
    /// Bytes that the heaps of the ultravisor and the boot partition may have grown by. The
    /// ultravisor remembers where each record of the log is, and the log is a ring.
    const SLACK: [u64; 2] = [512 << 10, 16 << 10];
    let count = number::<u32>("CYCLES", 40)?;
    let cycle = |name: &str| {
        format!(
            "{} >/dev/null && uvtool destroy --forget {name} >/dev/null || exit 1",
            minimal(name, "idle")
        )
    };
    must(host, &cycle("first"))?;
    apply(host, "")?;
    let (before, heaps_before, daemon) = (accounts(host)?, heaps(host)?, daemon_memory(host)?);
    must(host, &format!("for i in $(seq 5); do {}; done", cycle("again")))?;
    let guests = definitions("batch", BATCH, "idle");
    for _ in 0..count.saturating_sub(5).div_ceil(BATCH) {
        apply(host, &guests)?;
        apply(host, "")?;
    }
    let (after, heaps_after, daemon_after) = (accounts(host)?, heaps(host)?, daemon_memory(host)?);
    println!(
        "       heaps {heaps_before:?}, then {heaps_after:?} B; uvd {daemon}, {daemon_after} KiB"
    );
    ensure!(before == after, "before {count} cycles: {before}\nafter: {after}");
    let grown =
        heaps_after.iter().zip(heaps_before).map(|(after, before)| after.saturating_sub(before));
    ensure!(grown.zip(SLACK).all(|(grown, slack)| grown <= slack), "a heap has grown");
    // This is the growth of a log and a copy of the database; a leak in each cycle would be more.
    let limit = daemon + 1024 + u64::from(count) * 2;
    ensure!(daemon_after <= limit, "uvd had {daemon} KiB, after {count} cycles {daemon_after}");
    must(host, "uvtool destroy --forget stays-1").map(drop)
}

/// Rows of the running partitions whose names begin with `prefix`, from `uvtool list`.
fn rows(host: &mut Host, prefix: &str) -> Result<Vec<Value>> {
    let text = host.sh("uvtool list --json")?;
    let Value::Array(mut rows) = serde_json::from_str(&text).context("uvtool list --json")? else {
        bail!("no rows: {text}");
    };
    rows.retain(|row| {
        row["name"].as_str().is_some_and(|name| name.starts_with(prefix))
            && row["state"] == "running"
    });
    Ok(rows)
}

/// The CPU time in nanoseconds of each row, in the same order.
fn cpu_times(rows: &[Value]) -> Vec<u64> {
    rows.iter().filter_map(|row| row["cpu_time_ns"].as_u64()).collect()
}

/// Checks that a hundred guests run at once, that some of them take all the CPU time they get, and
/// that all memory comes back. They must not keep the command partition from its work.
fn hundred(host: &mut Host) -> Result<()> {
    const SPINNING: u32 = 16;
    const BEATING: u32 = 84;
    const ALL: usize = (SPINNING + BEATING) as usize;
    let start = Instant::now();
    let told = |what: &str| println!("       {what} ({:.0} s)", start.elapsed().as_secs_f32());
    apply(host, "")?;
    let before = accounts(host)?;
    let mut all = definitions("many-spin", SPINNING, "spin");
    apply(host, &all)?;
    all += &definitions("many-beat", BEATING, "beat");
    apply(host, &all)?;
    told("all created");
    let there = rows(host, "many-")?;
    ensure!(there.len() == ALL, "{} guests run", there.len());
    // Each of them keeps computing.
    let (first, since) = (cpu_times(&there), Instant::now());
    loop {
        let now = cpu_times(&rows(host, "many-")?);
        ensure!(now.len() == ALL, "{} guests run still", now.len());
        if first.iter().zip(&now).all(|(first, now)| now > first) {
            break;
        }
        ensure!(since.elapsed() < LIMIT, "not every guest computed: {first:?}, then {now:?}");
    }
    for (guest, line) in [("spin-1", "second 1 "), ("beat-1", "beat 2 "), ("beat-84", "beat 2 ")] {
        let printed = format!("uvtool console --once many-{guest} | grep -q '^{line}'");
        must(host, &format!("until {printed}; do sleep 1; done"))?;
    }
    told("all computed");
    apply(host, "")?;
    told("all gone");
    let after = accounts(host)?;
    ensure!(before == after, "before: {before}\nafter: {after}");
    must(host, "uvtool destroy --forget stays-1").map(drop)
}

/// The words in the log for the ends of a partition that the monitor saw.
const ENDS: [&str; 8] = [
    "powered off",
    "asked to be rebooted",
    "suspended",
    "said that it crashed",
    "shut down with reason",
    "without a handler",
    "unusable stack or frame",
    "page-table state",
];

/// Whether the output of `uvtool why` says how a partition ended.
fn names_an_end(why: &str) -> bool {
    ENDS.iter().any(|end| why.contains(end))
}

/// Checks a hostile guest beside a guest that counts: the counting guest is not disturbed, and each
/// end of the hostile guest has a cause.
fn hostile_neighbour(host: &mut Host) -> Result<()> {
    const SECONDS: u32 = 25;
    must(host, &minimal("quiet", &format!("spin {SECONDS}")))?;
    for seed in 1..=5 {
        let name = format!("hostile-{seed}");
        try_to(host, &format!("{} --console", minimal(&name, &format!("fuzz {seed} 600"))))?;
        let why = must(host, &format!("uvtool why {name}"))?;
        ensure!(names_an_end(&why), "no record says why {name} ended: {why}");
        try_to(host, &format!("uvtool destroy --forget {name}"))?;
        ensure!(
            !host.machine.console()?.contains("ESCAPE"),
            "{name} saw memory that is not its \
            own"
        );
    }
    let (status, text) = try_to(host, "uvtool console --follow quiet")?;
    let last = format!("second {SECONDS} ");
    ensure!(text.contains(&last), "the neighbour did not count to its end ({status}): {text}");
    try_to(host, "uvtool destroy --forget quiet")?;
    Ok(())
}

/// Functions for the scripts about Debian guests. `lines` counts the lines that a guest printed
/// about its work; `until_line` follows its console, also over restarts, until an awk program says
/// `found`. The scripts do not poll, because that would take the CPUs that the guests boot on.
const SCRIPT: &str = r#"
cd /tmp
lines() { uvtool console --once $n | grep -c '^work '; }
until_line() {
  timeout 1100 uvtool console --follow $n | awk "$1 found {exit} END {exit !found}" && return
  echo "no line in time: $1"; uvtool console --once $n | tail -n 20; return 1
}
"#;

/// Runs a script for each guest, all at once; `$n` is the guest's name.
fn for_each(host: &mut Host, names: &[String], what: &str, script: &str) -> Result<()> {
    let start = Instant::now();
    let names = names.join(" ");
    let all = format!(
        "{SCRIPT}\nrm -f failed-* out-*\n\
         for n in {names}; do ( {script} ) >out-$n 2>&1 || mv out-$n failed-$n & done; wait\n\
         for n in {names}; do if [ -e failed-$n ]; then echo \"$n:\"; cat failed-$n; fi; done\n\
         ! ls failed-* >/dev/null 2>&1"
    );
    let output = host.run(&["sh", "-c", &all], b"", DEBIAN_LIMIT)?;
    ensure!(output.status == 0, "{what}: {}{}", output.stdout, output.stderr);
    println!("       {what} ({:.0} s)", start.elapsed().as_secs_f32());
    Ok(())
}

/// The definition of a Debian guest.
fn debian(name: &str, memory: &str, vcpus: u32) -> String {
    format!(
        "[[partition]]\nname = \"{name}\"\nkernel = \"{KERNEL}\"\ninitrd = \"{RAM_DISK}\"\n\
         command_line = \"console=hvc0 quiet\"\nmemory = \"{memory}\"\nvcpus = {vcpus}\n"
    )
}

/// Starts Debian guests, runs `live` on them, and shuts them down; checks that all memory comes
/// back.
fn with_debian(
    host: &mut Host,
    names: &[String],
    definitions: &str,
    live: impl FnOnce(&mut Host) -> Result<()>,
) -> Result<()> {
    let before = accounts(host)?;
    must(
        host,
        &format!(
            "cat > /root/debian.toml <<'END'\n{definitions}END\nuvtool apply /root/debian.toml"
        ),
    )?;
    live(host)?;
    let there = rows(host, "debian-")?.len();
    ensure!(there == names.len(), "{there} of {} guests run", names.len());
    for_each(host, names, "shut down", "uvtool shutdown --wait $n")?;
    let there = rows(host, "debian-")?.len();
    ensure!(there == 0, "{there} guests run that were shut down");
    for_each(host, names, "destroyed", "uvtool destroy --forget $n")?;
    let after = accounts(host)?;
    ensure!(before == after, "before: {before}\nafter: {after}");
    Ok(())
}

/// Checks that Debian guests boot to their init and work, and that each can be paused, resized,
/// rebooted and shut down.
pub fn lives(host: &mut Host) -> Result<()> {
    let names: Vec<_> =
        (1..=number::<u32>("GUESTS", 2)?).map(|index| format!("debian-{index}")).collect();
    let definitions: String = names.iter().map(|name| debian(name, "256M", 2)).collect();
    with_debian(host, &names, &definitions, |host| {
        for_each(host, &names, "booted and working", WORK)?;
        for_each(host, &names, "paused", PAUSE)?;
        for_each(host, &names, "resized", RESIZE)?;
        for_each(host, &names, "rebooted", REBOOT)
    })
}

/// Checks that a Debian guest with the most virtual CPUs brings all of them up, and works.
fn wide(host: &mut Host) -> Result<()> {
    let names = ["debian-wide".to_owned()];
    let definition = debian(&names[0], "512M", MAX_VCPUS);
    with_debian(host, &names, &definition, |host| {
        let work = format!("until_line '/^work .* cpus {MAX_VCPUS} / {{found = ++n == 2}}'");
        for_each(host, &names, "working on all its CPUs", &work)
    })
}

/// Waits until a guest works on both of its CPUs.
const WORK: &str = r#"until_line '/^work .* cpus 2 / {found = ++n == 2}'"#;

/// Checks that a paused guest prints only what was already in transit, and that it goes on
/// afterwards.
const PAUSE: &str = r#"
uvtool pause $n && sleep 1 && a=$(lines) && sleep 4 && b=$(lines) &&
if [ $a != $b ]; then echo "went on while it was paused: $a, $b"; exit 1; fi
uvtool unpause $n && until_line "/^work / {found = ++n > $b}""#;

/// Checks that a guest whose memory is reduced sees less memory, and sees all of it again once the
/// memory is returned.
const RESIZE: &str = r#"
m=$(uvtool console --once $n | awk '/^work / {m = $4} END {print m + 0}') && [ $m -gt 150000 ] &&
uvtool set $n --memory 192M &&
until_line "/^work / {found = \$4 < $((m - 60000))}" &&
uvtool set $n --memory 256M &&
until_line "/^work / {less += \$4 < $((m - 60000)); found = less && \$4 >= $((m - 1000))}""#;

/// Checks that a rebooted guest has been up for less time than before, and works again.
const REBOOT: &str = r#"
uvtool reboot $n &&
until_line '/^work .* cpus 2 / {again += $8 + 0 < last; last = $8 + 0; found = again}'"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_or_a_create_names_no_end() {
        let heading = "RECORD  TIME  WHO  WHAT\n";
        let created = "7  2026-01-01 00:00:00  command  create \"hostile-1\"\n";
        let ended =
            "9  2026-01-01 00:00:03  monitor  hostile-1: trap 14 without a handler, vCPU 0\n";
        assert!(!names_an_end(""));
        assert!(!names_an_end(heading));
        assert!(!names_an_end(&format!("{heading}{created}")));
        assert!(names_an_end(&format!("{heading}{created}{ended}")));
    }
}
