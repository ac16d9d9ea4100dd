//! Measures ring 0, the functions, the files and the share of `unsafe` code, and compares them with
//! their limits.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::checks::source::{self, Line};
use rig::workspace;

/// The programs that run in ring 0, each with its limit of lines of code, linked crates included.
/// The monitor stays; the loader runs once, before any partition.
const PROGRAMS: [(&str, usize); 2] = [("monitor", 12_000), ("loader", 3_500)];
/// Crates of declarations (layouts and numbers of the ABI), which are counted, but not as code that
/// runs in ring 0.
const DECLARATIONS: [&str; 1] = ["pv-abi"];
/// The most lines of assembly in all of ring 0.
const ASSEMBLY_LIMIT: usize = 500;
/// The most lines of a function.
const FUNCTION_LIMIT: usize = 100;
/// The most lines that 95 of 100 functions may have.
const USUAL_FUNCTION_LIMIT: usize = 35;
/// The most lines of a file.
const FILE_LIMIT: usize = 800;

/// A program that runs in ring 0.
#[derive(Default)]
struct Program {
    name: &'static str,
    limit: usize,
    parts: Vec<Part>,
}

impl Program {
    fn assembly(&self) -> usize {
        self.parts.iter().map(|part| part.assembly).sum()
    }

    /// All lines of code, including assembly.
    fn total(&self) -> usize {
        let code = self.parts.iter().filter(|part| !part.is_declarations());
        code.map(|part| part.rust).sum::<usize>() + self.assembly()
    }
}

/// One of the crates in a program.
struct Part {
    name: String,
    rust: usize,
    assembly: usize,
}

impl Part {
    fn is_declarations(&self) -> bool {
        DECLARATIONS.contains(&self.name.as_str())
    }
}

/// The counts of all programs, crates, functions and files.
#[derive(Default)]
pub struct Metrics {
    programs: Vec<Program>,
    unsafe_blocks: usize,
    /// Members of the workspace that do not inherit its lints.
    without_lints: Vec<String>,
    /// Lines of each function, including tests, with its place and name.
    functions: Vec<(usize, String)>,
    /// Lines of each file, with its name.
    files: Vec<(usize, String)>,
}

/// Counts the source tree.
///
/// # Errors
/// The tree cannot be read, or cargo cannot say what ring 0 links.
pub fn measure() -> Result<Metrics> {
    let mut programs = Vec::new();
    for (name, limit) in PROGRAMS {
        let mut parts = Vec::new();
        for (name, directory) in crates_of(name)? {
            parts.push(Part {
                name,
                rust: rust_lines(&directory.join("src"))?,
                assembly: assembly_lines(&directory.join("src"))?,
            });
        }
        programs.push(Program { name, limit, parts });
    }
    let mut metrics = Metrics { programs, ..Metrics::default() };
    let name = |file: &Path| {
        let name = file.strip_prefix(workspace::root()).unwrap_or(file);
        name.display().to_string()
    };
    for directory in ["hv", "pv-abi", "ioserver", "cmd-linux", "tools", "bench", "ci"] {
        let directory = workspace::root().join(directory);
        for file in files(&directory, "rs")? {
            metrics.count(&name(&file), &source_lines(&file)?);
        }
        for manifest in files(&directory, "toml")? {
            let is_manifest = manifest.ends_with("Cargo.toml");
            if is_manifest && !takes_over_lints(&fs::read_to_string(&manifest)?) {
                metrics.without_lints.push(name(&manifest));
            }
        }
    }
    metrics.functions.sort_unstable();
    metrics.files.sort_unstable();
    Ok(metrics)
}

/// The workspace's crates that a program of ring 0 links, with their directories.
pub(crate) fn crates_of(program: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = workspace::cargo("tree");
    cargo.args(["--package", program, "--edges", "normal", "--prefix", "none"]);
    cargo.args(["--format", "{p}"]);
    let text = workspace::output(&mut cargo, "asking cargo what ring 0 links")?;
    let mut crates: Vec<_> = text.lines().filter_map(crate_in_line).collect();
    crates.sort();
    crates.dedup();
    Ok(crates)
}

/// Whether a manifest inherits the workspace's lints, which among others demand a SAFETY comment
/// for every unsafe block.
fn takes_over_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim);
    lines.any(|line| line == "[lints]") && lines.next() == Some("workspace = true")
}

/// The name and directory in a line `name vVERSION (DIRECTORY)`, which only the workspace's own
/// crates have.
fn crate_in_line(line: &str) -> Option<(String, PathBuf)> {
    let (name, rest) = line.split_once(' ')?;
    let (_, directory) = rest.split_once(" (/")?;
    let (directory, _) = directory.split_once(')')?;
    Some((name.to_owned(), Path::new("/").join(directory)))
}

/// The files with this extension below `directory`, sorted.
pub(crate) fn files(directory: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries {
            let path = entry.with_context(|| format!("in {}", directory.display()))?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

pub(crate) fn source_lines(file: &Path) -> Result<Vec<Line>> {
    let text = fs::read_to_string(file);
    Ok(source::lines(&text.with_context(|| format!("cannot read {}", file.display()))?))
}

fn rust_lines(directory: &Path) -> Result<usize> {
    let mut counts = Vec::new();
    let mut of_tests = Vec::new();
    for file in files(directory, "rs")? {
        let lines = source_lines(&file)?;
        of_tests.extend(test_modules(&file, &lines));
        counts.push((file, lines.iter().filter(|line| line.counts()).count()));
    }
    let is_test = |file: &Path| of_tests.iter().any(|module| file.starts_with(module));
    Ok(counts.iter().filter(|(file, _)| !is_test(file)).map(|(_, count)| count).sum())
}

/// The files and directories of the modules that `file` declares under `#[cfg(test)]`.
fn test_modules(file: &Path, lines: &[Line]) -> Vec<PathBuf> {
    let parent = file.parent().unwrap_or(file);
    let is_root = ["mod", "lib", "main"].iter().any(|name| file.file_stem() == Some(name.as_ref()));
    let directory = if is_root { parent.to_path_buf() } else { file.with_extension("") };
    let declared = lines.iter().filter(|line| line.test).filter_map(|line| {
        let (_, name) = line.code.trim().strip_suffix(';')?.rsplit_once("mod ")?;
        Some(directory.join(name.trim()))
    });
    declared.flat_map(|module| [module.with_extension("rs"), module]).collect()
}

/// Lines of `.S` files that are neither blank nor comment. Labels and directives count.
fn assembly_lines(directory: &Path) -> Result<usize> {
    let mut count = 0;
    for file in files(directory, "S")? {
        let text = fs::read_to_string(&file);
        let text = text.with_context(|| format!("cannot read {}", file.display()))?;
        count += count_assembly(&text);
    }
    Ok(count)
}

fn count_assembly(text: &str) -> usize {
    let mut in_comment = false;
    let mut is_code = |line: &str| {
        let mut code = String::new();
        let mut rest = line;
        while !rest.is_empty() {
            let mark = if in_comment { "*/" } else { "/*" };
            let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
            if !in_comment {
                code.push_str(before);
            }
            in_comment ^= rest.contains(mark);
            rest = after;
        }
        let code = code.split("//").next().unwrap_or_default().trim();
        !code.is_empty() && !code.starts_with('#')
    };
    text.lines().filter(|line| is_code(line)).count()
}

impl Metrics {
    fn count(&mut self, file: &str, lines: &[Line]) {
        // The last line, after the last newline, is empty.
        self.files.push((lines.len() - 1, file.to_owned()));
        for function in source::functions(lines) {
            let place = format!("{file}:{}: {}", function.line + 1, function.name);
            self.functions.push((function.length, place));
        }
        self.unsafe_blocks += source::unsafe_blocks(lines);
    }

    /// The number of lines that `of_100` of 100 functions do not exceed.
    fn function_lines(&self, of_100: usize) -> usize {
        let at = (self.functions.len() * of_100).div_ceil(100).saturating_sub(1);
        self.functions.get(at).map_or(0, |(length, _)| *length)
    }

    fn assembly(&self) -> usize {
        self.programs.iter().map(Program::assembly).sum()
    }

    /// The table of counts, as text.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for program in &self.programs {
            let heading = format!("the {} has", program.name);
            text.push_str(&format!("{heading:<15}{:>8}{:>10}\n", "Rust", "assembly"));
            for part in &program.parts {
                let note =
                    if part.is_declarations() { "  (declarations: not counted)" } else { "" };
                let (name, rust, assembly) = (&part.name, part.rust, part.assembly);
                text.push_str(&format!("{name:<15}{rust:>8}{assembly:>10}{note}\n"));
            }
            let Program { name, limit, .. } = program;
            text.push_str(&format!(
                "lines of the {name}: {} of at most {limit}\n",
                program.total()
            ));
        }
        let assembly = self.assembly();
        text.push_str(&format!("assembly lines: {assembly} of at most {ASSEMBLY_LIMIT}\n"));
        text.push_str(&format!("unsafe blocks: {}\n", self.unsafe_blocks));
        let [half, most] = [50, 95].map(|of_100| self.function_lines(of_100));
        let (function, file) = (longest(&self.functions), longest(&self.files));
        text.push_str(&format!(
            "lines of functions: half have at most {half}, 95 of 100 {most}, {function}\n\
            lines of files: {file}\n"
        ));
        text
    }

    /// The counts that exceed a limit, as sentences; empty if there are none.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for program in self.programs.iter().filter(|program| program.total() > program.limit) {
            let (name, limit, total) = (program.name, program.limit, program.total());
            found.push(format!("the {name} has {total} lines, more than {limit}"));
        }
        if self.assembly() > ASSEMBLY_LIMIT {
            let lines = self.assembly();
            found.push(format!("ring 0 has {lines} lines of assembly, more than {ASSEMBLY_LIMIT}"));
        }
        found.extend(self.without_lints.iter().map(|manifest| {
            format!(
                "{manifest}: add `[lints]` with `workspace = true`, or no lint applies to \
                that crate"
            )
        }));
        let usual = self.function_lines(95);
        if usual > USUAL_FUNCTION_LIMIT {
            let limit = USUAL_FUNCTION_LIMIT;
            found.push(format!("95 of 100 functions have up to {usual} lines, more than {limit}"));
        }
        let limited = [(&self.functions, FUNCTION_LIMIT), (&self.files, FILE_LIMIT)];
        for (all, limit) in limited {
            let over = all.iter().filter(|(length, _)| *length > limit);
            found.extend(
                over.map(|(length, at)| format!("{at}: {length} lines, more than {limit}")),
            );
        }
        found
    }
}

/// The longest item of a list that is sorted by length.
fn longest(all: &[(usize, String)]) -> String {
    let (length, place) = all.last().map_or((0, ""), |(length, place)| (*length, place));
    format!("the longest {length} ({place})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_workspace_counts() {
        let line = "frames v0.1.0 (/src/hv/frames)";
        assert_eq!(crate_in_line(line), Some(("frames".into(), "/src/hv/frames".into())));
        assert_eq!(crate_in_line("bitflags v2.13.2"), None);
        let line = "zerocopy-derive v0.8.63 (proc-macro)";
        assert_eq!(crate_in_line(line), None);
    }

    #[test]
    fn assembly_is_counted_without_comments() {
        let text = "/* head\n * more\n */\n.globl start\nstart: // here\n  mov %rax, %rbx\n\n# x\n";
        assert_eq!(count_assembly(text), 3);
    }

    #[test]
    fn modules_of_tests_are_found_where_they_are_declared() {
        let lines = source::lines("mod a;\n#[cfg(test)]\nmod model;\n");
        let found = test_modules(Path::new("src/table.rs"), &lines);
        assert_eq!(found, [Path::new("src/table/model.rs"), Path::new("src/table/model")]);
        let found = test_modules(Path::new("src/lib.rs"), &lines);
        assert_eq!(found, [Path::new("src/model.rs"), Path::new("src/model")]);
    }

    #[test]
    fn limits_are_enforced() {
        let part = |rust, assembly| Part { name: "monitor".into(), rust, assembly };
        let metrics = |part, without_lints| Metrics {
            programs: vec![Program { name: "monitor", limit: 1000, parts: vec![part] }],
            unsafe_blocks: 1,
            without_lints,
            ..Metrics::default()
        };
        assert!(metrics(part(500, 500), vec![]).violations().is_empty());
        assert_eq!(metrics(part(501, 500), vec![]).violations().len(), 1);
        assert_eq!(metrics(part(0, 501), vec!["a/Cargo.toml".into()]).violations().len(), 2);
    }

    #[test]
    fn members_keep_the_workspaces_lints() {
        assert!(takes_over_lints("[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"));
        assert!(!takes_over_lints("[package]\nlicense.workspace = true\n"));
        assert!(!takes_over_lints("[lints]\n[lints.clippy]\nall = \"warn\"\nworkspace = true\n"));
    }

    #[test]
    fn functions_and_files_have_limits() {
        let lengths = |some: &[usize]| some.iter().map(|&length| (length, "a".into())).collect();
        let metrics = |functions: &[usize], files: &[usize]| Metrics {
            functions: lengths(functions),
            files: lengths(files),
            ..Metrics::default()
        };
        let mut functions = vec![35; 95];
        functions.extend([100; 5]);
        assert!(metrics(&functions, &[800]).violations().is_empty());
        assert_eq!(metrics(&functions, &[801, 900]).violations().len(), 2);
        functions[94] = 36;
        assert_eq!(metrics(&functions, &[]).violations().len(), 1);
        functions[99] = 101;
        assert_eq!(metrics(&functions, &[]).violations().len(), 2);
    }
}
