//! Tells dependents where a partition's linker script is.
//!
//! A partition's own build script reads `DEP_PARTITION_RUNTIME_LINKER_SCRIPT` and passes it on:
//!
//! ```ignore
//! if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
//!     let script = std::env::var("DEP_PARTITION_RUNTIME_LINKER_SCRIPT").unwrap();
//!     println!("cargo:rustc-link-arg-bins=-T{script}");
//! }
//! ```

fn main() {
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    println!("cargo:linker_script={root}/partition.ld");
    println!("cargo:rerun-if-changed=partition.ld");
}
