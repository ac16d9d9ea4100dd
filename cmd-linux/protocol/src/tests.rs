use super::*;
use control::command::{Code, Query};
use proptest::prelude::*;

fn ask(id: u64) -> Ask {
    Ask {
        id,
        timeout_ms: None,
        body: Asked::Ultravisor(Body::Query(Query::Partitions { after: id as u32 })),
    }
}

#[test]
fn the_layout_is_length_version_and_message() {
    let bytes = encode(&ask(7)).unwrap();
    // The bytes are: id, no timeout, ultravisor, query, partitions, after.
    assert_eq!(bytes, [7, 0, 0, 0, VERSION, 7, 0, 0, 1, 1, 7]);
    assert_eq!(read::<Ask>(&bytes[..]).unwrap(), ask(7));
}

#[test]
fn an_answer_that_is_carried_reads_as_if_it_had_been_written_here() {
    for (id, version) in [(0, 0), (5, 300), (u64::MAX, u64::MAX)] {
        let answer = Answer::Opened { rolled_back: vec![1, 1 << 40] };
        let carried = encode_carried(id, version, &postcard::to_allocvec(&answer).unwrap());
        let told = Told { id, result: Ok(Answered::Ultravisor { version, answer }) };
        assert_eq!(carried.unwrap(), encode(&told).unwrap());
    }
    let long = vec![0; MAX_MESSAGE];
    assert!(matches!(encode_carried(1, 1, &long), Err(FrameError::TooLong)));
    assert!(matches!(encode(&long), Err(FrameError::TooLong)));
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
    let mut longer = encode(&ask(2)).unwrap();
    longer.push(0);
    longer[0] += 1;
    let mut of_another_version = encode(&ask(2)).unwrap();
    of_another_version[4] += 1;
    let unclear: [&[u8]; 4] = [b"\x02\0\0\0\x01\xff", b"\0\0\0\0", &longer, &of_another_version];
    unclear.iter().for_each(|bytes| frames.push(bytes));
    frames.push(&encode(&ask(3)).unwrap());
    for _ in unclear {
        assert!(matches!(frames.next_message::<Ask>(), Err(FrameError::Unclear)));
    }
    assert_eq!(frames.next_message::<Ask>().unwrap(), Some(ask(3)));
    assert!(frames.next_message::<Ask>().unwrap().is_none());
}

#[test]
fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
    let mut frames = Frames::default();
    frames.push(&u32::MAX.to_le_bytes());
    assert!(matches!(frames.next_message::<Ask>(), Err(FrameError::TooLong)));
    assert!(matches!(read::<Ask>(&[0xff; 8][..]), Err(FrameError::TooLong)));
}

#[test]
fn a_refusal_reads_as_one_sentence() {
    let mut refusal = Refusal {
        code: Code::NoMemory,
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
    assert_eq!(sentence(&refusal).to_string(), "memory: 8192 asked, 4096 free");
}
