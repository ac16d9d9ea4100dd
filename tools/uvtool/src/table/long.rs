//! Long tables, made in two passes over rows that are cheap to read again.
//!
//! The first pass measures the cells, and the second one puts them into place. Between the two,
//! nothing is kept but the width of each column: for a table of a thousand rows, the pages of a
//! copy cost more than the second pass.

use super::{Align, GAP, is_printable, printable, trim_end};
use crate::words::push_number;

/// The lines of a table with these headings. `cells` adds the cells of a row, one for each column,
/// the same ones each time.
pub fn lines<const N: usize, R>(
    columns: &[(&str, Align); N],
    rows: impl Iterator<Item = R> + Clone,
    cells: impl Fn(&mut Cells<'_, N>, R),
) -> String {
    let mut widths = columns.map(|(name, _)| name.chars().count());
    let (mut text, mut lines) = (String::new(), 1);
    for row in rows.clone() {
        cells(&mut Cells::measuring(&mut widths, &mut text), row);
        lines += 1;
    }
    let aligned = columns.map(|(_, align)| align);
    let width: usize = widths.iter().map(|width| width + GAP).sum();
    let mut all = Vec::with_capacity(lines * width);
    let mut heading = Cells::writing(&aligned, &mut widths, &mut text, &mut all);
    columns.iter().for_each(|(name, _)| heading.text(name));
    heading.end_line();
    for row in rows {
        let mut line = Cells::writing(&aligned, &mut widths, &mut text, &mut all);
        cells(&mut line, row);
        line.end_line();
    }
    // The lines consist of whole cells, which are text, and of blanks.
    String::from_utf8(all).unwrap_or_default()
}

/// The cells of a row, which are measured or written.
pub struct Cells<'t, const N: usize> {
    column: usize,
    widths: &'t mut [usize; N],
    /// The text of one cell.
    text: &'t mut String,
    /// Where the cells go, if they are written.
    line: Option<Line<'t, N>>,
}

/// The line that a row becomes.
struct Line<'t, const N: usize> {
    aligned: &'t [Align; N],
    all: &'t mut Vec<u8>,
    /// Where the line begins in all lines.
    begin: usize,
    /// Blanks before the next cell, if there is one.
    blanks: usize,
}

impl<'t, const N: usize> Cells<'t, N> {
    fn measuring(widths: &'t mut [usize; N], text: &'t mut String) -> Self {
        Self { column: 0, widths, text, line: None }
    }

    fn writing(
        aligned: &'t [Align; N],
        widths: &'t mut [usize; N],
        text: &'t mut String,
        all: &'t mut Vec<u8>,
    ) -> Self {
        let line = Line { aligned, begin: all.len(), all, blanks: 0 };
        Self { column: 0, widths, text, line: Some(line) }
    }

    /// Adds a cell with any text.
    pub fn text(&mut self, cell: &str) {
        match is_printable(cell) {
            true => self.plain(cell),
            false => {
                let cell = printable(cell);
                self.cell(cell.as_bytes(), cell.chars().count());
            }
        }
    }

    /// Adds a cell of printable ASCII.
    pub fn plain(&mut self, cell: &str) {
        self.cell(cell.as_bytes(), cell.len());
    }

    /// Adds a cell of printable ASCII that `push` makes.
    pub fn pushed(&mut self, push: impl FnOnce(&mut String)) {
        let mut text = std::mem::take(self.text);
        text.clear();
        push(&mut text);
        self.plain(&text);
        *self.text = text;
    }

    /// Adds a number.
    pub fn number(&mut self, number: u64) {
        self.pushed(|text| push_number(text, number));
    }

    fn cell(&mut self, cell: &[u8], characters: usize) {
        let column = self.column;
        self.column += 1;
        let Some(width) = self.widths.get_mut(column) else { return };
        let Some(line) = &mut self.line else {
            *width = characters.max(*width);
            return;
        };
        let room = width.saturating_sub(characters);
        let (before, after) = match line.aligned.get(column) {
            Some(Align::Right) => (room, 0),
            _ => (0, room),
        };
        line.all.resize(line.all.len() + line.blanks + before, b' ');
        line.all.extend_from_slice(cell);
        line.blanks = after + GAP;
    }

    fn end_line(self) {
        if let Some(line) = self.line {
            trim_end(line.all, line.begin);
            line.all.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Table;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_long_table_is_like_any_other(
            rows in proptest::collection::vec(("[ a-zäß€\u{3000}\u{7}]{0,6}", any::<u64>(), "[ a-z]{0,9}"), 0..6),
        ) {
            let columns = [("NAME", Align::Left), ("N", Align::Right), ("LAST", Align::Left)];
            let text = lines(&columns, rows.iter(), |cells, (name, number, last)| {
                cells.text(name);
                cells.number(*number);
                cells.plain(last);
            });
            let mut table = Table::new(&columns);
            rows.iter().for_each(|(name, number, last)| {
                table.cell(name).cell(number).cell(last);
            });
            prop_assert_eq!(text, table.lines());
        }
    }
}
