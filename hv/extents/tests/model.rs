//! Random endpoints on small devices, beside a list that has the place of every sector.

use extents::{EXTENTS_MAX, Extent, Layout, Outside, Refused, check_apart, check_growth};
use proptest::prelude::*;

const DEVICES: [u64; 2] = [48, 40];

fn device_sectors(device: u32) -> Option<u64> {
    DEVICES.get(usize::try_from(device).unwrap()).copied()
}

/// The place of each sector of an endpoint, if its extents exist.
fn model(extents: &[Extent]) -> Vec<(u32, u64)> {
    extents
        .iter()
        .flat_map(|extent| (0..extent.sectors).map(|at| (extent.device, extent.start + at)))
        .collect()
}

fn is_legal(extents: &[Extent]) -> bool {
    let mut places = model(extents);
    let count = places.len();
    places.sort_unstable();
    places.dedup();
    !extents.is_empty()
        && extents.iter().all(|extent| extent.sectors > 0)
        && places.len() == count
        && places.iter().all(|&(device, at)| device_sectors(device).is_some_and(|end| at < end))
}

fn extent() -> impl Strategy<Value = Extent> {
    (0..20u32, 0..44u64, 0..20u64).prop_map(|(device, start, sectors)| Extent {
        // One in twenty is on a device that does not exist.
        device: if device == 19 { 2 } else { device % 2 },
        start,
        sectors,
    })
}

/// Extents of which few overlap: random cuts of the devices, in a random order.
fn cuts() -> impl Strategy<Value = Vec<Extent>> {
    let part = (0..2u32, 0..6u64, 1..=8u64);
    prop::collection::vec(part, 1..6).prop_map(|parts| {
        parts
            .into_iter()
            .map(|(device, slot, sectors)| Extent { device, start: slot * 8, sectors })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn a_list_is_accepted_exactly_if_the_model_accepts_it(
        extents in prop_oneof![prop::collection::vec(extent(), 0..5), cuts()],
    ) {
        let layout = Layout::new(&extents, device_sectors);
        prop_assert_eq!(layout.is_ok(), is_legal(&extents), "{:?}", layout);
        if let Ok(layout) = layout {
            prop_assert_eq!(layout.sectors(), model(&extents).len() as u64);
        }
    }

    #[test]
    fn a_request_is_split_into_exactly_its_sectors(
        extents in cuts(), sector in 0..60u64, sectors in 0..60u64,
    ) {
        let Ok(layout) = Layout::new(&extents, device_sectors) else { return Ok(()) };
        let places = model(&extents);
        let end = usize::try_from(sector + sectors).unwrap();
        let Some(expected) = places.get(usize::try_from(sector).unwrap()..end) else {
            let outside = Outside { sectors: layout.sectors() };
            prop_assert_eq!(layout.translate(sector, sectors).err(), Some(outside));
            return Ok(());
        };
        let mut found = Vec::new();
        for piece in layout.translate(sector, sectors).unwrap() {
            prop_assert_eq!(piece.offset, found.len() as u64);
            prop_assert!(piece.extent.sectors > 0);
            found.extend(model(&[piece.extent]));
        }
        prop_assert_eq!(&found[..], expected);
    }

    #[test]
    fn endpoints_are_apart_exactly_if_no_sector_is_in_both(one in cuts(), other in cuts()) {
        let (Ok(a), Ok(b)) =
            (Layout::new(&one, device_sectors), Layout::new(&other, device_sectors))
        else { return Ok(()) };
        let (one, other) = (model(&one), model(&other));
        match check_apart(&a, &b) {
            Ok(()) => prop_assert!(one.iter().all(|place| !other.contains(place))),
            Err(Refused::Overlap { common }) => {
                let common = model(&[common]);
                prop_assert!(!common.is_empty());
                prop_assert!(common.iter().all(|at| one.contains(at) && other.contains(at)));
            }
            Err(refused) => prop_assert!(false, "{:?}", refused),
        }
    }

    #[test]
    fn growth_keeps_every_sector_in_its_place(
        old in cuts(), more in cuts(), change in 0..4u8, cut in 1..8u64,
    ) {
        let mut new = old.clone();
        match change {
            // The same sectors, and more; the last extent grows; it shrinks; another list.
            0 => new.extend(&more),
            1 => new.last_mut().unwrap().sectors += cut,
            2 => new.last_mut().unwrap().sectors =
                new.last().unwrap().sectors.saturating_sub(cut).max(1),
            _ => new.clone_from(&more),
        }
        let (Ok(a), Ok(b)) = (Layout::new(&old, device_sectors), Layout::new(&new, device_sectors))
        else { return Ok(()) };
        let (old, new) = (model(&old), model(&new));
        match check_growth(&a, &b) {
            Ok(()) => prop_assert!(new.starts_with(&old)),
            Err(Refused::Shrinks { from, to }) => {
                prop_assert!(new.len() < old.len());
                prop_assert_eq!((from, to), (old.len() as u64, new.len() as u64));
            }
            Err(Refused::Moves { sector }) => {
                let at = usize::try_from(sector).unwrap();
                prop_assert!(new[..at] == old[..at] && new[at] != old[at]);
            }
            Err(refused) => prop_assert!(false, "{:?}", refused),
        }
    }
}

#[test]
fn an_endpoint_may_be_cut_anew_where_its_sectors_stay() {
    let whole = [Extent { device: 0, start: 4, sectors: 20 }];
    let parts = [
        Extent { device: 0, start: 4, sectors: 5 },
        Extent { device: 0, start: 9, sectors: 15 },
        Extent { device: 1, start: 0, sectors: 1 },
    ];
    let whole = Layout::new(&whole, device_sectors).unwrap();
    let parts = Layout::new(&parts, device_sectors).unwrap();
    assert_eq!(check_growth(&whole, &parts), Ok(()));
    assert_eq!(check_growth(&parts, &whole), Err(Refused::Shrinks { from: 21, to: 20 }));
}

#[test]
fn numbers_at_the_end_do_not_wrap() {
    let end = Extent { device: 0, start: u64::MAX, sectors: 2 };
    let past = Refused::PastEnd { at: 0, device_sectors: u64::MAX };
    assert_eq!(Layout::new(&[end], |_| Some(u64::MAX)), Err(past));
    let huge = [0, 1, 2].map(|device| Extent { device, start: 0, sectors: 1 << 63 });
    let past = Refused::PastEnd { at: 1, device_sectors: 1 << 63 };
    assert_eq!(Layout::new(&huge, |_| Some(1 << 63)), Err(past));
    let layout = Layout::new(&huge[..1], |_| Some(1 << 63)).unwrap();
    assert!(layout.translate(1, u64::MAX).is_err());
    let many = [Extent { device: 0, start: 0, sectors: 1 }; EXTENTS_MAX + 1];
    let count = Refused::Count { extents: EXTENTS_MAX + 1 };
    assert_eq!(Layout::new(&many, device_sectors), Err(count));
}
