//! What a journal must answer, as plain maps; and random work done on both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::Entropy;
use holdfast_env::sim::SimEntropy;
use holdfast_journal::{Done, Entry, Error, GroupId, Journal, LogPosition};

use crate::rig::{Rig, at, group};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelGroup {
    descriptor: Bytes,
    vote: Option<Bytes>,
    purged: Option<LogPosition>,
    entries: BTreeMap<u64, Entry>,
}

pub type Model = BTreeMap<GroupId, ModelGroup>;

/// One piece of random work; what it means depends on the state it meets.
#[derive(Clone, Copy, Debug)]
pub struct Op {
    pub kind: u8,
    pub group: u8,
    pub argument: u16,
}

/// `count` pieces of work from `seed`.
pub fn ops(seed: u64, count: usize) -> Vec<Op> {
    let entropy = SimEntropy::new(seed);
    let op = |_| {
        let random = entropy.u64();
        Op { kind: random as u8, group: (random >> 8) as u8, argument: (random >> 16) as u16 }
    };
    (0..count).map(op).collect()
}

/// A journal, its model, and the model after every change so far.
pub struct World {
    pub rig: Rig,
    pub model: Model,
    pub history: Vec<Model>,
    /// How many changes are acknowledged.
    pub acknowledged: Arc<AtomicUsize>,
    replicas: u64,
}

impl World {
    pub fn new(rig: Rig) -> Self {
        let history = vec![Model::new()];
        Self { rig, model: Model::new(), history, acknowledged: Arc::default(), replicas: 0 }
    }

    /// The callback of the next `changes`.
    fn done(&self, changes: usize) -> Done {
        let acknowledged = Arc::clone(&self.acknowledged);
        let change = self.history.len() + changes - 1;
        Box::new(move |result| {
            if result.is_ok() {
                acknowledged.fetch_max(change, Ordering::SeqCst);
            }
        })
    }

    /// Does one piece of work; errors are those of the disk.
    pub fn apply(&mut self, op: Op) -> holdfast_journal::Result<()> {
        let argument = u64::from(op.argument);
        match op.kind % 32 {
            0..=9 => return self.rig.writer.step().map(drop),
            10..=11 => {
                self.rig.clock.advance(Duration::from_millis(1 + argument % 12));
                return self.rig.writer.step().map(drop);
            }
            _ => {}
        }
        let keys: Vec<GroupId> = self.model.keys().copied().collect();
        let Some(&g) = keys.get(usize::from(op.group) % keys.len().max(1)) else {
            return self.create();
        };
        let done = self.done(1);
        let journal = &self.rig.journal;
        let state = self.model.get_mut(&g).unwrap();
        match op.kind % 32 {
            12 if keys.len() < 6 => return self.create(),
            13 if argument.is_multiple_of(4) => {
                journal.destroy_group(g, done)?;
                self.model.remove(&g);
            }
            14..=16 => {
                let vote = Bytes::from(vec![op.argument as u8; 1 + usize::from(op.argument % 64)]);
                journal.save_vote(g, vote.clone(), done)?;
                state.vote = Some(vote);
            }
            17..=18 => {
                let (first, next) = state.bounds();
                let keep = first + argument % (next - first + 1);
                journal.truncate_after(g, keep.checked_sub(1), done)?;
                state.entries.split_off(&keep);
            }
            19..=22 => {
                let (first, next) = state.bounds();
                // Now and then beyond the end, as after a snapshot.
                let upto = first + argument % (next - first + 2);
                let upto = at(journal.position(g, upto).map_or(9, |p| p.term), upto);
                journal.purge(g, upto)?;
                if state.purged.is_none_or(|purged| purged.index < upto.index) {
                    state.entries = state.entries.split_off(&(upto.index + 1));
                    state.purged = Some(upto);
                }
            }
            23..=24 => {
                let (first, _) = state.bounds();
                journal.save_committed(g, at(1, first))?;
                return Ok(());
            }
            _ => return self.append(g, op.argument),
        }
        self.history.push(self.model.clone());
        Ok(())
    }

    fn create(&mut self) -> holdfast_journal::Result<()> {
        self.replicas += 1;
        let descriptor = Bytes::from(format!("replica {}", self.replicas));
        self.rig.journal.create_group(group(self.replicas), descriptor.clone(), self.done(1))?;
        let state = ModelGroup { descriptor, ..ModelGroup::default() };
        self.model.insert(group(self.replicas), state);
        self.history.push(self.model.clone());
        Ok(())
    }

    fn append(&mut self, g: GroupId, argument: u16) -> holdfast_journal::Result<()> {
        let (_, next) = self.model[&g].bounds();
        let size = match argument % 16 {
            0 => 3000,
            small => usize::from(small) * 40,
        };
        let last_term = self.model[&g].entries.values().last().map_or(1, |e| e.position.term);
        let term = last_term + u64::from(argument.is_multiple_of(3));
        let fresh = (next..next + 1 + u64::from(argument / 16 % 4)).map(|index| Entry {
            position: at(term, index),
            payload: Bytes::from(vec![(argument as u8).wrapping_add(index as u8); size]),
        });
        let fresh: Vec<Entry> = fresh.collect();
        match self.rig.journal.append(g, fresh.clone(), self.done(fresh.len())) {
            Err(Error::Full { .. }) => return self.rig.writer.step().map(drop),
            result => result?,
        }
        // Entries of one append may be parted by a crash.
        for entry in fresh {
            let state = self.model.get_mut(&g).unwrap();
            state.entries.insert(entry.position.index, entry);
            self.history.push(self.model.clone());
        }
        Ok(())
    }
}

impl ModelGroup {
    /// The first index held or to come, and the index to come.
    fn bounds(&self) -> (u64, u64) {
        let start = self.purged.map_or(1, |purged| purged.index + 1);
        let next = self.entries.keys().last().map_or(start, |last| last + 1);
        (start, next)
    }

    /// Whether the journal answers for `g` what the model does.
    pub fn matches(&self, journal: &Journal, g: GroupId) -> bool {
        let (start, next) = self.bounds();
        let last = self.entries.values().last().map(|e| e.position).or(self.purged);
        let state = journal.log_state(g);
        journal.descriptor(g) == Some(self.descriptor.clone())
            && journal.vote(g) == self.vote
            && (state.purged, state.last) == (self.purged, last)
            && self.entries.iter().all(|(i, e)| journal.position(g, *i) == Some(e.position))
            && journal.read(g, start..next, u64::MAX).ok()
                == Some(self.entries.values().cloned().collect::<Vec<_>>())
    }
}

/// Whether the journal answers what the model does, for all groups.
pub fn matches(model: &Model, journal: &Journal) -> bool {
    journal.groups() == model.keys().copied().collect::<Vec<_>>()
        && model.iter().all(|(g, state)| state.matches(journal, *g))
}
