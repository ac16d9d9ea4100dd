//! Whether a definition is within its limits, wherever it comes from: a request to `uvd` need not
//! have been read from a file.

use rules::{GRANT_FRAMES, VCPUS, WEIGHT, Wrong};

use crate::Definition;
use crate::units::{self, MAX_CPU};

/// A field of a definition that is not within its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The field, such as `cpu.weight`.
    pub field: &'static str,
    /// What is wrong with its value, with the limit.
    pub problem: String,
    /// What to give instead.
    pub way_out: String,
}

impl Definition {
    /// Checks every field against the limits that can be known without the machine.
    ///
    /// # Errors
    /// The first that is not within them.
    pub fn check(&self) -> Result<(), Unfit> {
        let number = |value: u32, limits| rules::within(value.into(), limits);
        let memory = |bytes| rules::memory(bytes, &units::size(bytes));
        let checks: [(&'static str, Result<(), Wrong>); 12] = [
            ("name", rules::guest_name(&self.name)),
            ("kernel", path(&self.kernel)),
            ("initrd", self.initrd.as_deref().map_or(Ok(()), path)),
            ("command_line", rules::command_line(&self.command_line)),
            ("max_memory", memory(self.max_memory)),
            ("memory", memory(self.memory).and_then(|()| self.fits_memory())),
            ("max_vcpus", number(self.max_vcpus, &VCPUS)),
            ("vcpus", number(self.vcpus, &(1..=self.max_vcpus))),
            ("cpu.weight", number(self.cpu.weight, &WEIGHT)),
            ("cpu.cap", number(self.cpu.cap, &rules::cap(self.max_vcpus))),
            ("cpu.affinity", self.affinity()),
            ("grant_frames", number(self.grant_frames, &GRANT_FRAMES)),
        ];
        let domain = self.domain.as_deref().map_or(Ok(()), rules::name);
        for (field, checked) in checks.into_iter().chain([("domain", domain)]) {
            checked.map_err(|Wrong { problem, way_out }| Unfit { field, problem, way_out })?;
        }
        Ok(())
    }

    fn fits_memory(&self) -> Result<(), Wrong> {
        if self.memory <= self.max_memory {
            return Ok(());
        }
        let (memory, most) = (units::size(self.memory), units::size(self.max_memory));
        Err(Wrong {
            problem: format!("{memory} is more than max_memory = {most}"),
            way_out: format!("give at most {most}, or raise max_memory"),
        })
    }

    fn affinity(&self) -> Result<(), Wrong> {
        let cpus = &self.cpu.affinity;
        let way_out = format!("give rising numbers from 0 to {MAX_CPU}");
        if cpus.iter().any(|cpu| *cpu > MAX_CPU) || !cpus.is_sorted_by(|a, b| a < b) {
            return Err(Wrong { problem: format!("{cpus:?} names no CPUs in order"), way_out });
        }
        Ok(())
    }
}

fn path(path: &std::path::Path) -> Result<(), Wrong> {
    let problem = match path.as_os_str().as_encoded_bytes() {
        [] => "an empty path",
        bytes if bytes.contains(&0) => "a path with a zero byte in it",
        bytes if bytes.len() > crate::draft::MAX_PATH => "a path of more than 4095 bytes",
        _ if !path.is_absolute() => "a path that does not begin with a slash",
        _ => return Ok(()),
    };
    Err(Wrong { problem: problem.into(), way_out: "give the absolute path of a file".into() })
}
