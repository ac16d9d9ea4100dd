//! `uvtool kernel check FILE`.

use std::path::Path;
use std::process::ExitCode;

use kernel_image::Report;
use kernel_image::confined::Unpacker;

use crate::shown;
use crate::source::Error;
use crate::view::View;

/// Reports on a kernel; fails if it would not start as a partition's kernel.
pub fn check(file: &Path, json: bool) -> Result<ExitCode, Error> {
    let report = Unpacker::default().report(file);
    let shown = shown(&report.map_err(|error| Error::Given(error.to_string()))?, json);
    Ok(shown.print())
}

impl View for Report {
    fn text(&self) -> String {
        self.to_string()
    }

    fn problem(&self) -> Option<String> {
        let reasons = self.pv.reasons.join("; ");
        (!self.pv.startable).then(|| format!("kernel: would not start: {reasons}"))
    }
}
