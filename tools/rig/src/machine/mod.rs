//! A running machine: its console as text, and the harness line to the command partition.
//!
//! Two threads feed one queue of events: one reads the console, the other the line's packets and,
//! at the end of both, sends [`Event::Closed`]. Nothing here interprets console text; commands and
//! their results travel on the harness line.

pub mod exec;
pub mod pipes;
pub mod prompt;
pub mod qemu;
pub mod terminal;

use std::collections::VecDeque;
use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use harness_protocol::{DecodeError, Decoder, Packet};

use crate::build::kernel;
use crate::machine::pipes::Pipes;
use crate::machine::prompt::Prompt;
use crate::machine::qemu::{Console, Lines, Qemu};
use crate::options::MachineOptions;
use crate::workspace;

/// The longest time that a machine may take to power off.
const GRACE: Duration = Duration::from_secs(20);
/// Lines of the console that a message about a failure shows.
const TAIL_LINES: usize = 25;

/// An event of the machine.
#[derive(Debug)]
pub enum Event {
    /// A packet came from the command partition.
    Packet(Packet),
    /// Bytes arrived on the harness line that are not a packet; the console has shown them.
    Noise(String),
    /// QEMU ended; all console output came before.
    Closed,
    /// The console printed this.
    Console(Vec<u8>),
}

/// Why a wait ended without an event.
#[derive(Debug, PartialEq, Eq)]
pub enum NoEvent {
    /// The deadline passed.
    TimedOut,
    /// The machine has ended.
    Ended,
}

/// A running machine. Dropping it ends the machine.
pub struct Machine {
    qemu: Qemu,
    events: Receiver<Event>,
    line: File,
    /// QEMU's prompt, to inspect the machine.
    pub prompt: Prompt,
    /// The last lines of the console; the last may be unfinished.
    tail: VecDeque<String>,
    log: File,
    /// Whether the command partition's console is on the harness line, too.
    shares_line: bool,
    /// Whether console output is shown on standard error as it arrives.
    pub show_console: bool,
    /// The path of the console's log.
    pub log_path: PathBuf,
}

/// Listens on an abstract socket with a unique name, and returns the name.
fn listen() -> Result<(UnixListener, String)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ultravisor-{}-{number}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name)?;
    let listener = UnixListener::bind_addr(&address).context("cannot make a socket for QEMU")?;
    Ok((listener, name))
}

/// Opens the log of a console: `build/console.log`, or, if another machine uses that, a file with
/// this process's id in its name.
///
/// # Errors
/// The log cannot be created.
pub fn open_log() -> Result<(File, PathBuf)> {
    let directory = workspace::build_dir()?;
    let own = format!("console-{}.log", std::process::id());
    for name in ["console.log", &own] {
        let path = directory.join(name);
        let mut options = File::options();
        let file = options.create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot make {}", path.display()))?;
        if file.try_lock().is_ok() {
            file.set_len(0)?;
            return Ok((file, path));
        }
    }
    bail!("build/console.log and build/{own} are in use by other machines")
}

impl Machine {
    /// Boots `image`. The thread that calls this must live as long as the machine.
    ///
    /// # Errors
    /// QEMU cannot be started, or ends at once.
    pub fn start(options: &MachineOptions, image: &Path) -> Result<Self> {
        let pipes = Pipes::make()?;
        let (for_prompt, prompt) = listen()?;
        let lines = Lines { harness: Some(pipes.path()), prompt: Some(prompt) };
        let arguments = qemu::arguments(options, image, &Console::Output, &lines)?;
        let (log, log_path) = open_log()?;
        let mut qemu = Qemu::start(&arguments, &Console::Output)?;
        let console = qemu.take_console().context("QEMU has no output")?;
        // QEMU opens the harness line before it connects to this socket.
        let prompt = Prompt::new(accept(&for_prompt, &mut qemu)?);
        let (reader, line) = pipes.open()?;
        let (sender, events) = channel();
        let of_console = sender.clone();
        let console = thread::spawn(move || read_console(console, &of_console));
        thread::spawn(move || {
            read_packets(reader, &sender);
            // A reader that learns of the end may then read all console output.
            let _ = console.join();
            let _ = sender.send(Event::Closed);
        });
        let tail = VecDeque::new();
        let (shares_line, show_console) = (false, false);
        Ok(Self { qemu, events, line, prompt, tail, log, shares_line, show_console, log_path })
    }

    /// The next event, or the reason why none came until `deadline`.
    ///
    /// # Errors
    /// See [`NoEvent`].
    pub fn next_event(&mut self, deadline: Option<Instant>) -> Result<Event, NoEvent> {
        loop {
            let event = self.receive(deadline)?;
            match &event {
                Event::Packet(Packet::Ready(release)) => {
                    self.shares_line = !kernel::has_second_console(release);
                }
                Event::Noise(_) if self.shares_line => continue,
                _ => {}
            }
            return Ok(event);
        }
    }

    /// Waits until the console has `text`.
    ///
    /// # Errors
    /// The machine ended, or the time is up, before that; or the console's log cannot be read.
    pub fn wait_for(&mut self, limit: Duration, text: &str) -> Result<()> {
        let sees = self.sees(limit, |console| console.contains(text))?;
        ensure!(sees, "the console does not have {text:?} within {} s", limit.as_secs());
        Ok(())
    }

    /// Waits until the console has what `is_there` looks for in all that it printed. Returns `false` if
    /// the machine ends, or the time is up, first.
    ///
    /// # Errors
    /// The console's log cannot be read.
    pub fn sees(&mut self, limit: Duration, is_there: impl Fn(&str) -> bool) -> Result<bool> {
        let deadline = Some(Instant::now() + limit);
        while !is_there(&self.console()?) {
            if matches!(self.next_event(deadline), Ok(Event::Closed) | Err(_)) {
                return Ok(is_there(&self.console()?));
            }
        }
        Ok(true)
    }

    fn receive(&mut self, deadline: Option<Instant>) -> Result<Event, NoEvent> {
        let event = match deadline {
            None => self.events.recv().map_err(|_| NoEvent::Ended),
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.events.recv_timeout(left).map_err(|error| match error {
                    RecvTimeoutError::Timeout => NoEvent::TimedOut,
                    RecvTimeoutError::Disconnected => NoEvent::Ended,
                })
            }
        }?;
        if let Event::Console(bytes) = &event {
            self.note_console(bytes);
        }
        Ok(event)
    }

    fn note_console(&mut self, bytes: &[u8]) {
        // A failure to write the log must not end the machine.
        let _ = self.log.write_all(bytes);
        if self.show_console {
            let _ = io::stderr().write_all(bytes);
        }
        for part in String::from_utf8_lossy(bytes).split_inclusive('\n') {
            match self.tail.back_mut() {
                Some(last) if !last.ends_with('\n') => last.push_str(part),
                _ => self.tail.push_back(part.to_owned()),
            }
        }
        let surplus = self.tail.len().saturating_sub(TAIL_LINES);
        self.tail.drain(..surplus);
    }

    /// The last lines of the console and the positions of the CPUs, for a message.
    pub fn console_tail(&mut self) -> String {
        self.note_what_came();
        let lines = self.tail.iter().map(|line| line.trim_end()).filter(|line| !line.is_empty());
        let text = lines.map(|line| format!("  | {line}\n")).collect::<String>();
        let cpus = self.where_cpus_are();
        format!("the console's last lines ({}):\n{text}{cpus}", self.log_path.display())
    }

    /// Takes the console output up to now.
    fn note_what_came(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            if let Event::Console(bytes) = &event {
                self.note_console(bytes);
            }
        }
    }

    /// The positions of the CPUs of a running machine as lines, sampled several times. They show
    /// what hangs: a CPU that loops in a partition, one that waits in ring 0, or one that is
    /// halted. Empty if the machine has ended.
    pub fn where_cpus_are(&mut self) -> String {
        let looks = self.looks(3);
        looks.iter().flatten().map(|cpu| format!("  {cpu}\n")).collect()
    }

    /// Whether a silent machine is silent because a partition loops in ring 3. The CPUs are sampled
    /// [`LOOKS`] times. In more than half of the samples some CPU must be in ring 3, and no CPU may
    /// be at work in ring 0 in all of them.
    ///
    /// False where all CPUs are halted, where the monitor is at work between the partition's steps, and
    /// where the machine does not answer.
    pub fn goes_round_in_a_partition(&mut self) -> bool {
        goes_round_in_a_partition(&self.looks(LOOKS))
    }

    fn looks(&mut self, count: usize) -> Vec<Vec<CpuPlace>> {
        let mut looks = Vec::new();
        for _ in 0..count {
            // A machine that has ended has no CPUs.
            let Ok(registers) = self.prompt.ask("info registers -a") else { break };
            looks.push(registers.split("CPU#").skip(1).filter_map(CpuPlace::parse).collect());
            thread::sleep(BETWEEN_LOOKS);
        }
        looks
    }

    /// All console output up to now.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn console(&mut self) -> Result<String> {
        self.note_what_came();
        let bytes = workspace::read(&self.log_path)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends a packet to the command partition.
    ///
    /// # Errors
    /// The line is closed.
    pub fn send(&mut self, packet: &Packet) -> Result<()> {
        self.line.write_all(&packet.encode()).context("the harness line is closed")
    }

    /// A second handle on the line, for a thread that sends input.
    ///
    /// # Errors
    /// The operating system has no more handles.
    pub fn line(&self) -> Result<File> {
        Ok(self.line.try_clone()?)
    }

    /// Waits until QEMU has ended.
    ///
    /// # Errors
    /// QEMU does not end within a generous time.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        match self.qemu.wait(Some(GRACE))? {
            Some(status) => Ok(status),
            None => bail!("QEMU closed its lines and does not end"),
        }
    }

    /// Asks the command partition to power off and waits for the machine to end; returns `false` if
    /// the machine had to be killed.
    pub fn power_off(&mut self) -> bool {
        let asked = self.send(&Packet::PowerOff);
        let deadline = Instant::now() + GRACE;
        while asked.is_ok() && Instant::now() < deadline {
            match self.next_event(Some(deadline)) {
                Err(_) | Ok(Event::Closed) => break,
                Ok(_) => {}
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let ended = matches!(self.qemu.wait(Some(left)), Ok(Some(_)));
        self.qemu.kill();
        ended
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.qemu.kill();
    }
}

/// Waits until QEMU has connected, which it does before it starts the machine.
fn accept(listener: &UnixListener, qemu: &mut Qemu) -> Result<UnixStream> {
    const POLL: Duration = Duration::from_millis(5);
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("QEMU cannot connect its prompt"),
        }
        if let Some(status) = qemu.wait(Some(POLL))? {
            bail!("QEMU did not start ({status}); its messages are above");
        }
    }
}

/// Time between two samples of the CPUs' positions, enough for a million instructions.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// The number of samples that show whether a partition loops.
const LOOKS: usize = 40;

fn goes_round_in_a_partition(looks: &[Vec<CpuPlace>]) -> bool {
    let is = |look: &[CpuPlace], number: &str, what: fn(&CpuPlace) -> bool| {
        look.iter().any(|cpu| cpu.number == number && what(cpu))
    };
    let stays_in_ring_0 =
        |cpu: &CpuPlace| looks.iter().all(|look| is(look, &cpu.number, CpuPlace::is_busy));
    let in_ring_3 = looks.iter().filter(|look| look.iter().any(CpuPlace::is_in_ring_3)).count();
    looks.len() == LOOKS && in_ring_3 > LOOKS / 2 && !looks.iter().flatten().any(stays_in_ring_0)
}

/// Where a CPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuPlace {
    number: String,
    /// The registers that show the position, as QEMU prints them.
    words: Vec<String>,
}

impl CpuPlace {
    /// Parses QEMU's output for one CPU's registers, from the CPU's number on.
    fn parse(registers: &str) -> Option<Self> {
        let wanted = ["RIP=", "RSP=", "CPL=", "CR3=", "HLT="];
        let mut words = registers.split_whitespace();
        let number = words.next()?.to_owned();
        let is_wanted = |word: &&str| wanted.iter().any(|name| word.starts_with(name));
        Some(Self { number, words: words.filter(is_wanted).map(str::to_owned).collect() })
    }

    /// Whether the CPU is in ring 0 and not halted.
    fn is_busy(&self) -> bool {
        self.has("CPL=0") && self.has("HLT=0")
    }

    fn is_in_ring_3(&self) -> bool {
        self.has("CPL=3")
    }

    fn has(&self, word: &str) -> bool {
        self.words.iter().any(|have| have == word)
    }
}

impl Display for CpuPlace {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "CPU {}: {}", self.number, self.words.join(" "))
    }
}

fn read_console(mut console: impl Read, events: &Sender<Event>) {
    let mut buffer = [0; 4096];
    while let Ok(count) = console.read(&mut buffer) {
        if count == 0 || events.send(Event::Console(buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

fn read_packets(mut line: File, events: &Sender<Event>) {
    let mut decoder = Decoder::new();
    let mut buffer = [0; 64 * 1024];
    while let Ok(count) = line.read(&mut buffer) {
        if count == 0 {
            break;
        }
        decoder.push(&buffer[..count]);
        if send_packets(&mut decoder, events).is_err() {
            return;
        }
    }
}

/// Sends all whole packets, and the bytes between them, in order.
fn send_packets(decoder: &mut Decoder, events: &Sender<Event>) -> Result<(), SendError<Event>> {
    let mut noise: Option<(Vec<u8>, DecodeError)> = None;
    loop {
        let next = decoder.next_packet();
        match (&next, &mut noise) {
            (Err(error), Some((bytes, _))) => bytes.extend(error.dropped()),
            (Err(error), None) => noise = Some((error.dropped().into_iter().collect(), *error)),
            (Ok(_), _) => {
                if let Some((bytes, error)) = noise.take() {
                    events.send(Event::Console(bytes))?;
                    events.send(Event::Noise(error.to_string()))?;
                }
            }
        }
        match next {
            Ok(Some(packet)) => events.send(Event::Packet(packet))?,
            Ok(None) => return Ok(()),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_told_in_a_line() {
        let printed = "1\nRAX=0000000000000001 RBX=0 RCX=2 RDX=3\n\
            RSI=4 RDI=5 RBP=6 RSP=ffff830000011000\nRIP=ffff82d000001234 RFL=00000046 [---Z-P-] \
            CPL=0 II=0 A20=1 SMM=0 HLT=1\nCR0=80050033 CR2=0 CR3=0000000001000000 CR4=000006f0\n";
        let halted = CpuPlace::parse(printed).expect("a number");
        let line =
            "CPU 1: RSP=ffff830000011000 RIP=ffff82d000001234 CPL=0 HLT=1 CR3=0000000001000000";
        assert_eq!(halted.to_string(), line);
        assert!(!halted.is_busy());
        let busy = |from, to| CpuPlace::parse(&printed.replace(from, to)).map(|cpu| cpu.is_busy());
        assert_eq!(busy("HLT=1", "HLT=0"), Some(true));
        let guest = CpuPlace::parse("0 RIP=1 CPL=3 HLT=0").expect("a number");
        let monitor = CpuPlace::parse("0 RIP=2 CPL=0 HLT=0").expect("a number");
        let round = |cpus: &[&CpuPlace]| {
            let looks = (0..LOOKS).map(|n| vec![cpus[n % cpus.len()].clone(), halted.clone()]);
            goes_round_in_a_partition(&looks.collect::<Vec<_>>())
        };
        assert!(round(&[&guest]) && round(&[&guest, &guest, &monitor]));
        assert!(!round(&[&monitor]) && !round(&[&halted]));
        assert!(!round(&[&monitor, &monitor, &guest]), "the monitor, time and again");
        assert!(!goes_round_in_a_partition(&[]), "no answer");
        assert_eq!(busy("CPL=0 II=0 A20=1 SMM=0 HLT=1", "CPL=3 HLT=0"), Some(false));
    }

    #[test]
    fn packets_come_out_of_a_line_that_kernel_messages_are_on() {
        let ready = Packet::Ready("5.10.0-32-amd64".into());
        let output = Packet::Output(b"one\n".to_vec());
        let mut bytes = b"[    0.1] Run /init\r\n".to_vec();
        bytes.extend(ready.encode());
        bytes.extend(output.encode());
        bytes.extend(b"[    5.2] OK\r\n[    5");
        let (sender, events) = channel();
        let mut decoder = Decoder::new();
        for piece in bytes.chunks(3) {
            decoder.push(piece);
            send_packets(&mut decoder, &sender).expect("the receiver is there");
        }
        drop(sender);
        let (mut packets, mut console) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Packet(packet) => packets.push(packet),
                Event::Console(bytes) => console.extend(bytes),
                Event::Noise(_) | Event::Closed => {}
            }
        }
        assert_eq!(packets, [ready, output]);
        assert_eq!(
            String::from_utf8_lossy(&console),
            "[    0.1] Run /init\r\n[    5.2] OK\r\n[    5"
        );
    }
}
