//! Refusals: each names the object, the field, the limit, and a way out that would work.

use alloc::format;
use alloc::string::{String, ToString};
use control::command::{Code, Refusal};
use pv_abi::uv::database::PartitionDescriptor;
use resource_db::WriteError;

/// Makes a refusal that names no operation yet. Every refusal of this crate is made here, which
/// bounds the length of its texts.
#[must_use]
pub fn refusal(
    code: Code,
    object: impl Into<String>,
    field: &str,
    reason: impl Into<String>,
    way_out: impl Into<String>,
) -> Refusal {
    Refusal {
        code,
        operation: None,
        object: object.into(),
        field: field.to_string(),
        reason: reason.into(),
        way_out: way_out.into(),
    }
    .bounded()
}

/// The name in a descriptor. If it is not UTF-8, returns a question mark for each of its bytes.
#[must_use]
pub fn name_of(descriptor: &PartitionDescriptor) -> String {
    let end = descriptor.name.iter().position(|&byte| byte == 0);
    let bytes = descriptor.name.get(..end.unwrap_or(descriptor.name.len())).unwrap_or_default();
    match core::str::from_utf8(bytes) {
        Ok(name) => name.to_string(),
        Err(_) => "?".repeat(bytes.len()),
    }
}

/// The text by which a refusal names a partition.
pub(crate) fn label(descriptor: &PartitionDescriptor) -> String {
    format!("partition \"{}\" ({})", name_of(descriptor), descriptor.number)
}

/// Makes a refusal from the error of a write to the database.
pub(crate) fn from_write(error: WriteError) -> Refusal {
    match error {
        WriteError::Full(more) => refusal(
            Code::NoArena,
            "database",
            "arena pages",
            format!("the change needs {more} more than are free"),
            "use fewer and larger ranges, or destroy a partition",
        ),
        WriteError::OutOfRange => refusal(
            Code::OutOfRange,
            "database",
            "number or frames",
            "the database describes no such number or frames",
            "use the numbers and ranges that `uvtool resources` shows",
        ),
        WriteError::Size | WriteError::Read(_) => refusal(
            Code::DatabaseDamaged,
            "database",
            "arena",
            format!("{error:?}"),
            "restart the host; its log has the last changes",
        ),
    }
}

/// Makes a refusal from the errno with which the monitor refused an action.
pub(crate) fn from_monitor(action: crate::Action, errno: i32) -> Refusal {
    use crate::Action;
    let (object, field) = match action {
        Action::Partition(number) => (format!("partition {number}"), "activation"),
        Action::Pages { first, frames } => {
            (format!("frames {first:#x} to {:#x}", first + frames - 1), "activation")
        }
        Action::Channel(index) => (format!("channel {index}"), "activation"),
        Action::Device(index) => (format!("function {index}"), "activation"),
        Action::Start(number) => (format!("partition {number}"), "start"),
        Action::Stop(number) => (format!("partition {number}"), "stop"),
        Action::Destroy(number) => (format!("partition {number}"), "destruction"),
    };
    let code = if errno == EBUSY { Code::Busy } else { Code::MonitorRefused };
    let (reason, way_out) = match errno {
        EBUSY if matches!(action, Action::Device(_)) => {
            ("busy: page tables map its registers", "destroy the partition that has it")
        }
        EBUSY => ("busy: something still refers to it", "end what uses or maps it, then ask again"),
        EINVAL => ("the monitor found it invalid", "see the monitor's log for the reason"),
        ENOMEM => ("the monitor instance is full", "give the partition a larger instance"),
        _ => ("the monitor refused", "see the monitor's log for the reason"),
    };
    refusal(code, object, field, format!("{reason} (errno {errno})"), way_out)
}

/// Errno values of the Xen ABI (public `errno.h`).
const ENOMEM: i32 = 12;
/// Something still refers to the frame or partition.
pub(crate) const EBUSY: i32 = 16;
const EINVAL: i32 = 22;
