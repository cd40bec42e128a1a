//! Merging of sources into one table, and the search for the key that was meant.

use serde::Deserialize;
use toml::{Table, Value};

use super::{Config, ConfigError};

/// Prefix of environment variables that are configuration; the section follows, then `__`.
const ENVIRONMENT_PREFIX: &str = "HOLDFAST_";
/// A suggestion further away than this many edits would not help.
const SUGGESTION_EDITS_MAX: usize = 4;

/// Where values come from; later ones win.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Name and text of the file, if there is one.
    pub file: Option<(String, String)>,
    /// The process environment; only `HOLDFAST_SECTION__KEY` is looked at.
    pub environment: Vec<(String, String)>,
    /// `section.key=value`, as given to `--set`.
    pub sets: Vec<String>,
    /// Sections of the crates above this one, each a table of every key with its default. What is
    /// given for them ends up in [`Config::others`]; their owners check it.
    pub others: Table,
}

pub(super) fn parse(sources: &Sources) -> Result<Config, ConfigError> {
    let known = known_keys(&sources.others);
    let mut merged = Table::new();
    if let Some((name, text)) = &sources.file {
        let table: Table = text
            .parse()
            .map_err(|e: toml::de::Error| syntax(name, e.to_string().trim_end().to_owned()))?;
        check_known(name, &table, &known)?;
        for (section, keys) in table {
            merge_section(&mut merged, &section, keys);
        }
    }
    for (name, text) in &sources.environment {
        let Some((section, key)) = environment_key(name) else { continue };
        put(&mut merged, name, &section, &key, text, &known)?;
    }
    for set in &sources.sets {
        let origin = format!("--set {set}");
        let (path, text) = set
            .split_once('=')
            .ok_or_else(|| syntax(&origin, "write it as section.key=value".into()))?;
        let (section, key) = path
            .trim()
            .split_once('.')
            .ok_or_else(|| syntax(&origin, "write it as section.key=value".into()))?;
        put(&mut merged, &origin, section, key, text, &known)?;
    }
    let mut others = sources.others.clone();
    for (section, defaults) in &mut others {
        if let (Value::Table(defaults), Some(Value::Table(given))) =
            (defaults, merged.remove(section))
        {
            defaults.extend(given);
        }
    }
    let own = Config::deserialize(Value::Table(merged)).map_err(|e| {
        ConfigError::invalid(String::new(), e.to_string().trim_end().replace('\n', " "))
    })?;
    Ok(Config { others, ..own })
}

fn syntax(origin: &str, problem: String) -> ConfigError {
    ConfigError::Syntax { origin: origin.to_owned(), problem }
}

fn merge_section(merged: &mut Table, section: &str, keys: Value) {
    match (merged.get_mut(section), keys) {
        (Some(Value::Table(old)), Value::Table(new)) => old.extend(new),
        (_, keys) => {
            merged.insert(section.to_owned(), keys);
        }
    }
}

/// `HOLDFAST_RAFT__HEARTBEAT_MS` is `raft.heartbeat_ms`; one without `__` belongs to someone else.
fn environment_key(name: &str) -> Option<(String, String)> {
    let (section, key) = name.strip_prefix(ENVIRONMENT_PREFIX)?.split_once("__")?;
    Some((section.to_lowercase(), key.to_lowercase()))
}

fn put(
    merged: &mut Table,
    origin: &str,
    section: &str,
    key: &str,
    text: &str,
    known: &[(String, Value)],
) -> Result<(), ConfigError> {
    let path = format!("{section}.{key}");
    let Some((_, default)) = known.iter().find(|(name, _)| *name == path) else {
        return Err(unknown(origin, &path, known));
    };
    // A text value needs no quotes outside a file; everything else is TOML.
    let value = if default.is_str() {
        Value::String(unquoted(text.trim()).to_owned())
    } else {
        let line: Table = format!("value = {text}")
            .parse()
            .map_err(|_| syntax(origin, format!("`{path}`: {text:?} is not a value for it")))?;
        line.get("value").cloned().unwrap_or(Value::Boolean(false))
    };
    let mut table = Table::new();
    table.insert(key.to_owned(), value);
    merge_section(merged, section, Value::Table(table));
    Ok(())
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text)
}

/// Every key with its default, dotted.
fn known_keys(others: &Table) -> Vec<(String, Value)> {
    let mut table = Table::try_from(Config::default()).unwrap_or_default();
    table.extend(others.clone());
    let mut keys = Vec::new();
    for (section, values) in table {
        if let Value::Table(values) = values {
            keys.extend(values.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
        }
    }
    keys
}

fn check_known(origin: &str, table: &Table, known: &[(String, Value)]) -> Result<(), ConfigError> {
    for (section, values) in table {
        let Value::Table(values) = values else {
            return Err(unknown(origin, section, known));
        };
        if values.is_empty() && !known.iter().any(|(k, _)| k.starts_with(&format!("{section}."))) {
            return Err(unknown(origin, section, known));
        }
        for key in values.keys() {
            let path = format!("{section}.{key}");
            if !known.iter().any(|(name, _)| *name == path) {
                return Err(unknown(origin, &path, known));
            }
        }
    }
    Ok(())
}

fn unknown(origin: &str, path: &str, known: &[(String, Value)]) -> ConfigError {
    let nearest = known
        .iter()
        .map(|(name, _)| (edits(path, name), name))
        .min()
        .filter(|(distance, _)| *distance <= SUGGESTION_EDITS_MAX)
        .map(|(_, name)| name.clone());
    ConfigError::UnknownKey { origin: origin.to_owned(), key: path.to_owned(), nearest }
}

/// Levenshtein distance of two short names.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, above) in b.iter().zip(row.iter().skip(1)) {
            let replaced = diagonal + usize::from(x != *y);
            left = replaced.min(left + 1).min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_insertions_deletions_and_replacements() {
        for (a, b, distance) in
            [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("flaw", "lawn", 2)]
        {
            assert_eq!(edits(a, b), distance, "{a} {b}");
        }
    }
}
