//! Two named pipes, one for each direction, whose names live only until both ends are open.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::interrupt::Scratch;
use crate::workspace;

/// The pipes and the directory that holds them. Dropping it removes the names; an open pipe stays
/// open.
pub struct Pipes {
    directory: Scratch,
}

impl Pipes {
    /// Makes the pipes in a directory that only this user can enter.
    ///
    /// # Errors
    /// The pipes cannot be created.
    pub fn make() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ultravisor-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let pipes = Self { directory: Scratch::new(directory) };
        let directory = pipes.directory.path();
        DirBuilder::new()
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let path = pipes.path();
        let mut mkfifo = Command::new("mkfifo");
        mkfifo.args([path.with_extension("in"), path.with_extension("out")]);
        workspace::run_command(&mut mkfifo, "making the harness line")?;
        Ok(pipes)
    }

    /// The path for the other end, which appends `.in` (to it) and `.out` (from it).
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("line")
    }

    /// Opens our ends, one to read and one to write, once the other end has both open.
    ///
    /// # Errors
    /// The pipes are gone.
    pub fn open(self) -> Result<(File, File)> {
        let path = self.path();
        let reader = File::open(path.with_extension("out")).context(
            "the harness line was closed \
            by the other end",
        )?;
        let writer = File::options().write(true).open(path.with_extension("in"));
        Ok((reader, writer.context("the harness line was closed by the other end")?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn both_ends_talk_and_no_name_is_left() {
        let pipes = Pipes::make().expect("a directory for temporary files");
        let path = pipes.path();
        let open = |name| File::options().read(true).write(true).open(path.with_extension(name));
        let (mut to_other, mut from_other) =
            (open("in").expect("made"), open("out").expect("made"));
        let (mut reader, mut writer) = pipes.open().expect("the other end is open");
        assert!(!path.with_extension("in").exists());
        writer.write_all(b"ping").expect("open");
        from_other.write_all(b"pong").expect("open");
        let mut word = [0; 4];
        to_other.read_exact(&mut word).expect("written");
        assert_eq!(&word, b"ping");
        reader.read_exact(&mut word).expect("written");
        assert_eq!(&word, b"pong");
        drop(from_other);
        assert_eq!(reader.read(&mut word).expect("the end"), 0);
    }
}
