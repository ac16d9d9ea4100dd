//! Debian's kernel as its package ships it, if `cargo xtask` has downloaded it before.

use std::path::{Path, PathBuf};

use crate::{Compression, Container, check, load};

/// The kernel that `cargo xtask` keeps.
fn kernel() -> Option<PathBuf> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../build/kernel");
    let package = std::fs::read_to_string(cache.join("current")).ok()?;
    let release = package.trim().trim_start_matches("linux-image-").trim_end_matches("-unsigned");
    let kernel = cache.join(package.trim()).join("boot").join(format!("vmlinuz-{release}"));
    kernel.exists().then_some(kernel)
}

#[test]
fn the_stock_kernel_is_loaded_and_listed_by_function() {
    let Some(kernel) = kernel() else {
        println!("skipped: no kernel in build/kernel; any `cargo xtask exec` puts one there");
        return;
    };
    let loaded = load(&kernel).expect("a kernel");
    assert_eq!((loaded.container, loaded.compression), (Container::BzImage, Compression::Xz));
    loaded.check_startable().expect("a PV kernel");
    let report = check(&loaded);
    assert_eq!(report.pv.notes.guest_os.as_deref(), Some("linux"));
    assert_eq!(report.symbols, "kallsyms");
    let places = |name: &str| {
        let finding = report.findings.iter().find(|finding| finding.instruction == name);
        finding.unwrap_or_else(|| panic!("no {name}")).places.clone()
    };
    for (instruction, function) in [
        ("lgdt", "native_load_gdt"),
        ("invlpg", "native_flush_tlb_one_user"),
        ("swapgs", "entry_SYSCALL_64"),
        ("ud2; \"xen\"; cpuid", "xen_cpuid"),
    ] {
        assert!(places(instruction).iter().any(|place| place.symbol == function), "{instruction}");
    }
}
