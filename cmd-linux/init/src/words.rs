//! The words of the kernel command line that `uv-init` obeys.
//!
//! Rule: a word that begins with `uv.` and is not understood is always reported; every other word
//! belongs to the kernel or to other programs.

/// The options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `uv.shell=0`: no shell on the console.
    pub shell: bool,
    /// `uv.console=NAME`: terminal of the shell, below `/dev`.
    pub console: String,
    /// `uv.harness=NAME`: the harness line, below `/dev`; empty if there is none.
    pub harness: String,
    /// `uv.state=NAME`: the block device below `/dev` on which `uvd` keeps its state.
    pub state: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { shell: true, console: "hvc0".into(), harness: "hvc1".into(), state: None }
    }
}

/// Reads a command line. The second value has a sentence for each word that was not understood.
pub fn parse(line: &str) -> (Options, Vec<String>) {
    let mut options = Options::default();
    let mut problems = Vec::new();
    for word in line.split_whitespace().filter(|word| word.starts_with("uv.")) {
        if let Err(problem) = set(&mut options, word) {
            problems.push(format!("command line: {word}: {problem}"));
        }
    }
    (options, problems)
}

fn set(options: &mut Options, word: &str) -> Result<(), &'static str> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    match (name, value) {
        ("uv.shell", "0") => options.shell = false,
        ("uv.shell", "1") => options.shell = true,
        ("uv.shell", _) => return Err("takes 0 or 1; the shell is started"),
        ("uv.console", name) if is_device_name(name) => options.console = name.into(),
        ("uv.harness", name) if name.is_empty() || is_device_name(name) => {
            options.harness = name.into();
        }
        ("uv.state", name) if is_device_name(name) => options.state = Some(name.into()),
        ("uv.state", _) => return Err("takes the name of a block device in /dev"),
        ("uv.console" | "uv.harness", _) => return Err("takes the name of a terminal in /dev"),
        _ => return Err("unknown; there are uv.shell, uv.console, uv.harness, uv.state"),
    }
    Ok(())
}

fn is_device_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_said_is_a_shell_and_the_harness() {
        let (options, problems) = parse("console=hvc0 root=/dev/ram0 quiet\n");
        assert_eq!(options, Options::default());
        assert!(options.shell && problems.is_empty());
    }

    #[test]
    fn words_are_taken() {
        let (options, problems) =
            parse("uv.shell=0 quiet uv.console=ttyS0 uv.harness= uv.state=xvda1");
        assert_eq!(
            options,
            Options {
                shell: false,
                console: "ttyS0".into(),
                harness: String::new(),
                state: Some("xvda1".into()),
            }
        );
        assert!(problems.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_named_and_changes_nothing() {
        let (options, problems) = parse("uv.shell=no uv.shel=0 uv.console=../sda uv.shell");
        assert_eq!(options, Options::default());
        assert_eq!(problems.len(), 4);
        assert_eq!(
            problems[1],
            "command line: uv.shel=0: unknown; there are uv.shell, uv.console, uv.harness, uv.state"
        );
    }
}
