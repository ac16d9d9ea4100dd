//! Untrusted and damaged files: whatever they contain, `uvd` goes on.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rig::image::command_image::FileToSend;
use rig::options::{BootOptions, MachineOptions};
use rig::workspace;

use crate::Results;
use crate::boots::{self, Boot};
use crate::checks::{self, Check};
use crate::host::{Host, Output};

const CHECKS: &[Check] = &[
    Check { name: "bomb", run: bomb },
    Check { name: "damaged-state", run: damaged_state },
    Check { name: "kernel-log", run: checks::kernel_log },
];

/// The size that the bomb unpacks to: less than the limit for a kernel, more than the partition
/// has.
const BOMB_BYTES: u64 = 500 << 20;
/// The time limit of a command.
const LIMIT: Duration = Duration::from_secs(120);
/// The path of `uvd`'s state without a disk.
const STATE: &str = "/run/uvd/state.redb";

/// Runs the requested checks.
pub fn run_scenarios(results: &mut Results) {
    let machine = MachineOptions { memory: "1G".into(), ..MachineOptions::default() };
    boots::run_wanted(&Boot { name: "files", machine, boot: options, checks: CHECKS }, results);
}

fn options() -> Result<BootOptions> {
    let bomb = workspace::build_dir()?.join("bomb.gz");
    if !bomb.exists() {
        workspace::write_whole(&bomb, &gzip_of_zeros()?)?;
    }
    let file = vec![FileToSend { host: bomb, guest: "/root/bomb.gz".into() }];
    Ok(BootOptions { file, command_memory: Some("192M".into()), ..BootOptions::default() })
}

/// Makes the bomb with the usual tool.
fn gzip_of_zeros() -> Result<Vec<u8>> {
    let mut gzip =
        Command::new("gzip").arg("-9c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = gzip.stdin.take().context("gzip takes no input")?;
    let mut output = gzip.stdout.take().context("gzip has no output")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        output.read_to_end(&mut bytes).map(|_| bytes)
    });
    std::io::copy(&mut File::open("/dev/zero")?.take(BOMB_BYTES), &mut input)?;
    input.flush()?;
    drop(input);
    ensure!(gzip.wait()?.success(), "gzip failed");
    Ok(reader.join().ok().context("no reader")??)
}

fn run_shell(host: &mut Host, line: &str) -> Result<Output> {
    host.run(&["sh", "-c", line], b"", LIMIT)
}

/// Checks a kernel of half a megabyte that unpacks to more memory than there is.
fn bomb(host: &mut Host) -> Result<()> {
    let uvd = host.sh("pidof uvd")?;
    for command in [
        "uvtool kernel check /root/bomb.gz",
        "uvtool create --name bomb --kernel /root/bomb.gz --memory 64M",
        "uvtool create --name bomb --kernel /root/bomb.gz --memory 64M",
    ] {
        let output = run_shell(host, command)?;
        ensure!(output.status == 1, "`{command}` ended with status {}", output.status);
        for part in ["kernel /root/bomb.gz: ", " MiB", "free", "; give a smaller kernel"] {
            ensure!(output.stderr.contains(part), "`{command}` lacks {part:?}: {}", output.stderr);
        }
    }
    ensure!(host.sh("pidof uvd")? == uvd, "uvd was restarted");
    let list = host.sh("uvtool list")?;
    ensure!(list.contains("command") && !list.contains("bomb"), "{list}");
    Ok(())
}

/// Checks that a state file that makes the store's library panic is renamed, and that the log is
/// restored.
fn damaged_state(host: &mut Host) -> Result<()> {
    host.sh("uvtool set command --weight 300")?;
    // Everything is damaged except the header, which says that the rest is sound.
    let damage = format!(
        "dd if=/dev/urandom of={STATE} bs=4096 seek=1 count=$(($(stat -c %s {STATE}) / 4096 - 1)) \
         conv=notrunc 2>/dev/null"
    );
    for round in 1..=2 {
        host.sh(&format!("{damage}; kill -9 $(pidof uvd)"))?;
        let log = host.sh("uvtool log")?;
        ensure!(log.contains("weight 300"), "round {round}: the log is not whole: {log}");
        let aside = host.sh(&format!("ls {STATE}.damaged-{round}"))?;
        ensure!(!aside.is_empty(), "round {round}: the damaged file is not kept");
    }
    let said = host.sh("dmesg | grep 'uvd: state'")?;
    ensure!(said.contains("is damaged") && said.contains(".damaged-2, and begins"), "{said}");
    Ok(())
}
