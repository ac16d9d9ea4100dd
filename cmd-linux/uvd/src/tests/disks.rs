//! Disks of partitions: in definitions, while the partitions run, and undone.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::AtomicU32;

use control::command::{
    Answer, Body, DiskLimits, DiskNumber, DiskRow, DiskState, Extent, Medium, Operation, PROTOCOL,
    Query, Request, Target, Transaction,
};
use definition::{Definition, Disk, Function};
use futures_executor::LocalPool;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pv_abi::uv::database::{FIRST_GUEST, kind};
use resource_db::PAGE_WORDS;
use transaction::Engine;
use uvd_protocol::{Answered, Definitions, Failure, Planned, Service, ServiceAnswer, Told};

use super::host::{Client, Host, Obedient, definition, genesis, kernel_file};
use super::lifecycle::{answer, defined, destroy, no_differences, refusal};
use super::{host, samples};
use crate::context::Context;
use crate::link::Carried;
use crate::service::session;
use crate::state::{Edit, Record};

fn disk(letter: char, slot: u32) -> Disk {
    Disk {
        device: DiskNumber::of_letter(letter).unwrap().0,
        function: Function::Address(slot << 3),
        partition: None,
        extents: Vec::new(),
        read_only: false,
        shared: false,
    }
}

fn with_disks(kernel: &Path, disks: &[Disk]) -> Definition {
    Definition { disks: disks.to_vec(), ..definition("web", kernel) }
}

fn apply(client: &mut Client, definition: &Definition) -> Told {
    let definitions = Definitions::from([definition.clone()]);
    client.ask(Service::Apply {
        definitions,
        prune: false,
        planned_at: None,
        reason: "disks".into(),
    })
}

/// The disks that the ultravisor has attached: the device and the medium.
fn disks(client: &mut Client) -> Vec<(String, Medium)> {
    let told = client.ask_ultravisor(Body::Query(Query::Disks { first: 0 }));
    let Ok(Answered::Ultravisor { answer: Answer::Disks { rows, more: false }, .. }) = told.result
    else {
        panic!("{told:?}")
    };
    let attached = |row: &DiskRow| row.status.state != DiskState::Detaching;
    let row = |row: DiskRow| (DiskNumber(row.device).to_string(), row.medium);
    rows.into_iter().filter(attached).map(row).collect()
}

fn devices(definition: &Definition) -> Vec<String> {
    definition.disks.iter().map(|disk| DiskNumber(disk.device).to_string()).collect()
}

#[test]
fn disks_come_with_the_partition_and_change_while_it_runs() {
    let kernel = kernel_file("disks.elf", 100);
    let host = Host::new("disks");
    let mut client = host.client();
    let one = with_disks(&kernel, &[disk('a', 4)]);
    answer(apply(&mut client, &one));
    let first = ("xvda".to_string(), Medium::Disk { function: 0 });
    assert_eq!(disks(&mut client), std::slice::from_ref(&first));
    // A disk more is attached by an apply, and one less is detached.
    let piece = definition::DiskExtent { start: 34, sectors: 8 };
    let second = Disk { extents: vec![piece], ..disk('b', 5) };
    let two = with_disks(&kernel, &[disk('a', 4), second]);
    let ServiceAnswer::Changes { changes, .. } = answer(apply(&mut client, &two)) else { panic!() };
    assert!(matches!(&changes[..], [Planned::Change { fields, .. }] if fields[0].field == "disk"));
    let piece = Extent { function: 1, start: 34, sectors: 8 };
    let extents = ("xvdb".to_string(), Medium::Extents(vec![piece]));
    assert_eq!(disks(&mut client), [first.clone(), extents]);
    // An undo detaches the disk, and the definition follows.
    assert!(client.undo().result.is_ok());
    assert_eq!(disks(&mut client), std::slice::from_ref(&first));
    answer(client.ask(Service::Log { most: 1 }));
    assert_eq!(devices(&defined(&mut client)[0].definition), ["xvda"]);
    answer(apply(&mut client, &with_disks(&kernel, &[])));
    assert_eq!(disks(&mut client), []);
    no_differences(&mut client);
    // A device gets another disk only with a restart.
    answer(apply(&mut client, &one));
    let other = with_disks(&kernel, &[disk('a', 5)]);
    let told = refusal(apply(&mut client, &other));
    assert!(
        told.contains("disk: is xvda on 0000:00:04.0, should be xvda on 0000:00:05.0"),
        "{told}"
    );
    answer(destroy(&mut client, "web", false));
    answer(apply(&mut client, &other));
    assert_eq!(disks(&mut client), [("xvda".into(), Medium::Disk { function: 1 })]);
    answer(destroy(&mut client, "web", true));
    assert_eq!(disks(&mut client), []);
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn a_disk_is_attached_by_itself_together_with_its_definition() {
    let kernel = kernel_file("attach.elf", 100);
    let host = Host::new("attach");
    let mut client = host.client();
    answer(apply(&mut client, &with_disks(&kernel, &[])));
    let attach = |disk: &Disk| Service::AttachDisk { name: "web".into(), disk: disk.clone() };
    let detach = |letter| Service::DetachDisk {
        name: "web".into(),
        device: DiskNumber::of_letter(letter).unwrap().0,
    };
    answer(client.ask(attach(&disk('a', 4))));
    assert_eq!(devices(&defined(&mut client)[0].definition), ["xvda"]);
    assert_eq!(disks(&mut client).len(), 1);
    // What is refused changes neither.
    for (wrong, says) in [
        (disk('a', 5), "xvda of partition \"web\": device: the partition has such a disk"),
        (disk('b', 4), "medium: xvda of partition \"web\""),
        (
            disk('b', 9),
            "xvdb of partition \"web\": function: the machine has no PCI function 0000:00:09.0",
        ),
        (Disk { partition: Some(200), ..disk('b', 5) }, "partition: 200 is more than 128"),
        (
            Disk { partition: Some(2), ..disk('b', 5) },
            ": partition: GPT partitions of a disk are not served yet; attach the whole disk",
        ),
        (Disk { device: 3, ..disk('b', 5) }, "device: 3 is not a whole disk"),
    ] {
        let told = refusal(client.ask(attach(&wrong)));
        assert!(told.contains(says), "{told}");
        assert_eq!(devices(&defined(&mut client)[0].definition), ["xvda"]);
        assert_eq!(disks(&mut client).len(), 1);
    }
    let told = refusal(client.ask(detach('b')));
    assert!(told.contains("no such disk; see `uvtool disk list web`"), "{told}");
    answer(client.ask(detach('a')));
    assert_eq!(
        (disks(&mut client), devices(&defined(&mut client)[0].definition)),
        (vec![], vec![])
    );
    // A partition that does not run has its disk from the next start on.
    answer(destroy(&mut client, "web", false));
    answer(client.ask(attach(&disk('c', 5))));
    assert_eq!(disks(&mut client), []);
    answer(client.ask(Service::Start { name: "web".into() }));
    assert_eq!(disks(&mut client), [("xvdc".into(), Medium::Disk { function: 1 })]);
    // A partition without a definition has disks, too.
    let command = Service::AttachDisk { name: "command".into(), disk: disk('a', 4) };
    answer(client.ask(command));
    assert_eq!(disks(&mut client).len(), 2);
    let told =
        refusal(client.ask(Service::AttachDisk { name: "nobody".into(), disk: disk('a', 4) }));
    assert!(told.contains("no such partition"), "{told}");
    host.end();
    std::fs::remove_file(kernel).unwrap();
}

#[test]
fn a_plan_refuses_the_disk_that_an_apply_would_refuse() {
    let kernel = kernel_file("refused.elf", 100);
    let host = Host::new("refused-disk");
    let mut client = host.client();
    let wrong = with_disks(&kernel, &[disk('a', 4), disk('b', 4)]);
    let plan = Service::Plan { definitions: Definitions::from([wrong.clone()]), prune: false };
    let told = refusal(client.ask(plan));
    assert!(told.contains("medium") && told.contains("some of its sectors"), "{told}");
    assert_eq!(refusal(apply(&mut client, &wrong)), told);
    assert!(defined(&mut client).is_empty() && disks(&mut client).is_empty());
    assert_eq!(host.end().guests, [""; 0]);
    std::fs::remove_file(kernel).unwrap();
}

/// An ultravisor whose channel the test carries.
struct Ultravisor<'w> {
    engine: Engine<'w>,
    monitor: Obedient,
    next: u64,
}

impl Ultravisor<'_> {
    fn apply(&mut self, operation: Operation) {
        self.next += 1;
        let operations = vec![operation];
        let (planned_at, pending, reason) = (None, false, "test".into());
        let transaction = Transaction { planned_at, pending, reason, operations };
        let body = Body::Transaction(transaction);
        let request = Request { protocol: PROTOCOL, id: self.next, body };
        let reply = host::answer(&mut self.engine, &mut self.monitor, self.next, &request);
        assert!(reply.result.is_ok(), "{reply:?}");
    }

    fn attach(&mut self, letter: char, function: u32) {
        self.apply(Operation::AttachDisk {
            partition: WEB,
            device: DiskNumber::of_letter(letter).unwrap().0,
            medium: Medium::Disk { function },
            read_only: false,
            shared: false,
            limits: DiskLimits::default(),
        });
    }

    /// Lets the daemon take over all records.
    fn is_followed(&mut self, pool: &mut LocalPool, context: &Rc<Context>) {
        let (following, followed) = (Rc::clone(context), Rc::new(Cell::new(false)));
        let is_followed = Rc::clone(&followed);
        context.jobs.spawn(async move {
            is_followed.set(session::follow(&following).await.is_ok());
        });
        self.answer_until(pool, context, || followed.get());
        assert!(followed.get());
    }

    /// Answers requests until something holds, or the daemon waits for a time. Returns the requests.
    fn answer_until(
        &mut self,
        pool: &mut LocalPool,
        context: &Context,
        holds: impl Fn() -> bool,
    ) -> Vec<Body> {
        let mut all = Vec::new();
        loop {
            pool.run_until_stalled();
            let asked = context.requests.outgoing();
            if asked.is_empty() && (holds() || context.timers.deadline().is_some()) {
                return all;
            }
            if asked.is_empty() {
                // A kernel is being loaded.
                let mut fds = [PollFd::new(context.loader.wake().fd(), PollFlags::POLLIN)];
                let came = poll(&mut fds, PollTimeout::from(20_000u16)).unwrap();
                assert_ne!(came, 0, "nothing happens");
                context.loader.wake().take();
            }
            for asked in asked {
                all.push(asked.body.clone());
                let request = Request { protocol: PROTOCOL, id: asked.id, body: asked.body };
                let reply = host::answer(&mut self.engine, &mut self.monitor, 1, &request);
                let version = reply.version;
                let answer = |answer| postcard::to_allocvec(&answer).unwrap();
                let result = reply.result.map(|one| Carried { version, answer: answer(one) });
                let result = result.map_err(|refusal| Failure::Refused(refusal.into()));
                context.requests.answered(asked.id, result);
            }
        }
    }

    fn create(&mut self, name: &str) {
        self.apply(Operation::CreatePartition {
            number: Some(FIRST_GUEST),
            kind: kind::GUEST,
            rights: 0,
            name: name.into(),
            vcpus: 1,
            cpu_weight: 256,
            cpu_cap: 0,
            cpu_affinity: vec![],
            cpu_dedicated: false,
            grant_frames: 4,
        });
    }

    fn detach(&mut self, letter: char) {
        let device = DiskNumber::of_letter(letter).unwrap().0;
        self.apply(Operation::DetachDisk { partition: WEB, device });
    }
}

/// The first guest.
const WEB: Target = Target::Number(FIRST_GUEST);

#[test]
fn a_definition_follows_all_records_and_not_the_first_page_of_them() {
    let mut pool = LocalPool::new();
    let context = super::context(&pool);
    context.requests.open_session();
    let words: Vec<AtomicU32> = (0..256 * PAGE_WORDS).map(|_| AtomicU32::new(0)).collect();
    let (engine, monitor, next) = (genesis(&words), Obedient::default(), 0);
    let mut ultravisor = Ultravisor { engine, monitor, next };
    ultravisor.create("web");
    ultravisor.attach('a', 0);
    let define = |disks: &[Disk]| {
        let definition = Definition { disks: disks.to_vec(), ..samples::definition("web") };
        context.state.borrow_mut().edit(&[Edit::Put(Record::new(definition, false))]);
    };
    let has = || devices(&context.state.borrow().records()["web"].definition);
    // A copy of the database, which is made anew, tells of disks that were detached before.
    define(&[disk('a', 4), disk('c', 5)]);
    ultravisor.is_followed(&mut pool, &context);
    assert_eq!(has(), ["xvda"]);
    // The attach comes in a later page of records than another change of the partition.
    define(&[disk('a', 4), disk('b', 5)]);
    let set_weight = |weight| Operation::SetCpu {
        partition: WEB,
        weight: Some(weight),
        cap: None,
        affinity: None,
        dedicated: None,
    };
    for weight in 300..400 {
        ultravisor.apply(set_weight(weight));
    }
    ultravisor.attach('b', 1);
    ultravisor.is_followed(&mut pool, &context);
    assert_eq!(has(), ["xvda", "xvdb"]);
    ultravisor.detach('a');
    ultravisor.is_followed(&mut pool, &context);
    assert_eq!(has(), ["xvdb"]);
}
