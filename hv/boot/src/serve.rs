//! The build channel: its pages, its ring, and the real system behind builds.
//!
//! The pages belong to this partition and are allocated once: a ring as on a command channel,
//! followed by the window in which pieces of files arrive.
//!
//! Rule: messages are handled one at a time, and between two messages nothing of a partition is
//! mapped.

use crate::failure::Failure;
use crate::guest::{Ground, Guests, Ports, Window, no_memory, not_understood};
use crate::link::Link;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use builder::{Extent, Page, Plan};
use channel::ends::{ChannelError, End};
use channel::ring::{Endpoint, RingError, Side};
use channel::words;
use control::build::{PAGES, RING_PAGES, Reply, Request};
use control::command::{Operation, Outcome, Target};
use core::sync::atomic::AtomicU32;
use partition_runtime::building::{self, Foreign};
use partition_runtime::events::{self, Port};
use partition_runtime::{heap, log, partition};
use pv_abi::PAGE_SIZE;
use pv_abi::uv::channel::{BUILD_GRANT, NO_ID};
use pv_abi::uv::database::{BOOT, COMMAND, PartitionDescriptor, ULTRAVISOR, channel_kind};
use pv_abi::xen::grants::{RESERVED_CONSOLE, RESERVED_STORE};

/// Maximum number of bytes of the heap for one step of a build: a piece of a file, and the plan of
/// 16 Ki ranges.
const ROOM: usize = 3 << 20;

/// The server of the build channel.
pub struct Server {
    words: &'static [AtomicU32],
    window: SharedWindow,
    port: Port,
    end: Option<End<'static, Port>>,
    /// A reply that the ring had no room for yet.
    waiting: Option<Reply>,
    guests: Guests,
    /// Number of errors of the channel so far.
    errors: u32,
}

/// The pages after the ring.
struct SharedWindow(&'static [AtomicU32]);

impl Window for SharedWindow {
    fn copy(&self, at: usize, out: &mut [u8]) {
        words::load_bytes(self.0, at, out);
    }
}

impl Server {
    /// Makes the channel to the command partition.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn open(link: &mut Link) -> Result<Self, Failure> {
        const WHAT: &str = "making the build channel";
        let (address, pages) = partition::shared_pages(PAGES).ok_or(Failure::Answer(WHAT))?;
        let frame = partition::frame_of(address).ok_or(Failure::Answer(WHAT))?;
        let (words, window) = pages.split_at(RING_PAGES * PAGE_SIZE / 4);
        let create = Operation::CreateChannel {
            partition: Target::Number(BOOT),
            peer: COMMAND,
            kind: channel_kind::BUILD,
            frame,
            frames: PAGES as u32,
            grant: BUILD_GRANT,
        };
        let mut server = Self {
            words,
            window: SharedWindow(window),
            port: Port(0),
            end: None,
            waiting: None,
            guests: Guests::default(),
            errors: 0,
        };
        match link.apply(WHAT, vec![create])?[..] {
            [Outcome::Channel { port, .. }] => server.port = Port(port),
            _ => return Err(Failure::Answer(WHAT)),
        }
        server.renew().map_err(|error| Failure::Channel(Some(error)))?;
        // Unmasking a port that is not masked has no effect.
        let _ = events::unmask(server.port);
        Ok(server)
    }

    /// Resets the ring; the client notices by its epoch.
    fn renew(&mut self) -> Result<(), ChannelError> {
        let ring = Endpoint::create(self.words, Side::Server)?;
        (self.end, self.waiting) = (Some(End::new(ring, self.port)), None);
        Ok(())
    }

    /// Handles the requests that have arrived.
    pub fn serve(&mut self, link: &mut Link, foreign: &mut Foreign) {
        loop {
            match self.step(link, foreign) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.count(error);
                    self.guests = Guests::default();
                    if self.renew().is_err() {
                        self.end = None;
                    }
                    return;
                }
            }
        }
    }

    /// Counts an error. Logs only some of them, since a client can cause as many as it likes.
    fn count(&mut self, error: ChannelError) {
        self.errors = self.errors.saturating_add(1);
        if self.errors.is_power_of_two() {
            log!("build channel: error {}: {error}", self.errors);
        }
    }

    /// Handles one request, once the reply to the one before is in the ring. Returns whether there
    /// was one.
    fn step(&mut self, link: &mut Link, foreign: &mut Foreign) -> Result<bool, ChannelError> {
        let Some(end) = self.end.as_mut() else {
            return Ok(false);
        };
        let reply = match self.waiting.take() {
            Some(reply) => reply,
            None => match end.receive::<Request>() {
                // The bad frame is read; the frames after it may be valid requests.
                Err(error @ ChannelError::Message) => {
                    self.count(error);
                    self.guests = Guests::default();
                    Reply { id: NO_ID, result: Err(not_understood()) }
                }
                Err(error) => return Err(error),
                Ok(Some(request)) => {
                    let mut system = System { link, foreign };
                    let result = if heap::has_room(ROOM) {
                        self.guests.handle(&mut system, &self.window, request.body)
                    } else {
                        self.guests = Guests::default();
                        Err(no_memory())
                    };
                    Reply { id: request.id, result }
                }
                Ok(None) => return Ok(false),
            },
        };
        let Some(end) = self.end.as_mut() else {
            return Ok(false);
        };
        match end.send(&reply) {
            Err(ChannelError::Ring(RingError::Full)) => {
                self.waiting = Some(reply);
                Ok(false)
            }
            done => done.map(|()| true),
        }
    }
}

/// The real system: the database through the command channel, and memory through the monitor.
struct System<'w> {
    link: &'w mut Link,
    foreign: &'w mut Foreign,
}

impl Ground for System<'_> {
    fn descriptor(&mut self, partition: u32) -> Result<Option<Box<PartitionDescriptor>>, Failure> {
        self.link.descriptor(partition)
    }

    fn ranges(&mut self, partition: u32) -> Result<Vec<Extent>, Failure> {
        self.link.ranges(partition)
    }

    fn connect(&mut self, partition: u32, plan: &Plan, target: u64) -> Result<Ports, Failure> {
        const WHAT: &str = "connecting a guest";
        let start = plan.start_state();
        let channel = |peer, kind, frame, grant| Operation::CreateChannel {
            partition: Target::Number(partition),
            peer,
            kind,
            frame,
            frames: 1,
            grant,
        };
        let operations = vec![
            Operation::SetMemoryTarget { partition: Target::Number(partition), frames: target },
            channel(COMMAND, channel_kind::CONSOLE, start.console_frame, RESERVED_CONSOLE),
            channel(ULTRAVISOR, channel_kind::STORE, start.store_frame, RESERVED_STORE),
        ];
        match self.link.apply(WHAT, operations)?[..] {
            [_, Outcome::Channel { port: console, .. }, Outcome::Channel { port: store, .. }] => {
                Ok(Ports { console, store })
            }
            _ => Err(Failure::Answer(WHAT)),
        }
    }

    fn place(&mut self, partition: u32, pfn: u64, extent: Extent) -> Result<(), Failure> {
        building::set_machine_to_physical(partition, extent.first, pfn, extent.frames)
            .map_err(|errno| Failure::Monitor("setting the machine-to-physical table", errno))
    }

    fn leave_idle(&mut self, partition: u32, extent: Extent) -> Result<(), Failure> {
        building::leave_idle(partition, extent.first, extent.frames)
            .map_err(|errno| Failure::Monitor("leaving memory idle", errno))
    }

    fn write(
        &mut self,
        partition: u32,
        frames: &[u64],
        each: &mut dyn FnMut(usize, &mut Page),
    ) -> Result<(), Failure> {
        self.foreign
            .write(partition, frames, each)
            .map_err(|errno| Failure::Monitor("mapping its memory", errno))
    }

    fn set_start(&mut self, partition: u32, plan: &Plan) -> Result<(), Failure> {
        let start = plan.start_state();
        let operations = vec![Operation::SetStart { partition: Target::Number(partition), start }];
        self.link.apply("setting a guest's start state", operations).map(drop)
    }
}
