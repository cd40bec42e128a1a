//! The table, for people.

use std::fs;

use super::{Outcome, Part};

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// What it must be.
    pub target: String,
    /// What it is.
    pub figure: String,
    /// Whether that is enough.
    pub is_met: bool,
}

impl Row {
    pub(super) fn new(name: &str, target: &str, figure: String, is_met: bool) -> Self {
        Self { name: name.to_owned(), target: target.to_owned(), figure, is_met }
    }
}

/// What the figures were measured on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Processors.
    pub cores: usize,
    /// Memory, GiB.
    pub memory_gib: u64,
    /// What the processor calls itself.
    pub model: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let kib: u64 = memory.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kib.div_ceil(1 << 20),
            model: field(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
        }
    }
}

/// The page, and how many figures there are and are missed. Rows of another commit than `commit`
/// say so.
pub fn page(
    commit: &str,
    seed: u64,
    machine: &Machine,
    parts: &[(Part, Option<Outcome>)],
) -> (String, usize, usize) {
    let (mut all, mut missed) = (0, 0);
    let mut rows = String::new();
    let mut lines = String::new();
    for (part, outcome) in parts {
        for row in part.rows(outcome.as_ref()) {
            all += 1;
            missed += usize::from(!row.is_met);
            let verdict = if row.is_met { "met" } else { "**missed**" };
            let at = outcome.as_ref().map_or("–", |outcome| outcome.commit.as_str());
            let at = if at == commit { "" } else { at };
            let Row { name, target, figure, .. } = row;
            rows += &format!("| {name} | {target} | {figure} | {verdict} | {at} |\n");
        }
        if let Some(outcome) = outcome {
            let last = outcome.lines.iter().rev().find(|line| !line.trim().is_empty());
            let last = last.map_or("", String::as_str);
            lines += &format!("{} ({} s): {last}\n", part.name, outcome.seconds);
        }
    }
    let Machine { cores, memory_gib, model } = machine;
    let page = format!(
        "# The scorecard\n\nWritten by `make score`. Commit {commit}, seed {seed}, \
         machine: {cores} cores ({model}), {memory_gib} GiB.\n\n\
         | figure | target | measured | | of another commit |\n|---|---|---|---|---|\n{rows}\n\
         The last line of each part:\n\n```\n{lines}```\n"
    );
    (page, all, missed)
}
