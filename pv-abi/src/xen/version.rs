//! `xen_version`: the hypervisor's version and properties (`version.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Returns major << 16 | minor. Kernels also call it to get pending events delivered.
pub const VERSION: u64 = 0;
/// Fills 16 bytes of text.
pub const EXTRAVERSION: u64 = 1;
/// Fills a [`CompileInfo`].
pub const COMPILE_INFO: u64 = 2;
/// Fills 1024 bytes of text.
pub const CAPABILITIES: u64 = 3;
/// Fills 64 bytes of text.
pub const CHANGESET: u64 = 4;
/// Fills a u64: lowest address of the hypervisor hole.
pub const PLATFORM_PARAMETERS: u64 = 5;
/// Fills [`FeatureInfo::submap`].
pub const GET_FEATURES: u64 = 6;
/// Returns the page size.
pub const PAGESIZE: u64 = 7;
/// Fills 16 bytes: the domain's UUID.
pub const GUEST_HANDLE: u64 = 8;
/// Fills 1024 bytes: the hypervisor's command line.
pub const COMMANDLINE: u64 = 9;
/// Fills a length and a build id; a null argument asks for the length.
pub const BUILD_ID: u64 = 10;

/// Bytes that [`EXTRAVERSION`] fills.
pub const EXTRAVERSION_BYTES: usize = 16;
/// Bytes that [`CAPABILITIES`] fills.
pub const CAPABILITIES_BYTES: usize = 1024;
/// Bytes that [`CHANGESET`] fills.
pub const CHANGESET_BYTES: usize = 64;
/// Bytes that [`COMMANDLINE`] fills.
pub const COMMANDLINE_BYTES: usize = 1024;

/// Build data (`xen_compile_info`); 144 bytes of text, each field terminated by a zero byte.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CompileInfo {
    /// Compiler.
    pub compiler: [u8; 64],
    /// User who compiled it.
    pub compile_by: [u8; 16],
    /// Domain name of the build machine.
    pub compile_domain: [u8; 32],
    /// Date of the build.
    pub compile_date: [u8; 32],
}

/// A query for features (`xen_feature_info`); 8 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FeatureInfo {
    /// In: which group of 32 features.
    pub submap_idx: u32,
    /// Out: the bits of the group; see [`super::features`].
    pub submap: u32,
}

const _: () = {
    assert!(size_of::<CompileInfo>() == 144);
    assert_offsets!(CompileInfo {
        compiler: 0,
        compile_by: 64,
        compile_domain: 80,
        compile_date: 112
    });
    assert!(size_of::<FeatureInfo>() == 8);
    assert_offsets!(FeatureInfo { submap_idx: 0, submap: 4 });
};
