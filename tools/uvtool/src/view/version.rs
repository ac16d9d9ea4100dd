//! `uvtool version`.

use control::command::VersionAnswer;
use serde::Serialize;

use super::View;
use crate::table::printable;

/// The versions of the parts.
#[derive(Serialize)]
pub struct Version {
    uvtool: &'static str,
    ultravisor: String,
    protocol: u16,
    abi: u32,
    arena: u32,
    xen: String,
    command_line: String,
}

impl Version {
    /// A view of the ultravisor's versions, and this program's own.
    pub fn new(answer: VersionAnswer) -> Self {
        Self {
            uvtool: env!("CARGO_PKG_VERSION"),
            ultravisor: answer.ultravisor,
            protocol: answer.protocol,
            abi: answer.abi,
            arena: answer.arena,
            xen: format!("{}.{}", answer.xen >> 16, answer.xen & 0xffff),
            command_line: answer.command_line,
        }
    }
}

impl View for Version {
    fn text(&self) -> String {
        let line = |name: &str, value: &dyn std::fmt::Display| {
            format!("{name:<22}{}", printable(&value.to_string())).trim_end().to_string() + "\n"
        };
        [
            line("uvtool", &self.uvtool),
            line("ultravisor", &self.ultravisor),
            line("command protocol", &self.protocol),
            line("ultravisor ABI", &self.abi),
            line("database layout", &self.arena),
            line("guest ABI", &format_args!("Xen {}", self.xen)),
            line("monitor command line", &self.command_line),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::samples;

    #[test]
    fn each_part_has_its_line() {
        let version = Version::new(samples::version());
        let text = version.text().replace(env!("CARGO_PKG_VERSION"), "V");
        assert_eq!(
            text,
            "\
uvtool                V
ultravisor            9.9.9
command protocol      1
ultravisor ABI        1
database layout       1
guest ABI             Xen 4.17
monitor command line
"
        );
        assert_eq!(serde_json::to_value(&version).unwrap()["xen"], "4.17");
    }
}
