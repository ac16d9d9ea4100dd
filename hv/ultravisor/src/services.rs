//! The services for partitions: by port, and by partition.
//!
//! Rule: everything that this partition has mapped of another is in one of these tables, so that
//! [`Services::detach`] finds all of it.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use budget::{Budget, Limits};
use control::io::Report;
use partition_runtime::events::{self, Port};
use partition_runtime::grants::{self, Mapping};
use partition_runtime::log;
use partition_runtime::window::Window;
use pv_abi::uv::database::{
    COMMAND, ChannelEntry, PartitionDescriptor, ULTRAVISOR, channel_kind, kind,
};
use pv_abi::uv::devices::DeviceFunction;
use pv_abi::xen::events::{VIRQ_CONSOLE, VIRQ_DOM_EXC};
use resource_db::Reader;
use store::Store;

use crate::command::CommandChannel;
use crate::console::Console;
use crate::devices::Devices;
use crate::disks::{Disks, Records};
use crate::homes::Homes;
use crate::io::IoPartition;
use crate::stores::StoreClient;

/// The share of a CPU that this partition may spend on guests.
pub const SERVICE: Limits = Limits { rate: 6, burst: 2_000_000, turn: 200_000, switches: 8_000 };

/// Maximum number of bytes that the store may keep for all its clients together: half of the heap.
fn store_budget() -> usize {
    usize::try_from(partition_runtime::heap::usage().bytes / 2).unwrap_or(usize::MAX)
}

/// A function, the I/O partition that reported about it, and whether that has let go of it, or why it
/// does not drive it.
pub type Left = (u32, u32, Result<(), String>);

/// All services.
pub struct Services {
    /// Where grants are mapped.
    pub window: Window,
    /// The store.
    pub store: Store,
    /// The time spent on clients.
    pub budget: Budget,
    /// The port that signals input on a serial line.
    pub serial_port: Port,
    /// The port that signals an event that the monitor caused by itself.
    pub monitor_port: Port,
    /// Command channels.
    pub commands: BTreeMap<Port, CommandChannel>,
    /// Console rings.
    pub consoles: BTreeMap<Port, Console>,
    /// Store rings.
    pub stores: BTreeMap<Port, StoreClient>,
    /// The functions of the machine, by index.
    functions: &'static [DeviceFunction],
    /// I/O channels.
    pub io: BTreeMap<Port, IoPartition>,
    /// Milliseconds of silence after which an I/O partition is given up; 0 for never.
    pub io_silence: u32,
    /// Devices negotiated through the store.
    pub devices: Devices,
    /// The disks of partitions.
    pub disks: Disks,
    /// The homes of partitions in the store.
    pub homes: Homes,
    /// The serial line of the command partition's console.
    pub command_console: u32,
    /// The channel table entries that are served, with the partition of each; and the reverse.
    attached: BTreeMap<u32, u32>,
    attached_of: BTreeSet<(u32, u32)>,
    /// The ports of consoles, stores and I/O channels by partition.
    ports: BTreeSet<(u32, Port)>,
}

impl Services {
    /// Makes the services, with none attached yet, and binds the monitor's ports.
    ///
    /// # Errors
    /// The monitor does not bind a port; the text names the virtual interrupt.
    pub fn new(
        window: Window,
        command_console: u32,
        functions: &'static [DeviceFunction],
    ) -> Result<Self, String> {
        let bind = |virq| {
            events::bind_virq(virq).map_err(|error| format!("virtual interrupt {virq}: {error}"))
        };
        Ok(Self {
            window,
            command_console,
            functions,
            store: Store::new(ULTRAVISOR, store_budget()),
            budget: Budget::new(SERVICE),
            serial_port: bind(VIRQ_CONSOLE)?,
            monitor_port: bind(VIRQ_DOM_EXC)?,
            commands: BTreeMap::new(),
            consoles: BTreeMap::new(),
            stores: BTreeMap::new(),
            io: BTreeMap::new(),
            io_silence: crate::watch::LIMIT,
            devices: Devices::default(),
            disks: Disks::default(),
            homes: Homes::default(),
            attached: BTreeMap::new(),
            attached_of: BTreeSet::new(),
            ports: BTreeSet::new(),
        })
    }

    /// Serves a channel, unless it is served already.
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
        // Unmasking a port that is not masked has no effect.
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
            // Only the boot partition's channel, so that the pages that are never unmapped are
            // bounded.
            channel_kind::COMMAND if client.kind == kind::BOOT => {
                // The pages of a command channel stay mapped as long as this partition runs.
                let ring: &'static Mapping = Box::leak(Box::new(ring));
                let channel = CommandChannel::of_client(partition, ring.words(), port);
                self.commands.insert(port, channel);
            }
            channel_kind::IO if client.kind == kind::IO => {
                self.io.insert(port, IoPartition::new(partition, ring, port));
                self.ports.insert((partition, port));
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

    /// Sends replies and events to store clients, as far as their rings have room. Their requests,
    /// and the rest of the replies, wait for the clients' own turns.
    pub fn flush_stores(&mut self) {
        crate::devices::follow(self);
        self.send_orders();
        for partition in self.store.take_readers() {
            for port in self.ports_of(partition) {
                if let Some(client) = self.stores.get_mut(&port) {
                    client.deliver(&mut self.store);
                }
            }
        }
    }

    /// The ports of a partition's consoles, stores and I/O channels.
    fn ports_of(&self, partition: u32) -> Vec<Port> {
        let of = self.ports.range((partition, Port(0))..=(partition, Port(u32::MAX)));
        of.map(|&(_, port)| port).collect()
    }

    /// The partition served at a port.
    pub fn client_at(&self, port: Port) -> Option<u32> {
        let store = self.stores.get(&port).map(|client| client.partition);
        let console = || self.consoles.get(&port).map(|console| console.partition);
        let command = || self.commands.get(&port).map(|channel| channel.client);
        let io = || self.io.get(&port).map(|io| io.partition);
        store.or_else(console).or_else(command).or_else(io)
    }

    /// Unmaps everything that this partition has mapped of another, closes this end of the channels
    /// to it, and drops its data in the store.
    pub fn detach(&mut self, partition: u32) {
        crate::devices::forget(self, partition);
        crate::homes::forget(self, partition);
        self.disks.ended(partition);
        for port in self.ports_of(partition) {
            self.ports.remove(&(partition, port));
            let console = self.consoles.remove(&port).map(|console| console.ring);
            let store = self.stores.remove(&port).map(|client| client.ring);
            let io = self.io.remove(&port).map(|io| io.ring);
            for ring in console.into_iter().chain(store).chain(io) {
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

    /// Updates the store from the database, for these partitions.
    pub fn follow_database(&mut self, reader: &Reader<'_>, partitions: &BTreeSet<u32>) {
        crate::homes::follow(self, reader, partitions);
        for &number in partitions {
            if let Ok(descriptor) = reader.descriptor(number) {
                self.budget.set_weight(number, descriptor.cpu_weight);
            }
        }
        self.order_functions(reader);
        self.flush_stores();
    }

    /// Orders each I/O partition to drive the functions that the database gives to it.
    pub fn order_functions(&mut self, reader: &Reader<'_>) {
        for io in self.io.values_mut() {
            let partition = io.partition;
            let entry = |index| reader.device(index).ok().filter(|entry| entry.owner == partition);
            let stays = |index| entry(index).is_some_and(|entry| entry.next[0] == 0);
            let leaves = |index: &u32| entry(*index).is_some_and(|entry| entry.next[0] != 0);
            let functions = (0..).zip(self.functions);
            let leaving = functions.clone().map(|(index, _)| index).filter(leaves).collect();
            io.order_functions(functions.filter(|(index, _)| stays(*index)), leaving);
        }
    }

    /// Updates the disks from the database, whose endpoint table has changed in these entries.
    pub fn follow_disks(&mut self, changed: BTreeSet<u32>, records: &impl Records) {
        self.disks.follow(&mut self.store, changed, records);
        self.flush_stores();
    }

    /// Orders the attaches of disks again that were refused.
    pub fn attach_again(&mut self) {
        self.disks.attach_again(&mut self.store);
        self.flush_stores();
    }

    /// Handles the reports that were read from an I/O partition. Returns those about functions that
    /// it let go of, or that it does not drive, with the reason.
    pub fn handle_reports(&mut self, port: Port, records: &impl Records) -> Vec<Left> {
        let mut left = Vec::new();
        let Some(io) = self.io.get_mut(&port) else {
            return left;
        };
        for report in io.take_reports() {
            match &report {
                Report::Left { index } => left.push((*index, io.partition, Ok(()))),
                Report::Failed { index, reason } => {
                    left.push((*index, io.partition, Err(reason.clone())));
                }
                _ => {}
            }
            self.disks.hear(&mut self.store, io.partition, report, records);
        }
        self.flush_stores();
        left
    }

    /// Sends the orders about disks. The orders for an I/O partition that no longer exists stay
    /// valid, and its successor gets them.
    fn send_orders(&mut self) {
        for (member, order) in self.disks.take_orders() {
            if let Some(io) = self.io.values_mut().find(|io| io.partition == member) {
                io.order(order);
            }
        }
    }

    /// Drops a channel that is no longer in the table.
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
