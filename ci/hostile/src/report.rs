//! Prints a line of JSON for each attempt, and a last one for all.

use std::io::Write;

use serde_json::{Value, json};

/// Counts attempts and prints their lines.
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

    /// Prints a line that the caller made.
    pub fn print(&mut self, held: bool, line: &Value) {
        self.attempts += 1;
        self.failed += u64::from(!held);
        say(line);
    }

    /// Prints the last line; returns whether all attempts held.
    pub fn finish(self) -> bool {
        let held = self.attempts - self.failed;
        say(&json!({ "attempts": self.attempts, "held": held, "failed": self.failed }));
        self.failed == 0
    }
}

/// Prints a line.
pub fn say(line: &Value) {
    // Each line is written before the next attempt, so that the last line tells which attempt ended
    // the host.
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
