//! `cargo xtask bench io`: the cost of a disk's operations in instructions, on our host and on
//! Debian's Xen with the block back end of Debian's kernel, with the same guest and the same disk.
//!
//! The guest is a front end that does as little as it can (`block_front::Lean`), so nearly all that is
//! counted is the host's. It passes a mark before and after each load, and QEMU's translator counts
//! the instructions between both ([`marks`]) by address, which tells the parts apart. The disk itself
//! is QEMU's and costs no instructions of the machine.
//!
//! No data is copied on our host. On Xen the back end maps the guest's pages for each request. With
//! *persistent grants* it keeps them mapped; a stock front end then copies all data, which this
//! front end leaves out: the second figure of Xen is what its host costs beside those copies.
//!
//! Rule: the machine's clock is real time here, not `-icount`'s. Under `-icount` the clock jumps to
//! the next timer whenever the CPU waits for the disk, and what timers cost would be counted.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use block_front::{LOADS, Load};
use clap::Args;

use rig::build::{hv_build, kernel, xen_tools};
use rig::image::command_image::{self, FileToSend};
use rig::interrupt::Scratch;
use rig::options::{BootOptions, MachineOptions, Under};
use rig::workspace;

use crate::scale;

/// The guest's path in the command partition.
const GUEST: &str = "/root/guest";
/// The time limit of a machine.
const LIMIT: Duration = Duration::from_secs(1200);
/// Sectors of a disk.
const SECTORS: u64 = 64 << 11;
/// The share of Xen's instructions that the host may need, and the bound for the host with one and
/// with 32 requests of a page in flight.
const TARGET: f64 = 1.0 / 3.0;
const TARGETS: [(usize, u64); 2] = [(1, 4_000), (32, 1_500)];
/// Instructions that the host may need for an operation of each of [`LOADS`], with one guest: more
/// than it needs today, because runs differ.
const BOUNDS: [u64; LOADS.len()] = [22_000, 22_000, 5_400, 5_400, 44_000, 44_000, 400_000, 400_000];
/// How much more an operation may cost beside other guests than with one guest.
const TARGET_MANY: f64 = 1.05;

/// Addresses of ring 0, and of the minimal guest's kernel, below any other kernel.
const RING_0: Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;
const GUEST_CODE: Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_8100_0000;

/// The parts whose instructions are counted separately; on Xen the second is the kernel of the first
/// domain.
const PARTS: [&str; 4] = ["guest", "ring 0", "server", "others"];

/// Instructions of an operation by part.
type Counts = [u64; PARTS.len()];

/// Options of `cargo xtask bench io`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Columns: all that an operation costs, the guest's part, the host's part (the rest) \
    and what it consists of; beside it the host's part on Debian's Xen, where the guest's pages are \
    mapped for each request and where they stay mapped. Targets that do not hold are printed. The \
    command fails if the host's part exceeds its bound, which is above what it needs today."
)]
pub struct Options {
    /// Operations of one page in a load; larger operations are fewer
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub count: u64,
    /// Guests, each with a disk of its own, that are compared with one guest; 0 for none
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=24))]
    pub guests: u32,
    /// Leave out Debian's Xen
    #[arg(long)]
    pub only_ultravisor: bool,
    /// Keep the counts by address of our host with one guest in this file
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// For programs instead of people
    #[arg(long)]
    pub json: bool,
}

/// A load with its figures.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    load: Load,
    ours: Counts,
    /// On Xen, with pages that are mapped for each request, and with pages that stay mapped.
    xen: Option<[Counts; 2]>,
    /// On our host beside the other guests.
    many: Option<Counts>,
}

impl Row {
    fn name(&self) -> String {
        let Load { write, bytes, depth } = self.load;
        let size = match bytes >> 20 {
            0 => format!("{} KiB", bytes >> 10),
            mebibytes => format!("{mebibytes} MiB"),
        };
        format!("{} {size}, depth {depth}", if write { "write" } else { "read" })
    }

    /// Our part over each of Xen's.
    fn ratios(&self) -> Option<[f64; 2]> {
        let ours = host(&self.ours) as f64;
        self.xen.map(|both| both.map(|xen| ours / host(&xen).max(1) as f64))
    }

    /// What an operation costs beside other guests, over what it costs with one guest.
    fn growth(&self) -> Option<f64> {
        let whole = |counts: &Counts| counts.iter().sum::<u64>() as f64;
        self.many.map(|many| whole(&many) / whole(&self.ours).max(1.0))
    }

    /// The bound of the host's part for this load, if it has one.
    fn most(&self) -> Option<u64> {
        let is = |(depth, _): &&(usize, u64)| self.load.bytes == 4096 && *depth == self.load.depth;
        TARGETS.iter().find(is).map(|(_, most)| *most)
    }
}

/// The instructions of an operation that are not the guest's.
fn host(counts: &Counts) -> u64 {
    counts.iter().skip(1).sum()
}

/// Measures, prints a table or JSON, and the targets and bounds that do not hold. Returns whether
/// every load is within its bound.
///
/// # Errors
/// A machine does not come up, or a request fails.
pub fn measure(options: &Options) -> Result<bool> {
    let ours = measured_ours(options, 1, options.profile.as_deref())?;
    let many = match options.guests {
        0 => None,
        guests => Some(measured_ours(options, guests, None)?),
    };
    let xen = if options.only_ultravisor { None } else { Some(measured_xen(options)?) };
    let row = |(index, load): (usize, &Load)| Row {
        load: *load,
        ours: ours[index],
        xen: xen.as_ref().map(|both| [both[index], both[LOADS.len() + index]]),
        many: many.as_ref().map(|many| many[index]),
    };
    let rows: Vec<Row> = LOADS.iter().enumerate().map(row).collect();
    match options.json {
        true => println!("{}", as_json(&rows)),
        false => print!("{}", as_table(&rows, options.guests)),
    }
    // A program that reads JSON finds the figures there.
    let told = |line: &String| if options.json { eprintln!("{line}") } else { println!("{line}") };
    missed(&rows).iter().for_each(told);
    let exceeded = exceeded(&rows, &BOUNDS);
    exceeded.iter().for_each(told);
    Ok(exceeded.is_empty())
}

/// The paths of so many disks, which are empty.
fn disks(count: u32) -> Result<Vec<PathBuf>> {
    let directory = workspace::directory(workspace::build_dir()?.join("disks"))?;
    let disk = |number| {
        let path = directory.join(format!("bench-{number}.img"));
        fs::write(&path, [])?;
        File::options().write(true).open(&path)?.set_len(SECTORS * 512)?;
        Ok(path)
    };
    (0..count).map(disk).collect()
}

/// A machine with disks, whose profile goes to a file.
fn machine(disks: Vec<PathBuf>, profile: &Path) -> MachineOptions {
    let profile = Some(profile.to_owned());
    MachineOptions { cpus: 1, disk: disks, profile, ..MachineOptions::default() }
}

fn scratch(name: &str) -> Result<Scratch> {
    Ok(Scratch::new(workspace::build_dir()?.join(format!("io-{name}-{}", std::process::id()))))
}

/// The loads on our host, made by so many guests at the same time.
fn measured_ours(options: &Options, guests: u32, profile: Option<&Path>) -> Result<Vec<Counts>> {
    let scratch = scratch("ours")?;
    let profile = profile.unwrap_or_else(|| scratch.path());
    let image = fs::read(hv_build::build()?.io)?;
    let image = scale::flat_image(&image)?;
    let file = vec![FileToSend { host: hv_build::guest()?, guest: GUEST.into() }];
    let command_memory = Some("512M".into());
    let boot = BootOptions { file, command_memory, ..BootOptions::default() };
    let script = ours_script(guests, options.count);
    let machine = machine(disks(guests)?, profile);
    let text = crate::output_within(LIMIT, &machine, &boot, &["sh", "-c", &script])?;
    ensure_done(&text, guests as usize)?;
    let is_server = |address, code: &[u8]| scale::has(&image, address, code);
    counts(&workspace::read(profile)?, guests, options.count, 1, is_server)
}

/// A script that makes a guest for each disk of the I/O partitions. One guest is waited for; several
/// begin their loads at the same times.
fn ours_script(guests: u32, count: u64) -> String {
    let (times, end) = match guests {
        1 => ("gap=1".to_owned(), String::new()),
        _ => (
            format!("at=$at gap={}", gap(guests, count)),
            format!(
                "sleep {}\nfor n in $(seq {guests}); do uvtool console --once bench-$n | tr -d '\\r'; done\n",
                lead(guests) + gap(guests, count) * LOADS.len() as u64 + 2
            ),
        ),
    };
    let console = if guests == 1 { "--console" } else { "" };
    format!(
        "{scrubbed}uvtool resources --json | tr -d ' \\n' | \
         grep -oE '\"(address|owner)\":\"[^\"]*\"' | sed -n '/^\"address/h; \
         /^\"owner\":\"io-/{{g;s/^\"address\":\"\\(.*\\)\"$/\\1/p;s/.*//;h}}' > /root/functions\n\
         at=$(($(cut -d. -f1 /proc/uptime) + {lead}))\nn=0\nfor function in $(cat /root/functions); do\n\
         n=$((n + 1)); [ $n -le {guests} ] || break\n\
         cat > /root/$n.toml << END\nname = \"bench-$n\"\nkernel = \"{GUEST}\"\n\
         command_line = \"disk-bench {count} {times}\"\nmemory = \"4M\"\n[[disk]]\n\
         device = \"xvda\"\nfunction = \"$function\"\nEND\n\
         uvtool create {console} /root/$n.toml | tr -d '\\r'\ndone\n{end}",
        scrubbed = crate::SCRUBBED,
        lead = lead(guests),
    )
}

/// Seconds until the first load begins, and from the begin of a load to that of the next one: enough
/// for a machine whose every instruction is translated.
const fn lead(guests: u32) -> u64 {
    10 + guests as u64
}

const fn gap(guests: u32, count: u64) -> u64 {
    2 + guests as u64 * count / 1000
}

/// The loads on Xen: all of them with pages that are mapped for each request, then all with pages that
/// stay mapped.
fn measured_xen(options: &Options) -> Result<Vec<Counts>> {
    let scratch = scratch("xen")?;
    let mut file = vec![FileToSend { host: hv_build::guest()?, guest: GUEST.into() }];
    file.extend(xen_tools::files()?);
    let modules = command_image::module_files(&kernel::guest_kernel()?, &MODULES)?;
    let insert: String =
        modules.iter().map(|module| format!("insmod {} || true\n", module.guest)).collect();
    file.extend(modules);
    let boot = BootOptions { under: Under::Xen, file, ..BootOptions::default() };
    let script = xen_script(&insert, options.count);
    let machine = machine(disks(1)?, scratch.path());
    let text = crate::output_within(LIMIT, &machine, &boot, &["sh", "-c", &script])?;
    ensure_done(&text, 2)?;
    let is_kernel = |address, _: &[u8]| RING_0.end <= address;
    counts(&workspace::read(scratch.path())?, 1, options.count, 2, is_kernel)
}

/// The modules of the first domain: the disk, and the back end.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "xen-blkback"];

/// The script that `xl` runs for each disk, which tells the back end which device it serves, in
/// hexadecimal numbers, as Debian's does.
const BLOCK_SCRIPT: &str = r#"#!/bin/sh
[ "$1" = add ] || exit 0
IFS=: read -r major minor < /sys/block/vda/dev
exec /usr/bin/xenstore-write "$XENBUS_PATH/physical-device" "$(printf %x:%x $major $minor)" \
    "$XENBUS_PATH/hotplug-status" connected
"#;

/// A script that makes a guest twice, the second time with persistent grants. `xl` stays in the
/// foreground until the guest has ended: a loop that looks for the guest would be counted. The
/// console's daemon keeps what a guest prints: a console that `xl` attaches must appear within 10
/// seconds, which an emulated machine may need more than.
fn xen_script(insert: &str, count: u64) -> String {
    let daemon = "xenconsoled --pid-file";
    let start =
        xen_tools::START.replace(daemon, "xenconsoled --log=guest --log-dir=/root --pid-file");
    format!(
        "{start}{insert}until [ -b /dev/vda ]; do sleep 0.2; done\nmkdir -p /etc/xen/scripts\n\
         cat > /etc/xen/scripts/block << 'END'\n{BLOCK_SCRIPT}END\nchmod +x /etc/xen/scripts/block\n\
         for persistent in 0 1; do\n\
         cat > /root/guest.cfg << END\nname = \"bench-$persistent\"\nkernel = \"{GUEST}\"\n\
         extra = \"disk-bench {count} gap=1 persistent=$persistent\"\n\
         memory = 4\nmaxmem = 4\nvcpus = 1\ndisk = [ 'phy:/dev/vda,xvda,w' ]\nEND\n\
         {xl} create -F /root/guest.cfg || true\n\
         tr -d '\\r' < /root/guest-bench-$persistent.log\ndone\n",
        xl = xen_tools::XL,
    )
}

/// Fails unless so many guests said that they made all loads.
fn ensure_done(text: &str, guests: usize) -> Result<()> {
    let done = text.lines().filter(|line| line.starts_with("disk-bench: "));
    let done = done.filter(|line| line.ends_with(", 0 errors")).count();
    ensure!(done == guests, "{done} of {guests} guests made all loads: {text}");
    Ok(())
}

/// The instructions of an operation of each load, in the order of the marks, which guests pass so many
/// times.
fn counts(
    profile: &[u8],
    guests: u32,
    count: u64,
    times: usize,
    is_server: impl Fn(u64, &[u8]) -> bool,
) -> Result<Vec<Counts>> {
    let add = |parts: &mut Counts, address: u64, code: &[u8], count| {
        parts[part(address, code, &is_server)] += count;
    };
    let all = scale::collect(std::str::from_utf8(profile)?, guests, add)?;
    let wanted = LOADS.len() * times;
    ensure!(all.len() == wanted, "{} of {wanted} loads have both marks", all.len());
    let loads = LOADS.iter().cycle();
    let each = |(counts, load): (Counts, &Load)| {
        let operations = load.operations(count) * u64::from(guests);
        counts.map(|count| count / operations)
    };
    Ok(all.into_iter().zip(loads).map(each).collect())
}

/// The part that executes a block, which has this address and this first instruction.
fn part(address: u64, code: &[u8], is_server: &impl Fn(u64, &[u8]) -> bool) -> usize {
    match address {
        address if GUEST_CODE.contains(&address) => 0,
        address if RING_0.contains(&address) => 1,
        address if is_server(address, code) => 2,
        _ => 3,
    }
}

/// The targets that do not hold, in sentences.
fn missed(rows: &[Row]) -> Vec<String> {
    let mut lines = Vec::new();
    for row in rows {
        let (name, ours) = (row.name(), host(&row.ours));
        if let Some(most) = row.most().filter(|most| ours > *most) {
            let (ours, most) = (crate::grouped(ours), crate::grouped(most));
            lines.push(format!("target: {name}: the host takes {ours}, at most {most}"));
        }
        if let Some([ratio, _]) = row.ratios().filter(|[ratio, _]| *ratio > TARGET) {
            lines.push(format!("target: {name}: {ratio:.2} of Xen's, at most {TARGET:.2}"));
        }
        if let Some(growth) = row.growth().filter(|growth| *growth > TARGET_MANY) {
            lines.push(format!("target: {name}: {growth:.2} beside others, at most {TARGET_MANY}"));
        }
    }
    lines
}

/// The bounds that do not hold, in sentences.
fn exceeded(rows: &[Row], bounds: &[u64]) -> Vec<String> {
    let over = rows.iter().zip(bounds).filter(|(row, most)| host(&row.ours) > **most);
    let told = |(row, most): (&Row, &u64)| {
        let (ours, most) = (crate::grouped(host(&row.ours)), crate::grouped(*most));
        format!("{}: the host takes {ours}, at most {most}", row.name())
    };
    over.map(told).collect()
}

fn as_table(rows: &[Row], guests: u32) -> String {
    let mut text = format!(
        "instructions of an operation (1 CPU, 2 GiB)\n{:<22} {:>9} {:>8} {:>9} {:>8} {:>8} {:>8} \
         {:>10} {:>10} {:>6} {:>6} {:>9} {:>6}\n",
        "",
        "all",
        "guest",
        "host",
        "ring 0",
        "server",
        "others",
        "Xen",
        "Xen kept",
        "ratio",
        "kept",
        format!("{guests} guests"),
        "growth"
    );
    let shown = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    let number = |number: Option<u64>| number.map_or("-".to_owned(), crate::grouped);
    for row in rows {
        let [guest, ring_0, server, others] = row.ours.map(crate::grouped);
        let all = crate::grouped(row.ours.iter().sum());
        let xen = |which: usize| number(row.xen.map(|both| host(&both[which])));
        let ratio = |which: usize| shown(row.ratios().map(|both| both[which]));
        let _ = writeln!(
            text,
            "{:<22} {all:>9} {guest:>8} {:>9} {ring_0:>8} {server:>8} {others:>8} {:>10} {:>10} \
             {:>6} {:>6} {:>9} {:>6}",
            row.name(),
            crate::grouped(host(&row.ours)),
            xen(0),
            xen(1),
            ratio(0),
            ratio(1),
            number(row.many.map(|many| many.iter().sum())),
            shown(row.growth()),
        );
    }
    if let Some(text_of_xen) = xen_table(rows) {
        text.push_str(&text_of_xen);
    }
    text.push_str(
        "host: all but the guest; of Xen, the hypervisor and the first domain; no data is copied\n\
         kept: pages stay mapped (persistent grants), and a stock guest copies all data, which is not \
         counted here\n",
    );
    text
}

/// The parts on Xen.
fn xen_table(rows: &[Row]) -> Option<String> {
    let names = ["guest", "hypervisor", "kernel", "programs"];
    let mut text = format!("{:<22}", "Debian's Xen");
    for prefix in ["", "kept: "] {
        text.extend(names.map(|name| format!(" {:>16}", format!("{prefix}{name}"))));
    }
    text.push('\n');
    for row in rows {
        let _ = write!(text, "{:<22}", row.name());
        let both = row.xen?.into_iter().flatten();
        text.extend(both.map(|count| format!(" {:>16}", crate::grouped(count))));
        text.push('\n');
    }
    Some(text)
}

fn as_json(rows: &[Row]) -> String {
    let parts = |counts: &Counts, names: [&str; PARTS.len()]| {
        let members: Vec<_> =
            names.iter().zip(counts).map(|(name, count)| format!("\"{name}\": {count}")).collect();
        format!("{{{}}}", members.join(", "))
    };
    let (own, other) = (PARTS, ["guest", "hypervisor", "kernel", "programs"]);
    let or_null = |text: Option<String>| text.unwrap_or_else(|| "null".to_owned());
    let row = |row: &Row| {
        let Load { write, bytes, depth } = row.load;
        let xen = |which: usize| or_null(row.xen.map(|both| parts(&both[which], other)));
        format!(
            "  {{\"operation\": \"{}\", \"bytes\": {bytes}, \"depth\": {depth}, \"ultravisor\": {}, \
             \"xen\": {}, \"xen_persistent\": {}, \"many\": {}, \"ratio\": {}, \"growth\": {}}}",
            if write { "write" } else { "read" },
            parts(&row.ours, own),
            xen(0),
            xen(1),
            or_null(row.many.map(|many| parts(&many, own))),
            or_null(row.ratios().map(|[ratio, _]| format!("{ratio:.4}"))),
            or_null(row.growth().map(|growth| format!("{growth:.4}"))),
        )
    };
    format!("[\n{}\n]", rows.iter().map(row).collect::<Vec<_>>().join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: Counts, xen: u64, many: u64) -> Row {
        let xen = Some([[7, xen, 0, 0], [7, xen / 2, 0, 0]]);
        Row { load: LOADS[0], ours, xen, many: Some([many, 0, 0, 0]) }
    }

    #[test]
    fn instructions_belong_to_who_has_the_code() {
        let is_server = |address: u64, _: &[u8]| address == 0x20_0000;
        let part = |address| part(address, &[0x90], &is_server);
        let places = [0xffff_ffff_8010_0000, 0xffff_82d0_8000_1000, 0x20_0000, 0x20_0010];
        assert_eq!(places.map(part), [0, 1, 2, 3]);
        assert_eq!([0xffff_ffff_8110_0000, 0x40_1000].map(part), [3, 3]);
    }

    #[test]
    fn counts_are_those_of_an_operation() {
        let load = |load: &Load| {
            let count = load.operations(16) * 2;
            let code = format!("at ffffffff80000000 90 {count}\nat ffff82d080000000 90 {count}\n");
            format!(
                "mark 8 1\nat 1 90 5\nmark 8 1\n{code}mark 2 1\nmark 9 1\n{code}mark 9 1\n{code}"
            )
        };
        let profile: String = LOADS.iter().map(load).collect();
        let found = counts(profile.as_bytes(), 2, 16, 1, |_, _| false).expect("all are there");
        assert_eq!(found, vec![[3, 3, 0, 0]; LOADS.len()]);
        assert!(counts(profile.as_bytes(), 1, 16, 1, |_, _| false).is_err());
        assert!(counts(profile.as_bytes(), 2, 16, 2, |_, _| false).is_err());
    }

    #[test]
    fn what_misses_its_target_is_told() {
        assert_eq!(missed(&[row([9, 3_000, 900, 100], 12_000, 4_200)]), [""; 0]);
        assert_eq!(
            missed(&[row([0, 4_000, 0, 1], 8_000, 4_202)]),
            [
                "target: read 4 KiB, depth 1: the host takes 4 001, at most 4 000",
                "target: read 4 KiB, depth 1: 0.50 of Xen's, at most 0.33",
                "target: read 4 KiB, depth 1: 1.05 beside others, at most 1.05",
            ]
        );
    }

    #[test]
    fn what_exceeds_its_bound_is_told() {
        let rows = [row([9, 3_000, 900, 100], 12_000, 4_200)];
        assert_eq!(exceeded(&rows, &[4_000]), [""; 0]);
        let told = "read 4 KiB, depth 1: the host takes 4 000, at most 3 999";
        assert_eq!(exceeded(&rows, &[3_999]), [told]);
    }

    #[test]
    fn both_prints_have_the_figures() {
        let rows = [row([9, 3_000, 900, 100], 12_000, 4_200)];
        let table = as_table(&rows, 10);
        assert!(table.contains("4 009") && table.contains("0.33") && table.contains("0.67"));
        let json = as_json(&rows);
        assert!(json.contains("\"ratio\": 0.3333, \"growth\": 1.0476"), "{json}");
        let alone = [Row { xen: None, many: None, ..rows[0].clone() }];
        assert!(as_json(&alone).contains("\"xen\": null") && as_table(&alone, 0).contains('-'));
    }
}
