//! `uvtool kernel check FILE`.

use std::path::Path;
use std::process::ExitCode;

use kernel_image::Report;
use kernel_image::confined::Unpacker;

use crate::source::Error;
use crate::view::View;
use crate::{print, shown};

/// Reports what a kernel is; fails where it would not start as a partition's kernel.
pub fn check(file: &Path, json: bool) -> Result<ExitCode, Error> {
    let report = Unpacker::default().report(file);
    let shown = shown(&report.map_err(|error| Error::Given(error.to_string()))?, json);
    Ok(print(shown.output.as_bytes(), shown.problem.as_deref()))
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
