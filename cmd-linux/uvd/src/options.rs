//! The command-line options of `uvd`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A directory on a disk, if the machine has a disk mounted there.
const DISK: &str = "/var/lib/uvd";
/// The name of the store's file in either directory.
const FILE: &str = "state.redb";
/// The directory in memory.
const MEMORY: &str = "/run/uvd";

/// Options, all of which may be left out.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// The file that definitions and the audit log are stored in.
    pub state: PathBuf,
    /// The socket to serve, unless standard input is one.
    pub socket: PathBuf,
}

impl Options {
    /// Parses the words of a command line.
    pub fn parse(words: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut words = words;
        let mut options =
            Self { state: default_state(Path::new(DISK)), socket: uvd_protocol::SOCKET.into() };
        while let Some(word) = words.next() {
            let place = match word.to_str() {
                Some("--state") => &mut options.state,
                Some("--socket") => &mut options.socket,
                _ => {
                    return Err(format!(
                        "option {word:?} is not known; there are --state FILE and --socket PATH"
                    ));
                }
            };
            let value = words.next();
            *place = value.ok_or(format!("option {word:?} lacks its path; give it one"))?.into();
        }
        Ok(options)
    }
}

/// The default store: on the disk if a disk is mounted, or else in memory.
fn default_state(disk: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::metadata(path).ok().map(|about| about.dev());
    let mounted = device(disk).is_some() && device(disk) != disk.parent().and_then(device);
    if mounted { disk.join(FILE) } else { Path::new(MEMORY).join(FILE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, String> {
        Options::parse(words.iter().map(Into::into))
    }

    #[test]
    fn without_a_disk_the_state_is_in_memory() {
        let options = parse(&[]).unwrap();
        assert_eq!(options.socket, Path::new(uvd_protocol::SOCKET));
        assert_eq!(default_state(Path::new("/no/such/disk")), Path::new("/run/uvd/state.redb"));
        assert_eq!(default_state(Path::new("/proc")), Path::new("/proc/state.redb"));
    }

    #[test]
    fn paths_can_be_given_and_wrong_words_are_named() {
        let options = parse(&["--state", "/a", "--socket", "/b"]).unwrap();
        assert_eq!(options, Options { state: "/a".into(), socket: "/b".into() });
        assert!(parse(&["--stat"]).unwrap_err().contains("--state FILE"));
        assert!(parse(&["--state"]).unwrap_err().contains("lacks its path"));
    }
}
