//! Writes archives in the `newc` cpio format, which Linux unpacks as its initial RAM disk.
//!
//! The layout is that of the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`:
//! a 110-byte header of hexadecimal fields, the name with its NUL, and the data, each padded to 4
//! bytes. The entry `TRAILER!!!` ends an archive. Archives may follow one another, and a later
//! entry replaces an earlier one of the same name.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive under construction. Paths are relative to the root, without a leading slash; missing
/// directories above an entry are added.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory that everyone may enter and root may write.
    pub fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.directories.contains(path) {
            return;
        }
        self.parents(path);
        self.directories.insert(path.to_owned());
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a regular file with these permission bits.
    pub fn file(&mut self, path: &str, permissions: u32, data: &[u8]) {
        let path = path.trim_matches('/');
        self.parents(path);
        self.entry(path, REGULAR | (permissions & 0o7777), (0, 0), data);
    }

    /// Adds a symbolic link at `path` that points to `target`.
    pub fn symlink(&mut self, path: &str, target: &str) {
        let path = path.trim_matches('/');
        self.parents(path);
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) {
        let path = path.trim_matches('/');
        self.parents(path);
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), &[]);
    }

    /// The archive, padded so that another can follow it.
    pub fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.entries += 1;
        let length = u32::try_from(data.len()).expect("a file of the RAM disk is below 4 GiB");
        let name_length = u32::try_from(path.len() + 1).expect("a path is short");
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        // ino, mode, uid, gid, nlink, mtime, filesize, dev major and minor, rdev major and minor,
        // namesize, check.
        let fields =
            [self.entries, mode, 0, 0, links, 0, length, 0, 0, device.0, device.1, name_length, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn listing(archive: &[u8]) -> String {
        let mut cpio = Command::new("cpio")
            .args(["-itv", "--quiet", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio is installed");
        cpio.stdin.take().expect("piped").write_all(archive).expect("cpio reads");
        let out = cpio.wait_with_output().expect("cpio ends");
        assert!(out.status.success());
        String::from_utf8(out.stdout).expect("names are UTF-8")
    }

    #[test]
    fn cpio_reads_every_kind_of_entry() {
        let mut archive = Archive::new();
        archive.file("a/b/tool", 0o755, b"xyz");
        archive.symlink("a/link", "b/tool");
        archive.character_device("dev/console", 5, 1);
        let listing = listing(&archive.finish());
        let lines: Vec<_> = listing.lines().collect();
        assert_eq!(lines.len(), 6, "{listing}");
        assert!(lines[1].starts_with("drwxr-xr-x") && lines[1].ends_with("a/b"));
        assert!(lines[2].starts_with("-rwxr-xr-x") && lines[2].contains(" 3 "));
        assert!(lines[3].starts_with("lrwxrwxrwx") && lines[3].ends_with("a/link -> b/tool"));
        assert!(lines[5].starts_with("crw-------") && lines[5].contains("5,   1"));
    }

    #[test]
    fn archives_end_on_a_boundary_and_follow_one_another() {
        let mut first = Archive::new();
        first.file("odd", 0o644, b"12345");
        let first = first.finish();
        assert_eq!(first.len() % 4, 0);
        assert_eq!(listing(&first).lines().count(), 1);
    }
}
