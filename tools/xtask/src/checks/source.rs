//! Reads Rust source just well enough to count its code, comments and tests.
//!
//! Comments become blanks and literals become empty, line by line, so the remaining braces and
//! words are the program's own.

/// One line of a source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The code, without the insides of literals.
    pub code: String,
    /// The text of comments.
    pub comment: String,
    /// Whether the line belongs to an item under `#[cfg(test)]`.
    pub test: bool,
}

impl Line {
    /// Whether the line counts as code.
    pub fn counts(&self) -> bool {
        !self.test && !self.code.trim().is_empty()
    }
}

enum State {
    Code,
    LineComment,
    BlockComment { depth: u32 },
    Text,
    RawText { hashes: usize },
}

/// The lines of a Rust source file.
pub fn lines(source: &str) -> Vec<Line> {
    let mut scanner = Scanner { rest: source, state: State::Code, lines: vec![Line::default()] };
    while scanner.step() {}
    let mut lines = scanner.lines;
    mark_tests(&mut lines);
    lines
}

struct Scanner<'a> {
    rest: &'a str,
    state: State,
    lines: Vec<Line>,
}

impl Scanner<'_> {
    /// Takes `count` bytes; newlines among them start new lines.
    fn consume(&mut self, count: usize) {
        let (taken, rest) = self.rest.split_at(count);
        let comment = matches!(self.state, State::LineComment | State::BlockComment { .. });
        let code = matches!(self.state, State::Code);
        for c in taken.chars() {
            if c == '\n' {
                self.lines.push(Line::default());
            } else if let Some(line) = self.lines.last_mut() {
                match (comment, code) {
                    (true, _) => line.comment.push(c),
                    (_, true) => line.code.push(c),
                    // A literal counts as code on each line that it covers.
                    _ => line.code.push('"'),
                }
            }
        }
        self.rest = rest;
    }

    fn enter_state(&mut self, state: State, count: usize) {
        self.state = state;
        self.consume(count);
    }

    fn leave_state(&mut self, count: usize) {
        self.consume(count);
        self.state = State::Code;
    }

    fn step(&mut self) -> bool {
        let Some(c) = self.rest.chars().next() else {
            return false;
        };
        match self.state {
            State::Code => self.step_code(c),
            State::LineComment if c == '\n' => {
                self.state = State::Code;
                self.consume(1);
            }
            State::LineComment => self.consume(c.len_utf8()),
            State::BlockComment { depth } => self.step_block(c, depth),
            State::Text if c == '\\' => {
                let escaped = self.rest[1..].chars().next().map_or(0, char::len_utf8);
                self.consume(1 + escaped);
            }
            State::Text if c == '"' => self.leave_state(1),
            State::Text => self.consume(c.len_utf8()),
            State::RawText { hashes } => {
                let end = format!("\"{}", "#".repeat(hashes));
                match self.rest.starts_with(&end) {
                    true => self.leave_state(end.len()),
                    false => self.consume(c.len_utf8()),
                }
            }
        }
        true
    }

    fn step_block(&mut self, c: char, depth: u32) {
        if self.rest.starts_with("/*") {
            self.enter_state(State::BlockComment { depth: depth + 1 }, 2);
        } else if self.rest.starts_with("*/") {
            self.consume(2);
            self.state = match depth {
                1 => State::Code,
                _ => State::BlockComment { depth: depth - 1 },
            };
        } else {
            self.consume(c.len_utf8());
        }
    }

    fn step_code(&mut self, c: char) {
        if self.rest.starts_with("//") {
            self.enter_state(State::LineComment, 2);
        } else if self.rest.starts_with("/*") {
            self.enter_state(State::BlockComment { depth: 1 }, 2);
        } else if c == '"' {
            self.enter_state(State::Text, 1);
        } else if let Some(hashes) = raw_start(self.rest).filter(|_| !self.after_word()) {
            let prefix = self.rest.find('"').unwrap_or(0) + 1;
            self.enter_state(State::RawText { hashes }, prefix);
        } else if let Some(length) = character(self.rest) {
            self.state = State::Text;
            self.leave_state(length);
        } else {
            self.consume(c.len_utf8());
        }
    }

    /// Whether the last character belongs to a word, so that a following `r` belongs to it, too.
    fn after_word(&self) -> bool {
        let last = self.lines.last().and_then(|line| line.code.chars().last());
        last.is_some_and(|c| c.is_alphanumeric() || c == '_')
    }
}

/// The number of `#` of a raw literal that begins here.
fn raw_start(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or(rest.strip_prefix("cr")).or(rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

/// The length of a character literal that begins here; a lifetime is not a literal.
fn character(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    if let Some(escape) = inside.strip_prefix('\\') {
        let skip = escape.chars().next()?.len_utf8();
        return Some(2 + skip + escape[skip..].find('\'')? + 1);
    }
    let length = inside.chars().next()?.len_utf8();
    inside[length..].starts_with('\'').then_some(length + 2)
}

/// Marks the items that follow `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn mark_tests(lines: &mut [Line]) {
    let mut at = 0;
    while at < lines.len() {
        let code = lines[at].code.trim_start();
        if code.starts_with("#[cfg(test)]") || code.starts_with("#[cfg(all(test,") {
            let end = end_of_item(lines, at);
            lines[at..=end].iter_mut().for_each(|line| line.test = true);
            at = end;
        }
        at += 1;
    }
}

/// The last line of the item that begins at `start`, on which its braces close, or its semicolon
/// stands.
fn end_of_item(lines: &[Line], start: usize) -> usize {
    let mut depth = 0_u32;
    for (index, line) in lines.iter().enumerate().skip(start) {
        for c in line.code.chars() {
            match c {
                '{' | '(' | '[' => depth += 1,
                ')' | ']' => depth = depth.saturating_sub(1),
                '}' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return index;
                    }
                }
                ';' if depth == 0 => return index,
                _ => {}
            }
        }
    }
    lines.len() - 1
}

/// A function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line on which it begins, from 0.
    pub line: usize,
    /// The number of lines of the function, up to the line on which its braces close.
    pub length: usize,
}

/// All functions with a body, including nested ones.
pub fn functions(lines: &[Line]) -> Vec<Function> {
    let mut found = Vec::new();
    for (line, name) in
        lines.iter().enumerate().filter_map(|(at, line)| Some((at, declared(line)?)))
    {
        let end = end_of_item(lines, line);
        if lines[end].code.contains('}') {
            found.push(Function { name: name.into(), line, length: end - line + 1 });
        }
    }
    found
}

/// The name of the function declared on a line.
fn declared(line: &Line) -> Option<&str> {
    let (before, after) = line.code.split_once("fn ")?;
    let name = after.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    (!name.is_empty() && before.chars().next_back().is_none_or(char::is_whitespace)).then_some(name)
}

/// How many `unsafe` blocks and implementations begin in these lines.
pub fn unsafe_blocks(lines: &[Line]) -> usize {
    let mut count = 0;
    for (index, line) in lines.iter().enumerate() {
        for (at, word) in line.code.match_indices("unsafe") {
            let next = line.code[at + word.len()..].trim_start();
            let next = match (next.is_empty(), lines.get(index + 1)) {
                (true, Some(following)) => following.code.trim_start(),
                _ => next,
            };
            count += usize::from(next.starts_with('{') || next.starts_with("impl"));
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> usize {
        lines(source).iter().filter(|line| line.counts()).count()
    }

    #[test]
    fn comments_and_blanks_are_no_code() {
        assert_eq!(code("//! a\n\n/* b /* c */\n d */ fn f() {} // e\n  \n/// g\nfn h() {}\n"), 2);
    }

    #[test]
    fn literals_hide_nothing_and_show_nothing() {
        let source = "const A: &str = \"// no { \\\" comment\";\nconst B: char = '\"';\n\
            const C: &str = r#\"/* \" */\"#;\nfn f<'a>(x: &'a str) -> char { '\\'' }\n";
        let lines = lines(source);
        assert_eq!(lines.iter().filter(|line| line.counts()).count(), 4);
        assert!(lines.iter().all(|line| line.comment.is_empty()), "{lines:?}");
        assert!(!lines[0].code.contains('{') && lines[3].code.contains('{'));
    }

    #[test]
    fn tests_are_no_code() {
        let source = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {\n    }\n}\nfn c() {}\n\
            #[cfg(all(test, loom))]\nuse d::{e, f};\n#[cfg(test)]\nmod g;\nfn h() {}\n";
        assert_eq!(code(source), 3);
    }

    #[test]
    fn functions_end_where_their_braces_do() {
        let source = "fn a() {}\npub(in crate::x) const unsafe fn b<T: Fn()>(\n    c: [u8; 4],\n) {\n    \
            if c {\n    }\n}\ntrait T {\n    fn d();\n    fn e() -> u8 {\n        1\n    }\n}\n\
            type F = fn (u8);\n// fn g() {}\nextern \"C\" fn h() {\n}\n";
        let found: Vec<_> = functions(&lines(source))
            .into_iter()
            .map(|function| (function.name, function.line, function.length))
            .collect();
        let expected = [("a", 0, 1), ("b", 1, 6), ("e", 9, 3), ("h", 15, 2)];
        assert_eq!(found, expected.map(|(name, line, length)| (name.to_string(), line, length)));
    }

    #[test]
    fn unsafe_blocks_are_counted() {
        let source = "unsafe { a() };\nlet c = foo(\n    unsafe\n    { c() },\n);\n\
            /// unsafe { not code }\nunsafe fn d() {}\nlet e = \"unsafe {\";\n\
            unsafe impl Sync for F {}\n";
        assert_eq!(unsafe_blocks(&lines(source)), 3);
    }
}
