//! How a command ends: its status, and its report of a failure, as text or as JSON.
//!
//! Rule: with `--json`, standard output has only JSON, and so has standard error: one object with
//! all that a program needs to know about a failure. `docs/src/uvtool.schema.json` describes both.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use control::command::Code;
use serde::Serialize;
use serde_json::Value;
use uvd_protocol::{Failure, Sentence};

use crate::source::Error;

/// Exit statuses of commands.
pub mod status {
    /// The command failed; standard error has the reason.
    pub const FAILED: u8 = 1;
    /// Wrong usage; no request was sent.
    pub const USAGE: u8 = 2;
    /// The partition that was watched crashed.
    pub const CRASHED: u8 = 3;
    /// The time was up, with the status of `timeout(1)`; the request may still be carried out.
    pub const TIMED_OUT: u8 = 124;
}

/// The largest number that every reader of JSON keeps exactly (2^53 - 1).
const LARGEST: u64 = (1 << 53) - 1;

/// Whether this process answers in JSON; set once, before the first request.
static JSON: AtomicBool = AtomicBool::new(false);

/// Makes this process answer in JSON from now on.
pub fn use_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// Whether this process answers in JSON.
pub fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// A failure, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A word that does not change from version to version.
    pub code: Code,
    /// The object that the failure is about, or empty.
    pub object: String,
    /// The field of the object, or empty.
    pub field: String,
    /// The requested or found value, and the limit.
    pub limit: String,
    /// What to do instead, or empty.
    pub way_out: String,
    /// The index of the operation in a transaction, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<u32>,
    /// All mistakes in files of definitions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub issues: Vec<definition::Issue>,
    /// The whole failure, for people.
    pub message: String,
    /// The status that the command ends with.
    pub status: u8,
}

impl Problem {
    /// A failure with the parts of a sentence.
    pub fn new(code: Code, sentence: &Sentence) -> Self {
        Self {
            code,
            object: String::new(),
            field: String::new(),
            limit: sentence.problem.clone(),
            way_out: sentence.way_out.clone(),
            operation: None,
            issues: Vec::new(),
            message: sentence.to_string(),
            status: status::FAILED,
        }
    }

    /// A failure with the parts of the first mistake in definitions, and all mistakes.
    fn of_definitions(code: Code, errors: &definition::Errors) -> Self {
        let message = errors.to_string();
        let all = Self::new(code, &Sentence::new(message, ""));
        let Some(first) = errors.issues.first() else { return all };
        Self {
            object: first.object.clone(),
            field: first.field.clone(),
            limit: first.problem.clone(),
            way_out: first.way_out.clone(),
            issues: errors.issues.clone(),
            ..all
        }
    }

    fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    fn about(self, object: &str, field: &str) -> Self {
        Self { object: object.into(), field: field.into(), ..self }
    }
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let sentence = error.sentence();
        let say = |code| Self::new(code, &sentence);
        match error {
            Error::Unreachable { .. } => say(Code::Unreachable).about("uvd", "socket"),
            Error::Conversation(_) => say(Code::Conversation).about("uvd", "socket"),
            Error::Silent(_) => {
                say(Code::TimedOut).about("uvd", "timeout").with_status(status::TIMED_OUT)
            }
            Error::Failure(failure) => of_failure(failure, say),
            Error::Other(_) | Error::Stuck(_) => say(Code::Version).about("ultravisor", "answer"),
            Error::Usage(_) => {
                say(Code::Usage).about("command line", "").with_status(status::USAGE)
            }
            Error::Options(errors) => {
                Self::of_definitions(Code::Usage, errors).with_status(status::USAGE)
            }
            Error::Definition(errors) => Self::of_definitions(Code::InvalidDefinition, errors),
            Error::Given(_) => say(Code::InvalidInput),
            Error::Terminal(_) => say(Code::Terminal).about("terminal", ""),
            Error::NoSuchPartition { name, .. } => {
                say(Code::NoSuchPartition).about(&format!("partition {name:?}"), "name")
            }
        }
    }
}

fn of_failure(failure: &Failure, say: impl Fn(Code) -> Problem) -> Problem {
    match failure {
        Failure::Refused(refusal) => Problem {
            object: refusal.object.clone(),
            field: refusal.field.clone(),
            limit: refusal.reason.clone(),
            way_out: refusal.way_out.clone(),
            operation: refusal.operation,
            status: if refusal.code == Code::TimeIsUp { status::TIMED_OUT } else { status::FAILED },
            ..say(refusal.code)
        },
        Failure::NoChannel(_) => say(Code::NoChannel).about("uvd", "command channel"),
        Failure::Timeout(_) => {
            say(Code::TimedOut).about("ultravisor", "timeout").with_status(status::TIMED_OUT)
        }
        Failure::TooLarge { .. } => say(Code::TooLarge).about("request", "bytes"),
        Failure::Malformed(_) => say(Code::Version).about("request", ""),
        Failure::ShuttingDown => say(Code::ShuttingDown).about("uvd", ""),
    }
}

/// Reports a failure; returns the exit status.
pub fn fail(problem: &Problem) -> ExitCode {
    let text = if is_json() {
        format!("{}\n", json(&serde_json::json!({ "error": problem })))
    } else {
        format!("uvtool: {}\n", problem.message)
    };
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(problem.status)
}

/// A value as JSON; a number that some reader of JSON would not keep exactly becomes a string.
pub fn json(value: &impl Serialize) -> String {
    // Values to show consist of numbers, words and lists, all of which JSON can express.
    let mut value = serde_json::to_value(value).unwrap_or_default();
    make_exact(&mut value);
    format!("{value:#}")
}

/// A value as JSON in one line.
pub fn json_line(value: &impl Serialize) -> String {
    let mut value = serde_json::to_value(value).unwrap_or_default();
    make_exact(&mut value);
    format!("{value}\n")
}

fn make_exact(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let large = number.as_u64().is_some_and(|number| number > LARGEST)
                || number.as_i64().is_some_and(|number| number.unsigned_abs() > LARGEST);
            if large {
                *value = Value::String(number.to_string());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(make_exact),
        Value::Object(fields) => fields.values_mut().for_each(make_exact),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_a_reader_may_round_are_strings() {
        let value = serde_json::json!([LARGEST, LARGEST + 1, u64::MAX, -1, i64::MIN, 0.5, "x"]);
        let expected = "[9007199254740991,\"9007199254740992\",\"18446744073709551615\",-1,\
                        \"-9223372036854775808\",0.5,\"x\"]\n";
        assert_eq!(json_line(&value), expected);
    }

    #[test]
    fn a_refusal_keeps_its_parts_and_a_wait_that_timed_out_has_its_status() {
        let refusal = crate::view::samples::refusal();
        let problem = Problem::from(&Error::Failure(Failure::Refused(refusal.clone().into())));
        let parts = (problem.code, problem.object, problem.field, problem.limit, problem.way_out);
        let expected =
            (refusal.code, refusal.object, refusal.field, refusal.reason, refusal.way_out);
        assert_eq!((parts, problem.status), (expected, status::FAILED));
        for late in
            [Error::Failure(Failure::Timeout(5)), Error::Silent(std::time::Duration::from_secs(1))]
        {
            assert_eq!(Problem::from(&late).status, status::TIMED_OUT);
        }
        assert_eq!(Problem::from(&Error::Usage(Sentence::new("x", "y"))).status, status::USAGE);
    }
}
