//! Replicas that have applied the same entries hold the same.

use std::collections::BTreeMap;

use super::{Checker, Finding, Verdict};
use crate::history::{History, Record, StateHash};

/// See the module. Judges pairs: a hash that only one replica gave says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplicaHashes;

impl Checker for ReplicaHashes {
    fn name(&self) -> &'static str {
        "hashes"
    }

    fn check(&self, history: &History) -> Verdict {
        let mut known: BTreeMap<(u64, u64), &StateHash> = BTreeMap::new();
        let mut judged = 0;
        for record in &history.records {
            let Record::StateHash(given) = record else { continue };
            let other = *known.entry((given.range, given.index)).or_insert(given);
            if other.hash != given.hash {
                return Err(Finding::Violation(format!("{other:?} and {given:?} differ")));
            }
            judged += usize::from(other.replica != given.replica);
        }
        Ok(judged)
    }
}
