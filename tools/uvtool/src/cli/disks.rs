//! Options of `uvtool disk`.

use clap::{Args, Subcommand};
use definition::{Function, device_number};

/// Options of `uvtool disk`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  uvtool disk list\n  \
    uvtool disk attach web xvdb --function 00:05.0 --read-only\n  \
    uvtool disk detach web xvdb")]
pub struct Disk {
    /// What to do with disks
    #[command(subcommand)]
    pub request: DiskRequest,
}

/// Requests of `uvtool disk`.
#[derive(Debug, Subcommand)]
pub enum DiskRequest {
    /// Show the disks of partitions, and their states
    #[command(after_help = "Examples:\n  uvtool disk list\n  uvtool disk list web --json")]
    List {
        /// Name or number of a partition; all partitions if it is left out
        partition: Option<String>,
    },
    /// Attach a disk to a partition, running or not, and put it into its definition
    #[command(after_help = "Examples:\n  uvtool disk attach web xvdb --function 00:05.0\n  \
        uvtool disk attach web xvdc --function 00:06.0 --read-only")]
    Attach(Attach),
    /// Detach a disk from a partition, running or not, and remove the disk from its definition
    #[command(after_help = "Example:\n  uvtool disk detach web xvdb")]
    Detach {
        /// Name or number of the partition
        partition: String,
        /// Device of the disk, xvda to xvdz
        #[arg(value_parser = device)]
        device: u32,
    },
}

/// Options of `uvtool disk attach`.
#[derive(Args, Debug)]
pub struct Attach {
    /// Name or number of the partition
    pub partition: String,
    /// Device that the partition's kernel sees, xvda to xvdz
    #[arg(value_parser = device)]
    pub device: u32,
    /// PCI function that is the disk: an address such as 00:05.0, or an index; `uvtool resources`
    /// shows the functions
    #[arg(long, value_name = "ADDRESS", value_parser = function)]
    pub function: Function,
    /// GPT partition of the function's disk, from 1; the whole disk if it is left out. Refused: GPT
    /// partitions are not served yet
    #[arg(long = "partition", id = "gpt", value_name = "N")]
    pub number: Option<u32>,
    /// The partition may only read
    #[arg(long)]
    pub read_only: bool,
    /// Disks that have this option may have sectors in common
    #[arg(long)]
    pub shared: bool,
}

impl Attach {
    /// The disk that the command attaches.
    pub fn disk(&self) -> definition::Disk {
        definition::Disk {
            device: self.device,
            function: self.function,
            partition: self.number,
            extents: Vec::new(),
            read_only: self.read_only,
            shared: self.shared,
        }
    }
}

/// Reads the name of a virtual device.
fn device(text: &str) -> Result<u32, String> {
    device_number(text).ok_or_else(|| "takes xvda to xvdz".into())
}

/// Reads the address or the index of a PCI function.
fn function(text: &str) -> Result<Function, String> {
    let found = Function::of_address(text).or_else(|| text.parse().ok().map(Function::Index));
    found.ok_or_else(|| "takes an address such as 00:05.0, or an index".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};

    fn read(words: &str) -> Result<DiskRequest, String> {
        let words = ["uvtool", "disk"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Disk(disk) => Ok(disk.request),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn a_disk_is_a_device_and_a_function() {
        let words = "attach web xvdb --function 0001:02:1f.7 --partition 2 --read-only";
        let Ok(DiskRequest::Attach(options)) = read(words) else { panic!() };
        let expected = definition::Disk {
            device: 202 << 8 | 16,
            function: Function::Address(1 << 16 | 2 << 8 | 0x1f << 3 | 7),
            partition: Some(2),
            extents: Vec::new(),
            read_only: true,
            shared: false,
        };
        assert_eq!((options.partition.as_str(), options.disk()), ("web", expected));
        let Ok(DiskRequest::Attach(options)) = read("attach web xvda --function 3 --shared") else {
            panic!()
        };
        assert_eq!((options.function, options.shared), (Function::Index(3), true));
        for (wrong, says) in [
            ("attach web sda --function 3", "takes xvda to xvdz"),
            ("attach web xvda", "--function"),
            ("attach web xvda --function 00:20.0", "takes an address such as 00:05.0"),
            ("detach web", "<DEVICE>"),
        ] {
            assert!(read(wrong).unwrap_err().contains(says), "{wrong}");
        }
    }
}
