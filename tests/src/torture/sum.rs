//! What runs came to.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;

use crate::nemesis::Kind;

/// What one run came to.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Operations that were answered.
    pub operations: usize,
    /// Events that watches delivered.
    pub events: usize,
    /// Nemeses that were there, with what proves it.
    pub proofs: Vec<String>,
    /// How many facts each checker has judged, and found good.
    pub judged: BTreeMap<&'static str, usize>,
}

/// What all runs came to.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    seed: u64,
    runs: usize,
    nemeses: usize,
    operations: usize,
    events: usize,
    judged: BTreeMap<&'static str, usize>,
    failed: Vec<u64>,
    skipped: BTreeMap<String, &'static str>,
}

impl Sum {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub(super) fn skip(&mut self, kind: Kind, why: &'static str) {
        self.skipped.insert(kind.to_string(), why);
    }

    /// Takes in a run; the lines that describe it.
    pub(super) fn add(
        &mut self,
        seed: u64,
        nodes: usize,
        names: &str,
        done: Result<Figures>,
    ) -> String {
        self.runs += 1;
        match done {
            Ok(figures) => {
                self.nemeses += figures.proofs.len();
                self.operations += figures.operations;
                self.events += figures.events;
                let Figures { operations, events, proofs, judged } = figures;
                let counts = format!("{operations} operations, {events} events");
                let proofs = proofs.join("\n    ");
                let run = format!("run {seed}: {nodes} nodes, {names}: good; {counts}");
                let text = format!("{run}\n    {proofs}\n    judged: {}", words(&judged));
                for (name, facts) in judged {
                    *self.judged.entry(name).or_default() += facts;
                }
                text
            }
            Err(error) => {
                self.failed.push(seed);
                format!("run {seed}: {nodes} nodes, {names}: FAILED: {error:#}")
            }
        }
    }

    /// Whether there was a run, and none failed.
    pub fn is_good(&self) -> bool {
        self.runs > 0 && self.failed.is_empty()
    }
}

/// Checkers with what each has judged.
fn words(judged: &BTreeMap<&'static str, usize>) -> String {
    let words: Vec<String> = judged.iter().map(|(name, facts)| format!("{name} {facts}")).collect();
    words.join(", ")
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, why) in &self.skipped {
            write!(f, "skipped {name}: {why}; ")?;
        }
        write!(
            f,
            "torture: {} runs, {} nemeses, {} operations, {} events, {} failed, seed {}; \
             judged: {}",
            self.runs,
            self.nemeses,
            self.operations,
            self.events,
            self.failed.len(),
            self.seed,
            words(&self.judged)
        )?;
        if !self.failed.is_empty() {
            write!(f, "; failed: {:?}", self.failed)?;
        }
        Ok(())
    }
}
