use super::*;
use proptest::prelude::*;

fn on(poweroff: Policy, reboot: Policy, crash: Policy) -> Policies {
    Policies { poweroff, reboot, crash }
}

#[test]
fn each_end_has_its_policy() {
    let on = on(Policy::Destroy, Policy::Restart, Policy::Preserve);
    let end = |cause, detail| policy(&on, End { cause, detail });
    assert_eq!(end(cause::SHUTDOWN, 0), Policy::Destroy);
    assert_eq!(end(cause::SHUTDOWN, 1), Policy::Restart);
    assert_eq!(end(cause::SHUTDOWN, 2), Policy::Preserve, "a suspend");
    assert_eq!(end(cause::SHUTDOWN, 3), Policy::Preserve);
    assert_eq!(end(cause::UNHANDLED_TRAP, 1), Policy::Preserve);
}

#[test]
fn restarts_wait_longer_and_longer_and_then_stop() {
    let (mut restarts, now) = (Restarts::default(), Instant::now());
    let waits: Vec<_> =
        (0..7).map(|_| restarts.next("web", now).map(|one| one.as_secs())).collect();
    assert_eq!(waits, [Some(0), Some(1), Some(2), Some(4), Some(8), None, None]);
    assert_eq!(restarts.next("db", now), Some(Duration::ZERO), "each for itself");
    assert_eq!(restarts.next("web", now + WINDOW), Some(Duration::ZERO), "after a while");
}

proptest! {
    #[test]
    fn no_window_has_more_restarts_than_the_limit(
        gaps in proptest::collection::vec(0u64..30, 1..60),
    ) {
        let (mut restarts, mut now) = (Restarts::default(), Instant::now());
        let mut done: Vec<Instant> = Vec::new();
        for gap in gaps {
            now += Duration::from_secs(gap);
            if restarts.next("web", now).is_some() {
                done.push(now);
            }
            let recent = done.iter().filter(|time| now - **time < WINDOW).count();
            prop_assert!(recent <= MOST, "{recent}");
            prop_assert!(recent > 0, "a first one is always due");
        }
    }
}

#[test]
fn one_that_ends_while_it_is_started_anew_is_started_anew_still() {
    let pool = futures_executor::LocalPool::new();
    let context = crate::tests::context(&pool);
    context.guests.begin_restart("web");
    context.guests.begin_restart("web");
    context.guests.end_restart("web", &context.changed);
    assert!(context.guests.is_restarting("web") && !context.guests.is_restarting("db"));
    context.guests.end_restart("web", &context.changed);
    assert!(!context.guests.is_restarting("web"));
}
