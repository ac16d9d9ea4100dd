//! All ways out that are commands of `uvtool`, in one place.
//!
//! Rule: a way out names a command that works as it is written, with the partition's name in it. A
//! test of `uvtool` runs each of [`ALL`] through its command line, and searches the messages of
//! every crate for other commands.

/// The placeholder for the partition's name.
const NAME: &str = "NAME";

/// Start a partition that is defined.
pub const START: &str = "start it with `uvtool start NAME`";
/// Forget the definition of a partition that does not exist.
pub const FORGET: &str = "forget its definition with `uvtool destroy --forget NAME`";
/// Show the console output of a partition that no longer exists.
pub const HISTORY: &str = "see its output with `uvtool console --once NAME`";
/// Destroy the partition that has this name.
pub const DESTROY: &str = "use another name, or destroy it with `uvtool destroy NAME`";
/// Destroy the partition so that it starts with another definition.
pub const DESTROY_TO_APPLY: &str = "destroy it with `uvtool destroy NAME`, then apply again";
/// Destroy the partition so that it is created with larger limits.
pub const DESTROY_TO_GROW: &str =
    "ask for less, or destroy it with `uvtool destroy NAME` and create it with a higher limit";
/// List the partitions.
pub const LIST: &str = "see `uvtool list --all`";
/// List the definitions.
pub const DEFINITIONS: &str = "leave it out, or name a partition of `uvtool definitions`";
/// Define the partition.
pub const CREATE: &str = "define it with `uvtool create FILE`";
/// Show what changed.
pub const LOG: &str = "plan again; `uvtool log` shows what changed";
/// Show what is free.
pub const RESOURCES: &str = "see `uvtool resources`";
/// Show how a partition ended.
pub const WHY: &str = "see `uvtool why NAME`";
/// Name a guest partition.
pub const GUEST: &str = "name a guest partition; see `uvtool list`";
/// Examine a kernel.
pub const KERNEL: &str = "see `uvtool kernel check FILE`";

/// List the disks.
pub const DISKS: &str = "see `uvtool disk list NAME`";
/// List the I/O partitions.
pub const IO: &str = "see `uvtool io`";

/// All ways out.
pub const ALL: [&str; 16] = [
    START,
    FORGET,
    HISTORY,
    DESTROY,
    DESTROY_TO_APPLY,
    DESTROY_TO_GROW,
    LIST,
    DEFINITIONS,
    CREATE,
    LOG,
    RESOURCES,
    WHY,
    GUEST,
    KERNEL,
    DISKS,
    IO,
];

/// A way out with a partition's name in it, quoted for a shell.
#[must_use]
pub fn with_name(way_out: &str, name: &str) -> String {
    way_out.replace(NAME, &shell_word(name))
}

/// A way out with a file's name in it, quoted for a shell.
#[must_use]
pub fn with_file(way_out: &str, file: &str) -> String {
    way_out.replace("FILE", &shell_word(file))
}

/// The text as one word for a shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+=".contains(c);
    if !text.is_empty() && text.chars().all(plain) && !text.starts_with('-') {
        return text.into();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_of_a_shell() {
        assert_eq!(with_name(START, "web-1"), "start it with `uvtool start web-1`");
        assert_eq!(with_name(START, "my web"), "start it with `uvtool start 'my web'`");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }
}
