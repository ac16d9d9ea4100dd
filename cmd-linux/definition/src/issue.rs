//! The mistakes in a file of definitions, as sentences.
//!
//! Rule: each sentence names the file with line and column, the object, the field, the mistake, the
//! limit, and a way out.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// The most issues kept for one file; further ones are counted.
const MOST: usize = 50;

/// One mistake, or one setting that was ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// The file; empty for the options of a command.
    pub file: PathBuf,
    /// Line, from 1; 0 means the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 means the file as a whole.
    pub column: usize,
    /// Which partition, or empty.
    pub object: String,
    /// The field as the file writes it, or empty.
    pub field: String,
    /// The mistake, with the limit.
    pub problem: String,
    /// The way out, or empty.
    pub way_out: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.as_os_str().is_empty() {
            write!(f, "{}", self.file.display())?;
            if self.line != 0 {
                write!(f, ":{}:{}", self.line, self.column)?;
            }
            f.write_str(": ")?;
        }
        for part in [&self.object, &self.field].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "{part}: ")?;
        }
        write!(f, "{}", self.problem)?;
        if self.way_out.is_empty() { Ok(()) } else { write!(f, "; {}", self.way_out) }
    }
}

/// All mistakes in a file of definitions, and the settings that were ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    /// The mistakes.
    pub issues: Vec<Issue>,
    /// The number of further mistakes, which are not in the list.
    pub more: usize,
    /// The settings that were ignored.
    pub warnings: Vec<Issue>,
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = (self.more != 0).then(|| format!("{} more mistakes", self.more));
        let issues = self.issues.iter().map(Issue::to_string).chain(more);
        let warnings = self.warnings.iter().map(|issue| format!("warning: {issue}"));
        f.write_str(&issues.chain(warnings).collect::<Vec<_>>().join("\n"))
    }
}

impl std::error::Error for Errors {}

/// The source of the values, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file.
    File,
    /// Options of a command: `max_vcpus` is written `--max-vcpus` there.
    Options,
}

/// The object of an issue.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Object<'a> {
    /// The file.
    File,
    /// The only partition of the file.
    Partition,
    /// The partition with this number in the file, from 1.
    Numbered(usize),
    /// The partition with this name.
    Named(&'a str),
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Partition => f.write_str("partition"),
            Self::Numbered(number) => write!(f, "partition {number}"),
            Self::Named(name) => write!(f, "partition {}", quoted(name)),
        }
    }
}

/// Collects issues while a file is read.
pub(crate) struct Sink<'a> {
    file: &'a Path,
    text: &'a str,
    source: Source,
    more: usize,
    /// The object that the next issues are about.
    pub(crate) object: Object<'a>,
    pub(crate) errors: Vec<Issue>,
    pub(crate) warnings: Vec<Issue>,
}

impl<'a> Sink<'a> {
    pub(crate) fn new(text: &'a str, file: &'a Path, source: Source) -> Self {
        let (errors, warnings) = (Vec::new(), Vec::new());
        Self { file, text, source, more: 0, object: Object::File, errors, warnings }
    }

    /// Reports that a required field is missing, with an example of its value.
    pub(crate) fn missing(&mut self, at: usize, key: &str, example: &str) {
        let way_out = match self.source {
            Source::File => format!("add a line like {key} = {example}"),
            Source::Options => format!("add {} {}", option(key), example.trim_matches('"')),
        };
        self.error(at, key, "missing", way_out);
    }

    /// Whether the file has no mistakes and no ignored settings.
    pub(crate) fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.warnings.is_empty()
    }

    /// Returns the mistakes as an error, or, if there are none, the settings that were ignored.
    pub(crate) fn finish(self) -> Result<Vec<Issue>, Errors> {
        if self.errors.is_empty() {
            return Ok(self.warnings);
        }
        Err(Errors { issues: self.errors, more: self.more, warnings: self.warnings })
    }

    /// The file that is read.
    pub(crate) fn file(&self) -> &'a Path {
        self.file
    }

    /// Reports a mistake at byte `at`.
    pub(crate) fn error(
        &mut self,
        at: usize,
        field: &str,
        problem: impl Into<String>,
        way_out: impl Into<String>,
    ) {
        if self.errors.len() < MOST {
            let issue = self.issue(at, field, problem.into(), way_out.into());
            self.errors.push(issue);
        } else {
            self.more += 1;
        }
    }

    /// Reports that the setting at byte `at` is ignored.
    pub(crate) fn warn(
        &mut self,
        at: usize,
        field: &str,
        problem: impl Into<String>,
        way_out: impl Into<String>,
    ) {
        if self.warnings.len() < MOST {
            let issue = self.issue(at, field, problem.into(), way_out.into());
            self.warnings.push(issue);
        }
    }

    fn issue(&self, at: usize, field: &str, problem: String, way_out: String) -> Issue {
        let object = self.object.to_string();
        let (file, (line, column), field) = match self.source {
            Source::File => (self.file.to_owned(), position(self.text, at), field.to_owned()),
            Source::Options => (PathBuf::new(), (0, 0), option(field)),
        };
        Issue { file, line, column, object, field, problem, way_out }
    }
}

/// An issue with a file as a whole.
pub(crate) fn whole_file(file: &Path, problem: &str, way_out: &str) -> Errors {
    let issue = Issue {
        file: file.to_owned(),
        line: 0,
        column: 0,
        object: String::new(),
        field: String::new(),
        problem: problem.to_owned(),
        way_out: way_out.to_owned(),
    };
    Errors { issues: vec![issue], more: 0, warnings: Vec::new() }
}

/// The option that gives a field.
fn option(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("--{}", field.replace('_', "-")) }
}

/// Line and column of a byte, from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let mut end = at.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = &text[..end];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

pub(crate) use rules::quoted;
