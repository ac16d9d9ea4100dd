//! When the loader is built for bare hardware, hands the linker script to the linker, and the
//! monitor's image to the compiler.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-changed=loader.ld");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=MONITOR_IMAGE");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let directory = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo:rustc-link-arg-bins=-T{directory}/loader.ld");
    // GRUB loads by physical addresses; pages of 4 KiB keep the file small.
    println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
    println!("cargo:rustc-link-arg-bins=--build-id=none");
    // If no image is named, as in an editor, an empty one lets the code compile.
    let image = env::var("MONITOR_IMAGE").map(PathBuf::from).unwrap_or_else(|_| {
        let empty = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("empty");
        fs::write(&empty, []).expect("OUT_DIR can be written");
        empty
    });
    println!("cargo:rerun-if-changed={}", image.display());
    println!("cargo:rustc-env=MONITOR_IMAGE={}", image.display());
}
