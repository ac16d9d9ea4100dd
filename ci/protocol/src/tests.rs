use super::*;
use proptest::prelude::*;

fn packets() -> impl Strategy<Value = Packet> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    let word = proptest::collection::vec(1u8..=255, 0..20);
    let words = proptest::collection::vec(word, 0..5);
    prop_oneof![
        "[a-z0-9.-]{0,40}".prop_map(Packet::Ready),
        words.prop_map(|mut words| {
            words.insert(0, b"run".to_vec());
            Packet::Command(Words::new(words).unwrap())
        }),
        bytes().prop_map(Packet::Output),
        bytes().prop_map(Packet::Error),
        any::<i32>().prop_map(Packet::Exit),
        bytes().prop_map(Packet::Input),
        any::<i32>().prop_map(Packet::Signal),
        Just(Packet::PowerOff),
    ]
}

/// Feeds the bytes in pieces of the given sizes, in turn.
fn decode(bytes: &[u8], sizes: &[usize]) -> Vec<Result<Packet, DecodeError>> {
    let mut decoder = Decoder::new();
    let mut results = Vec::new();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at((*size).min(rest.len()));
        decoder.push(piece);
        rest = after;
        loop {
            match decoder.next_packet() {
                Ok(None) => break,
                Ok(Some(packet)) => results.push(Ok(packet)),
                Err(error) => results.push(Err(error)),
            }
        }
    }
    results
}

proptest! {
    #[test]
    fn what_is_sent_arrives_however_it_is_cut(
        sent in proptest::collection::vec(packets(), 0..20),
        sizes in proptest::collection::vec(1usize..64, 1..10),
    ) {
        let bytes: Vec<u8> = sent.iter().flat_map(Packet::encode).collect();
        let received: Result<Vec<_>, _> = decode(&bytes, &sizes).into_iter().collect();
        prop_assert_eq!(received, Ok(sent));
    }

    #[test]
    fn any_bytes_end_in_packets_or_errors(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        for packet in decode(&bytes, &[7]).into_iter().flatten() {
            // A decoded packet can be encoded again, and means the same.
            prop_assert_eq!(decode(&packet.encode(), &[1000]), vec![Ok(packet)]);
        }
    }

    #[test]
    fn noise_before_a_packet_costs_only_itself(noise in proptest::collection::vec(0x80u8.., 0..50)) {
        let mut bytes = noise.clone();
        bytes.extend(Packet::PowerOff.encode());
        let results = decode(&bytes, &[3]);
        prop_assert_eq!(results.len(), noise.len() + 1);
        prop_assert_eq!(results.last(), Some(&Ok(Packet::PowerOff)));
    }
}

#[test]
fn the_layout_is_type_length_payload() {
    assert_eq!(Packet::Exit(7).encode(), b"X\x04\0\0\0\x07\0\0\0");
    assert_eq!(Packet::PowerOff.encode(), b"P\0\0\0\0");
    let words = Words::new(["sh", "-c", "exit 7", ""]).unwrap();
    assert_eq!(Packet::Command(words).encode(), b"C\x0d\0\0\0sh\0-c\0exit 7\0");
}

#[test]
fn a_long_stream_is_cut_into_packets() {
    let data: Vec<u8> = (0..MAX_PAYLOAD * 2 + 10).map(|i| i as u8).collect();
    let results = decode(&Packet::Output(data.clone()).encode(), &[4096]);
    assert_eq!(results.len(), 3);
    let joined: Vec<u8> = results
        .into_iter()
        .flat_map(|result| match result {
            Ok(Packet::Output(bytes)) => bytes,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(joined, data);
}

#[test]
fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
    let mut decoder = Decoder::new();
    decoder.push(b"O\xff\xff\xff\xff");
    assert_eq!(decoder.next_packet(), Err(DecodeError::TooLong(b'O', u32::MAX)));
}

#[test]
fn payloads_that_make_no_sense_are_dropped_as_a_whole() {
    let bytes = b"X\x01\0\0\0\x07P\x01\0\0\0zC\0\0\0\0P\0\0\0\0";
    assert_eq!(
        decode(bytes, &[100]),
        [
            Err(DecodeError::BadLength(b'X', 1)),
            Err(DecodeError::BadLength(b'P', 1)),
            Err(DecodeError::BadCommand(WordsError::Empty)),
            Ok(Packet::PowerOff),
        ]
    );
}

#[test]
fn words_that_cannot_travel_are_refused() {
    assert_eq!(Words::new(Vec::<Vec<u8>>::new()), Err(WordsError::Empty));
    assert_eq!(Words::new(["", "x"]), Err(WordsError::Empty));
    assert_eq!(Words::new(["a", "b\0c"]), Err(WordsError::Nul(1)));
    assert_eq!(
        Words::new(["a".to_string(), "b".repeat(MAX_PAYLOAD)]),
        Err(WordsError::TooLong(MAX_PAYLOAD + 2))
    );
}
