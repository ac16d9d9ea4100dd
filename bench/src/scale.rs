//! `cargo xtask bench scale`: the cost of commands for the whole machine beside 10, 100, 400 and
//! 1,000 minimal guests, in instructions, by part of the host.
//!
//! Instructions count from just before the start of a command to its end, as in
//! [`crate::create`]. The address of an instruction tells the part. The ultravisor and the
//! boot partition have the same addresses, so these two are told apart by the code at the address.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use rig::build::hv_build;
use rig::image::command_image;
use rig::image::command_image::FileToSend;
use rig::interrupt::Scratch;
use rig::options::{BootOptions, MachineOptions};
use rig::workspace;

/// Paths of the program and the guest in the command partition.
const PROGRAM: &str = "/root/bench-scale";
const GUEST: &str = "/root/guest";
/// The number of rounds, of which the median is the figure.
const ROUNDS: usize = 3;
/// The time limit of the machine.
const LIMIT: Duration = Duration::from_secs(3600);
/// Guests that fit a machine of 2 GiB.
const FEW: u32 = 200;
/// Addresses of ring 0, of the command partition's kernel, and of the system partitions.
const RING_0: Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;
const KERNEL: Range<u64> = RING_0.end..u64::MAX;
const SYSTEM: Range<u64> = 0x20_0000..0x100_0000;

/// The steps with their bounds.
pub(crate) const STEPS: [(&str, Bound); 8] = [
    ("create", Bound::Same),
    ("destroy", Bound::Same),
    ("info", Bound::Same),
    ("console", Bound::Same),
    ("set", Bound::Same),
    ("list", Bound::PerGuest(5_000)),
    ("plan", Bound::PerGuest(5_350)),
    ("resources", Bound::PerGuest(8_400)),
];
/// How much more, in hundredths of a percent, a step of [`Bound::Same`] may take than beside the
/// fewest guests. It covers the difference between two runs, and, up to [`MANY`] guests, the cost
/// of the additional guests. So a walk through all guests shows even with few guests.
const NOISE: u64 = 300;
const GROWTH: u64 = 700;
const MANY: u64 = 990;

/// How the cost of a step may grow with the number of guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The cost stays that beside the fewest guests.
    Same,
    /// The cost may grow by this many instructions for each guest.
    PerGuest(u64),
}

/// The parts whose instructions are counted separately.
const PARTS: [&str; 5] = ["ring 0", "ultravisor", "boot", "kernel", "programs"];

/// A step beside `guests` guests, with the instructions of each part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    guests: u32,
    step: &'static str,
    parts: [u64; PARTS.len()],
}

impl Row {
    fn total(&self) -> u64 {
        self.parts.iter().sum()
    }
}

/// Options of `cargo xtask bench scale`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Numbers of guests, rising
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [10, 100, 400, 1000])]
    pub guests: Vec<u32>,
    /// Memory of the machine, if not 2G for few guests and 8G for many
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Keep the counts by address in this file
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// For programs instead of people
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// The options of `cargo xtask test`: few enough guests for every change, and enough to show a
    /// walk.
    #[must_use]
    pub fn short() -> Self {
        Self { guests: vec![10, 60], memory: None, profile: None, json: false }
    }
}

/// Measures, prints a table or JSON, and returns whether every step is within its bound.
///
/// # Errors
/// The machine does not come up, or a command fails.
pub fn measure(options: &Options) -> Result<bool> {
    let (text, rows) = measured(options)?;
    let faults = faults(&rows);
    match options.json {
        true => println!("{}", as_json(&rows)),
        false => print!("{}", as_table(&rows)),
    }
    if let Some(full) = text.lines().find_map(|line| line.strip_prefix("full ")) {
        println!("no more than {full} guests fit");
    }
    faults.iter().for_each(|fault| println!("{fault}"));
    Ok(faults.is_empty() && rows.iter().any(|row| options.guests.last() == Some(&row.guests)))
}

/// Runs the program; returns its output, and the rows made from it.
pub(crate) fn measured(options: &Options) -> Result<(String, Vec<Row>)> {
    let program = command_image::build_static("bench-scale")?;
    let name = format!("scale-{}", std::process::id());
    let scratch = Scratch::new(workspace::build_dir()?.join(name));
    let profile = options.profile.as_deref().unwrap_or_else(|| scratch.path());
    let few = options.guests.iter().all(|count| *count <= FEW);
    let usual = if few { "2G" } else { "8G" };
    let machine = MachineOptions {
        memory: options.memory.clone().unwrap_or_else(|| usual.into()),
        profile: Some(profile.to_owned()),
        ..crate::machine()
    };
    let file = vec![
        FileToSend { host: program, guest: PROGRAM.into() },
        FileToSend { host: hv_build::guest()?, guest: GUEST.into() },
    ];
    let command_memory = Some("512M".into());
    let boot = BootOptions { file, command_memory, ..BootOptions::default() };
    let sizes: String = options.guests.iter().map(|size| format!(" {size}")).collect();
    let script = format!("{}exec {PROGRAM} {ROUNDS} {GUEST}{sizes}", crate::SCRUBBED);
    // These are the images that the machine boots, read now because the sources may change before
    // it has ended.
    let images = Images::read()?;
    let text = crate::output_within(LIMIT, &machine, &boot, &["sh", "-c", &script])?;
    let profile = String::from_utf8(workspace::read(profile)?)?;
    let rows = rows(&text, &profile, &images)?;
    Ok((text, rows))
}

/// The code of the two system partitions.
struct Images([Vec<u8>; 2]);

impl Images {
    fn read() -> Result<Self> {
        let built = hv_build::build()?;
        let flat = |path: &Path| -> Result<Vec<u8>> { flat_image(&fs::read(path)?) };
        Ok(Self([flat(&built.ultravisor)?, flat(&built.boot)?]))
    }

    /// The part that executes a block, which has this address and this first instruction.
    fn part(&self, address: u64, code: &[u8]) -> usize {
        if RING_0.contains(&address) {
            return 0;
        }
        if KERNEL.contains(&address) {
            return 3;
        }
        self.0.iter().position(|image| has(image, address, code)).map_or(4, |image| image + 1)
    }
}

/// Whether an image, from [`SYSTEM`]'s start on, has this code at the address.
pub(crate) fn has(image: &[u8], address: u64, code: &[u8]) -> bool {
    let at = address.checked_sub(SYSTEM.start).and_then(|at| usize::try_from(at).ok());
    at.and_then(|at| image.get(at..at.checked_add(code.len())?)) == Some(code)
}

/// The bytes that an ELF file loads, from [`SYSTEM`]'s start on.
pub(crate) fn flat_image(file: &[u8]) -> Result<Vec<u8>> {
    let word = |at: usize, bytes: usize| -> Result<u64> {
        let field = file.get(at..at + bytes).context("the image is short")?;
        Ok(field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    let (table, size, count) = (word(32, 8)? as usize, word(54, 2)? as usize, word(56, 2)?);
    let mut image = Vec::new();
    for header in (0..count as usize).map(|index| table + index * size) {
        let (offset, address) = (word(header + 8, 8)? as usize, word(header + 16, 8)?);
        let bytes = word(header + 32, 8)? as usize;
        if word(header, 4)? != 1 || !SYSTEM.contains(&address) {
            continue;
        }
        let at = usize::try_from(address - SYSTEM.start)?;
        image.resize(image.len().max(at + bytes), 0);
        image[at..at + bytes].copy_from_slice(&file[offset..offset + bytes]);
    }
    ensure!(!image.is_empty(), "the image has nothing at {:#x}", SYSTEM.start);
    Ok(image)
}

/// The rows in the order of the program's lines, with the median round of each step.
fn rows(text: &str, profile: &str, images: &Images) -> Result<Vec<Row>> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("step ")?.split_once(' '));
    let counts = counts(profile, images)?;
    let mut rounds: Vec<Vec<Row>> = Vec::new();
    for (index, (guests, name)) in lines.enumerate() {
        let guests: u32 = guests.parse()?;
        let step = STEPS.iter().find(|(step, _)| *step == name).context("a step without a name")?.0;
        let parts = *counts.get(index).context("a step without marks")?;
        let row = Row { guests, step, parts };
        match rounds.iter_mut().find(|all| all[0].guests == guests && all[0].step == step) {
            Some(all) => all.push(row),
            None => rounds.push(vec![row]),
        }
    }
    ensure!(!rounds.is_empty(), "the program printed {text:?}");
    for all in &mut rounds {
        all.sort_by_key(Row::total);
    }
    Ok(rounds.iter().map(|all| all[all.len() / 2].clone()).collect())
}

/// Instructions of each part from each mark BEGIN to the next mark END, regardless of the marks
/// that a guest passes in between.
fn counts(profile: &str, images: &Images) -> Result<Vec<[u64; PARTS.len()]>> {
    let add = |parts: &mut [u64; PARTS.len()], address, code: &[u8], count| {
        parts[images.part(address, code)] += count;
    };
    collect(profile, 1, add)
}

/// The addresses at which each command executed blocks of a program, whose ELF file this is.
pub(crate) fn executed(profile: &str, file: &[u8]) -> Result<Vec<BTreeSet<u64>>> {
    let image = flat_image(file)?;
    collect(profile, 1, |all: &mut BTreeSet<u64>, address, code, _| {
        if has(&image, address, code) {
            all.insert(address);
        }
    })
}

/// For each pair of marks BEGIN and END, what `add` makes of the blocks between them: their
/// addresses, first instructions and counts. If `passers` pass the marks at the same time, a pair is
/// the first BEGIN and the last END of theirs.
pub(crate) fn collect<T: Default>(
    profile: &str,
    passers: u32,
    add: impl Fn(&mut T, u64, &[u8], u64),
) -> Result<Vec<T>> {
    let (mut all, mut begun, mut ended, mut parts) = (Vec::new(), 0, 0, T::default());
    // The blocks listed after a mark were executed before it, because a mark ends its count.
    for piece in profile.split("mark ").skip(1) {
        let number = piece.split(' ').next().and_then(|number| number.parse::<u8>().ok());
        for line in piece.lines().skip(1).filter(|_| begun > 0) {
            let (address, code, count) = block_in_line(line).context("the profile is damaged")?;
            add(&mut parts, address, &code, count);
        }
        match number.context("a mark without a number")? {
            marks::BEGIN if begun < passers => begun += 1,
            marks::BEGIN => bail!("more passers of marks than {passers}"),
            marks::END if begun > 0 => ended += 1,
            _ => {}
        }
        if ended == passers {
            all.push(std::mem::take(&mut parts));
            (begun, ended) = (0, 0);
        }
    }
    Ok(all)
}

/// The address, first instruction and count in a line `at ADDRESS CODE COUNT`.
fn block_in_line(line: &str) -> Option<(u64, Vec<u8>, u64)> {
    let mut words = line.strip_prefix("at ")?.split(' ');
    let (address, code, count) = (words.next()?, words.next()?, words.next()?);
    let byte = |at| u8::from_str_radix(code.get(at..at + 2)?, 16).ok();
    let code = (0..code.len()).step_by(2).map(byte).collect::<Option<_>>()?;
    Some((u64::from_str_radix(address, 16).ok()?, code, count.parse().ok()?))
}

/// The steps that exceed their bounds, as sentences.
fn faults(rows: &[Row]) -> Vec<String> {
    let mut faults = Vec::new();
    for (step, bound) in STEPS {
        let mut of = rows.iter().filter(|row| row.step == step);
        let Some(first) = of.next() else { continue };
        for row in of {
            let (least, count) = (first.total(), row.total());
            let more = u64::from(row.guests - first.guests);
            let most = match bound {
                Bound::Same => least + least * (NOISE + GROWTH * more.min(MANY) / MANY) / 10_000,
                Bound::PerGuest(most) => least + more * most,
            };
            if count > most {
                let (count, most) = (crate::grouped(count), crate::grouped(most));
                let guests = row.guests;
                faults.push(format!("{step} beside {guests} guests: {count}, at most {most}"));
            }
        }
    }
    faults
}

fn as_table(rows: &[Row]) -> String {
    let mut text = format!(
        "instructions of a command (1 CPU, QEMU -icount), median of {ROUNDS}\n{:<10} {:>7} {:>13}",
        "step", "guests", "all"
    );
    text.extend(PARTS.map(|part| format!(" {part:>12}")));
    text.push_str("    a guest more\n");
    for (step, _) in STEPS {
        let mut before: Option<&Row> = None;
        for row in rows.iter().filter(|row| row.step == step) {
            let total = crate::grouped(row.total());
            let _ = write!(text, "{step:<10} {:>7} {total:>13}", row.guests);
            text.extend(row.parts.map(|count| format!(" {:>12}", crate::grouped(count))));
            if let Some(before) = before {
                let more = row.total() as i64 - before.total() as i64;
                let guests = i64::from(row.guests) - i64::from(before.guests);
                let _ = write!(text, " {:>15}", more / guests.max(1));
            }
            text.push('\n');
            before = Some(row);
        }
    }
    text
}

fn as_json(rows: &[Row]) -> String {
    let row = |row: &Row| {
        let parts: Vec<_> =
            PARTS.iter().zip(row.parts).map(|(name, n)| format!("\"{name}\": {n}")).collect();
        format!(
            "  {{\"step\": \"{}\", \"guests\": {}, \"all\": {}, {}}}",
            row.step,
            row.guests,
            row.total(),
            parts.join(", ")
        )
    };
    format!("[\n{}\n]", rows.iter().map(row).collect::<Vec<_>>().join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Images {
        Images([vec![0x90; 64], vec![0xcc; 64]])
    }

    #[test]
    fn instructions_belong_to_who_has_the_code() {
        let profile = "mark 8 1\nat 200000 90 1000\nmark 2 2\nat 200010 90 3\nmark 9 2\nat 200010 cc 4\n\
            at 200010 55 5\nat ffff800000000000 90 6\nat ffffffff81000000 90 7\nmark 8 3\nat 1 90 9\n";
        assert_eq!(counts(profile, &images()).expect("it is whole"), [[6, 3, 4, 7, 5]]);
        assert!(counts("mark 8 0\nmark 9 1\nat x 90 1\n", &images()).is_err());
    }

    #[test]
    fn of_the_rounds_of_a_step_the_middle_one_counts() {
        let profile: String =
            [5, 30, 7].map(|count| format!("mark 8 1\nmark 9 2\nat 200000 90 {count}\n")).concat();
        let text = "step 10 info\nstep 10 info\nstep 10 info\nfull 12\n";
        let rows = rows(text, &profile, &images()).expect("all marks are there");
        assert_eq!(rows, [Row { guests: 10, step: "info", parts: [0, 7, 0, 0, 0] }]);
    }

    #[test]
    fn what_grows_too_much_is_told() {
        let row = |step, guests, count| Row { guests, step, parts: [count, 0, 0, 0, 0] };
        let good = [
            row("info", 10, 1000),
            row("info", 100, 1027),
            row("info", 1000, 1100),
            row("list", 10, 1000),
            row("list", 20, 51_000),
            row("resources", 10, 1),
            row("resources", 100, 100),
        ];
        assert_eq!(faults(&good), [""; 0]);
        let bad =
            [row("set", 10, 1000), row("set", 100, 1037), row("plan", 1, 1), row("plan", 2, 5_352)];
        let told = faults(&bad);
        assert_eq!(
            told,
            [
                "set beside 100 guests: 1 037, at most 1 036",
                "plan beside 2 guests: 5 352, at most 5 351"
            ]
        );
        assert!(as_table(&bad).contains("5351") && as_json(&bad).contains("\"all\": 1037"));
    }
}
