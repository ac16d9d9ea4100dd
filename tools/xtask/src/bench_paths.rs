//! `cargo xtask bench paths`: what a kernel's paths cost on our host, on no hypervisor and on
//! Debian's Xen, with the same kernel and program, in instructions.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::command_image::FileToSend;
use crate::options::{BootOptions, Under};
use crate::{bench, command_image};

/// Where the program is in the command partition.
const PROGRAM: &str = "/root/bench-paths";
/// The program runs alone: once `uvd` has its copy of the database, and stopped, as it would look
/// for an ultravisor every second where there is none.
const SCRIPT: &str = "sleep 5; kill -STOP $(pidof uvd); exec /root/bench-paths";
/// Names in the program's output, and for people.
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

/// Instructions of one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    ours: u64,
    bare: u64,
    xen: u64,
}

impl Row {
    /// Our overhead over that of Xen; none where Xen has none.
    fn ratio(self) -> Option<f64> {
        let over = |count: u64| count as f64 - self.bare as f64;
        (self.xen > self.bare).then(|| over(self.ours) / over(self.xen))
    }
}

/// Measures all paths on the three and prints a table, or JSON.
///
/// # Errors
/// A machine does not come up, or the program fails.
pub fn run(json: bool) -> Result<()> {
    let program = command_image::build_static("bench-paths")?;
    let [ours, bare, xen] =
        [Under::Ultravisor, Under::Bare, Under::Xen].map(|u| counts(&program, u));
    let (ours, bare, xen) = (ours?, bare?, xen?);
    let rows: Vec<_> = (0..PATHS.len())
        .map(|i| (PATHS[i], Row { ours: ours[i], bare: bare[i], xen: xen[i] }))
        .collect();
    match json {
        true => println!("{}", as_json(&rows)),
        false => print!("{}", as_table(&rows)),
    }
    Ok(())
}

/// Instructions of the paths, in the order of [`PATHS`].
fn counts(program: &std::path::Path, under: Under) -> Result<[u64; PATHS.len()]> {
    let host: PathBuf = program.to_owned();
    let file = vec![FileToSend { host, guest: PROGRAM.into() }];
    let boot = BootOptions { under, file, ..BootOptions::default() };
    let text = bench::output_of(&bench::machine(), &boot, &["sh", "-c", SCRIPT])?;
    parse(&text).with_context(|| format!("the benchmark printed {text:?}"))
}

/// The counts in the program's output, which has ticks.
fn parse(text: &str) -> Result<[u64; PATHS.len()]> {
    let mut counts = [0; PATHS.len()];
    for (count, (name, _)) in counts.iter_mut().zip(PATHS) {
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok();
        *count = text.lines().find_map(value).with_context(|| format!("no figure for {name}"))?;
        *count /= bench::TICKS;
    }
    ensure!(counts.iter().all(|count| *count > 0), "a path took no time");
    Ok(counts)
}

type Rows = [((&'static str, &'static str), Row)];

fn as_table(rows: &Rows) -> String {
    let mut text = "instructions (1 CPU, 2 GiB, QEMU -icount)\n".to_owned();
    let line = |name: &str, columns: [String; 4]| {
        let [ours, bare, xen, ratio] = columns;
        format!("{name:<27} {ours:>11} {bare:>13} {xen:>12} {ratio:>12}\n")
    };
    let heads = ["ultravisor", "no hypervisor", "Debian's Xen", "overhead"].map(str::to_owned);
    text.push_str(&line("", heads));
    for ((_, name), row) in rows {
        let ratio = row.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let [ours, bare, xen] = [row.ours, row.bare, row.xen].map(bench::grouped);
        text.push_str(&line(name, [ours, bare, xen, ratio]));
    }
    text.push_str("overhead: ours over no hypervisor, divided by Xen's; the target is 0.33\n");
    text
}

fn as_json(rows: &Rows) -> String {
    let row = |((name, _), row): &((&str, &str), Row)| {
        let ratio = row.ratio().map_or("null".to_owned(), |ratio| format!("{ratio:.4}"));
        let Row { ours, bare, xen } = row;
        format!(
            "  {{\"path\": \"{name}\", \"ultravisor\": {ours}, \"bare\": {bare}, \"xen\": {xen}, \
             \"overhead_to_xen\": {ratio}}}"
        )
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    format!("[\n{}\n]", rows.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_needs_its_figure() {
        let text: String = PATHS.map(|(name, _)| format!("{name} 20\n")).concat();
        assert_eq!(parse(&text).expect("all are there"), [10; PATHS.len()]);
        let error = parse(&text.replace("munmap", "other")).expect_err("one lacks").to_string();
        assert!(error.contains("munmap"), "{error}");
        assert!(parse(&text.replace("20", "1")).is_err());
    }

    #[test]
    fn overheads_are_compared() {
        let row = Row { ours: 400, bare: 300, xen: 1300 };
        assert_eq!(row.ratio(), Some(0.1));
        assert_eq!(Row { xen: 300, ..row }.ratio(), None);
        let rows = [(PATHS[0], row)];
        assert!(as_table(&rows).contains("0.10"));
        assert!(as_json(&rows).contains("\"overhead_to_xen\": 0.1000"));
    }
}
