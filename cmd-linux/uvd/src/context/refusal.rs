//! The refusals of `uvd`. All of them are made here, so that their texts are bounded.

use control::command::{Code, Refusal};
use uvd_protocol::Failure;

/// The failure for an answer of the ultravisor that does not match the request.
pub fn unexpected(what: &str) -> Failure {
    refused(
        Code::NotUnderstood,
        "ultravisor",
        "answer",
        &format!("is not about {what}"),
        "use a uvd of its version",
    )
}

/// Makes a refusal of `uvd`.
pub fn refused(code: Code, object: &str, field: &str, reason: &str, way_out: &str) -> Failure {
    let refusal = Refusal {
        code,
        operation: None,
        object: object.into(),
        field: field.into(),
        reason: reason.into(),
        way_out: way_out.into(),
    };
    Failure::Refused(Box::new(refusal.bounded()))
}
