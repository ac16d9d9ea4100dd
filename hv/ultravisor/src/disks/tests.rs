//! Disks between a database, a store and I/O partitions that are made up.

use super::journals::tests::Fake;
use super::*;
use control::io::{Extent, Medium};
use pv_abi::uv::database::{IO_A, IO_B, ULTRAVISOR};
use pv_abi::uv::endpoints::{endpoint_features, endpoint_flags, medium};
use store::Permissions;
use zerocopy::FromZeros;

const WEB: u32 = 16;
const XVDA: u32 = 51_712;
/// Functions.
const DISK: u32 = 1;
const OTHER: u32 = 2;
const SECTORS: u64 = 4096;

#[derive(Default)]
struct Facts {
    partitions: BTreeMap<u32, (u64, u32)>,
    owners: BTreeMap<u32, u32>,
    /// Who gets a function next.
    next: BTreeMap<u32, u32>,
    entries: BTreeMap<u32, Endpoint>,
}

impl Records for Facts {
    fn partition(&self, number: u32) -> Option<(u64, u32)> {
        self.partitions.get(&number).copied()
    }

    fn owner(&self, function: u32) -> u32 {
        self.owners.get(&function).copied().unwrap_or(UNASSIGNED)
    }

    fn next_owner(&self, function: u32) -> u32 {
        self.next.get(&function).copied().unwrap_or(UNASSIGNED)
    }

    fn endpoint(&self, index: u32) -> Option<Box<Endpoint>> {
        Some(Box::new(*self.entries.get(&index)?))
    }
}

struct Machine {
    disks: Disks<Fake>,
    store: Store,
    facts: Facts,
}

impl Machine {
    /// Both I/O partitions run, the first one has both functions, and a guest runs.
    fn new() -> Self {
        let mut facts = Facts::default();
        for (life, number) in [(1, IO_A), (2, IO_B), (3, WEB)] {
            facts.partitions.insert(number, (life, state::RUNNING));
        }
        facts.owners = [(DISK, IO_A), (OTHER, IO_A)].into();
        let store = Store::new(ULTRAVISOR, 8 << 20);
        let mut machine = Self { disks: Disks::new(Fake::default()), store, facts };
        machine.introduce(WEB);
        for member in [IO_A, IO_B] {
            machine.hear(member, Report::Ready { protocol: PROTOCOL, restarts: 0 });
        }
        machine
    }

    /// A machine whose guest is connected to its disk.
    fn connected() -> Self {
        let mut machine = Self::new();
        machine.attach(0, XVDA, &[(DISK, 8, 16)]);
        machine.drives(IO_A, &[DISK]);
        machine.offer();
        let [(IO_A, Order::Attach(attach))] = &machine.disks.take_orders()[..] else { panic!() };
        assert_eq!((attach.endpoint, attach.incarnation), (0, 1 << 32 | 1));
        machine.reports(IO_A, 1 << 32 | 1, EndpointReport::Attached);
        assert_eq!(machine.state(), DiskState::Attached);
        machine
    }

    fn introduce(&mut self, partition: u32) {
        let path = Path::new(&home(partition)).unwrap();
        self.store.make(&path, &Permissions::readable_by(ULTRAVISOR, partition)).unwrap();
        self.store.write(&Path::new(&format!("{}/domid", home(partition))).unwrap(), b"").unwrap();
    }

    fn hear(&mut self, member: u32, report: Report) {
        self.disks.hear(&mut self.store, member, report, &self.facts);
    }

    fn drives(&mut self, member: u32, functions: &[u32]) {
        for &index in functions {
            let medium = medium_of(SECTORS);
            self.hear(member, Report::Driving { index, medium });
        }
    }

    fn reports(&mut self, member: u32, incarnation: u64, report: EndpointReport) {
        self.hear(member, Report::Endpoint { endpoint: 0, incarnation, report });
    }

    fn follow(&mut self, changed: &[u32]) {
        self.disks.follow(&mut self.store, changed.iter().copied().collect(), &self.facts);
    }

    /// Attaches a disk of these extents; of a whole disk if there are none.
    fn attach(&mut self, index: u32, device: u32, extents: &[(u32, u64, u64)]) {
        let mut entry = Endpoint::new_zeroed();
        (entry.state, entry.client, entry.device) = (endpoint_state::ATTACHED, WEB, device);
        entry.features = endpoint_features::INDIRECT | endpoint_features::MULTI_QUEUE;
        entry.medium = if extents.is_empty() { medium::DISK } else { medium::EXTENTS };
        entry.extents = extents.len().max(1) as u32;
        entry.extent[0].function = DISK;
        for (to, from) in entry.extent.iter_mut().zip(extents) {
            (to.function, to.start, to.sectors) = *from;
        }
        self.facts.entries.insert(index, entry);
        self.follow(&[index]);
    }

    fn detach(&mut self) {
        self.facts.entries.get_mut(&0).unwrap().state = endpoint_state::DETACHING;
        self.follow(&[0]);
    }

    fn front(&mut self, node: &str, value: &str) {
        let path = Path::new(&format!("{}/device/vbd/{XVDA}/{node}", home(WEB))).unwrap();
        self.store.write(&path, value.as_bytes()).unwrap();
        if node == "state" {
            assert!(self.disks.changed(&mut self.store, &path));
        }
    }

    /// The front end offers one ring.
    fn offer(&mut self) {
        for (node, value) in [("ring-ref", "8"), ("event-channel", "5"), ("state", "3")] {
            self.front(node, value);
        }
    }

    fn back(&self, node: &str) -> Option<String> {
        let path = format!("{}/backend/vbd/{WEB}/{XVDA}/{node}", home(IO_SERVICE));
        let value = self.store.read(&Path::new(&path).unwrap())?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    fn state(&self) -> DiskState {
        self.disks.status(0).unwrap().state
    }

    fn cause(&self) -> String {
        self.disks.status(0).unwrap().cause.unwrap_or_default()
    }

    fn set_state(&mut self, partition: u32, to: u32) {
        self.facts.partitions.get_mut(&partition).unwrap().1 = to;
        self.follow(&[]);
    }
}

const fn medium_of(sectors: u64) -> Medium {
    Medium {
        sectors,
        block_bytes: 4096,
        read_only: false,
        write_cache: true,
        discard_bytes: 8192,
        queues: 2,
        interrupts: true,
    }
}

fn attach_of(orders: &[(u32, Order)]) -> (u32, Attach) {
    let [(member, Order::Attach(attach))] = orders else { panic!("{orders:?}") };
    (*member, attach.clone())
}

#[test]
fn a_disk_is_offered_once_it_is_driven_and_then_attached() {
    let mut machine = Machine::new();
    machine.attach(0, XVDA, &[]);
    assert_eq!(machine.state(), DiskState::Unserved);
    assert!(machine.cause().contains("does not drive function 1"), "{}", machine.cause());
    assert_eq!(machine.back("state"), None);
    machine.drives(IO_A, &[DISK]);
    assert_eq!(machine.back("state").as_deref(), Some("2"));
    assert_eq!(machine.back("sectors").as_deref(), Some("4096"));
    assert_eq!(machine.back("physical-sector-size").as_deref(), Some("4096"));
    assert_eq!(machine.back("feature-discard").as_deref(), Some("0"));
    let status = machine.disks.status(0).unwrap();
    let sectors = Some(SECTORS);
    let (state, server, cause) = (DiskState::Waiting, Some(IO_A), None);
    assert_eq!(status, DiskStatus { state, server, sectors, cause });

    machine.offer();
    let (member, attach) = attach_of(&machine.disks.take_orders());
    assert_eq!((member, attach.client, attach.endpoint), (IO_A, 16, 0));
    assert_eq!(attach.rings, [Ring { pages: [8].into(), port: 5, journal: 100 }]);
    assert_eq!(attach.extents, [Extent { function: DISK, start: 0, sectors: SECTORS }]);
    assert_eq!(machine.state(), DiskState::Waiting);
    // A partition that has nothing to do with the disk changes nothing.
    machine.reports(IO_B, attach.incarnation, EndpointReport::Attached);
    assert_eq!(machine.back("state").as_deref(), Some("2"));
    machine.reports(IO_A, attach.incarnation, EndpointReport::Attached);
    assert_eq!(machine.back("state").as_deref(), Some("4"));
    assert_eq!(machine.state(), DiskState::Attached);
}

#[test]
fn a_disk_waits_for_the_home_of_its_client() {
    let mut machine = Machine::new();
    machine.store.remove(&Path::new(&home(WEB)).unwrap()).unwrap();
    machine.drives(IO_A, &[DISK]);
    machine.attach(0, XVDA, &[]);
    assert_eq!(machine.back("state"), None);
    machine.introduce(WEB);
    machine.follow(&[]);
    assert_eq!(machine.back("state").as_deref(), Some("2"));
}

#[test]
fn a_successor_gets_the_same_rings_once_the_dead_server_is_gone() {
    let mut machine = Machine::connected();
    machine.set_state(IO_A, state::CRASHED);
    assert_eq!(machine.state(), DiskState::Moving);
    assert_eq!(machine.back("state").as_deref(), Some("4"));
    machine.facts.owners.insert(DISK, IO_B);
    machine.set_state(IO_A, state::DYING);
    machine.drives(IO_B, &[DISK]);
    assert!(machine.disks.take_orders().is_empty(), "the dead server may still hold pins");
    assert_eq!(machine.cause(), "partition 4, which served it, is not gone yet");
    // A late report of the dead server.
    machine.reports(IO_A, 1 << 32 | 1, EndpointReport::Broken { reason: "late".into() });
    assert_eq!(machine.state(), DiskState::Moving);

    machine.facts.partitions.remove(&IO_A);
    machine.disks.ended(IO_A);
    machine.follow(&[]);
    let (member, attach) = attach_of(&machine.disks.take_orders());
    assert_eq!((member, attach.incarnation), (IO_B, 1 << 32 | 1));
    assert_eq!(attach.rings[0].journal, 100);
    machine.reports(IO_B, attach.incarnation, EndpointReport::Attached);
    assert_eq!((machine.state(), machine.cause()), (DiskState::Attached, String::new()));
    assert_eq!(machine.disks.status(0).unwrap().server, Some(IO_B));
}

#[test]
fn a_partition_that_was_built_anew_is_another_server() {
    let mut machine = Machine::connected();
    machine.set_state(IO_A, state::CRASHED);
    machine.disks.ended(IO_A);
    // The same number, in its next life.
    machine.facts.partitions.insert(IO_A, (9, state::RUNNING));
    machine.follow(&[]);
    machine.hear(IO_A, Report::Ready { protocol: PROTOCOL, restarts: 1 });
    assert!(machine.disks.take_orders().is_empty());
    machine.drives(IO_A, &[DISK]);
    let (member, attach) = attach_of(&machine.disks.take_orders());
    assert_eq!((member, attach.incarnation), (IO_A, 1 << 32 | 1));
}

#[test]
fn rings_move_with_a_function_that_its_owner_has_let_go_of() {
    let mut machine = Machine::connected();
    machine.facts.next.insert(DISK, IO_B);
    machine.follow(&[]);
    // Until the owner has let go, it is the server.
    assert_eq!(
        (machine.state(), machine.back("state").as_deref()),
        (DiskState::Attached, Some("4"))
    );
    assert_eq!(machine.cause(), "function 1 moves to partition 5");
    machine.hear(IO_A, Report::Left { index: OTHER });
    machine.hear(IO_B, Report::Left { index: DISK });
    assert_eq!(machine.state(), DiskState::Attached);
    machine.hear(IO_A, Report::Left { index: DISK });
    assert_eq!((machine.state(), machine.back("state").as_deref()), (DiskState::Moving, Some("4")));
    assert!(machine.disks.take_orders().is_empty());
    machine.facts.owners.insert(DISK, IO_B);
    machine.facts.next.remove(&DISK);
    machine.follow(&[]);
    assert!(machine.disks.take_orders().is_empty(), "it is not driven yet");
    machine.drives(IO_B, &[DISK]);
    let (member, attach) = attach_of(&machine.disks.take_orders());
    assert_eq!((member, attach.incarnation), (IO_B, 1 << 32 | 1));
    machine.reports(IO_B, attach.incarnation, EndpointReport::Attached);
    assert_eq!((machine.state(), machine.cause()), (DiskState::Attached, String::new()));
    // The first one is another server's than before, and a function may come back to it.
    machine.set_state(IO_A, state::CRASHED);
    assert_eq!(machine.state(), DiskState::Attached);
}

#[test]
fn a_function_that_stays_after_all_gets_its_rings_again() {
    let mut machine = Machine::connected();
    machine.facts.next.insert(DISK, IO_B);
    machine.follow(&[]);
    machine.hear(IO_A, Report::Left { index: DISK });
    machine.facts.next.remove(&DISK);
    machine.follow(&[]);
    assert_eq!(machine.state(), DiskState::Moving);
    machine.drives(IO_A, &[DISK]);
    assert_eq!(attach_of(&machine.disks.take_orders()).0, IO_A);
    machine.reports(IO_A, 1 << 32 | 1, EndpointReport::Attached);
    assert_eq!(machine.state(), DiskState::Attached);
    // The life of the server counts again: its rings do not go before it does.
    machine.set_state(IO_A, state::CRASHED);
    machine.facts.owners.insert(DISK, IO_B);
    machine.set_state(IO_A, state::DYING);
    machine.drives(IO_B, &[DISK]);
    assert!(machine.disks.take_orders().is_empty());
}

#[test]
fn a_disk_that_goes_while_its_function_moves_needs_no_successor() {
    let mut machine = Machine::connected();
    machine.facts.next.insert(DISK, IO_B);
    machine.follow(&[]);
    machine.front("state", "6");
    assert_eq!(machine.disks.take_orders().len(), 1, "a detach");
    machine.hear(IO_A, Report::Left { index: DISK });
    assert_eq!(
        (machine.state(), machine.back("state").as_deref()),
        (DiskState::Waiting, Some("6"))
    );
}

#[test]
fn a_server_that_starts_again_gets_the_attach_again() {
    let mut machine = Machine::connected();
    machine.hear(IO_A, Report::Ready { protocol: PROTOCOL, restarts: 0 });
    // What was said before the start counts no more.
    machine.reports(IO_A, 1 << 32 | 1, EndpointReport::Attached);
    assert_eq!(machine.state(), DiskState::Moving);
    machine.drives(IO_A, &[DISK]);
    assert_eq!(attach_of(&machine.disks.take_orders()).0, IO_A);
    // One of another version serves nothing.
    machine.hear(IO_A, Report::Ready { protocol: PROTOCOL + 1, restarts: 0 });
    machine.drives(IO_A, &[DISK]);
    assert!(machine.disks.take_orders().is_empty());
}

#[test]
fn a_disk_is_drained_when_the_server_has_let_go() {
    let mut machine = Machine::connected();
    machine.detach();
    assert_eq!(machine.back("state").as_deref(), Some("5"));
    assert!(machine.disks.take_orders().is_empty());
    machine.front("state", "6");
    let detach = Order::Detach { endpoint: 0, incarnation: 1 << 32 | 1 };
    assert_eq!(machine.disks.take_orders(), [(IO_A, detach)]);
    assert!(!machine.disks.is_drained(0) && !machine.disks.take_gone());
    assert_eq!(machine.state(), DiskState::Detaching);
    machine.reports(IO_A, 1 << 32 | 1, EndpointReport::Detached);
    assert!(machine.disks.is_drained(0) && machine.disks.take_gone());
    assert!(!machine.disks.take_gone());
    assert_eq!(machine.back("state"), None);
    machine.follow(&[]);
    assert!(machine.disks.is_drained(0), "it does not come back by itself");
    // The next endpoint in the entry has other numbers, and its page is zero.
    machine.facts.entries.clear();
    machine.follow(&[0]);
    assert_eq!(machine.disks.status(0), None);
    machine.attach(0, XVDA, &[]);
    machine.facts.entries.get_mut(&0).unwrap().incarnation = 1;
    machine.follow(&[0]);
    machine.offer();
    assert_eq!(attach_of(&machine.disks.take_orders()).1.incarnation, 2 << 32 | 1);
}

#[test]
fn a_front_end_that_closes_gives_its_journal_page_to_others() {
    let mut machine = Machine::new();
    machine.disks.journals = Journals::new(Fake::default(), 1);
    machine.attach(0, XVDA, &[]);
    machine.drives(IO_A, &[DISK]);
    machine.offer();
    machine.disks.take_orders();
    machine.reports(IO_A, 1 << 32 | 1, EndpointReport::Attached);
    assert_eq!(machine.disks.journals.references(9, 1, 1), None);
    machine.front("state", "6");
    assert_eq!(machine.disks.journals.references(9, 1, 1), None, "the server still maps it");
    machine.reports(IO_A, 1 << 32 | 1, EndpointReport::Detached);
    assert_eq!(machine.disks.journals.references(9, 1, 1), Some([100].into()));
}

#[test]
fn a_client_that_is_destroyed_is_not_asked() {
    let mut machine = Machine::connected();
    machine.detach();
    assert!(machine.disks.take_orders().is_empty());
    machine.set_state(WEB, state::DYING);
    assert_eq!(machine.disks.take_orders().len(), 1);
    // Its server's death does not let the disk go while that may still have pins.
    machine.set_state(IO_A, state::CRASHED);
    machine.set_state(IO_A, state::DYING);
    assert!(!machine.disks.is_drained(0));
    machine.disks.ended(IO_A);
    machine.facts.partitions.remove(&IO_A);
    machine.follow(&[]);
    assert!(machine.disks.is_drained(0), "nobody is left that could let go");
    assert!(machine.disks.take_gone());
}

#[test]
fn rings_of_a_server_that_is_gone_end_without_a_successor() {
    let mut machine = Machine::connected();
    machine.disks.ended(IO_A);
    machine.facts.partitions.remove(&IO_A);
    machine.facts.owners.clear();
    machine.follow(&[]);
    assert_eq!((machine.state(), machine.back("state").as_deref()), (DiskState::Moving, Some("4")));
    // The front end closes by itself, and begins again.
    machine.front("state", "6");
    assert_eq!(machine.back("state").as_deref(), Some("6"));
    machine.front("state", "1");
    machine.offer();
    assert_eq!(machine.state(), DiskState::Waiting);
    machine.facts.owners.insert(DISK, IO_B);
    machine.drives(IO_B, &[DISK]);
    let (member, attach) = attach_of(&machine.disks.take_orders());
    assert_eq!((member, attach.incarnation), (IO_B, 1 << 32 | 2));
}

#[test]
fn a_client_of_a_function_that_failed_can_be_destroyed() {
    for report in [None, Some(EndpointReport::MediumFailed { reason: "flush".into() })] {
        let mut machine = Machine::connected();
        machine.hear(IO_A, Report::Failed { index: DISK, reason: "reset".into() });
        let status = machine.disks.status(0).unwrap();
        // The server answers the client, if only with errors.
        assert_eq!((status.state, status.server), (DiskState::Attached, Some(IO_A)));
        assert!(machine.cause().contains("does not drive function 1"), "{}", machine.cause());
        assert!(machine.disks.take_orders().is_empty());
        if let Some(report) = report {
            machine.reports(IO_A, 1 << 32 | 1, report);
            assert_eq!(machine.back("state").as_deref(), Some("5"));
        }
        machine.detach();
        machine.set_state(WEB, state::DYING);
        let detach = Order::Detach { endpoint: 0, incarnation: 1 << 32 | 1 };
        assert_eq!(machine.disks.take_orders(), [(IO_A, detach)]);
        machine.reports(IO_A, 1 << 32 | 1, EndpointReport::Detached);
        assert!(machine.disks.is_drained(0));
    }
}

#[test]
fn a_client_of_a_function_that_failed_is_told_of_its_mistake() {
    let mut machine = Machine::connected();
    machine.hear(IO_A, Report::Failed { index: DISK, reason: "reset".into() });
    machine.reports(IO_A, 1 << 32 | 1, EndpointReport::Broken { reason: "held".into() });
    assert_eq!(machine.disks.take_orders().len(), 1);
    machine.reports(IO_A, 1 << 32 | 1, EndpointReport::Detached);
    assert_eq!(machine.back("state").as_deref(), Some("6"));
    // Nothing is attached before the function is driven again.
    machine.front("state", "1");
    machine.offer();
    assert!(machine.disks.take_orders().is_empty());
    machine.drives(IO_A, &[DISK]);
    assert_eq!(attach_of(&machine.disks.take_orders()).1.incarnation, 1 << 32 | 2);
}

#[test]
fn a_disk_that_nobody_has_used_goes_at_once() {
    let mut machine = Machine::new();
    machine.attach(0, XVDA, &[]);
    assert!(machine.disks.is_drained(0), "it was never offered");
    machine.drives(IO_A, &[DISK]);
    assert!(!machine.disks.is_drained(0));
    machine.detach();
    assert!(machine.disks.is_drained(0));
    machine.drives(IO_A, &[DISK]);
    assert!(machine.disks.is_drained(0), "it is not offered again");
}

#[test]
fn another_endpoint_in_an_entry_waits_until_the_first_is_gone() {
    let mut machine = Machine::connected();
    let entry = machine.facts.entries.get_mut(&0).unwrap();
    entry.incarnation += 1;
    machine.follow(&[0]);
    assert_eq!(machine.disks.take_orders().len(), 1);
    assert_eq!(machine.state(), DiskState::Detaching);
    machine.reports(IO_A, 1 << 32 | 1, EndpointReport::Detached);
    assert_eq!(
        (machine.state(), machine.back("state").as_deref()),
        (DiskState::Waiting, Some("2"))
    );
}

#[test]
fn discards_are_offered_if_all_disks_of_an_endpoint_have_them() {
    let offered = |bytes: [u32; 2], extents: &[(u32, u64, u64)], read_only: bool, features: u32| {
        let mut machine = Machine::new();
        for (index, discard_bytes) in [DISK, OTHER].into_iter().zip(bytes) {
            machine.facts.owners.insert(index, IO_A);
            let medium = Medium { discard_bytes, ..medium_of(SECTORS) };
            machine.hear(IO_A, Report::Driving { index, medium });
        }
        let mut entry = Endpoint::new_zeroed();
        (entry.state, entry.client, entry.device) = (endpoint_state::ATTACHED, WEB, XVDA);
        (entry.features, entry.medium) = (features, medium::EXTENTS);
        entry.flags = if read_only { endpoint_flags::READ_ONLY } else { 0 };
        entry.extents = extents.len() as u32;
        for (to, from) in entry.extent.iter_mut().zip(extents) {
            (to.function, to.start, to.sectors) = *from;
        }
        machine.facts.entries.insert(0, entry);
        machine.follow(&[0]);
        ["feature-discard", "discard-granularity", "discard-alignment"]
            .map(|node| machine.back(node).and_then(|value| value.parse::<u32>().ok()))
    };
    let (one, both): (&[_], &[_]) = (&[(DISK, 20, 40)], &[(DISK, 20, 40), (OTHER, 0, 8)]);
    let bit = endpoint_features::DISCARD;
    // The first part of 8 KiB begins with sector 32.
    assert_eq!(offered([8192, 0], one, false, bit), [Some(1), Some(8192), Some(6144)]);
    assert_eq!(offered([512, 8192], both, false, bit), [Some(1), Some(8192), Some(6144)]);
    for none in [
        offered([8192, 0], both, false, bit),
        offered([0, 8192], both, false, bit),
        offered([8192, 8192], both, true, bit),
        offered([8192, 8192], both, false, 0),
    ] {
        assert_eq!(none, [Some(0), None, None]);
    }
}

#[test]
fn what_cannot_be_served_says_why() {
    let mut machine = Machine::new();
    machine.drives(IO_A, &[DISK, OTHER]);
    machine.attach(0, XVDA, &[(DISK, SECTORS - 1, 2)]);
    assert!(machine.cause().contains("ends behind the 4096 sectors"), "{}", machine.cause());
    let entry = machine.facts.entries.get_mut(&0).unwrap();
    (entry.medium, entry.partition, entry.incarnation) = (medium::PARTITION, 3, 1);
    machine.follow(&[0]);
    assert!(machine.cause().contains("partition 3 of a disk is not served yet"));
    assert_eq!(machine.state(), DiskState::Unserved);

    machine.facts.owners.insert(OTHER, IO_B);
    machine.drives(IO_B, &[OTHER]);
    machine.facts.entries.clear();
    machine.follow(&[0]);
    machine.attach(0, XVDA, &[(DISK, 0, 1), (OTHER, 0, 1)]);
    assert!(machine.cause().contains("partitions 4 and 5"), "{}", machine.cause());
    machine.facts.owners.remove(&OTHER);
    machine.follow(&[]);
    assert!(machine.cause().contains("function 2 belongs to no I/O partition"));
}

#[test]
fn a_successor_with_a_smaller_medium_serves_nothing() {
    let mut machine = Machine::connected();
    machine.disks.ended(IO_A);
    machine.facts.partitions.remove(&IO_A);
    machine.facts.owners.insert(DISK, IO_B);
    machine.follow(&[]);
    machine.hear(IO_B, Report::Driving { index: DISK, medium: medium_of(8) });
    assert_eq!(machine.state(), DiskState::Moving);
    assert!(machine.disks.take_orders().is_empty());
    assert!(machine.cause().contains("ends behind the 8 sectors"), "{}", machine.cause());
    machine.drives(IO_B, &[DISK]);
    assert_eq!(machine.disks.take_orders().len(), 1);
}

#[test]
fn without_a_journal_page_the_client_is_refused_and_may_begin_again() {
    let mut machine = Machine::new();
    machine.disks.journals = Journals::new(Fake::default(), 0);
    machine.attach(0, XVDA, &[]);
    machine.drives(IO_A, &[DISK]);
    machine.offer();
    assert!(machine.disks.take_orders().is_empty());
    assert_eq!(machine.back("state").as_deref(), Some("6"));
    assert_eq!(machine.state(), DiskState::Failed);
    assert!(machine.cause().contains("no journal page is free"), "{}", machine.cause());
    machine.disks.journals = Journals::new(Fake::default(), 1);
    machine.front("state", "1");
    machine.offer();
    assert_eq!(attach_of(&machine.disks.take_orders()).1.incarnation, 1 << 32 | 2);
}

#[test]
fn rings_in_use_that_a_successor_refuses_are_attached_again() {
    let mut machine = Machine::connected();
    machine.disks.ended(IO_A);
    machine.facts.partitions.remove(&IO_A);
    machine.facts.owners.insert(DISK, IO_B);
    machine.follow(&[]);
    machine.drives(IO_B, &[DISK]);
    let first = machine.disks.take_orders();
    machine.reports(IO_B, 1 << 32 | 1, EndpointReport::Refused { reason: "no room".into() });
    assert_eq!((machine.state(), machine.back("state").as_deref()), (DiskState::Moving, Some("4")));
    assert!(machine.cause().contains("no room"), "{}", machine.cause());
    assert!(machine.disks.has_refused());
    assert!(machine.disks.take_orders().is_empty(), "not at once, or it would have no end");
    // The ultravisor's timer, a change of the database, and room at the server.
    machine.disks.attach_again(&mut machine.store);
    assert_eq!(machine.disks.take_orders(), first);
    assert!(!machine.disks.has_refused());
    machine.reports(IO_B, 1 << 32 | 1, EndpointReport::Refused { reason: "no room".into() });
    machine.follow(&[]);
    assert_eq!(machine.disks.take_orders(), first);
    machine.reports(IO_B, 1 << 32 | 1, EndpointReport::Refused { reason: "no room".into() });
    let report = EndpointReport::Detached;
    machine.hear(IO_B, Report::Endpoint { endpoint: 9, incarnation: 1, report });
    assert_eq!(machine.disks.take_orders(), first);
    machine.reports(IO_B, 1 << 32 | 1, EndpointReport::Attached);
    assert_eq!((machine.state(), machine.cause()), (DiskState::Attached, String::new()));
}

#[test]
fn one_io_partition_has_room_for_all_rings() {
    let mut journals = Disks::new(Fake::default()).journals;
    assert!(journals.references(0, 1, JOURNAL_PAGES as usize).is_some());
    assert_eq!(journals.references(1, 1, 1), None);
}

#[test]
fn a_report_about_a_function_that_a_partition_does_not_have_is_dropped() {
    let mut machine = Machine::new();
    machine.drives(IO_B, &[DISK, 7, u32::MAX]);
    machine.drives(IO_A, &[DISK, OTHER]);
    machine.hear(IO_B, Report::Failed { index: DISK, reason: "not mine".into() });
    let has = |machine: &Machine, member| {
        [DISK, OTHER, 7, u32::MAX].map(|f| machine.disks.servers.medium(member, f).is_some())
    };
    assert_eq!(has(&machine, IO_B), [false; 4]);
    assert_eq!(has(&machine, IO_A), [true, true, false, false]);
    // Nor is anything kept of a function that was taken from it, not even for its return.
    for owner in [IO_B, IO_A] {
        machine.facts.owners.insert(DISK, owner);
        machine.follow(&[]);
    }
    assert_eq!(has(&machine, IO_A), [false, true, false, false]);
}

#[test]
fn the_reason_of_a_function_that_fails_is_shown() {
    let mut machine = Machine::new();
    machine.attach(0, XVDA, &[]);
    let reason = "no MSI-X".to_string();
    machine.hear(IO_A, Report::Failed { index: DISK, reason: reason.clone() });
    assert_eq!(machine.state(), DiskState::Unserved);
    assert!(
        machine.cause().contains("function 1: no MSI-X; restart the host"),
        "{}",
        machine.cause()
    );
    // Only as much as an answer holds.
    let long = "\u{e9}".repeat(MAX_DISK_CAUSE);
    machine.hear(IO_A, Report::Failed { index: DISK, reason: long });
    assert!(machine.disks.status(0).unwrap().cause.unwrap().len() <= MAX_DISK_CAUSE);
    machine.drives(IO_A, &[DISK]);
    assert_eq!(machine.disks.status(0).unwrap().cause, None);
    machine.hear(IO_A, Report::Failed { index: DISK, reason });
    machine.hear(IO_A, Report::Ready { protocol: PROTOCOL, restarts: 0 });
    assert!(machine.cause().contains("does not drive function 1 yet"), "{}", machine.cause());
}
