//! One compaction cut into parts by key, which may run at the same time and become one edit.
//!
//! Invariants:
//! * A key belongs to one part, with all its versions and range tombstones cut at its bounds.
//! * Nothing of a part is visible before all are done; what is done of a compaction that fails is
//!   deleted.
//! * The tables are claimed from the first part taken until the last one has ended.
//!
//! Source: RocksDB's subcompactions.

use std::sync::Arc;

use holdfast_env::sync::Mutex;

use crate::generation::Generation;
use crate::jobs::output::Made;
use crate::jobs::pick::Plan;
use crate::read::KeyRange;
use crate::table::FamilyKey;
use crate::tombstone::successor;
use crate::types::Family;

/// Most parts of one compaction.
const PARTS_MAX: u64 = 8;

/// Keys behind `after`, up to and including `upto`; `None` is no bound.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    after: Option<FamilyKey>,
    upto: Option<FamilyKey>,
}

impl Part {
    /// What it has of `family`; `None` if that is nothing.
    pub(crate) fn range(&self, family: Family) -> Option<KeyRange> {
        let mut range = KeyRange::default();
        match &self.after {
            Some(after) if after.family > family => return None,
            Some(after) if after.family == family => range.lower = Some(successor(&after.key)),
            _ => {}
        }
        match &self.upto {
            Some(upto) if upto.family < family => return None,
            Some(upto) if upto.family == family => range.upper = Some(successor(&upto.key)),
            _ => {}
        }
        Some(range)
    }
}

/// What one part has come to.
pub(crate) struct Done {
    pub(crate) made: Made,
    pub(crate) dropped: u64,
}

/// See the module.
pub(crate) struct Split {
    pub(crate) plan: Plan,
    parts: Vec<Part>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// Parts nobody has taken.
    waiting: Vec<usize>,
    running: usize,
    done: Vec<Done>,
    has_failed: bool,
    /// Everything was handed out to become one edit.
    is_complete: bool,
}

impl Split {
    /// Cuts `plan` into parts that read about `part_bytes` each.
    pub(crate) fn new(plan: Plan, part_bytes: u64) -> Self {
        let parts = parts_of(&plan, part_bytes);
        let waiting = (0..parts.len()).rev().collect();
        Self { plan, parts, progress: Mutex::new(Progress { waiting, ..Progress::default() }) }
    }

    /// A part nobody has taken.
    pub(crate) fn take(&self) -> Option<usize> {
        let mut progress = self.progress.lock();
        let part = progress.waiting.pop()?;
        progress.running += 1;
        Some(part)
    }

    pub(crate) fn part(&self, part: usize) -> &Part {
        &self.parts[part]
    }

    /// Bytes one part reads, about.
    pub(crate) fn part_bytes(&self) -> u64 {
        self.plan.bytes() / self.parts.len() as u64
    }

    /// Adds what a part has come to; hands out everything with the last one.
    pub(crate) fn add(&self, done: Done) -> Option<Vec<Done>> {
        let mut progress = self.progress.lock();
        progress.done.push(done);
        progress.is_complete = progress.done.len() == self.parts.len();
        progress.is_complete.then(|| std::mem::take(&mut progress.done))
    }

    /// Gives the compaction up: what is not taken will not be.
    pub(crate) fn fail(&self) {
        let mut progress = self.progress.lock();
        progress.has_failed = true;
        progress.waiting.clear();
    }

    /// A taken part ends; it `was_run` or goes back. With the last one the tables are free again.
    pub(crate) fn leave(self: &Arc<Self>, part: usize, was_run: bool, generation: &Generation) {
        let mut claims = generation.claims.lock();
        let mut progress = self.progress.lock();
        progress.running -= 1;
        if !was_run && !progress.has_failed {
            progress.waiting.push(part);
        }
        let is_untouched = progress.done.is_empty() && progress.waiting.len() == self.parts.len();
        let is_moved = was_run && self.plan.is_move;
        let is_over = progress.has_failed || progress.is_complete || is_moved || is_untouched;
        if progress.running == 0 && is_over {
            claims.splits.retain(|split| !Arc::ptr_eq(split, self));
            self.plan.release(&mut claims);
        }
    }
}

/// Bounds that divide what `plan` reads evenly, as far as the tables' partitions tell.
fn parts_of(plan: &Plan, part_bytes: u64) -> Vec<Part> {
    let count = (plan.bytes() / part_bytes.max(1)).clamp(1, PARTS_MAX);
    if plan.is_move || count == 1 {
        return vec![Part::default()];
    }
    let mut points: Vec<_> = plan.tables().flat_map(|t| t.partition_ends()).collect();
    points.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let share = points.iter().map(|(_, bytes)| bytes).sum::<u64>() / count;
    let mut parts = vec![Part::default()];
    let (mut gathered, last) = (0, points.last().map(|(key, _)| key.clone()));
    for (key, bytes) in points {
        gathered += bytes;
        let is_new = Some(&key) != last.as_ref();
        if gathered >= share && is_new && (parts.len() as u64) < count {
            gathered = 0;
            if let Some(before) = parts.last_mut() {
                before.upto = Some(key.clone());
            }
            parts.push(Part { after: Some(key), upto: None });
        }
    }
    parts
}
