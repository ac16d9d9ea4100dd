//! Quantities on the command line: sizes of memory, lists of CPUs.

/// The most physical CPUs of a machine, as in the ultravisor.
const CPUS: u32 = 256;

/// Parses a number of bytes; K, M, G or T stand for powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..).unwrap_or_default() {
        "" => 0,
        "k" | "K" | "KiB" => 10,
        "m" | "M" | "MiB" => 20,
        "g" | "G" | "GiB" => 30,
        "t" | "T" | "TiB" => 40,
        _ => return Err(wrong_size(text)),
    };
    let number: u64 = digits.parse().map_err(|_| wrong_size(text))?;
    number.checked_mul(1 << shift).filter(|&bytes| bytes > 0).ok_or_else(|| wrong_size(text))
}

fn wrong_size(text: &str) -> String {
    format!("{text:?} is no size; give a number of bytes, or one with K, M or G, as in 256M")
}

/// Parses CPUs: numbers and ranges, as in `0-2,5`; the result is sorted and has each CPU once.
pub fn cpus(text: &str) -> Result<Vec<u32>, String> {
    let wrong = || format!("{text:?} is no list of CPUs; give numbers and ranges, as in 0-2,5");
    let mut all = std::collections::BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
        let (first, last) = (number(first)?, number(last)?);
        if last >= CPUS {
            return Err(format!("CPU {last} is too high; a machine has at most {CPUS}"));
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
            assert!(size(bad).unwrap_err().contains("256M"), "{bad}");
        }
    }

    #[test]
    fn lists_are_sorted_and_bounded() {
        assert_eq!(cpus("5,0-2,1"), Ok(vec![0, 1, 2, 5]));
        for bad in ["", "a", "2-1", "1-", "0,,1"] {
            assert!(cpus(bad).unwrap_err().contains("0-2,5"), "{bad}");
        }
        assert!(cpus("0-4000000000").unwrap_err().contains("at most 256"));
    }
}
