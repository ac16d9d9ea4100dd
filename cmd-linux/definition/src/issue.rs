//! What is wrong with a file of definitions, in sentences.
//!
//! The rule they keep: each names the file with line and column, the object, the field, what is
//! wrong with its limit, and a way out.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Issues kept of one file; the rest is only counted.
const MOST: usize = 50;

/// One thing that is wrong, or one that was passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; 0: the file as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0: the file as a whole.
    pub column: usize,
    /// Which partition, or empty.
    pub object: String,
    /// The field as it is written in the file, or empty.
    pub field: String,
    /// What is wrong, with the limit.
    pub problem: String,
    /// What to do, or empty.
    pub way_out: String,
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line != 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        for part in [&self.object, &self.field].into_iter().filter(|part| !part.is_empty()) {
            write!(f, ": {part}")?;
        }
        write!(f, ": {}", self.problem)?;
        if self.way_out.is_empty() { Ok(()) } else { write!(f, "; {}", self.way_out) }
    }
}

/// Everything that is wrong with a file of definitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<Issue>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, issue) in self.0.iter().enumerate() {
            if index != 0 {
                f.write_str("\n")?;
            }
            issue.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Takes issues in as a file is read.
pub(crate) struct Sink<'a> {
    file: &'a Path,
    text: &'a str,
    /// The object that issues are about now.
    pub(crate) object: String,
    pub(crate) errors: Vec<Issue>,
    pub(crate) warnings: Vec<Issue>,
}

impl<'a> Sink<'a> {
    pub(crate) fn new(text: &'a str, file: &'a Path) -> Self {
        Self { file, text, object: String::new(), errors: Vec::new(), warnings: Vec::new() }
    }

    /// The file that is read.
    pub(crate) fn file(&self) -> &'a Path {
        self.file
    }

    /// Something is wrong at byte `at`.
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
        }
    }

    /// Something at byte `at` is passed over.
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
        let (line, column) = position(self.text, at);
        Issue {
            file: self.file.to_owned(),
            line,
            column,
            object: self.object.clone(),
            field: field.to_owned(),
            problem,
            way_out,
        }
    }
}

/// An issue with a file as a whole.
pub(crate) fn whole_file(file: &Path, problem: &str, way_out: &str) -> Errors {
    Errors(vec![Issue {
        file: file.to_owned(),
        line: 0,
        column: 0,
        object: String::new(),
        field: String::new(),
        problem: problem.to_owned(),
        way_out: way_out.to_owned(),
    }])
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
