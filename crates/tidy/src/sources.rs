//! The files of the repository.

use std::fs;
use std::path::{Path, PathBuf};

/// Names that hold no sources: what git, cargo, proptest and local clusters write.
const SKIPPED: [&str; 4] = [".git", "target", ".cluster", "proptest-regressions"];

/// Text files by ending; files without an ending are read too.
const TEXT: [&str; 9] = ["rs", "toml", "md", "proto", "yml", "yaml", "sh", "lock", "json"];

/// A text file of the repository.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Its path from the root, with forward slashes.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl SourceFile {
    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether it is Rust of a crate itself, not of its integration tests or build script.
    pub fn is_crate_source(&self) -> bool {
        self.is_rust() && self.path.starts_with("crates/") && self.path.contains("/src/")
    }

    /// The folder under `crates/` it belongs to, or the first folder of its path.
    pub fn crate_name(&self) -> &str {
        let path = self.path.strip_prefix("crates/").unwrap_or(&self.path);
        path.split('/').next().unwrap_or(path)
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_owned()
}

/// All text files, sorted by path.
///
/// # Panics
/// If the repository cannot be read.
pub fn sources() -> Vec<SourceFile> {
    let root = root();
    let mut files = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder).expect("the repository is readable");
        for entry in entries {
            let path = entry.expect("the repository is readable").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if SKIPPED.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_none_or(|end| TEXT.iter().any(|text| end == *text)) {
                files.extend(read(&root, &path));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The file, if it is text.
fn read(root: &Path, path: &Path) -> Option<SourceFile> {
    let text = String::from_utf8(fs::read(path).ok()?).ok()?;
    let relative = path.strip_prefix(root).unwrap_or(path);
    Some(SourceFile { path: relative.to_string_lossy().replace('\\', "/"), text })
}

/// A line of an allow-list: what is allowed, and why (or how much).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// What is allowed.
    pub what: String,
    /// The rest of the line.
    pub reason: String,
}

/// The lines of `allow/<name>.txt`: the first word is what is allowed, the rest the reason.
///
/// # Panics
/// If there is no such list, or a line gives no reason.
pub fn allowed(name: &str) -> Vec<Allowed> {
    let path = root().join("crates/tidy/allow").join(name).with_extension("txt");
    let text = fs::read_to_string(&path).expect("the allow-list is there");
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let parse = |line: &str| {
        let (what, reason) = line.split_once(' ').expect("an exception has a reason");
        Allowed { what: what.to_owned(), reason: reason.trim().to_owned() }
    };
    lines.map(parse).collect()
}
