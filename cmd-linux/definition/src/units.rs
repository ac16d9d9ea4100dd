//! Reads and writes sizes and lists of CPUs.

pub use rules::size;
pub(crate) use rules::{SizeError, parse_size};

/// Reads a number as C's `strtol` does in base 0, with nothing after it. The error is the number in
/// base 8, or `None` if the text is not a number.
pub(crate) fn parse_c_number(text: &str) -> Result<i128, Option<i128>> {
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => (-1, text.get(1..).unwrap_or_default()),
        Some(b'+') => (1, text.get(1..).unwrap_or_default()),
        _ => (1, text),
    };
    let radix = |base: u32, digits: &str| {
        let all = !digits.is_empty() && digits.chars().all(|c| c.is_digit(base));
        // A number that is too large becomes the largest.
        all.then(|| sign * i128::from_str_radix(digits, base).unwrap_or(i128::MAX))
    };
    if let Some(digits) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        return radix(16, digits).ok_or(None);
    }
    match digits.strip_prefix('0') {
        Some(rest) if !rest.is_empty() => Err(radix(8, rest)),
        _ => radix(10, digits).ok_or(None),
    }
}

/// The highest number that a physical CPU may have; the lowest is 0.
pub(crate) const MAX_CPU: u32 = 255;

/// Reads CPUs such as `0-3,5`, in that order; the error is the part that makes no sense.
pub(crate) fn parse_cpus(text: &str) -> Result<Vec<u32>, String> {
    let mut cpus = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|cpu| *cpu <= MAX_CPU);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => cpus.extend(first..=last),
            _ => return Err(part.to_owned()),
        }
    }
    Ok(cpus)
}

/// Writes CPUs in the form that [`parse_cpus`] reads.
#[must_use]
pub fn cpus(cpus: &[u32]) -> String {
    let mut parts = Vec::new();
    let mut rest = cpus;
    while let Some((&first, _)) = rest.split_first() {
        let run = rest.iter().zip(first..).take_while(|(cpu, expected)| *cpu == expected).count();
        let last = rest[run - 1];
        parts.push(if run == 1 { format!("{first}") } else { format!("{first}-{last}") });
        rest = &rest[run..];
    }
    parts.join(",")
}
