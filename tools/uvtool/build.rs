//! Links the static `uvtool` at a fixed address, with the functions that its commands execute side
//! by side.
//!
//! People run `uvtool` many times a minute, and a command ends within milliseconds. A good part of
//! these milliseconds went into relocating thousands of addresses, and into the pages that
//! relocation dirties. A fixed address is acceptable because `uvtool` reads only its own arguments
//! and the answers of `uvd`, on its own host; stack, heap and mappings are still placed by the
//! kernel. `uvd`, which reads input of others, stays relocatable.
//!
//! Another part went into mapping the pages that the executed functions lie in, sixteen at a time.
//! So the linker places these functions together, in the order of `order.ld`, which `cargo xtask
//! bench order` writes from the linker's map.

use std::env::var;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=order.ld");
    let features = var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        // For gcc, the last of -static-pie, -pie and -no-pie counts.
        println!("cargo::rustc-link-arg-bins=-no-pie");
        println!("cargo::rustc-link-arg-bins=-static");
        let of = |name| var(name).unwrap_or_default();
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{}/order.ld", of("CARGO_MANIFEST_DIR"));
        println!("cargo::rustc-link-arg-bins=-Wl,-Map={}/uvtool.map", of("OUT_DIR"));
    }
}
