//! An ELF reader with the few features that the loader needs for the monitor and the first two
//! partitions.
//!
//! All accesses are bounds-checked: for a corrupt module it returns an error that names the defect.

use ::elf::{
    ElfBytes,
    abi::{EM_X86_64, ET_EXEC, PT_LOAD, SHT_SYMTAB},
    endian::LittleEndian,
    file::Class,
    segment::ProgramHeader,
};

/// Why a module cannot be loaded.
pub type Problem = &'static str;

/// A loadable segment: its header, and the bytes that the file has for it; the rest is zero.
pub type Segment<'a> = (ProgramHeader, &'a [u8]);

/// An ELF64 executable for x86-64.
#[derive(Debug)]
pub struct Executable<'a> {
    file: ElfBytes<'a, LittleEndian>,
    /// Its entry point.
    pub entry: u64,
}

impl<'a> Executable<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn new(file: &'a [u8]) -> Result<Self, Problem> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(file)
            .map_err(|_| "it is truncated, or not a 64-bit ELF file")?;
        let header = &file.ehdr;
        if (header.class, header.e_type, header.e_machine) != (Class::ELF64, ET_EXEC, EM_X86_64) {
            return Err("it is not an x86-64 executable");
        }
        Ok(Self { entry: header.e_entry, file })
    }

    /// The loadable segments.
    pub fn segments(&self) -> impl Iterator<Item = Result<Segment<'a>, Problem>> + '_ {
        let headers = self.file.segments().into_iter().flatten();
        let loadable = headers.filter(|header| header.p_type == PT_LOAD && header.p_memsz != 0);
        loadable.map(|header| self.segment(header))
    }

    fn segment(&self, header: ProgramHeader) -> Result<Segment<'a>, Problem> {
        if header.p_filesz > header.p_memsz {
            return Err("a segment is larger in the file than in memory");
        }
        let contents = self.file.segment_data(&header);
        Ok((header, contents.map_err(|_| "it is truncated: a segment lies outside the file")?))
    }
}

impl<'a> Executable<'a> {
    /// The symbol table, and the string table that it refers to.
    pub fn symbols(&self) -> Option<[&'a [u8]; 2]> {
        let sections = self.file.section_headers()?;
        let table = sections.iter().find(|section| section.sh_type == SHT_SYMTAB)?;
        let names = sections.get(table.sh_link as usize).ok()?;
        let bytes = |section| Some(self.file.section_data(section).ok()?.0);
        Some([bytes(&table)?, bytes(&names)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Vec<u8> {
        let mut file = vec![0u8; 0x100];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        file[20] = 1;
        file[52] = 64;
        file[16] = 2;
        file[18] = 62;
        file[24..32].copy_from_slice(&0x20_0000u64.to_le_bytes());
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64] = 1;
        file[68] = 5;
        file[72] = 0xf0;
        file[80..88].copy_from_slice(&0x20_0000u64.to_le_bytes());
        file[96] = 0x10;
        file[104] = 0x20;
        file
    }

    #[test]
    fn segments_of_a_small_file() {
        let file = minimal();
        let executable = Executable::new(&file).expect("valid");
        let segments: Vec<_> = executable.segments().collect();
        assert_eq!(segments.len(), 1);
        let (header, contents) = segments[0].expect("valid");
        assert_eq!((header.p_memsz, contents.len()), (0x20, 0x10));
        assert_eq!(header.p_flags, 5);
        assert_eq!((header.p_vaddr, executable.entry), (0x20_0000, 0x20_0000));
    }

    #[test]
    fn every_truncation_is_an_error_or_smaller() {
        let file = minimal();
        for length in 0..file.len() {
            let result = Executable::new(&file[..length])
                .map(|e| e.segments().all(|segment| segment.is_ok()));
            assert_ne!(result, Ok(true), "{length} bytes");
        }
    }
}
