//! A report as text for people.

use std::fmt::{self, Display, Formatter};

use crate::{Fate, Finding, NoteStyle, Notes, Report};

/// The most functions shown for each kind of instruction; `--json` shows all.
const PLACES: usize = 6;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}, {}", self.file, self.container, self.compression)?;
        writeln!(f, "ELF image of {} bytes", self.elf_bytes)?;
        writeln!(f)?;
        if self.pv.startable {
            writeln!(f, "PV start: yes")?;
        } else {
            let parts = self.pv.reasons.iter().chain(&self.pv.way_out);
            let parts: Vec<&str> = parts.map(String::as_str).collect();
            writeln!(f, "PV start: no: {}", parts.join("; "))?;
        }
        self.pv.notes.fmt_lines(f)?;
        for remark in &self.pv.remarks {
            writeln!(f, "  - {remark}")?;
        }
        writeln!(f)?;
        write!(f, "Code: {} bytes, {} instructions", self.code_bytes, self.instructions)?;
        writeln!(f, "; names from {}", self.symbols)?;
        for remark in &self.remarks {
            writeln!(f, "  - {remark}")?;
        }
        for fate in [Fate::Faults, Fate::Hypercall, Fate::Ignored, Fate::Emulated, Fate::Native] {
            let found: Vec<_> = self.findings.iter().filter(|found| found.fate == fate).collect();
            if !found.is_empty() {
                writeln!(f, "\n{}", heading(fate))?;
            }
            for finding in found {
                finding.fmt(f)?;
            }
        }
        Ok(())
    }
}

fn heading(fate: Fate) -> &'static str {
    match fate {
        Fate::Faults => "Faults, delivered to the kernel:",
        Fate::Hypercall => "Faults, delivered to the kernel; a hypercall does the same:",
        Fate::Ignored => "Without effect:",
        Fate::Emulated => "Done by the monitor:",
        Fate::Native => "Done by the CPU in ring 3:",
    }
}

impl Display for Finding {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "  {:<27} {:>6} x  {}", self.instruction, self.count, self.meaning)?;
        let mut line = String::new();
        for place in self.places.iter().take(PLACES) {
            let times = if place.count == 1 { String::new() } else { format!(" x{}", place.count) };
            let text = format!("{}{times}", place.symbol);
            if !line.is_empty() && line.len() + text.len() > 66 {
                writeln!(f, "      {line}")?;
                line.clear();
            }
            line += if line.is_empty() { "" } else { ", " };
            line += &text;
        }
        let more = self.places.len().saturating_sub(PLACES);
        if more > 0 {
            line += &format!(", and in {more} more");
        }
        writeln!(f, "      {line}")
    }
}

impl Notes {
    fn fmt_lines(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.style {
            NoteStyle::Absent => return writeln!(f, "  notes            none"),
            NoteStyle::ElfNotes => {}
            NoteStyle::GuestSection => writeln!(f, "  notes            in section __xen_guest")?,
        }
        let texts = [
            ("GUEST_OS", &self.guest_os),
            ("GUEST_VERSION", &self.guest_version),
            ("LOADER", &self.loader),
            ("XEN_VERSION", &self.xen_version),
            ("FEATURES", &self.features),
            ("BSD_SYMTAB", &self.bsd_symtab),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                writeln!(f, "  {name:<18} {text}")?;
            }
        }
        let numbers = [
            ("SUPPORTED_FEATURES", self.supported_features.map(u64::from)),
            ("ENTRY", self.entry),
            ("VIRT_BASE", self.virt_base),
            ("PADDR_OFFSET", self.paddr_offset),
            ("HYPERCALL_PAGE", self.hypercall_page),
            ("INIT_P2M", self.init_p2m),
            ("MOD_START_PFN", self.mod_start_pfn.map(u64::from)),
            ("HV_START_LOW", self.hv_start_low),
            ("PHYS32_ENTRY", self.phys32_entry),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                writeln!(f, "  {name:<18} {number:#x}")?;
            }
        }
        Ok(())
    }
}
