use super::*;
use crate::devices::Shared;
use crate::tests::{Bell, memory};
use proptest::prelude::*;
use std::sync::atomic::Ordering;

/// A line and the guest's end of it.
fn line() -> (Line, Shared, Bell) {
    let page = memory(1);
    let (ours, guest) = (Shared::map(&page, 0, 1).unwrap(), Shared::map(&page, 0, 1).unwrap());
    let (bell, far) = Bell::pair();
    (Line::new(ours, Box::new(far)), guest, bell)
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
    let (line, guest, _bell) = line();
    print(&guest, b"one ");
    consoles.connect("web", line);
    consoles.attach((1, 7), "web", true, false);
    consoles.attach((2, 7), "web", false, false);
    print(&guest, b"two");
    consoles.turn();
    assert_eq!(output(&mut consoles, (1, 7)), (b"one two".to_vec(), None));
    assert_eq!(output(&mut consoles, (2, 7)), (b"two".to_vec(), None));
    consoles.attach((3, 1), "web", true, true);
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
    consoles.connect("web", line);
    consoles.attach((1, 1), "web", false, false);
    print(&guest, b"last words");
    let end = Some(End { cause: 1, detail: 3 });
    consoles.end("web", end);
    consoles.disconnect("web");
    assert_eq!(output(&mut consoles, (1, 1)), (b"last words".to_vec(), Some(end)));
    consoles.attach((2, 1), "web", true, false);
    consoles.retire("web");
    assert_eq!(output(&mut consoles, (2, 1)), (b"last words".to_vec(), Some(end)));
    assert_eq!(consoles.kept("web"), 0, "it went with its last reader");
}

#[test]
fn a_reader_that_does_not_read_is_told_how_much_it_missed() {
    let mut consoles = Consoles::default();
    let (line, guest, _bell) = line();
    consoles.connect("web", line);
    consoles.attach((1, 1), "web", true, false);
    for _ in 0..50 {
        print(&guest, &[b'x'; 2000]);
        consoles.turn();
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
    let (line, guest, _bell) = line();
    consoles.connect("web", line);
    consoles.attach((1, 1), "web", false, false);
    consoles.rename("web", "www");
    print(&guest, b"hello");
    consoles.turn();
    assert_eq!(output(&mut consoles, (1, 1)).0, b"hello");
    assert!(consoles.is_connected("www") && !consoles.is_connected("web"));
}

proptest! {
    #[test]
    fn what_is_typed_arrives_in_order_however_slowly_it_is_read(
        pieces in proptest::collection::vec(1usize..900, 1..12),
        read in 1u32..1024,
    ) {
        let mut consoles = Consoles::default();
        let (line, guest, _bell) = line();
        let words = guest.words();
        consoles.connect("web", line);
        consoles.attach((1, 1), "web", false, false);
        let (mut typed, mut arrived) = (Vec::<u8>::new(), Vec::new());
        let take = |consoles: &mut Consoles, arrived: &mut Vec<u8>| {
            let (from, to) = (words[768].load(Ordering::Acquire), words[769].load(Ordering::Acquire));
            let until = from + read.min(to - from);
            for at in from..until {
                let at = at as usize % 1024;
                arrived.push(words[at / 4].load(Ordering::Relaxed).to_le_bytes()[at % 4]);
            }
            words[768].store(until, Ordering::Release);
            consoles.turn();
            from != to
        };
        for (at, count) in pieces.into_iter().enumerate() {
            let piece: Vec<u8> = (0..count).map(|n| (n + at) as u8).collect();
            let over = consoles.type_in((1, 1), &piece).unwrap();
            typed.extend(&piece[..count - over]);
            take(&mut consoles, &mut arrived);
        }
        while take(&mut consoles, &mut arrived) {}
        prop_assert_eq!(typed, arrived);
    }
}
