//! Requests that `uvd` carries. The server's end of the command channel is on the test's thread,
//! which answers when the test says so.

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use channels::Shared;
use channels::ring::{Endpoint, RingError, Side};
use control::command::{Answer, Body, Code, Query, Refusal, Reply, Request, Transaction};
use futures_executor::LocalPool;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pv_abi::uv::channel::COMMAND_PAGES;
use uvd_protocol::{Answered, Ask, Asked, Failure, Told, read, write};

use super::samples::row;
use super::{Bell, NoDevices, connect, memory, start};
use crate::context::requests::Outgoing;
use crate::daemon::End;
use crate::link::{Carried, Link, Port};
use crate::service::partitions;

/// A running daemon, and the ultravisor's end of its channel.
struct Scene {
    server: Endpoint<'static>,
    words: &'static [AtomicU32],
    bell: Bell,
    stop: UnixStream,
    socket: PathBuf,
    daemon: JoinHandle<End>,
    buffer: Vec<u8>,
}

impl Scene {
    fn new(name: &str) -> Self {
        Self::held(name, || {})
    }

    /// A scene whose daemon looks at nothing before `until` returns.
    fn held(name: &str, until: impl FnOnce() + Send + 'static) -> Self {
        let file = memory(COMMAND_PAGES);
        // It lives as long as the process, because the server's end borrows it.
        let shared = Box::leak(Box::new(Shared::map(&file, 0, COMMAND_PAGES as u32).unwrap()));
        let words = shared.words();
        let server = Endpoint::create(words, Side::Server).unwrap();
        let (bell, far) = Bell::pair();
        let (socket, stop, daemon) = start(name, NoDevices, move |daemon| {
            let shared = Shared::map(&file, 0, COMMAND_PAGES as u32).unwrap();
            until();
            daemon.serve(Link::open(shared.words(), far).unwrap())
        });
        Self { server, words, bell, stop, socket, daemon, buffer: Vec::new() }
    }

    fn client(&self) -> UnixStream {
        connect(&self.socket)
    }

    /// The next request of a client on the channel. Requests of the session are refused.
    fn request(&mut self) -> Request {
        loop {
            let request = self.any_request();
            if !matches!(request.body, Body::Open | Body::Query(Query::Records { .. })) {
                return request;
            }
            self.reply(request.id, Err(not_here()));
        }
    }

    /// The next request on the channel.
    fn any_request(&mut self) -> Request {
        loop {
            if self.server.receive(&mut self.buffer).unwrap() {
                return postcard::from_bytes(&self.buffer).unwrap();
            }
            let mut fds = [PollFd::new(self.bell.fd(), PollFlags::POLLIN)];
            let came = poll(&mut fds, PollTimeout::from(20_000u16)).unwrap();
            assert_ne!(came, 0, "no request in time");
            self.bell.take();
        }
    }

    /// Waits until the daemon asks for a re-created channel.
    fn asked_anew(&mut self) {
        while Endpoint::open(self.words, Side::Server).err() != Some(RingError::NotReady) {
            let mut fds = [PollFd::new(self.bell.fd(), PollFlags::POLLIN)];
            let came = poll(&mut fds, PollTimeout::from(20_000u16)).unwrap();
            assert_ne!(came, 0, "nobody asks");
            self.bell.take();
        }
    }

    fn reply(&mut self, id: u64, result: Result<Answer, Refusal>) {
        self.reply_at(id, id + 1, result);
    }

    fn reply_at(&mut self, id: u64, version: u64, result: Result<Answer, Refusal>) {
        let reply = Reply { id, version, result };
        self.server.send(&postcard::to_allocvec(&reply).unwrap()).unwrap();
        self.bell.ring();
    }

    fn end(mut self) -> End {
        let _ = self.stop.write(b"!");
        let _ = std::fs::remove_file(&self.socket);
        self.daemon.join().unwrap()
    }
}

#[test]
fn the_session_is_opened_before_a_client_is_heard() {
    let file = memory(COMMAND_PAGES);
    let shared = Shared::map(&file, 0, COMMAND_PAGES as u32).unwrap();
    let mut server = Endpoint::create(shared.words(), Side::Server).unwrap();
    let (bell, far) = Bell::pair();
    let (begin, begins) = std::sync::mpsc::channel();
    let (socket, mut stop, daemon) = start("first", NoDevices, move |daemon| {
        let shared = Shared::map(&file, 0, COMMAND_PAGES as u32).unwrap();
        begins.recv().unwrap();
        daemon.serve(Link::open(shared.words(), far).unwrap())
    });
    let client = connect(&socket);
    write(&client, &query(1, Query::Version)).unwrap();
    begin.send(()).unwrap();
    let mut buffer = Vec::new();
    while !server.receive(&mut buffer).unwrap() {
        let mut fds = [PollFd::new(bell.fd(), PollFlags::POLLIN)];
        assert_ne!(poll(&mut fds, PollTimeout::from(20_000u16)).unwrap(), 0, "no request in time");
    }
    let first: Request = postcard::from_bytes(&buffer).unwrap();
    assert!(matches!(first.body, Body::Open), "{first:?}");
    stop.write_all(b"!").unwrap();
    let _ = std::fs::remove_file(&socket);
    daemon.join().unwrap();
}

fn not_here() -> Refusal {
    let text = |text: &str| text.to_string();
    Refusal {
        code: Code::Other,
        operation: None,
        object: text("test"),
        field: text("session"),
        reason: text("none here"),
        way_out: String::new(),
    }
}

fn query(id: u64, query: Query) -> Ask {
    Ask { id, timeout_ms: None, body: Asked::Ultravisor(Body::Query(query)) }
}

fn answer(told: &Told) -> &Answer {
    match &told.result {
        Ok(Answered::Ultravisor { answer, .. }) => answer,
        _ => panic!("{told:?}"),
    }
}

fn log_after(from: u64) -> Query {
    Query::Log { from, most: 1 }
}

fn log_answer(next: u64) -> Answer {
    Answer::Log { rows: vec![], oldest: 0, next }
}

fn long_reason(bytes: usize) -> Body {
    let reason = "x".repeat(bytes);
    Body::Transaction(Transaction { planned_at: None, pending: false, reason, operations: vec![] })
}

#[test]
fn answers_find_their_clients_in_any_order() {
    let mut scene = Scene::new("order");
    let clients = [scene.client(), scene.client(), scene.client()];
    for (number, client) in clients.iter().enumerate() {
        for id in [1, 2] {
            write(client, &query(id, log_after(number as u64 * 10 + id))).unwrap();
        }
    }
    let mut requests: Vec<Request> = (0..6).map(|_| scene.request()).collect();
    requests.sort_by_key(|request| std::cmp::Reverse(request.id));
    for request in requests {
        let Body::Query(Query::Log { from, .. }) = request.body else { panic!("{request:?}") };
        assert!(request.id >= 1000);
        scene.reply(request.id, Ok(log_answer(from)));
    }
    for (number, client) in clients.iter().enumerate() {
        let mut nexts = Vec::new();
        for _ in 0..2 {
            let told: Told = read(client).unwrap();
            let Answer::Log { next, .. } = answer(&told) else { panic!("{told:?}") };
            nexts.push((told.id, *next));
        }
        nexts.sort_unstable();
        assert_eq!(nexts, [1, 2].map(|id| (id, number as u64 * 10 + id)));
    }
    assert_eq!(scene.end(), End::Stopped);
}

/// A list waits for one request of each other client, and those for no second request of anybody.
#[test]
fn fifty_clients_are_served_by_turns_however_much_each_asks() {
    const OTHERS: u64 = 49;
    const EACH: u64 = 20;
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let mut scene = Scene::held("by-turns", move || gone.recv().unwrap_or_default());
    let others: Vec<UnixStream> = (0..OTHERS).map(|_| scene.client()).collect();
    for (number, other) in (0..).zip(&others) {
        for at in 0..EACH {
            write(other, &query(at + 1, log_after(number * EACH + at))).unwrap();
        }
    }
    let last = scene.client();
    write(&last, &query(1, Query::List { after: 0 })).unwrap();
    drop(go);
    let mut ahead = Vec::new();
    loop {
        match scene.request().body {
            Body::Query(Query::Log { from, .. }) => ahead.push(from),
            Body::Query(Query::List { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    let first_of_each: Vec<u64> = (0..OTHERS).map(|number| number * EACH).collect();
    assert_eq!(ahead, first_of_each, "the first request of each client, in the order they came");
    for at in 1..EACH {
        for number in 0..OTHERS {
            let body = scene.request().body;
            assert_eq!(body, Body::Query(log_after(number * EACH + at)));
        }
    }
    drop((others, last));
    assert_eq!(scene.end(), End::Stopped);
}

#[test]
fn a_refusal_arrives_whole() {
    let mut scene = Scene::new("refusal");
    let client = scene.client();
    write(&client, &query(5, Query::Version)).unwrap();
    let request = scene.request();
    let refusal = Refusal {
        code: Code::StalePlan,
        operation: Some(2),
        object: "database".into(),
        field: "version".into(),
        reason: "planned at 3, is 4".into(),
        way_out: "read again and plan anew".into(),
    };
    scene.reply(request.id, Err(refusal.clone()));
    let told: Told = read(&client).unwrap();
    assert_eq!(told, Told { id: 5, result: Err(Failure::Refused(refusal.into())) });
    scene.end();
}

#[test]
fn a_request_without_answer_fails_in_time_and_a_late_answer_is_nobodys() {
    let mut scene = Scene::new("late");
    let client = scene.client();
    write(&client, &Ask { timeout_ms: Some(30), ..query(1, Query::Version) }).unwrap();
    let late = scene.request();
    let told: Told = read(&client).unwrap();
    assert_eq!(told, Told { id: 1, result: Err(Failure::Timeout(30)) });
    scene.reply(late.id, Ok(log_answer(1)));
    write(&client, &query(2, log_after(7))).unwrap();
    let request = scene.request();
    scene.reply(request.id, Ok(log_answer(7)));
    let told: Told = read(&client).unwrap();
    assert_eq!(told.id, 2);
    assert_eq!(*answer(&told), log_answer(7));
    scene.end();
}

#[test]
fn more_than_the_ring_holds_is_sent_as_room_comes() {
    let mut scene = Scene::new("full");
    let clients = [scene.client(), scene.client()];
    for client in &clients {
        for id in 1..=10 {
            let body = Asked::Ultravisor(long_reason(20_000));
            write(client, &Ask { id, timeout_ms: None, body }).unwrap();
        }
    }
    for _ in 0..20 {
        let request = scene.request();
        scene.reply(request.id, Ok(Answer::Applied(vec![])));
    }
    for client in &clients {
        for _ in 1..=10 {
            let told: Told = read(client).unwrap();
            assert!(told.result.is_ok());
        }
    }
    scene.end();
}

#[test]
fn a_request_that_no_frame_holds_is_refused() {
    let scene = Scene::new("large");
    let client = scene.client();
    let body = Asked::Ultravisor(long_reason(30_000));
    write(&client, &Ask { id: 1, timeout_ms: None, body }).unwrap();
    let told: Told = read(&client).unwrap();
    assert!(matches!(told.result, Err(Failure::TooLarge { limit: 24576, .. })), "{told:?}");
    scene.end();
}

#[test]
fn what_is_under_way_when_the_channel_is_made_anew_is_asked_again_with_its_id() {
    let mut scene = Scene::new("anew");
    let client = scene.client();
    write(&client, &query(1, log_after(1))).unwrap();
    let before = scene.request();
    scene.server = Endpoint::create(scene.words, Side::Server).unwrap();
    scene.bell.ring();
    let again = scene.request();
    assert_eq!(again, before);
    scene.reply(again.id, Ok(log_answer(1)));
    let told: Told = read(&client).unwrap();
    assert!(told.result.is_ok());
    scene.end();
}

#[test]
fn a_channel_that_makes_no_sense_is_made_anew_and_goes_on() {
    let mut scene = Scene::new("broken");
    let client = scene.client();
    write(&client, &query(1, Query::Version)).unwrap();
    let before = scene.request();
    // This index of produced responses lies beyond the ring.
    scene.words[8].store(0x1234_5678, Ordering::Release);
    scene.bell.ring();
    scene.asked_anew();
    scene.server = Endpoint::create(scene.words, Side::Server).unwrap();
    scene.bell.ring();
    let again = scene.request();
    assert_eq!(again, before);
    scene.reply(again.id, Ok(log_answer(1)));
    let told: Told = read(&client).unwrap();
    assert_eq!(*answer(&told), log_answer(1));
    scene.end();
}

/// Tests header words that an earlier `uvd` may leave: the size of the rings, and the indices.
#[test]
fn a_channel_that_cannot_be_opened_is_to_be_made_anew() {
    let file = memory(COMMAND_PAGES);
    let shared = Shared::map(&file, 0, COMMAND_PAGES as u32).unwrap();
    for word in [4, 6, 7, 8, 9] {
        Endpoint::create(shared.words(), Side::Server).unwrap();
        shared.words()[word].store(0x1234_5678, Ordering::Release);
        let (mut bell, far) = Bell::pair();
        assert!(Link::open(shared.words(), far).is_err(), "word {word}");
        assert!(bell.take(), "word {word}: the ultravisor is not told");
        let opened = Endpoint::open(shared.words(), Side::Server);
        assert_eq!(opened.err(), Some(RingError::NotReady), "word {word}");
    }
}

#[test]
fn an_answer_that_is_no_message_is_skipped() {
    let mut scene = Scene::new("noise");
    let client = scene.client();
    write(&client, &query(1, Query::Version)).unwrap();
    let request = scene.request();
    scene.server.send(&[0xff; 9]).unwrap();
    scene.reply(request.id, Ok(log_answer(3)));
    let told: Told = read(&client).unwrap();
    assert_eq!(*answer(&told), log_answer(3));
    scene.end();
}

#[test]
fn stopping_answers_what_is_under_way() {
    let mut scene = Scene::new("stop");
    let client = scene.client();
    write(&client, &query(1, Query::Version)).unwrap();
    scene.request();
    assert_eq!(scene.end(), End::Stopped);
    let told: Told = read(&client).unwrap();
    assert_eq!(told.result, Err(Failure::ShuttingDown));
}

#[test]
fn a_message_that_makes_no_sense_is_answered_and_the_client_goes_on() {
    let mut scene = Scene::new("nonsense");
    let mut client = scene.client();
    client.write_all(b"\x02\0\0\0{]").unwrap();
    let told: Told = read(&client).unwrap();
    assert!(matches!(told, Told { id: 0, result: Err(Failure::Malformed(_)) }), "{told:?}");
    write(&client, &query(2, log_after(1))).unwrap();
    let request = scene.request();
    scene.reply(request.id, Ok(log_answer(1)));
    let told: Told = read(&client).unwrap();
    assert_eq!(told.id, 2);
    // An invalid length ends this client, and no other.
    client.write_all(&[0xff; 4]).unwrap();
    let told: Told = read(&client).unwrap();
    assert!(matches!(told.result, Err(Failure::Malformed(_))));
    assert_eq!(client.read_to_end(&mut vec![]).unwrap(), 0);
    assert_eq!(scene.end(), End::Stopped);
}

#[test]
fn a_client_that_goes_away_harms_no_other() {
    let mut scene = Scene::new("gone");
    let gone = scene.client();
    write(&gone, &query(1, log_after(1))).unwrap();
    let request = scene.request();
    drop(gone);
    let client = scene.client();
    write(&client, &query(1, log_after(2))).unwrap();
    let other = scene.request();
    scene.reply(request.id, Ok(log_answer(1)));
    scene.reply(other.id, Ok(log_answer(2)));
    let told: Told = read(&client).unwrap();
    assert_eq!(*answer(&told), log_answer(2));
    assert_eq!(scene.end(), End::Stopped);
}

#[test]
fn a_client_that_half_closes_gets_its_answer() {
    let mut scene = Scene::new("half");
    let mut client = scene.client();
    write(&client, &query(1, log_after(1))).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let request = scene.request();
    scene.reply(request.id, Ok(log_answer(1)));
    let told: Told = read(&client).unwrap();
    assert!(told.result.is_ok());
    assert_eq!(client.read_to_end(&mut vec![]).unwrap(), 0, "and then the end");
    scene.end();
}

#[test]
fn without_a_channel_every_request_is_answered_with_the_reason() {
    let (socket, mut stop, daemon) = start("none", NoDevices, |daemon| {
        daemon.refuse("store: x: ENOENT", Instant::now() + Duration::from_secs(60))
    });
    let client = connect(&socket);
    write(&client, &query(9, Query::Version)).unwrap();
    let told: Told = read(&client).unwrap();
    let why = Failure::NoChannel("store: x: ENOENT".into());
    assert_eq!(told, Told { id: 9, result: Err(why) });
    stop.write_all(b"!").unwrap();
    assert_eq!(daemon.join().unwrap(), End::Stopped);
    let _ = std::fs::remove_file(socket);
}

#[test]
fn the_channel_is_looked_for_again_in_time() {
    let (socket, _stop, daemon) =
        start("due", NoDevices, |daemon| daemon.refuse("", Instant::now()));
    assert_eq!(daemon.join().unwrap(), End::Due);
    let _ = std::fs::remove_file(socket);
}

#[test]
fn clients_wait_while_the_channel_is_looked_for() {
    let (socket, mut stop, daemon) = start("wait", NoDevices, |daemon| {
        assert_eq!(daemon.pause(Instant::now() + Duration::from_millis(50)), End::Due);
        daemon.refuse("now", Instant::now() + Duration::from_secs(60))
    });
    let client = connect(&socket);
    write(&client, &query(1, Query::Version)).unwrap();
    let told: Told = read(&client).unwrap();
    assert_eq!(told.result, Err(Failure::NoChannel("now".into())));
    stop.write_all(b"!").unwrap();
    assert_eq!(daemon.join().unwrap(), End::Stopped);
    let _ = std::fs::remove_file(socket);
}

#[test]
fn a_socket_that_is_given_is_taken_and_nothing_else_is() {
    let path = std::env::temp_dir().join(format!("uvd-test-{}-given.sock", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let given = crate::given_socket(listener.as_fd()).unwrap();
    assert_eq!(given.local_addr().unwrap().as_pathname(), Some(path.as_path()));
    let (connected, _) = UnixStream::pair().unwrap();
    assert!(crate::given_socket(connected.as_fd()).is_none());
    assert!(crate::given_socket(memory(1).as_fd()).is_none());
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_socket_is_private_and_replaces_one_left_behind_but_not_one_in_use() {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::temp_dir().join(format!("uvd-test-{}-listen.sock", std::process::id()));
    drop(crate::listen(&path).unwrap());
    let listener = crate::listen(&path).unwrap();
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let error = crate::listen(&path).unwrap_err().to_string();
    assert!(error.contains("another uvd"), "{error}");
    drop(listener);
    std::fs::remove_file(path).unwrap();
}

/// Answers the first requests of a session up to `last`, which the caller answers.
fn session_until(scene: &mut Scene, last: impl Fn(&Body) -> bool) -> Request {
    loop {
        let request = scene.any_request();
        if last(&request.body) {
            return request;
        }
        let answer = match &request.body {
            Body::Open => Answer::Opened { rolled_back: vec![] },
            Body::Query(Query::Records { .. }) => {
                Answer::Records { rows: vec![], oldest: 0, next: 0 }
            }
            Body::Query(Query::Arena { first, .. }) => {
                Answer::Arena { first: *first, pages: 1, contents: vec![vec![0; 8].into()] }
            }
            Body::Query(Query::Partitions { .. }) => {
                Answer::Partitions { rows: vec![], more: false }
            }
            other => panic!("{other:?}"),
        };
        scene.reply_at(request.id, 1, Ok(answer));
    }
}

#[test]
fn what_clients_change_waits_until_a_copy_is_made() {
    let mut scene = Scene::new("barrier");
    let arena = |body: &Body| matches!(body, Body::Query(Query::Arena { .. }));
    let pages = session_until(&mut scene, arena);
    let client = scene.client();
    write(&client, &Ask { id: 1, timeout_ms: None, body: Asked::Ultravisor(long_reason(1)) })
        .unwrap();
    write(&client, &query(2, Query::Version)).unwrap();
    // A request that changes nothing is passed on, which shows that the request before it was read.
    let version = scene.any_request();
    assert_eq!(version.body, Body::Query(Query::Version));
    let contents = vec![vec![0; 8].into()];
    scene.reply_at(pages.id, 1, Ok(Answer::Arena { first: 0, pages: 1, contents }));
    let is_change = |body: &Body| matches!(body, Body::Transaction(_));
    let records = scene.any_request();
    assert!(matches!(records.body, Body::Query(Query::Records { .. })), "{records:?}");
    scene.reply_at(records.id, 1, Ok(Answer::Records { rows: vec![], oldest: 0, next: 0 }));
    let change = session_until(&mut scene, is_change);
    scene.reply(change.id, Ok(Answer::Applied(vec![])));
    let told: Told = read(&client).unwrap();
    assert!(told.id == 1 && told.result.is_ok(), "{told:?}");
    scene.end();
}

#[test]
fn pages_of_several_versions_are_not_taken_for_one() {
    let mut pool = LocalPool::new();
    let context = super::context(&pool);
    context.requests.open_session();
    let (reading, read) = (Rc::clone(&context), Rc::new(Cell::new(false)));
    let is_read = Rc::clone(&read);
    context.jobs.spawn(async move { is_read.set(partitions::read_all(&reading).await.is_ok()) });
    // The versions of the two pages, at each reading.
    for version in [5, 6, 6, 6] {
        pool.run_until_stalled();
        let asked: Vec<Outgoing> = context.requests.outgoing().into();
        let [Outgoing { id, body: Body::Query(Query::Partitions { after }), .. }] = asked[..]
        else {
            panic!("a page is asked for: {}", asked.len());
        };
        assert_eq!((after < 2, read.get()), (true, false));
        let answer = Answer::Partitions { rows: vec![row(after + 1, "web")], more: after == 0 };
        let answer = postcard::to_allocvec(&answer).unwrap();
        context.requests.answered(id, Ok(Carried { version, answer }));
    }
    pool.run_until_stalled();
    assert!(read.get() && !context.requests.has_outgoing());
    assert_eq!(context.guests.rows.borrow().values().count(), 2);
}
