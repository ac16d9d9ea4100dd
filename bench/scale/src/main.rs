//! Fills the host with minimal guests, and passes marks around each command at each size.
//!
//! ```text
//! bench-scale ROUNDS KERNEL SIZE…
//!
//! size      create guests until there are SIZE, then ROUNDS times:
//!           for each step: mark BEGIN, run the command, mark END, print `step SIZE NAME`
//! ```
//!
//! A line is printed after the marks of its step, so the n-th line belongs to the n-th pair of
//! marks. Instructions are counted outside the machine ([`marks`]). Where a guest does not fit any
//! more, the program prints `full COUNT` and the refusal, and ends with status 0.

use std::fs;
use std::process::{Command, ExitCode, Output, Stdio};
use std::thread;
use std::time::Duration;

type Error = Box<dyn std::error::Error>;

/// The guest that the steps create, inspect and destroy.
const EXTRA: &str = "scale-extra";
const FIRST: &str = "scale-1";
/// The file with the definitions of all guests.
const DEFINITIONS: &str = "/root/scale.toml";
/// How long the machine is left alone before a step, so that the work of the step before is over. A
/// machine that waits counts no instructions.
const SETTLE: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run_rounds(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_rounds(words: &[String]) -> Result<(), Error> {
    let [rounds, kernel, sizes @ ..] = words else {
        return Err("give ROUNDS KERNEL SIZE…".into());
    };
    let rounds: u32 = rounds.parse()?;
    let mut count = 0;
    for size in sizes {
        let size: u32 = size.parse()?;
        while count < size {
            let output = uvtool(&create(&format!("scale-{}", count + 1), kernel))?;
            if !output.status.success() {
                println!("full {count}");
                eprint!("{}", String::from_utf8_lossy(&output.stderr));
                return Ok(());
            }
            count += 1;
        }
        let all: String = (1..=count).map(|index| definition(index, kernel)).collect();
        fs::write(DEFINITIONS, all)?;
        for round in 0..rounds {
            // The value differs each time, so that there is something to change.
            let weight = (200 + size + round).to_string();
            steps(size, kernel, &weight)?;
        }
    }
    Ok(())
}

/// Does each step once, beside `size` guests.
fn steps(size: u32, kernel: &str, weight: &str) -> Result<(), Error> {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let steps = [
        ("create", create(EXTRA, kernel)),
        ("destroy", words(&format!("destroy --forget {EXTRA}"))),
        ("info", words(&format!("info {FIRST}"))),
        ("console", words(&format!("console --once {FIRST}"))),
        ("set", words(&format!("set {FIRST} --weight {weight}"))),
        ("list", words("list")),
        ("plan", words(&format!("plan {DEFINITIONS}"))),
        ("resources", words("resources")),
    ];
    for (name, command) in steps {
        thread::sleep(SETTLE);
        marks::pass::<{ marks::BEGIN }>();
        let output = uvtool(&command);
        marks::pass::<{ marks::END }>();
        let output = output?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(format!("{name} with {size} guests: {text}").into());
        }
        println!("step {size} {name}");
    }
    Ok(())
}

fn create(name: &str, kernel: &str) -> Vec<String> {
    let options = ["create", "--name", name, "--kernel", kernel, "--memory", "4M"];
    [&options[..], &["--command-line", "idle"]].concat().into_iter().map(str::to_owned).collect()
}

fn definition(index: u32, kernel: &str) -> String {
    format!(
        "[[partition]]\nname = \"scale-{index}\"\nkernel = \"{kernel}\"\n\
         command_line = \"idle\"\nmemory = \"4M\"\n"
    )
}

fn uvtool(words: &[String]) -> Result<Output, Error> {
    Ok(Command::new("uvtool").args(words).stdin(Stdio::null()).output()?)
}
