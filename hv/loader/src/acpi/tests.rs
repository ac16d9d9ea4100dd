//! Tests of the ACPI reader: a small firmware in a map from address to table.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Bytes = std::vec::Vec<u8>;
type Firmware = BTreeMap<u64, Bytes>;

fn finish(mut bytes: Bytes, length_at: usize, sum_at: usize) -> Bytes {
    let length = (bytes.len() as u32).to_le_bytes();
    bytes[length_at..length_at + 4].copy_from_slice(&length);
    bytes[sum_at] = 0;
    bytes[sum_at] = bytes.iter().fold(0u8, |sum, &b| sum.wrapping_sub(b));
    bytes
}

fn make_table(signature: &[u8; 4], body: &[u8]) -> Bytes {
    let mut bytes = std::vec![0; HEADER];
    bytes[..4].copy_from_slice(signature);
    bytes.extend(body);
    finish(bytes, 4, 9)
}

fn firmware() -> (Bytes, Firmware) {
    let mut madt = std::vec![0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
    madt.extend([0, 8, 0, 0, 1, 0, 0, 0]);
    madt.extend([0, 8, 1, 1, 1, 0, 0, 0]);
    madt.extend([0, 8, 2, 2, 0, 0, 0, 0]);
    madt.extend([9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0]);
    madt.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    madt.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    let mut fadt = std::vec![0; 244 - HEADER];
    let mut put = |at: usize, value: &[u8]| {
        fadt[at - HEADER..at - HEADER + value.len()].copy_from_slice(value);
    };
    put(40, &0x4000u32.to_le_bytes());
    put(64, &0x604u32.to_le_bytes());
    put(76, &0x608u32.to_le_bytes());
    put(112, &(1u32 << 10).to_le_bytes());
    put(116, &[1, 8, 0, 0]);
    put(120, &0xcf9u64.to_le_bytes());
    put(128, &[6]);
    let dsdt = [&b"junk\x08_S5_\x12\x06\x04\x0a\x05\x00\x00\x00"[..], b"more"].concat();
    let list = [0x2000u32.to_le_bytes(), 0x3000u32.to_le_bytes()].concat();
    let tables = [
        (0x1000, make_table(b"RSDT", &list)),
        (0x2000, make_table(b"APIC", &madt)),
        (0x3000, make_table(b"FACP", &fadt)),
        (0x4000, make_table(b"DSDT", &dsdt)),
    ];
    let mut rsdp = b"RSD PTR \0OEMID \0".to_vec();
    rsdp.extend(0x1000u32.to_le_bytes());
    rsdp[8] = rsdp.iter().fold(0u8, |sum, &b| sum.wrapping_sub(b));
    (rsdp, tables.into())
}

fn read_from(rsdp: &[u8], firmware: &Firmware) -> Option<Acpi> {
    read(rsdp, &|phys, bytes| {
        let (start, table) = firmware.range(..=phys).next_back()?;
        let offset = (phys - start) as usize;
        Some(&*table.get(offset..offset + bytes as usize)?.to_vec().leak())
    })
}

#[test]
fn reads_cpus_controllers_and_power() {
    let (rsdp, firmware) = firmware();
    let acpi = read_from(&rsdp, &firmware).unwrap();
    assert_eq!(acpi.cpus, [0, 1, 300]);
    assert_eq!(acpi.local_apic, Some(0xfee0_0000));
    assert_eq!(acpi.io_apics, [IoApic { address: 0xfec0_0000, first: 0 }]);
    assert_eq!(acpi.isa_interrupt(0), (2, 0));
    assert_eq!(acpi.isa_interrupt(4), (4, 0));
    assert_eq!((acpi.timer_port, acpi.control_ports), (Some(0x608), [0x604, 0]));
    assert_eq!(acpi.off, Some([5, 0]));
    assert_eq!(acpi.reset, Some(ResetRegister { space: 1, address: 0xcf9, value: 6 }));
}

#[test]
fn a_wrong_checksum_makes_a_table_absent() {
    let (rsdp, mut firmware) = firmware();
    firmware.get_mut(&0x2000).unwrap()[50] ^= 1;
    let acpi = read_from(&rsdp, &firmware).unwrap();
    assert!(acpi.cpus.is_empty() && acpi.timer_port.is_some());
    assert!(read_from(&rsdp[..19], &firmware).is_none());
}

proptest! {
    #[test]
    fn damage_with_a_right_checksum_never_panics(
        which in 0usize..4, at in 4usize..300, value: u8
    ) {
        let (rsdp, mut firmware) = firmware();
        let table = firmware.values_mut().nth(which).unwrap();
        let at = at % table.len();
        table[at] = value;
        let sum = table.iter().fold(0u8, |sum, &b| sum.wrapping_add(b));
        table[9] = table[9].wrapping_sub(sum);
        let _ = read_from(&rsdp, &firmware);
    }
}
