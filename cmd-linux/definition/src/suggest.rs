//! Guesses which key an unknown key was meant to be.

use std::cmp::Reverse;

use crate::rows;

/// Keys for devices other than disks, which definitions do not have yet.
const DEVICES: [&str; 7] = ["vif", "net", "network", "nics", "pci", "usb", "vfb"];

/// The way out for an unknown key of `table`; an empty `table` is the partition itself.
pub(crate) fn way_out(key: &str, table: &str) -> String {
    let prefix = if table.is_empty() { String::new() } else { format!("{table}.") };
    let plain = key.to_ascii_lowercase().replace('-', "_");
    if table.is_empty() && DEVICES.contains(&&*plain) {
        return "partitions have no devices but disks yet, leave it out".to_owned();
    }
    if let Some(row) = rows::meant_by(&plain)
        && (table.is_empty() || row.place().0 == table)
    {
        return format!("the field is called {} here", row.name);
    }
    among(key, &rows::keys(table), &prefix)
}

/// The way out for an unknown key where these are known; `prefix` stands before a key.
pub(crate) fn among(key: &str, known: &[&str], prefix: &str) -> String {
    let plain = key.to_ascii_lowercase().replace('-', "_");
    match nearest(&plain, known) {
        Some(meant) => format!("did you mean {prefix}{meant}?"),
        None => format!("known are {}", known.join(", ")),
    }
}

/// The nearest known word, if it is near enough to be a typing mistake.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    const LONGEST: usize = 40;
    if word.len() > LONGEST {
        return None;
    }
    known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(word, known), *known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min_by_key(|(distance, known)| (*distance, Reverse(same_start(word, known))))
        .map(|(_, known)| known)
}

/// The number of equal bytes at the start of both words.
fn same_start(one: &str, other: &str) -> usize {
    one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count()
}
