//! The mitigations against leaks of the CPU.
//!
//! The feature bits of the first CPU and the command line decide, once, and the monitor makes every
//! CPU do the same. The ultravisor judges whether that is enough, by `hv/cpu-issues`. The rule: a
//! mitigation that the CPU lacks stays off, and every default is on if the CPU needs it.

use pv_abi::uv::start::mitigation as on;

/// The words of the command line, `NAME=on` and `NAME=off`, and the mitigation of each.
pub const NAMES: [(&str, u32); 9] = [
    ("verw", on::VERW),
    ("ibpb", on::IBPB),
    ("ibrs", on::IBRS | on::AUTO_IBRS),
    ("stibp", on::STIBP),
    ("bhi", on::BHI),
    ("ssbd", on::SSBD),
    ("zenbleed", on::ZENBLEED),
    ("no-tsx", on::NO_TSX),
    ("l1tf", on::L1TF),
];

/// The choices on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Mitigations to turn on if the CPU has them, whatever the default.
    pub on: u32,
    /// Mitigations to turn off.
    pub off: u32,
}

impl Choice {
    /// Records a word; a later one overrides an earlier one.
    pub fn record(&mut self, name: &str, value: &str) -> Option<()> {
        let bits = match (name, value) {
            ("mitigations", "auto" | "off") => u32::MAX,
            _ => NAMES.iter().find(|(known, _)| *known == name)?.1,
        };
        let (on, off) = match value {
            "auto" if name == "mitigations" => (0, 0),
            "on" => (bits, 0),
            "off" => (0, bits),
            _ => return None,
        };
        (self.on, self.off) = (self.on & !bits | on, self.off & !bits | off);
        Some(())
    }
}

/// What the first CPU reports about itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Whether AMD or Hygon made the CPU.
    pub amd: bool,
    /// Leaf 1 `eax` and `ecx`.
    pub basic: [u32; 2],
    /// Leaf 7 `edx`; `edx` of its second subleaf.
    pub structured: [u32; 2],
    /// Leaf 80000008h `ebx`.
    pub extended: u32,
    /// Leaf 80000021h `eax` and `ecx`.
    pub more: [u32; 2],
    /// IA32_ARCH_CAPABILITIES.
    pub capabilities: u64,
    /// Revision of the microcode.
    pub microcode: u32,
    /// Number of low bits in which the APIC ids of a core's threads differ.
    pub thread_bits: u32,
}

impl Seen {
    fn family(&self) -> u32 {
        (self.basic[0] >> 8 & 0xf) + (self.basic[0] >> 20 & 0xff)
    }

    fn capable(&self, bits: u64) -> bool {
        self.capabilities & bits == bits
    }

    /// The mitigations that the CPU supports.
    fn can(&self) -> u32 {
        let [basic, extended] = [self.structured[0], self.extended].map(u64::from);
        let has = |word: u64, bit: u32, what: u32| if word >> bit & 1 != 0 { what } else { 0 };
        // Under a hypervisor, the chicken bits are the hypervisor's.
        let zen_2 = self.amd && self.family() == 0x17 && self.basic[1] >> 31 == 0;
        let zen_2 = zen_2 && !matches!(self.basic[0] >> 16 & 0xf, 0 | 1 | 2 | 5);
        has(basic, 26, on::IBPB)
            | has(extended, 12, on::IBPB)
            | if basic >> 26 & 1 != 0 { has(self.capabilities, 1, on::IBRS) } else { 0 }
            | has(self.more[0].into(), 8, on::AUTO_IBRS)
            | has(basic, 27, on::STIBP)
            | has(extended, 15, on::STIBP)
            | has(self.structured[1].into(), 4, on::BHI)
            | has(basic, 31, on::SSBD)
            | has(extended, 24, on::SSBD)
            | has(self.capabilities, 7, on::NO_TSX)
            | if zen_2 { on::ZENBLEED } else { 0 }
            | on::VERW
            | on::L1TF
    }

    /// Returns whether the CPU has buffers that `verw` must clear: MD_CLEAR without MDS_NO,
    /// FB_CLEAR without all three bits of MMIO stale data, RFDS_CLEAR without RFDS_NO; Zen 3 and 4
    /// without both bits of TSA.
    fn owes_verw(&self) -> bool {
        let md_clear = self.structured[0] & 1 << 10 != 0;
        md_clear && !self.capable(1 << 5)
            || self.capable(1 << 17) && !self.capable(0b111 << 13)
            || self.capable(1 << 28) && !self.capable(1 << 27)
            || self.amd && self.family() == 0x19 && self.more[1] & 0b110 != 0b110
    }

    /// The mitigations that are on by default.
    fn wanted(&self) -> u32 {
        let off = on::SSBD
            | if self.owes_verw() { 0 } else { on::VERW }
            | if self.thread_bits > 0 { 0 } else { on::STIBP }
            | if self.amd || self.capable(1) { on::L1TF } else { 0 };
        !off
    }

    /// The mitigations to turn on.
    #[must_use]
    pub fn choose(&self, choice: Choice) -> u32 {
        (self.wanted() & !choice.off | choice.on) & self.can()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(line: &str) -> Option<Choice> {
        let mut choice = Choice::default();
        for word in line.split(' ') {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            choice.record(name, value)?;
        }
        Some(choice)
    }

    const SKYLAKE: Seen = Seen {
        amd: false,
        basic: [0x0005_0654, 0],
        structured: [1 << 10 | 1 << 26 | 1 << 27 | 1 << 31, 0],
        extended: 0,
        more: [0, 0],
        capabilities: 0,
        microcode: 0,
        thread_bits: 1,
    };

    #[test]
    fn defaults_follow_the_cpu() {
        let usual = Choice::default();
        assert_eq!(Seen::default().choose(usual), on::L1TF);
        assert_eq!(Seen { amd: true, ..Seen::default() }.choose(usual), 0);
        assert_eq!(SKYLAKE.choose(usual), on::VERW | on::IBPB | on::STIBP | on::L1TF);
        let safe = Seen { capabilities: 1 | 1 << 1 | 1 << 5, thread_bits: 0, ..SKYLAKE };
        assert_eq!(safe.choose(usual), on::IBPB | on::IBRS);
        let sapphire = Seen { structured: [safe.structured[0], 1 << 4], ..safe };
        assert_eq!(sapphire.choose(usual), on::IBPB | on::IBRS | on::BHI);
        let tsx = Seen { capabilities: safe.capabilities | 1 << 7 | 1 << 17, ..safe };
        assert_eq!(tsx.choose(usual), on::IBPB | on::IBRS | on::NO_TSX | on::VERW);
        let genoa =
            Seen { amd: true, basic: [0x00a1_0f11, 0], more: [1 << 8, 0], ..Seen::default() };
        let genoa = Seen { extended: 1 << 12 | 1 << 15 | 1 << 24, ..genoa };
        assert_eq!(genoa.choose(usual), on::AUTO_IBRS | on::IBPB | on::VERW);
    }

    #[test]
    fn the_command_line_overrides_them_but_not_the_cpu() {
        let chosen = |line: &str, seen: Seen| seen.choose(choice(line).unwrap());
        assert_eq!(chosen("mitigations=off", SKYLAKE), 0);
        assert_eq!(chosen("mitigations=off verw=on", SKYLAKE), on::VERW);
        assert_eq!(chosen("verw=off mitigations=auto", SKYLAKE), SKYLAKE.choose(Choice::default()));
        assert_eq!(chosen("ssbd=on verw=off l1tf=off", SKYLAKE), on::IBPB | on::STIBP | on::SSBD);
        let amd = Seen { amd: true, ..Seen::default() };
        let all: std::string::String = NAMES.map(|(name, _)| std::format!("{name}=on")).join(" ");
        assert_eq!(chosen(&all, amd), on::VERW | on::L1TF);
        for bad in ["verw", "verw=auto", "mitigations=on", "meltdown=off", "mitigations"] {
            assert_eq!(choice(bad), None, "{bad}");
        }
    }

    #[test]
    fn zenbleed_is_for_zen_2_itself() {
        let rome = Seen { amd: true, basic: [0x0083_0f10, 0], ..Seen::default() };
        assert_eq!(rome.choose(Choice::default()), on::ZENBLEED);
        let naples = Seen { basic: [0x0080_0f12, 0], ..rome };
        let guest = Seen { basic: [0x0083_0f10, 1 << 31], ..rome };
        assert_eq!([naples, guest].map(|seen| seen.choose(Choice::default())), [0, 0]);
    }
}
