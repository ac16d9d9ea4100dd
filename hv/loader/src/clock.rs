//! Calendar time, as seconds and as the registers of the real-time clock show it.

/// Date and time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calendar {
    /// Year of the common era.
    pub year: u32,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 59.
    pub second: u32,
}

impl Calendar {
    /// Seconds since the start of 1970. Returns `None` if this is no date from then on.
    #[must_use]
    pub fn seconds(&self) -> Option<u64> {
        let in_range = (1970..=2999).contains(&self.year)
            && (1..=12).contains(&self.month)
            && (1..=31).contains(&self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60;
        // Years start in March, so that the leap day is the last of its year.
        let year = if self.month > 2 { self.year } else { self.year.checked_sub(1)? };
        let month = (self.month + 9) % 12;
        let days = year * 365 + year / 4 - year / 100 + year / 400;
        let days = days + (month * 306 + 5) / 10 + self.day;
        // Days up to 1 January 1970 by the same count.
        let days = u64::from(days.checked_sub(719_469)?);
        let seconds = self.hour * 3600 + self.minute * 60 + self.second;
        in_range.then_some(days * 86_400 + u64::from(seconds))
    }
}

/// The date in the registers: binary or BCD, 24 or 12 hours, as status register B says.
#[must_use]
pub fn date(registers: [u8; 6], status: u8) -> Calendar {
    let number = |value: u8| {
        let value = u32::from(value);
        if status & 4 == 0 { (value >> 4) * 10 + (value & 15) } else { value }
    };
    let [second, minute, raw_hour, day, month, year] = registers;
    let mut hour = number(raw_hour & 0x7f);
    if status & 2 == 0 {
        hour = hour % 12 + if raw_hour & 0x80 != 0 { 12 } else { 0 };
    }
    let [second, minute, day, month, year] = [second, minute, day, month, year].map(number);
    Calendar { year: 2000 + year, month, day, hour, minute, second }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(year: u32, month: u32, day: u32) -> Calendar {
        Calendar { year, month, day, hour: 0, minute: 0, second: 0 }
    }

    #[test]
    fn known_dates() {
        assert_eq!(at(1970, 1, 1).seconds(), Some(0));
        assert_eq!(at(2000, 2, 29).seconds(), Some(951_782_400));
        assert_eq!(at(2024, 12, 31).seconds(), Some(1_735_603_200));
        let noon = Calendar { hour: 12, minute: 30, second: 5, ..at(2001, 9, 9) };
        assert_eq!(noon.seconds(), Some(1_000_038_605));
        assert_eq!(at(1969, 12, 31).seconds(), None);
        assert_eq!(at(2024, 13, 1).seconds(), None);
        assert_eq!(at(0, 0, 0).seconds(), None);
    }

    #[test]
    fn registers_hold_bcd_or_binary_and_12_or_24_hours() {
        let evening = Calendar { hour: 21, minute: 30, second: 59, ..at(2024, 12, 31) };
        assert_eq!(date([0x59, 0x30, 0x21, 0x31, 0x12, 0x24], 0b010), evening);
        assert_eq!(date([0x59, 0x30, 0x89, 0x31, 0x12, 0x24], 0b000), evening);
        assert_eq!(date([59, 30, 21, 31, 12, 24], 0b110), evening);
        assert_eq!(date([59, 30, 0x80 | 9, 31, 12, 24], 0b100), evening);
        assert_eq!(date([0, 0, 12, 1, 1, 24], 0b100), at(2024, 1, 1), "midnight is 12");
    }

    proptest! {
        #[test]
        fn consecutive_days_are_a_day_apart(day in 1u32..28, month in 1u32..=12, year in 1970u32..2900) {
            let today = at(year, month, day).seconds().unwrap();
            prop_assert_eq!(at(year, month, day + 1).seconds(), Some(today + 86_400));
        }
    }
}
