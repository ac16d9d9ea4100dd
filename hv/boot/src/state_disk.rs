//! The disk on which the command partition keeps its state, so that it outlives the host.
//!
//! The option `state=` names the disk. The disk is attached to the command partition as any other
//! disk, once the I/O partitions have their functions, and a word of the kernel's command line tells
//! `uv-init` what to mount. A host whose state disk cannot be attached runs without it: the log says
//! why, `uv-init` waits for a while, and `uvd` keeps its state in memory.

use crate::failure::Failure;
use crate::link::Link;
use crate::options::StateDisk;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use control::command::{Code, DeviceRow, DiskLimits, DiskNumber, Medium, Operation, Target};
use partition_runtime::log;
use pv_abi::uv::database::COMMAND;

/// The letter of the device in the command partition: `xvda`.
const LETTER: char = 'a';

/// The command line of the command partition's kernel.
#[must_use]
pub fn command_line(given: &str, state: Option<StateDisk>) -> String {
    match state {
        Some(StateDisk { partition: Some(number), .. }) => {
            format!("{given} uv.state=xvd{LETTER}{number}")
        }
        Some(StateDisk { partition: None, .. }) => format!("{given} uv.state=xvd{LETTER}"),
        None => given.into(),
    }
}

/// Attaches the disk, unless the command partition has it.
pub fn attach(link: &mut Link, disk: StateDisk) {
    match try_attach(link, disk) {
        Ok(true) => log!("state disk: the disk of {} is xvd{LETTER} of command", disk.function),
        Ok(false) => {}
        Err(why) => log!(
            "state disk {}: {why}; the state of the host ends with it: name a disk that \
             `uvtool resources` shows in the option state= of the module boot, and start again",
            disk.function
        ),
    }
}

/// Returns whether the disk was attached; otherwise the command partition has it already.
fn try_attach(link: &mut Link, disk: StateDisk) -> Result<bool, String> {
    const WHAT: &str = "attaching the state disk";
    let words = |failure: Failure| format!("{failure}");
    let rows = link.devices().map_err(words)?;
    let attach = Operation::AttachDisk {
        partition: Target::Number(COMMAND),
        device: DiskNumber::of_letter(LETTER).map_or(0, |number| number.0),
        medium: Medium::Disk {
            function: index_of(&rows, disk).ok_or("the machine has no such function")?,
        },
        read_only: false,
        shared: false,
        limits: DiskLimits::default(),
    };
    match link.apply(WHAT, vec![attach]) {
        Ok(_) => Ok(true),
        // An earlier run of this partition attached it.
        Err(Failure::Refused(_, refusal)) if refusal.code == Code::NumberTaken => Ok(false),
        Err(failure) => Err(words(failure)),
    }
}

fn index_of(rows: &[DeviceRow], disk: StateDisk) -> Option<u32> {
    rows.iter().find(|row| row.address == disk.function.0).map(|row| row.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::command::PciAddress;

    #[test]
    fn the_kernel_is_told_what_to_mount() {
        let disk = |partition| Some(StateDisk { function: PciAddress(0x28), partition });
        assert_eq!(command_line("quiet", None), "quiet");
        assert_eq!(command_line("quiet", disk(None)), "quiet uv.state=xvda");
        assert_eq!(command_line("quiet", disk(Some(2))), "quiet uv.state=xvda2");
    }
}
