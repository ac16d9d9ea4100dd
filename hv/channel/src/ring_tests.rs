//! Compares the rings with a queue, and tests them against a peer that writes anything.

use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

fn pages(count: usize) -> Vec<AtomicU32> {
    (0..count * PAGE_SIZE / 4).map(|_| AtomicU32::new(0)).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Request(Vec<u8>),
    Response(Vec<u8>),
    TakeRequest,
    TakeResponse,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let payload = || prop::collection::vec(any::<u8>(), 0..2500);
    prop_oneof![
        payload().prop_map(Step::Request),
        payload().prop_map(Step::Response),
        Just(Step::TakeRequest),
        Just(Step::TakeResponse),
        Just(Step::Reopen),
    ]
}

/// Sends a payload, and adds it to the model only if the ring took it.
fn send(
    endpoint: &mut Endpoint<'_>,
    model: &mut VecDeque<Vec<u8>>,
    payload: Vec<u8>,
) -> Result<(), TestCaseError> {
    let used: u32 = model.iter().map(|p| frame_bytes(p.len())).sum();
    let fits = used + frame_bytes(payload.len()) <= endpoint.ring_bytes();
    let sent = endpoint.send(&payload);
    prop_assert_eq!(sent, if fits { Ok(()) } else { Err(RingError::Full) });
    if fits {
        model.push_back(payload);
    }
    Ok(())
}

fn take(endpoint: &mut Endpoint<'_>, model: &mut VecDeque<Vec<u8>>) -> Result<(), TestCaseError> {
    let mut payload = Vec::new();
    let expected = model.pop_front();
    prop_assert_eq!(endpoint.receive(&mut payload), Ok(expected.is_some()));
    prop_assert_eq!(payload, expected.unwrap_or_default());
    Ok(())
}

proptest! {
    /// Both directions are queues of payloads, even when they wrap around; a server that opens the
    /// channel again continues where it was.
    #[test]
    fn both_rings_are_queues(steps in prop::collection::vec(step(), 1..120)) {
        let words = pages(3);
        let mut client = Endpoint::create(&words, Side::Client).unwrap();
        let mut server = Endpoint::open(&words, Side::Server).unwrap();
        let (mut requests, mut responses) = (VecDeque::new(), VecDeque::new());
        for step in steps {
            match step {
                Step::Request(payload) => send(&mut client, &mut requests, payload)?,
                Step::Response(payload) => send(&mut server, &mut responses, payload)?,
                Step::TakeRequest => take(&mut server, &mut requests)?,
                Step::TakeResponse => take(&mut client, &mut responses)?,
                Step::Reopen => server = Endpoint::open(&words, Side::Server).unwrap(),
            }
        }
    }

    /// Words scribbled anywhere give an error or a message, never a panic or an endless read.
    #[test]
    fn a_hostile_peer_gets_errors(
        scribbles in prop::collection::vec((0_usize..3072, any::<u32>()), 1..200),
        header in prop::collection::vec((4_usize..10, 0_u32..9000), 1..50),
    ) {
        let words = pages(3);
        let mut server = Endpoint::create(&words, Side::Server).unwrap();
        let mut payload = Vec::new();
        for (at, value) in scribbles.into_iter().chain(header) {
            words[at].store(value, Ordering::Relaxed);
            let _ = server.receive(&mut payload);
            prop_assert!(payload.len() <= MAX_PAYLOAD);
            let _ = server.send(&payload[..payload.len().min(64)]);
            let _ = Endpoint::open(&words, Side::Client);
        }
    }
}

#[test]
fn indices_wrap_at_32_bits() {
    let words = pages(3);
    Endpoint::create(&words, Side::Client).unwrap();
    for index in &words[word::REQUEST_PRODUCED..word::HEADER] {
        index.store(u32::MAX - 15, Ordering::Relaxed);
    }
    let mut client = Endpoint::open(&words, Side::Client).unwrap();
    let mut server = Endpoint::open(&words, Side::Server).unwrap();
    let mut payload = Vec::new();
    for round in 0..10_u8 {
        client.send(&[round; 100]).unwrap();
        assert_eq!(server.receive(&mut payload), Ok(true));
        assert_eq!(payload, [round; 100]);
    }
}

#[test]
fn a_changed_byte_is_noticed() {
    let words = pages(3);
    let mut client = Endpoint::create(&words, Side::Client).unwrap();
    let mut server = Endpoint::open(&words, Side::Server).unwrap();
    client.send(b"transaction").unwrap();
    words[REQUEST_RING / 4 + 2].fetch_xor(1, Ordering::Relaxed);
    assert_eq!(server.receive(&mut Vec::new()), Err(RingError::Checksum));
}

#[test]
fn a_channel_made_anew_is_noticed() {
    let words = pages(3);
    assert_eq!(Endpoint::open(&words, Side::Server).err(), Some(RingError::NotReady));
    Endpoint::create(&words, Side::Client).unwrap();
    let mut server = Endpoint::open(&words, Side::Server).unwrap();
    let mut second = Endpoint::create(&words, Side::Client).unwrap();
    assert_eq!(server.receive(&mut Vec::new()), Err(RingError::Remade));
    let mut server = Endpoint::open(&words, Side::Server).unwrap();
    second.send(b"again").unwrap();
    assert_eq!(server.receive(&mut Vec::new()), Ok(true));
}

#[test]
fn limits_are_errors() {
    let words = pages(17);
    let mut client = Endpoint::create(&words, Side::Client).unwrap();
    let large = std::vec![0; MAX_PAYLOAD + 1];
    assert_eq!(client.send(&large), Err(RingError::TooLarge(MAX_PAYLOAD + 1)));
    assert_eq!(client.send(&large[1..]), Ok(()));
    assert_eq!(client.send(&large[1..]), Err(RingError::Full));
    assert_eq!(Endpoint::create(&pages(4), Side::Client).err(), Some(RingError::Geometry));
    assert_eq!(Endpoint::create(&[], Side::Client).err(), Some(RingError::Geometry));
}
