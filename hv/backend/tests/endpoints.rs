//! Endpoints in a real store, whose clients speak the protocol of the wire.

use backend::{
    Cause, Effect, Endpoint, Endpoints, Event, Features, Order, Queue, Report, ReportBody, Rings,
};
use pv_abi::uv::database::ULTRAVISOR;
use pv_abi::xen::store::{DIRECTORY, ERROR, Header, READ, RM, WATCH, WATCH_EVENT, WRITE};
use store::{Error, Path, Permissions, Store, home};
use zerocopy::{FromBytes, IntoBytes};

const ALICE: u32 = 16;
const BOB: u32 = 17;
/// The partition that the clients' grants name.
const SERVER: u32 = 4;

const FEATURES: Features = Features {
    sectors: 2048,
    sector_bytes: 512,
    physical_sector_bytes: 512,
    read_only: true,
    discard: None,
    indirect_segments: 32,
    queues: 1,
    ring_order: 0,
};

const DISK: Endpoint = Endpoint {
    number: 3,
    client: ALICE,
    device: 51712,
    server: SERVER,
    features: FEATURES,
    incarnation: 1,
};

struct Host {
    store: Store,
    endpoints: Endpoints,
    effects: Vec<(u32, Effect)>,
}

impl Host {
    fn new() -> Self {
        let mut store = Store::new(ULTRAVISOR, 8 << 20);
        for partition in [ALICE, BOB] {
            let home = Path::new(&home(partition)).unwrap();
            store.make(&home, &Permissions::readable_by(ULTRAVISOR, partition)).unwrap();
            store.connect(partition, false);
        }
        let mut host = Self { store, endpoints: Endpoints::default(), effects: Vec::new() };
        host.add(&DISK).unwrap();
        host
    }

    fn add(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        self.endpoints.add(&mut self.store, endpoint)?;
        self.event(endpoint.number, Event::Server(Some(1)));
        Ok(())
    }

    fn event(&mut self, number: u32, event: Event) {
        let effects = self.endpoints.handle(&mut self.store, number, event);
        self.effects.extend(effects.into_iter().map(|effect| (number, effect)));
    }

    fn reports(&mut self, number: u32, incarnation: u64, body: ReportBody) {
        self.event(number, Event::Report(Report { epoch: 1, incarnation, body }));
    }

    /// Sends a request of a client, reacts to what it changed, and returns what the client gets.
    fn ask(&mut self, who: u32, kind: u32, payload: &str) -> Vec<(u32, String)> {
        let len = u32::try_from(payload.len()).unwrap();
        let head = Header { kind, req_id: 1, tx_id: 0, len };
        let bytes = [head.as_bytes(), payload.as_bytes()].concat();
        assert_eq!(self.store.feed(who, &bytes), Ok(bytes.len()));
        while let Some(path) = self.store.take_change() {
            let number = self.endpoints.at(&path).expect("nothing else is observed");
            self.event(number, Event::Frontend);
        }
        let output = self.store.output(who).to_vec();
        self.store.sent(who, output.len());
        let mut rest = output.as_slice();
        let mut messages = Vec::new();
        while let Ok((head, body)) = Header::read_from_prefix(rest) {
            let (payload, next) = body.split_at(head.len as usize);
            messages.push((head.kind, String::from_utf8_lossy(payload).into_owned()));
            rest = next;
        }
        messages
    }

    fn writes(&mut self, who: u32, node: &str, value: &str) {
        let answers = self.ask(who, WRITE, &format!("{node}\0{value}"));
        assert_eq!(answers[0].0, WRITE, "{node}: {answers:?}");
    }

    fn reads(&mut self, who: u32, node: &str) -> String {
        let mut answers = self.ask(who, READ, &format!("{node}\0"));
        answers.remove(0).1
    }

    fn take(&mut self) -> Vec<(u32, Effect)> {
        std::mem::take(&mut self.effects)
    }

    fn state(&mut self, client: u32, device: u32) -> String {
        self.reads(client, &format!("/local/domain/4/backend/vbd/{client}/{device}/state"))
    }
}

fn attach(incarnation: u64, page: u32, port: u32) -> Effect {
    let rings = Rings { queues: vec![Queue { pages: vec![page], port }] };
    Effect::Order(Order::Attach { incarnation, rings, sectors: 2048 })
}

#[test]
fn a_kernel_finds_its_disk_and_connects() {
    let mut host = Host::new();
    assert_eq!(host.ask(ALICE, DIRECTORY, "device/vbd\0"), [(DIRECTORY, "51712\0".into())]);
    let front = "device/vbd/51712";
    let back = host.reads(ALICE, &format!("{front}/backend"));
    assert_eq!(back, "/local/domain/4/backend/vbd/16/51712");
    for (node, value) in [
        (format!("{front}/backend-id"), "4"),
        (format!("{front}/virtual-device"), "51712"),
        (format!("{front}/device-type"), "disk"),
        (format!("{front}/state"), "1"),
        (format!("{back}/frontend"), "/local/domain/16/device/vbd/51712"),
        (format!("{back}/frontend-id"), "16"),
        (format!("{back}/state"), "2"),
        (format!("{back}/mode"), "r"),
        (format!("{back}/info"), "4"),
        (format!("{back}/sectors"), "2048"),
    ] {
        assert_eq!(host.reads(ALICE, &node), value, "{node}");
    }
    host.ask(ALICE, WATCH, &format!("{back}/state\0token\0"));
    host.writes(ALICE, &format!("{front}/ring-ref"), "8");
    host.writes(ALICE, &format!("{front}/event-channel"), "5");
    assert_eq!(host.take(), []);
    host.writes(ALICE, &format!("{front}/state"), "3");
    assert_eq!(host.take(), [(3, attach(1, 8, 5))]);
    host.reports(3, 1, ReportBody::Attached);
    let told = host.ask(ALICE, READ, &format!("{back}/state\0"));
    assert!(told.contains(&(WATCH_EVENT, format!("{back}/state\0token\0"))), "{told:?}");
    assert!(told.contains(&(READ, "4".into())), "{told:?}");
}

#[test]
fn only_the_client_reads_the_back_end_and_nobody_writes_it() {
    let mut host = Host::new();
    let state = "/local/domain/4/backend/vbd/16/51712/state";
    for (who, kind, payload) in [
        (BOB, READ, format!("{state}\0")),
        (BOB, WRITE, "/local/domain/16/device/vbd/51712/state\x003".into()),
        (ALICE, WRITE, format!("{state}\x004")),
        (ALICE, RM, format!("{state}\0")),
        (ALICE, WRITE, "/local/domain/4/backend/vbd/16/51728/state\x004".into()),
        (ALICE, WRITE, "device/vbd/51728/state\x001".into()),
    ] {
        assert_eq!(host.ask(who, kind, &payload), [(ERROR, "EACCES\0".into())], "{payload:?}");
    }
    assert_eq!(host.state(ALICE, 51712), "2");
    assert_eq!(host.take(), []);
}

#[test]
fn disks_of_several_clients_do_not_disturb_each_other() {
    let mut host = Host::new();
    host.add(&Endpoint { number: 4, device: 51728, ..DISK }).unwrap();
    host.add(&Endpoint { number: 5, client: BOB, ..DISK }).unwrap();
    assert_eq!(host.add(&Endpoint { number: 6, ..DISK }), Err(Error::Exists));
    assert_eq!(host.add(&Endpoint { device: 51744, ..DISK }), Err(Error::Exists));
    assert_eq!(host.endpoints.of_client(ALICE).collect::<Vec<_>>(), [3, 4]);
    for (who, device, page) in [(ALICE, 51728, "9"), (BOB, 51712, "10")] {
        let front = format!("device/vbd/{device}");
        host.writes(who, &format!("{front}/ring-ref"), page);
        host.writes(who, &format!("{front}/event-channel"), "5");
        host.writes(who, &format!("{front}/state"), "3");
    }
    assert_eq!(host.take(), [(4, attach(1, 9, 5)), (5, attach(1, 10, 5))]);
    // A whole directory goes.
    host.ask(BOB, RM, "device/vbd/51712\0");
    assert_eq!(host.take(), [(5, Effect::Order(Order::Detach { incarnation: 1 }))]);
    assert_eq!(host.state(ALICE, 51712), "2");
}

#[test]
fn an_endpoint_that_is_gone_leaves_nothing() {
    let mut host = Host::new();
    let before = host.store.bytes();
    let disk = Endpoint { number: 9, client: BOB, ..DISK };
    for round in 1..4 {
        host.add(&Endpoint { incarnation: round, ..disk }).unwrap();
        host.writes(BOB, "device/vbd/51712/ring-ref", "8");
        host.writes(BOB, "device/vbd/51712/event-channel", "5");
        host.writes(BOB, "device/vbd/51712/state", "3");
        host.event(9, Event::Destroy);
        host.take();
        host.reports(9, round, ReportBody::Detached);
        assert_eq!(host.take(), [(9, Effect::Incarnation(round + 1)), (9, Effect::Gone)]);
        assert_eq!(host.endpoints.of_client(BOB).count(), 0);
        assert_eq!(host.ask(BOB, DIRECTORY, "device/vbd\0"), [(DIRECTORY, String::new())]);
        assert_eq!(host.store.nodes_of(BOB), 0);
    }
    // The directories above a client's stay.
    host.store.remove(&Path::new("/local/domain/17/device").unwrap()).unwrap();
    assert_eq!(host.store.bytes(), before);
    assert_eq!(host.endpoints.features(9), None);
}

#[test]
fn a_client_whose_budget_is_full_is_negotiated_with() {
    let mut host = Host::new();
    let full = (0..).find(|n| {
        let payload = format!("device/vbd/51712/{n}\0");
        host.ask(ALICE, WRITE, &payload) == [(ERROR, "ENOSPC\0".into())]
    });
    assert!(full.is_some());
    host.writes(ALICE, "device/vbd/51712/state", "3");
    let effects = host.take();
    assert!(matches!(&effects[..], [(3, Effect::Record(Cause::Frontend(_)))]), "{effects:?}");
    assert_eq!(host.state(ALICE, 51712), "6");
    host.writes(ALICE, "device/vbd/51712/state", "1");
    assert_eq!(host.state(ALICE, 51712), "2");
}
