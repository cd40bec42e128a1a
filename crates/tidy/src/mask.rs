//! Telling code from comments and text, well enough to measure functions and to find words.
//!
//! Not a parser: a scanner that knows comments (nested), strings (raw too), characters and
//! lifetimes. It cannot be wrong about braces, which is all that measuring needs.

/// `source` with comments and the content of literals replaced by spaces; lines stay lines.
pub fn mask(source: &str) -> String {
    let mut scanner = Scanner { rest: source, masked: String::with_capacity(source.len()) };
    while scanner.step() {}
    scanner.masked
}

struct Scanner<'a> {
    rest: &'a str,
    masked: String,
}

impl Scanner<'_> {
    /// Consumes one comment, literal, word or character; false at the end.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        if self.rest.starts_with("//") {
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.blank(end);
        } else if self.rest.starts_with("/*") {
            self.blank(comment_length(self.rest));
        } else if let Some(length) = raw_string_length(self.rest) {
            self.blank(length);
        } else if first == '"' {
            self.blank(quoted_length(self.rest, '"'));
        } else if first == '\'' && is_character(self.rest) {
            self.blank(quoted_length(self.rest, '\''));
        } else {
            self.copy(word_length(self.rest).max(first.len_utf8()));
        }
        true
    }

    fn copy(&mut self, length: usize) {
        let (taken, rest) = self.rest.split_at(length);
        self.masked.push_str(taken);
        self.rest = rest;
    }

    fn blank(&mut self, length: usize) {
        let (taken, rest) = self.rest.split_at(length);
        self.masked.extend(taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        self.rest = rest;
    }
}

/// Bytes of the word that `text` starts with. Words are taken whole, so that the `r` in `for` is
/// not taken for the start of a raw string. A `b` before a literal is left in front of it.
fn word_length(text: &str) -> usize {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let is_prefix = matches!(&text[..end], "b" | "c") && text[end..].starts_with(['"', '\'']);
    if is_prefix { 1 } else { end }
}

fn comment_length(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(found) = text[at..].find(['/', '*']) {
        at += found;
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Bytes of the raw string `text` starts with, if it does.
fn raw_string_length(text: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        let rest = text.strip_prefix(prefix).map(|rest| rest.trim_start_matches('#'));
        rest.is_some_and(|rest| rest.starts_with('"'))
    })?;
    let after = &text[prefix.len()..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    let start = prefix.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[start..].find(&end).map_or(text.len(), |found| start + found + end.len()))
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Whether a quote starts a character and not a lifetime.
fn is_character(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

/// A function with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of `fn`, counted from 1.
    pub line: usize,
    /// Lines from `fn` to the closing brace, both included.
    pub lines: usize,
}

/// The functions in masked source, nested ones and those of traits and macros included.
pub fn functions(masked: &str) -> Vec<Function> {
    let mut functions = Vec::new();
    for (at, _) in masked.match_indices("fn ") {
        if masked[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let name = &masked[at + 3..];
        let name = &name[..word_length(name)];
        if name.is_empty() {
            continue;
        }
        if let Some(length) = body_end(&masked[at..]) {
            let line = masked[..at].matches('\n').count() + 1;
            let lines = masked[at..at + length].matches('\n').count() + 1;
            functions.push(Function { name: name.to_owned(), line, lines });
        }
    }
    functions
}

/// Where the body of the function `text` starts with ends; `None` where it has none.
fn body_end(text: &str) -> Option<usize> {
    let (mut brackets, mut braces) = (0i32, 0i32);
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if brackets == 0 && braces == 0 => return None,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 && brackets == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_vanish_and_code_stays() {
        let source = r##"let a = "{ \" //"; // fn x() {
/* { /* nested */ } */ let b = r#"}"#; let c = '{'; let d: &'a str = b"{"; for r in x {}"##;
        let masked = mask(source);
        assert_eq!(masked.matches('{').count(), 1, "{masked}");
        assert_eq!(masked.lines().count(), 2);
        for kept in ["let a =", "let b =", "let c =", "&'a str", "for r in x {}"] {
            assert!(masked.contains(kept), "{kept} in {masked}");
        }
        assert_eq!(mask("'\\''; x"), "    ; x");
    }

    #[test]
    fn functions_are_measured_from_their_first_line_to_their_last() {
        let source = "trait T {\n    fn none(&self) -> [u8; 4];\n}\n\
                      fn one() { }\nfn two(\n    a: [u8; 2],\n) {\n    if x {\n    }\n}\n";
        let found = functions(&mask(source));
        let expected = [("one", 4, 1), ("two", 5, 6)].map(|(name, line, lines)| Function {
            name: name.to_owned(),
            line,
            lines,
        });
        assert_eq!(found, expected);
    }

    #[test]
    fn function_pointers_are_no_functions() {
        assert_eq!(functions("type F = fn (u8); struct S { often: u8 }"), []);
    }
}
