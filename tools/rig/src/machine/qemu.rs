//! QEMU's command line, and a QEMU process that cannot outlive this one.
//!
//! QEMU is killed when its [`Qemu`] is dropped, when a signal ends this process
//! ([`crate::interrupt`]), and by the kernel when the thread that started it ends for any other
//! reason (`setpriv --pdeathsig`).

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::image::state_disk;
use crate::interrupt::{OnSignal, Process};
use crate::options::{Accel, Chipset, DiskFunction, Firmware, MachineOptions};
use crate::workspace;

const UEFI_FIRMWARE: [&str; 2] = ["/usr/share/ovmf/OVMF.fd", "/usr/share/OVMF/OVMF_CODE.fd"];

/// The port of `--gdb`.
pub const GDB_PORT: u16 = 1234;

/// QEMU's exit status when the monitor powers the machine off (it writes 0x10 to the debug-exit
/// device, which turns it into `value << 1 | 1`).
pub const STATUS_POWER_OFF: i32 = 0x10 << 1 | 1;
/// QEMU's exit status when the monitor stops the machine after an error (0x11).
pub const STATUS_STOPPED: i32 = 0x11 << 1 | 1;

/// The destination of the first serial line.
pub enum Console {
    /// The terminal of this process; a copy goes to this file.
    Terminal(PathBuf),
    /// QEMU's standard output.
    Output,
}

/// The lines between a program and the machine.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    /// The path of the second serial line's named pipes, which have `.in` or `.out` appended. A
    /// pipe holds 64 KiB of single bytes; a socket would be full after a few hundred.
    pub harness: Option<PathBuf>,
    /// The name of the abstract Unix socket for QEMU's prompt, on which this process listens.
    pub prompt: Option<String>,
}

/// A running QEMU.
pub struct Qemu {
    process: Process,
}

/// The arguments that make QEMU boot `image` on `machine`.
///
/// # Errors
/// A file is missing, or a port is in use.
pub fn arguments(
    machine: &MachineOptions,
    image: &Path,
    console: &Console,
    lines: &Lines,
) -> Result<Vec<OsString>> {
    let mut arguments = Arguments::default();
    arguments.pair("-machine", chipset(machine.chipset));
    arguments.text("-nodefaults -display none -no-reboot -boot d");
    arguments.text("-device isa-debug-exit,iobase=0xf4,iosize=4");
    arguments.pair("-accel", accel(machine));
    arguments.pair("-cpu", machine.cpu_model.clone());
    arguments.pair("-m", machine.memory.clone());
    arguments.pair("-smp", format!("{},threads={}", machine.cpus, machine.threads));
    if machine.icount {
        arguments.text("-icount shift=1,sleep=off");
    }
    if machine.firmware == Firmware::Uefi {
        let found = UEFI_FIRMWARE.into_iter().find(|file| Path::new(file).exists());
        arguments.pair("-bios", found.context("no UEFI firmware; install the package ovmf")?);
    }
    arguments.pair("-cdrom", image);
    arguments.console(console);
    arguments.lines(lines);
    for (index, disk) in machine.disk.iter().enumerate() {
        let log = machine.disk_log.as_deref().filter(|_| index == 0);
        let id = format!("disk{index}");
        let disk = Disk { option: "disk", id: &id, file: disk, log, place: "" };
        arguments.disk(&disk, machine.disk_function)?;
    }
    if let Some(file) = &machine.state {
        let place = format!(",addr={:#x}", state_disk::SLOT);
        let disk = Disk { option: "state", id: "state", file, log: None, place: &place };
        arguments.disk(&disk, machine.disk_function)?;
    }
    if machine.gdb {
        ensure_port_is_free()?;
        arguments.text("-s -S");
    }
    if let Some(file) = &machine.trace_int {
        arguments.text("-d int,cpu_reset");
        arguments.pair("-D", file);
    }
    for (option, file) in [("profile", &machine.profile), ("stays", &machine.stays)] {
        let Some(file) = file else { continue };
        ensure!(is_one_thread(machine), "--{option} counts in one thread; give --icount");
        let plugin = counter()?;
        let (plugin, file) = (quoted(&plugin), quoted(file));
        arguments.pair("-plugin", format!("{plugin},out={file},{option}=on"));
    }
    Ok(arguments.list)
}

/// Builds the plugin that counts instructions, and returns its path.
fn counter() -> Result<PathBuf> {
    let target_dir = workspace::root().join("target/plugin");
    let mut cargo = workspace::cargo("build");
    cargo.args(["--release", "-p", "instruction-counter"]).env("CARGO_TARGET_DIR", &target_dir);
    workspace::run_command(&mut cargo, "building the plugin that counts instructions")?;
    Ok(target_dir.join("release/libinstruction_counter.so"))
}

fn chipset(chipset: Chipset) -> &'static str {
    match chipset {
        Chipset::Q35 => "q35",
        Chipset::Pc => "pc",
    }
}

fn is_one_thread(machine: &MachineOptions) -> bool {
    machine.icount || machine.cpus == 1
}

fn accel(machine: &MachineOptions) -> &'static str {
    match (machine.accel, is_one_thread(machine)) {
        (Accel::Kvm, _) => "kvm",
        (Accel::Tcg, true) => "tcg,thread=single",
        (Accel::Tcg, false) => "tcg,thread=multi",
    }
}

fn ensure_port_is_free() -> Result<()> {
    let port = TcpListener::bind(("0.0.0.0", GDB_PORT));
    ensure!(
        port.is_ok(),
        "port {GDB_PORT} is in use, so no debugger can connect; end the program that uses it"
    );
    Ok(())
}

/// A disk of the machine.
struct Disk<'d> {
    /// The option that it came by.
    option: &'static str,
    id: &'d str,
    file: &'d Path,
    /// The file that all writes to it are logged in, if any.
    log: Option<&'d Path>,
    /// More properties of its function.
    place: &'d str,
}

#[derive(Default)]
struct Arguments {
    list: Vec<OsString>,
}

impl Arguments {
    fn text(&mut self, words: &str) {
        self.list.extend(words.split(' ').map(OsString::from));
    }

    fn pair(&mut self, name: &str, value: impl Into<OsString>) {
        self.list.extend([name.into(), value.into()]);
    }

    fn console(&mut self, console: &Console) {
        match console {
            Console::Terminal(log) => {
                let log = quoted(log);
                self.pair("-chardev", format!("stdio,id=console,mux=on,signal=off,logfile={log}"));
                self.text("-mon chardev=console,mode=readline");
            }
            Console::Output => self.text("-chardev stdio,id=console,signal=off"),
        }
        self.text("-serial chardev:console");
    }

    fn lines(&mut self, lines: &Lines) {
        match &lines.harness {
            Some(path) => {
                self.pair("-chardev", format!("pipe,id=harness,path={}", quoted(path)));
                self.text("-serial chardev:harness");
            }
            None => self.text("-serial null"),
        }
        if let Some(name) = &lines.prompt {
            self.pair("-chardev", format!("socket,id=prompt,path={name},abstract=on"));
            self.text("-mon chardev=prompt,mode=readline");
        }
    }

    fn disk(&mut self, disk: &Disk<'_>, function: DiskFunction) -> Result<()> {
        let Disk { option, id, file, log, place } = *disk;
        for (option, file) in [(option, Some(file)), ("disk-log", log)] {
            if let Some(file) = file.filter(|file| !file.is_file()) {
                bail!("--{option} {}: there is no such file", file.display());
            }
        }
        let file = quoted(file);
        let drive = match log.map(quoted) {
            None => format!("file={file},format=raw"),
            Some(log) => format!(
                "driver=blklogwrites,log-sector-size=512,file.driver=raw,file.file.driver=file,\
                 file.file.filename={file},log.driver=raw,log.file.driver=file,\
                 log.file.filename={log}"
            ),
        };
        // What a guest discards becomes a hole in the file.
        self.pair("-drive", format!("{drive},if=none,discard=unmap,id={id}"));
        let legacy = match function {
            DiskFunction::Transitional => "off",
            DiskFunction::Modern => "on",
        };
        let device = format!("virtio-blk-pci,drive={id},disable-legacy={legacy}{place}");
        self.pair("-device", device);
        Ok(())
    }
}

/// A path for a list of QEMU properties, in which a comma is doubled.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

impl Qemu {
    /// Starts QEMU. The thread that calls this must live as long as QEMU.
    ///
    /// # Errors
    /// QEMU cannot be started.
    pub fn start(arguments: &[OsString], console: &Console) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]).args(arguments);
        if matches!(console, Console::Output) {
            command.stdin(Stdio::null()).stdout(Stdio::piped());
        }
        let process = Process::start(&mut command, OnSignal::Kill);
        Ok(Self { process: process.context("cannot start QEMU through setpriv")? })
    }

    /// Takes the console's output, which is there if it was requested, and only once.
    pub fn take_console(&mut self) -> Option<std::process::ChildStdout> {
        self.process.streams().stdout.take()
    }

    /// Waits at most this long for QEMU to end.
    ///
    /// # Errors
    /// The operating system fails the wait.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<Option<ExitStatus>> {
        const POLL: Duration = Duration::from_millis(20);
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(Some(status));
            }
            if limit.is_some_and(|limit| start.elapsed() >= limit) {
                return Ok(None);
            }
            std::thread::sleep(POLL);
        }
    }

    /// Kills QEMU.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        machine: MachineOptions,
    }

    fn line(words: &[&str]) -> Result<String> {
        let words = std::iter::once(&"test").chain(words);
        let machine = Cli::parse_from(words).machine;
        let list = arguments(&machine, Path::new("a.iso"), &Console::Output, &Lines::default())?;
        let words: Vec<_> = list.iter().map(|word| word.to_string_lossy()).collect();
        Ok(words.join(" "))
    }

    #[test]
    fn the_machine_is_what_was_asked_for() {
        let line = line(&["--cpus", "4", "--memory", "6G", "--cpu-model", "qemu64"]).expect("fine");
        for part in
            ["-smp 4,threads=1", "-m 6G", "-cpu qemu64", "-accel tcg,thread=multi", "-cdrom a.iso"]
        {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        assert!(!line.contains("kvm") && !line.contains("-icount"));
    }

    #[test]
    fn counting_instructions_takes_one_thread() {
        let line = line(&["--cpus", "4", "--icount"]).expect("fine");
        assert!(line.contains("thread=single") && line.contains("-icount shift=1,sleep=off"));
    }

    #[test]
    fn disks_look_as_asked() {
        let words = ["--disk", "/proc/self/exe", "--chipset", "pc"];
        let transitional = line(&words).expect("fine");
        let device = "-device virtio-blk-pci,drive=disk0,disable-legacy=";
        assert!(transitional.contains(&format!("{device}off")), "{transitional}");
        assert!(transitional.contains("-machine pc "), "{transitional}");
        let modern = line(&[&words[..2], &["--disk-function", "modern"]].concat()).expect("fine");
        assert!(modern.contains(&format!("{device}on")), "{modern}");
        assert!(modern.contains("-machine q35 "), "{modern}");
    }

    #[test]
    fn the_writes_of_the_first_disk_alone_are_written_down() {
        let file = "/proc/self/exe";
        let line = line(&["--disk", file, "--disk", file, "--disk-log", file]).expect("fine");
        assert!(
            line.contains("log.file.filename=/proc/self/exe,if=none,discard=unmap,id=disk0"),
            "{line}"
        );
        assert!(
            line.contains("-drive file=/proc/self/exe,format=raw,if=none,discard=unmap,id=disk1"),
            "{line}"
        );
        assert!(super::tests::line(&["--disk", file, "--disk-log", "/nowhere"]).is_err());
    }

    #[test]
    fn a_missing_disk_is_named() {
        let error = line(&["--disk", "/nowhere/disk.img"]).expect_err("no disk").to_string();
        assert!(error.contains("/nowhere/disk.img"), "{error}");
    }

    #[test]
    fn commas_in_paths_are_kept() {
        assert_eq!(quoted(Path::new("a,b")), "a,,b");
    }
}
