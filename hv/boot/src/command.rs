//! Builds and starts the command partition, by transactions alone.
//!
//! Until the last transaction everything is pending: if this partition fails on the way, the
//! ultravisor rolls it all back, and the next run begins anew.

use crate::failure::Failure;
use crate::link::Link;
use crate::options::Options;
use crate::ramdisk;
use crate::sizing::{GRANT_FRAMES, Sizes};
use crate::state_disk;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use builder::{Extent, File, Image, Kernel, Memory, Page, Parameters, Place, Plan};
use control::command::{Operation, Outcome, Target};
use partition_runtime::building::{Foreign, set_machine_to_physical};
use partition_runtime::partition::{Module, module_named};
use partition_runtime::{log, time};
use pv_abi::PAGE_SIZE;
use pv_abi::uv::database::{
    COMMAND, COMMAND_CPU_WEIGHT, INSTANCE_SHARED_INFO, ULTRAVISOR, channel_kind, kind, rights,
    state,
};
use pv_abi::xen::grants::{RESERVED_CONSOLE, RESERVED_STORE};

/// Bytes of a file that are loaded at a time.
const STEP: usize = 2 << 20;

/// Makes sure that the command partition runs.
///
/// # Errors
/// See [`Failure`].
pub fn provide(link: &mut Link, foreign: &mut Foreign) -> Result<(), Failure> {
    let there = link.descriptor(COMMAND)?;
    match there.map(|descriptor| descriptor.state) {
        Some(state::RUNNING | state::PAUSED) => {
            log!("the command partition is there");
            return Ok(());
        }
        Some(_) => {
            let partition = Target::Number(COMMAND);
            let operations = vec![Operation::DestroyPartition { partition }];
            link.finish("destroying what is left of the command partition", operations)?;
        }
        None => {}
    }
    build(link, foreign)
}

/// The parts that the command partition is made of.
struct Parts {
    kernel: &'static [u8],
    command_line: &'static str,
    initrd: &'static [u8],
    options: Options,
}

impl Parts {
    fn find() -> Result<Self, Failure> {
        let options = options()?;
        let kernel = module("command-kernel")?;
        let initrd = module("command-initrd")?.bytes;
        ramdisk::check(initrd).map_err(Failure::Ramdisk)?;
        // The kernel is decompressed when the host's image is made, so that no boot pays for it.
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

/// The options of this partition.
///
/// # Errors
/// [`Failure::Option`].
pub fn options() -> Result<Options, Failure> {
    let line = module_named("boot").map_or("", |module| module.options);
    Options::parse(line).map_err(Failure::Option)
}

fn module(name: &'static str) -> Result<Module, Failure> {
    module_named(name).ok_or(Failure::NoModule(name))
}

/// Milliseconds since the system time `begin`.
fn since(begin: u64) -> u64 {
    time::now().saturating_sub(begin) / 1_000_000
}

fn build(link: &mut Link, foreign: &mut Foreign) -> Result<(), Failure> {
    let begin = time::now();
    let parts = Parts::find()?;
    let kernel = Kernel::parse(parts.kernel)?;
    let initrd_bytes = parts.initrd.len() as u64;
    let needed = Plan::frames_needed(&kernel, initrd_bytes)?;
    let sizes = Sizes::choose(parts.options, &link.resources()?, needed)?;
    log!("command partition: {} MiB, {} virtual CPUs", sizes.frames / 256, sizes.vcpus);
    let weight = parts.options.command_weight.unwrap_or(COMMAND_CPU_WEIGHT);
    let instance = create(link, sizes, weight)?;
    let memory = assign(link, sizes.frames)?;
    let line = state_disk::command_line(parts.command_line, parts.options.state);
    let mut plan = Plan::new(kernel, memory, initrd_bytes, &line)?;
    plan.parameters = connect(link, &plan, instance)?;
    let filling = time::now();
    for (pfn, extent) in plan.memory().extents() {
        set_machine_to_physical(COMMAND, extent.first, pfn, extent.frames)
            .map_err(|errno| Failure::Monitor("setting the machine-to-physical table", errno))?;
    }
    let pages = fill(foreign, &plan, [parts.kernel, parts.initrd])?;
    log!("command partition: {pages} pages written in {} ms", since(filling));
    start(link, &plan)?;
    log!("command partition started, {} ms after the first look at it", since(begin));
    Ok(())
}

/// Creates the partition. Returns the first frame of its monitor instance.
fn create(link: &mut Link, sizes: Sizes, cpu_weight: u32) -> Result<u64, Failure> {
    const WHAT: &str = "creating the command partition";
    let create = Operation::CreatePartition {
        number: Some(COMMAND),
        kind: kind::COMMAND,
        rights: rights::HOST_POWER,
        name: "command".to_string(),
        vcpus: sizes.vcpus,
        cpu_weight,
        cpu_cap: 0,
        cpu_affinity: Vec::new(),
        cpu_dedicated: false,
        grant_frames: GRANT_FRAMES,
    };
    match link.prepare(WHAT, vec![create])?[..] {
        [Outcome::Partition(COMMAND)] => {}
        _ => return Err(Failure::Answer(WHAT)),
    }
    let descriptor = link.descriptor(COMMAND)?.ok_or(Failure::Answer(WHAT))?;
    Ok(descriptor.instance_first)
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
fn connect(link: &mut Link, plan: &Plan, instance: u64) -> Result<Parameters, Failure> {
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
            let shared_info = shared_info(instance);
            Ok(Parameters { shared_info, console_port, store_port })
        }
        _ => Err(Failure::Answer(WHAT)),
    }
}

/// Writes the kernel, the RAM disk and the plan's own pages. Returns the number of pages.
fn fill(foreign: &mut Foreign, plan: &Plan, files: [&[u8]; 2]) -> Result<usize, Failure> {
    let mut written = 0;
    for (file, range) in plan.parts() {
        let contents = files[file as usize];
        for offset in range.clone().step_by(STEP) {
            let length = usize::try_from(range.end - offset).map_or(STEP, |rest| rest.min(STEP));
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let piece = contents.get(start..).and_then(|rest| rest.get(..length));
            written += load(foreign, plan, (file, offset), piece.unwrap_or_default())?;
        }
    }
    let pages: Vec<u64> = plan.pages().collect();
    write(foreign, plan, &pages, |index, page| plan.fill(pages[index], page))?;
    Ok(written + pages.len())
}

/// Writes a piece of a file. Returns the number of pages written. Pages of zeros are skipped, since
/// they are zero already.
fn load(
    foreign: &mut Foreign,
    plan: &Plan,
    (file, offset): (File, u64),
    piece: &[u8],
) -> Result<usize, Failure> {
    let bytes = |place: &Place| piece.get(place.bytes.clone()).unwrap_or_default();
    let places = plan.places(file, offset, piece.len());
    let places: Vec<Place> = places.filter(|place| has_content(bytes(place))).collect();
    let pfns: Vec<u64> = places.iter().map(|place| place.pfn).collect();
    write(foreign, plan, &pfns, |index, page| {
        let (place, bytes) = (&places[index], bytes(&places[index]));
        if let Some(part) = page.get_mut(place.at..place.at + bytes.len()) {
            part.copy_from_slice(bytes);
        }
    })?;
    Ok(pfns.len())
}

fn write(
    foreign: &mut Foreign,
    plan: &Plan,
    pfns: &[u64],
    each: impl FnMut(usize, &mut Page),
) -> Result<(), Failure> {
    let frames = pfns.iter().filter_map(|&pfn| plan.memory().machine_frame(pfn));
    let frames: Vec<u64> = frames.collect();
    foreign
        .write(COMMAND, &frames, each)
        .map_err(|errno| Failure::Monitor("mapping memory of the command partition", errno))
}

/// Returns whether any byte is not zero. Compares eight at a time, since most of a kernel's file
/// may be zeros.
fn has_content(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks();
    words.iter().any(|word| u64::from_ne_bytes(*word) != 0) || rest.iter().any(|&byte| byte != 0)
}

/// Sets the start state, and starts the partition.
fn start(link: &mut Link, plan: &Plan) -> Result<(), Failure> {
    let partition = Target::Number(COMMAND);
    let start = plan.start_state();
    let operations = vec![
        Operation::SetStart { partition, start },
        Operation::SetState { partition, state: state::RUNNING },
    ];
    link.finish("starting the command partition", operations)
}

/// Machine address of the shared info of a partition whose monitor instance begins with this
/// frame.
pub const fn shared_info(instance: u64) -> u64 {
    (instance + INSTANCE_SHARED_INFO) * PAGE_SIZE as u64
}
