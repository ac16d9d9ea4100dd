//! `uvtool disk list`.

use control::command::{DeviceRow, DiskNumber, DiskRow, DiskState, Medium, PciAddress};
use serde::Serialize;

use super::{Names, View};
use crate::table::{Align, Table};

/// The disks of partitions.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Disks {
    rows: Vec<Disk>,
}

/// A disk.
#[derive(Serialize)]
struct Disk {
    partition: String,
    number: u32,
    device: String,
    extents: Vec<Extent>,
    read_only: bool,
    shared: bool,
    state: DiskState,
    server: Option<String>,
    sectors: Option<u64>,
    bytes: Option<u64>,
    cause: Option<String>,
}

/// Sectors of a function's disk. If `sectors` is `None`, all sectors of the disk, or of a GPT
/// partition on it.
#[derive(Serialize)]
struct Extent {
    function: u32,
    address: Option<String>,
    gpt_partition: Option<u32>,
    start: u64,
    sectors: Option<u64>,
}

impl Disks {
    /// A view of the disks of a partition, or of all; `devices` are the functions by index.
    pub fn new(
        rows: &[DiskRow],
        devices: &[DeviceRow],
        names: &Names<'_>,
        partition: Option<u32>,
    ) -> Self {
        let wanted = |row: &&DiskRow| partition.is_none_or(|number| row.partition == number);
        let mut rows: Vec<&DiskRow> = rows.iter().filter(wanted).collect();
        rows.sort_by_key(|row| (row.partition, row.device));
        Self { rows: rows.into_iter().map(|row| Disk::new(row, devices, names)).collect() }
    }
}

impl Disk {
    fn new(row: &DiskRow, devices: &[DeviceRow], names: &Names<'_>) -> Self {
        let extent = |function: u32, gpt_partition, start, sectors| {
            let found = devices.iter().find(|device| device.index == function);
            let address = found.map(|device| PciAddress(device.address).to_string());
            Extent { function, address, gpt_partition, start, sectors }
        };
        let extents = match &row.medium {
            Medium::Disk { function } => vec![extent(*function, None, 0, None)],
            Medium::Partition { function, number } => {
                vec![extent(*function, Some(*number), 0, None)]
            }
            Medium::Extents(all) => all
                .iter()
                .map(|one| extent(one.function, None, one.start, Some(one.sectors)))
                .collect(),
        };
        let status = &row.status;
        Self {
            partition: names.of(row.partition),
            number: row.partition,
            device: DiskNumber(row.device).to_string(),
            extents,
            read_only: row.read_only,
            shared: row.shared,
            state: status.state,
            server: status.server.map(|number| names.of(number)),
            sectors: status.sectors,
            bytes: status.sectors.map(|sectors| sectors.saturating_mul(512)),
            cause: status.cause.clone(),
        }
    }

    /// The medium of the disk, as text for people.
    fn medium(&self) -> String {
        let place = |one: &Extent| {
            one.address.clone().unwrap_or_else(|| format!("function {}", one.function))
        };
        let Some(first) = self.extents.first() else { return "-".into() };
        match (first.gpt_partition, first.sectors, self.extents.len()) {
            (Some(number), ..) => format!("{} partition {number}", place(first)),
            (None, None, _) => place(first),
            (None, Some(_), 1) => format!("{} 1 extent", place(first)),
            (None, Some(_), count) => format!("{} {count} extents", place(first)),
        }
    }
}

impl View for Disks {
    fn text(&self) -> String {
        let mut table = Table::new(&[
            ("PARTITION", Align::Left),
            ("DEVICE", Align::Left),
            ("FUNCTION", Align::Left),
            ("MODE", Align::Left),
            ("STATE", Align::Left),
            ("SERVER", Align::Left),
            ("SECTORS", Align::Right),
            ("CAUSE", Align::Left),
        ]);
        for row in &self.rows {
            let mode = if row.read_only { "read-only" } else { "read-write" };
            let shared = if row.shared { ", shared" } else { "" };
            let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".into());
            table.row([
                row.partition.clone(),
                row.device.clone(),
                row.medium(),
                format!("{mode}{shared}"),
                row.state.word().into(),
                or_none(row.server.clone()),
                or_none(row.sectors.map(|sectors| sectors.to_string())),
                or_none(row.cause.clone()),
            ]);
        }
        table.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples;

    fn view(partition: Option<u32>) -> Disks {
        let rows = samples::partitions();
        Disks::new(&samples::disks(), &samples::devices(), &Names::new(&rows), partition)
    }

    #[test]
    fn disks_are_a_table_by_partition_and_device() {
        assert_eq!(
            view(None).text(),
            "\
PARTITION  DEVICE  FUNCTION                MODE                STATE     SERVER  SECTORS  CAUSE
command    xvda    0000:00:04.0 2 extents  read-write, shared  attached  #4        20480  -
web        xvda    0000:00:04.0            read-only           unserved  -             -  no I/O partition drives it
web        xvdb    function 7 partition 2  read-write          waiting   #4            -  -
"
        );
    }

    #[test]
    fn one_partition_has_its_own_disks() {
        let devices: Vec<_> = view(Some(16)).rows.into_iter().map(|row| row.device).collect();
        assert_eq!(devices, ["xvda", "xvdb"]);
        assert!(view(Some(2)).rows.is_empty());
    }
}
