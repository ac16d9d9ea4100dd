//! What is served to partitions: by port, and by partition.
//!
//! Rule: what is mapped of a partition is in one of these tables, so that [`Services::detach`]
//! finds all of it.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use budget::{Budget, Limits};
use partition_runtime::events::{self, Port};
use partition_runtime::grants::{self, Mapping};
use partition_runtime::log;
use partition_runtime::window::Window;
use pv_abi::uv::database::{
    COMMAND, ChannelEntry, PartitionDescriptor, ULTRAVISOR, channel_kind, kind,
};
use pv_abi::xen::events::{VIRQ_CONSOLE, VIRQ_DOM_EXC};
use resource_db::Reader;
use store::Store;

use crate::command::CommandChannel;
use crate::console::Console;
use crate::devices::Devices;
use crate::homes::Homes;
use crate::stores::StoreClient;

/// What guests have of a CPU for what this partition does for them.
pub const SERVICE: Limits = Limits { rate: 6, burst: 2_000_000, turn: 200_000, switches: 8_000 };

/// What the store may keep for all its clients together: half of the heap.
fn store_budget() -> usize {
    usize::try_from(partition_runtime::heap::usage().bytes / 2).unwrap_or(usize::MAX)
}

/// Everything that is served.
pub struct Services {
    /// Where grants are mapped.
    pub window: Window,
    /// The store.
    pub store: Store,
    /// The time that is spent on clients.
    pub budget: Budget,
    /// Input on a serial line.
    pub serial_port: Port,
    /// The monitor did something by itself.
    pub monitor_port: Port,
    /// Command channels.
    pub commands: BTreeMap<Port, CommandChannel>,
    /// Console rings.
    pub consoles: BTreeMap<Port, Console>,
    /// Store rings.
    pub stores: BTreeMap<Port, StoreClient>,
    /// Devices negotiated through the store.
    pub devices: Devices,
    /// The homes of partitions in the store.
    pub homes: Homes,
    /// The serial line of the command partition's console.
    pub command_console: u32,
    /// Channel table entries that are served, and the partition of each.
    attached: BTreeMap<u32, u32>,
}

impl Services {
    /// Nothing is served yet; the ports of the monitor are bound.
    ///
    /// # Errors
    /// A port that the monitor does not bind.
    pub fn new(window: Window, command_console: u32) -> Result<Self, String> {
        let bind = |virq| {
            events::bind_virq(virq).map_err(|error| format!("virtual interrupt {virq}: {error}"))
        };
        Ok(Self {
            window,
            command_console,
            store: Store::new(ULTRAVISOR, store_budget()),
            budget: Budget::new(SERVICE),
            serial_port: bind(VIRQ_CONSOLE)?,
            monitor_port: bind(VIRQ_DOM_EXC)?,
            commands: BTreeMap::new(),
            consoles: BTreeMap::new(),
            stores: BTreeMap::new(),
            devices: Devices::default(),
            homes: Homes::default(),
            attached: BTreeMap::new(),
        })
    }

    /// Serves a channel, where it is not served yet.
    pub fn attach(&mut self, index: u32, entry: &ChannelEntry, client: &PartitionDescriptor) {
        if self.attached.contains_key(&index) {
            return;
        }
        if entry.b != ULTRAVISOR {
            if entry.b == COMMAND && entry.kind == channel_kind::BUILD {
                self.attached.insert(index, entry.a);
                crate::devices::set_build_channel(self, entry);
            }
            return;
        }
        self.attached.insert(index, entry.a);
        let references: Vec<u32> = (entry.grant_a..).take(entry.frames as usize).collect();
        let ring = match grants::map(&mut self.window, entry.a as u16, &references) {
            Ok(ring) => ring,
            Err(error) => {
                log!("channel {index} of partition {}: {error}", entry.a);
                self.attached.remove(&index);
                return;
            }
        };
        self.budget.set_weight(client.number, client.cpu_weight);
        let port = Port(entry.port_b);
        // A port that was never masked is refused nothing by this.
        let _ = events::unmask(port);
        self.serve(entry, port, ring, client);
    }

    fn serve(
        &mut self,
        entry: &ChannelEntry,
        port: Port,
        ring: Mapping,
        client: &PartitionDescriptor,
    ) {
        let partition = entry.a;
        match entry.kind {
            // Only the boot partition's, so that what is never unmapped is bounded.
            channel_kind::COMMAND if client.kind == kind::BOOT => {
                // The pages of a command channel stay mapped as long as this partition runs.
                let ring: &'static Mapping = Box::leak(Box::new(ring));
                let channel = CommandChannel::of_client(partition, ring.words(), port);
                self.commands.insert(port, channel);
            }
            channel_kind::CONSOLE => {
                let serial = (partition == COMMAND).then_some(self.command_console);
                self.consoles.insert(port, Console { partition, ring, port, serial });
            }
            channel_kind::STORE => {
                let broken = false;
                let line = StoreClient { partition, ring, port, broken };
                line.announce();
                self.stores.insert(port, line);
                self.store.connect(partition, client.kind == kind::COMMAND);
                crate::homes::introduce(self, client);
                crate::devices::introduce(self, client);
            }
            _ => grants::unmap(&mut self.window, ring),
        }
    }

    /// Sends every store client what it has to read, as far as its ring has room. Their requests
    /// wait for their own turns.
    pub fn flush_stores(&mut self) {
        crate::devices::follow(self);
        for client in self.stores.values_mut() {
            if !self.store.output(client.partition).is_empty() {
                client.deliver(&mut self.store);
            }
        }
    }

    /// The partition that is served at a port.
    pub fn client_at(&self, port: Port) -> Option<u32> {
        let store = self.stores.get(&port).map(|client| client.partition);
        let console = || self.consoles.get(&port).map(|console| console.partition);
        let command = || self.commands.get(&port).map(|channel| channel.client);
        store.or_else(console).or_else(command)
    }

    /// Unmaps all that is mapped of a partition, closes this end of its channels, and forgets what
    /// it wrote into the store.
    pub fn detach(&mut self, partition: u32) {
        crate::devices::forget(self, partition);
        crate::homes::forget(self, partition);
        let of = |_: &Port, console: &mut Console| console.partition == partition;
        for (_, console) in self.consoles.extract_if(.., of).collect::<Vec<_>>() {
            let _ = events::close(console.port);
            grants::unmap(&mut self.window, console.ring);
        }
        let of = |_: &Port, client: &mut StoreClient| client.partition == partition;
        for (_, client) in self.stores.extract_if(.., of).collect::<Vec<_>>() {
            let _ = events::close(client.port);
            grants::unmap(&mut self.window, client.ring);
        }
        self.attached.retain(|_, client| *client != partition);
        self.store.disconnect(partition);
        self.store.purge(partition);
        self.budget.forget(partition);
    }

    /// Has the store say what the database says of these partitions now.
    pub fn follow_database(&mut self, reader: &Reader<'_>, partitions: &BTreeSet<u32>) {
        crate::homes::follow(self, reader, partitions);
        for &number in partitions {
            if let Ok(descriptor) = reader.descriptor(number) {
                self.budget.set_weight(number, descriptor.cpu_weight);
            }
        }
        self.flush_stores();
    }

    /// Forgets channels that are not in the table any more.
    pub fn keep_attached(&mut self, present: impl Fn(u32) -> bool) {
        self.attached.retain(|&index, _| present(index));
    }
}
