//! Links an I/O partition with the runtime's linker script, when it is built for bare hardware.

fn main() {
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let script = std::env::var("DEP_PARTITION_RUNTIME_LINKER_SCRIPT")
            .expect("the runtime names its linker script");
        println!("cargo:rustc-link-arg-bins=-T{script}");
        println!("cargo:rerun-if-changed={script}");
    }
}
