//! Refusals: each names object, field, reason and a way out.

use alloc::string::String;
use serde::{Deserialize, Serialize};

/// Why a request was not carried out. It is shown as one sentence:
/// `object: field: reason; way out`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A short, stable code for programs: `no-memory`, `no-such-partition`, `stale-plan`, …
    pub code: String,
    /// The operation of the transaction (from 0) that caused it, if one did.
    pub operation: Option<u32>,
    /// The object: `partition "web"`, `memory`, …
    pub object: String,
    /// The field or quantity.
    pub field: String,
    /// The requested value and the limit.
    pub reason: String,
    /// What would work instead.
    pub way_out: String,
}

/// Maximum number of bytes of each text of a refusal: whatever a client's names are, its refusal
/// fits a frame of a channel, and a message of `uvd` with every character escaped.
pub const MAX_REFUSAL_TEXT: usize = 1000;

impl Refusal {
    /// The refusal with each text cut to [`MAX_REFUSAL_TEXT`] bytes; a cut text ends with an
    /// ellipsis.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        const ELLIPSIS: &str = "…";
        let texts = [&mut self.code, &mut self.object, &mut self.field];
        for text in texts.into_iter().chain([&mut self.reason, &mut self.way_out]) {
            if text.len() > MAX_REFUSAL_TEXT {
                text.truncate(text.floor_char_boundary(MAX_REFUSAL_TEXT - ELLIPSIS.len()));
                text.push_str(ELLIPSIS);
            }
        }
        self
    }
}
