//! Words for numbers of the ABI, and quantities with their units.
//!
//! Rule: a number without a word is shown as the number, never hidden.

use std::borrow::Cow;
use std::fmt::{self, Display};

use pv_abi::uv::calls::cause;
use pv_abi::uv::database::{kind, rights, state};
use pv_abi::xen::errno;

const FRAMES_PER_MIB: u64 = 256;

/// A word, or the number if it has no word.
pub type Word = Cow<'static, str>;

/// The word for a kind of partition.
pub fn kind_word(value: u32) -> Word {
    let word = match value {
        kind::PSEUDO => "pseudo",
        kind::ULTRAVISOR => "ultravisor",
        kind::BOOT => "boot",
        kind::COMMAND => "command",
        kind::IO => "io",
        kind::GUEST => "guest",
        _ => return format!("kind {value}").into(),
    };
    word.into()
}

/// The word for a partition's state.
pub fn state_word(value: u32) -> Word {
    let word = match value {
        state::FREE => "free",
        state::BUILDING => "building",
        state::RUNNING => "running",
        state::PAUSED => "paused",
        state::SHUTDOWN => "shut down",
        state::CRASHED => "crashed",
        state::DYING => "dying",
        _ => return format!("state {value}").into(),
    };
    word.into()
}

/// The words for the rights that are set.
pub fn rights_words(value: u32) -> Vec<String> {
    let known = [
        (rights::LEAD, "lead"),
        (rights::BUILD, "build"),
        (rights::HOST_POWER, "host-power"),
        (rights::SERIAL, "serial"),
    ];
    let mut words: Vec<String> =
        known.iter().filter(|(bit, _)| value & bit != 0).map(|(_, word)| (*word).into()).collect();
    let rest = known.iter().fold(value, |rest, (bit, _)| rest & !bit);
    if rest != 0 {
        words.push(format!("{rest:#x}"));
    }
    words
}

/// The word for the errno of a refused hypercall, without its sign; 0 stands for all errnos above
/// those that are counted one by one.
pub fn errno_word(value: u32) -> String {
    match errno::name(-i64::from(value)) {
        Some(name) => name.into(),
        None if value == 0 => "other".into(),
        None => format!("errno {value}"),
    }
}

/// The cause for which a partition stopped, in words; `None` if it has not stopped.
pub fn cause_words(value: u32, detail: u32) -> Option<String> {
    Some(match value {
        cause::NONE => return None,
        cause::SHUTDOWN => match detail {
            0 => "it powered off".into(),
            1 => "it asked to be started again".into(),
            2 => "it asked to be suspended".into(),
            3 => "it said that it crashed".into(),
            _ => format!("it shut down with reason {detail}"),
        },
        cause::UNHANDLED_TRAP => format!("trap {detail} without a handler"),
        cause::BAD_FRAME => "return frame or stack that cannot be used".into(),
        cause::PAGE_TABLE => "page-table state that cannot be undone".into(),
        cause::STOPPED => "stopped by the ultravisor".into(),
        cause::SILENT => format!("hung: silent for {detail} ms"),
        _ => format!("cause {value}, detail {detail}"),
    })
}

/// The word for a type of the firmware's memory map (multiboot2).
pub fn firmware_word(value: u32) -> String {
    let word = match value {
        0 => "not described",
        1 => "available",
        2 => "reserved",
        3 => "ACPI reclaimable",
        4 => "ACPI NVS",
        5 => "defective",
        _ => return format!("type {value}"),
    };
    word.into()
}

/// The word for a PCI class register, whose bytes are base class, subclass, interface and revision.
pub fn pci_class_word(class: u32) -> String {
    let word = match class >> 16 {
        0x0100 => "SCSI controller",
        0x0101 => "IDE controller",
        0x0106 => "SATA controller",
        0x0108 => "NVMe controller",
        0x0200 => "Ethernet controller",
        0x0300 => "VGA controller",
        0x0500 => "memory controller",
        0x0600 => "host bridge",
        0x0601 => "ISA bridge",
        0x0604 => "PCI bridge",
        0x0680 => "bridge",
        0x0c03 => "USB controller",
        0x0c05 => "SMBus controller",
        other => match other >> 8 {
            0x01 => "storage controller",
            0x02 => "network controller",
            0x03 => "display controller",
            0x04 => "multimedia controller",
            0x05 => "memory controller",
            0x06 => "bridge",
            0x07 => "communication controller",
            0x08 => "system peripheral",
            0x0c => "serial bus controller",
            _ => return format!("class {other:04x}"),
        },
    };
    word.into()
}

/// A number of frames as a quantity of memory: in whole MiB, in MiB with one decimal, or in KiB
/// below 1 MiB.
pub fn memory(frames: u64) -> String {
    Memory(frames).to_string()
}

/// Frames, shown in the form of [`memory`].
pub struct Memory(pub u64);

impl Memory {
    /// Adds the quantity to a text.
    pub fn push_to(&self, text: &mut String) {
        let (whole, rest) = (self.0 / FRAMES_PER_MIB, self.0 % FRAMES_PER_MIB);
        if whole == 0 && rest != 0 {
            push_number(text, rest * 4);
            return text.push_str(" KiB");
        }
        match rest {
            0 => push_number(text, whole),
            _ => *text += &format!("{:.1}", self.0 as f64 / FRAMES_PER_MIB as f64),
        }
        text.push_str(" MiB");
    }
}

impl Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.push_to(&mut text);
        f.write_str(&text)
    }
}

/// Adds a number in decimal to a text; it is fast, because a list of a thousand partitions has
/// thousands of numbers.
pub fn push_number(text: &mut String, number: u64) {
    if number >= 10 {
        push_number(text, number / 10);
    }
    text.push(char::from(b'0' + (number % 10) as u8));
}

/// The bytes in this many frames.
pub fn bytes(frames: u64) -> u64 {
    frames.saturating_mul(4096)
}

/// A small quantity of memory: in MiB or KiB, with one decimal if it is not whole, or in bytes.
pub fn byte_count(bytes: u64) -> String {
    let (unit, word) = match bytes {
        ..1024 => return format!("{bytes} B"),
        1024..0x10_0000 => (1024, "KiB"),
        _ => (1 << 20, "MiB"),
    };
    if bytes.is_multiple_of(unit) {
        format!("{} {word}", bytes / unit)
    } else {
        format!("{:.1} {word}", bytes as f64 / unit as f64)
    }
}

/// Nanoseconds as seconds, rounded to hundredths.
pub fn seconds(nanoseconds: u64) -> String {
    Seconds(nanoseconds).to_string()
}

/// Nanoseconds, shown in the form of [`seconds`].
pub struct Seconds(pub u64);

impl Seconds {
    /// Adds the time to a text.
    pub fn push_to(&self, text: &mut String) {
        const HUNDREDTH: u64 = 10_000_000;
        let all = self.0 / HUNDREDTH + u64::from(self.0 % HUNDREDTH >= HUNDREDTH / 2);
        push_number(text, all / 100);
        text.push('.');
        push_number(text, all / 10 % 10);
        push_number(text, all % 10);
        text.push_str(" s");
    }
}

impl Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.push_to(&mut text);
        f.write_str(&text)
    }
}

/// A time in seconds since 1970, in the form of RFC 3339.
pub fn date(seconds: u64) -> String {
    let (mut days, time) = (seconds / 86_400, seconds % 86_400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) && year < 9999 {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        (days, month) = (days - length, month + 1);
    }
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

/// A share in percent; `None` if the whole is 0.
pub fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole != 0).then(|| part as f64 * 100.0 / whole as f64)
}

/// Adds a share of the whole to a text, in percent with one decimal, halves rounded up; `-` if
/// there is no whole. It is fast, for long tables.
pub fn push_share(text: &mut String, part: u64, whole: u64) {
    let tenths = match part.checked_mul(1000).and_then(|all| all.checked_add(whole / 2)) {
        _ if whole == 0 => return text.push('-'),
        Some(all) => all / whole,
        None => return text.push_str(&percent_text(percent(part, whole))),
    };
    push_number(text, tenths / 10);
    text.push('.');
    push_number(text, tenths % 10);
    text.push_str(" %");
}

/// A share as text.
pub fn percent_text(share: Option<f64>) -> String {
    share.map_or_else(|| "-".into(), |share| format!("{share:.1} %"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_the_unit_that_fits() {
        let texts = [0, 1, 255, 256, 257, 384, 131_072].map(memory);
        assert_eq!(texts, ["0 MiB", "4 KiB", "1020 KiB", "1 MiB", "1.0 MiB", "1.5 MiB", "512 MiB"]);
        assert_eq!(memory(u64::MAX), "72057594037927936.0 MiB");
        assert_eq!(bytes(u64::MAX), u64::MAX);
    }

    #[test]
    fn seconds_are_rounded_to_hundredths() {
        let texts = [0, 4_999_999, 5_000_000, 995_000_000, 12_345_678_901, u64::MAX].map(seconds);
        let expected = ["0.00 s", "0.00 s", "0.01 s", "1.00 s", "12.35 s", "18446744073.71 s"];
        assert_eq!(texts, expected);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_910_399, "2026-11-28T23:59:59Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (4_133_980_799, "2100-12-31T23:59:59Z"),
        ] {
            assert_eq!(date(seconds), expected);
        }
        assert!(date(u64::MAX).starts_with("9999-12-"));
    }

    #[test]
    fn numbers_without_a_word_are_shown() {
        assert_eq!(kind_word(77), "kind 77");
        assert_eq!(state_word(77), "state 77");
        assert_eq!(rights_words(0b1010), ["build", "serial"]);
        assert_eq!(rights_words(0x101), ["lead", "0x100"]);
        assert_eq!(cause_words(99, 3).unwrap(), "cause 99, detail 3");
        assert_eq!(cause_words(0, 3), None);
        assert_eq!(firmware_word(9), "type 9");
        assert_eq!(pci_class_word(0xff12_0001), "class ff12");
    }

    #[test]
    fn pci_classes_read_as_everywhere() {
        assert_eq!(pci_class_word(0x0106_0102), "SATA controller");
        assert_eq!(pci_class_word(0x0180_0000), "storage controller");
        assert_eq!(pci_class_word(0x0280_0000), "network controller");
    }

    #[test]
    fn shares_of_nothing_are_not_shown() {
        assert_eq!(percent_text(percent(1, 0)), "-");
        assert_eq!(percent_text(percent(1, 8)), "12.5 %");
        let share = |part, whole| {
            let mut text = String::new();
            push_share(&mut text, part, whole);
            text
        };
        assert_eq!([share(1, 0), share(1, 8), share(0, 7)], ["-", "12.5 %", "0.0 %"]);
        assert_eq!(
            [share(1, 2000), share(1999, 2000), share(7, 7)],
            ["0.1 %", "100.0 %", "100.0 %"]
        );
        assert_eq!(share(u64::MAX / 2, u64::MAX), "50.0 %");
        // Both ways differ only where the share lies in the middle between two texts.
        for part in (0..=4096).filter(|part| part * 1000 % 4096 != 2048) {
            assert_eq!(share(part, 4096), percent_text(percent(part, 4096)), "{part}");
        }
    }
}
