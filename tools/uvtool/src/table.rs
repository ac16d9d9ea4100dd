//! Prints aligned columns.
//!
//! Rule: text is aligned left and numbers right; no line ends in blanks. A table may have thousands
//! of rows, so a cell has no allocation of its own.

use std::fmt::{self, Display, Write};

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Bytes reserved for a line, and for the text of the cells of a row.
const USUAL_LINE: usize = 160;
const USUAL_TEXT: usize = 64;
/// Blanks between columns.
const GAP: usize = 2;

/// Rows under a heading.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    /// The text of all cells, one after the other.
    text: String,
    /// The end of each cell in the text, and its width in characters, row by row.
    cells: Vec<(u32, u32)>,
}

#[derive(Clone, Debug)]
struct Column {
    align: Align,
    /// Characters of the widest cell.
    width: usize,
}

impl Table {
    /// A table with these headings.
    pub fn new(columns: &[(&str, Align)]) -> Self {
        let all = columns.iter().map(|(_, align)| Column { align: *align, width: 0 });
        let mut table = Self { columns: all.collect(), text: String::new(), cells: Vec::new() };
        table.row(columns.iter().map(|(name, _)| name));
        table
    }

    /// Adds a row, with a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Display>) {
        for cell in cells {
            self.cell(cell);
        }
    }

    /// Adds the next cell of a row.
    pub fn cell(&mut self, cell: impl Display) -> &mut Self {
        let mut printed = Printable { text: &mut self.text, width: 0 };
        // Only the cell's own formatting could fail, and then the cell shows the text up to there.
        let _ = write!(printed, "{cell}");
        let width = printed.width;
        self.end_cell(width)
    }

    /// Does what [`Self::cell`] does, for a text in a long table.
    pub fn text(&mut self, cell: &str) -> &mut Self {
        let mut printed = Printable { text: &mut self.text, width: 0 };
        // Writing to a string cannot fail.
        let _ = printed.write_str(cell);
        let width = printed.width;
        self.end_cell(width)
    }

    /// Does what [`Self::cell`] does, for printable ASCII that `push` adds to a long table.
    pub fn pushed(&mut self, push: impl FnOnce(&mut String)) -> &mut Self {
        let start = self.text.len();
        push(&mut self.text);
        self.end_cell(self.text.len() - start)
    }

    fn end_cell(&mut self, width: usize) -> &mut Self {
        let at = self.cells.len() % self.columns.len().max(1);
        if let Some(column) = self.columns.get_mut(at) {
            column.width = column.width.max(width);
        }
        let short = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        self.cells.push((short(self.text.len()), short(width)));
        self
    }

    /// Reserves memory for `rows` more rows, so that adding them copies nothing.
    pub fn reserve(&mut self, rows: usize) {
        self.cells.reserve_exact(rows * self.columns.len());
        self.text.reserve_exact(rows * USUAL_TEXT);
    }
}

impl Table {
    /// The lines of the table.
    pub fn lines(&self) -> String {
        let line_width: usize = self.columns.iter().map(|column| column.width + GAP).sum();
        let lines = self.cells.len() / self.columns.len().max(1) + 1;
        // A cell of the last column may be long, but most are not.
        let mut all = Vec::with_capacity(lines * line_width.min(USUAL_LINE));
        let mut start = 0;
        for row in self.cells.chunks(self.columns.len().max(1)) {
            start = self.push_line(&mut all, (row, line_width), start);
        }
        // The lines consist of whole cells, which are text, and of blanks.
        String::from_utf8(all).unwrap_or_default()
    }

    /// Adds a line: blanks for its whole width, and then each cell in its place. The text of the
    /// first cell begins at `start`; returns where the text of the last cell ends.
    fn push_line(
        &self,
        all: &mut Vec<u8>,
        (row, line_width): (&[(u32, u32)], usize),
        mut start: usize,
    ) -> usize {
        let begin = all.len();
        let last = row.last().map_or(start, |&(end, _)| end as usize);
        // A character has at least one byte, so a line has at most this many more bytes than
        // characters.
        let characters: usize = row.iter().map(|&(_, width)| width as usize).sum();
        let more = last.saturating_sub(start).saturating_sub(characters);
        all.resize(begin + line_width + more, b' ');
        let mut at = begin;
        for (&(end, width), column) in row.iter().zip(&self.columns) {
            let (end, room) = (end as usize, column.width.saturating_sub(width as usize));
            let cell = self.text.as_bytes().get(start..end).unwrap_or_default();
            let blanks = match column.align {
                Align::Left => 0,
                Align::Right => room,
            };
            if let Some(place) = all.get_mut(at + blanks..at + blanks + cell.len()) {
                place.copy_from_slice(cell);
            }
            at += room + cell.len() + GAP;
            start = end;
        }
        all.truncate(at.saturating_sub(GAP).max(begin));
        trim_end(all, begin);
        all.push(b'\n');
        start
    }
}

/// Removes blanks from the end of the line that begins at `begin`.
fn trim_end(all: &mut Vec<u8>, begin: usize) {
    if all.last().is_some_and(u8::is_ascii_graphic) {
        return;
    }
    let line = all.get(begin..).unwrap_or_default();
    let length = std::str::from_utf8(line).map_or(line.len(), |line| line.trim_end().len());
    all.truncate(begin + length);
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines())
    }
}

/// Adds text, replaces characters that would move the cursor of a terminal, and counts the
/// characters.
struct Printable<'t> {
    text: &'t mut String,
    width: usize,
}

impl Write for Printable<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            self.text.push_str(text);
            self.width += text.len();
            return Ok(());
        }
        for c in text.chars() {
            self.text.push(if c.is_control() { '?' } else { c });
            self.width += 1;
        }
        Ok(())
    }
}

/// The text with each control character, which would move the cursor of a terminal, replaced by
/// `?`.
pub fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    // Writing to a string cannot fail.
    let _ = Printable { text: &mut printed, width: 0 }.write_str(text);
    printed
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&[("NAME", Align::Left), ("N", Align::Right)]);
        table.row(["größer", "1"]);
        table.row(["b", "100"]);
        table.row(["a\x1b[2Jb\n", ""]);
        assert_eq!(table.to_string(), "NAME       N\ngrößer     1\nb        100\na?[2Jb?\n");
    }

    /// A line as the formatter of the standard library aligns it.
    fn aligned(cells: &[String], columns: &[Column]) -> String {
        let cells = cells.iter().zip(columns).map(|(cell, column)| match column.align {
            Align::Left => format!("{cell:<width$}", width = column.width),
            Align::Right => format!("{cell:>width$}", width = column.width),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }

    proptest! {
        #[test]
        fn cells_stand_where_the_formatter_puts_them(
            rows in proptest::collection::vec(proptest::array::uniform3("[ a-zäß€\u{3000}]{0,6}"), 0..6),
        ) {
            let names = [("A", Align::Left), ("B", Align::Right), ("C", Align::Left)];
            let mut table = Table::new(&names);
            table.reserve(rows.len());
            rows.iter().for_each(|row| table.row(row));
            let heading = names.map(|(name, _)| name.to_owned());
            let expected: Vec<_> =
                [&heading].into_iter().chain(&rows).map(|row| aligned(row, &table.columns)).collect();
            prop_assert_eq!(table.lines(), expected.join("\n") + "\n");
        }

        #[test]
        fn every_row_is_one_line(cells in proptest::collection::vec(".*", 0..10)) {
            let mut table = Table::new(&[("A", Align::Left), ("B", Align::Right)]);
            for cell in &cells {
                table.row([cell, cell]);
            }
            let text = table.to_string();
            prop_assert_eq!(text.matches('\n').count(), cells.len() + 1);
            prop_assert!(text.lines().all(|line| line.trim_end() == line));
        }
    }
}
