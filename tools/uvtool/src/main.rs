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

use cli::questions::{DiagRequest, KernelRequest};
use cli::{Cli, Command};
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
    if let Some(status) = kernel_image::confined::serve_if_asked() {
        return status;
    }
    let cli = Cli::parse();
    if let Command::Completion(options) = &cli.command {
        let mut script = Vec::new();
        clap_complete::generate(options.shell, &mut Cli::command(), "uvtool", &mut script);
        return print(&script, None);
    }
    run(&cli).unwrap_or_else(|error| complain(&error.to_string()))
}

fn run(cli: &Cli) -> Result<ExitCode, Error> {
    let (how, json) = (&cli.how, cli.how.json);
    if let Command::Kernel(options) = &cli.command {
        let KernelRequest::Check { file } = &options.request;
        return commands::kernel::check(file, json);
    }
    let mut uvd = Uvd::connect(how.socket(), how.timeout(), how.timeout.is_some())?;
    match show(&cli.command, json, &mut uvd)? {
        Some(shown) => Ok(print(shown.output.as_bytes(), shown.problem.as_deref())),
        None => commands::lifecycle::run(&cli.command, json, &mut uvd),
    }
}

/// What a command prints, and what is wrong with it.
struct Shown {
    output: String,
    problem: Option<String>,
}

/// Asks for what a command shows; `None`: it does something.
fn show(command: &Command, json: bool, source: &mut impl Source) -> Result<Option<Shown>, Error> {
    Ok(Some(match command {
        Command::List(options) => shown(&List::new(&source.partitions()?, options.all), json),
        Command::Info(options) => shown(&Info::new(&source.partitions()?, &options.name)?, json),
        Command::Resources(options) if options.verify => {
            let partitions = source.partitions()?;
            let frames = source.resources()?.frames;
            let (found, compared) = source.compare(frames)?;
            let names = Names::new(&partitions);
            shown(&Verified::new(frames, compared, &found, &names), json)
        }
        Command::Resources(options) => {
            let partitions = source.partitions()?;
            let answer = source.resources()?;
            let map = if options.map { Some(source.page_map(answer.frames)?) } else { None };
            let boot = source.boot_heap();
            shown(&Resources::new(&answer, boot, &Names::new(&partitions), map), json)
        }
        Command::Log(options) => {
            let partitions = source.partitions()?;
            let rows = source.log(options.lines)?;
            shown(&Log::new(rows, &Names::new(&partitions)), json)
        }
        Command::Diag(options) => {
            let DiagRequest::Release { partition, first, frames } = options.request;
            shown(&Released::new(source.release(partition, first, frames)?), json)
        }
        Command::Version(_) => shown(&Version::new(source.version()?), json),
        _ => return Ok(None),
    }))
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
