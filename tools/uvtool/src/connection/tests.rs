use super::*;
use crate::view::samples;
use control::command::Query;
use std::os::unix::net::UnixListener;
use uvd_protocol::{Failure, Progress, read};

#[test]
fn no_uvd_is_an_error_with_a_way_out() {
    let path = Path::new("/no/such/uvd.sock");
    let error = Uvd::connect(path, Duration::from_secs(1), false).err().unwrap().to_string();
    assert!(error.starts_with("uvd: /no/such/uvd.sock: No such file"), "{error}");
    assert!(error.contains("does uvd run?"), "{error}");
}

/// Runs a `uvd` that reads one request and then does what the test says.
fn with_uvd<T>(
    name: &str,
    act: impl FnOnce(UnixStream, Ask) + Send + 'static,
    query: impl FnOnce(Uvd) -> Result<T, Error>,
) -> Result<T, Error> {
    with_strict_uvd(name, false, act, query)
}

/// Does what [`with_uvd`] does; with `strict`, the time bounds all requests together.
fn with_strict_uvd<T>(
    name: &str,
    strict: bool,
    act: impl FnOnce(UnixStream, Ask) + Send + 'static,
    query: impl FnOnce(Uvd) -> Result<T, Error>,
) -> Result<T, Error> {
    let name = format!("uvtool-test-{}-{name}.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    let listener = UnixListener::bind(&path).unwrap();
    let uvd = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let ask = read(&stream).unwrap();
        act(stream, ask);
    });
    let answer = Uvd::connect(&path, Duration::from_millis(500), strict).and_then(query);
    uvd.join().unwrap();
    std::fs::remove_file(path).unwrap();
    answer
}

fn version(mut uvd: Uvd) -> Result<u64, Error> {
    uvd.ask(Query::Version).map(|answered| answered.version)
}

#[test]
fn the_answer_with_our_id_is_ours() {
    let act = |stream: UnixStream, ask: Ask| {
        assert_eq!((ask.id, ask.timeout_ms), (1, Some(500)));
        for id in [77, 1] {
            let answer = Answer::Version(samples::version());
            let version = id + 5;
            let result = Ok(uvd_protocol::Answered::Ultravisor { version, answer });
            write(&stream, &Told { id, result }).unwrap();
        }
    };
    assert_eq!(with_uvd("id", act, version).unwrap(), 6);
}

#[test]
fn failures_and_a_uvd_that_goes_away_are_told() {
    let act = |stream: UnixStream, _| {
        let result = Err(Failure::NoChannel("store: x: ENOENT".into()));
        write(&stream, &Told { id: 1, result }).unwrap();
    };
    let failed = with_uvd("failure", act, version);
    assert_eq!(
        failed.unwrap_err().to_string(),
        "command channel: store: x: ENOENT; uvd tries again by itself, see `dmesg | grep uvd`"
    );
    let gone = with_uvd("gone", |stream, _| drop(stream), version).unwrap_err().to_string();
    assert!(gone.starts_with("uvd: ") && gone.contains("dmesg"), "{gone}");
}

#[test]
fn news_comes_before_the_answer_of_the_service() {
    let act = |stream: UnixStream, ask: Ask| {
        let Asked::Service(Service::Start { name }) = ask.body else {
            panic!("another request");
        };
        for done in 0..3 {
            let news = Progress { name: name.clone(), step: "building".into(), done, of: 3 };
            let result = Ok(Answered::Progress(news));
            write(&stream, &Told { id: ask.id, result }).unwrap();
        }
        let result = Ok(Answered::Service(ServiceAnswer::Partition(17)));
        write(&stream, &Told { id: ask.id, result }).unwrap();
    };
    let start = |mut uvd: Uvd| uvd.service(Service::Start { name: "web".into() });
    assert_eq!(with_uvd("news", act, start).unwrap(), ServiceAnswer::Partition(17));
}

#[test]
fn news_does_not_make_the_time_longer() {
    let act = |stream: UnixStream, ask: Ask| {
        let news = Progress { name: "web".into(), step: "building".into(), done: 0, of: 0 };
        let told = Told { id: ask.id, result: Ok(Answered::Progress(news)) };
        // Writes until the other end is closed.
        while write(&stream, &told).is_ok() {}
    };
    let start = |mut uvd: Uvd| uvd.service(Service::Start { name: "web".into() });
    let error = with_strict_uvd("endless", true, act, start).unwrap_err();
    assert!(matches!(error, Error::Silent(_)), "{error}");
}
