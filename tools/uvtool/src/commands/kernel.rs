//! `uvtool kernel check FILE`.

use std::path::Path;
use std::process::ExitCode;

use kernel_image::Report;

use crate::source::Error;
use crate::view::View;
use crate::{print, shown};

/// Reports what a kernel is; fails where it would not start as a partition's kernel.
pub fn check(file: &Path, json: bool) -> Result<ExitCode, Error> {
    let loaded = kernel_image::load(file).map_err(|error| Error::Given(error.to_string()))?;
    let shown = shown(&kernel_image::check(&loaded), json);
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
