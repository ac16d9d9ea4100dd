//! What is printed: a line of JSON for each attempt, and one for all.

use std::io::Write;

use serde_json::{Value, json};

/// Counts and prints.
#[derive(Default)]
pub struct Report {
    attempts: u64,
    failed: u64,
}

impl Report {
    /// Prints the line of an attempt.
    pub fn line(&mut self, name: &str, stands_for: &str, held: bool, expected: &str, came: &str) {
        self.print(
            held,
            &json!({ "name": name, "stands_for": stands_for, "held": held,
                     "expected": expected, "came": came }),
        );
    }

    /// Prints a line of its own making.
    pub fn print(&mut self, held: bool, line: &Value) {
        self.attempts += 1;
        self.failed += u64::from(!held);
        say(line);
    }

    /// Prints the last line; whether all held.
    pub fn finish(self) -> bool {
        let held = self.attempts - self.failed;
        say(&json!({ "attempts": self.attempts, "held": held, "failed": self.failed }));
        self.failed == 0
    }
}

/// Prints a line.
pub fn say(line: &Value) {
    // Each line is out before the next attempt: the last one tells what ended the host.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
