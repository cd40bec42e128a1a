//! The scorecard: every figure of its first column, measured by a command that ends in one line.
//!
//! ```text
//!  part ── command ── last lines, kept in target/score/PART.txt ── figures ── latest.md
//! ```
//!
//! Owns: which commands there are, what their last lines must say, the table.
//! Must never know: how anything is measured.
//! Invariants:
//! * A figure that its line does not contain is missed.
//! * Every figure is judged by what its line says, and how each command ended by a row of its own:
//!   what failed is missed somewhere.
//! * Every row says at which commit it was measured; rows of another commit are marked.

mod parts;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

pub use parts::{Part, parts};
pub use table::{Machine, Row, page};

/// Last lines of a part's output that are kept.
const LINES_KEPT: usize = 40;

/// What a part's command came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// At which commit.
    pub commit: String,
    /// How long it took.
    pub seconds: u64,
    /// Whether it ended well.
    pub is_good: bool,
    /// The last lines of its output.
    pub lines: Vec<String>,
}

impl Outcome {
    fn text(&self) -> String {
        let head = format!("{} {} {}\n", self.commit, self.seconds, self.is_good);
        self.lines.iter().fold(head, |text, line| text + line + "\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut head = lines.next()?.split(' ');
        let commit = head.next()?.to_owned();
        let seconds = head.next()?.parse().ok()?;
        let is_good = head.next()?.parse().ok()?;
        Some(Self { commit, seconds, is_good, lines: lines.map(str::to_owned).collect() })
    }

    /// The last line that contains `mark`.
    pub fn line(&self, mark: &str) -> Option<&str> {
        self.lines.iter().rev().map(String::as_str).find(|line| line.contains(mark))
    }
}

fn place(folder: &Path, part: &Part) -> PathBuf {
    folder.join(format!("{}.txt", part.name))
}

/// Runs the command of `part` in `root` and keeps what it came to in `folder`.
///
/// # Errors
/// If it cannot be started, or its outcome cannot be kept.
pub fn measure(root: &Path, folder: &Path, part: &Part, commit: &str) -> Result<Outcome> {
    let began = Instant::now();
    let mut command = Command::new("bash");
    // One stream: what went wrong stands beside what was done.
    command.arg("-c").arg(format!("exec 2>&1; {}", part.command)).current_dir(root);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let output = child.with_context(|| part.command.clone())?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let kept = lines.len().saturating_sub(LINES_KEPT);
    let outcome = Outcome {
        commit: commit.to_owned(),
        seconds: began.elapsed().as_secs(),
        is_good: output.status.success(),
        lines: lines.get(kept..).unwrap_or_default().to_vec(),
    };
    fs::create_dir_all(folder)?;
    fs::write(place(folder, part), outcome.text())?;
    fs::write(folder.join(format!("{}.log", part.name)), text)?;
    Ok(outcome)
}

/// What the command of `part` came to the last time.
pub fn known(folder: &Path, part: &Part) -> Option<Outcome> {
    Outcome::parse(&fs::read_to_string(place(folder, part)).ok()?)
}

/// The number that stands before `word` in `line`: `before("3 runs, 1,204 events", "events")` is
/// 1204. Words between them do not count.
pub fn before(line: &str, word: &str) -> Option<f64> {
    let (head, _) = line.split_once(&format!(" {word}"))?;
    let number = head.rsplit([' ', '(', '/']).next()?;
    number.replace(',', "").parse().ok()
}

/// The number that stands after `word` in `line`.
pub fn after(line: &str, word: &str) -> Option<f64> {
    let (_, tail) = line.split_once(&format!("{word} "))?;
    tail.split([' ', ',', ';', ')']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_beside_their_words_and_nowhere_else() {
        let line = "torture: 24 runs, 48 nemeses, 210,114 operations, 0 failed, seed 7";
        assert_eq!(before(line, "operations"), Some(210_114.0));
        assert_eq!(before(line, "failed"), Some(0.0));
        assert_eq!(before(line, "events"), None);
        assert_eq!(after(line, "seed"), Some(7.0));
        assert_eq!(after("kill p50 812 ms p99 1400 ms", "kill p50"), Some(812.0));
        assert_eq!(before("8/8 defects caught", "defects caught"), Some(8.0));
    }

    #[test]
    fn an_outcome_is_read_back_as_it_was_kept() {
        let lines = vec!["a b".to_owned(), "c".to_owned()];
        let outcome = Outcome { commit: "abc".to_owned(), seconds: 7, is_good: true, lines };
        assert_eq!(Outcome::parse(&outcome.text()), Some(outcome));
    }
}
