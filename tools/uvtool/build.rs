//! Links the static `uvtool` at a fixed address.
//!
//! A command that a person runs many times a minute is over in milliseconds. A good part of them
//! went into relocating thousands of addresses and into the pages that this dirties. A fixed
//! address is acceptable because `uvtool` reads only its own arguments and the answers of `uvd`, on
//! its own host; stack, heap and mappings are still placed by the kernel. `uvd`, which reads input
//! of others, stays relocatable.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        // For gcc, the last of -static-pie, -pie and -no-pie counts.
        println!("cargo::rustc-link-arg-bins=-no-pie");
        println!("cargo::rustc-link-arg-bins=-static");
    }
}
