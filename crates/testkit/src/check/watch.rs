//! Watches: the nine promises, each with its validator.
//!
//! | promise | what must hold |
//! |---|---|
//! | filter | only events that were asked for |
//! | ordered | revisions of a range never go back |
//! | unique | no event twice, resumption included |
//! | atomic | one revision in one batch |
//! | bookmarkable | a batch says how far it goes, and nothing older comes after it |
//! | resumable | nothing from before the start, or from before where the last watch ended |
//! | reliable | everything between start and bookmark that is known to have happened |
//! | previous | the entry before is the one that stood there |
//! | continuous | each version of a key follows the one before it, whichever range held it |

use std::collections::{BTreeMap, BTreeSet};

use super::log::{Log, Version};
use super::{Checker, Finding, Verdict};
use crate::history::{Batch, Change, Event, History, Watch};

/// Most watches that may follow each other.
const RESUMPTIONS_MAX: usize = 10_000;

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watches;

/// A watch with everything it and those it resumes delivered.
struct Chain<'h> {
    watch: &'h Watch,
    /// Of the watches before it, in order.
    earlier: Vec<&'h Batch>,
    /// Its own.
    batches: Vec<&'h Batch>,
    /// First revisions its first ancestor asked for; none: from `since` on.
    from: Option<u64>,
    /// When its first ancestor had been started.
    since: u64,
}

type Validator = fn(&Chain<'_>, &Log<'_>) -> Result<(), String>;

const VALIDATORS: [(&str, Validator); 9] = [
    ("filter", filter),
    ("ordered", ordered),
    ("unique", unique),
    ("atomic", atomic),
    ("bookmarkable", bookmarkable),
    ("resumable", resumable),
    ("reliable", reliable),
    ("previous", previous),
    ("continuous", continuous),
];

/// The names of the validators; a violation begins with that of the one that found it.
pub fn validator_names() -> impl Iterator<Item = &'static str> {
    VALIDATORS.iter().map(|(name, _)| *name)
}

impl Checker for Watches {
    fn name(&self) -> &'static str {
        "watches"
    }

    fn check(&self, history: &History) -> Verdict {
        let chains = chains(history)?;
        let mut judged = 0;
        // What these find would also contradict the log: they come first.
        let early = VALIDATORS.iter().take(6);
        let empty = Log::of_nothing();
        for (name, validator) in early {
            chains.iter().try_for_each(|chain| named(name, validator(chain, &empty)))?;
        }
        let log = Log::of(history)?;
        for chain in &chains {
            for (name, validator) in VALIDATORS.iter().skip(6) {
                named(name, validator(chain, &log))?;
            }
            judged += chain.batches.iter().map(|batch| batch.events.len()).sum::<usize>();
        }
        Ok(judged)
    }
}

fn named(name: &str, verdict: Result<(), String>) -> Result<(), Finding> {
    verdict.map_err(|what| Finding::Violation(format!("{name}: {what}")))
}

fn chains(history: &History) -> Result<Vec<Chain<'_>>, Finding> {
    let watches: BTreeMap<u64, &Watch> = history.watches().map(|w| (w.id, w)).collect();
    let mut batches: BTreeMap<u64, Vec<&Batch>> = BTreeMap::new();
    for batch in history.batches() {
        if !watches.contains_key(&batch.watch) {
            return Err(Finding::Undecided(format!("no watch was started for {batch:?}")));
        }
        batches.entry(batch.watch).or_default().push(batch);
    }
    let mut chains = Vec::new();
    for watch in watches.values().copied() {
        let (mut first, mut ancestors) = (watch, Vec::new());
        while let Some(before) = first.resumes {
            first = *watches
                .get(&before)
                .filter(|_| ancestors.len() < RESUMPTIONS_MAX)
                .ok_or_else(|| Finding::Undecided(format!("where does it resume? {watch:?}")))?;
            ancestors.push(first.id);
        }
        let earlier = ancestors.iter().rev().filter_map(|id| batches.get(id)).flatten();
        chains.push(Chain {
            watch,
            earlier: earlier.copied().collect(),
            batches: batches.get(&watch.id).cloned().unwrap_or_default(),
            from: first.from,
            since: first.at,
        });
    }
    Ok(chains)
}

impl<'h> Chain<'h> {
    fn all(&self) -> impl Iterator<Item = &'h Batch> {
        self.earlier.iter().chain(&self.batches).copied()
    }

    fn events(&self) -> impl Iterator<Item = (u64, &'h Event)> {
        self.all().flat_map(|batch| batch.events.iter().map(move |event| (batch.range, event)))
    }
}

fn filter(chain: &Chain<'_>, _: &Log<'_>) -> Result<(), String> {
    for event in chain.batches.iter().flat_map(|batch| &batch.events) {
        if !chain.watch.wants(&event.key, event.is_delete()) {
            return Err(format!("{event:?} was not asked for by {:?}", chain.watch));
        }
    }
    Ok(())
}

fn ordered(chain: &Chain<'_>, _: &Log<'_>) -> Result<(), String> {
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for (range, event) in chain.events() {
        let known = last.entry(range).or_default();
        if event.revision() < *known {
            return Err(format!("{event:?} after revision {known} of range {range}"));
        }
        *known = event.revision();
    }
    Ok(())
}

fn unique(chain: &Chain<'_>, _: &Log<'_>) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (range, event) in chain.events() {
        if !seen.insert((range, event.revision(), event.key.as_str())) {
            return Err(format!("{event:?} twice from range {range}"));
        }
    }
    Ok(())
}

fn atomic(chain: &Chain<'_>, _: &Log<'_>) -> Result<(), String> {
    let mut last: BTreeMap<u64, u64> = BTreeMap::new();
    for batch in chain.all() {
        let (Some(first), Some(end)) = (batch.events.first(), batch.events.last()) else {
            continue;
        };
        if let Some(known) = last.insert(batch.range, end.revision())
            && known == first.revision()
        {
            return Err(format!("revision {known} of range {} was split", batch.range));
        }
    }
    Ok(())
}

fn bookmarkable(chain: &Chain<'_>, _: &Log<'_>) -> Result<(), String> {
    let mut reached: BTreeMap<u64, u64> = BTreeMap::new();
    for batch in chain.all() {
        let known = reached.entry(batch.range).or_default();
        if batch.revision < *known {
            return Err(format!("{batch:?} goes back behind {known}"));
        }
        for event in &batch.events {
            if event.revision() <= *known {
                return Err(format!("{event:?} after everything up to {known} had come"));
            }
            if event.revision() > batch.revision {
                return Err(format!("{event:?} in a batch up to {}", batch.revision));
            }
        }
        *known = batch.revision;
    }
    Ok(())
}

/// Up to where the watches before had followed each range.
fn reached(batches: &[&Batch]) -> BTreeMap<u64, u64> {
    let mut reached: BTreeMap<u64, u64> = BTreeMap::new();
    for batch in batches {
        let known = reached.entry(batch.range).or_default();
        *known = batch.revision.max(*known);
    }
    reached
}

fn resumable(chain: &Chain<'_>, _: &Log<'_>) -> Result<(), String> {
    let start = reached(&chain.earlier);
    for batch in &chain.batches {
        let after = start.get(&batch.range).copied();
        let after = after.unwrap_or_else(|| chain.from.unwrap_or(0).saturating_sub(1));
        if let Some(event) = batch.events.iter().find(|event| event.revision() <= after) {
            return Err(format!("{event:?} though it begins after {after}"));
        }
    }
    Ok(())
}

fn reliable(chain: &Chain<'_>, log: &Log<'_>) -> Result<(), String> {
    let seen: BTreeSet<(u64, u64, &str)> = chain
        .events()
        .map(|(range, event)| (range, event.revision(), event.key.as_str()))
        .collect();
    let all: Vec<&Batch> = chain.all().collect();
    for (range, upto) in reached(&all) {
        let Some(of_range) = log.ranges.get(&range) else { continue };
        let from = chain.from.unwrap_or(0);
        if from > upto {
            continue;
        }
        for (key, versions) in &of_range.keys {
            let due = versions.range(from..=upto).map(|(_, version)| version);
            let mut missed = due.filter(|version| {
                chain.watch.wants(key, version.item.is_none())
                    && is_due(chain, log, version)
                    && !seen.contains(&(range, version.revision, key.as_str()))
            });
            if let Some(version) = missed.next() {
                return Err(format!(
                    "{:?} followed range {range} up to {upto} without {key} {version:?}",
                    chain.watch
                ));
            }
        }
    }
    Ok(())
}

/// Whether a change lies after the beginning of a watch.
fn is_due(chain: &Chain<'_>, log: &Log<'_>, version: &Version) -> bool {
    chain.from.is_some()
        || version.maker.is_some_and(|maker| log.operations[maker].call > chain.since)
}

fn previous(chain: &Chain<'_>, log: &Log<'_>) -> Result<(), String> {
    for batch in &chain.batches {
        for event in &batch.events {
            if let Change::Put(item) = &event.change
                && (item.version == 1) != (item.create == item.revision)
            {
                return Err(format!("new or not? {event:?}"));
            }
            if !chain.watch.previous {
                continue;
            }
            let versions = log.ranges.get(&batch.range).and_then(|r| r.keys.get(&event.key));
            let before = versions.and_then(|v| v.range(..event.revision()).next_back());
            let stood = before.and_then(|(_, version)| version.item.as_ref());
            if event.previous.as_ref().map(|item| item.revision) != stood.map(|i| i.revision) {
                return Err(format!("{event:?}, where {stood:?} stood"));
            }
        }
    }
    Ok(())
}

fn continuous(chain: &Chain<'_>, _: &Log<'_>) -> Result<(), String> {
    if chain.watch.no_puts || chain.watch.no_deletes {
        return Ok(());
    }
    let mut last: BTreeMap<&str, &Change> = BTreeMap::new();
    for (_, event) in chain.events() {
        let before = last.insert(&event.key, &event.change);
        let fits = match (before, &event.change) {
            (None, _) | (Some(Change::Put(_)), Change::Delete(_)) => true,
            (Some(Change::Delete(_)), Change::Put(item)) => item.version == 1,
            (Some(Change::Delete(_)), Change::Delete(_)) => false,
            (Some(Change::Put(old)), Change::Put(item)) => {
                item.version == old.version + 1 && item.create == old.create
            }
        };
        if !fits {
            return Err(format!("{event:?} does not follow {before:?}"));
        }
    }
    Ok(())
}
