//! Ends a command whose time is up, no matter what the command waits for.
//!
//! A wait for `uvd` ends in time by itself, with a message about the wait. This module is for all
//! other waits: a file that is a pipe, a question that nobody answers, a `uvd` that accepts no
//! requests.

use control::command::Code;
use std::time::Duration;
use uvd_protocol::Sentence;

use crate::answer::{Problem, fail, status};
use crate::terminal;

/// The additional time in which a command may still end by itself.
const GRACE: Duration = Duration::from_secs(3);

/// Ends this process shortly after `limit`, unless it has ended before.
pub fn set(limit: Duration) {
    let end = move || {
        std::thread::sleep(limit + GRACE);
        terminal::give_back();
        let problem = format!("not done within {} s", limit.as_secs_f64());
        let sentence = Sentence::new(problem, "use a longer --timeout");
        fail(&Problem { status: status::TIMED_OUT, ..Problem::new(Code::TimedOut, &sentence) });
        std::process::exit(status::TIMED_OUT.into());
    };
    // If no thread can start, this limit does not hold, but most waits have one of their own.
    let _ = std::thread::Builder::new().spawn(end);
}
