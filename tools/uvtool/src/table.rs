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

/// Bytes reserved for a line.
const USUAL_LINE: usize = 160;

/// Rows under a heading.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    /// The text of all cells, one after the other.
    text: String,
    /// The end of each cell in the text, and its width in characters, row by row.
    cells: Vec<(usize, usize)>,
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
        self.cells.push((self.text.len(), width));
        self
    }
}

impl Table {
    /// The lines of the table.
    pub fn lines(&self) -> String {
        let line_width: usize = self.columns.iter().map(|column| column.width + 2).sum();
        let lines = self.cells.len() / self.columns.len().max(1) + 1;
        // A cell of the last column may be long, but most are not.
        let mut all = String::with_capacity(lines * line_width.min(USUAL_LINE));
        let mut start = 0;
        for row in self.cells.chunks(self.columns.len().max(1)) {
            let (begin, mut blanks) = (all.len(), 0);
            for (&(end, width), column) in row.iter().zip(&self.columns) {
                let room = column.width.saturating_sub(width);
                let (before, after) = match column.align {
                    Align::Left => (0, room),
                    Align::Right => (room, 0),
                };
                push_blanks(&mut all, blanks + before);
                all.push_str(self.text.get(start..end).unwrap_or_default());
                (blanks, start) = (after + 2, end);
            }
            let line = all.get(begin..).unwrap_or_default();
            all.truncate(begin + line.trim_end().len());
            all.push('\n');
        }
        all
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines())
    }
}

fn push_blanks(line: &mut String, mut count: usize) {
    const BLANKS: &str = "                                ";
    while count != 0 {
        let some = count.min(BLANKS.len());
        line.push_str(BLANKS.get(..some).unwrap_or_default());
        count -= some;
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

    proptest! {
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
