//! The end of a command whose time is up, whatever it waits in.
//!
//! What waits for `uvd` ends in time by itself, with words about what it waited for. This is for
//! everything else: a file that is a pipe, a question that nobody answers, a `uvd` that does not
//! take requests.

use std::time::Duration;

use crate::answer::{Problem, fail, status};
use crate::terminal;

/// How much longer than its time a command has to end by itself.
const GRACE: Duration = Duration::from_secs(3);

/// Ends this process a little after `limit`, unless it ended before.
pub fn set(limit: Duration) {
    let end = move || {
        std::thread::sleep(limit + GRACE);
        terminal::give_back();
        let message =
            format!("not done within {} s; give it a longer --timeout", limit.as_secs_f64());
        fail(&Problem { status: status::TIMED_OUT, ..Problem::sentence("timed-out", &message) });
        std::process::exit(status::TIMED_OUT.into());
    };
    // Without a thread the command is not bounded here, as most of it is elsewhere.
    let _ = std::thread::Builder::new().spawn(end);
}
