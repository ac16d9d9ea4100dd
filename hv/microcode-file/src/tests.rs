use super::*;

const SKYLAKE: Identity =
    Identity { vendor: Vendor::Intel, signature: 0x5_0654, platform: 1 << 7, revision: 0x200 };
const ROME: Identity =
    Identity { vendor: Vendor::Amd, signature: 0x83_0f10, platform: 0, revision: 0x830_1000 };

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// An Intel update: revision, signature, platforms, and rows of the extended table.
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

/// An AMD container: rows of the table, and patches by revision and number.
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

fn newest_revision(file: &[u8], cpu: &Identity) -> Result<Option<u32>, Damaged> {
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
    let current = Identity { revision: 0x220, ..SKYLAKE };
    assert_eq!(choose(&file, &current), Err(Outcome::NotNewer(0x220)));
    assert_eq!(newest_revision(&file, &Identity { platform: 1, ..SKYLAKE }), Ok(Some(0x215)));
    assert_eq!(newest_revision(&file, &Identity { signature: 0x306c3, ..SKYLAKE }), Ok(None));
    assert_eq!(choose(&file, &Identity { signature: 0x306c3, ..SKYLAKE }), Err(Outcome::OtherCpu));
    assert_eq!(choose(&[], &SKYLAKE), Err(Outcome::Damaged(0)));
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
    let current = Identity { revision: 0x830_107b, ..ROME };
    assert_eq!(choose(&file, &current), Err(Outcome::NotNewer(0x830_107b)));
    assert_eq!(
        newest_revision(&file, &Identity { signature: 0x870f10, ..ROME }),
        Ok(Some(0x870_1034))
    );
    // A CPU that is not in the table has no number, and no patch.
    assert_eq!(newest_revision(&file, &Identity { signature: 0xa0_0f11, ..ROME }), Ok(None));
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
        assert_eq!(newest_revision(&file[..length], &SKYLAKE), expected, "{length} bytes");
    }
    for at in 0..first.len() {
        let mut file = first.clone();
        file[at] ^= 1;
        assert_eq!(newest_revision(&file, &SKYLAKE), Err(Damaged(0)), "byte {at}");
    }
    let file = amd(&[(0x83_0f10, 0x8310)], &[(0x830_1055, 0x8310)]);
    // A container without patches is valid.
    let table = 12 + 32;
    for length in (1..file.len()).filter(|length| *length != table) {
        assert_eq!(newest_revision(&file[..length], &ROME), Err(Damaged(0)), "{length} bytes");
    }
    assert_eq!(newest_revision(&file, &SKYLAKE), Err(Damaged(0)));
    assert_eq!(newest_revision(&first, &ROME), Err(Damaged(0)));
}

#[test]
fn lengths_at_the_end_of_the_range_are_damaged() {
    for at in [28, 32] {
        for length in [u32::MAX, u32::MAX - 47, 1 << 31, 3, 1] {
            let mut file = intel(0x210, 0x5_0654, 0xff, &[]);
            file[at..at + 4].copy_from_slice(&length.to_le_bytes());
            assert_eq!(newest_revision(&file, &SKYLAKE), Err(Damaged(0)), "{length:#x} at {at}");
        }
    }
    for at in [8, 12 + 32 + 4] {
        let mut file = amd(&[(0x83_0f10, 0x8310)], &[(0x830_1055, 0x8310)]);
        file[at..at + 4].fill(0xff);
        assert_eq!(newest_revision(&file, &ROME), Err(Damaged(0)), "at {at}");
    }
}

/// A member of an archive.
fn packed(name: &str, bytes: &[u8]) -> Vec<u8> {
    let fields = [0, 0o100_644, 0, 0, 1, 0, bytes.len(), 0, 0, 0, 0, name.len() + 1, 0];
    let mut member = b"070701".to_vec();
    fields.iter().for_each(|field| member.extend(format!("{field:08X}").bytes()));
    member.extend(name.bytes().chain([0]));
    member.resize(member.len().next_multiple_of(4), 0);
    member.extend(bytes);
    member.resize(member.len().next_multiple_of(4), 0);
    member
}

/// An archive as distributions put it before their RAM disks, followed by a compressed one.
fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = packed("kernel", &[]);
    members.iter().for_each(|(name, bytes)| archive.extend(packed(name, bytes)));
    archive.extend(packed("TRAILER!!!", &[]));
    archive.extend([0x1f, 0x8b, 0x08]);
    archive
}

#[test]
fn an_archive_has_a_file_for_each_manufacturer() {
    let intels = intel(0x220, 0x5_0654, 0xff, &[]);
    let amds = amd(&[(0x83_0f10, 0x8310)], &[(0x830_1055, 0x8310)]);
    let [intel_name, amd_name] = [Vendor::Intel, Vendor::Amd].map(path);
    let both = archive(&[(amd_name, &amds), (intel_name, &intels)]);
    let revision = |module: &[u8], cpu| choose(module, cpu).map(|update| update.revision);
    assert_eq!(revision(&both, &SKYLAKE), Ok(0x220));
    assert_eq!(revision(&both, &ROME), Ok(0x830_1055));
    assert_eq!(revision(&archive(&[(amd_name, &amds)]), &SKYLAKE), Err(Outcome::OtherVendor));
    assert_eq!(revision(&amds, &SKYLAKE), Err(Outcome::OtherVendor));
    assert_eq!(revision(&intels, &ROME), Err(Outcome::OtherVendor));
    assert_eq!(revision(b"neither of them, whatever it is", &ROME), Err(Outcome::Damaged(0)));
    let odd = archive(&[
        ("kernel/x86/microcode/.enuineIntel.align.0123456789abc", &[]),
        (intel_name, &intels),
    ]);
    assert_eq!(revision(&odd, &SKYLAKE), Ok(0x220));
}

#[test]
fn an_archive_that_is_cut_off_or_lies_is_damaged() {
    let intels = intel(0x220, 0x5_0654, 0xff, &[]);
    let whole = archive(&[(path(Vendor::Intel), &intels)]);
    let first = packed("kernel", &[]).len();
    let whole_until = first + packed(path(Vendor::Intel), &intels).len();
    for length in 6..whole_until {
        let expected = Err(Outcome::Damaged(if length < first { 0 } else { first }));
        assert_eq!(choose(&whole[..length], &SKYLAKE), expected, "{length} bytes");
    }
    for (field, text) in [(54, "FFFFFFFF"), (94, "FFFFFFFF"), (94, "00000000"), (54, "0000000g")] {
        let mut file = whole.clone();
        file[field..field + 8].copy_from_slice(text.as_bytes());
        assert_eq!(choose(&file, &SKYLAKE), Err(Outcome::Damaged(0)), "{text} at {field}");
    }
}

#[test]
fn the_outcome_for_this_cpus_manufacturer_wins() {
    let all = [
        Outcome::NoModule,
        Outcome::Loaded(7),
        Outcome::Damaged(8),
        Outcome::OtherVendor,
        Outcome::OtherCpu,
        Outcome::NotNewer(9),
        Outcome::Virtual(10),
        Outcome::NotTaken(11),
    ];
    // Two modules, one for each manufacturer, in either order; then a file and a newer one.
    for outcome in all.into_iter().filter(|outcome| *outcome != Outcome::NoModule) {
        let none = Outcome::NoModule;
        assert_eq!(none.and_then(outcome).and_then(Outcome::OtherVendor), outcome);
        assert_eq!(none.and_then(Outcome::OtherVendor).and_then(outcome), outcome);
    }
    assert_eq!(Outcome::Loaded(7).and_then(Outcome::NotNewer(6)), Outcome::Loaded(7));
    assert_eq!(Outcome::Damaged(7).and_then(Outcome::Loaded(6)), Outcome::Loaded(6));
    assert_eq!(all.map(Outcome::is_fine).iter().filter(|fine| **fine).count(), 3);
}
