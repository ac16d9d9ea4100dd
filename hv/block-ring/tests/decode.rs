//! Untrusted slots: which of them are refused with which answer, and that no other slot gets
//! through.

use block_ring::{Features, Kind, RawRequest, Refusal, decode};
use proptest::prelude::*;
use pv_abi::xen::block::{
    DISCARD, DiscardRequest, FLUSH, INDIRECT, IndirectRequest, READ, Request, Segment, WRITE,
    WRITE_BARRIER,
};

const DISK: Features =
    Features { sectors: 100, read_only: false, discard: true, indirect_segments: 32 };

fn request(operation: u8, sector_number: u64, segments: &[(u8, u8)]) -> Request {
    let mut request = Request { operation, sector_number, id: 7, ..Request::default() };
    request.nr_segments = u8::try_from(segments.len()).unwrap();
    for (at, &(first_sect, last_sect)) in segments.iter().enumerate() {
        request.segments[at] = Segment { gref: 9, first_sect, last_sect, reserved: 0 };
    }
    request
}

fn raw(request: Request) -> RawRequest {
    RawRequest(zerocopy::transmute!(request))
}

fn raw_indirect(request: IndirectRequest) -> RawRequest {
    let words: [u64; 8] = zerocopy::transmute!(request);
    let mut raw = RawRequest::default();
    raw.0[..8].copy_from_slice(&words);
    raw
}

fn raw_discard(sector_number: u64, nr_sectors: u64) -> RawRequest {
    let request =
        DiscardRequest { operation: DISCARD, sector_number, nr_sectors, ..Default::default() };
    let words: [u64; 4] = zerocopy::transmute!(request);
    let mut raw = RawRequest::default();
    raw.0[..4].copy_from_slice(&words);
    raw
}

fn indirect(indirect_op: u8, sector_number: u64, nr_segments: u16) -> RawRequest {
    raw_indirect(IndirectRequest {
        operation: INDIRECT,
        indirect_op,
        nr_segments,
        sector_number,
        id: 3,
        indirect_grefs: [20, 21, 22, 23, 24, 25, 26, 27],
        ..IndirectRequest::default()
    })
}

#[test]
fn requests_of_stock_front_ends_are_decoded() {
    let read = decode(&raw(request(READ, 90, &[(0, 7), (6, 7)])), &DISK).unwrap();
    let Kind::Transfer(transfer) = read.kind else { panic!("{read:?}") };
    assert_eq!((read.id, transfer.write, transfer.sector, transfer.sectors), (7, false, 90, 10));
    assert_eq!(transfer.segments.as_slice().len(), 2);
    let write = decode(&raw(request(WRITE, 0, &[(0, 7); 11])), &DISK).unwrap();
    assert!(matches!(write.kind, Kind::Transfer(transfer) if transfer.write
        && transfer.sectors == 88));
    assert_eq!(decode(&raw(request(FLUSH, 0, &[])), &DISK).unwrap().kind, Kind::Flush);
    let discard = decode(&raw_discard(99, 1), &DISK).unwrap().kind;
    assert_eq!(discard, Kind::Discard { sector: 99, sectors: 1 });
    let Kind::Indirect(read) = decode(&indirect(READ, 98, 2), &DISK).unwrap().kind else {
        panic!("not indirect")
    };
    assert_eq!((read.pages(), read.segments), (&[20][..], 2));
    assert_eq!(read.check([0x0300_0000_0001, 0, 77].map(|w| w & 0xffff_ffff), &DISK), Ok(2));
}

#[test]
fn each_mistake_has_its_refusal_and_its_status() {
    let read_only = Features { read_only: true, ..DISK };
    let plain = Features { discard: false, indirect_segments: 0, ..DISK };
    let large = Features { indirect_segments: u16::MAX, sectors: u64::MAX, ..DISK };
    let cases = [
        (raw(request(77, 0, &[(0, 0)])), DISK, Refusal::NotOffered { operation: 77 }, Some(-2)),
        (
            raw(request(WRITE_BARRIER, 0, &[(0, 0)])),
            DISK,
            Refusal::NotOffered { operation: WRITE_BARRIER },
            Some(-2),
        ),
        (raw_discard(0, 1), plain, Refusal::NotOffered { operation: DISCARD }, Some(-2)),
        (indirect(READ, 0, 1), plain, Refusal::NotOffered { operation: INDIRECT }, Some(-2)),
        (indirect(FLUSH, 0, 1), DISK, Refusal::InnerOperation { operation: FLUSH }, Some(-1)),
        (indirect(INDIRECT, 0, 1), DISK, Refusal::InnerOperation { operation: 6 }, Some(-1)),
        (raw(request(WRITE, 0, &[(0, 0)])), read_only, Refusal::ReadOnly, Some(-1)),
        (indirect(WRITE, 0, 1), read_only, Refusal::ReadOnly, Some(-1)),
        (raw_discard(0, 1), read_only, Refusal::ReadOnly, Some(-1)),
        (raw(request(READ, 0, &[])), DISK, Refusal::Empty, Some(-1)),
        (raw_discard(0, 0), DISK, Refusal::Empty, Some(-1)),
        (indirect(READ, 0, 0), DISK, Refusal::Empty, Some(-1)),
        (
            raw(Request { nr_segments: 12, ..request(READ, 0, &[]) }),
            DISK,
            Refusal::TooManySegments { segments: 12, most: 11 },
            Some(-1),
        ),
        (
            indirect(READ, 0, 33),
            DISK,
            Refusal::TooManySegments { segments: 33, most: 32 },
            Some(-1),
        ),
        (
            indirect(READ, 0, 4097),
            large,
            Refusal::TooManySegments { segments: 4097, most: 4096 },
            Some(-1),
        ),
        (raw(request(READ, 0, &[(5, 4)])), DISK, Refusal::Segment { first: 5, last: 4 }, Some(-1)),
        (raw(request(READ, 0, &[(0, 8)])), DISK, Refusal::Segment { first: 0, last: 8 }, Some(-1)),
        (
            raw(request(READ, 93, &[(0, 7)])),
            DISK,
            Refusal::PastEnd { sector: 93, sectors: 8 },
            Some(-1),
        ),
        (
            raw(request(READ, u64::MAX, &[(0, 0)])),
            DISK,
            Refusal::PastEnd { sector: u64::MAX, sectors: 1 },
            Some(-1),
        ),
        (raw_discard(1, 100), DISK, Refusal::PastEnd { sector: 1, sectors: 100 }, Some(-1)),
        (raw(request(FLUSH, 0, &[(0, 0)])), DISK, Refusal::FlushWithData, None),
    ];
    for (raw, features, refusal, status) in cases {
        assert_eq!(decode(&raw, &features), Err(refusal));
        assert_eq!(refusal.status(), status, "{refusal:?}");
    }
}

#[test]
fn indirect_segments_are_checked_one_by_one() {
    let Kind::Indirect(read) = decode(&indirect(READ, 90, 3), &DISK).unwrap().kind else {
        panic!("not indirect")
    };
    let word = |first: u64, last: u64| 5 | first << 32 | last << 40;
    assert_eq!(read.check([word(0, 7), word(1, 1), word(7, 7)], &DISK), Ok(10));
    let past = Refusal::PastEnd { sector: 90, sectors: 17 };
    assert_eq!(read.check([word(0, 7), word(0, 7), word(7, 7)], &DISK), Err(past));
    let outside = Refusal::Segment { first: 0, last: 8 };
    assert_eq!(read.check([word(0, 1), word(0, 8), word(7, 7)], &DISK), Err(outside));
    assert_eq!(read.check([word(0, 1)], &DISK), Err(Refusal::Empty));
}

#[test]
fn the_answer_to_an_indirect_request_has_the_inner_operation() {
    let response = indirect(WRITE, 0, 1).response(-1);
    assert_eq!((response.id, response.operation, response.status), (3, WRITE, -1));
    assert_eq!(raw_discard(0, 1).response(0).operation, DISCARD);
}

fn any_raw() -> impl Strategy<Value = RawRequest> {
    let head = (0..8u8, 0..14u8, any::<u16>(), 0..120u64, any::<[u64; 12]>());
    (head, any::<bool>()).prop_map(|((operation, count, rest, sector, words), small)| {
        let mut raw = RawRequest::default();
        raw.0[0] = u64::from(operation) | u64::from(count) << 8 | u64::from(rest & 7) << 16;
        raw.0[2] = if rest == 0 { u64::MAX } else { sector };
        raw.0[3..14].copy_from_slice(&words[1..12]);
        for word in &mut raw.0[3..14] {
            // Mostly segments that a front end could mean.
            *word &= if small { 0x0707_ffff_ffff } else { u64::MAX };
        }
        raw
    })
}

proptest! {
    #[test]
    fn what_is_decoded_is_inside_the_endpoint(raw in any_raw(), read_only: bool) {
        let features = Features { read_only, ..DISK };
        match decode(&raw, &features) {
            Ok(request) => match request.kind {
                Kind::Transfer(transfer) => {
                    prop_assert!(!(read_only && transfer.write));
                    let sectors: u64 = transfer.segments.as_slice().iter().map(|segment| {
                        assert!(segment.first_sect <= segment.last_sect && segment.last_sect < 8);
                        u64::from(segment.last_sect - segment.first_sect) + 1
                    }).sum();
                    prop_assert!(sectors == u64::from(transfer.sectors) && sectors > 0);
                    prop_assert!(transfer.sector.checked_add(sectors).unwrap() <= 100);
                }
                Kind::Indirect(transfer) => {
                    prop_assert!(!(read_only && transfer.write));
                    prop_assert!((1..=32).contains(&transfer.segments));
                    prop_assert_eq!(transfer.pages().len(), 1);
                }
                Kind::Flush => {}
                Kind::Discard { sector, sectors } => {
                    prop_assert!(!read_only && sectors > 0);
                    prop_assert!(sector.checked_add(sectors).unwrap() <= 100);
                }
            },
            Err(refusal) => prop_assert!(refusal.status() != Some(0)),
        }
    }
}
