//! Creates and destroys a guest several times, and reports how long each step took.
//!
//! ```text
//! bench-create TIMES CREATE… -- CREATE WITH CONSOLE… -- DESTROY…
//!
//! round     mark CREATE, run CREATE, mark CREATED, run DESTROY between its marks
//!           mark CREATE_WITH_CONSOLE, run it until its first line, mark FIRST_LINE, run DESTROY
//! ```
//!
//! It prints `created NS`, `destroyed NS`, `first-line NS` for each round, in nanoseconds of the
//! machine's clock. QEMU counts the instructions outside the machine, by the marks that this
//! program and the guest pass ([`marks`]).

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long the machine is left alone before a command, so that the work of the command before is
/// over: both hypervisors scrub released memory when they are idle.
const SETTLE: Duration = Duration::from_millis(300);

type Error = Box<dyn std::error::Error>;

/// The first line that the guest prints.
const LINE: &str = "idle";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run_commands(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-create: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_commands(words: &[String]) -> Result<(), Error> {
    let (times, commands) = words.split_first().ok_or("how many times?")?;
    let commands: Vec<_> = commands.split(|word| word == "--").collect();
    let [create, console, destroy] = commands[..] else {
        return Err("give three commands with -- between them".into());
    };
    for _ in 0..times.parse::<u32>()? {
        print_time("created", created(create)?);
        print_time("destroyed", destroyed(destroy)?);
        let (time, shown) = first_line(console)?;
        print_time("first-line", time);
        destroyed(destroy)?;
        ended(shown)?;
    }
    Ok(())
}

fn print_time(what: &str, time: Duration) {
    println!("{what} {}", time.as_nanos());
}

fn command(words: &[String]) -> Result<Command, Error> {
    let (program, arguments) = words.split_first().ok_or("an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}

/// Runs a command that must succeed, and ignores its output.
fn finish(words: &[String]) -> Result<(), Error> {
    let status = command(words)?.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if !status.success() {
        return Err(format!("`{}` ended with {status}", words.join(" ")).into());
    }
    Ok(())
}

fn created(words: &[String]) -> Result<Duration, Error> {
    between::<{ marks::CREATE }, { marks::CREATED }>(words)
}

fn destroyed(words: &[String]) -> Result<Duration, Error> {
    between::<{ marks::DESTROY }, { marks::DESTROYED }>(words)
}

/// Runs a command that must succeed between two marks; returns how long it took.
fn between<const FIRST: u8, const LAST: u8>(words: &[String]) -> Result<Duration, Error> {
    thread::sleep(SETTLE);
    let start = Instant::now();
    marks::pass::<FIRST>();
    finish(words)?;
    marks::pass::<LAST>();
    Ok(start.elapsed())
}

/// Runs a command that shows the guest's console until the first line appears.
fn first_line(words: &[String]) -> Result<(Duration, Child), Error> {
    let mut command = command(words)?;
    // Its input stays open, because the end of it would end the console.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    thread::sleep(SETTLE);
    let start = Instant::now();
    marks::pass::<{ marks::CREATE_WITH_CONSOLE }>();
    let mut child = command.spawn()?;
    let output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
    for line in output.lines() {
        if line?.trim() == LINE {
            marks::pass::<{ marks::FIRST_LINE }>();
            return Ok((start.elapsed(), child));
        }
    }
    Err(format!("`{}` ended without a line `{LINE}`", words.join(" ")).into())
}

/// Ends a command that shows a console.
fn ended(mut child: Child) -> Result<(), Error> {
    child.kill()?;
    child.wait()?;
    Ok(())
}
