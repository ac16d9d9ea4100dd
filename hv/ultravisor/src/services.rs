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
    /// Channel table entries that are served, and the partition of each; both ways.
    attached: BTreeMap<u32, u32>,
    attached_of: BTreeSet<(u32, u32)>,
    /// The ports of consoles and stores by partition.
    ports: BTreeSet<(u32, Port)>,
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
            attached_of: BTreeSet::new(),
            ports: BTreeSet::new(),
        })
    }

    /// Serves a channel, where it is not served yet.
    pub fn attach(&mut self, index: u32, entry: &ChannelEntry, client: &PartitionDescriptor) {
        if self.attached.contains_key(&index) {
            return;
        }
        if entry.b != ULTRAVISOR {
            if entry.b == COMMAND && entry.kind == channel_kind::BUILD {
                self.note_channel(index, entry.a);
                crate::devices::set_build_channel(self, entry);
            }
            return;
        }
        self.note_channel(index, entry.a);
        let references: Vec<u32> = (entry.grant_a..).take(entry.frames as usize).collect();
        let ring = match grants::map(&mut self.window, entry.a as u16, &references) {
            Ok(ring) => ring,
            Err(error) => {
                log!("channel {index} of partition {}: {error}", entry.a);
                self.forget_channel(index);
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
                self.ports.insert((partition, port));
            }
            channel_kind::STORE => {
                let broken = false;
                let line = StoreClient { partition, ring, port, broken };
                line.announce();
                self.stores.insert(port, line);
                self.ports.insert((partition, port));
                self.store.connect(partition, client.kind == kind::COMMAND);
                crate::homes::introduce(self, client);
                crate::devices::introduce(self, client);
            }
            _ => grants::unmap(&mut self.window, ring),
        }
    }

    /// Sends store clients what they got to read, as far as their rings have room. Their requests, and
    /// what found no room, wait for their own turns.
    pub fn flush_stores(&mut self) {
        crate::devices::follow(self);
        for partition in self.store.take_readers() {
            for port in self.ports_of(partition) {
                if let Some(client) = self.stores.get_mut(&port) {
                    client.deliver(&mut self.store);
                }
            }
        }
    }

    /// The ports of a partition's consoles and stores.
    fn ports_of(&self, partition: u32) -> Vec<Port> {
        let of = self.ports.range((partition, Port(0))..=(partition, Port(u32::MAX)));
        of.map(|&(_, port)| port).collect()
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
        for port in self.ports_of(partition) {
            self.ports.remove(&(partition, port));
            let console = self.consoles.remove(&port).map(|console| console.ring);
            let store = self.stores.remove(&port).map(|client| client.ring);
            for ring in console.into_iter().chain(store) {
                let _ = events::close(port);
                grants::unmap(&mut self.window, ring);
            }
        }
        let of = self.attached_of.range((partition, 0)..=(partition, u32::MAX));
        for (_, index) in of.copied().collect::<Vec<_>>() {
            self.forget_channel(index);
        }
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

    /// Forgets a channel that is not in the table any more.
    pub fn forget_channel(&mut self, index: u32) {
        if let Some(partition) = self.attached.remove(&index) {
            self.attached_of.remove(&(partition, index));
        }
    }

    fn note_channel(&mut self, index: u32, partition: u32) {
        self.attached.insert(index, partition);
        self.attached_of.insert((partition, index));
    }
}
