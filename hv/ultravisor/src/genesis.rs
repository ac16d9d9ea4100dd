//! From the start block to a running host: makes the database, and starts the boot partition.
//!
//! The database is written whole before the monitor reads any of it. A restarted ultravisor finds
//! the database and takes it over instead.
//!
//! Rule: the database describes the monitor's memory and devices as the monitor reported them; only
//! names and shares are chosen here.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use core::sync::atomic::AtomicU32;

use control::command::{IssuesAnswer, PROTOCOL, VersionAnswer};
use partition_runtime::window::Window;
use partition_runtime::{StartBlock, log, partition, time};
use pv_abi::uv::calls;
use pv_abi::uv::channel::{BOOT_COMMAND_GRANT, COMMAND_PAGES, FIRST_CLIENT_PORT, SERVER_PORTS};
use pv_abi::uv::database::{
    ARENA_VERSION, BOOT, ChannelEntry, FIRMWARE, INSTANCE_FIXED_FRAMES, INSTANCE_VCPU_FRAMES,
    MONITOR, PartitionDescriptor, SYSTEM_CPU_WEIGHT, ULTRAVISOR, channel_kind, kind, rights, state,
};
use pv_abi::uv::start::{CPU_ONLINE, MachineCpu, region_use};
use resource_db::{Database, Owner};
use transaction::{Action, Engine, Facts, Limits, Monitor};
use zerocopy::{FromBytes, FromZeros};

use crate::devices::{CONSOLE_LINE, HARNESS_LINE};
use crate::host::Host;
use crate::issues;
use crate::lead::Lead;
use crate::machine::Description;
use crate::services::Services;
use crate::watch;

/// Entry of the channel table for the boot partition's command channel.
const BOOT_CHANNEL: u32 = 0;

/// Makes a host that is ready to serve. Starts the boot partition if the database is new.
///
/// # Errors
/// Something is missing or was refused; the text says what.
pub fn host(start: &'static StartBlock) -> Result<Host, String> {
    let options = read_options()?;
    let description = Description::parse(partition::machine_bytes())?;
    let arena = partition::take_arena().ok_or("the start block names no arena")?;
    let words: &'static [AtomicU32] =
        <[AtomicU32]>::mut_from_bytes(arena).map_err(|_| "the arena is not aligned to pages")?;
    let window = Window::take().ok_or("the start block names no window")?;
    let functions = description.pci;
    let mut services = Services::new(window, options.command_console, functions)?;
    services.io_silence = options.io_silence;
    let issues = issues::judge(&description, options.accepts_meltdown);
    let meltdown = !issues.guests_start;
    let cpus = description.machine.cpus;
    let limits = Limits { cpus, ranges: ranges(), meltdown, gpt: false, functions };
    let known = if start.restarts > 0 { Database::open(words).ok() } else { None };
    let first = known.is_none();
    let engine = match known {
        Some(database) => {
            let mut lead = Lead { services: &mut services, until: 0 };
            let recovered = Engine::recover(database, limits, &mut lead, time::now());
            let (engine, undone) = recovered.map_err(|error| format!("database: {error:?}"))?;
            log!("restart {}, {undone} transactions undone", start.restarts);
            engine
        }
        None => fill(words, &description, start, limits)
            .map_err(|error| format!("arena of {} pages: {error:?}", start.arena_pages))?,
    };
    let mut host = Host::new(words, engine, facts(&description, issues), services);
    if first {
        enforce(&mut host).map_err(|(action, errno)| {
            format!("the monitor refuses {action:?} of the first database: errno {errno}")
        })?;
    }
    // If the last ultravisor left a transaction open, that is undone first.
    if !host.engine.is_busy() {
        host.attach_channels();
    }
    if first {
        perform(&mut host, Action::Start(BOOT))
            .map_err(|(_, errno)| format!("the boot partition does not start: errno {errno}"))?;
    }
    Ok(host)
}

/// The options on the ultravisor's module line.
struct Options {
    /// The serial line of the command partition's console.
    command_console: u32,
    /// Whether guests may run on a CPU with Meltdown.
    accepts_meltdown: bool,
    /// Milliseconds of silence after which an I/O partition is given up; 0 for never.
    io_silence: u32,
}

/// Reads the options on the ultravisor's module line.
fn read_options() -> Result<Options, String> {
    let words = partition::module_named("ultravisor").map_or("", |module| module.options);
    let (command_console, io_silence) = (CONSOLE_LINE, watch::LIMIT);
    let mut options = Options { command_console, accepts_meltdown: false, io_silence };
    for word in words.split_ascii_whitespace() {
        let line = word.strip_prefix("command_console=").and_then(|line| line.parse().ok());
        let silence = word.strip_prefix("io_silence=").and_then(|limit| limit.parse().ok());
        let silence = silence.filter(|limit| *limit == 0 || watch::LIMITS.contains(limit));
        match line {
            Some(line @ (CONSOLE_LINE | HARNESS_LINE)) => options.command_console = line,
            _ if silence.is_some() => options.io_silence = silence.unwrap_or_default(),
            _ if word == "accept=meltdown" => options.accepts_meltdown = true,
            _ if word.strip_prefix("inject=").is_some_and(crate::inject::set) => {}
            _ => {
                let valid = "accept=meltdown, command_console=0 or 1, the serial line of the \
                     command partition's console, io_silence=0 or 100 to 60000, the milliseconds \
                     of silence after which an I/O partition is given up, and for tests \
                     inject=refuse:N, inject=sweep, inject=take and inject=drop";
                return Err(format!("unknown option {word:?}; there are {valid}"));
            }
        }
    }
    Ok(options)
}

/// Maximum number of ranges of memory that the database keeps: the index of them takes at most a
/// twelfth of the heap.
fn ranges() -> u32 {
    /// Bytes of the heap for each range, with the margin.
    const BYTES: u64 = 512;
    u32::try_from(partition_runtime::heap::usage().bytes / BYTES).unwrap_or(u32::MAX)
}

/// Writes the first database and its log's first record.
fn fill(
    words: &'static [AtomicU32],
    description: &Description,
    start: &StartBlock,
    limits: Limits,
) -> Result<Engine<'static>, resource_db::WriteError> {
    let devices = u32::try_from(limits.functions.len()).unwrap_or(u32::MAX);
    let mut database = Database::create(words, description.machine.frames, devices)?;
    database.set_boot(time::boot_identity())?;
    for region in description.regions {
        let owner = Owner { number: region.owner, io: region.usage == region_use::IO };
        database.set_owner(region.first, region.frames, owner)?;
    }
    for (number, name) in
        [(ULTRAVISOR, "ultravisor"), (BOOT, "boot"), (MONITOR, "monitor"), (FIRMWARE, "firmware")]
    {
        database.write_descriptor(&descriptor(number, name, description, start))?;
    }
    if let Some(entry) = boot_channel(description) {
        database.write_channel(BOOT_CHANNEL, &entry)?;
    }
    let (regions, cpus) = (description.regions.len(), description.cpus.len());
    let what = format!(
        "genesis: {} frames in {regions} regions, {cpus} CPUs, {} PCI functions",
        description.machine.frames,
        limits.functions.len(),
    );
    log!("{what}");
    Engine::genesis(database, limits, time::now(), &what)
}

/// The descriptor of a partition that the monitor made.
fn descriptor(
    number: u32,
    name: &str,
    description: &Description,
    start: &StartBlock,
) -> Box<PartitionDescriptor> {
    let mut descriptor = Box::new(PartitionDescriptor::new_zeroed());
    descriptor.number = number;
    for (to, from) in descriptor.name.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    descriptor.memory_frames = description.memory_frames(number);
    (descriptor.owner, descriptor.created_at) = (ULTRAVISOR, 1);
    descriptor.state = state::PAUSED;
    let Some(instance) = description.region(number, region_use::INSTANCE) else {
        return descriptor;
    };
    (descriptor.instance_first, descriptor.instance_frames) = (instance.first, instance.frames);
    (descriptor.vcpus, descriptor.cpu_weight) = (1, SYSTEM_CPU_WEIGHT);
    let fixed = u64::from(INSTANCE_FIXED_FRAMES + INSTANCE_VCPU_FRAMES);
    let grants = instance.frames.saturating_sub(fixed) / 2;
    descriptor.grant_frames = u32::try_from(grants).unwrap_or(0);
    for cpu in description.cpus {
        if let Some(word) = descriptor.cpu_affinity.get_mut(cpu.index as usize / 64) {
            *word |= 1 << (cpu.index % 64);
        }
    }
    descriptor.cpu_allowed = descriptor.cpu_affinity;
    (descriptor.memory_target, descriptor.vcpus_online) =
        (descriptor.memory_frames, descriptor.vcpus);
    descriptor.state = state::RUNNING;
    if number == ULTRAVISOR {
        descriptor.kind = kind::ULTRAVISOR;
        descriptor.rights = rights::LEAD | rights::SERIAL;
        descriptor.grant_frames = u32::try_from(start.grant_frames).unwrap_or(0);
    } else {
        (descriptor.kind, descriptor.rights) = (kind::BOOT, rights::BUILD);
    }
    descriptor
}

/// The boot partition's command channel, in the last pages of its memory.
fn boot_channel(description: &Description) -> Option<ChannelEntry> {
    let memory = description.last_region(BOOT, region_use::RAM)?;
    let mut entry = ChannelEntry::new_zeroed();
    entry.kind = channel_kind::COMMAND;
    (entry.a, entry.port_a, entry.grant_a) = (BOOT, FIRST_CLIENT_PORT, BOOT_COMMAND_GRANT);
    (entry.b, entry.port_b) = (ULTRAVISOR, SERVER_PORTS + BOOT_CHANNEL);
    entry.frames = COMMAND_PAGES as u32;
    entry.frame = (memory.first + memory.frames).checked_sub(COMMAND_PAGES as u64)?;
    Some(entry)
}

fn perform(host: &mut Host, action: Action) -> Result<(), (Action, i32)> {
    Lead { services: &mut host.services, until: 0 }.perform(action).map_err(|errno| (action, errno))
}

/// Makes the monitor enforce all of the first database.
fn enforce(host: &mut Host) -> Result<(), (Action, i32)> {
    perform(host, Action::Partition(ULTRAVISOR))?;
    perform(host, Action::Partition(BOOT))?;
    let frames = host.engine.database().reader().frames();
    perform(host, Action::Pages { first: 0, frames })?;
    perform(host, Action::Channel(BOOT_CHANNEL))
}

fn facts(description: &Description, issues: IssuesAnswer) -> Facts {
    let cpu = |c: &MachineCpu| (c.index, c.apic_id, c.flags & CPU_ONLINE != 0);
    Facts {
        version: VersionAnswer {
            ultravisor: env!("CARGO_PKG_VERSION").to_string(),
            protocol: PROTOCOL,
            abi: calls::VERSION,
            arena: ARENA_VERSION,
            xen: crate::lead::xen_version(),
            command_line: description.command_line(),
        },
        firmware: description.firmware(),
        cpus: description.cpus.iter().map(cpu).collect(),
        issues,
    }
}
