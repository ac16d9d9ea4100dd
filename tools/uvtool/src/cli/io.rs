//! Options of `uvtool io`.

use clap::{Args, Subcommand};
use uvd_protocol::IoChange;

/// Options of `uvtool io`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  uvtool io\n  uvtool io drain io-a\n  \
    uvtool io restart io-a\n  uvtool io balance")]
pub struct Io {
    /// What to do with I/O partitions; `list` if it is left out
    #[command(subcommand)]
    pub request: Option<IoRequest>,
}

/// Requests of `uvtool io`.
#[derive(Debug, Subcommand)]
pub enum IoRequest {
    /// Show the I/O partitions, their PCI functions, and the disks that they serve
    #[command(after_help = "Examples:\n  uvtool io list\n  uvtool io list --json")]
    List,
    /// Move all functions of an I/O partition to the others; guests see a stall at most
    ///
    /// The command ends when all have moved. Functions that nobody has go to any partition that
    /// runs, the drained one too; `uvtool io balance` gives it a share again.
    #[command(after_help = "Example:\n  uvtool io drain io-a")]
    Drain {
        /// Name or number of the I/O partition
        partition: String,
    },
    /// Drain an I/O partition, destroy it, and give what it had to the one built in its place
    ///
    /// That one has the next free number: after io-a and io-b it is io-c.
    #[command(after_help = "Examples:\n  uvtool io restart io-a\n  uvtool io restart io-a --now")]
    Restart {
        /// Name or number of the I/O partition
        partition: String,
        /// Do not drain it, for one that does not answer: the others take over as if it had died
        #[arg(long)]
        now: bool,
    },
    /// Move functions so that the I/O partitions have equally many
    #[command(after_help = "Example:\n  uvtool io balance")]
    Balance,
}

impl Io {
    /// The change that the command asks for; `None` if it only lists.
    pub fn change(&self) -> Option<IoChange> {
        Some(match self.request.as_ref()? {
            IoRequest::List => return None,
            IoRequest::Drain { partition } => IoChange::Drain { name: partition.clone() },
            IoRequest::Restart { partition, now } => {
                IoChange::Restart { name: partition.clone(), now: *now }
            }
            IoRequest::Balance => IoChange::Balance,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};

    fn read(words: &str) -> Result<Option<IoChange>, String> {
        let words = ["uvtool", "io"].into_iter().chain(words.split_whitespace());
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Io(io) => Ok(io.change()),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn without_a_word_it_lists() {
        assert_eq!((read(""), read("list")), (Ok(None), Ok(None)));
        assert_eq!(read("balance"), Ok(Some(IoChange::Balance)));
        let restart = IoChange::Restart { name: "io-a".into(), now: true };
        assert_eq!(read("restart io-a --now"), Ok(Some(restart)));
        assert!(read("drain").unwrap_err().contains("<PARTITION>"));
    }
}
