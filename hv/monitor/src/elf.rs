//! The little of ELF that the monitor needs: the two Rust partitions it loads itself.
//!
//! Bounds-checked: a corrupt module is an error that says what is wrong with it.

/// Why a module cannot be loaded.
pub type Problem = &'static str;

/// A loadable segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Virtual address.
    pub address: u64,
    /// Bytes in memory.
    pub bytes: u64,
    /// What of them the file has; the rest is zero.
    pub contents: &'a [u8],
    /// May be written.
    pub writable: bool,
    /// May be executed.
    pub executable: bool,
}

/// An ELF64 executable for x86-64.
#[derive(Clone, Copy, Debug)]
pub struct Executable<'a> {
    file: &'a [u8],
    /// Where it starts.
    pub entry: u64,
    headers: u64,
    header_bytes: u64,
    count: u64,
}

const PT_LOAD: u64 = 1;

impl<'a> Executable<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn new(file: &'a [u8]) -> Result<Self, Problem> {
        if file.get(..6) != Some(b"\x7fELF\x02\x01") {
            return Err("it is not a 64-bit ELF file");
        }
        if field(file, 16, 2)? != 2 || field(file, 18, 2)? != 62 {
            return Err("it is not an x86-64 executable");
        }
        Ok(Self {
            file,
            entry: field(file, 24, 8)?,
            headers: field(file, 32, 8)?,
            header_bytes: field(file, 54, 2)?,
            count: field(file, 56, 2)?,
        })
    }

    /// The loadable segments.
    pub fn segments(&self) -> impl Iterator<Item = Result<Segment<'a>, Problem>> + '_ {
        (0..self.count).filter_map(|index| self.segment(index).transpose())
    }

    fn segment(&self, index: u64) -> Result<Option<Segment<'a>>, Problem> {
        let at = self.headers.wrapping_add(index * self.header_bytes);
        let word = |offset, bytes| field(self.file, at.wrapping_add(offset), bytes);
        let (offset, file_bytes, bytes) = (word(8, 8)?, word(32, 8)?, word(40, 8)?);
        if word(0, 4)? != PT_LOAD || bytes == 0 {
            return Ok(None);
        }
        let flags = word(4, 4)?;
        let end = offset.checked_add(file_bytes).ok_or("a segment lies outside the file")?;
        let contents = self
            .file
            .get(offset as usize..end as usize)
            .ok_or("it is truncated: a segment lies outside the file")?;
        if file_bytes > bytes {
            return Err("a segment is larger in the file than in memory");
        }
        Ok(Some(Segment {
            address: word(16, 8)?,
            bytes,
            contents,
            writable: flags & 2 != 0,
            executable: flags & 1 != 0,
        }))
    }
}

/// A little-endian field of 2, 4 or 8 bytes.
fn field(file: &[u8], at: u64, bytes: usize) -> Result<u64, Problem> {
    let at = usize::try_from(at).map_err(|_| "its headers lie outside the file")?;
    let part = at
        .checked_add(bytes)
        .and_then(|end| file.get(at..end))
        .ok_or("it is truncated: its headers lie outside the file")?;
    Ok(part.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Vec<u8> {
        let mut file = vec![0u8; 0x100];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
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
        let segment = segments[0].expect("valid");
        assert_eq!((segment.bytes, segment.contents.len()), (0x20, 0x10));
        assert!(segment.executable && !segment.writable);
        assert_eq!((segment.address, executable.entry), (0x20_0000, 0x20_0000));
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
