//! Quantities on the command line: sizes of memory, lists of CPUs.

use uvd_protocol::Sentence;

/// The most physical CPUs of a machine, as in the ultravisor.
const CPUS: u32 = 256;

/// Parses a size of memory; a number without a unit is in bytes.
pub fn size(text: &str) -> Result<u64, Sentence> {
    rules::parse_bytes(text).ok().filter(|&bytes| bytes > 0).ok_or_else(|| {
        let way_out = "give a number of bytes, or one with K, M or G, as in 256M";
        Sentence::new(format!("{text:?} is not a size"), way_out)
    })
}

/// Parses CPUs: numbers and ranges, as in `0-2,5`; the result is sorted and has each CPU once.
pub fn cpus(text: &str) -> Result<Vec<u32>, Sentence> {
    let wrong = || {
        let way_out = "give numbers and ranges, as in 0-2,5";
        Sentence::new(format!("{text:?} is not a list of CPUs"), way_out)
    };
    let mut all = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
        let (first, last) = (number(first)?, number(last)?);
        if last >= CPUS {
            let problem = format!("CPU {last} is too high");
            return Err(Sentence::new(problem, format!("a machine has at most {CPUS}")));
        }
        if first > last {
            return Err(wrong());
        }
        all.extend(first..=last);
    }
    Ok(all.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(
            (size("4096"), size("256M"), size("1GiB")),
            (Ok(4096), Ok(256 << 20), Ok(1 << 30))
        );
        for bad in ["", "M", "0", "1X", "-1", "1.5G", "99999999999T"] {
            assert!(size(bad).unwrap_err().to_string().contains("256M"), "{bad}");
        }
    }

    #[test]
    fn lists_are_sorted_and_bounded() {
        assert_eq!(cpus("5,0-2,1"), Ok(vec![0, 1, 2, 5]));
        for bad in ["", "a", "2-1", "1-", "0,,1"] {
            assert!(cpus(bad).unwrap_err().to_string().contains("0-2,5"), "{bad}");
        }
        assert!(cpus("0-4000000000").unwrap_err().to_string().contains("at most 256"));
    }
}
