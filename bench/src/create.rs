//! `cargo xtask bench create`: the cost of creating a guest for the whole machine, on our host and
//! on Debian's Xen, with the same guest kernel and the commands that a user would type.
//!
//! The instructions are those that the machine executed. QEMU's translator counts them from mark to
//! mark ([`marks`]), so a waiting CPU counts nothing. Times are by the machine's clock and include
//! waiting.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use rig::build::{hv_build, xen_tools};
use rig::image::command_image;
use rig::image::command_image::FileToSend;
use rig::interrupt::Scratch;
use rig::options::{BootOptions, MachineOptions, Under};
use rig::workspace;

/// Paths of the program, the guest and its definition for `xl` in the command partition.
const PROGRAM: &str = "/root/bench-create";
const GUEST: &str = "/root/guest";
const XL_FILE: &str = "/root/guest.cfg";
/// The definition for `xl`, with the least that the guest needs.
const XL_TEXT: &str = "name = \"minimal\"\nkernel = \"/root/guest\"\nextra = \"idle\"\nmemory = 4\n\
    maxmem = 4\nvcpus = 1\n";
/// The number of rounds, of which the median is the figure; the first round fills caches.
const ROUNDS: usize = 5;
/// Our host should take at most this fraction of the instructions that Xen takes.
const TARGET: f64 = 0.1;

/// A measured step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// From the start of the command to the guest's first instruction.
    Started,
    /// To the end of the command.
    Created,
    /// To the first line of the guest's console, shown by the command.
    FirstLine,
    /// From the start of the destroying command to its end.
    Destroyed,
}

impl Step {
    const ALL: [Self; 4] = [Self::Started, Self::Created, Self::FirstLine, Self::Destroyed];

    /// Its name in the program's output and in JSON, and its name for people.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Started => ("started", "create, to the guest's first instruction"),
            Self::Created => ("created", "create, to the end of the command"),
            Self::FirstLine => ("first-line", "create, to the console's first line"),
            Self::Destroyed => ("destroyed", "destroy, to the end of the command"),
        }
    }
}

/// The cost of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    instructions: u64,
    /// `None` if nobody in the machine sees the end of the step.
    nanoseconds: Option<u64>,
}

/// A step on both hosts.
#[derive(Clone, Copy, Debug)]
struct Row {
    step: Step,
    ours: Figures,
    xen: Figures,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.ours.instructions as f64 / self.xen.instructions as f64
    }
}

/// Measures both, prints a table or JSON, and returns whether creation is within its target.
///
/// # Errors
/// A machine does not come up, or a command fails.
pub fn measure(json: bool) -> Result<bool> {
    let program = command_image::build_static("bench-create")?;
    let ours = figures(&program, Under::Ultravisor)?;
    let xen = figures(&program, Under::Xen)?;
    let row = |index| Row { step: Step::ALL[index], ours: ours[index], xen: xen[index] };
    let rows = [0, 1, 2, 3].map(row);
    match json {
        true => println!("{}", as_json(&rows)),
        false => print!("{}", as_table(&rows)),
    }
    Ok(rows.iter().filter(|row| row.step == Step::Created).all(|row| row.ratio() <= TARGET))
}

/// The figures of all steps, in the order of [`Step::ALL`].
fn figures(program: &Path, under: Under) -> Result<[Figures; 4]> {
    let build = workspace::build_dir()?;
    let name = format!("marks-{}-{under:?}", std::process::id()).to_lowercase();
    let marks = Scratch::new(build.join(name));
    let machine = MachineOptions { profile: Some(marks.path().to_owned()), ..crate::machine() };
    let boot = BootOptions { under, file: files(program, under)?, ..BootOptions::default() };
    let text = crate::output_of(&machine, &boot, &["sh", "-c", &script(under)])?;
    let marks = String::from_utf8(workspace::read(marks.path())?)?;
    let mut all = Vec::new();
    for step in Step::ALL {
        let name = step.names().0;
        let counts = instructions(&marks, step);
        ensure!(counts.len() >= ROUNDS, "{} of {ROUNDS} rounds have {name}", counts.len());
        let instructions = median(counts).context("no round")?;
        all.push(Figures { instructions, nanoseconds: median(times(&text, name)) });
    }
    ensure!(all[1].nanoseconds.is_some(), "the benchmark printed {text:?}");
    Ok([all[0], all[1], all[2], all[3]])
}

fn files(program: &Path, under: Under) -> Result<Vec<FileToSend>> {
    let guest = hv_build::guest()?;
    let mut files = vec![
        FileToSend { host: program.to_owned(), guest: PROGRAM.into() },
        FileToSend { host: guest, guest: GUEST.into() },
    ];
    if under == Under::Xen {
        let definition = workspace::build_dir()?.join("bench-create.cfg");
        workspace::write_if_changed(&definition, XL_TEXT.as_bytes())?;
        files.push(FileToSend { host: definition, guest: XL_FILE.into() });
        files.extend(xen_tools::files()?);
    }
    Ok(files)
}

/// The script for the command partition, or for Xen's first domain.
fn script(under: Under) -> String {
    let (start, create, console, destroy) = match under {
        Under::Xen => {
            let xl = xen_tools::XL;
            let create = format!("{xl} create {XL_FILE}");
            (xen_tools::START, create, format!("{xl} create -c {XL_FILE}"), {
                format!("{xl} destroy minimal")
            })
        }
        Under::Ultravisor | Under::Bare => {
            let create = format!(
                "uvtool create --name minimal --kernel {GUEST} --memory 4M --command-line idle"
            );
            let console = format!("{create} --console");
            (crate::SCRUBBED, create, console, "uvtool destroy --forget minimal".to_owned())
        }
    };
    format!("{start}exec {PROGRAM} {ROUNDS} {create} -- {console} -- {destroy}\n")
}

/// Instructions from the beginning of a step to its end, for each round.
fn instructions(marks: &str, step: Step) -> Vec<u64> {
    let (from, to) = match step {
        Step::Started => (marks::CREATE, marks::GUEST_STARTED),
        Step::Created => (marks::CREATE, marks::CREATED),
        Step::FirstLine => (marks::CREATE_WITH_CONSOLE, marks::FIRST_LINE),
        Step::Destroyed => (marks::DESTROY, marks::DESTROYED),
    };
    let begins = [marks::CREATE, marks::CREATE_WITH_CONSOLE, marks::DESTROY];
    let (mut counts, mut begin) = (Vec::new(), None);
    for (number, count) in marks.lines().filter_map(crate::mark_in_line) {
        if begins.contains(&number) {
            begin = (number == from).then_some(count);
        }
        if number == to {
            counts.extend(begin.map(|begin| count - begin));
        }
    }
    counts
}

/// Times of a step from the lines `NAME NANOSECONDS` of the program's output.
fn times(text: &str, name: &str) -> Vec<u64> {
    let time = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    text.lines().filter_map(time).collect()
}

fn median(mut numbers: Vec<u64>) -> Option<u64> {
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied()
}

fn as_table(rows: &[Row]) -> String {
    let mut text = format!(
        "a minimal guest of 4 MiB (1 CPU, 2 GiB, QEMU -icount), median of {ROUNDS}\n\
         {:<42} {:>24} {:>26} {:>8}\n{:<42} {:>15} {:>8} {:>17} {:>8}\n",
        "", "ultravisor", "Debian's Xen", "ratio", "", "instructions", "ms", "instructions", "ms"
    );
    let time = |figures: Figures| {
        figures.nanoseconds.map_or("-".to_owned(), |time| format!("{:.1}", time as f64 / 1e6))
    };
    for row in rows {
        let [ours, xen] = [row.ours, row.xen].map(|side| crate::grouped(side.instructions));
        let (name, ours_time, xen_time) = (row.step.names().1, time(row.ours), time(row.xen));
        text.push_str(&format!(
            "{name:<42} {ours:>15} {ours_time:>8} {xen:>17} {xen_time:>8} {:>8.3}\n",
            row.ratio()
        ));
    }
    text.push_str(&format!("ratio: of instructions; the target for create is {TARGET}\n"));
    text
}

fn as_json(rows: &[Row]) -> String {
    let side = |figures: Figures| {
        let time = figures.nanoseconds.map_or("null".to_owned(), |time| time.to_string());
        format!("{{\"instructions\": {}, \"nanoseconds\": {time}}}", figures.instructions)
    };
    let row = |row: &Row| {
        format!(
            "  {{\"step\": \"{}\", \"ultravisor\": {}, \"xen\": {}, \"ratio\": {:.4}}}",
            row.step.names().0,
            side(row.ours),
            side(row.xen),
            row.ratio()
        )
    };
    format!("[\n{}\n]", rows.iter().map(row).collect::<Vec<_>>().join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rounds; in the second, the guest starts after its command has ended.
    const MARKS: &str = "mark 1 100\nat fff0 7\nmark 2 150\nmark 3 170\nmark 5 200\nmark 6 210\n\
        mark 7 300\nmark 2 340\nmark 4 390\nmark 5 400\nmark 6 430\n\
        mark 1 500\nmark 3 510\nmark 2 540\nmark 5 600\nmark 6 650\n";

    #[test]
    fn steps_are_read_from_the_marks() {
        assert_eq!(instructions(MARKS, Step::Started), [50, 40]);
        assert_eq!(instructions(MARKS, Step::Created), [70, 10]);
        assert_eq!(instructions(MARKS, Step::FirstLine), [90]);
        assert_eq!(instructions(MARKS, Step::Destroyed), [10, 30, 50]);
    }

    #[test]
    fn times_belong_to_the_name_before_them() {
        let text = "created 5\ndestroyed 6\nfirst-line 7\ncreated 8\n";
        assert_eq!(times(text, "created"), [5, 8]);
        assert_eq!(median(times(text, "first-line")), Some(7));
        assert_eq!(median(times(text, "started")), None);
    }

    #[test]
    fn both_prints_have_the_ratio() {
        let side = |instructions| Figures { instructions, nanoseconds: Some(2_500_000) };
        let row = Row { step: Step::Created, ours: side(12), xen: side(100) };
        assert!(as_table(&[row]).contains("0.120") && as_table(&[row]).contains("2.5"));
        assert!(as_json(&[row]).contains("\"ratio\": 0.1200"));
    }
}
