use super::*;
use crate::view::samples;
use control::command::{Heap, Turns};

fn shown(answer: &ResourcesAnswer, map: Option<Vec<MapRow>>) -> Resources<'static> {
    let mut partitions = samples::partitions();
    let mut firmware = partitions[3].clone();
    (firmware.number, firmware.name) = (8, "firmware".into());
    partitions.push(firmware);
    let boot = Heap { bytes: 4 << 20, in_use: 3000, most: 4096 };
    let names = Names::new(partitions.leak());
    Resources::new(answer, &samples::devices(), Some(boot), &names, map)
}

#[test]
fn the_machine_in_tables() {
    let resources = shown(&samples::resources(), None);
    assert_eq!(
        resources.text(),
        "\
OWNER       KIND  4-GIB  4-MIB  4-KIB     MEMORY    SHARE
free        RAM       0     10      0     40 MiB    3.9 %
ultravisor  RAM       0      4      0     16 MiB    1.6 %
command     RAM       0    200      0    800 MiB   78.1 %
monitor     RAM       0     41   1008  167.9 MiB   16.4 %
firmware    I/O       0      0     16     64 KiB    0.0 %
sum                   0    255   1024   1024 MiB  100.0 %
Sums agree: 262144 frames in the page map, each with one owner.

FIRMWARE-TYPE      MEMORY
available      1023.4 MiB
reserved          576 KiB

CPU  APIC  STATE      BUSY
  0     0  online   25.0 %
  1     2  offline       -

PCI  ADDRESS       ID         CLASS            VECTORS  BARS                OWNER    NOT-GIVEN-BECAUSE
  0  0000:00:01.0  8086:7000  ISA bridge             0  -                   free     it is a bridge; it has no registers in memory
  1  0000:00:04.0  1af4:1042  SCSI controller        3  1: 4 KiB, 4: 1 MiB  command  -

Database: 40 of 512 pages in use. Channels: 3.

Free memory to be scrubbed yet: 2 MiB. Longest turn of the ultravisor: 2500 us, 0 above 5 ms.

HEAP-OF      IN-USE     MOST  BYTES
ultravisor    1 MiB  1.5 MiB  8 MiB
boot        2.9 KiB    4 KiB  4 MiB
"
    );
    assert_eq!(resources.problem(), None);
}

#[test]
fn owners_that_do_not_add_up_are_told_by_how_much() {
    let mut answer = samples::resources();
    answer.memory[2].frames += 3;
    answer.memory[2].tiers[2] += 3;
    let resources = shown(&answer, None);
    let expected = "the owners have 3 frames more than the page map's 262144";
    assert!(resources.text().contains(&format!("Sums do not agree: {expected}.\n")));
    assert!(!resources.text().contains("Sums agree"));
    assert!(resources.problem().unwrap().to_string().contains(expected));
    let json = serde_json::to_value(&resources).unwrap();
    assert_eq!(json["disagreements"], serde_json::json!([expected]));
}

#[test]
fn firmware_types_and_tiers_are_checked_too() {
    let mut answer = samples::resources();
    answer.firmware.pop();
    answer.memory[0].tiers = [0, 9, 0];
    assert_eq!(
        shown(&answer, None).disagreements,
        [
            "the firmware's types have 144 frames fewer than the page map's 262144",
            "the entries of free cover 9216 frames, it has 10240",
        ]
    );
    let mut answer = samples::resources();
    answer.memory[0].tiers = [1, 10, 0];
    assert_eq!(
        shown(&answer, None).disagreements,
        ["the entries cover 1048576 frames more than the owners have"]
    );
}

#[test]
fn the_last_entry_may_reach_past_the_last_frame() {
    let mut answer = samples::resources();
    answer.memory[2].tiers = [1, 0, 0];
    assert!(shown(&answer, None).problem().is_none());
}

#[test]
fn sums_beyond_all_measure_do_no_harm() {
    let mut answer = samples::resources();
    answer.memory[0].frames = u64::MAX;
    answer.memory[1].frames = u64::MAX;
    answer.memory[1].tiers = [u64::MAX; 3];
    answer.cpus[0].busy = u64::MAX;
    let resources = shown(&answer, Some(samples::map()));
    assert!(resources.problem().is_some());
    assert!(!resources.text().is_empty());
}

#[test]
fn an_empty_machine_is_shown() {
    let answer = ResourcesAnswer {
        frames: 0,
        memory: vec![],
        firmware: vec![],
        cpus: vec![],
        arena: (0, 0),
        channels: 0,
        heap: Heap::default(),
        unscrubbed: 0,
        turns: Turns::default(),
    };
    let text = shown(&answer, None).text();
    assert!(text.contains("sum") && text.contains("Sums agree: 0 frames"), "{text}");
}

#[test]
fn the_map_has_a_line_for_each_range_and_is_checked_against_the_rows() {
    let resources = shown(&samples::resources(), Some(samples::map()));
    assert_eq!(resources.problem(), None);
    let text = resources.text();
    let map = text.split("\n\n").last().unwrap();
    assert_eq!(
        map,
        "\
FIRST-FRAME  LAST-FRAME     MEMORY  KIND  OWNER
        0x0         0xf     64 KiB  I/O   firmware
       0x10      0xa7ff  167.9 MiB  RAM   monitor
     0xa800      0xb7ff     16 MiB  RAM   ultravisor
     0xb800      0xdfff     40 MiB  RAM   free
     0xe000     0x3ffff    800 MiB  RAM   command
"
    );
    let mut wrong = samples::map();
    wrong[2].owner = 3;
    let resources = shown(&samples::resources(), Some(wrong));
    let expected = "the ranges of ultravisor have 0 frames, its row has 4096";
    assert_eq!(resources.disagreements, [expected]);
}

#[test]
fn programs_get_the_map_only_where_asked_for() {
    let without = serde_json::to_value(shown(&samples::resources(), None)).unwrap();
    assert!(without.get("map").is_none());
    assert_eq!(without["memory"][1]["owner"], "ultravisor");
    assert_eq!(without["memory"][1]["entries_4mib"], 4);
    let with = serde_json::to_value(shown(&samples::resources(), Some(samples::map()))).unwrap();
    assert_eq!(with["map"][0]["io"], true);
}
