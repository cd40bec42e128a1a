//! What all checkers said about one history.

use std::fmt;

use super::{Checker, Verdict};
use crate::history::History;

/// The verdicts on one history.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Seed of the run.
    pub seed: u64,
    /// Name of each checker with its verdict.
    pub verdicts: Vec<(&'static str, Verdict)>,
    /// Checkers that had less to judge than was asked for: name, judged, demanded.
    pub short: Vec<(&'static str, usize, usize)>,
}

/// Lets every checker judge `history`.
pub fn judge(history: &History, checkers: &[Box<dyn Checker>]) -> Report {
    let verdicts = checkers.iter().map(|checker| (checker.name(), checker.check(history)));
    Report { seed: history.seed, verdicts: verdicts.collect(), short: Vec::new() }
}

impl Report {
    /// Demands that the checker called `name` judged at least `facts`; a run without them is no
    /// evidence, and fails.
    #[must_use]
    pub fn demand(mut self, name: &'static str, facts: usize) -> Self {
        let mut named = self.verdicts.iter().filter(|(known, _)| *known == name);
        let judged = named.find_map(|(_, verdict)| verdict.as_ref().ok().copied());
        if judged.unwrap_or(0) < facts {
            self.short.push((name, judged.unwrap_or(0), facts));
        }
        self
    }

    /// Whether nothing was found and nothing was missing.
    pub fn is_clean(&self) -> bool {
        self.short.is_empty() && self.verdicts.iter().all(|(_, verdict)| verdict.is_ok())
    }

    /// The names of the checkers that did not pass.
    pub fn failed(&self) -> Vec<&'static str> {
        let failed = self.verdicts.iter().filter(|(_, verdict)| verdict.is_err());
        failed.map(|(name, _)| *name).chain(self.short.iter().map(|(name, ..)| *name)).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}:", self.seed)?;
        for (name, verdict) in &self.verdicts {
            match verdict {
                Ok(facts) => write!(f, " {name} {facts};")?,
                Err(finding) => write!(f, "\n  {name}: {finding};")?,
            }
        }
        for (name, judged, demanded) in &self.short {
            write!(f, "\n  {name}: no evidence: {judged} facts of {demanded};")?;
        }
        Ok(())
    }
}
