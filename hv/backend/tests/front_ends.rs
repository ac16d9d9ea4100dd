//! The exact sequences of stock front ends, and failovers and removals in the middle of them.

mod play;

use backend::{Cause, Event, Fault, Frontend, Order, Queue, Report, ReportBody, Rings};
use play::{FEATURES, Nodes, Play};

/// The nodes that PV GRUB and a kernel with one queue write.
const ONE_RING: [(&str, &str); 3] =
    [("ring-ref", "8"), ("event-channel", "5"), ("protocol", "x86_64-abi")];

/// The nodes that a kernel with two queues writes.
const TWO_RINGS: [(&str, &str); 7] = [
    ("multi-queue-num-queues", "2"),
    ("queue-0/ring-ref", "20"),
    ("queue-0/event-channel", "6"),
    ("queue-1/ring-ref", "21"),
    ("queue-1/event-channel", "7"),
    ("protocol", "x86_64-abi"),
    ("feature-persistent", "0"),
];

fn rings(queues: &[(&[u32], u32)]) -> Rings {
    let queue = |&(pages, port): &(&[u32], u32)| Queue { pages: pages.to_vec(), port };
    Rings { queues: queues.iter().map(queue).collect() }
}

fn attach(incarnation: u64, rings: Rings) -> Order {
    Order::Attach { incarnation, rings, sectors: FEATURES.sectors }
}

/// An endpoint that a front end with one ring uses.
fn connected() -> Play {
    let mut play = Play::new();
    play.writes(&ONE_RING);
    play.writes(&[("state", "3")]);
    play.reports(1, ReportBody::Attached);
    play.writes(&[("state", "4")]);
    assert_eq!(play.take_states(), [2, 4]);
    assert_eq!(play.take_orders(), [attach(7, rings(&[(&[8], 5)]))]);
    play
}

#[test]
fn the_back_end_waits_with_what_it_offers() {
    let play = Play::new();
    assert_eq!(play.states, [2]);
    for (node, value) in [
        ("online", "1"),
        ("mode", "w"),
        ("info", "0"),
        ("sectors", "2048"),
        ("sector-size", "512"),
        ("physical-sector-size", "4096"),
        ("feature-flush-cache", "1"),
        ("feature-persistent", "0"),
        ("feature-max-indirect-segments", "256"),
        ("multi-queue-max-queues", "4"),
        ("max-ring-page-order", "1"),
        ("feature-discard", "1"),
        ("discard-granularity", "4096"),
        ("discard-alignment", "0"),
        ("discard-secure", "0"),
    ] {
        assert_eq!(play.back.get(node).map(String::as_str), Some(value), "{node}");
    }
}

#[test]
fn a_linux_kernel_connects_and_shuts_down() {
    let mut play = Play::new();
    play.writes(&TWO_RINGS);
    assert_eq!(play.take_orders(), []);
    play.writes(&[("state", "3")]);
    assert_eq!(play.take_orders(), [attach(7, rings(&[(&[20], 6), (&[21], 7)]))]);
    assert_eq!(play.take_states(), [2]);
    play.reports(1, ReportBody::Attached);
    assert_eq!(play.take_states(), [4]);
    play.writes(&[("state", "4")]);

    play.writes(&[("state", "5")]);
    assert_eq!(play.take_states(), [5]);
    // Requests may still be under way.
    assert_eq!(play.take_orders(), []);
    play.writes(&[("state", "6")]);
    assert_eq!(play.take_orders(), [Order::Detach { incarnation: 7 }]);
    assert_eq!(play.take_states(), []);
    play.reports(1, ReportBody::Detached);
    assert_eq!(play.take_states(), [6]);
    assert_eq!(play.incarnation, 8);
    assert_eq!(play.causes, []);
}

#[test]
fn a_ring_of_several_pages_is_attached_whole() {
    let mut play = Play::new();
    play.writes(&[
        ("ring-page-order", "1"),
        ("ring-ref0", "30"),
        ("ring-ref1", "31"),
        ("event-channel", "9"),
        ("protocol", "x86_64-abi"),
        ("state", "3"),
    ]);
    assert_eq!(play.take_orders(), [attach(7, rings(&[(&[30, 31], 9)]))]);
}

#[test]
fn grub_connects_without_a_wait_and_hands_over() {
    let mut play = Play::new();
    for node in ONE_RING {
        play.writes(&[node]);
    }
    play.writes(&[("state", "3")]);
    // GRUB takes any state but 2 for a connection.
    assert_eq!(play.take_states(), [2]);
    play.reports(1, ReportBody::Attached);
    assert_eq!(play.take_states(), [4]);
    play.take_orders();

    // It ends from state 3: it never shows 4.
    play.writes(&[("state", "6")]);
    assert_eq!(play.take_orders(), [Order::Detach { incarnation: 7 }]);
    play.reports(1, ReportBody::Detached);
    assert_eq!(play.take_states(), [6]);
    play.writes(&[("ring-ref", "")]);
    play.writes(&[("event-channel", "")]);
    play.writes(&[("state", "1")]);
    assert_eq!(play.take_states(), [2]);

    // The kernel that it started.
    play.writes(&TWO_RINGS);
    play.writes(&[("state", "3")]);
    assert_eq!(play.take_orders(), [attach(8, rings(&[(&[20], 6), (&[21], 7)]))]);
    assert_eq!(play.causes, []);
}

#[test]
fn another_grub_that_did_not_wait_is_attached() {
    let mut play = connected();
    play.writes(&[("state", "6")]);
    play.reports(1, ReportBody::Detached);
    play.take_orders();
    // State 1 was overwritten before it was seen.
    play.writes(&[("ring-ref", "9"), ("event-channel", "6"), ("state", "3")]);
    assert_eq!(play.take_orders(), [attach(8, rings(&[(&[9], 6)]))]);
}

#[test]
fn a_kernel_started_by_kexec_resets_the_endpoint() {
    let mut play = connected();
    play.writes(&[("state", "5")]);
    assert_eq!(play.take_states(), [5]);
    play.writes(&[("state", "6")]);
    play.reports(1, ReportBody::Detached);
    assert_eq!(play.take_states(), [6]);
    play.writes(&[("state", "1")]);
    assert_eq!(play.take_states(), [2]);
}

#[test]
fn a_crash_kernel_with_one_queue_does_not_offer_the_rings_of_the_kernel_before() {
    let mut play = Play::new();
    play.writes(&TWO_RINGS);
    play.writes(&[("state", "3")]);
    play.reports(1, ReportBody::Attached);
    play.writes(&[("state", "4")]);
    play.writes(&[("state", "5")]);
    play.writes(&[("state", "6")]);
    // Nothing is removed while the rings are attached.
    assert!(play.front.read("multi-queue-num-queues").is_some());
    play.reports(1, ReportBody::Detached);
    assert!(play.front.read("multi-queue-num-queues").is_none());
    play.writes(&[("state", "1")]);
    play.take_orders();
    play.writes(&ONE_RING);
    play.writes(&[("state", "3")]);
    assert_eq!(play.take_orders(), [attach(8, rings(&[(&[8], 5)]))]);
}

#[test]
fn a_kernel_that_resumes_never_sees_the_back_end_close() {
    // It may show 4 before its 3 was looked at.
    for state in ["3", "4"] {
        let mut play = connected();
        play.writes(&[("ring-ref", "12"), ("event-channel", "9")]);
        play.writes(&[("state", state)]);
        assert_eq!(play.take_orders(), [Order::Detach { incarnation: 7 }]);
        play.reports(1, ReportBody::Detached);
        assert_eq!(play.take_orders(), [attach(8, rings(&[(&[12], 9)]))]);
        play.reports(1, ReportBody::Attached);
        assert_eq!(play.take_states(), [4]);
        play.writes(&[("state", "4")]);
        assert_eq!(play.take_orders(), []);
    }
}

#[test]
fn a_kernel_that_resumes_with_the_same_numbers_gets_a_new_incarnation() {
    let mut play = connected();
    play.writes(&[("state", "3")]);
    assert_eq!(play.take_orders(), [Order::Detach { incarnation: 7 }]);
    play.reports(1, ReportBody::Detached);
    assert_eq!(play.take_orders(), [attach(8, rings(&[(&[8], 5)]))]);
}

#[test]
fn a_front_end_that_removes_its_directory_is_detached() {
    let mut play = connected();
    play.front = Nodes::default();
    play.event(Event::Frontend);
    assert_eq!(play.take_orders(), [Order::Detach { incarnation: 7 }]);
    play.reports(1, ReportBody::Detached);
    assert_eq!(play.take_states(), [6]);
    play.writes(&[("state", "1")]);
    assert_eq!(play.take_states(), [2]);
}

#[test]
fn an_offer_waits_for_a_server() {
    let mut play = Play::without_server();
    play.writes(&ONE_RING);
    play.writes(&[("state", "3")]);
    assert_eq!((play.take_orders(), play.take_states()), (vec![], vec![2]));
    play.event(Event::Server(Some(1)));
    assert_eq!(play.take_orders(), [attach(7, rings(&[(&[8], 5)]))]);
}

#[test]
fn a_front_end_that_closes_before_there_was_a_server_is_closed_at_once() {
    let mut play = Play::without_server();
    play.writes(&ONE_RING);
    play.writes(&[("state", "3")]);
    play.writes(&[("state", "6")]);
    assert_eq!(play.take_states(), [2, 6]);
}

#[test]
fn a_front_end_that_changes_its_offer_before_it_is_connected_is_attached_anew() {
    let mut play = Play::new();
    play.writes(&ONE_RING);
    play.writes(&[("state", "3")]);
    play.writes(&[("ring-ref", "9")]);
    assert_eq!(play.take_orders(), [attach(7, rings(&[(&[8], 5)]))]);
    play.reports(1, ReportBody::Attached);
    assert_eq!(play.take_orders(), [Order::Detach { incarnation: 7 }]);
    play.reports(1, ReportBody::Detached);
    assert_eq!(play.take_orders(), [attach(8, rings(&[(&[9], 5)]))]);
}

#[test]
fn a_failover_repeats_the_attach_and_the_front_end_sees_nothing() {
    let mut play = connected();
    play.event(Event::Server(None));
    // What the dead server said last is not heard.
    play.reports(1, ReportBody::Broken("late".into()));
    play.event(Event::Server(Some(2)));
    assert_eq!(play.take_orders(), [attach(7, rings(&[(&[8], 5)]))]);
    play.reports(1, ReportBody::Detached);
    play.reports(2, ReportBody::Attached);
    assert_eq!((play.take_states(), play.take_orders()), (vec![], vec![]));
    assert_eq!(play.causes, []);
}

#[test]
fn a_front_end_that_closes_during_a_failover_waits_for_the_successor() {
    let mut play = connected();
    play.event(Event::Server(None));
    play.writes(&[("state", "5")]);
    play.writes(&[("state", "6")]);
    assert_eq!((play.take_states(), play.take_orders()), (vec![], vec![]));
    play.event(Event::Server(Some(2)));
    // The successor discards and issues nothing again.
    assert_eq!(play.take_orders(), [Order::Detach { incarnation: 7 }]);
    play.reports(2, ReportBody::Detached);
    assert_eq!(play.take_states(), [6]);
}

#[test]
fn an_answer_for_an_old_incarnation_changes_nothing() {
    let mut play = connected();
    play.writes(&[("state", "6")]);
    play.reports(1, ReportBody::Detached);
    play.writes(&[("state", "1")]);
    play.writes(&[("ring-ref", "9"), ("state", "3")]);
    let before = play.clone();
    for body in [
        ReportBody::Attached,
        ReportBody::Refused("late".into()),
        ReportBody::Broken("late".into()),
        ReportBody::MediumFailed("late".into()),
        ReportBody::Resized(1),
        ReportBody::Detached,
    ] {
        for (epoch, incarnation) in [(1, 7), (0, 8), (2, 8)] {
            let report = Report { epoch, incarnation, body: body.clone() };
            assert_eq!(play.event(Event::Report(report)), 0);
        }
    }
    assert_eq!(play, before);
}

#[test]
fn a_front_end_that_grows_hears_of_it_after_the_server() {
    let mut play = connected();
    play.event(Event::Resize(4096));
    assert_eq!(play.take_orders(), [Order::Resize { incarnation: 7, sectors: 4096 }]);
    assert_eq!(play.back["sectors"], "2048");
    play.reports(1, ReportBody::Resized(4096));
    assert_eq!(play.back["sectors"], "4096");
    assert_eq!(play.take_states(), [4]);
}

#[test]
fn of_several_changes_of_size_the_last_one_is_shown() {
    let mut play = connected();
    play.event(Event::Resize(4096));
    play.event(Event::Resize(8192));
    play.reports(1, ReportBody::Resized(4096));
    assert_eq!((play.take_states(), play.back["sectors"].as_str()), (vec![], "2048"));
    play.reports(1, ReportBody::Resized(8192));
    assert_eq!((play.take_states(), play.back["sectors"].as_str()), (vec![4], "8192"));
}

#[test]
fn growth_during_a_failover_is_in_the_attach() {
    let mut play = connected();
    play.event(Event::Server(None));
    play.event(Event::Resize(4096));
    assert_eq!(play.take_states(), []);
    play.event(Event::Server(Some(2)));
    let rings = rings(&[(&[8], 5)]);
    assert_eq!(play.take_orders(), [Order::Attach { incarnation: 7, rings, sectors: 4096 }]);
    play.reports(2, ReportBody::Attached);
    assert_eq!((play.take_states(), play.back["sectors"].as_str()), (vec![4], "4096"));
}

#[test]
fn an_endpoint_that_is_removed_asks_its_front_end() {
    let mut play = connected();
    play.event(Event::Remove);
    assert_eq!((play.take_states(), play.back["online"].as_str()), (vec![5], "0"));
    play.writes(&[("state", "6")]);
    play.reports(1, ReportBody::Detached);
    assert_eq!(play.take_states(), [6]);
    assert!(play.gone);
}

#[test]
fn an_endpoint_that_is_removed_during_a_failover_asks_after_it() {
    let mut play = connected();
    play.event(Event::Server(None));
    play.event(Event::Remove);
    assert_eq!(play.take_states(), []);
    play.event(Event::Server(Some(2)));
    assert_eq!(play.take_states(), []);
    play.reports(2, ReportBody::Attached);
    assert_eq!(play.take_states(), [5]);
}

#[test]
fn an_endpoint_whose_client_is_destroyed_asks_nobody() {
    let mut play = connected();
    play.event(Event::Destroy);
    assert_eq!(play.take_orders(), [Order::Detach { incarnation: 7 }]);
    assert!(!play.gone);
    play.reports(1, ReportBody::Detached);
    assert!(play.gone);
    let mut unused = Play::new();
    unused.event(Event::Destroy);
    assert!(unused.gone);
}

#[test]
fn an_endpoint_that_is_removed_before_it_connected_goes_at_once() {
    let mut play = Play::new();
    play.writes(&ONE_RING);
    play.writes(&[("state", "3")]);
    play.event(Event::Remove);
    play.reports(1, ReportBody::Detached);
    assert!(play.gone);
    assert_eq!(play.take_states(), [2, 6]);
}

#[test]
fn a_broken_ring_closes_the_back_end_until_the_front_end_begins_again() {
    let mut play = connected();
    play.reports(1, ReportBody::Broken("req_prod is 99".into()));
    assert_eq!(play.take_orders(), [Order::Detach { incarnation: 7 }]);
    assert_eq!(play.take_states(), []);
    play.reports(1, ReportBody::Detached);
    assert_eq!(play.take_states(), [6]);
    assert_eq!(play.causes, [Cause::Broken("req_prod is 99".into())]);
    // The same offer is not attached again.
    play.event(Event::Frontend);
    play.writes(&[("state", "3")]);
    assert_eq!(play.take_orders(), []);
    play.writes(&[("state", "6")]);
    play.writes(&[("state", "1")]);
    assert_eq!(play.take_states(), [2]);
    play.writes(&[("state", "3")]);
    assert_eq!(play.take_orders(), [attach(8, rings(&[(&[8], 5)]))]);
}

#[test]
fn rings_that_the_server_refuses_close_the_back_end() {
    let mut play = Play::new();
    play.writes(&ONE_RING);
    play.writes(&[("state", "3")]);
    play.reports(1, ReportBody::Refused("grant 8 is not there".into()));
    assert_eq!(play.take_states(), [2, 6]);
    assert_eq!(play.causes, [Cause::Refused("grant 8 is not there".into())]);
    assert_eq!(play.incarnation, 8);
}

#[test]
fn a_medium_that_failed_closes_the_back_end_with_the_front_ends_consent() {
    let mut play = connected();
    play.reports(1, ReportBody::MediumFailed("a flush failed".into()));
    assert_eq!((play.take_states(), play.take_orders()), (vec![5], vec![]));
    assert_eq!(play.causes, [Cause::MediumFailed("a flush failed".into())]);
    // A successor does not take that back.
    play.event(Event::Server(Some(2)));
    play.reports(2, ReportBody::Attached);
    assert_eq!(play.take_states(), []);
}

#[test]
fn an_offer_that_cannot_be_names_node_and_way_out() {
    let two = |node, value| {
        let mut nodes = TWO_RINGS.to_vec();
        nodes.retain(|(name, _)| *name != node);
        if value != "-" {
            nodes.push((node, value));
        }
        nodes
    };
    for (nodes, said) in [
        (two("queue-1/ring-ref", "-"), "queue-1/ring-ref: is missing; write it before state 3"),
        (
            two("queue-1/ring-ref", "20"),
            "queue-1/ring-ref: another node names 20 as well; give each ring its own",
        ),
        (
            two("queue-1/event-channel", "6"),
            "queue-1/event-channel: another node names 6 as well; give each ring its own",
        ),
        (
            two("queue-0/event-channel", "0"),
            "queue-0/event-channel: 0 is not from 1 to 4294967295; write a number that is",
        ),
        (
            two("multi-queue-num-queues", "5"),
            "multi-queue-num-queues: 5 is not from 1 to 4; write a number that is",
        ),
        (
            two("multi-queue-num-queues", "0"),
            "multi-queue-num-queues: 0 is not from 1 to 4; write a number that is",
        ),
        (
            two("ring-page-order", "2"),
            "ring-page-order: 2 is not from 0 to 1; write a number that is",
        ),
        (
            two("queue-0/ring-ref", "-1"),
            "queue-0/ring-ref: is not a number from 0 to 4294967295; write decimal digits",
        ),
        (
            two("queue-0/ring-ref", "4294967296"),
            "queue-0/ring-ref: is not a number from 0 to 4294967295; write decimal digits",
        ),
        (
            two("queue-0/ring-ref", ""),
            "queue-0/ring-ref: is not a number from 0 to 4294967295; write decimal digits",
        ),
        (two("protocol", "x86_32-abi"), "protocol: only x86_64-abi is served; use a 64-bit kernel"),
        (two("state", "7"), "state: is not a number from 1 to 6; write 1 to begin again"),
        (two("state", "x"), "state: is not a number from 1 to 6; write 1 to begin again"),
    ] {
        let mut play = Play::new();
        play.front.0.insert("state".into(), b"3".to_vec());
        play.writes(&nodes);
        let causes: Vec<_> = play.causes.iter().map(ToString::to_string).collect();
        assert_eq!(causes, [said]);
        assert_eq!((play.take_states(), play.take_orders()), (vec![2, 6], vec![]), "{said}");
        // It is said once.
        play.event(Event::Frontend);
        assert_eq!(play.causes.len(), 1);
        // The way out works.
        play.writes(&[("state", "1")]);
        assert_eq!(play.take_states(), [2], "{said}");
        play.front.0.retain(|node, _| node == "state");
        play.writes(&TWO_RINGS);
        play.writes(&[("state", "3")]);
        assert_eq!(play.take_orders().len(), 1, "{said}");
    }
}

#[test]
fn a_state_that_is_none_detaches_a_front_end() {
    let mut play = connected();
    play.writes(&[("state", "99")]);
    assert_eq!(play.take_orders(), [Order::Detach { incarnation: 7 }]);
    play.reports(1, ReportBody::Detached);
    assert_eq!((play.take_states(), play.causes), (vec![6], vec![Cause::Frontend(Fault::State)]));
}
