use super::*;

const SKYLAKE: Identity =
    Identity { vendor: Vendor::Intel, signature: 0x5_0654, platform: 1 << 7, revision: 0x200 };
const ROME: Identity =
    Identity { vendor: Vendor::Amd, signature: 0x83_0f10, platform: 0, revision: 0x830_1000 };

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// An update of Intel's: revision, signature, platforms, and rows of the extended table.
fn intel(revision: u32, signature: u32, platforms: u32, others: &[(u32, u32)]) -> Vec<u8> {
    let table = if others.is_empty() { 0 } else { 20 + 12 * others.len() };
    let total = u32::try_from(48 + 16 + table).unwrap();
    let mut words = vec![1, revision, 0x0101_2024, signature, 0, 1, platforms, 16, total, 0, 0, 0];
    words.extend([0xdead_beef; 4]);
    if !others.is_empty() {
        words.extend([u32::try_from(others.len()).unwrap(), 0, 0, 0, 0]);
        others.iter().for_each(|(signature, platforms)| words.extend([*signature, *platforms, 0]));
    }
    words[4] = words.iter().fold(0_u32, |sum, word| sum.wrapping_sub(*word));
    bytes(&words)
}

/// A container of AMD's: rows of the table, patches by revision and number.
fn amd(rows: &[(u32, u32)], patches: &[(u32, u32)]) -> Vec<u8> {
    let table: Vec<_> = rows.iter().flat_map(|(cpu, number)| [*cpu, 0, 0, *number]).collect();
    let table = [&table[..], &[0; 4]].concat();
    let mut words = vec![AMD_MAGIC, TABLE, u32::try_from(4 * table.len()).unwrap()];
    words.extend(table);
    for (revision, number) in patches {
        let mut patch = [0; 20];
        (patch[1], patch[6], patch[19]) = (*revision, *number, 0xdead_beef);
        words.extend([PATCH, 80]);
        words.extend(patch);
    }
    bytes(&words)
}

fn revision(file: &[u8], cpu: &Identity) -> Result<Option<u32>, Damaged> {
    newest(file, cpu).map(|update| update.map(|update| update.revision))
}

#[test]
fn intels_newest_for_the_cpu_and_its_platform_is_found() {
    let file = [
        intel(0x300, 0x5_0657, 0xff, &[]),
        intel(0x210, 0x5_0654, 1 << 7, &[]),
        intel(0x400, 0x5_0654, 1 << 6, &[]),
        intel(0x220, 0x5_0653, 0xff, &[(1, 1), (0x5_0654, 1 << 7)]),
        intel(0x215, 0x5_0654, 0xff, &[]),
    ]
    .concat();
    let update = newest(&file, &SKYLAKE).unwrap().unwrap();
    assert_eq!((update.revision, &update.data[..4]), (0x220, &[0xef, 0xbe, 0xad, 0xde][..]));
    assert_eq!(revision(&file, &Identity { revision: 0x220, ..SKYLAKE }), Ok(None));
    assert_eq!(revision(&file, &Identity { platform: 1, ..SKYLAKE }), Ok(Some(0x215)));
    assert_eq!(revision(&file, &Identity { signature: 0x306c3, ..SKYLAKE }), Ok(None));
    assert_eq!(revision(&[], &SKYLAKE), Ok(None));
}

#[test]
fn amds_newest_for_the_number_of_the_cpu_is_found() {
    let file = [
        amd(&[(0x80_0f12, 0x8012)], &[(0x800_1250, 0x8012)]),
        amd(
            &[(0x83_0f10, 0x8310), (0x87_0f10, 0x8710)],
            &[(0x830_1055, 0x8310), (0x830_107b, 0x8310), (0x870_1034, 0x8710)],
        ),
    ]
    .concat();
    let update = newest(&file, &ROME).unwrap().unwrap();
    assert_eq!((update.revision, update.data.len()), (0x830_107b, 80));
    assert_eq!(revision(&file, &Identity { revision: 0x830_107b, ..ROME }), Ok(None));
    assert_eq!(revision(&file, &Identity { signature: 0x870f10, ..ROME }), Ok(Some(0x870_1034)));
    // A CPU that the table lacks has no number, and no patch.
    assert_eq!(revision(&file, &Identity { signature: 0xa0_0f11, ..ROME }), Ok(None));
}

#[test]
fn what_is_cut_off_or_changed_is_damaged() {
    let first = intel(0x210, 0x5_0654, 0xff, &[]);
    let file = [first.clone(), intel(0x220, 0x5_0654, 0xff, &[(1, 1)])].concat();
    for length in 1..file.len() {
        let expected = match length {
            _ if length == first.len() => Ok(Some(0x210)),
            _ if length < first.len() => Err(Damaged(0)),
            _ => Err(Damaged(first.len())),
        };
        assert_eq!(revision(&file[..length], &SKYLAKE), expected, "{length} bytes");
    }
    for at in 0..first.len() {
        let mut file = first.clone();
        file[at] ^= 1;
        assert_eq!(revision(&file, &SKYLAKE), Err(Damaged(0)), "byte {at}");
    }
    let file = amd(&[(0x83_0f10, 0x8310)], &[(0x830_1055, 0x8310)]);
    // A container without patches is one.
    let table = 12 + 32;
    for length in (1..file.len()).filter(|length| *length != table) {
        assert_eq!(revision(&file[..length], &ROME), Err(Damaged(0)), "{length} bytes");
    }
    assert_eq!(revision(&file, &SKYLAKE), Err(Damaged(0)));
    assert_eq!(revision(&first, &ROME), Err(Damaged(0)));
}

#[test]
fn lengths_at_the_end_of_the_range_are_damaged() {
    for at in [28, 32] {
        for length in [u32::MAX, u32::MAX - 47, 1 << 31, 3, 1] {
            let mut file = intel(0x210, 0x5_0654, 0xff, &[]);
            file[at..at + 4].copy_from_slice(&length.to_le_bytes());
            assert_eq!(revision(&file, &SKYLAKE), Err(Damaged(0)), "{length:#x} at {at}");
        }
    }
    for at in [8, 12 + 32 + 4] {
        let mut file = amd(&[(0x83_0f10, 0x8310)], &[(0x830_1055, 0x8310)]);
        file[at..at + 4].fill(0xff);
        assert_eq!(revision(&file, &ROME), Err(Damaged(0)), "at {at}");
    }
}
