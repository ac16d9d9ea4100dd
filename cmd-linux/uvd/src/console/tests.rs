use super::*;
use crate::link::Port;
use crate::tests::{Bell, memory};
use channels::Shared;
use proptest::prelude::*;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A line and the guest's end of it.
fn line() -> (Line, Shared, Bell) {
    let page = memory(1);
    let (ours, guest) = (Shared::map(&page, 0, 1).unwrap(), Shared::map(&page, 0, 1).unwrap());
    let (bell, far) = Bell::pair();
    (Line::new(ours, Box::new(far)), guest, bell)
}

/// Makes the guest ring, and serves everything.
fn serve(consoles: &mut Consoles, bell: &mut Bell) {
    crate::link::Port::ring(bell);
    // If the budget is used up, the turn comes later.
    let now = Instant::now();
    consoles.turn(consoles.deadline().map_or(now, |until| now.max(until)));
}

fn print(guest: &Shared, text: &[u8]) {
    let words = guest.words();
    let from = words[771].load(Ordering::Acquire);
    for (at, byte) in (from..).zip(text) {
        let at = 1024 + at as usize % 2048;
        let mut bytes = words[at / 4].load(Ordering::Relaxed).to_le_bytes();
        bytes[at % 4] = *byte;
        words[at / 4].store(u32::from_le_bytes(bytes), Ordering::Relaxed);
    }
    words[771].store(from + text.len() as u32, Ordering::Release);
}

/// The time after `seconds` from now.
fn after(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

fn output(consoles: &mut Consoles, id: ReaderId) -> (Vec<u8>, Option<Option<End>>) {
    let mut all = Vec::new();
    loop {
        let news = consoles.news(|client| client == id.0);
        if news.is_empty() {
            return (all, None);
        }
        for (to, one) in news {
            match one {
                News::Output(bytes) if to == id => all.extend(bytes),
                News::Ended(end) if to == id => return (all, Some(end)),
                _ => panic!("told to another"),
            }
        }
    }
}

#[test]
fn readers_see_the_same_each_from_where_it_came() {
    let mut consoles = Consoles::default();
    let (line, guest, mut bell) = line();
    print(&guest, b"one ");
    consoles.connect("web", 16, line);
    consoles.attach((1, 7), "web", From::Oldest, false);
    consoles.attach((2, 7), "web", From::Now, false);
    print(&guest, b"two");
    serve(&mut consoles, &mut bell);
    assert_eq!(output(&mut consoles, (1, 7)), (b"one two".to_vec(), None));
    assert_eq!(output(&mut consoles, (2, 7)), (b"two".to_vec(), None));
    consoles.attach((3, 1), "web", From::Oldest, true);
    assert_eq!(output(&mut consoles, (3, 1)), (b"one two".to_vec(), Some(None)), "once");
    assert!(consoles.detach((1, 7)));
    assert!(!consoles.detach((1, 7)));
    consoles.client_gone(2);
    assert!(!consoles.has_news(|_| true));
}

#[test]
fn an_end_comes_after_all_output_also_to_who_comes_late() {
    let mut consoles = Consoles::default();
    let (line, guest, _bell) = line();
    consoles.connect("web", 16, line);
    consoles.attach((1, 1), "web", From::Now, false);
    print(&guest, b"last words");
    let end = Some(End { cause: 1, detail: 3 });
    consoles.end("web", end);
    consoles.disconnect("web");
    assert_eq!(output(&mut consoles, (1, 1)), (b"last words".to_vec(), Some(end)));
    consoles.attach((2, 1), "web", From::Oldest, false);
    consoles.retire("web");
    assert_eq!(output(&mut consoles, (2, 1)), (b"last words".to_vec(), Some(end)));
    assert_eq!(consoles.kept("web"), 0, "it went with its last reader");
}

#[test]
fn a_reader_that_does_not_read_is_told_how_much_it_missed() {
    let mut consoles = Consoles::default();
    let (line, guest, mut bell) = line();
    consoles.connect("web", 16, line);
    consoles.attach((1, 1), "web", From::Oldest, false);
    for _ in 0..50 {
        print(&guest, &[b'x'; 2000]);
        serve(&mut consoles, &mut bell);
    }
    let (all, _) = output(&mut consoles, (1, 1));
    let text = String::from_utf8(all).unwrap();
    let missed = 50 * 2000 - history::KEPT;
    assert!(text.starts_with(&format!("\r\n[{missed} bytes of output")), "{}", &text[..80]);
    assert_eq!(text.matches('x').count(), history::KEPT);
}

#[test]
fn a_name_takes_history_and_readers_along() {
    let mut consoles = Consoles::default();
    let (line, guest, mut bell) = line();
    consoles.connect("web", 16, line);
    consoles.attach((1, 1), "web", From::Now, false);
    consoles.rename("web", "www");
    print(&guest, b"hello");
    serve(&mut consoles, &mut bell);
    assert_eq!(output(&mut consoles, (1, 1)).0, b"hello");
    assert!(consoles.is_connected("www") && !consoles.is_connected("web"));
}

#[test]
fn a_reader_begins_with_the_partition_that_it_asks_for() {
    let mut consoles = Consoles::default();
    let (first, guest, _bell) = line();
    consoles.connect("web", 16, first);
    print(&guest, b"earlier");
    consoles.end("web", None);
    consoles.disconnect("web");
    let (second, guest, _bell) = line();
    consoles.connect("web", 17, second);
    print(&guest, b"this");
    consoles.attach((1, 1), "web", From::Partition(17), false);
    assert_eq!(output(&mut consoles, (1, 1)), (b"this".to_vec(), None));
    consoles.attach((2, 1), "web", From::Partition(16), false);
    assert_eq!(output(&mut consoles, (2, 1)), (b"earlierthis".to_vec(), None));
    assert!(consoles.has_begun("web", 17) && !consoles.has_begun("web", 18));
}

#[test]
fn who_reads_the_history_once_is_told_what_it_missed_meanwhile() {
    let mut consoles = Consoles::default();
    let (line, guest, mut bell) = line();
    consoles.connect("web", 16, line);
    print(&guest, &[b'a'; 2000]);
    consoles.attach((1, 1), "web", From::Oldest, true);
    for _ in 0..40 {
        print(&guest, &[b'x'; 2000]);
        serve(&mut consoles, &mut bell);
    }
    let (all, end) = output(&mut consoles, (1, 1));
    assert!(all.starts_with(b"\r\n[2000 bytes of output"), "{all:?}");
    assert_eq!(end, Some(None));
}

/// Reads, as the guest's kernel, at most `most` bytes of typed input.
fn read(guest: &Shared, most: u32) -> Vec<u8> {
    let words = guest.words();
    let (from, to) = (words[768].load(Ordering::Acquire), words[769].load(Ordering::Acquire));
    let until = from + most.min(to - from);
    let byte = |at: usize| words[at % 1024 / 4].load(Ordering::Relaxed).to_le_bytes()[at % 4];
    let bytes = (from..until).map(|at| byte(at as usize)).collect();
    words[768].store(until, Ordering::Release);
    bytes
}

#[test]
fn what_is_typed_is_answered_when_it_is_read() {
    let mut consoles = Consoles::default();
    let (line, guest, mut bell) = line();
    consoles.connect("web", 16, line);
    assert_eq!(consoles.type_in((1, 1), 2, b"x".to_vec()), Err(Unread::NotAttached));
    for client in [1, 2] {
        consoles.attach((client, 1), "web", From::Now, false);
    }
    assert_eq!(consoles.type_in((1, 1), 2, vec![b'x'; 1500]), Ok(()));
    assert_eq!(consoles.type_in((1, 1), 3, b"y".to_vec()), Err(Unread::Busy));
    assert_eq!(consoles.type_in((2, 1), 2, b"z".to_vec()), Ok(()));
    assert_eq!(consoles.type_in((3, 1), 2, vec![]), Err(Unread::NotAttached));
    assert_eq!(consoles.answers(), []);
    assert_eq!(read(&guest, 1024).len(), 1024);
    serve(&mut consoles, &mut bell);
    assert_eq!(consoles.answers(), [], "476 of the first are in the ring");
    assert_eq!(read(&guest, 476).len(), 476);
    serve(&mut consoles, &mut bell);
    assert!(consoles.has_news(|_| false));
    assert_eq!(consoles.answers(), [(1, 2, Ok(()))]);
    assert_eq!(read(&guest, 9), b"z");
    serve(&mut consoles, &mut bell);
    assert_eq!(consoles.answers(), [(2, 2, Ok(()))]);
    let too_long = vec![0; uvd_protocol::MAX_INPUT + 1];
    assert_eq!(consoles.type_in((1, 1), 4, too_long), Err(Unread::TooLong));
}

#[test]
fn who_types_is_told_when_the_guest_ends_or_starts_anew() {
    let mut consoles = Consoles::default();
    let (first, _guest, _bell) = line();
    consoles.connect("web", 16, first);
    for client in [1, 2, 3, 4] {
        consoles.attach((client, 1), "web", From::Now, false);
    }
    consoles.type_in((1, 1), 2, vec![b'x'; 1030]).unwrap();
    consoles.type_in((2, 1), 2, b"waits".to_vec()).unwrap();
    consoles.type_in((3, 1), 2, b"goes".to_vec()).unwrap();
    consoles.type_in((4, 1), 2, b"detaches".to_vec()).unwrap();
    consoles.client_gone(3);
    assert!(consoles.detach((4, 1)));
    assert_eq!(consoles.answers(), [(4, 2, Err(Unread::Ended(8)))]);
    consoles.disconnect("web");
    assert_eq!(consoles.answers(), [(1, 2, Err(Unread::Ended(1030)))]);
    let (second, guest, _bell) = line();
    consoles.connect("web", 17, second);
    assert_eq!(read(&guest, 99), b"waits", "it was not begun, so the next one has it");
    consoles.type_in((1, 1), 3, b"late".to_vec()).unwrap();
    consoles.end("web", None);
    assert_eq!(consoles.answers(), [(2, 2, Ok(())), (1, 3, Err(Unread::Ended(4)))]);
    assert_eq!(consoles.type_in((1, 1), 4, b"x".to_vec()), Err(Unread::Ended(1)));
}

proptest! {
    #[test]
    fn all_that_is_typed_arrives_in_order_however_slowly_it_is_read(
        pieces in proptest::collection::vec(1usize..4097, 1..6),
        most in 1u32..1024,
    ) {
        let mut consoles = Consoles::default();
        let (line, guest, mut bell) = line();
        consoles.connect("web", 16, line);
        consoles.attach((1, 1), "web", From::Now, false);
        let (mut typed, mut arrived) = (Vec::<u8>::new(), Vec::new());
        for (at, count) in pieces.into_iter().enumerate() {
            let piece: Vec<u8> = (0..count).map(|n| (n + at) as u8).collect();
            consoles.type_in((1, 1), at as u64, piece.clone()).unwrap();
            typed.extend(piece);
            while arrived.len() < typed.len() {
                prop_assert_eq!(consoles.answers(), []);
                arrived.extend(read(&guest, most));
                serve(&mut consoles, &mut bell);
            }
            prop_assert_eq!(consoles.answers(), [(1, at as u64, Ok(()))]);
        }
        prop_assert_eq!(typed, arrived);
    }
}

/// A turn serves the consoles that rang; the output of others is taken when they ring.
#[test]
fn a_turn_is_about_the_consoles_that_rang() {
    let mut consoles = Consoles::default();
    let mut guests = Vec::new();
    for number in 0..100 {
        let (line, guest, bell) = line();
        consoles.connect(&format!("g{number}"), number, line);
        print(&guest, b"x");
        guests.push((guest, bell));
    }
    serve(&mut consoles, &mut guests[7].1);
    assert_eq!((consoles.kept("g7"), consoles.kept("g8")), (1, 0));
    assert!(consoles.bells.rung().is_empty(), "served");
    consoles.rename("g8", "web");
    for (_, bell) in &mut guests {
        crate::link::Port::ring(bell);
    }
    consoles.disconnect("g9");
    // A turn serves some of them, so several turns serve all.
    (1..=20).for_each(|second| consoles.turn(after(second)));
    assert!(consoles.bells.rung().is_empty());
    let kept = |name: &str| consoles.kept(name);
    assert!((0..100).all(|number| number == 8 || kept(&format!("g{number}")) == 1));
    assert_eq!((kept("g8"), kept("web")), (0, 1));
}

#[test]
fn a_guest_that_rings_and_prints_without_end_wakes_nobody_for_most_of_the_time() {
    let mut consoles = Consoles::default();
    let ((flood, guest, mut bell), (quiet, other, mut other_bell)) = (line(), line());
    consoles.connect("flood", 16, flood);
    consoles.connect("quiet", 17, quiet);
    consoles.attach((1, 1), "flood", From::Now, false);
    consoles.attach((2, 1), "quiet", From::Now, false);
    let (mut now, mut wakes, mut printed) = (Instant::now(), 0, Vec::<u8>::new());
    let end = now + Duration::from_secs(1);
    while now < end {
        // The port is never quiet, so a waiter is woken at once.
        bell.ring();
        if guest.words()[770].load(Ordering::Acquire) == guest.words()[771].load(Ordering::Acquire)
        {
            let piece = format!("{} ", printed.len());
            print(&guest, piece.as_bytes());
            printed.extend(piece.as_bytes());
        }
        now = match consoles.deadline() {
            None => now + Duration::from_micros(10),
            Some(until) => {
                assert!(consoles.fd().is_none(), "nobody waits for ports meanwhile");
                now.max(until)
            }
        };
        consoles.turn(now);
        wakes += 1;
    }
    // The bounds are 2 % of a second in turns of at least 100 µs, and the saved-up time.
    assert!((20..=220).contains(&wakes), "{wakes}");
    print(&other, b"here");
    other_bell.ring();
    let rests = consoles.deadline().unwrap_or(now);
    consoles.turn(rests);
    assert_eq!(output(&mut consoles, (2, 1)).0, b"here", "it waits for one turn");
    consoles.turn(rests + Duration::from_secs(1));
    assert_eq!(output(&mut consoles, (1, 1)).0, printed, "nothing is lost");
}
