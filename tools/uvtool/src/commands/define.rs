//! Makes definitions and settings from files and options.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use definition::{Definition, Given, Issue, Listed};
use uvd_protocol::{PolicySettings, Sentence, Settings};

use crate::answer;
use crate::cli::Command;
use crate::cli::lifecycle::{Create, Set};
use crate::source::Error;

/// Checks the arguments of a command before any request is sent.
///
/// # Errors
/// [`Error::Usage`].
pub fn check(command: &Command) -> Result<(), Error> {
    match command {
        Command::Create(create) if create.file.is_none() => wanted(create).map(drop),
        Command::Set(set) => {
            let settings = settings(set)?;
            if settings == Settings::default() {
                let way_out = "give one of its options, such as --memory 512M; see --help";
                return Err(Error::Usage(Sentence::new("set: there is nothing to set", way_out)));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Reads the definitions in `files`; no name may be in two of them.
pub fn read(files: &[PathBuf]) -> Result<Vec<Listed>, Error> {
    let mut all: Vec<Listed> = Vec::new();
    // Within a file, names are unique.
    let mut names: HashSet<String> = HashSet::new();
    for file in files {
        let before = all.len();
        let listing = definition::load_list(file).map_err(Error::Definition)?;
        warn(&listing.warnings);
        for one in listing.definitions {
            let name = one.name();
            if names.contains(name) {
                let file = file.display();
                let problem =
                    format!("{file}: partition {name:?}: defined twice in the files given");
                return Err(Error::Given(Sentence::new(problem, "rename one")));
            }
            all.push(one);
        }
        if files.len() > 1 {
            names.extend(all[before..].iter().map(|one| one.name().to_owned()));
        }
    }
    Ok(all)
}

fn read_file(file: &Path) -> Result<Vec<Definition>, Error> {
    let reading = definition::load(file).map_err(Error::Definition)?;
    warn(&reading.warnings);
    Ok(reading.definitions)
}

fn warn(warnings: &[Issue]) {
    for warning in warnings {
        let line = if answer::is_json() {
            answer::json_line(&serde_json::json!({ "warning": warning }))
        } else {
            format!("uvtool: warning: {warning}\n")
        };
        eprint!("{line}");
    }
}

/// Reads the one definition of `uvtool create`, from its file or from its options.
pub fn wanted(create: &Create) -> Result<Definition, Error> {
    let Some(file) = &create.file else {
        let given = definition::from_options(&options(create), Path::new(""));
        return given.map_err(Error::Options);
    };
    let mut all = read_file(file)?;
    let names: Vec<_> = all.iter().map(|one| one.name.clone()).collect();
    let at = match &create.name {
        Some(name) => names.iter().position(|other| other == name),
        None => (all.len() == 1).then_some(0),
    };
    at.map(|at| all.swap_remove(at)).ok_or_else(|| {
        let (file, names) = (file.display(), names.join(", "));
        Error::Given(match &create.name {
            Some(name) => {
                let there = format!("there are {names}");
                Sentence::new(format!("{file}: no partition {name:?}"), there)
            }
            None => {
                let way_out = "choose one with --name, or use `uvtool apply`";
                Sentence::new(format!("{file}: defines {names}"), way_out)
            }
        })
    })
}

/// Turns the options into fields, so that the same rules check them.
fn options(create: &Create) -> Vec<(&'static str, Given)> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
    let texts = [
        ("name", create.name.clone()),
        ("kernel", path(&create.kernel)),
        ("initrd", path(&create.initrd)),
        ("command_line", create.command_line.clone()),
        ("memory", create.memory.clone()),
    ];
    let texts = texts.into_iter().filter_map(|(key, text)| Some((key, Given::Text(text?))));
    let vcpus = create.vcpus.map(|vcpus| ("vcpus", Given::Number(vcpus)));
    texts.chain(vcpus).collect()
}

/// The settings of `uvtool set`.
pub fn settings(set: &Set) -> Result<Settings, Error> {
    let given = |what: &str, Sentence { problem, way_out }| {
        Error::Usage(Sentence::new(format!("--{what}: {problem}"), way_out))
    };
    let memory = set.memory.as_deref().map(crate::quantity::size).transpose();
    let affinity = match set.cpus.as_deref() {
        Some("all") => Some(Vec::new()),
        Some(list) => Some(crate::quantity::cpus(list).map_err(|e| given("cpus", e))?),
        None => None,
    };
    let on = PolicySettings {
        poweroff: set.on_poweroff.map(Into::into),
        reboot: set.on_reboot.map(Into::into),
        crash: set.on_crash.map(Into::into),
    };
    Ok(Settings {
        memory: memory.map_err(|e| given("memory", e))?,
        vcpus: set.vcpus,
        weight: set.weight,
        cap: set.cap,
        affinity,
        dedicated: set.dedicated,
        on,
    })
}
