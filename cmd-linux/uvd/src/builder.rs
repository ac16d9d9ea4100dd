//! The client of the build channel: it hands a kernel and a RAM disk to the boot partition.
//!
//! [`control::build`] has the messages and their order. Rule: there is one build at a time, and
//! the window stays unchanged until the boot partition has answered.

use std::cell::{Ref, RefCell};
use std::fs::File as Disk;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use channels::Shared;
use channels::ring::{Endpoint, RingError, Side};
use channels::words;
use control::build::{
    BuildReply, BuildRequest, File, PAGES, RING_PAGES, Reply, Request, WINDOW_PAGES,
};
use control::command::{Code, Heap};
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use pv_abi::PAGE_SIZE;
use uvd_protocol::Failure;

use crate::context::Devices;
use crate::context::refusal::refused;
use crate::context::requests::Ids;
use crate::context::timers::Timers;
use crate::fault::Fault;
use crate::link::{self, Port};
use crate::loader::Kernel;

/// The longest time that the boot partition may take for one step.
const PATIENCE: Duration = Duration::from_secs(60);
/// Words before the window.
const RING_WORDS: usize = RING_PAGES * PAGE_SIZE / 4;
/// Bytes of the window.
const WINDOW_BYTES: usize = WINDOW_PAGES * PAGE_SIZE;

/// The client; see the module's head.
pub struct Builder {
    ids: Rc<Ids>,
    timers: Rc<Timers>,
    fault: Rc<Fault>,
    devices: Rc<dyn Devices>,
    link: RefCell<Link>,
}

/// The channel, once it was opened, and the request under way.
#[derive(Default)]
pub struct Link {
    channel: Option<Channel>,
    /// A buffer for the bytes of the window. It is kept from build to build, because a new one
    /// would be filled with zeros each time.
    data: Vec<u8>,
    waiting: Option<(u64, oneshot::Sender<Result<BuildReply, Failure>>)>,
}

struct Channel {
    shared: Shared,
    port: Box<dyn Port>,
}

/// The parts that a partition is built from.
pub struct Parts {
    /// The partition's number.
    pub partition: u32,
    /// The kernel.
    pub kernel: Kernel,
    /// The RAM disk and its bytes.
    pub initrd: Option<(Disk, u64)>,
    /// The kernel's command line.
    pub command_line: String,
    /// Frames that the partition's kernel is to use at first.
    pub memory_target: u64,
}

/// The result of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// Event port of its console; 0 if it has none.
    pub console_port: u32,
}

impl Link {
    /// The descriptor to wait for.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(|channel| channel.port.fd())
    }

    /// Takes the replies that arrived.
    fn turn(&mut self) {
        let Some(channel) = &mut self.channel else {
            return;
        };
        channel.port.take();
        if self.waiting.is_none() {
            return;
        }
        match channel.receive() {
            Ok(replies) => replies.into_iter().for_each(|reply| self.take(reply)),
            Err(error) => {
                let failure = broken(&error.to_string());
                channel.ask_anew(error);
                self.channel = None;
                self.give_up(&failure);
            }
        }
    }

    /// Fails the current request.
    fn give_up(&mut self, failure: &Failure) {
        if let Some((_, waiter)) = self.waiting.take() {
            let _ = waiter.send(Err(failure.clone()));
        }
    }

    fn take(&mut self, reply: Reply) {
        if self.waiting.as_ref().is_some_and(|(id, _)| *id == reply.id)
            && let Some((_, waiter)) = self.waiting.take()
        {
            let _ = waiter.send(reply.result.map_err(|refusal| Failure::Refused(refusal.into())));
        }
    }

    fn send(
        &mut self,
        (id, body): (u64, BuildRequest),
        devices: &dyn Devices,
    ) -> Result<oneshot::Receiver<Result<BuildReply, Failure>>, Failure> {
        if self.channel.is_none() {
            let (shared, port) = devices.build().map_err(|why| broken(&why))?;
            if shared.words().len() != PAGES * PAGE_SIZE / 4 {
                return Err(broken("has another size"));
            }
            self.channel = Some(Channel { shared, port });
        }
        let channel = self.channel.as_mut().ok_or_else(|| broken("is not there"))?;
        let bytes = postcard::to_allocvec(&Request { id, body });
        let bytes = bytes.map_err(|error| Failure::Malformed(error.to_string()))?;
        if let Err(error) = channel.send(&bytes) {
            channel.ask_anew(error);
            self.channel = None;
            return Err(broken(&error.to_string()));
        }
        let (waiter, reply) = oneshot::channel();
        self.waiting = Some((id, waiter));
        Ok(reply)
    }

    fn fill(&mut self, bytes: &[u8]) {
        let Some(channel) = &self.channel else {
            return;
        };
        let window = channel.shared.words().get(RING_WORDS..).unwrap_or_default();
        words::store_bytes(window, bytes);
    }
}

impl Channel {
    /// The ring in its present state, since the boot partition may have re-created it.
    fn ring(&self) -> Result<Endpoint<'_>, RingError> {
        Endpoint::open(self.shared.words().get(..RING_WORDS).unwrap_or_default(), Side::Client)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), RingError> {
        self.ring()?.send(bytes)?;
        self.port.ring();
        Ok(())
    }

    fn ask_anew(&mut self, error: RingError) {
        let words = self.shared.words().get(..RING_WORDS).unwrap_or_default();
        link::ask_anew(error, words, &mut *self.port);
    }

    fn receive(&mut self) -> Result<Vec<Reply>, RingError> {
        let (mut replies, mut buffer) = (Vec::new(), Vec::new());
        let mut ring = self.ring()?;
        while ring.receive(&mut buffer)? {
            // A reply that cannot be decoded answers no request.
            replies.extend(postcard::from_bytes::<Reply>(&buffer));
        }
        Ok(replies)
    }
}

fn broken(why: &str) -> Failure {
    refused(Code::NoBuildChannel, "boot partition", "build channel", why, "see the host's console")
}

impl Builder {
    /// A client that has not opened the channel yet.
    pub fn new(
        ids: Rc<Ids>,
        timers: Rc<Timers>,
        fault: Rc<Fault>,
        devices: Rc<dyn Devices>,
    ) -> Self {
        Self { ids, timers, fault, devices, link: RefCell::default() }
    }

    /// The channel, to wait for its events.
    pub fn channel(&self) -> Ref<'_, Link> {
        self.link.borrow()
    }

    /// Takes the replies that arrived.
    pub fn turn(&self) {
        self.link.borrow_mut().turn();
    }

    /// Fails the request under way.
    pub fn give_up(&self, failure: &Failure) {
        self.link.borrow_mut().give_up(failure);
    }

    async fn call(&self, body: BuildRequest) -> Result<BuildReply, Failure> {
        self.fault.step();
        let reply = self.link.borrow_mut().send((self.ids.make(), body), &*self.devices)?;
        let late = Box::pin(self.timers.sleep_until(Instant::now() + PATIENCE));
        match select(reply, late).await {
            Either::Left((reply, _)) => reply.unwrap_or(Err(Failure::ShuttingDown)),
            Either::Right(_) => Err(broken("is silent")),
        }
    }

    /// Builds a partition. The caller holds the turn, so there is one build at a time.
    /// `progress` is called with the bytes handed over so far.
    pub async fn build(
        &self,
        parts: &Parts,
        mut progress: impl FnMut(u64),
    ) -> Result<Built, Failure> {
        let mut reply = self
            .call(BuildRequest::Begin {
                protocol: control::build::PROTOCOL,
                partition: parts.partition,
                kernel_bytes: parts.kernel.len(),
                initrd_bytes: parts.initrd.as_ref().map_or(0, |(_, bytes)| *bytes),
                command_line: parts.command_line.clone(),
                memory_target: parts.memory_target,
            })
            .await?;
        let mut data = std::mem::take(&mut self.link.borrow_mut().data);
        let built = self.hand_over(parts, &mut data, &mut reply, &mut progress).await;
        self.link.borrow_mut().data = data;
        built
    }

    /// Hands over the bytes that the boot partition asks for, until the partition is built.
    async fn hand_over(
        &self,
        parts: &Parts,
        data: &mut Vec<u8>,
        reply: &mut BuildReply,
        progress: &mut impl FnMut(u64),
    ) -> Result<Built, Failure> {
        let mut given = 0;
        loop {
            match *reply {
                BuildReply::Built { console_port, .. } => return Ok(Built { console_port }),
                BuildReply::Aborted => return Err(broken("gave the build up")),
                BuildReply::Heap(_) => return Err(broken("answers another question")),
                BuildReply::Want { file, offset, bytes } => {
                    match read(parts, (file, offset, bytes), data) {
                        Ok(data) => self.link.borrow_mut().fill(data),
                        Err(failure) => {
                            let _ = self.call(BuildRequest::Abort).await;
                            return Err(failure);
                        }
                    }
                    given += bytes;
                    progress(given);
                    *reply = self.call(BuildRequest::Data { file, offset, bytes }).await?;
                }
            }
        }
    }

    /// Asks the boot partition how much of its heap it uses. The caller holds the turn.
    pub async fn heap(&self) -> Result<Heap, Failure> {
        match self.call(BuildRequest::Heap).await? {
            BuildReply::Heap(heap) => Ok(heap),
            _ => Err(broken("answers another question")),
        }
    }
}

/// Returns the requested bytes: the kernel's own bytes if possible, else bytes that it reads into
/// `data`, whose length is that of the largest request so far.
fn read<'d>(
    parts: &'d Parts,
    (file, offset, bytes): (File, u64, u64),
    data: &'d mut Vec<u8>,
) -> Result<&'d [u8], Failure> {
    let count = usize::try_from(bytes).ok().filter(|count| *count <= WINDOW_BYTES);
    let count = count.ok_or_else(|| broken("wants more than the window holds"))?;
    if let File::Kernel = file
        && let Some(part) = parts.kernel.part(offset, count)
    {
        return Ok(part);
    }
    data.resize(data.len().max(count), 0);
    let data = data.get_mut(..count).unwrap_or_default();
    match file {
        File::Kernel => {
            let read = parts.kernel.read_at(data, offset);
            read.map_err(|_| broken("wants more than the kernel has"))?;
        }
        File::Initrd => {
            let (disk, _) = parts.initrd.as_ref().ok_or_else(|| broken("wants a RAM disk"))?;
            disk.read_exact_at(data, offset).map_err(|error| {
                let reason = format!("changed while it was read: {error}");
                refused(
                    Code::NoInitrd,
                    "RAM disk",
                    "file",
                    &reason,
                    "ask again once it stays as it is",
                )
            })?;
        }
    }
    Ok(data)
}
