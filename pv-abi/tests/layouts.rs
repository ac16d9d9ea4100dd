//! Every structure of the ABI has its size and its offsets asserted beside it.

use std::fs;
use std::path::{Path, PathBuf};

/// The source files of the crate.
fn sources() -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for directory in [src.join("uv"), src.join("xen")] {
        let entries = fs::read_dir(&directory).expect("the crate's source");
        files.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    files
}

/// The names of the structures with a fixed layout in a source file.
fn structures(source: &str) -> impl Iterator<Item = &str> {
    source.split("#[repr(C)]").skip(1).map(|rest| {
        let (_, name) = rest.split_once("struct ").expect("a structure");
        name.split([' ', '{', '(']).next().expect("a name")
    })
}

#[test]
fn every_structure_has_its_size_and_offsets_asserted() {
    let mut missing = Vec::new();
    let mut seen = 0;
    for file in sources() {
        let source = fs::read_to_string(&file).expect("a source file");
        for name in structures(&source) {
            seen += 1;
            let has = |forms: &[String]| forms.iter().any(|form| source.contains(form.as_str()));
            let offsets = [format!("offset_of!({name},"), format!("assert_offsets!({name} {{")];
            if !has(&[format!("size_of::<{name}>() ==")]) || !has(&offsets) {
                missing.push(format!("{}: {name}", file.display()));
            }
        }
    }
    assert!(missing.is_empty(), "no size or no offsets asserted: {missing:#?}");
    assert!(seen > 60, "only {seen} structures were found");
}
