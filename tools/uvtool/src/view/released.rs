//! `uvtool diag release`: the result of releasing memory.

use control::command::Refusal;
use serde::Serialize;
use uvd_protocol::{Sentence, sentence};

use super::View;

/// The memory was released, or the release was refused with a reason.
#[derive(Serialize)]
pub struct Released {
    released: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<Refusal>,
}

impl Released {
    /// A view of the ultravisor's answer.
    pub fn new(result: Result<(), Refusal>) -> Self {
        Self { released: result.is_ok(), refusal: result.err() }
    }
}

impl View for Released {
    fn text(&self) -> String {
        if self.released { "Released.\n".into() } else { String::new() }
    }

    fn problem(&self) -> Option<Sentence> {
        self.refusal.as_ref().map(sentence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples;

    #[test]
    fn a_refusal_is_whole_in_json_and_a_sentence_for_people() {
        let released = Released::new(Err(samples::refusal()));
        assert_eq!(
            released.problem().unwrap().to_string(),
            "frames 0x8800 to 0x8801: activation: busy: something still refers to it (errno 16); stop it first"
        );
        let json = serde_json::to_value(&released).unwrap();
        assert_eq!(json["released"], false);
        assert_eq!(json["refusal"]["code"], "busy");
        assert_eq!(Released::new(Ok(())).problem(), None);
    }
}
