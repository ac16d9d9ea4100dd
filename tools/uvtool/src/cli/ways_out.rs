//! Tests that every command which a message, a help text or a page of the documentation names works
//! as it is written: the parser of `uvtool` reads it.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;

use super::Cli;

/// Where messages for operators, and pages about `uvtool`, are written.
const PLACES: [&str; 6] = [
    "cmd-linux",
    "tools/uvtool/src",
    "hv/transaction/src",
    "hv/ultravisor/src",
    "docs/src",
    "README.md",
];

fn files(at: &Path, all: &mut Vec<PathBuf>) {
    if at.is_dir() {
        for entry in std::fs::read_dir(at).unwrap() {
            files(&entry.unwrap().path(), all);
        }
    } else if at.extension().is_some_and(|extension| extension == "rs" || extension == "md")
        && !at.ends_with(file!().rsplit('/').next().unwrap())
    {
        all.push(at.into());
    }
}

/// The commands in a text: each begins with `uvtool` and a blank, and stands between backquotes.
fn commands(text: &str) -> Vec<String> {
    // A string that goes on in the next line of the source.
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let text = lines.join("\n").replace("\\\n", "").replace("\n", " ");
    let quoted = text.match_indices("`uvtool ").filter_map(|(at, _)| {
        let rest = &text[at + 1..];
        rest.find('`').map(|end| rest[..end].to_owned())
    });
    quoted.collect()
}

/// Splits a command into words. A placeholder for a value is one word, and so is a text in quotes.
fn words(command: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut quote, mut inside) = (None, false);
    for c in command.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                if !inside {
                    words.push(String::new());
                }
            }
            None if c == ' ' => {
                inside = false;
                continue;
            }
            _ => {
                if !inside {
                    words.push(String::new());
                }
                words.last_mut().unwrap().push(c);
            }
        }
        inside = true;
    }
    words
}

/// The parser's error about a command; `None` if the command works.
fn problem(command: &str) -> Option<String> {
    // Options in brackets are shown as possible ones.
    let plain = command.replace(['[', ']', '…'], "");
    let values = [
        ("N", "7"),
        ("NUMBER", "7"),
        ("RECORD", "7"),
        ("SECONDS", "5"),
        ("SHELL", "bash"),
        ("SIZE", "64M"),
        ("PERCENT", "50"),
        ("LIST", "0-1"),
    ];
    let words = words(&plain).into_iter().map(|word| {
        let value = values.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
        let in_source = word.contains('{') && word.contains('}');
        value.map_or(if in_source { "7".into() } else { word }, str::to_owned)
    });
    let words: Vec<String> = words.collect();
    let error = Cli::try_parse_from(&words).err()?;
    // What is only mentioned may leave out what it takes; what it has must be right.
    let left_out = matches!(
        error.kind(),
        ErrorKind::MissingRequiredArgument
            | ErrorKind::MissingSubcommand
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    (!left_out && error.exit_code() != 0).then(|| error.to_string())
}

#[test]
fn every_command_that_is_named_anywhere_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut all = Vec::new();
    PLACES.iter().for_each(|place| files(&root.join(place), &mut all));
    let (mut found, mut wrong) = (0, Vec::new());
    for file in all {
        for command in commands(&std::fs::read_to_string(&file).unwrap()) {
            found += 1;
            if let Some(problem) = problem(&command) {
                wrong.push(format!("{}: `{command}`: {problem}", file.display()));
            }
        }
    }
    assert!(found > 50, "{found}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_way_out_is_a_command_that_works() {
    for way_out in uvd_protocol::way_out::ALL {
        for name in ["web", "my web", "it's"] {
            let text = uvd_protocol::way_out::with_name(way_out, name);
            let text = text.replace(r"'it'\''s'", "\"it's\"");
            let found = commands(&text);
            assert_eq!(found.len(), 1, "{text}");
            // Here a command that takes something is shown with it.
            let error = Cli::try_parse_from(words(&found[0])).err();
            assert!(error.is_none(), "{text}: {}", error.unwrap());
        }
    }
}

#[test]
fn what_does_not_work_is_found() {
    assert!(problem("uvtool set the state running").is_some());
    assert!(problem("uvtool strat web").is_some());
    assert!(problem("uvtool wait web --until bored").is_some());
    assert!(problem("uvtool destroy --forget {name}").is_none());
    assert_eq!(words("uvtool start 'my web'"), ["uvtool", "start", "my web"]);
}
