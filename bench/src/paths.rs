//! `cargo xtask bench paths`: the cost of a kernel's paths in instructions, on our host, on no
//! hypervisor and on Debian's Xen, with the same kernel and program.
//!
//! On our host, the instructions of ring 0 are counted separately, by their addresses. The rest of
//! the overhead is the kernel's own paravirtual code, which a stock kernel runs on any hypervisor
//! of this ABI.
//!
//! Our host is measured three times: with the mitigations that the CPU needs, with none, and with
//! all that it supports. An emulated CPU leaks nothing, so it needs few.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use rig::image::command_image;
use rig::image::command_image::FileToSend;
use rig::interrupt::Scratch;
use rig::options::{BootOptions, MachineOptions, Under};
use rig::workspace;

/// Addresses of ring 0: level-4 slots 256 to 271.
const RING_0: Range<u64> = 0xffff_8000_0000_0000..0xffff_8800_0000_0000;

/// The program's path in the command partition.
const PROGRAM: &str = "/root/bench-paths";
/// Runs the program alone: waits until `uvd` has its copy of the database, then stops `uvd`,
/// because without an ultravisor it would look for one every second.
const SCRIPT: &str = "sleep 5; kill -STOP $(pidof uvd); exec /root/bench-paths";
/// The paths by their names in the program's output, and for people.
const PATHS: [(&str, &str); 8] = [
    ("syscall", "null system call"),
    ("fault", "anonymous fault"),
    ("mprotect", "mprotect, per page"),
    ("munmap", "munmap, per page"),
    ("map-touch-unmap", "map, touch, unmap 16 pages"),
    ("fork-exit", "fork, exit"),
    ("fork-exec", "fork, exec"),
    ("pipe-round-trip", "pipe round trip"),
];

/// The monitor's options on our host, in the order of [`Row::ours`], and their names for people.
const MITIGATIONS: [(&str, &str); 3] = [
    ("", "as the CPU asks"),
    ("mitigations=off", "off"),
    ("verw=on ibpb=on ibrs=on stibp=on bhi=on ssbd=on zenbleed=on no-tsx=on l1tf=on", "all on"),
];

/// Instructions of a path on our host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ours {
    all: u64,
    /// The instructions of ring 0 among them.
    ring_0: u64,
}

/// Instructions of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    ours: [Ours; MITIGATIONS.len()],
    bare: u64,
    xen: u64,
}

impl Row {
    /// Our overhead divided by Xen's; `None` if Xen has no overhead.
    fn ratio(self) -> Option<f64> {
        self.over_xen(self.ours[0].all)
    }

    /// The same ratio for a monitor that takes no time.
    fn least(self) -> Option<f64> {
        let Ours { all, ring_0 } = self.ours[0];
        self.over_xen(all.saturating_sub(ring_0))
    }

    fn over_xen(self, count: u64) -> Option<f64> {
        let over = |count: u64| count as f64 - self.bare as f64;
        (self.xen > self.bare).then(|| over(count) / over(self.xen))
    }
}

/// A measured path: the instructions of one repetition, and the number of repetitions.
type Measured = (u64, u64);

/// Measures all paths on the three hosts and prints a table, or JSON.
///
/// # Errors
/// A machine does not come up, or the program fails.
pub fn measure(json: bool) -> Result<()> {
    let program = command_image::build_static("bench-paths")?;
    let [usual, off, on] = MITIGATIONS.map(|(options, _)| measured_ours(&program, options));
    let ours = [usual?, off?, on?];
    let [bare, xen] = [Under::Bare, Under::Xen]
        .map(|under| measured(&program, BootOptions { under, ..BootOptions::default() }, None));
    let (bare, xen) = (bare?, xen?);
    let row = |i: usize| {
        (PATHS[i], Row { ours: ours.map(|paths| paths[i]), bare: bare[i].0, xen: xen[i].0 })
    };
    let rows: Vec<_> = (0..PATHS.len()).map(row).collect();
    match json {
        true => println!("{}", as_json(&rows)),
        false => print!("{}", as_table(&rows)),
    }
    Ok(())
}

/// The program's figures on our host, in the order of [`PATHS`].
fn measured_ours(program: &Path, monitor_options: &str) -> Result<[Ours; PATHS.len()]> {
    let profile =
        Scratch::new(workspace::build_dir()?.join(format!("profile-{}", std::process::id())));
    let monitor_options = monitor_options.into();
    let boot = BootOptions { monitor_options, ..BootOptions::default() };
    let counts = measured(program, boot, Some(profile.path()))?;
    let ring_0 = in_ring_0(&String::from_utf8(workspace::read(profile.path())?)?)?;
    let path = |i: usize| {
        let (all, times) = counts[i];
        Ours { all, ring_0: ring_0[i] / times }
    };
    Ok(std::array::from_fn(path))
}

/// The program's figures, in the order of [`PATHS`].
fn measured(
    program: &Path,
    boot: BootOptions,
    profile: Option<&Path>,
) -> Result<[Measured; PATHS.len()]> {
    let profile = profile.map(Path::to_owned);
    let machine = MachineOptions { profile, ..crate::machine() };
    let host: PathBuf = program.to_owned();
    let file = vec![FileToSend { host, guest: PROGRAM.into() }];
    let boot = BootOptions { file, ..boot };
    let text = crate::output_of(&machine, &boot, &["sh", "-c", SCRIPT])?;
    parse(&text).with_context(|| format!("the benchmark printed {text:?}"))
}

/// Converts the program's output, which has ticks, to figures.
fn parse(text: &str) -> Result<[Measured; PATHS.len()]> {
    let mut all = [(0, 0); PATHS.len()];
    for (figures, (name, _)) in all.iter_mut().zip(PATHS) {
        let value = |line: &str| -> Option<Measured> {
            let (ticks, times) = line.strip_prefix(name)?.strip_prefix(' ')?.split_once(' ')?;
            Some((ticks.parse::<u64>().ok()? / crate::TICKS, times.parse().ok()?))
        };
        *figures = text.lines().find_map(value).with_context(|| format!("no figure for {name}"))?;
    }
    ensure!(all.iter().all(|(count, times)| *count > 0 && *times > 0), "a path took no time");
    Ok(all)
}

/// Instructions of ring 0 between the marks around each path, from the last repetition of all
/// paths.
fn in_ring_0(profile: &str) -> Result<[u64; PATHS.len()]> {
    let mut walked = Vec::new();
    let mut inside = None;
    for line in profile.lines() {
        if let Some((number, _)) = crate::mark_in_line(line) {
            walked.extend(inside.take());
            inside = (number == marks::END).then_some(0);
        } else {
            let (address, count) = block_in_line(line).context("the profile is damaged")?;
            if let Some(sum) = inside.as_mut().filter(|_| RING_0.contains(&address)) {
                *sum += count;
            }
        }
    }
    walked.extend(inside);
    let last = walked.last_chunk().copied();
    last.with_context(|| format!("the profile has marks around {} paths", walked.len()))
}

/// The address and the count in a line `at ADDRESS CODE COUNT`.
fn block_in_line(line: &str) -> Option<(u64, u64)> {
    let (address, rest) = line.strip_prefix("at ")?.split_once(' ')?;
    let (_, count) = rest.split_once(' ')?;
    Some((u64::from_str_radix(address, 16).ok()?, count.parse().ok()?))
}

type Rows = [((&'static str, &'static str), Row)];

fn as_table(rows: &Rows) -> String {
    let mut text = "instructions (1 CPU, 2 GiB, QEMU -icount)\n".to_owned();
    let line = |name: &str, columns: [String; 6]| {
        let [ours, monitor, bare, xen, ratio, least] = columns;
        format!("{name:<27} {ours:>11} {monitor:>11} {bare:>13} {xen:>12} {ratio:>9} {least:>12}\n")
    };
    let heads =
        ["ultravisor", "(ring 0)", "no hypervisor", "Debian's Xen", "overhead", "(not ring 0)"];
    text.push_str(&line("", heads.map(str::to_owned)));
    let shown = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    for ((_, name), row) in rows {
        let [ratio, least] = [row.ratio(), row.least()].map(shown);
        let Ours { all, ring_0 } = row.ours[0];
        let [ours, monitor, bare, xen] = [all, ring_0, row.bare, row.xen].map(crate::grouped);
        text.push_str(&line(name, [ours, monitor, bare, xen, ratio, least]));
    }
    text.push_str(
        "overhead: ours over no hypervisor, divided by Xen's; the target is 0.33\n\
         (not ring 0): that of the kernel's own code for this ABI, which no monitor can make less\n",
    );
    text.push_str(&mitigations_table(rows));
    text
}

/// The table of our host with the mitigations that the CPU needs, with none, and with all.
fn mitigations_table(rows: &Rows) -> String {
    let line = |name: &str, columns: &[String]| {
        let columns: String = columns.iter().map(|column| format!(" {column:>20}")).collect();
        format!("{name:<27}{columns}\n")
    };
    let mut text = line("\nmitigations (ring 0)", &MITIGATIONS.map(|(_, name)| name.to_owned()));
    for ((_, name), row) in rows {
        let shown =
            |ours: Ours| format!("{} ({})", crate::grouped(ours.all), crate::grouped(ours.ring_0));
        text.push_str(&line(name, &row.ours.map(shown)));
    }
    text.push_str(
        "counted are instructions: an emulated CPU does nothing for `verw` and for a barrier, which \
         take hundreds of cycles, and thousands, on a CPU that needs them\n",
    );
    text
}

fn as_json(rows: &Rows) -> String {
    let row = |((name, _), row): &((&str, &str), Row)| {
        let shown = |ratio: Option<f64>| ratio.map_or("null".to_owned(), |r| format!("{r:.4}"));
        let (ratio, least) = (shown(row.ratio()), shown(row.least()));
        let Row { ours: [usual, off, on], bare, xen } = row;
        let words = |ours: &Ours, suffix: &str| {
            let Ours { all, ring_0 } = ours;
            format!("\"ultravisor{suffix}\": {all}, \"ring_0{suffix}\": {ring_0}")
        };
        let (usual, off, on) =
            (words(usual, ""), words(off, "_unmitigated"), words(on, "_all_mitigations"));
        format!(
            "  {{\"path\": \"{name}\", {usual}, {off}, {on}, \"bare\": {bare}, \"xen\": {xen}, \
             \"overhead_to_xen\": {ratio}, \"not_ring_0_to_xen\": {least}}}"
        )
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    format!("[\n{}\n]", rows.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_needs_its_figures() {
        let text: String = PATHS.map(|(name, _)| format!("{name} 20 7\n")).concat();
        assert_eq!(parse(&text).expect("all are there"), [(10, 7); PATHS.len()]);
        let error = parse(&text.replace("munmap", "other")).expect_err("one lacks").to_string();
        assert!(error.contains("munmap"), "{error}");
        assert!(parse(&text.replace("20", "1")).is_err());
        assert!(parse(&text.replace(" 7", "")).is_err());
    }

    #[test]
    fn ring_0_is_told_apart_between_the_marks() {
        let path = |count| {
            format!(
                "mark 8 1\nat ffff82d080001000 90 1000\nmark 9 2\nat ffff82d080001000 90 {count}\n\
                 at ffff808000001000 90 1\nat ffffffff81000000 90 50\nat 401000 90 60\n"
            )
        };
        let once: String = (0..PATHS.len() as u64).map(path).collect();
        let twice = [path(700).repeat(PATHS.len()), once].concat();
        let expected: [u64; PATHS.len()] = std::array::from_fn(|index| index as u64 + 1);
        assert_eq!(in_ring_0(&twice).expect("all marks are there"), expected);
        assert!(in_ring_0(&path(1)).is_err());
        assert!(in_ring_0("mark 9 1\nat x 90 1\n").is_err());
    }

    #[test]
    fn overheads_are_compared() {
        let ours = |all, ring_0| Ours { all, ring_0 };
        let ours = [ours(400, 40), ours(390, 30), ours(420, 60)];
        let row = Row { ours, bare: 300, xen: 1300 };
        assert_eq!((row.ratio(), row.least()), (Some(0.1), Some(0.06)));
        assert_eq!(Row { xen: 300, ..row }.ratio(), None);
        let rows = [(PATHS[0], row)];
        assert!(as_table(&rows).contains("0.10         0.06"));
        let costs = mitigations_table(&rows);
        assert!(costs.contains("400 (40)             390 (30)             420 (60)"), "{costs}");
        assert!(as_json(&rows).contains("\"ring_0\": 40, \"ultravisor_unmitigated\": 390"));
        assert!(
            as_json(&rows).contains("\"overhead_to_xen\": 0.1000, \"not_ring_0_to_xen\": 0.0600")
        );
    }
}
