//! `uvtool kernel check FILE`.

use std::path::Path;
use std::process::ExitCode;

use kernel_image::Report;
use kernel_image::confined::Unpacker;
use uvd_protocol::Sentence;

use crate::shown;
use crate::source::Error;
use crate::view::View;

/// Reports on a kernel; fails if it would not start as a partition's kernel.
pub fn check(file: &Path, json: bool) -> Result<ExitCode, Error> {
    let report = Unpacker::default().report(file);
    let given = |error: kernel_image::Error| {
        let (problem, way_out) = error.parts();
        Error::Given(Sentence::new(problem, way_out.unwrap_or_default()))
    };
    let shown = shown(&report.map_err(given)?, json);
    Ok(shown.print())
}

impl View for Report {
    fn text(&self) -> String {
        self.to_string()
    }

    fn problem(&self) -> Option<Sentence> {
        let reasons = self.pv.reasons.join("; ");
        let way_out = self.pv.way_out.clone().unwrap_or_default();
        let problem = || format!("kernel: would not start: {reasons}");
        (!self.pv.startable).then(|| Sentence::new(problem(), way_out))
    }
}
