//! Makes small ELF images and `bzImage`s.

/// An ELF image with one segment at `BASE`, and the requested parts.
#[derive(Clone, Debug, Default)]
pub(super) struct Elf {
    pub(super) code: Vec<u8>,
    pub(super) notes: Vec<(u32, Vec<u8>)>,
    /// Functions by their offset in the code.
    pub(super) symbols: Vec<(&'static str, u64)>,
    /// Contents of a section `__xen_guest`.
    pub(super) guest_section: Option<&'static str>,
    /// If set, there is no section `.text`: only the segment is executable.
    pub(super) bare: bool,
}

/// Virtual address of the code; its physical address is `LOAD`.
pub(super) const BASE: u64 = 0xffff_ffff_8100_0000;
const LOAD: u64 = 0x100_0000;
const CODE_AT: usize = 0x1000;

struct Section {
    name: &'static str,
    kind: u32,
    flags: u64,
    address: u64,
    bytes: Vec<u8>,
    link: u32,
    entry: u64,
}

impl Section {
    fn plain(name: &'static str, kind: u32, bytes: Vec<u8>) -> Self {
        Self { name, kind, flags: 0, address: 0, bytes, link: 0, entry: 0 }
    }
}

impl Elf {
    /// An image with the least that a PV kernel says.
    pub(super) fn startable(code: &[u8]) -> Self {
        let notes = vec![
            (1, BASE.to_le_bytes().to_vec()),
            (3, (BASE - LOAD).to_le_bytes().to_vec()),
            (5, b"xen-3.0\0".to_vec()),
            (8, b"generic\0".to_vec()),
        ];
        Self { code: code.to_vec(), notes, ..Self::default() }
    }

    pub(super) fn build(&self) -> Vec<u8> {
        let mut file = vec![0; CODE_AT];
        file.extend_from_slice(&self.code);
        file.resize(file.len().next_multiple_of(4), 0);
        let notes_at = file.len();
        for (kind, value) in &self.notes {
            file.extend(4_u32.to_le_bytes());
            file.extend((value.len() as u32).to_le_bytes());
            file.extend(kind.to_le_bytes());
            file.extend(b"Xen\0");
            file.extend(value);
            file.resize(file.len().next_multiple_of(4), 0);
        }
        let notes = file.len() - notes_at;
        let code = self.code.len() as u64;
        let segments = [
            [1 | 7 << 32, CODE_AT as u64, BASE, LOAD, code, code, 0x1000],
            [4 | 4 << 32, notes_at as u64, 0, 0, notes as u64, 0, 4],
        ];
        let sections = self.sections();
        let names: String = sections.iter().map(|section| format!("{}\0", section.name)).collect();
        let mut headers = vec![[0; 64]];
        let mut name = 0;
        for section in &sections {
            let text = section.name == ".text";
            let at = if text { CODE_AT } else { file.len() };
            let bytes = if section.name == ".shstrtab" { names.as_bytes() } else { &section.bytes };
            headers.push(section_header(section, name, at as u64, bytes.len() as u64));
            name += section.name.len() as u32 + 1;
            if !text {
                file.extend_from_slice(bytes);
            }
        }
        let headers_at = file.len() as u64;
        headers.iter().for_each(|header| file.extend_from_slice(header));
        file[..64].copy_from_slice(&elf_header(headers_at, headers.len() as u16));
        for (index, segment) in segments.iter().enumerate() {
            for (field, value) in segment.iter().enumerate() {
                let at = 64 + index * 56 + field * 8;
                file[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
        }
        file
    }

    fn sections(&self) -> Vec<Section> {
        let mut sections = vec![Section::plain(".shstrtab", 3, Vec::new())];
        if !self.bare {
            let text = Section::plain(".text", 1, self.code.clone());
            sections.push(Section { flags: 6, address: BASE, ..text });
        }
        if let Some(text) = self.guest_section {
            sections.push(Section::plain("__xen_guest", 1, text.as_bytes().to_vec()));
        }
        if !self.symbols.is_empty() {
            let mut names = vec![0];
            let mut table = vec![0; 24];
            for (name, offset) in &self.symbols {
                table.extend((names.len() as u32).to_le_bytes());
                table.extend([0x12, 0, 2, 0]);
                table.extend((BASE + offset).to_le_bytes());
                table.extend([0; 8]);
                names.extend(name.as_bytes());
                names.push(0);
            }
            let link = sections.len() as u32 + 1;
            sections.push(Section::plain(".strtab", 3, names));
            let symbols = Section::plain(".symtab", 2, table);
            sections.push(Section { link, entry: 24, ..symbols });
        }
        sections
    }
}

fn elf_header(sections_at: u64, sections: u16) -> [u8; 64] {
    let mut header = [0; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[16..24].copy_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    header[24..32].copy_from_slice(&BASE.to_le_bytes());
    header[32..40].copy_from_slice(&64_u64.to_le_bytes());
    header[40..48].copy_from_slice(&sections_at.to_le_bytes());
    header[52..60].copy_from_slice(&[64, 0, 56, 0, 2, 0, 64, 0]);
    header[60..62].copy_from_slice(&sections.to_le_bytes());
    header[62..64].copy_from_slice(&1_u16.to_le_bytes());
    header
}

fn section_header(section: &Section, name: u32, at: u64, length: u64) -> [u8; 64] {
    let mut header = [0; 64];
    header[..4].copy_from_slice(&name.to_le_bytes());
    header[4..8].copy_from_slice(&section.kind.to_le_bytes());
    header[8..16].copy_from_slice(&section.flags.to_le_bytes());
    header[16..24].copy_from_slice(&section.address.to_le_bytes());
    header[24..32].copy_from_slice(&at.to_le_bytes());
    header[32..40].copy_from_slice(&length.to_le_bytes());
    header[40..44].copy_from_slice(&section.link.to_le_bytes());
    header[48..56].copy_from_slice(&1_u64.to_le_bytes());
    header[56..64].copy_from_slice(&section.entry.to_le_bytes());
    header
}

/// Offset of the payload in the image of [`bzimage`].
pub(super) const PAYLOAD_AT: usize = 3 * 512 + 0x100;

/// A `bzImage` with this stream. `size` follows the stream, except for gzip, which ends with its
/// own size.
pub(super) fn bzimage(stream: &[u8], size: usize) -> Vec<u8> {
    let mut file = vec![0; PAYLOAD_AT];
    file[0x1f1] = 2;
    file[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x248..0x24c].copy_from_slice(&0x100_u32.to_le_bytes());
    file.extend_from_slice(stream);
    if !stream.starts_with(b"\x1f\x8b") {
        file.extend((size as u32).to_le_bytes());
    }
    let length = (file.len() - PAYLOAD_AT) as u32;
    file[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
    file.extend_from_slice(b"what follows the payload");
    file
}
