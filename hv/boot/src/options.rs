//! Options of the boot partition: the words after its name on GRUB's `module2` line.
//!
//! An unknown option is an error, so that a typing mistake does not silently select a default.

use control::command::PciAddress;
use core::fmt;

/// Partitions that Linux finds on a disk with minor numbers of its own.
const MOST_PARTITIONS: u32 = 15;

/// The values of the options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `command_memory=SIZE`: memory of the command partition in bytes.
    pub command_memory: Option<u64>,
    /// `command_vcpus=N`: the number of its virtual CPUs.
    pub command_vcpus: Option<u32>,
    /// `command_weight=N`: its share of CPU time.
    pub command_weight: Option<u32>,
    /// `state=ADDRESS` or `state=ADDRESS/N`: the disk on which the command partition keeps its state.
    pub state: Option<StateDisk>,
}

/// The disk on which the command partition keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateDisk {
    /// The function that has the disk.
    pub function: PciAddress,
    /// The number of the partition that Linux finds on the disk; `None` means all of the disk.
    pub partition: Option<u32>,
}

impl StateDisk {
    /// Reads a PCI address such as `00:05.0`, which may have a slash and the number of a partition
    /// behind it.
    fn parse(text: &str) -> Option<Self> {
        let (address, partition) = match text.split_once('/') {
            Some((address, partition)) => (address, Some(number(partition, MOST_PARTITIONS)?)),
            None => (text, None),
        };
        Some(Self { function: PciAddress::parse(address)?, partition })
    }
}

/// An option that is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// The option is unknown.
    Unknown(&'static str),
    /// The value is invalid: the option, and the values it takes.
    Value(&'static str, &'static str),
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(word) => {
                write!(f, "unknown option {word:?}; there are command_memory=SIZE, ")?;
                f.write_str("command_vcpus=N, command_weight=N and state=ADDRESS")
            }
            Self::Value(word, takes) => write!(f, "{word:?} is wrong; it takes {takes}"),
        }
    }
}

impl core::error::Error for OptionError {}

impl Options {
    /// Parses a line of options.
    ///
    /// # Errors
    /// See [`OptionError`].
    pub fn parse(line: &'static str) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for word in line.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "command_memory" => {
                    let takes = "a number of bytes, or one with K, M or G";
                    let bytes = size(value).ok_or(OptionError::Value(word, takes))?;
                    options.command_memory = Some(bytes);
                }
                "command_vcpus" => {
                    let vcpus = number(value, 32);
                    options.command_vcpus =
                        Some(vcpus.ok_or(OptionError::Value(word, "a number from 1 to 32"))?);
                }
                "command_weight" => {
                    let weight = number(value, 65_535);
                    options.command_weight =
                        Some(weight.ok_or(OptionError::Value(word, "a number from 1 to 65535"))?);
                }
                "state" => {
                    let takes = "the PCI address of a disk's function, such as 00:05.0, or with \
                                 the number of a partition 00:05.0/1";
                    let disk = StateDisk::parse(value).ok_or(OptionError::Value(word, takes))?;
                    options.state = Some(disk);
                }
                _ => return Err(OptionError::Unknown(word)),
            }
        }
        Ok(options)
    }
}

/// A number from 1 to `most`.
fn number(text: &str, most: u32) -> Option<u32> {
    text.parse().ok().filter(|number| (1..=most).contains(number))
}

/// A size; not 0. A number without a unit is in bytes.
fn size(text: &str) -> Option<u64> {
    rules::parse_bytes(text).ok().filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let memory = |line| Options::parse(line).map(|options| options.command_memory);
        assert_eq!(memory("command_memory=768M"), Ok(Some(768 << 20)));
        assert_eq!(memory("command_memory=2G command_vcpus=2"), Ok(Some(2 << 30)));
        assert_eq!(memory("command_memory=1048576"), Ok(Some(1 << 20)));
        assert_eq!(memory("command_memory=1GiB"), Ok(Some(1 << 30)));
        assert_eq!(memory(""), Ok(None));
        for wrong in ["", "=", "=0", "=M", "=1X", "=-1", "=99999999999G", "=1MM"] {
            let line: &'static str = Box::leak(format!("command_memory{wrong}").into());
            assert!(matches!(Options::parse(line), Err(OptionError::Value(..))), "{line}");
        }
    }

    #[test]
    fn numbers_are_bounded() {
        assert_eq!(Options::parse("command_vcpus=32").unwrap().command_vcpus, Some(32));
        assert_eq!(Options::parse("command_weight=65535").unwrap().command_weight, Some(65_535));
        for line in [
            "command_vcpus=0",
            "command_vcpus=33",
            "command_vcpus=two",
            "command_weight=0",
            "command_weight=65536",
        ] {
            assert!(matches!(Options::parse(line), Err(OptionError::Value(..))), "{line}");
        }
    }

    #[test]
    fn the_state_disk_is_an_address_and_perhaps_a_partition() {
        let state = |line| Options::parse(line).map(|options| options.state);
        let disk =
            |function, partition| Ok(Some(StateDisk { function: PciAddress(function), partition }));
        assert_eq!(state("state=00:05.0"), disk(0x28, None));
        assert_eq!(state("state=0000:00:05.1/15"), disk(0x29, Some(15)));
        for wrong in ["", "=", "=5", "=00:05.0/", "=00:05.0/0", "=00:05.0/16", "=00:05.0/1/1"] {
            let line: &'static str = Box::leak(format!("state{wrong}").into());
            assert!(matches!(Options::parse(line), Err(OptionError::Value(..))), "{line}");
        }
    }

    #[test]
    fn an_unknown_option_is_named() {
        let error = Options::parse("command_vcpus=2 comand_memory=1G").unwrap_err();
        assert_eq!(error, OptionError::Unknown("comand_memory=1G"));
        assert!(error.to_string().contains("command_memory=SIZE"));
    }
}
