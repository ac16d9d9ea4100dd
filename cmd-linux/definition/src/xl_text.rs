//! The text of an xl.cfg file into values (xl.cfg(5), "SYNTAX").
//!
//! ```text
//! KEY = "text" | 'text' | 123 | 0x1f | [ value, ... ]      # comment
//! ```
//! Settings end with the line or a semicolon; a list may go over several lines.

use crate::issue::{Sink, quoted};
use crate::value::{Entry, Item, Value};

/// Lists in lists at most.
const MAX_DEPTH: usize = 4;

/// Something that is no xl.cfg: the byte, what is wrong, the way out.
struct Wrong(usize, String, &'static str);

struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// Reads the settings; what is wrong with the syntax goes into `sink`, line by line.
pub(crate) fn read(text: &str, sink: &mut Sink<'_>) -> Option<Vec<Entry>> {
    let mut scanner = Scanner { text, at: 0 };
    let mut entries: Vec<Entry> = Vec::new();
    let mut whole = true;
    while scanner.skip_to_setting() {
        match scanner.setting() {
            Ok(entry) if entries.iter().any(|other| other.key == entry.key) => {
                whole = false;
                sink.error(entry.at, &entry.key, "is set twice", "leave one of them out");
            }
            Ok(entry) => entries.push(entry),
            Err(Wrong(at, problem, way_out)) => {
                whole = false;
                sink.error(at, "", problem, way_out);
                scanner.skip_line();
            }
        }
    }
    whole.then_some(entries)
}

impl Scanner<'_> {
    fn rest(&self) -> &str {
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

    /// Skips blanks, and comments; over lines, too, if `lines`.
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

    fn setting(&mut self) -> Result<Entry, Wrong> {
        const WAY_OUT: &str = "write KEY = VALUE lines";
        let at = self.at;
        self.skip_while(|c| c.is_ascii_alphanumeric() || c == '_');
        let key = self.text[at..self.at].to_owned();
        if key.is_empty() {
            return Err(Wrong(at, "no setting here".to_owned(), WAY_OUT));
        }
        self.skip_blanks(false);
        if self.rest().starts_with("+=") {
            let way_out = "write the whole value with \"=\"";
            return Err(Wrong(at, format!("{} is added to with \"+=\"", quoted(&key)), way_out));
        }
        if self.peek() != Some('=') {
            return Err(Wrong(at, format!("no \"=\" after {}", quoted(&key)), WAY_OUT));
        }
        self.at += 1;
        self.skip_blanks(false);
        let item = self.value(0)?;
        self.skip_blanks(false);
        match self.peek() {
            None | Some('\n' | ';') => Ok(Entry { key, at, item }),
            Some(_) => {
                let problem = format!("more text after the value of {}", quoted(&key));
                Err(Wrong(self.at, problem, "put text with spaces in quotes"))
            }
        }
    }

    fn value(&mut self, depth: usize) -> Result<Item, Wrong> {
        let at = self.at;
        let value = match self.peek() {
            Some(quote @ ('"' | '\'')) => Value::Text(self.string(quote)?),
            Some('[') => Value::List(self.list(depth)?),
            Some(c) if c.is_ascii_digit() || c == '-' => Value::Integer(self.number()?),
            _ => {
                let problem = "no value here".to_owned();
                return Err(Wrong(at, problem, "give a number, a text in quotes or a list"));
            }
        };
        Ok(Item { at, value })
    }

    fn number(&mut self) -> Result<i128, Wrong> {
        let at = self.at;
        self.skip_while(|c| c.is_ascii_alphanumeric() || c == '-');
        let text = &self.text[at..self.at];
        let parsed = match text.strip_prefix("0x") {
            Some(hex) => i128::from_str_radix(hex, 16),
            None => text.parse(),
        };
        match parsed {
            Ok(number) => Ok(number),
            Err(error) if *error.kind() == std::num::IntErrorKind::PosOverflow => Ok(i128::MAX),
            Err(_) => {
                let problem = format!("{} is no number", quoted(text));
                Err(Wrong(at, problem, "give a whole number, or a text in quotes"))
            }
        }
    }

    fn string(&mut self, quote: char) -> Result<String, Wrong> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        while let Some(c) = self.peek() {
            let at = self.at;
            self.at += c.len_utf8();
            match c {
                c if c == quote => return Ok(text),
                '\n' => break,
                '\\' => text.push(self.escape(at)?),
                c => text.push(c),
            }
        }
        self.at = start;
        Err(Wrong(start, format!("the text has no end: {quote} is missing"), "close the quotes"))
    }

    /// The character that an escape stands for, of those with a meaning.
    fn escape(&mut self, at: usize) -> Result<char, Wrong> {
        let escaped = self.peek();
        self.at += escaped.map_or(0, char::len_utf8);
        match escaped {
            Some(c @ ('\\' | '"' | '\'')) => Ok(c),
            Some('n') => Ok('\n'),
            Some('t') => Ok('\t'),
            _ => {
                let problem = "a backslash that escapes nothing".to_owned();
                Err(Wrong(at, problem, "write \\\\ for a backslash"))
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Item>, Wrong> {
        let start = self.at;
        if depth == MAX_DEPTH {
            let problem = format!("more than {MAX_DEPTH} lists in one another");
            return Err(Wrong(start, problem, "write a plain list"));
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
                None => {
                    let problem = "the list has no end".to_owned();
                    return Err(Wrong(start, problem, "close it with ]"));
                }
                Some(_) => items.push(self.value(depth + 1)?),
            }
            self.skip_blanks(true);
            match self.peek() {
                Some(',') => self.at += 1,
                Some(']') | None => {}
                Some(_) => {
                    let problem = "no comma between the values of a list".to_owned();
                    return Err(Wrong(self.at, problem, "separate them with commas"));
                }
            }
        }
    }
}
