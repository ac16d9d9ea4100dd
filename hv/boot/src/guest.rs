//! Builds a guest partition from a kernel and a RAM disk that arrive in pieces.
//!
//! ```text
//! Begin -> first bytes of the kernel -> its notes -> plan, channels, machine-to-physical entries
//!       -> each piece, written as it comes -> page tables, start info -> start state
//! ```
//!
//! The trait [`Ground`] hides all effects on the system, so that a test can simulate them.
//!
//! Rules: numbers from the client are compared with the request and with the database, and never
//! used as addresses. Any error ends the build with a refusal. The channels are created first, so
//! that the database itself records that the build was begun: the partition's memory holds data
//! then, and it is never built a second time.

use crate::failure::Failure;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use builder::{
    Extent, Kernel, LayoutError, Memory, Page, Parameters, Place, Plan, PlanError, Progress, Reader,
};
use control::build::{BuildReply, BuildRequest, File, MAX_COMMAND_LINE, PROTOCOL, WINDOW_PAGES};
use control::command::{Code, Refusal};
use core::ops::Range;
use pv_abi::PAGE_SIZE;
use pv_abi::uv::database::{COMMAND, PartitionDescriptor, kind, state};

/// Maximum number of bytes of a piece.
const PIECE: u64 = (WINDOW_PAGES * PAGE_SIZE) as u64;
/// Pieces end on a multiple of this, so that whole pages are written.
const PAGE: u64 = PAGE_SIZE as u64;
/// Pages without file contents that are written at a time.
const CHUNK: usize = 512;

/// Ports of a guest's channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The port of its console.
    pub console: u32,
    /// The port of its store channel.
    pub store: u32,
}

/// The effects of a build on the system.
pub trait Ground {
    /// The descriptor of a partition, if there is such a partition.
    fn descriptor(&mut self, partition: u32) -> Result<Option<Box<PartitionDescriptor>>, Failure>;
    /// The partition's ranges of RAM, including those of its monitor instance.
    fn ranges(&mut self, partition: u32) -> Result<Vec<Extent>, Failure>;
    /// Creates the partition's console and store channel, and sets its memory target.
    fn connect(&mut self, partition: u32, plan: &Plan, target: u64) -> Result<Ports, Failure>;
    /// Tells the monitor that the frames of `extent` are the pseudo-physical frames from `pfn` on.
    fn place(&mut self, partition: u32, pfn: u64, extent: Extent) -> Result<(), Failure>;
    /// Makes frames idle.
    fn leave_idle(&mut self, partition: u32, extent: Extent) -> Result<(), Failure>;
    /// Calls `each` to write these frames, one after the other.
    fn write(
        &mut self,
        partition: u32,
        frames: &[u64],
        each: &mut dyn FnMut(usize, &mut Page),
    ) -> Result<(), Failure>;
    /// Sets the start state.
    fn set_start(&mut self, partition: u32, plan: &Plan) -> Result<(), Failure>;
}

/// The window in which pieces arrive. The client may write it at any time.
pub trait Window {
    /// Copies bytes out of the window, from byte `at`.
    fn copy(&self, at: usize, out: &mut [u8]);
}

/// The piece that the client was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    file: File,
    offset: u64,
    bytes: u64,
}

/// A partition that is to be built.
#[derive(Clone, Debug)]
struct Target {
    partition: u32,
    /// The partition's name in refusals.
    object: String,
    kernel_bytes: u64,
    initrd_bytes: u64,
    command_line: String,
    memory_target: u64,
    /// The frames of its monitor instance.
    instance: Range<u64>,
    memory_frames: u64,
}

/// The stage of a build.
#[derive(Debug)]
enum Stage {
    /// Reads the kernel's headers and notes.
    Kernel(Box<Reader>),
    /// Loads the files.
    Files(Box<Loading>),
}

/// The loading of the files into the partition.
#[derive(Debug)]
struct Loading {
    plan: Plan,
    /// The parts that are still to be loaded.
    parts: VecDeque<(builder::File, Range<u64>)>,
    /// Ranges past the memory target.
    idle: Vec<Extent>,
    ports: Ports,
    pages: u64,
}

/// A build in progress.
#[derive(Debug)]
struct Build {
    target: Target,
    stage: Stage,
    piece: Piece,
}

/// The builder of guests, with at most one build at a time.
#[derive(Debug, Default)]
pub struct Guests {
    build: Option<Build>,
}

impl Guests {
    /// Handles a request of the client.
    ///
    /// # Errors
    /// A refusal; the build is over then.
    pub fn handle(
        &mut self,
        ground: &mut impl Ground,
        window: &impl Window,
        request: BuildRequest,
    ) -> Result<BuildReply, Refusal> {
        let build = self.build.take();
        match request {
            BuildRequest::Abort => Ok(BuildReply::Aborted),
            BuildRequest::Heap => {
                self.build = build;
                Ok(BuildReply::Heap(partition_runtime::heap::usage()))
            }
            BuildRequest::Begin { protocol, .. } if protocol != PROTOCOL => {
                let reason = format!("{protocol}, this side speaks {PROTOCOL}");
                let way_out = "use the uvd of this host's image";
                Err(refusal(Code::Protocol, "build channel", "protocol", &reason, way_out))
            }
            BuildRequest::Begin { .. } => self.begin(Target::of(ground, request)?),
            BuildRequest::Data { file, offset, bytes } => {
                let build = build.ok_or_else(nothing_begun)?;
                self.take_in(ground, window, build, Piece { file, offset, bytes })
            }
        }
    }

    fn begin(&mut self, target: Target) -> Result<BuildReply, Refusal> {
        let reader = Reader::new(target.kernel_bytes);
        Ok(self.read_on(target, reader))
    }

    /// Keeps a build until its next piece comes.
    fn wait(&mut self, build: Build) -> BuildReply {
        let Piece { file, offset, bytes } = build.piece;
        self.build = Some(build);
        BuildReply::Want { file, offset, bytes }
    }

    fn take_in(
        &mut self,
        ground: &mut impl Ground,
        window: &impl Window,
        build: Build,
        there: Piece,
    ) -> Result<BuildReply, Refusal> {
        let Build { target, stage, piece } = build;
        if there != piece {
            return Err(target.refuse(
                Code::WrongPiece,
                "piece",
                &format!("{there:?} came in place of {piece:?}"),
                "send the piece that was asked for, or begin the build again",
            ));
        }
        let failed = |failure| target.failed(failure);
        let mut loading = match stage {
            Stage::Kernel(reader) => {
                let taken = reader.take_in(&bytes_of(window, piece.bytes));
                let kernel = match taken.map_err(|error| target.failed(error.into()))? {
                    Progress::More(reader) => return Ok(self.read_on(target, reader)),
                    Progress::Done(kernel) => kernel,
                };
                let loading = target.lay_out(ground, kernel).map_err(failed)?;
                return self.go_on(ground, target, Box::new(loading));
            }
            Stage::Files(loading) => loading,
        };
        loading.load(ground, window, target.partition, piece).map_err(failed)?;
        self.go_on(ground, target, loading)
    }

    /// Asks for the next range that the reader of the kernel needs.
    fn read_on(&mut self, target: Target, reader: Reader) -> BuildReply {
        let Range { start, end } = reader.wants();
        let piece = Piece { file: File::Kernel, offset: start, bytes: end - start };
        self.wait(Build { target, stage: Stage::Kernel(Box::new(reader)), piece })
    }

    /// Asks for the next piece, or ends the build if all are loaded.
    fn go_on(
        &mut self,
        ground: &mut impl Ground,
        target: Target,
        mut loading: Box<Loading>,
    ) -> Result<BuildReply, Refusal> {
        if let Some(piece) = loading.next() {
            return Ok(self.wait(Build { target, stage: Stage::Files(loading), piece }));
        }
        loading.finish(ground, target.partition).map_err(|failure| target.failed(failure))?;
        Ok(BuildReply::Built {
            pages: loading.pages,
            console_port: loading.ports.console,
            console_grant: pv_abi::xen::grants::RESERVED_CONSOLE,
        })
    }
}

impl Target {
    /// Checks the client's request against the database.
    fn of(ground: &mut impl Ground, request: BuildRequest) -> Result<Self, Refusal> {
        let BuildRequest::Begin {
            partition,
            kernel_bytes,
            initrd_bytes,
            command_line,
            memory_target,
            ..
        } = request
        else {
            return Err(nothing_begun());
        };
        let unknown = format!("partition {partition}");
        let found = ground.descriptor(partition);
        let found = found.map_err(|failure| failed(&unknown, failure))?.ok_or_else(|| {
            let way_out = "create it first";
            refusal(Code::NoSuchPartition, &unknown, "number", "there is none", way_out)
        })?;
        let target = Self {
            partition,
            object: format!("partition \"{}\"", name_of(&found)),
            kernel_bytes,
            initrd_bytes,
            command_line,
            memory_target,
            instance: found.instance_first
                ..found.instance_first.saturating_add(found.instance_frames),
            memory_frames: found.memory_frames,
        };
        target.check(&found)?;
        Ok(target)
    }

    fn check(&self, found: &PartitionDescriptor) -> Result<(), Refusal> {
        let refuse =
            |code, field, reason: &str, way_out| Err(self.refuse(code, field, reason, way_out));
        if found.owner != COMMAND || found.kind != kind::GUEST {
            let way_out = "name a guest that the command partition created";
            return refuse(Code::NotOwner, "owner", "it is not a guest of the client", way_out);
        }
        if found.state != state::BUILDING {
            let reason = format!("{}, building is needed", found.state);
            return refuse(Code::WrongState, "state", &reason, "destroy it and create it anew");
        }
        if found.console_port != 0 || found.store_port != 0 || found.page_table != 0 {
            let reason = "a build of it was begun before, and its memory is not empty any more";
            return refuse(Code::WrongState, "memory", reason, "destroy it and create it anew");
        }
        if self.memory_target == 0 || self.memory_target > self.memory_frames {
            let reason = format!(
                "{} frames, 1 to the {} frames it has are possible",
                self.memory_target, self.memory_frames
            );
            return refuse(Code::OutOfRange, "memory_target", &reason, "assign it more memory");
        }
        if self.command_line.len() > MAX_COMMAND_LINE || self.command_line.contains('\0') {
            let reason = format!(
                "{} bytes, at most {MAX_COMMAND_LINE} and no zero fit",
                self.command_line.len()
            );
            return refuse(Code::OutOfRange, "command_line", &reason, "shorten it");
        }
        if self.kernel_bytes == 0 {
            return refuse(
                Code::NoKernel,
                "kernel",
                "it is empty",
                "give an ELF image of a kernel",
            );
        }
        Ok(())
    }

    /// Lays the kernel out, and writes all that is known before the files arrive.
    fn lay_out(&self, ground: &mut impl Ground, kernel: Kernel) -> Result<Loading, Failure> {
        let ranges = ground.ranges(self.partition)?;
        let memory = Memory::new(ranges.into_iter().flat_map(|range| self.without_instance(range)));
        if memory.frames() != self.memory_frames {
            return Err(Failure::Answer("reading a partition's memory"));
        }
        let (memory, idle) = memory.split(self.memory_target);
        let mut plan = Plan::new(kernel, memory, self.initrd_bytes, &self.command_line)?;
        let ports = ground.connect(self.partition, &plan, self.memory_target)?;
        plan.parameters = Parameters {
            shared_info: crate::command::shared_info(self.instance.start),
            console_port: ports.console,
            store_port: ports.store,
        };
        for (pfn, extent) in plan.memory().extents() {
            ground.place(self.partition, pfn, extent)?;
        }
        let parts = plan.parts().collect();
        Ok(Loading { plan, parts, idle, ports, pages: 0 })
    }

    /// The part of a range that is not in the monitor instance.
    fn without_instance(&self, range: Extent) -> impl Iterator<Item = Extent> + use<> {
        let (first, end) = (range.first, range.first.saturating_add(range.frames));
        let Range { start: from, end: to } = self.instance.clone();
        let before = first..end.min(from.max(first));
        let after = first.max(to.min(end))..end;
        [before, after]
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(|part| Extent { first: part.start, frames: part.end - part.start })
    }

    fn refuse(&self, code: Code, field: &str, reason: &str, way_out: &str) -> Refusal {
        refusal(code, &self.object, field, reason, way_out)
    }

    fn failed(&self, failure: Failure) -> Refusal {
        failed(&self.object, failure)
    }
}

impl Loading {
    /// The next piece to ask for.
    fn next(&mut self) -> Option<Piece> {
        let (file, range) = self.parts.front()?;
        let end = range.start.saturating_add(PIECE);
        let end = if end < range.end { end / PAGE * PAGE } else { range.end };
        let file = match file {
            builder::File::Kernel => File::Kernel,
            builder::File::Initrd => File::Initrd,
        };
        Some(Piece { file, offset: range.start, bytes: end - range.start })
    }

    /// Writes the piece in the window, which is the next one.
    fn load(
        &mut self,
        ground: &mut impl Ground,
        window: &impl Window,
        partition: u32,
        piece: Piece,
    ) -> Result<(), Failure> {
        let Some((file, range)) = self.parts.front_mut() else {
            return Ok(());
        };
        let length = usize::try_from(piece.bytes).unwrap_or(0);
        let places: Vec<Place> = self.plan.places(*file, piece.offset, length).collect();
        range.start += piece.bytes;
        if range.is_empty() {
            self.parts.pop_front();
        }
        let frames = frames(&self.plan, places.iter().map(|place| place.pfn))?;
        self.pages += frames.len() as u64;
        ground.write(partition, &frames, &mut |index, page| {
            if let Some(place) = places.get(index)
                && let Some(part) = page.get_mut(place.at..place.at + place.bytes.len())
            {
                window.copy(place.bytes.start, part);
            }
        })
    }

    /// Writes the pages without file contents, and sets the start state.
    fn finish(&mut self, ground: &mut impl Ground, partition: u32) -> Result<(), Failure> {
        let plan = &self.plan;
        let pages: Vec<u64> = plan.pages().collect();
        for chunk in pages.chunks(CHUNK) {
            let frames = frames(plan, chunk.iter().copied())?;
            ground.write(partition, &frames, &mut |index, page| {
                if let Some(&pfn) = chunk.get(index) {
                    plan.fill(pfn, page);
                }
            })?;
        }
        self.pages += pages.len() as u64;
        for &extent in &self.idle {
            ground.leave_idle(partition, extent)?;
        }
        ground.set_start(partition, plan)
    }
}

/// Machine frames behind pages of a plan.
fn frames(plan: &Plan, pfns: impl Iterator<Item = u64>) -> Result<Vec<u64>, Failure> {
    pfns.map(|pfn| plan.memory().machine_frame(pfn))
        .collect::<Option<_>>()
        .ok_or(Failure::Answer("laying a kernel out"))
}

fn bytes_of(window: &impl Window, bytes: u64) -> Vec<u8> {
    let mut piece = alloc::vec![0; usize::try_from(bytes).unwrap_or(0)];
    window.copy(0, &mut piece);
    piece
}

/// The name in a descriptor, as text.
fn name_of(descriptor: &PartitionDescriptor) -> String {
    let name = descriptor.name.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// The refusal that tells the client of a failure.
fn failed(object: &str, failure: Failure) -> Refusal {
    let (code, field) = match failure {
        Failure::Refused(_, refusal) => return *refusal,
        Failure::Plan(PlanError::Layout(LayoutError::Memory(..))) => (Code::NoMemory, "memory"),
        Failure::Plan(PlanError::CommandLine(_)) => (Code::OutOfRange, "command_line"),
        Failure::Plan(PlanError::Layout(_)) => (Code::InvalidValue, "kernel"),
        Failure::Plan(PlanError::Kernel(_)) => (Code::NoKernel, "kernel"),
        Failure::Monitor(..) => (Code::MonitorRefused, "memory"),
        _ => (Code::Failed, "build"),
    };
    let (reason, way_out) = failure.of_guest();
    refusal(code, object, field, &reason, way_out)
}

fn nothing_begun() -> Refusal {
    let way_out = "begin a build first";
    refusal(Code::WrongPiece, "build channel", "piece", "no build is under way", way_out)
}

/// The refusal if the heap of this partition has no room.
pub fn no_memory() -> Refusal {
    refusal(
        Code::NoMemory,
        "build channel",
        "heap",
        "the boot partition has no memory for this piece",
        "build a kernel with fewer notes, or a partition with fewer ranges of memory",
    )
}

/// The refusal of a frame that contains no message of this protocol.
pub fn not_understood() -> Refusal {
    refusal(
        Code::NotUnderstood,
        "build channel",
        "message",
        "the frame holds no message of the build channel's protocol; a build that was under way is \
         given up",
        "use a client of the host's version",
    )
}

fn refusal(code: Code, object: &str, field: &str, reason: &str, way_out: &str) -> Refusal {
    Refusal {
        code,
        operation: None,
        object: object.to_string(),
        field: field.to_string(),
        reason: reason.to_string(),
        way_out: way_out.to_string(),
    }
    .bounded()
}

#[cfg(test)]
#[path = "guest_tests.rs"]
mod tests;
