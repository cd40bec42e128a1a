//! What was found, printed for people or for programs.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::output::Table;

/// Facts, tables and problems, in the order they were found.
#[derive(Debug, Default)]
pub struct Document {
    parts: Vec<Part>,
    problems: Vec<[String; 3]>,
}

#[derive(Debug)]
struct Part {
    title: String,
    facts: Vec<(&'static str, Value)>,
    lists: Vec<List>,
}

/// A table of the document.
#[derive(Debug)]
pub struct List {
    name: &'static str,
    heads: Vec<&'static str>,
    rows: Vec<Vec<Value>>,
}

impl List {
    /// A table without rows.
    pub fn new(name: &'static str, heads: &[&'static str]) -> Self {
        Self { name, heads: heads.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, a cell for each head.
    pub fn row(&mut self, cells: Vec<Value>) {
        debug_assert_eq!(cells.len(), self.heads.len());
        self.rows.push(cells);
    }

    /// Rows so far.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    fn text(&self, limit: usize) -> String {
        let mut table = Table::of(&self.heads);
        for row in self.rows.iter().take(limit) {
            table.row(row.iter().map(plain).collect());
        }
        let left = self.rows.len().saturating_sub(limit);
        let more = if left > 0 { format!("… {left} more (--limit)\n") } else { String::new() };
        format!("\n{}\n{}{more}", self.name, table.render())
    }

    fn json(&self) -> Value {
        let row = |cells: &Vec<Value>| {
            let fields = self.heads.iter().map(|head| (*head).to_owned()).zip(cells.clone());
            Value::Object(fields.collect())
        };
        self.rows.iter().map(row).collect()
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

impl Document {
    /// An empty document about `path`.
    pub fn of(path: &Path) -> Self {
        let mut document = Self::default();
        document.part(path, "inspected");
        document
    }

    /// Begins a part about the file or directory `path`, which is a `kind`.
    pub fn part(&mut self, path: &Path, kind: &str) {
        if self.parts.last().is_some_and(|part| part.facts.is_empty() && part.lists.is_empty()) {
            self.parts.pop();
        }
        let title = format!("{kind} {}", path.display());
        self.parts.push(Part { title, facts: Vec::new(), lists: Vec::new() });
    }

    /// Adds a fact.
    pub fn fact(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(part) = self.parts.last_mut() {
            part.facts.push((name, value.into()));
        }
    }

    /// Adds a table.
    pub fn list(&mut self, list: List) {
        if let Some(part) = self.parts.last_mut() {
            part.lists.push(list);
        }
    }

    /// Adds a finding.
    pub fn problem(&mut self, path: &Path, offset: u64, what: &str) {
        self.problems.push([path.display().to_string(), offset.to_string(), what.to_owned()]);
    }

    /// Whether anything is damaged.
    pub fn is_damaged(&self) -> bool {
        !self.problems.is_empty()
    }

    /// For people; at most `limit` rows of each table.
    pub fn text(&self, limit: usize) -> String {
        let mut out = String::new();
        for part in &self.parts {
            out.push_str(&format!("{}\n", part.title));
            for (name, value) in &part.facts {
                out.push_str(&format!("  {name}: {}\n", plain(value)));
            }
            for list in part.lists.iter().filter(|list| list.len() > 0) {
                out.push_str(&list.text(limit));
            }
            out.push('\n');
        }
        for [path, offset, what] in &self.problems {
            out.push_str(&format!("DAMAGED {path} at byte {offset}: {what}\n"));
        }
        if self.problems.is_empty() {
            out.push_str("no damage found\n");
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> String {
        let part = |part: &Part| {
            let mut fields = Map::new();
            fields.insert("title".into(), json!(part.title));
            for (name, value) in &part.facts {
                fields.insert(name.replace(' ', "_"), value.clone());
            }
            for list in &part.lists {
                fields.insert(list.name.replace(' ', "_"), list.json());
            }
            Value::Object(fields)
        };
        let parts: Vec<_> = self.parts.iter().map(part).collect();
        let problem = |[path, offset, what]: &[String; 3]| {
            let offset: u64 = offset.parse().unwrap_or(0);
            json!({ "file": path, "offset": offset, "what": what })
        };
        let problems: Vec<_> = self.problems.iter().map(problem).collect();
        json!({ "parts": parts, "problems": problems }).to_string()
    }
}
