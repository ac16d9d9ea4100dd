//! Loads kernels: processes of their own read and unpack the files, because these are untrusted.
//!
//! Rule: whatever a file contains, `uvd` goes on ([`kernel_image::confined`]). The loader keeps at
//! most [`MOST_KEPT`] unpacked kernels and unpacks one at a time, so the memory is bounded.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use control::command::Code;
use futures_channel::oneshot;
use kernel_image::confined::{Elf, Unpacker};
use uvd_protocol::{Failure, way_out};

use crate::context::refusal::refused;
use crate::turns::Turns;
use crate::wake::Wake;

/// The most kernels that are kept unpacked.
const MOST_KEPT: usize = 2;

/// Identifies a file, and its state when it was read.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    path: PathBuf,
    bytes: u64,
    modified: Option<SystemTime>,
    initrd_bytes: u64,
}

/// An ELF image.
pub type Kernel = Arc<Elf>;

/// Reads a kernel file and unpacks it for a RAM disk of this many bytes. The error is the problem
/// with the file.
pub type Unpack = fn(&Path, u64) -> Result<Elf, String>;

/// Unpacks a file in a child of this process.
pub fn unpack(path: &Path, initrd_bytes: u64) -> Result<Elf, String> {
    Unpacker::default().elf(path, initrd_bytes).map_err(|error| error.to_string())
}

/// See the module's head.
pub struct Loader {
    unpack: Unpack,
    kept: RefCell<Vec<(Key, Kernel)>>,
    turns: Turns,
    wake: Arc<Wake>,
}

impl Loader {
    /// A loader that keeps nothing yet.
    pub fn new(wake: Arc<Wake>, unpack: Unpack) -> Self {
        Self { unpack, kept: RefCell::default(), turns: Turns::default(), wake }
    }

    /// Returns a kernel for a RAM disk of this many bytes, and unpacks it if it is not kept. Calls
    /// `unpacking` before it unpacks. Messages name the partition `name`.
    pub async fn kernel(
        &self,
        name: &str,
        path: &Path,
        initrd_bytes: u64,
        unpacking: impl FnOnce(),
    ) -> Result<Kernel, Failure> {
        let object = format!("partition {name:?}");
        let way_out = way_out::with_file(way_out::KERNEL, &path.to_string_lossy());
        let unreadable = |error: std::io::Error| {
            let reason = format!("{}: {error}", path.display());
            refused(
                Code::NoKernel,
                &object,
                "kernel",
                &reason,
                "give the path of a kernel that is there",
            )
        };
        let _turn = self.turns.acquire().await;
        let about = fs::metadata(path).map_err(unreadable)?;
        let (bytes, modified) = (about.len(), about.modified().ok());
        let key = Key { path: path.into(), bytes, modified, initrd_bytes };
        if let Some(kernel) = self.find(&key) {
            return Ok(kernel);
        }
        unpacking();
        let (done, loaded) = oneshot::channel();
        let (file, wake, unpack) = (path.to_owned(), Arc::clone(&self.wake), self.unpack);
        let thread = std::thread::Builder::new().name("kernel".into());
        let started = thread.spawn(move || {
            let _ = done.send(unpack(&file, initrd_bytes));
            wake.ring();
        });
        started.map_err(unreadable)?;
        let elf = loaded.await.map_err(|_| Failure::ShuttingDown)?;
        let elf =
            elf.map_err(|reason| refused(Code::NoKernel, &object, "kernel", &reason, &way_out))?;
        Ok(self.keep(key, elf))
    }

    /// Wakes the event loop when a kernel is ready.
    pub fn wake(&self) -> &Wake {
        &self.wake
    }

    fn find(&self, key: &Key) -> Option<Kernel> {
        let mut kept = self.kept.borrow_mut();
        let at = kept.iter().position(|(kept, _)| kept == key)?;
        // The kernel used last is removed last.
        let found = kept.remove(at);
        let kernel = Arc::clone(&found.1);
        kept.push(found);
        Some(kernel)
    }

    fn keep(&self, key: Key, elf: Elf) -> Kernel {
        let kernel = Arc::new(elf);
        let mut kept = self.kept.borrow_mut();
        kept.retain(|(old, _)| old.path != key.path);
        if kept.len() >= MOST_KEPT {
            kept.remove(0);
        }
        kept.push((key, Arc::clone(&kernel)));
        kernel
    }
}
