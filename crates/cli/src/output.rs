//! Printing: exact bytes to standard output, tables for people, a closed pipe is not an error.

use std::io::{self, IsTerminal, Write};

/// Writes `bytes` to standard output; the reader having gone ends the program with success.
pub fn emit(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

/// Writes a line to standard output.
pub fn line(text: &str) -> io::Result<()> {
    emit(format!("{text}\n").as_bytes())
}

/// Writes a line to standard error.
pub fn note(text: &str) {
    // Nobody to tell if that fails.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Whether bars and colour may be shown on standard error.
pub fn decorated() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Bytes as people read them: text if it is printable UTF-8, else escaped.
pub fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// A table with aligned columns; numbers (cells that parse as such) are aligned right.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub fn new<const N: usize>(heads: [&str; N]) -> Self {
        Self::of(&heads)
    }

    /// The same, however many heads there are.
    pub fn of(heads: &[&str]) -> Self {
        Self { rows: vec![heads.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as lines.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            self.rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let numeric = |cell: &str| cell.starts_with(|c: char| c.is_ascii_digit());
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (c, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let right = self.rows.get(1).and_then(|r| r.get(c)).is_some_and(|s| numeric(s));
                let pad = " ".repeat(width.saturating_sub(cell.chars().count()));
                let separator = if c == 0 { "" } else { "  " };
                let (before, after) =
                    if right { (pad, String::new()) } else { (String::new(), pad) };
                line.push_str(separator);
                line.push_str(&before);
                line.push_str(cell);
                line.push_str(&after);
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_stand_right() {
        let mut table = Table::new(["name", "n"]);
        table.row(vec!["a".into(), "5".into()]);
        table.row(vec!["long".into(), "123".into()]);
        assert_eq!(table.render(), "name    n\na       5\nlong  123\n");
    }

    #[test]
    fn bytes_that_are_not_text_are_escaped() {
        assert_eq!(readable("grün".as_bytes()), "grün");
        assert_eq!(readable(b"a\n\xff"), "a\\n\\xff");
    }
}
