//! `uvtool`: what a person or a program in the command partition asks the ultravisor.
//!
//! ```text
//! cli -> commands, source -> connection (uvd's socket) -> view -> text or JSON
//! ```
//!
//! Rule: answers go to standard output, reasons to standard error; a reason names the object, the
//! limit and a way out.

mod cli;
mod commands;
mod connection;
mod console;
mod progress;
mod quantity;
mod source;
mod table;
mod terminal;
mod top;
mod view;
mod words;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command, Diag, Kernel};
use connection::Uvd;
use source::{Error, Source};
use view::info::Info;
use view::list::List;
use view::log::Log;
use view::released::Released;
use view::resources::Resources;
use view::verify::Verified;
use view::version::Version;
use view::{Names, View};

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Completion { shell } = cli.command {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "uvtool", &mut script);
        return print(&script, None);
    }
    run(&cli).unwrap_or_else(|error| complain(&error.to_string()))
}

fn run(cli: &Cli) -> Result<ExitCode, Error> {
    let (how, json) = (&cli.how, cli.how.json);
    if let Command::Kernel { request: Kernel::Check { file } } = &cli.command {
        return commands::kernel::check(file, json);
    }
    let mut uvd = Uvd::connect(&how.socket, how.timeout(), how.timeout.is_some())?;
    match &cli.command {
        Command::Lifecycle(command) => commands::lifecycle::run(command, json, &mut uvd),
        Command::Top { delay, rounds } => {
            top::top(&mut uvd, Duration::from_secs_f64(*delay), *rounds)?;
            Ok(ExitCode::SUCCESS)
        }
        command => {
            let shown = show(command, json, &mut uvd)?;
            Ok(print(shown.output.as_bytes(), shown.problem.as_deref()))
        }
    }
}

/// What a command prints, and what is wrong with it.
struct Shown {
    output: String,
    problem: Option<String>,
}

/// Asks for what a command shows.
fn show(command: &Command, json: bool, source: &mut impl Source) -> Result<Shown, Error> {
    match command {
        Command::List { all } => Ok(shown(&List::new(&source.partitions()?, *all), json)),
        Command::Info { name } => Ok(shown(&Info::new(&source.partitions()?, name)?, json)),
        Command::Resources { verify: true, .. } => {
            let partitions = source.partitions()?;
            let frames = source.resources()?.frames;
            let (found, compared) = source.compare(frames)?;
            let names = Names::new(&partitions);
            Ok(shown(&Verified::new(frames, compared, &found, &names), json))
        }
        Command::Resources { map, .. } => {
            let partitions = source.partitions()?;
            let answer = source.resources()?;
            let map = if *map { Some(source.page_map(answer.frames)?) } else { None };
            let boot = source.boot_heap();
            Ok(shown(&Resources::new(&answer, boot, &Names::new(&partitions), map), json))
        }
        Command::Log { lines } => {
            let partitions = source.partitions()?;
            let rows = source.log(*lines)?;
            Ok(shown(&Log::new(rows, &Names::new(&partitions)), json))
        }
        Command::Diag { request } => {
            let Diag::Release { partition, first, frames } = *request;
            Ok(shown(&Released::new(source.release(partition, first, frames)?), json))
        }
        Command::Version => Ok(shown(&Version::new(source.version()?), json)),
        Command::Lifecycle(_)
        | Command::Top { .. }
        | Command::Kernel { .. }
        | Command::Completion { .. } => Err(Error::Other("a question")),
    }
}

fn shown(view: &impl View, json: bool) -> Shown {
    let output = if json {
        // Views are made of numbers, words and lists: JSON can say all of them.
        serde_json::to_string_pretty(view).unwrap_or_default() + "\n"
    } else {
        view.text()
    };
    Shown { output, problem: view.problem() }
}

fn print(output: &[u8], problem: Option<&str>) -> ExitCode {
    let written = std::io::stdout().write_all(output);
    match (written, problem) {
        // Whoever read our output has had enough.
        (Err(error), _) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        (Err(error), _) => complain(&format!("standard output: {error}")),
        (Ok(()), Some(problem)) => complain(problem),
        (Ok(()), None) => ExitCode::SUCCESS,
    }
}

fn complain(problem: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "uvtool: {problem}");
    ExitCode::FAILURE
}
