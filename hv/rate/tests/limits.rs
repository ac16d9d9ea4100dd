//! Limits over 20 seconds of a client that always has a request.

use rate::{Bucket, Limit, Limiter};

const SECOND: u64 = 1_000_000_000;

/// Runs for 20 seconds; returns operations and bytes.
fn flood(limiter: &mut Limiter, sizes: &[u64]) -> (u64, u64) {
    let (mut now, mut operations, mut bytes) = (0, 0, 0);
    for &size in sizes.iter().cycle() {
        while let Err(ready) = limiter.admit(size, now) {
            assert!(ready > now);
            now = ready;
        }
        if now >= 20 * SECOND {
            break;
        }
        operations += 1;
        bytes += size;
    }
    (operations, bytes)
}

fn within_3_percent(found: u64, expected: u64) -> bool {
    found.abs_diff(expected) * 100 <= expected * 3
}

#[test]
fn over_20_seconds_limits_hold_within_3_percent() {
    for (rate, burst, sizes) in [
        (1_000_000, 100_000, &[4096][..]),
        (50_000_000, 1_000_000, &[512, 131_072, 4096]),
        // Each request is larger than the burst.
        (3_000_000, 512, &[131_072]),
    ] {
        let bytes = Some(Bucket::new(Limit { per_second: rate, burst }, 0));
        let (_, found) = flood(&mut Limiter { bytes, operations: None }, sizes);
        assert!(within_3_percent(found, 20 * rate), "{found} of {}", 20 * rate);
    }
    let operations = Some(Bucket::new(Limit { per_second: 777, burst: 10 }, 0));
    let (found, _) = flood(&mut Limiter { bytes: None, operations }, &[4096]);
    assert!(within_3_percent(found, 20 * 777), "{found}");
}

#[test]
fn the_lower_of_two_limits_holds() {
    let bytes = Some(Bucket::new(Limit { per_second: 1_000_000, burst: 10_000 }, 0));
    let operations = Some(Bucket::new(Limit { per_second: 100, burst: 1 }, 0));
    let (found, _) = flood(&mut Limiter { bytes, operations }, &[4096]);
    assert!(within_3_percent(found, 2000), "{found}");
}

#[test]
fn a_burst_passes_at_once_and_a_change_keeps_what_is_owed() {
    let mut bucket = Bucket::new(Limit { per_second: 10, burst: 5 }, 0);
    bucket.charge(6);
    assert_eq!(bucket.ready_at(0), SECOND / 10 + 1);
    bucket.set_limit(Limit { per_second: 1, burst: 100 }, 0);
    assert_eq!(bucket.ready_at(0), SECOND + 1);
    // A clock that goes back stands still; no rate is none.
    assert_eq!(bucket.ready_at(SECOND + 1), SECOND + 1);
    assert_eq!(bucket.ready_at(SECOND / 2), SECOND / 2);
    bucket.set_limit(Limit { per_second: 0, burst: 0 }, SECOND + 1);
    bucket.charge(3);
    assert!(bucket.ready_at(SECOND + 1) <= 4 * SECOND + 1);
}
