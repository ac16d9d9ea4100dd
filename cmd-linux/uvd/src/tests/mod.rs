//! Tests the daemon against the rest of a host in the same process.

mod autostart;
mod carrying;
mod clients;
mod disks;
mod fields;
mod host;
mod lifecycle;
mod lost;
pub mod samples;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use channels::Shared;
use futures_executor::LocalPool;
use kernel_image::confined::Elf;
use nix::sys::memfd::{MFdFlags, memfd_create};
use pv_abi::PAGE_SIZE;

use crate::context::{Context, Devices};
use crate::daemon::{Daemon, End};
use crate::fault::Fault;
use crate::link::Port;
use crate::loader::Loader;
use crate::state::State;
use crate::wake::Wake;

/// A file in memory with this many pages.
pub fn memory(pages: usize) -> File {
    let file = File::from(memfd_create("channel", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len((pages * PAGE_SIZE) as u64).unwrap();
    file
}

/// One end of a socket pair in place of an event port.
pub struct Bell(UnixStream);

impl Bell {
    pub fn pair() -> (Self, Self) {
        let (a, b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        b.set_nonblocking(true).unwrap();
        (Self(a), Self(b))
    }
}

impl Port for Bell {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn take(&mut self) -> bool {
        let mut rung = false;
        while matches!(self.0.read(&mut [0; 64]), Ok(1..)) {
            rung = true;
        }
        rung
    }

    fn ring(&mut self) {
        let _ = self.0.write(b"!");
    }
}

/// A host without guests and without a boot partition.
pub struct NoDevices;

impl Devices for NoDevices {
    fn console(&self, number: u32, _: u32) -> std::io::Result<(Shared, Box<dyn Port>)> {
        Err(std::io::Error::other(format!("there is no partition {number}")))
    }

    fn build(&self) -> Result<(Shared, Box<dyn Port>), String> {
        Err("there is no boot partition".into())
    }
}

/// A path that only this test process uses.
pub fn own_path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("uvd-test-{}-{name}", std::process::id()))
}

/// Takes the file's contents as the kernel, which must not be empty and needs 8 MiB.
fn plain(path: &Path, _: u64) -> Result<Elf, String> {
    let elf = File::open(path).and_then(|file| Elf::new(file, 2048));
    let elf = elf.map_err(|error| error.to_string())?;
    if elf.is_empty() { Err("is empty".into()) } else { Ok(elf) }
}

/// The parts of a `uvd` whose jobs run on `pool`, with its state in memory, where nothing else reaches
/// it.
pub fn context(pool: &LocalPool) -> Rc<Context> {
    hub_with(pool, Path::new("/dev/null/state"), 1000, NoDevices)
}

/// The parts of a `uvd` that reports the progress of a request from the first step on.
fn hub_with(
    pool: &LocalPool,
    state: &Path,
    first_id: u64,
    devices: impl Devices + 'static,
) -> Rc<Context> {
    let loader = Loader::new(Arc::new(Wake::new().unwrap()), plain);
    let (state, fault) = (State::open(state), Fault::new("/no/such/file".into()));
    let context = Context::new(first_id, pool.spawner(), state, fault, Rc::new(devices), loader);
    context.outbox.quiet.set(Duration::ZERO);
    context
}

/// Starts a thread with a daemon that runs `body`, with its state in memory.
pub fn start(
    name: &str,
    devices: impl Devices + Send + 'static,
    body: impl FnOnce(&mut Daemon<'_>) -> End + Send + 'static,
) -> (PathBuf, UnixStream, JoinHandle<End>) {
    start_with(name, Path::new("/dev/null/state"), 1000, devices, body)
}

/// Does what [`start`] does, with a state file and the first id of requests.
pub fn start_with(
    name: &str,
    state: &Path,
    first_id: u64,
    devices: impl Devices + Send + 'static,
    body: impl FnOnce(&mut Daemon<'_>) -> End + Send + 'static,
) -> (PathBuf, UnixStream, JoinHandle<End>) {
    let socket = own_path(&format!("{name}.sock"));
    let listener = UnixListener::bind(&socket).unwrap();
    let (stop, stopped) = UnixStream::pair().unwrap();
    let state = state.to_owned();
    let daemon = std::thread::spawn(move || {
        let stopped = OwnedFd::from(stopped);
        let pool = LocalPool::new();
        let context = hub_with(&pool, &state, first_id, devices);
        body(&mut Daemon::new(listener, stopped.as_fd(), pool, context).unwrap())
    });
    (socket, stop, daemon)
}

pub fn connect(socket: &PathBuf) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}
