//! Building and starting the command partition, by transactions alone.
//!
//! Until the last transaction everything is pending: should this partition fail on the way, the
//! ultravisor takes it all back, and the next run begins anew.

use crate::failure::Failure;
use crate::link::Link;
use crate::options::Options;
use crate::ramdisk;
use crate::sizing::{GRANT_FRAMES, Sizes};
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use builder::{Extent, Image, Memory, Parameters, Plan};
use partition_runtime::building::{Foreign, set_machine_to_physical};
use partition_runtime::partition::{Module, module_named};
use partition_runtime::window::Window;
use partition_runtime::{StartBlock, log, time};
use pv_abi::PAGE_SIZE;
use pv_abi::uv::command::{Operation, Outcome, Start, Target};
use pv_abi::uv::database::{COMMAND, ULTRAVISOR, channel_kind, kind, rights, state};
use pv_abi::xen::grants::{RESERVED_CONSOLE, RESERVED_STORE};

/// Where a partition's shared info is: this many frames into its monitor instance.
const SHARED_INFO_FRAME: u64 = 1;
/// Frames mapped at a time.
const CHUNK: usize = 2048;

/// Makes sure that the command partition runs.
///
/// # Errors
/// See [`Failure`].
pub fn provide(start: &'static StartBlock) -> Result<Link, Failure> {
    let mut link = Link::open(start)?;
    let there = link.partition(COMMAND)?;
    match there.map(|row| row.state) {
        Some(state::RUNNING | state::PAUSED) => {
            log!("the command partition is there");
            return Ok(link);
        }
        Some(_) => {
            let partition = Target::Number(COMMAND);
            let operations = vec![Operation::DestroyPartition { partition }];
            link.finish("destroying what is left of the command partition", operations)?;
        }
        None => {}
    }
    build(&mut link)?;
    Ok(link)
}

/// What the command partition is made of.
struct Parts {
    kernel: &'static [u8],
    command_line: &'static str,
    initrd: &'static [u8],
    options: Options,
}

impl Parts {
    fn find() -> Result<Self, Failure> {
        let line = module_named("boot").map_or("", |module| module.options);
        let options = Options::parse(line).map_err(Failure::Option)?;
        let kernel = module("command-kernel")?;
        let initrd = module("command-initrd")?.bytes;
        ramdisk::check(initrd).map_err(Failure::Ramdisk)?;
        // The image is unpacked once, when the host's image is made, so that no boot pays for it.
        let image = Image::identify(kernel.bytes).map_err(Failure::KernelImage)?;
        let bytes = match image {
            Image::Elf(bytes) => bytes,
            Image::BzImage(payload) if payload.compression == builder::Compression::None => {
                payload.bytes
            }
            Image::BzImage(payload) => {
                let error = builder::ImageError::Compressed(payload.compression);
                return Err(Failure::KernelImage(error));
            }
        };
        Ok(Self { kernel: bytes, command_line: kernel.options, initrd, options })
    }
}

fn module(name: &'static str) -> Result<Module, Failure> {
    module_named(name).ok_or(Failure::NoModule(name))
}

/// Milliseconds since a system time.
fn since(begin: u64) -> u64 {
    time::now().saturating_sub(begin) / 1_000_000
}

fn build(link: &mut Link) -> Result<(), Failure> {
    let begin = time::now();
    let parts = Parts::find()?;
    let needed = Plan::frames_needed(parts.kernel, parts.initrd.len() as u64)?;
    let sizes = Sizes::choose(parts.options, &link.resources()?, needed)?;
    log!("command partition: {} MiB, {} virtual CPUs", sizes.frames / 256, sizes.vcpus);
    let instance = create(link, sizes)?;
    let memory = assign(link, sizes.frames)?;
    let initrd_bytes = parts.initrd.len() as u64;
    let mut plan = Plan::new(parts.kernel, memory, initrd_bytes, parts.command_line)?;
    plan.parameters = connect(link, &plan, instance)?;
    let filling = time::now();
    for (pfn, extent) in plan.memory().extents() {
        set_machine_to_physical(COMMAND, extent.first, pfn, extent.frames)
            .map_err(|errno| Failure::Monitor("setting the machine-to-physical table", errno))?;
    }
    let pages = fill(&plan, parts.initrd)?;
    log!("command partition: {pages} pages written in {} ms", since(filling));
    start(link, &plan)?;
    log!("command partition started, {} ms after the first look at it", since(begin));
    Ok(())
}

/// Creates the partition; returns the first frame of its monitor instance, which is the only
/// memory it has then.
fn create(link: &mut Link, sizes: Sizes) -> Result<u64, Failure> {
    const WHAT: &str = "creating the command partition";
    let create = Operation::CreatePartition {
        number: Some(COMMAND),
        kind: kind::COMMAND,
        rights: rights::HOST_POWER,
        name: "command".to_string(),
        vcpus: sizes.vcpus,
        cpu_weight: 256,
        cpu_cap: 0,
        cpu_affinity: Vec::new(),
        cpu_dedicated: false,
        grant_frames: GRANT_FRAMES,
    };
    match link.prepare(WHAT, vec![create])?[..] {
        [Outcome::Partition(COMMAND)] => {}
        _ => return Err(Failure::Answer(WHAT)),
    }
    link.first_range(COMMAND)?.map(|row| row.first).ok_or(Failure::Answer(WHAT))
}

fn assign(link: &mut Link, frames: u64) -> Result<Memory, Failure> {
    const WHAT: &str = "assigning memory to the command partition";
    let assign = Operation::AssignMemory { partition: Target::Number(COMMAND), frames };
    let outcomes = link.prepare(WHAT, vec![assign])?;
    let [Outcome::Memory(ranges)] = &outcomes[..] else {
        return Err(Failure::Answer(WHAT));
    };
    let extents = ranges.iter().map(|range| Extent { first: range.first, frames: range.frames });
    let memory = Memory::new(extents);
    if memory.frames() == frames { Ok(memory) } else { Err(Failure::Answer(WHAT)) }
}

/// Makes the console and the store channel, whose rings are pages of the plan.
fn connect(link: &mut Link, plan: &Plan<'_>, instance: u64) -> Result<Parameters, Failure> {
    const WHAT: &str = "connecting console and store of the command partition";
    let start = plan.start_state();
    let channel = |kind, frame, grant| Operation::CreateChannel {
        partition: Target::Number(COMMAND),
        peer: ULTRAVISOR,
        kind,
        frame,
        frames: 1,
        grant,
    };
    let operations = vec![
        channel(channel_kind::CONSOLE, start.console_frame, RESERVED_CONSOLE),
        channel(channel_kind::STORE, start.store_frame, RESERVED_STORE),
    ];
    match link.prepare(WHAT, operations)?[..] {
        [
            Outcome::Channel { port: console_port, .. },
            Outcome::Channel { port: store_port, .. },
        ] => {
            let shared_info = (instance + SHARED_INFO_FRAME) * PAGE_SIZE as u64;
            Ok(Parameters { shared_info, console_port, store_port })
        }
        _ => Err(Failure::Answer(WHAT)),
    }
}

/// Writes the pages of the plan, a window at a time; returns how many.
fn fill(plan: &Plan<'_>, initrd: &[u8]) -> Result<usize, Failure> {
    let refused = |errno| Failure::Monitor("mapping memory of the command partition", errno);
    let no_window = Failure::Answer("taking the mapping window");
    let mut window = Window::take().ok_or(no_window)?;
    let mut foreign = Foreign::new(&mut window, COMMAND, CHUNK)
        .ok_or(Failure::Answer("taking pages of the mapping window"))?;
    let pages: Vec<u64> = plan.pages().collect();
    for chunk in pages.chunks(foreign.capacity()) {
        let frames = chunk.iter().filter_map(|&pfn| plan.memory().machine_frame(pfn));
        foreign.show(frames).map_err(refused)?;
        for (index, &pfn) in chunk.iter().enumerate() {
            if let Some(page) = foreign.page(index) {
                plan.fill(pfn, initrd, page);
            }
        }
    }
    foreign.release(&mut window).map_err(refused)?;
    Ok(pages.len())
}

/// Sets the start state, and lets the partition run.
fn start(link: &mut Link, plan: &Plan<'_>) -> Result<(), Failure> {
    let partition = Target::Number(COMMAND);
    let state = plan.start_state();
    let start = Start {
        entry: state.entry,
        stack: state.stack,
        start_info: state.start_info,
        page_table: state.page_table,
        console_frame: state.console_frame,
        store_frame: state.store_frame,
    };
    let operations = vec![
        Operation::SetStart { partition, start },
        Operation::SetState { partition, state: state::RUNNING },
    ];
    link.finish("starting the command partition", operations)
}
