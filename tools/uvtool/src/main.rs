//! `uvtool`: the command line for people and programs in the command partition.
//!
//! ```text
//! cli -> commands, source -> connection (uvd's socket) -> view -> text or JSON
//! ```
//!
//! A command is over in a millisecond, so it begins without the start-up of Rust's standard library
//! ([`start`]), which reads the process's memory map and makes a stack for faults.
//!
//! Rule: answers go to standard output, and failures to standard error; a failure names the object,
//! the limit and a way out. [`answer`] says how a command ends.

#![cfg_attr(not(test), no_main)]

mod answer;
mod cli;
mod commands;
mod connection;
mod console;
mod progress;
mod quantity;
mod source;
#[cfg(not(test))]
mod start;
mod table;
mod terminal;
mod time_limit;
mod top;
mod view;
mod words;

use std::io::Write;
use std::mem::ManuallyDrop;
use std::process::ExitCode;

use answer::Problem;
use cli::disks::{Disk, DiskRequest};
use cli::questions::{DiagRequest, KernelRequest};
use cli::{Cli, Command};
use connection::Uvd;
use control::command::{Code, PartitionRow};
use pv_abi::uv::database::UNASSIGNED;
use source::{Error, Source};
use uvd_protocol::Sentence;
use view::disks::Disks;
use view::doctor::Doctor;
use view::info::Info;
use view::io::IoPartitions;
use view::list::List;
use view::log::Log;
use view::released::Released;
use view::resources::Resources;
use view::verify::Verified;
use view::version::Version;
use view::{Names, View};

/// Carries out the command line; returns the exit status.
#[cfg_attr(test, expect(dead_code, reason = "a test has a main function of its own"))]
fn run_words() -> ExitCode {
    if let Some(status) = kernel_image::confined::serve_if_asked() {
        return status;
    }
    let cli = match Cli::try_parse_from(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return wrong_words(&error),
    };
    if cli.how.json {
        answer::use_json();
    }
    if let Command::Completion(options) = &cli.command {
        let mut script = Vec::new();
        clap_complete::generate(options.shell, &mut Cli::command(), "uvtool", &mut script);
        if cli.how.json {
            script = answer::json_line(&Script::new(options.shell, &script)).into_bytes();
        }
        return print(&script);
    }
    if cli.how.timeout.is_some() {
        time_limit::set(cli.how.timeout());
    }
    run(&cli).unwrap_or_else(|error| answer::fail(&Problem::from(&error)))
}

/// A completion script, for programs.
#[derive(serde::Serialize)]
struct Script {
    shell: String,
    script: String,
}

impl Script {
    fn new(shell: clap_complete::Shell, script: &[u8]) -> Self {
        Self { shell: shell.to_string(), script: String::from_utf8_lossy(script).into_owned() }
    }
}

/// Reports a mistake in the command line, or prints help or the version, which clap reports in the
/// same way.
fn wrong_words(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|word| word == "--json");
    if error.exit_code() == 0 || !json {
        error.exit()
    }
    answer::use_json();
    let text = error.to_string();
    let text = text.trim().strip_prefix("error: ").unwrap_or(text.trim());
    answer::fail(&Problem::from(&Error::Usage(Sentence::new(text, ""))))
}

fn run(cli: &Cli) -> Result<ExitCode, Error> {
    let (how, json) = (&cli.how, cli.how.json);
    if let Command::Kernel(options) = &cli.command {
        let KernelRequest::Check { file } = &options.request;
        return commands::kernel::check(file, json);
    }
    commands::define::check(&cli.command)?;
    let mut uvd = Uvd::connect(how.socket(), how.timeout(), how.timeout.is_some())?;
    match show(&cli.command, json, &mut uvd)? {
        Some(shown) => Ok(shown.print()),
        None => commands::lifecycle::run(&cli.command, json, &mut uvd),
    }
}

/// The text that a command prints, and its problem, if any.
struct Shown {
    output: String,
    problem: Option<Problem>,
}

impl Shown {
    /// Prints it; returns the exit status.
    fn print(self) -> ExitCode {
        let printed = print(self.output.as_bytes());
        match self.problem {
            Some(problem) if printed == ExitCode::SUCCESS => answer::fail(&problem),
            _ => printed,
        }
    }
}

/// Makes the view of a command that only shows something; `None` for other commands.
fn show(command: &Command, json: bool, source: &mut impl Source) -> Result<Option<Shown>, Error> {
    Ok(Some(match command {
        // The process ends after the answer, so the rows of a thousand partitions are not freed.
        Command::List(options) => shown(&List::new(source.list()?.leak(), options.all), json),
        Command::Info(options) => {
            let row = source.partition(&options.name)?;
            let owner = match row.owner {
                UNASSIGNED => None,
                number if number == row.number => Some(row.clone()),
                number => source.partition(&number.to_string()).ok(),
            };
            let rows: Vec<PartitionRow> = owner.into_iter().collect();
            shown(&Info::new(&row, &Names::new(&rows)), json)
        }
        Command::Resources(options) if options.verify => {
            let partitions = source.list()?;
            let frames = source.resources()?.frames;
            let (found, compared) = source.compare(frames)?;
            let names = Names::of_list(&partitions);
            shown(&Verified::new(frames, compared, &found, &names), json)
        }
        Command::Resources(options) => {
            let partitions = source.list()?.leak();
            let answer = Box::leak(Box::new(source.resources()?));
            let devices = source.devices()?;
            let map = if options.map { Some(source.page_map(answer.frames)?) } else { None };
            let boot = source.boot_heap();
            let names = Names::of_list(partitions);
            shown(&*ManuallyDrop::new(Resources::new(answer, &devices, boot, &names, map)), json)
        }
        Command::Log(options) => {
            let partitions = source.list()?;
            let rows = source.log(options.lines)?;
            shown(&Log::new(rows, &Names::of_list(&partitions)), json)
        }
        Command::Disk(Disk { request: DiskRequest::List { partition } }) => {
            let partition = match partition {
                Some(name) => Some(source.partition(name)?.number),
                None => None,
            };
            let (rows, devices, partitions) = (source.disks()?, source.devices()?, source.list()?);
            let names = Names::of_list(&partitions);
            shown(&Disks::new(&rows, &devices, &names, partition), json)
        }
        Command::Io(options) if options.change().is_none() => {
            let (rows, devices, disks) = (source.list()?, source.devices()?, source.disks()?);
            shown(&IoPartitions::new(&rows, &devices, &disks), json)
        }
        Command::Diag(options) => {
            let DiagRequest::Release { partition, first, frames } = options.request;
            shown(&Released::new(source.release(partition, first, frames)?), json)
        }
        Command::Doctor(options) => shown(&Doctor::new(source.issues()?, options.all), json),
        Command::Version(_) => shown(&Version::new(source.version()?), json),
        _ => return Ok(None),
    }))
}

fn shown(view: &impl View, json: bool) -> Shown {
    let output = if json { answer::json(view) + "\n" } else { view.text() };
    let problem = |sentence: Sentence| Problem {
        status: view.status(),
        ..Problem::new(Code::Failed, &sentence)
    };
    Shown { output, problem: view.problem().map(problem) }
}

fn print(output: &[u8]) -> ExitCode {
    match std::io::stdout().write_all(output) {
        // The reader of standard output closed it.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(error) => {
            let sentence = Sentence::new(format!("standard output: {error}"), "");
            answer::fail(&Problem::new(Code::Failed, &sentence))
        }
        Ok(()) => ExitCode::SUCCESS,
    }
}
