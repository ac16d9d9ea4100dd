//! `cargo xtask bench order`: the order of `uvtool`'s functions in memory, by use.
//!
//! A command is over in milliseconds, and each 64 KiB of the program that it touches cost some
//! 17,000 instructions: Linux maps sixteen pages at a fault, and unmaps them at the end. So the
//! linker places the functions that the commands of [`crate::scale`] execute side by side, those of
//! most commands first. It reads their names from `tools/uvtool/order.ld`, which this module
//! writes. A function that is missing there is only slower to reach.
//!
//! Rule: the file has nothing that depends on the compiler's version or on the place of the
//! sources, so hashes in names become `*`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use rig::interrupt::Scratch;
use rig::workspace;

use crate::scale::{self, STEPS};

/// The file, in the workspace.
const FILE: &str = "tools/uvtool/order.ld";
/// The linker's map of `uvtool`, in the directory that its build script writes to.
const MAP: &str = "uvtool.map";
/// Guests in the machine.
const GUESTS: u32 = 2;
/// A pattern is left out if it matches this many times the bytes that are executed, and more.
const DILUTION: u64 = 3;
const SLACK: u64 = 4096;

/// A section of code in the linker's map.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Section {
    address: u64,
    bytes: u64,
    pattern: String,
}

/// Measures which functions the commands execute, and writes the file.
///
/// # Errors
/// The machine does not come up, a command fails, or the linker's map is not as expected.
pub fn write() -> Result<()> {
    let build = workspace::build_dir()?;
    let profile = Scratch::new(build.join(format!("order-{}", std::process::id())));
    let options = scale::Options {
        guests: vec![GUESTS],
        memory: None,
        profile: Some(profile.path().to_owned()),
        json: false,
    };
    scale::measured(&options)?;
    let programs = workspace::root().join("target/cmd/x86_64-unknown-linux-gnu/command");
    let sections = sections(&fs::read_to_string(newest_map(&programs.join("build"))?)?);
    ensure!(!sections.is_empty(), "the linker's map has no section of code");
    let text = String::from_utf8(workspace::read(profile.path())?)?;
    let executed = scale::executed(&text, &fs::read(programs.join("uvtool"))?)?;
    let patterns = patterns(&sections, &executed);
    println!("{} patterns in {FILE}", patterns.len());
    workspace::write_if_changed(&workspace::root().join(FILE), script(&patterns).as_bytes())
}

/// The newest map below the directory of build scripts' outputs.
fn newest_map(build: &Path) -> Result<PathBuf> {
    let mut maps = Vec::new();
    for entry in fs::read_dir(build)? {
        let map = entry?.path().join("out").join(MAP);
        if let Ok(about) = fs::metadata(&map) {
            maps.push((about.modified()?, map));
        }
    }
    maps.into_iter().max().map(|(_, map)| map).context("uvtool was linked without a map")
}

/// Reads the sections of code from the map of LLVM's linker, by address. Its lines have address,
/// address in the file, size, alignment, and `FILE:(SECTION)` or a symbol.
fn sections(map: &str) -> Vec<Section> {
    let number = |word: &str| u64::from_str_radix(word, 16).ok();
    let section = |line: &str| {
        let (from, name) = line.trim_end().strip_suffix(')')?.rsplit_once(":(")?;
        let mut words = from.split_whitespace();
        let (address, _, bytes) = (number(words.next()?)?, words.next()?, number(words.next()?)?);
        let file = words.nth(1)?;
        let pattern = name.starts_with(".text").then(|| pattern(file, name))?;
        Some(Section { address, bytes, pattern })
    };
    let mut all: Vec<_> = map.lines().filter_map(section).collect();
    all.sort_by_key(|section| section.address);
    all
}

/// The linker's pattern for a section of a file. A file in an archive is `ARCHIVE(MEMBER)`.
fn pattern(file: &str, section: &str) -> String {
    // The name of a Rust function is unique; C's sections are all called `.text`.
    if section.contains("._ZN") || section.contains("._R") {
        return format!("*({})", without_hashes(section));
    }
    let file = file.rsplit('/').next().unwrap_or(file);
    match file.strip_suffix(')').and_then(|file| file.split_once('(')) {
        Some((archive, member)) => format!("*{archive}:{member}({section})"),
        None if file.ends_with(".rcgu.o") => format!("*({section})"),
        None => format!("*{file}({section})"),
    }
}

/// Replaces the hashes in a mangled name by `*`: `17h` and sixteen digits in the old form, `Cs` and
/// digits up to `_` in the new form.
fn without_hashes(name: &str) -> String {
    let (mut text, mut rest) = (String::new(), name);
    while let Some(first) = rest.chars().next() {
        let old = rest.strip_prefix("17h").and_then(|rest| rest.get(..16));
        let new = rest.strip_prefix("Cs").and_then(|rest| rest.split('_').next());
        let is_new = |hash: &str| {
            (9..=12).contains(&hash.len()) && hash.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        let (kept, taken) = if old.is_some_and(|h| h.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            ("17h*", 3 + 16)
        } else if let Some(hash) = new.filter(|hash| is_new(hash)) {
            ("Cs*", 2 + hash.len())
        } else if rest.starts_with(".llvm.") {
            ("*", rest.len())
        } else {
            (&rest[..first.len_utf8()], first.len_utf8())
        };
        text.push_str(kept);
        rest = &rest[taken..];
    }
    text
}

/// Returns the patterns of the executed sections. The patterns that most commands execute come
/// first; a pattern that also matches too many other bytes ([`DILUTION`]) is left out. `executed`
/// has the addresses that each command executed, in the order of [`STEPS`], round after round.
fn patterns(sections: &[Section], executed: &[BTreeSet<u64>]) -> Vec<String> {
    let mut all: BTreeMap<&str, u64> = BTreeMap::new();
    for section in sections {
        *all.entry(&section.pattern).or_default() += section.bytes;
    }
    // The commands that execute a section with the pattern, and the bytes of these sections.
    let mut used: BTreeMap<&str, (BTreeSet<usize>, BTreeMap<u64, u64>)> = BTreeMap::new();
    for (command, addresses) in executed.iter().enumerate() {
        for address in addresses {
            let at = sections.partition_point(|section| section.address <= *address);
            let section = at.checked_sub(1).and_then(|at| sections.get(at));
            let Some(section) = section.filter(|s| *address < s.address + s.bytes) else {
                continue;
            };
            let (commands, bytes) = used.entry(&section.pattern).or_default();
            commands.insert(command % STEPS.len());
            bytes.insert(section.address, section.bytes);
        }
    }
    let is_dense = |pattern: &str, bytes: &BTreeMap<u64, u64>| {
        all[pattern] <= DILUTION * bytes.values().sum::<u64>() + SLACK
    };
    used.retain(|pattern, (_, bytes)| is_dense(pattern, bytes));
    let mut order: Vec<_> = used.iter().map(|(name, (commands, _))| (commands, *name)).collect();
    // Functions that the same commands execute lie together.
    order.sort_by_key(|(commands, name)| (std::cmp::Reverse(commands.len()), *commands, *name));
    order.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// The linker's script.
fn script(patterns: &[String]) -> String {
    let lines: String = patterns.iter().map(|pattern| format!("    {pattern}\n")).collect();
    format!(
        "/* The functions that commands execute, those of most commands first. Written by\n   \
         `cargo xtask bench order`. */\nSECTIONS {{\n  .text.order : {{\n{lines}  }}\n}}\n\
         INSERT BEFORE .text;\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP_TEXT: &str = "     VMA      LMA     Size Align Out     In      Symbol\n\
         1000 1000 200 16 .text\n\
         1000 1000 100 16         /a b/uvtool.0.rcgu.o:(.text.unlikely._ZN1a1b17h0123456789abcdefE)\n\
         1000 1000 100 1                 a::b\n\
         1100 1100 80 16         /lib/libc.a(malloc.o):(.text)\n\
         1180 1180 80 16         /x/uvtool.0.rcgu.o:(.text._RNvNtCsgEmfK2I1SDS_4core3fmt)\n\
         2000 2000 80 16         /lib/libc.a(malloc.o):(.data)\n";

    #[test]
    fn sections_are_named_without_hashes() {
        let map = MAP_TEXT.replace("/a b/", "/a/");
        let found: Vec<_> = sections(&map).into_iter().map(|s| (s.address, s.pattern)).collect();
        let expected = [
            (0x1000, "*(.text.unlikely._ZN1a1b17h*E)"),
            (0x1100, "*libc.a:malloc.o(.text)"),
            (0x1180, "*(.text._RNvNtCs*_4core3fmt)"),
        ];
        assert_eq!(found, expected.map(|(at, pattern)| (at, pattern.to_owned())));
    }

    #[test]
    fn what_most_commands_execute_comes_first() {
        let section =
            |address, bytes, pattern: &str| Section { address, bytes, pattern: pattern.into() };
        let sections = [
            section(0, 16, "rare"),
            section(16, 16, "common"),
            section(32, 16, "never"),
            section(48, 16, "diluted"),
            section(64, 9999, "diluted"),
        ];
        let executed = [vec![0, 17, 20, 50], vec![16, 99_999]];
        let executed = executed.map(|addresses| addresses.into_iter().collect());
        assert_eq!(patterns(&sections, &executed), ["common", "rare"]);
    }
}
