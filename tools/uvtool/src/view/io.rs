//! `uvtool io`.

use control::command::{DeviceRow, DiskNumber, DiskRow, DiskState, ListRow, PciAddress};
use pv_abi::uv::database::{UNASSIGNED, kind};
use serde::Serialize;
use uvd_protocol::FunctionMove;

use super::{Names, View};
use crate::table::{Align, Table};
use crate::words::{Word, state_word};

/// The I/O partitions.
#[derive(Serialize)]
pub struct IoPartitions {
    partitions: Vec<IoPartition>,
}

/// An I/O partition.
#[derive(Serialize)]
struct IoPartition {
    name: String,
    number: u32,
    state: Word,
    functions: Vec<Function>,
    disks: Vec<Disk>,
}

/// A PCI function of an I/O partition.
#[derive(Serialize)]
struct Function {
    function: u32,
    address: String,
    moves_to: Option<String>,
}

/// A disk that an I/O partition serves.
#[derive(Serialize)]
struct Disk {
    partition: String,
    number: u32,
    device: String,
    state: DiskState,
}

impl IoPartitions {
    /// A view of the I/O partitions among these.
    pub fn new(rows: &[ListRow], devices: &[DeviceRow], disks: &[DiskRow]) -> Self {
        let names = Names::of_list(rows);
        let of_io = rows.iter().filter(|row| row.kind == kind::IO);
        let partitions = of_io.map(|row| {
            let own = devices.iter().filter(|one| one.owner == row.number);
            let served = disks.iter().filter(|disk| disk.status.server == Some(row.number));
            IoPartition {
                name: row.name.to_string(),
                number: row.number,
                state: state_word(row.state),
                functions: own.map(|one| Function::new(one, &names)).collect(),
                disks: served.map(|disk| Disk::new(disk, &names)).collect(),
            }
        });
        Self { partitions: partitions.collect() }
    }
}

impl Function {
    fn new(row: &DeviceRow, names: &Names<'_>) -> Self {
        Self {
            function: row.index,
            address: PciAddress(row.address).to_string(),
            moves_to: (row.next != UNASSIGNED).then(|| names.of(row.next)),
        }
    }
}

impl Disk {
    fn new(row: &DiskRow, names: &Names<'_>) -> Self {
        Self {
            partition: names.of(row.partition),
            number: row.partition,
            device: DiskNumber(row.device).to_string(),
            state: row.status.state,
        }
    }
}

impl View for IoPartitions {
    fn text(&self) -> String {
        let mut table = Table::new(&[
            ("PARTITION", Align::Left),
            ("STATE", Align::Left),
            ("FUNCTION", Align::Left),
            ("DISKS", Align::Left),
        ]);
        for one in &self.partitions {
            let disks =
                one.disks.iter().map(|disk| format!("{} of {}", disk.device, disk.partition));
            let disks = disks.collect::<Vec<_>>().join(", ");
            let function = |function: &Function| match &function.moves_to {
                Some(to) => format!("{}, moves to {to}", function.address),
                None => function.address.clone(),
            };
            let mut functions: Vec<String> = one.functions.iter().map(function).collect();
            if functions.is_empty() {
                functions.push("-".into());
            }
            for (place, function) in functions.into_iter().enumerate() {
                let first = |text: &str| match (place, text) {
                    (0, "") => "-".into(),
                    (0, text) => text.to_owned(),
                    _ => String::new(),
                };
                table.row([first(&one.name), first(one.state.as_ref()), function, first(&disks)]);
            }
        }
        table.to_string()
    }
}

/// PCI functions that moved.
#[derive(Serialize)]
pub struct Moved {
    moved: Vec<Move>,
}

#[derive(Serialize)]
struct Move {
    function: u32,
    address: Option<String>,
    from: String,
    to: String,
}

impl Moved {
    /// A view of functions that moved.
    pub fn new(moves: &[FunctionMove], devices: &[DeviceRow], names: &Names<'_>) -> Self {
        let moved = moves.iter().map(|one| {
            let device = devices.iter().find(|device| device.index == one.function);
            Move {
                function: one.function,
                address: device.map(|device| PciAddress(device.address).to_string()),
                from: names.of(one.from),
                to: names.of(one.to),
            }
        });
        Self { moved: moved.collect() }
    }
}

impl View for Moved {
    fn text(&self) -> String {
        let line = |one: &Move| {
            let of = one.address.clone().unwrap_or_else(|| format!("function {}", one.function));
            format!("{of} moved from {} to {}\n", one.from, one.to)
        };
        match self.moved.is_empty() {
            true => "no function had to move\n".into(),
            false => self.moved.iter().map(line).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples;

    #[test]
    fn each_function_has_a_line_and_the_disks_stand_with_the_first() {
        let mut devices = samples::devices();
        (devices[0].owner, devices[1].owner, devices[1].next) = (4, 4, 5);
        let view = IoPartitions::new(&samples::io_list(), &devices, &samples::disks());
        assert_eq!(
            view.text(),
            "\
PARTITION  STATE    FUNCTION                     DISKS
io-a       running  0000:00:01.0                 xvdb of web, xvda of command
                    0000:00:04.0, moves to io-b
io-b       running  -                            -
"
        );
    }

    #[test]
    fn moves_are_sentences() {
        let (rows, moves) = (samples::io_list(), samples::moves());
        let moved = Moved::new(&moves, &samples::devices(), &Names::of_list(&rows));
        assert_eq!(moved.text(), "0000:00:04.0 moved from io-a to io-b\n");
        let none = Moved::new(&[], &[], &Names::of_list(&rows));
        assert_eq!(none.text(), "no function had to move\n");
    }
}
