use super::*;
use proptest::prelude::*;
use pv_abi::uv::command::Query;

fn ask(id: u64) -> Ask {
    Ask {
        id,
        timeout_ms: None,
        body: Asked::Ultravisor(Body::Query(Query::Partitions { after: id as u32 })),
    }
}

#[test]
fn the_layout_is_length_and_json() {
    let bytes = encode(&ask(7)).unwrap();
    let text =
        r#"{"id":7,"timeout_ms":null,"body":{"Ultravisor":{"Query":{"Partitions":{"after":7}}}}}"#;
    assert_eq!(&bytes[..4], (text.len() as u32).to_le_bytes());
    assert_eq!(&bytes[4..], text.as_bytes());
    assert_eq!(read::<Ask>(&bytes[..]).unwrap(), ask(7));
}

#[test]
fn the_timeout_may_be_left_out() {
    let text = br#"{"id":1,"body":{"Ultravisor":{"Query":"Version"}}}"#;
    let mut frames = Frames::default();
    frames.push(&(text.len() as u32).to_le_bytes());
    frames.push(text);
    let ask: Ask = frames.next_message().unwrap().unwrap();
    assert_eq!(ask.timeout_ms, None);
}

proptest! {
    #[test]
    fn messages_arrive_however_they_are_cut(count in 0u64..10, size in 1usize..100) {
        let bytes: Vec<u8> = (0..count).flat_map(|id| encode(&ask(id)).unwrap()).collect();
        let mut frames = Frames::default();
        let mut received = Vec::new();
        for piece in bytes.chunks(size) {
            frames.push(piece);
            while let Some(message) = frames.next_message::<Ask>().unwrap() {
                received.push(message);
            }
        }
        prop_assert_eq!(received, (0..count).map(ask).collect::<Vec<_>>());
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        let mut frames = Frames::default();
        frames.push(&bytes);
        for _ in 0..bytes.len() {
            let _ = frames.next_message::<Ask>();
        }
    }
}

#[test]
fn after_a_message_that_makes_no_sense_the_next_is_read() {
    let mut frames = Frames::default();
    frames.push(b"\x02\0\0\0{]");
    frames.push(&encode(&ask(3)).unwrap());
    assert!(matches!(frames.next_message::<Ask>(), Err(FrameError::Json(_))));
    assert_eq!(frames.next_message::<Ask>().unwrap(), Some(ask(3)));
    assert!(frames.next_message::<Ask>().unwrap().is_none());
}

#[test]
fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
    let mut frames = Frames::default();
    frames.push(&u32::MAX.to_le_bytes());
    assert!(matches!(frames.next_message::<Ask>(), Err(FrameError::TooLong(_))));
    assert!(matches!(read::<Ask>(&[0xff; 8][..]), Err(FrameError::TooLong(_))));
}

#[test]
fn a_refusal_reads_as_one_sentence() {
    let mut refusal = Refusal {
        code: "no-memory".into(),
        operation: Some(1),
        object: "memory".into(),
        field: "frames".into(),
        reason: "8192 asked, 4096 free".into(),
        way_out: "ask for at most 16 MiB".into(),
    };
    let text = Failure::Refused(refusal.clone().into()).to_string();
    assert_eq!(text, "memory: frames: 8192 asked, 4096 free; ask for at most 16 MiB");
    refusal.field.clear();
    refusal.way_out.clear();
    assert_eq!(sentence(&refusal), "memory: 8192 asked, 4096 free");
}
