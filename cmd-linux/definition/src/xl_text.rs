//! Reads the text of an xl.cfg file into values (xl.cfg(5), "SYNTAX"), as xl's own scanner and
//! parser do (`tools/libs/util/libxlu_cfg_l.l`, `libxlu_cfg_y.y`).
//!
//! ```text
//! KEY = "text" | 'text' | 123 | 0x1f | [ value, ... ]      # comment
//! ```
//! Settings end with the line or a semicolon; a list may go over several lines.
//!
//! Rule: text that xl accepts has xl's meaning here, or is refused. A mistake in one setting does
//! not hide mistakes in others: reading goes on with the next line that sets something.

use crate::issue::{Sink, quoted};
use crate::units;
use crate::value::{Entry, Item, Value};

/// The deepest nesting of lists.
const MAX_DEPTH: usize = 4;
/// A file may begin with this character.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A mistake in a setting: its byte, the problem, the way out.
struct Wrong(usize, String, String);

impl Wrong {
    fn new(at: usize, problem: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self(at, problem.into(), way_out.into())
    }
}

/// The settings that were read.
pub(crate) struct Settings {
    /// Settings that are whole.
    pub(crate) entries: Vec<Entry<'static>>,
    /// Keys of settings that are not whole; the mistakes have been reported.
    pub(crate) broken: Vec<String>,
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// Reads the settings; mistakes in the syntax go into `sink`.
pub(crate) fn read(text: &str, sink: &mut Sink<'_>) -> Settings {
    let mut scanner = Scanner { text, at: 0 };
    if scanner.peek() == Some(BYTE_ORDER_MARK) {
        scanner.at = BYTE_ORDER_MARK.len_utf8();
    }
    let mut settings = Settings { entries: Vec::new(), broken: Vec::new() };
    while scanner.skip_to_setting() {
        let start = scanner.at;
        let key = scanner.key().to_owned();
        match scanner.setting(start, &key) {
            Ok(entry) if settings.entries.iter().any(|other| other.key == entry.key) => {
                sink.error(entry.at, &entry.key, "is set twice", "leave one of them out");
            }
            Ok(entry) => settings.entries.push(entry),
            Err(Wrong(at, problem, way_out)) => {
                sink.error(at, "", problem, way_out);
                settings.broken.push(key);
                scanner.recover(start);
            }
        }
    }
    settings
}

impl<'a> Scanner<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        let rest = self.rest();
        self.at += rest.find(|c| !wanted(c)).unwrap_or(rest.len());
    }

    fn skip_line(&mut self) {
        self.skip_while(|c| c != '\n');
    }

    /// Skips blanks and comments; if `lines` is set, also line ends.
    fn skip_blanks(&mut self, lines: bool) {
        loop {
            self.skip_while(|c| c.is_whitespace() && (lines || c != '\n'));
            if self.peek() != Some('#') {
                return;
            }
            self.skip_line();
        }
    }

    /// Whether there is another setting.
    fn skip_to_setting(&mut self) -> bool {
        loop {
            self.skip_blanks(true);
            if self.peek() != Some(';') {
                return self.peek().is_some();
            }
            self.at += 1;
        }
    }

    /// Recovers from a mistake in the setting that begins at `start`: goes to the next line that
    /// may set something. A list without an end may have swallowed some such lines.
    fn recover(&mut self, start: usize) {
        let first_end = self.text[start..].find('\n').map_or(self.text.len(), |end| start + end);
        let in_first = self.at <= first_end;
        if in_first {
            let rest = &self.text[self.at..first_end];
            let in_list = self.text[start..self.at].contains('[') && !rest.contains(']');
            self.at = first_end;
            if !in_list {
                return;
            }
        } else {
            self.at = self.text[..self.at].rfind('\n').map_or(0, |end| end + 1);
        }
        while self.peek().is_some() {
            self.skip_while(char::is_whitespace);
            let at = self.at;
            let is_key = !self.key().is_empty();
            self.skip_while(|c| c == ' ' || c == '\t');
            let is_setting = is_key && (self.peek() == Some('=') || self.rest().starts_with("+="));
            self.at = at;
            if is_setting {
                return;
            }
            self.skip_line();
        }
    }

    /// Reads a key; empty if there is none.
    fn key(&mut self) -> &'a str {
        let at = self.at;
        if self.peek().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') {
            self.skip_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        }
        &self.text[at..self.at]
    }

    /// Reads the rest of the setting whose key has been read.
    fn setting(&mut self, at: usize, key: &str) -> Result<Entry<'static>, Wrong> {
        const WAY_OUT: &str = "write KEY = VALUE lines";
        if key.is_empty() {
            return Err(Wrong::new(at, "there is no setting here", WAY_OUT));
        }
        self.skip_blanks(false);
        if self.rest().starts_with("+=") {
            let problem = format!("\"+=\" adds to {}, which is not possible here", quoted(key));
            return Err(Wrong::new(at, problem, "write the whole value with \"=\""));
        }
        if self.peek() != Some('=') {
            let problem = format!("no \"=\" after {}", quoted(key));
            let way_out = match key {
                "import" | "from" | "def" | "if" | "for" | "while" | "print" | "try" => {
                    "since Xen 4.1 xl.cfg is not a Python program; write KEY = VALUE lines"
                }
                _ => WAY_OUT,
            };
            return Err(Wrong::new(at, problem, way_out));
        }
        self.at += 1;
        self.skip_blanks(false);
        let item = self.value(key, 0)?;
        self.skip_blanks(false);
        self.end_of(key)?;
        Ok(Entry { key: key.to_owned().into(), at, item })
    }

    /// Checks that the setting ends here.
    fn end_of(&self, key: &str) -> Result<(), Wrong> {
        let (problem, way_out) = match self.peek() {
            None | Some('\n' | ';') => return Ok(()),
            Some('"' | '\'') => {
                (format!("two texts after {}", quoted(key)), "write them as one text in quotes")
            }
            Some('+' | '*' | '%' | '(' | '.' | '-' | '/') => {
                let problem = format!("{} is an expression", quoted(key));
                (problem, "xl.cfg has no expressions; write the result of the expression")
            }
            Some(_) => {
                let problem = format!("more text after the value of {}", quoted(key));
                (problem, "put text with spaces in quotes")
            }
        };
        Err(Wrong::new(self.at, problem, way_out))
    }

    fn value(&mut self, key: &str, depth: usize) -> Result<Item<'static>, Wrong> {
        let at = self.at;
        let value = match self.peek() {
            Some(quote @ ('"' | '\'')) => Value::Text(self.string(quote)?.into()),
            Some('[') => Value::List(self.list(key, depth)?),
            Some(c) if c.is_ascii_digit() || c == '-' => self.number(key)?,
            Some(c) if c.is_alphabetic() || c == '_' => {
                self.skip_while(|c| c.is_alphanumeric() || "._-/:".contains(c));
                let word = &self.text[at..self.at];
                let way_out = match word {
                    "True" | "true" | "yes" => "write 1".to_owned(),
                    "False" | "false" | "no" => "write 0".to_owned(),
                    "None" | "null" => "leave the setting out".to_owned(),
                    _ if "([".contains(self.peek().unwrap_or(' ')) => {
                        "xl.cfg has no expressions; write the result of the expression".to_owned()
                    }
                    word => format!("write {key} = {word:?}"),
                };
                return Err(Wrong::new(at, format!("{} is not in quotes", quoted(word)), way_out));
            }
            Some('(' | '{') => {
                let problem = "the value is an expression";
                let way_out = "xl.cfg has no expressions; write the result of the expression";
                return Err(Wrong::new(at, problem, way_out));
            }
            _ => {
                let way_out = "give a number, a text in quotes or a list";
                return Err(Wrong::new(at, "there is no value here", way_out));
            }
        };
        Ok(Item { at, value })
    }

    /// Reads a number. For xl a number is text until it is used as a number, so a number that
    /// begins with 0 is kept as text.
    fn number(&mut self, key: &str) -> Result<Value<'static>, Wrong> {
        let at = self.at;
        self.skip_while(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        let text = &self.text[at..self.at];
        if text.len() > 1 && text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Value::Text(text.to_owned().into()));
        }
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => i128::from_str_radix(hex, 16),
            None => text.parse(),
        };
        match parsed {
            Ok(number) => Ok(Value::Integer(number)),
            Err(error) if *error.kind() == std::num::IntErrorKind::PosOverflow => {
                Ok(Value::Integer(i128::MAX))
            }
            Err(_) => {
                let way_out = match units::parse_size(text) {
                    Ok(bytes) if ["memory", "maxmem"].contains(&key) && bytes >= 1 << 20 => {
                        format!("write {key} = {}, which is in MiB", bytes >> 20)
                    }
                    _ => "give a whole number, or a text in quotes".to_owned(),
                };
                Err(Wrong::new(at, format!("{} is not a number", quoted(text)), way_out))
            }
        }
    }

    fn string(&mut self, quote: char) -> Result<String, Wrong> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        while let Some(c) = self.peek() {
            let at = self.at;
            match c {
                '\n' => break,
                _ => self.at += c.len_utf8(),
            }
            match c {
                c if c == quote => return Ok(text),
                '\\' => text.push(self.escape(at)?),
                c => text.push(c),
            }
        }
        let problem = format!("the text has no end: {quote} is missing");
        Err(Wrong::new(start, problem, "close the quotes"))
    }

    /// Reads an escape and returns the character it stands for; escapes without a meaning are
    /// refused.
    fn escape(&mut self, at: usize) -> Result<char, Wrong> {
        let escaped = self.peek();
        let way_out = match escaped {
            Some('x' | '0'..='7') => "write the character itself",
            _ => "write \\\\ for a backslash",
        };
        let meant = match escaped {
            Some(c @ ('\\' | '"' | '\'')) => c,
            Some('a') => '\u{7}',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            _ => return Err(Wrong::new(at, "a backslash that escapes nothing", way_out)),
        };
        self.at += 1;
        Ok(meant)
    }

    fn list(&mut self, key: &str, depth: usize) -> Result<Vec<Item<'static>>, Wrong> {
        let start = self.at;
        if depth == MAX_DEPTH {
            let problem = format!("more than {MAX_DEPTH} lists in one another");
            return Err(Wrong::new(start, problem, "write a plain list"));
        }
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.skip_blanks(true);
            match self.peek() {
                Some(']') => {
                    self.at += 1;
                    return Ok(items);
                }
                None => return Err(no_end(start)),
                Some(_) => items.push(self.item(key, start, depth)?),
            }
            self.skip_blanks(true);
            match self.peek() {
                Some(',') => self.at += 1,
                Some(']') | None => {}
                Some(_) if self.is_at_setting() => return Err(no_end(start)),
                Some(_) => {
                    let problem = "no comma between the values of a list";
                    return Err(Wrong::new(self.at, problem, "separate them with commas"));
                }
            }
        }
    }

    /// Reads a value in a list that began at `start`.
    fn item(&mut self, key: &str, start: usize, depth: usize) -> Result<Item<'static>, Wrong> {
        if self.is_at_setting() { Err(no_end(start)) } else { self.value(key, depth + 1) }
    }

    /// Whether a setting begins here.
    fn is_at_setting(&mut self) -> bool {
        let at = self.at;
        let is_key = !self.key().is_empty();
        self.skip_while(|c| c == ' ' || c == '\t');
        let is_setting = is_key && self.peek() == Some('=');
        self.at = at;
        is_setting
    }
}

fn no_end(start: usize) -> Wrong {
    Wrong::new(start, "the list has no end", "close it with ]")
}
