//! Identifies the CPU, by `cpuid` and two registers.

/// The manufacturer of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel.
    Intel,
    /// AMD.
    Amd,
    /// Hygon, which sells AMD's first Zen.
    Hygon,
    /// Zhaoxin and Centaur.
    Zhaoxin,
    /// Anybody else.
    Other,
}

/// The facts that the CPU reports about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    vendor: [u8; 12],
    /// Leaf 1: family, model, stepping; features.
    signature: u32,
    features: u32,
    /// Leaf 7: `ebx` and `edx`; `edx` of its second subleaf.
    structured: [u32; 2],
    controls: u32,
    /// Leaf 80000008h `ebx`, leaf 80000021h `eax` and `ecx`.
    extended: u32,
    amd: [u32; 2],
    /// IA32_ARCH_CAPABILITIES; 0 if there is no such register.
    capabilities: u64,
    microcode: u32,
}

impl Cpu {
    /// Reads the CPU through `cpuid(leaf, subleaf)`, which returns `eax`, `ebx`, `ecx` and `edx`.
    /// The caller passes the values of two model-specific registers, IA32_ARCH_CAPABILITIES and the
    /// microcode's revision, since only ring 0 can read them.
    #[must_use]
    pub fn read(cpuid: impl Fn(u32, u32) -> [u32; 4], capabilities: u64, microcode: u32) -> Self {
        let [most, b, c, d] = cpuid(0, 0);
        let [more, ..] = cpuid(0x8000_0000, 0);
        let leaf = |leaf: u32, subleaf| {
            let last = if leaf < 0x8000_0000 { most } else { more };
            if leaf <= last { cpuid(leaf, subleaf) } else { [0; 4] }
        };
        let mut vendor = [0; 12];
        let names = [b, d, c].map(u32::to_le_bytes);
        vendor.iter_mut().zip(names.as_flattened()).for_each(|(to, from)| *to = *from);
        let [signature, _, features, _] = leaf(1, 0);
        let [subleaves, structured_b, _, structured_d] = leaf(7, 0);
        let controls = if subleaves >= 2 { leaf(7, 2)[3] } else { 0 };
        let [amd_a, _, amd_c, _] = leaf(0x8000_0021, 0);
        Self {
            vendor,
            signature,
            features,
            structured: [structured_b, structured_d],
            controls,
            extended: leaf(0x8000_0008, 0)[1],
            amd: [amd_a, amd_c],
            capabilities,
            microcode,
        }
    }

    /// The manufacturer.
    #[must_use]
    pub fn vendor(&self) -> Vendor {
        match &self.vendor {
            b"GenuineIntel" => Vendor::Intel,
            b"AuthenticAMD" => Vendor::Amd,
            b"HygonGenuine" => Vendor::Hygon,
            b"  Shanghai  " | b"CentaurHauls" => Vendor::Zhaoxin,
            _ => Vendor::Other,
        }
    }

    /// The manufacturer, as the CPU's own text.
    #[must_use]
    pub fn vendor_name(&self) -> &str {
        core::str::from_utf8(&self.vendor).unwrap_or("unknown").trim()
    }

    /// Family, with the extended family added (Intel SDM, CPUID leaf 1).
    #[must_use]
    pub fn family(&self) -> u32 {
        match self.signature >> 8 & 0xf {
            0xf => 0xf + (self.signature >> 20 & 0xff),
            family => family,
        }
    }

    /// Model, with the extended model in the high bits.
    #[must_use]
    pub fn model(&self) -> u32 {
        let low = self.signature >> 4 & 0xf;
        match self.signature >> 8 & 0xf {
            6 | 0xf => low | (self.signature >> 12 & 0xf0),
            _ => low,
        }
    }

    /// Stepping.
    #[must_use]
    pub fn stepping(&self) -> u32 {
        self.signature & 0xf
    }

    /// Revision of the microcode.
    #[must_use]
    pub fn microcode(&self) -> u32 {
        self.microcode
    }

    /// Returns whether it has a feature.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        let [structured_b, structured_d] = self.structured;
        let [amd_a, amd_c] = self.amd;
        let (word, bit) = match feature {
            Feature::Avx => (self.features, 28),
            Feature::Rdrand => (self.features, 30),
            Feature::Hypervisor => (self.features, 31),
            Feature::Rtm => (structured_b, 11),
            Feature::Rdseed => (structured_b, 18),
            Feature::SrbdsCtrl => (structured_d, 9),
            Feature::MdClear => (structured_d, 10),
            Feature::FlushL1d => (structured_d, 28),
            Feature::BhiCtrl => (self.controls, 4),
            Feature::XsaveErrorPointers => (self.extended, 2),
            Feature::AmdSsbNo => (self.extended, 26),
            Feature::BtcNo => (self.extended, 29),
            Feature::SrsoNo => (amd_a, 29),
            Feature::SrsoUserKernelNo => (amd_a, 30),
            Feature::TsaSqNo => (amd_c, 1),
            Feature::TsaL1No => (amd_c, 2),
        };
        word & 1 << bit != 0
    }

    /// Returns whether a bit of IA32_ARCH_CAPABILITIES is set.
    pub(crate) fn capable(&self, bit: u32) -> bool {
        self.capabilities & 1 << bit != 0
    }
}

/// A feature, named as in the manuals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    Avx,
    Rdrand,
    Hypervisor,
    Rtm,
    Rdseed,
    SrbdsCtrl,
    MdClear,
    FlushL1d,
    BhiCtrl,
    XsaveErrorPointers,
    AmdSsbNo,
    BtcNo,
    SrsoNo,
    SrsoUserKernelNo,
    TsaSqNo,
    TsaL1No,
}

/// Bits of IA32_ARCH_CAPABILITIES (Intel SDM vol. 4, register 10Ah).
pub(crate) mod capability {
    pub(crate) const RDCL_NO: u32 = 0;
    pub(crate) const IBRS_ALL: u32 = 1;
    pub(crate) const RSBA: u32 = 2;
    pub(crate) const SSB_NO: u32 = 4;
    pub(crate) const MDS_NO: u32 = 5;
    pub(crate) const TSX_CTRL: u32 = 7;
    pub(crate) const TAA_NO: u32 = 8;
    pub(crate) const SBDR_SSDP_NO: u32 = 13;
    pub(crate) const FBSDP_NO: u32 = 14;
    pub(crate) const PSDP_NO: u32 = 15;
    pub(crate) const FB_CLEAR: u32 = 17;
    pub(crate) const BHI_NO: u32 = 20;
    pub(crate) const GDS_CTRL: u32 = 25;
    pub(crate) const GDS_NO: u32 = 26;
    pub(crate) const RFDS_NO: u32 = 27;
    pub(crate) const RFDS_CLEAR: u32 = 28;
    pub(crate) const ITS_NO: u32 = 62;
}
