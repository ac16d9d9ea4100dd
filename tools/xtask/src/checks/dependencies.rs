//! What the lowest crates may link.
//!
//! `pv-abi` has layouts and numbers, which every program of the host shares. Ring 0 links it, and
//! ring 0 has no heap. Rule: `pv-abi` depends on `zerocopy` alone, and neither the loader nor the
//! monitor links a crate that serialises messages or demands an allocator.

use std::fs;

use anyhow::{Context, Result};

use crate::checks::metrics;
use rig::workspace;

/// The crates that `pv-abi` may link.
const OF_ABI: [&str; 2] = ["pv-abi", "zerocopy"];
/// The programs of ring 0.
const RING_0: [&str; 2] = ["loader", "monitor"];
/// Crates that serialise messages, or are allocators.
const KEPT_OUT: [&str; 7] =
    ["control", "channel", "postcard", "serde", "serde_bytes", "serde_core", "talc"];
/// Text that no source file of a ring-0 crate may contain.
const WORDS_KEPT_OUT: [&str; 2] = ["extern crate alloc", "#[global_allocator]"];

/// The mistakes in the dependencies of the lowest crates, as sentences; empty if there are none.
///
/// # Errors
/// The tree cannot be read, or cargo cannot say what a crate links.
pub fn check() -> Result<Vec<String>> {
    let mut found = in_abi(&linked("pv-abi")?);
    for program in RING_0 {
        found.extend(in_ring_0(program, &linked(program)?));
        for (name, directory) in metrics::crates_of(program)? {
            for file in metrics::files(&directory.join("src"), "rs")? {
                let text = fs::read_to_string(&file);
                let text = text.with_context(|| format!("cannot read {}", file.display()))?;
                found.extend(in_text(program, &name, &text));
            }
        }
    }
    Ok(found)
}

/// The names of the crates that a package links for bare hardware, itself included.
fn linked(package: &str) -> Result<Vec<String>> {
    let mut cargo = workspace::cargo("tree");
    cargo.args(["--package", package, "--edges", "normal,no-proc-macro", "--prefix", "none"]);
    cargo.args(["--format", "{p}", "--target", "x86_64-unknown-none"]);
    let text = workspace::output(&mut cargo, "asking cargo what a crate links")?;
    Ok(names(&text))
}

fn names(tree: &str) -> Vec<String> {
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let mut names: Vec<_> = names.filter(|name| !name.is_empty()).map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn in_abi(linked: &[String]) -> Vec<String> {
    let more = linked.iter().filter(|name| !OF_ABI.contains(&name.as_str()));
    more.map(|name| {
        format!(
            "pv-abi links {name}; it may link only zerocopy, because it has only \
        layouts and numbers"
        )
    })
    .collect()
}

fn in_ring_0(program: &str, linked: &[String]) -> Vec<String> {
    let kept_out = linked.iter().filter(|name| KEPT_OUT.contains(&name.as_str()));
    kept_out.map(|name| format!("the {program} links {name}; ring 0 has no heap")).collect()
}

fn in_text(program: &str, name: &str, text: &str) -> Vec<String> {
    let words = WORDS_KEPT_OUT.iter().filter(|word| text.contains(**word));
    words.map(|word| format!("the {program} links {name}, which has `{word}`")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_crates_link_what_they_may() {
        assert_eq!(check().unwrap(), [""; 0]);
    }

    #[test]
    fn a_crate_that_may_not_be_there_is_named() {
        let tree = "pv-abi v0.1.0 (/tree/pv-abi)\nzerocopy v0.8.0\nserde v1.0.0\nserde v1.0.0\n\n";
        let linked = names(tree);
        assert_eq!(linked, ["pv-abi", "serde", "zerocopy"]);
        assert_eq!(in_abi(&linked).len(), 1);
        assert_eq!(in_ring_0("monitor", &linked), ["the monitor links serde; ring 0 has no heap"]);
        assert_eq!(in_text("loader", "elf", "extern crate alloc;").len(), 1);
    }
}
