//! How commands end: the exit status, and the message for programs.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use uvd_protocol::{Ask, Failure, Told, read, write};

fn uvtool(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_uvtool")).args(words).output().unwrap()
}

/// The JSON error of a command that must end with this status.
fn error(words: &[&str], status: i32) -> Value {
    let output = uvtool(&[words, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(status), "{words:?}: {output:?}");
    assert!(output.stdout.is_empty(), "{words:?}: {output:?}");
    let mut error: Value = serde_json::from_slice(&output.stderr).expect("JSON alone");
    assert_eq!(error["error"]["status"], status, "{words:?}");
    error["error"].take()
}

/// A `uvd` that fails one request on each of `times` connections.
fn failing(name: &str, failure: Failure, times: usize) -> PathBuf {
    let socket = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for _ in 0..times {
            let (stream, _) = listener.accept().unwrap();
            let ask: Ask = read(&stream).unwrap();
            write(&stream, &Told { id: ask.id, result: Err(failure.clone()) }).unwrap();
        }
    });
    socket
}

#[test]
fn wrong_usage_is_status_2_for_people_and_programs() {
    for words in [
        &["lst"][..],
        &["info"],
        &["set", "web"],
        &["set", "web", "--vcpus", "x"],
        &["set", "web", "--memory", "x"],
        &["set", "web", "--cpus", "3-1"],
        &["create", "--name", "19", "--kernel", "/k", "--memory", "64M"],
        &["create", "--name", "web", "--kernel", "/k", "--memory", "64"],
        &["log", "-n", "x"],
        &["list", "--timeout", "0"],
        &["wait", "web", "--until", "tomorrow"],
        &["kernel"],
    ] {
        let output = uvtool(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        assert_eq!(error(words, 2)["code"], "usage", "{words:?}");
    }
    assert_eq!(uvtool(&["--help", "--json"]).status.code(), Some(0));
}

#[test]
fn a_wait_that_timed_out_has_a_status_of_its_own() {
    let socket = failing("late.sock", Failure::Timeout(50), 2);
    let words = ["wait", "web", "--timeout", "1", "--socket", socket.to_str().unwrap()];
    assert_eq!(uvtool(&words).status.code(), Some(124));
    assert_eq!(error(&words, 124)["code"], "timed-out");
}

#[test]
fn a_failure_has_its_parts() {
    let error = error(&["list", "--socket", "/no/such/socket"], 1);
    assert_eq!((&error["code"], &error["object"]), (&"unreachable".into(), &"uvd".into()));
    assert!(error["way_out"].as_str().unwrap().contains("dmesg"), "{error}");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-kernel");
    std::fs::write(&file, b"#!/bin/sh\n").unwrap();
    let error = self::error(&["kernel", "check", file.to_str().unwrap()], 1);
    assert_eq!(error["way_out"], "give a kernel image");
}

#[test]
fn a_completion_script_is_json_too() {
    let output = uvtool(&["completion", "bash", "--json"]);
    let script: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((script["shell"].as_str(), output.status.code()), (Some("bash"), Some(0)));
    assert!(script["script"].as_str().unwrap().contains("uvtool"));
}
