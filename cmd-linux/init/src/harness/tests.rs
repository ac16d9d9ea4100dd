//! Commands served over a socket pair or a pseudo-terminal, with real processes.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use harness_protocol::{Decoder, Packet, Words};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use super::*;

/// Serves a line on a thread, as `main` does, until the other end closes it or asks for power off.
fn serve(line: OwnedFd) -> std::thread::JoinHandle<Turn> {
    std::thread::spawn(move || {
        // Signals are blocked as in the first process, which receives them through a descriptor.
        SigSet::all().thread_block().unwrap();
        let mut session = Session::new(line, "6.1.0-test", PathBuf::from("/")).unwrap();
        let (wake, wake_far) = UnixStream::pair().unwrap();
        wake.set_nonblocking(true).unwrap();
        let mut waiting: Option<(Pid, Receiver<i32>)> = None;
        loop {
            match session.turn() {
                Turn::Idle => {}
                end => return end,
            }
            if let (Some(pid), None) = (session.command(), &waiting) {
                waiting = Some((pid, wait_for(pid, wake_far.try_clone().unwrap())));
            }
            let mut fds = vec![PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
            session.poll_fds(&mut fds);
            assert_ne!(poll(&mut fds, PollTimeout::from(20_000u16)).unwrap(), 0, "hangs");
            if let Some((pid, status)) = &waiting
                && let Ok(status) = status.try_recv()
            {
                let _ = (&wake).read(&mut [0; 8]);
                assert!(session.child_ended(*pid, status));
                waiting = None;
            }
        }
    })
}

/// Waits for a process on a thread of its own, then wakes the event loop.
fn wait_for(pid: Pid, mut wake: UnixStream) -> Receiver<i32> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let status = crate::children::wait_for(pid);
        sender.send(status).unwrap();
        wake.write_all(b"!").unwrap();
    });
    receiver
}

/// The outer end of the line.
struct Outside {
    line: UnixStream,
    decoder: Decoder,
    served: std::thread::JoinHandle<Turn>,
}

impl Outside {
    fn new() -> Self {
        let (line, far) = UnixStream::pair().unwrap();
        line.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut outside = Self { line, decoder: Decoder::new(), served: serve(OwnedFd::from(far)) };
        assert_eq!(outside.receive(), Packet::Ready("6.1.0-test".into()));
        outside
    }

    fn send(&mut self, packet: &Packet) {
        self.line.write_all(&packet.encode()).unwrap();
    }

    fn run(&mut self, words: &[&str]) {
        self.send(&Packet::Command(Words::new(words.iter().copied()).unwrap()));
    }

    fn receive(&mut self) -> Packet {
        loop {
            if let Some(packet) = self.decoder.next_packet().unwrap() {
                return packet;
            }
            let mut bytes = [0; 65536];
            let read = match self.line.read(&mut bytes) {
                // The kernel does not restart a read with a time limit after the process was
                // stopped and continued (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.expect("no packet in time"),
            };
            assert_ne!(read, 0, "the line was closed");
            self.decoder.push(&bytes[..read]);
        }
    }

    /// Reads all packets up to the exit and returns output, error and status.
    fn finish(&mut self) -> (Vec<u8>, Vec<u8>, i32) {
        let (mut output, mut error) = (Vec::new(), Vec::new());
        loop {
            match self.receive() {
                Packet::Output(bytes) => output.extend(bytes),
                Packet::Error(bytes) => error.extend(bytes),
                Packet::Exit(status) => return (output, error, status),
                other => panic!("{other:?}"),
            }
        }
    }

    fn outcome(&mut self, words: &[&str]) -> (String, String, i32) {
        self.run(words);
        let (output, error, status) = self.finish();
        (String::from_utf8(output).unwrap(), String::from_utf8(error).unwrap(), status)
    }
}

#[test]
fn one_command_after_the_other_with_its_status() {
    let mut outside = Outside::new();
    for status in [0, 7, 255] {
        let script = format!("echo out; echo err >&2; exit {status}");
        let outcome = outside.outcome(&["sh", "-c", &script]);
        assert_eq!(outcome, ("out\n".into(), "err\n".into(), status));
    }
}

#[test]
fn words_arrive_as_they_are() {
    let mut outside = Outside::new();
    let (output, _, _) = outside.outcome(&["printf", "[%s]", "a b", "", "*", "$x"]);
    assert_eq!(output, "[a b][][*][$x]");
}

#[test]
fn the_environment_is_the_documented_one() {
    let mut outside = Outside::new();
    let (output, _, status) = outside.outcome(&["env"]);
    let mut lines: Vec<&str> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(status, 0);
    assert_eq!(lines, ["HOME=/", &format!("PATH={PATH}"), "TERM=dumb", "USER=root"]);
}

#[test]
fn a_program_that_is_not_there_or_cannot_run_says_so() {
    let mut outside = Outside::new();
    let (_, error, status) = outside.outcome(&["no-such-program"]);
    assert_eq!(status, 127);
    assert!(error.contains("no-such-program: no such program"), "{error}");
    let (_, error, status) = outside.outcome(&["/etc/passwd"]);
    assert_eq!(status, 126);
    assert!(error.contains("/etc/passwd"), "{error}");
}

#[test]
fn signals_reach_the_command_and_its_children() {
    let mut outside = Outside::new();
    outside.run(&["sh", "-c", "echo started; sleep 1000; echo not reached"]);
    assert_eq!(outside.receive(), Packet::Output(b"started\n".into()));
    outside.send(&Packet::Signal(15));
    assert_eq!(outside.finish(), (vec![], vec![], 128 + 15));
}

#[test]
fn no_signal_is_blocked_in_a_command() {
    let mut outside = Outside::new();
    let (output, _, _) = outside.outcome(&["grep", "SigBlk", "/proc/self/status"]);
    assert_eq!(output, "SigBlk:\t0000000000000000\n");
    assert_eq!(outside.outcome(&["sh", "-c", "kill -PIPE $$"]).2, 128 + 13);
}

#[test]
fn a_signal_that_does_not_exist_is_refused() {
    let mut outside = Outside::new();
    outside.run(&["cat"]);
    outside.send(&Packet::Signal(4711));
    assert_eq!(
        outside.receive(),
        Packet::Error(b"uv-init: signal 4711: Invalid argument\n".into())
    );
    outside.send(&Packet::Input(vec![]));
    assert_eq!(outside.finish(), (vec![], vec![], 0));
}

#[test]
fn standard_input_is_binary_safe_and_ends() {
    let mut outside = Outside::new();
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    outside.run(&["cat"]);
    outside.send(&Packet::Input(bytes.clone()));
    outside.send(&Packet::Input(vec![]));
    assert_eq!(outside.finish(), (bytes, vec![], 0));
}

#[test]
fn a_command_that_does_not_read_its_input_ends_all_the_same() {
    let mut outside = Outside::new();
    outside.run(&["true"]);
    outside.send(&Packet::Input(vec![b'x'; 200_000]));
    outside.send(&Packet::Input(vec![]));
    assert_eq!(outside.finish().2, 0);
    assert_eq!(outside.outcome(&["echo", "next"]), ("next\n".into(), String::new(), 0));
}

#[test]
fn large_output_arrives_whole_while_nobody_reads_at_first() {
    let mut outside = Outside::new();
    outside.run(&["sh", "-c", "head -c 20000000 /dev/zero; head -c 100 /dev/zero >&2; exit 3"]);
    let (output, error, status) = outside.finish();
    assert_eq!((output.len(), error.len(), status), (20_000_000, 100, 3));
}

#[test]
fn a_child_left_behind_does_not_keep_the_end_from_being_told() {
    let mut outside = Outside::new();
    let (output, _, status) = outside.outcome(&["sh", "-c", "sleep 1000 & echo $!; exit 4"]);
    assert_eq!(status, 4);
    outside.outcome(&["kill", output.trim()]);
    // A child that keeps writing ends when its pipe is closed.
    assert_eq!(outside.outcome(&["sh", "-c", "yes & exit 5"]).2, 5);
}

#[test]
fn a_second_command_at_once_is_refused() {
    let mut outside = Outside::new();
    outside.run(&["cat"]);
    outside.run(&["echo", "two"]);
    outside.send(&Packet::Input(vec![]));
    let (output, error, status) = outside.finish();
    assert_eq!((output, status), (vec![], 0));
    assert_eq!(error, b"uv-init: a command is running already\n");
}

#[test]
fn noise_and_packets_out_of_place_do_no_harm() {
    let mut outside = Outside::new();
    outside.line.write_all(b"\r\n\xff\x00noise\n").unwrap();
    for packet in [Packet::Exit(3), Packet::Signal(9), Packet::Input(b"x".into())] {
        outside.send(&packet);
    }
    assert_eq!(outside.outcome(&["echo", "fine"]), ("fine\n".into(), String::new(), 0));
}

#[test]
fn power_off_and_a_lost_line_end_the_service() {
    let mut outside = Outside::new();
    outside.send(&Packet::PowerOff);
    assert_eq!(outside.served.join().unwrap(), Turn::PowerOff);
    let outside = Outside::new();
    drop(outside.line);
    assert_eq!(outside.served.join().unwrap(), Turn::Lost(Errno::EPIPE));
}

#[test]
fn a_raw_terminal_is_eight_bit_clean_and_does_not_echo() {
    let pty = nix::pty::openpty(None, None).unwrap();
    crate::terminal::make_raw(&pty.slave).unwrap();
    let served = serve(pty.slave);
    let mut line = std::fs::File::from(pty.master);
    let bytes: Vec<u8> = (0..=255).collect();
    let words = Words::new(["cat"]).unwrap();
    for packet in [Packet::Command(words), Packet::Input(bytes.clone()), Packet::Input(vec![])] {
        line.write_all(&packet.encode()).unwrap();
    }
    let mut decoder = Decoder::new();
    let mut received = Vec::new();
    while !matches!(received.last(), Some(Packet::Exit(_))) {
        let mut piece = [0; 100];
        let read = line.read(&mut piece).unwrap();
        decoder.push(&piece[..read]);
        while let Some(packet) = decoder.next_packet().unwrap() {
            received.push(packet);
        }
    }
    let ready = Packet::Ready("6.1.0-test".into());
    assert_eq!(received, [ready, Packet::Output(bytes), Packet::Exit(0)]);
    line.write_all(&Packet::PowerOff.encode()).unwrap();
    assert_eq!(served.join().unwrap(), Turn::PowerOff);
}
