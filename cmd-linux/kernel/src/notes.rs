//! What a kernel says about a PV start.

use serde::Serialize;

/// Where the statements come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoteStyle {
    /// There are none.
    #[default]
    Absent,
    /// ELF notes of the owner "Xen".
    ElfNotes,
    /// A section `__xen_guest` with `NAME=VALUE` text, as before xen-3.1.
    GuestSection,
}

/// The statements. `None`: it is silent about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Notes {
    /// Where they come from.
    pub style: NoteStyle,
    /// Name of the system.
    pub guest_os: Option<String>,
    /// Version of the system.
    pub guest_version: Option<String>,
    /// Loader it was made for.
    pub loader: Option<String>,
    /// Interface version.
    pub xen_version: Option<String>,
    /// Features as text.
    pub features: Option<String>,
    /// Features as a bit mask.
    pub supported_features: Option<u32>,
    /// Virtual address to enter at.
    pub entry: Option<u64>,
    /// Virtual address of pseudo-physical address 0.
    pub virt_base: Option<u64>,
    /// What to subtract from the physical addresses of the segments.
    pub paddr_offset: Option<u64>,
    /// Virtual address of the page to fill with hypercall stubs.
    pub hypercall_page: Option<u64>,
    /// Virtual address for the table of machine frames.
    pub init_p2m: Option<u64>,
    /// The initial RAM disk may lie unmapped.
    pub mod_start_pfn: Option<bool>,
    /// Lowest address of the hypervisor's hole.
    pub hv_start_low: Option<u64>,
    /// Entry of a hardware-virtualized start.
    pub phys32_entry: Option<u64>,
}
