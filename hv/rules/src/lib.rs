//! The values that a field of a partition may have: one validator for each field.
//!
//! A value comes from a file, an option, a request to `uvd`, an undo, or an operation on the
//! command channel. Rule: all of these paths call the validators here, so that none accepts a value
//! that another refuses. Limits that depend on the machine or on other partitions (room, taken
//! names, CPUs) are checked where those are known.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::format;
use alloc::string::String;
use core::ops::RangeInclusive;

use control::build::MAX_COMMAND_LINE;
use pv_abi::uv::database::{MAX_GRANT_FRAMES, MAX_VCPUS};

/// Maximum number of bytes of a name: the descriptor's field without its final zero.
pub const MAX_NAME: usize = 31;
/// Limits of a partition's memory, in bytes; the maximum is as much as the page map can describe.
pub const MEMORY: RangeInclusive<u64> = 1 << 20..=4 << 40;
/// Limits of a partition's share of CPU time.
pub const WEIGHT: RangeInclusive<u32> = 1..=65_535;
/// Limits of the number of virtual CPUs.
pub const VCPUS: RangeInclusive<u32> = 1..=MAX_VCPUS;
/// Limits of the number of frames in a grant table.
pub const GRANT_FRAMES: RangeInclusive<u32> = 1..=MAX_GRANT_FRAMES;
/// Limits of the number of a GPT partition.
pub const GPT_PARTITIONS: RangeInclusive<u32> = 1..=128;
/// Names of the partitions of the host itself.
pub const HOST_NAMES: [&str; 9] =
    ["monitor", "ultravisor", "boot", "command", "io-a", "io-b", "io-c", "io-d", "firmware"];

const PAGE: u64 = pv_abi::PAGE_SIZE as u64;

/// A value that a field does not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The defect of the value, with the limit.
    pub problem: String,
    /// The value to give instead.
    pub way_out: String,
}

fn wrong(problem: String, way_out: impl Into<String>) -> Result<(), Wrong> {
    Err(Wrong { problem, way_out: way_out.into() })
}

/// A text quoted for a message: shortened, with control characters escaped.
#[must_use]
pub fn quoted(text: &str) -> String {
    const MOST_SHOWN: usize = 60;
    let shown: String = text.chars().take(MOST_SHOWN).collect();
    let more = if shown.len() < text.len() { "…" } else { "" };
    format!("{:?}", shown + more)
}

/// Checks that a partition, or a domain, may have this name.
///
/// # Errors
/// The reason why it may not; see [`Wrong`].
pub fn name(name: &str) -> Result<(), Wrong> {
    let (bytes, shown) = (name.len(), || quoted(name));
    // In a name of plain characters, which most are, nothing else can be wrong.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_letter = |byte: u8| !byte.is_ascii_digit();
    if bytes <= MAX_NAME && name.bytes().all(is_plain) && name.bytes().any(is_letter) {
        return Ok(());
    }
    if !(1..=MAX_NAME).contains(&bytes) {
        let problem = format!("{} has {bytes} bytes", shown());
        return wrong(problem, format!("give 1 to {MAX_NAME} bytes"));
    }
    if let Some(unfit) = name.chars().find(|c| c.is_control() || ['/', '"'].contains(c)) {
        let way_out = "give a name without control characters, '/' and '\"'";
        return wrong(format!("{} has {unfit:?} in it", shown()), way_out);
    }
    if let Some(unseen) = name.chars().find(|&c| is_unseen(c)) {
        let code = u32::from(unseen);
        let problem = format!("{} has U+{code:04X} in it, which nobody sees", shown());
        return wrong(problem, "leave the character out");
    }
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        let problem = format!("{} would be taken for a partition's number", shown());
        return wrong(problem, "give a name with a letter in it");
    }
    if name.trim() != name {
        return wrong(format!("{} begins or ends with a space", shown()), "leave the space out");
    }
    Ok(())
}

/// Returns whether a character is invisible. No name has such a character, because two different
/// names would look the same.
const fn is_unseen(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
    )
}

/// Checks that a guest may have this name, which no partition of the host has.
///
/// # Errors
/// The reason why it may not; see [`Wrong`].
pub fn guest_name(name: &str) -> Result<(), Wrong> {
    self::name(name)?;
    if HOST_NAMES.contains(&name) {
        return wrong(format!("{} is a partition of the host", quoted(name)), "give another name");
    }
    Ok(())
}

/// Checks that a partition may have this many bytes of memory; `shown` is the text that the user
/// gave.
///
/// # Errors
/// The reason why it may not; see [`Wrong`].
pub fn memory(bytes: u64, shown: impl FnOnce() -> String) -> Result<(), Wrong> {
    if MEMORY.contains(&bytes) && bytes.is_multiple_of(PAGE) {
        return Ok(());
    }
    let (least, most) = (size(*MEMORY.start()), size(*MEMORY.end()));
    let way_out = format!("give {least} to {most}");
    let shown = quoted(&shown());
    if bytes < *MEMORY.start() {
        return wrong(format!("{shown} is less than {least}"), way_out);
    }
    if bytes > *MEMORY.end() {
        return wrong(format!("{shown} is more than {most}"), way_out);
    }
    let near = size(bytes / PAGE * PAGE);
    wrong(format!("{shown} is not a multiple of 4 KiB"), format!("give {near} or another multiple"))
}

/// Checks that a number is within limits.
///
/// # Errors
/// The reason why it is not; see [`Wrong`].
pub fn within(number: i128, limits: &RangeInclusive<u32>) -> Result<(), Wrong> {
    let (least, most) = (*limits.start(), *limits.end());
    let way_out = || format!("give {least} to {most}");
    if number < i128::from(least) {
        return wrong(format!("{number} is less than {least}"), way_out());
    }
    if number > i128::from(most) {
        return wrong(format!("{number} is more than {most}"), way_out());
    }
    Ok(())
}

/// The percentages of one CPU at which `vcpus` virtual CPUs may be capped; 0 means no cap.
#[must_use]
pub const fn cap(vcpus: u32) -> RangeInclusive<u32> {
    0..=vcpus.saturating_mul(100)
}

/// Checks a line of text, such as the command line of a kernel.
///
/// # Errors
/// The reason why it may not; see [`Wrong`].
pub fn line(text: &str) -> Result<(), Wrong> {
    const MOST: usize = MAX_COMMAND_LINE;
    if text.len() > MOST {
        return wrong(
            format!("{} bytes are more than {MOST}", text.len()),
            format!("give at most {MOST} bytes"),
        );
    }
    if let Some(unfit) = text.chars().find(|c| c.is_control() && *c != '\t') {
        let way_out = "give one line without control characters";
        return wrong(format!("{unfit:?} is in it"), way_out);
    }
    Ok(())
}

/// A size in the largest unit that is exact, such as `256M`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let exact = UNITS
        .into_iter()
        .find(|&(shift, _)| bytes >= 1 << shift && bytes.trailing_zeros() >= shift);
    match exact {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes}B"),
    }
}

/// Why a text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// The text is not a number with a unit.
    Form,
    /// The number has no unit.
    NoUnit,
    /// The size in bytes needs more than 64 bits.
    TooLarge,
}

/// Reads a size such as `256M`, `1 GiB` or `4096B` in bytes. Units are powers of 1024, in capital or
/// small letters.
///
/// # Errors
/// See [`SizeError`].
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    const UNITS: [(&str, u32); 5] = [("", 0), ("k", 10), ("m", 20), ("g", 30), ("t", 40)];
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(SizeError::Form);
    }
    let unit = unit.trim_start().to_ascii_lowercase();
    if unit.is_empty() {
        return Err(SizeError::NoUnit);
    }
    let is_unit = |short: &str| match unit.strip_prefix(short) {
        Some("b") => true,
        Some("" | "ib") => !short.is_empty(),
        _ => false,
    };
    let known = UNITS.into_iter().rev().find(|(short, _)| is_unit(short));
    let (_, shift) = known.ok_or(SizeError::Form)?;
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    number.checked_mul(1 << shift).ok_or(SizeError::TooLarge)
}

/// Reads a size as an option of a command or of a module has it: like [`parse_size`], and a number
/// without a unit is in bytes.
///
/// # Errors
/// See [`SizeError`].
pub fn parse_bytes(text: &str) -> Result<u64, SizeError> {
    match parse_size(text) {
        Err(SizeError::NoUnit) => text.trim().parse().map_err(|_| SizeError::TooLarge),
        size => size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Names that every way in must refuse, for the tests of each.
    const BAD: &[&str] = &[
        "",
        "19",
        "0",
        "00000000000000000000000000000001",
        " web",
        "web ",
        "\tweb",
        "a\nb",
        "a\0b",
        "a\u{1b}[2Jb",
        "a/b",
        "a\"b",
        "w\u{200b}eb",
        "web\u{202e}",
        "\u{a0}web",
        "a-name-of-more-than-thirty-one-b",
        "\u{7f}",
        "\u{85}x",
    ];

    #[test]
    fn names_that_mislead_are_refused_with_a_way_out() {
        for name in BAD {
            let wrong = super::name(name).expect_err(name);
            assert!(!wrong.problem.is_empty() && !wrong.way_out.is_empty(), "{name:?}");
            assert!(!wrong.problem.chars().any(char::is_control), "{wrong:?}");
        }
        for name in ["web", "web 1", "x1", "1x", "größe", "a-name-of-exactly-thirty-one-by"] {
            assert_eq!(super::name(name), Ok(()), "{name}");
            assert_eq!(guest_name(name), Ok(()), "{name}");
        }
        for name in HOST_NAMES {
            assert_eq!(super::name(name), Ok(()), "{name}");
            assert!(guest_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn memory_is_pages_within_limits() {
        for (bytes, problem) in [
            (0, "\"x\" is less than 1M"),
            ((1 << 20) - 4096, "\"x\" is less than 1M"),
            ((1 << 20) + 1, "\"x\" is not a multiple of 4 KiB"),
            (u64::MAX, "\"x\" is more than 4T"),
        ] {
            assert_eq!(memory(bytes, || "x".into()).unwrap_err().problem, problem);
        }
        assert_eq!(memory(1 << 20, || "x".into()), Ok(()));
        assert_eq!(memory(4 << 40, || "x".into()), Ok(()));
    }

    #[test]
    fn numbers_and_command_lines_have_limits() {
        assert_eq!(within(0, &WEIGHT).unwrap_err().way_out, "give 1 to 65535");
        assert_eq!(within(65_536, &WEIGHT).unwrap_err().problem, "65536 is more than 65535");
        assert_eq!(within(200, &cap(2)), Ok(()));
        assert!(within(201, &cap(2)).is_err());
        assert_eq!(line("a\tb"), Ok(()));
        assert!(line("a\nb").is_err());
        assert!(line(&"x".repeat(MAX_COMMAND_LINE + 1)).is_err());
    }

    proptest! {
        #[test]
        fn a_name_that_is_taken_is_seen_and_is_no_number(name in any::<String>()) {
            if super::name(&name).is_ok() {
                prop_assert!(name.parse::<u64>().is_err() && name.len() <= MAX_NAME);
                prop_assert!(!name.chars().any(char::is_control) && name.trim() == name);
            }
        }
    }

    #[test]
    fn sizes_have_units_in_any_letters() {
        for (unit, shift) in [("k", 10), ("M", 20), ("g", 30), ("T", 40)] {
            for text in [format!("3{unit}"), format!("3 {unit}iB"), format!(" 3{unit}b ")] {
                assert_eq!(parse_size(&text), Ok(3 << shift), "{text}");
                assert_eq!(parse_bytes(&text), Ok(3 << shift), "{text}");
            }
        }
        assert_eq!((parse_size("4096B"), parse_bytes("4096")), (Ok(4096), Ok(4096)));
        assert_eq!(parse_size("4096"), Err(SizeError::NoUnit));
        for bad in ["", "M", "-1M", "1.5G", "1X", "1ib", "1MM", "0x1M", "1 M B", "+1M"] {
            assert_eq!(parse_size(bad), Err(SizeError::Form), "{bad}");
            assert_eq!(parse_bytes(bad), Err(SizeError::Form), "{bad}");
        }
        for large in ["18446744073709551616", "99999999999T", "18446744073709551616B"] {
            assert_eq!(parse_bytes(large), Err(SizeError::TooLarge), "{large}");
        }
    }

    proptest! {
        #[test]
        fn a_size_that_was_written_is_read_again(bytes: u64, shift in 0..64_u32) {
            for bytes in [bytes, bytes >> shift << shift] {
                prop_assert_eq!(parse_size(&size(bytes)), Ok(bytes));
            }
        }
    }
}
