//! Reads the longest stays in ring 0, as the counting plugin wrote them, and names the code that
//! was executed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use rig::workspace;

/// Nanoseconds for each instruction under `-icount shift=1`.
const NANOSECONDS: u64 = 2;
/// Bytes of a vector's stub.
const STUB: u64 = 16;
/// The most names shown for a stay.
const NAMES: usize = 4;

/// A stay in ring 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stay {
    /// Instructions that the CPU itself executed.
    pub instructions: u64,
    /// The entry that the CPU took, and the code that took most of the stay.
    pub cause: String,
}

impl Stay {
    /// The stay in microseconds of the machine's time under `-icount`.
    #[must_use]
    pub fn microseconds(&self) -> u64 {
        self.instructions * NANOSECONDS / 1000
    }
}

impl fmt::Display for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (time, count) = (self.microseconds(), self.instructions);
        write!(f, "{time} \u{b5}s ({count} instructions; {})", self.cause)
    }
}

/// Functions by address.
struct Symbols(BTreeMap<u64, String>);

impl Symbols {
    /// Reads the functions of an ELF file.
    fn of(image: &Path) -> Result<Self> {
        let mut nm = Command::new("nm");
        nm.args(["--demangle", "--defined-only"]).arg(image);
        Ok(Self::parse(&workspace::output(&mut nm, "reading the monitor's symbols")?))
    }

    fn parse(text: &str) -> Self {
        let symbol = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
            let address = u64::from_str_radix(address, 16).ok()?;
            // The last part of a path may be a hash.
            let hash = |word: &str| word.len() == 17 && word.starts_with('h');
            let path = name.rsplit_once("::").filter(|(_, word)| hash(word));
            let name = path.map_or(name, |(path, _)| path);
            kind.eq_ignore_ascii_case("t").then(|| (address, name.to_owned()))
        };
        Self(text.lines().filter_map(symbol).collect())
    }

    fn address(&self, name: &str) -> Result<u64> {
        let found = self.0.iter().find(|(_, symbol)| *symbol == name);
        found.map(|(address, _)| *address).with_context(|| format!("the monitor has no {name}"))
    }

    fn name(&self, address: u64) -> &str {
        self.0.range(..=address).next_back().map_or("?", |(_, name)| name)
    }
}

/// The stays in `file`, the longest of each kind, longest first.
///
/// # Errors
/// The file or the monitor's image cannot be read.
pub fn read(file: &Path, monitor: &Path) -> Result<Vec<Stay>> {
    let text = workspace::read(file)?;
    parse(&String::from_utf8_lossy(&text), &Symbols::of(monitor)?)
}

fn parse(text: &str, symbols: &Symbols) -> Result<Vec<Stay>> {
    let stubs = symbols.address("trap_stubs")?;
    let mut longest = BTreeMap::<String, u64>::new();
    // A stay that is still being written has no end line.
    for stay in text.split("end\n").filter(|stay| stay.ends_with('\n') || stay.is_empty()) {
        let mut lines = stay.lines();
        let Some(head) = lines.next() else { continue };
        let words: Vec<_> = head.split(' ').collect();
        let ["stay", count, _, entry] = words[..] else { continue };
        let entry = u64::from_str_radix(entry, 16)?;
        let entry = match entry.checked_sub(stubs) {
            Some(offset) if offset < 256 * STUB => format!("vector {:#x}", offset / STUB),
            _ => "call".to_owned(),
        };
        let mut shares = BTreeMap::<&str, u64>::new();
        for line in lines {
            let (address, share) = line
                .strip_prefix("at ")
                .and_then(|line| line.split_once(' '))
                .with_context(|| format!("no block: {line}"))?;
            let address = u64::from_str_radix(address, 16)?;
            *shares.entry(symbols.name(address)).or_default() += share.parse::<u64>()?;
        }
        let mut shares: Vec<_> = shares.into_iter().map(|(name, share)| (share, name)).collect();
        shares.sort_unstable_by(|a, b| b.cmp(a));
        let names: Vec<_> = shares.iter().take(NAMES).map(|(_, name)| *name).collect();
        let count: u64 = count.parse()?;
        let known = longest.entry(format!("{entry}: {}", names.join(", "))).or_default();
        *known = count.max(*known);
    }
    let stay = |(cause, instructions)| Stay { instructions, cause };
    let mut stays: Vec<_> = longest.into_iter().map(stay).collect();
    stays.sort_by_key(|stay| std::cmp::Reverse(stay.instructions));
    Ok(stays)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_are_read_with_their_causes() {
        let symbols = Symbols::parse(
            "0000000000001000 T trap_stubs\n0000000000003000 t monitor::hypercall::scrub::h0123456789abcdef\n\
             0000000000004000 T page_tables::take\n0000000000005000 D data\n",
        );
        let text = "stay 50 0 1e40\nat 3008 40\nat 4000 10\nend\nstay 900 1 9000\nat 4010 900\nend\n\
                    stay 7000 1 9000\nat 40";
        let stays = parse(text, &symbols).unwrap();
        let told: Vec<_> = stays.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "1 \u{b5}s (900 instructions; call: page_tables::take)",
                "0 \u{b5}s (50 instructions; vector 0xe4: monitor::hypercall::scrub, page_tables::take)",
            ]
        );
    }
}
