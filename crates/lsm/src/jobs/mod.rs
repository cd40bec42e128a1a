//! Work that needs the disk, handed out to whoever has a thread for it.
//!
//! Owns: what to flush and compact and when, and doing it.
//! Must never know: threads, queues, timers.
//! Invariants:
//! * A table is read by at most one compaction; one job at a time flushes, in the order of sealing.
//! * A job that fails or is dropped leaves the tree as it was and deletes what it wrote.
//! * A job of a generation that was replaced changes nothing.
//! Source: O'Neil et al.; RocksDB's dynamic level sizes (Dong et al., CIDR 2017).

mod compact;
mod flush;
mod output;
mod pick;
mod retain;
mod split;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(crate) use pick::debt_bytes;

use crate::error::Result;
use crate::generation::Generation;
use crate::graveyard::Grave;
use crate::jobs::pick::pick;
pub(crate) use crate::jobs::split::Split;
use crate::memtable::Memtable;
use crate::stats::Counters;
use crate::tree::Tree;

/// What kind of work a [`Job`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Writes a sealed memtable as a table: frees memory and journal.
    Flush,
    /// Merges tables, or a part of them: a large compaction is several jobs.
    Compaction,
    /// Deletes files nobody reads any more.
    Cleaning,
}

/// One piece of work; dropping it instead of running it gives it back.
#[must_use = "a job does nothing until it is run"]
pub struct Job {
    tree: Arc<Tree>,
    work: Work,
}

enum Work {
    Flush(FlushWork),
    Compact(CompactWork),
    Clean(Vec<Grave>),
}

pub(crate) struct FlushWork {
    pub(crate) generation: Arc<Generation>,
    pub(crate) memtable: Arc<Memtable>,
}

pub(crate) struct CompactWork {
    pub(crate) generation: Arc<Generation>,
    pub(crate) split: Arc<Split>,
    pub(crate) part: usize,
    was_run: bool,
}

/// The most urgent work of `tree` nobody has taken yet.
pub(crate) fn next_job(tree: &Arc<Tree>) -> Option<Job> {
    let job = |work| {
        Counters::add(&tree.counters.running_jobs, 1);
        Some(Job { tree: tree.clone(), work })
    };
    // First what takes milliseconds and gives back disk and cache: under steady writing there is
    // always something to compact.
    let graves = tree.home.graveyard.take();
    if !graves.is_empty() {
        return job(Work::Clean(graves));
    }
    if let Some(work) = claim(tree) {
        return job(work);
    }
    if seal_for_space(tree) { claim(tree).and_then(job) } else { None }
}

/// Seals the active memtable where only its deletions stand between dead data and its space:
/// without writes it would never become full, and nothing beyond the durable point can go.
fn seal_for_space(tree: &Tree) -> bool {
    let state = tree.state.load();
    let is_due = state.sealed.is_empty()
        && state.active.is_worth_reclaiming(tree.watermark.load(Ordering::Relaxed));
    if is_due {
        let _writer = tree.writer.lock();
        tree.rotate();
    }
    is_due
}

fn claim(tree: &Arc<Tree>) -> Option<Work> {
    let generation = tree.state.load().version.generation.clone();
    let mut claims = generation.claims.lock();
    // A job gives its claims back after its commit: loaded only now, the state shows every commit
    // whose claims are gone.
    let state = tree.state.load();
    if generation.is_void() || !Arc::ptr_eq(&generation, &state.version.generation) {
        return None;
    }
    if let Some(memtable) = state.sealed.last().filter(|_| !claims.is_flushing)
        && ((tree.durable)() >= memtable.seal().gate
            || holdfast_env::defect!(ENGINE_AHEAD_OF_JOURNAL))
    {
        claims.is_flushing = true;
        let work = FlushWork { generation: generation.clone(), memtable: memtable.clone() };
        return Some(Work::Flush(work));
    }
    let work = |split: &Arc<Split>, part| {
        let (generation, split) = (generation.clone(), split.clone());
        Some(Work::Compact(CompactWork { generation, split, part, was_run: false }))
    };
    let begun = claims.splits.iter().find_map(|split| Some((split, split.take()?)));
    if let Some((split, part)) = begun {
        return work(split, part);
    }
    let watermark = tree.watermark_for(state.version.point);
    let span = tree.span_for(state.version.point);
    let epoch = span.as_ref().map_or(0, |span| span.epoch);
    let looked_at = Some((state.version.number(), watermark, epoch));
    if claims.idle_at == looked_at {
        return None;
    }
    let Some(plan) = pick(&state.version, &tree.options, watermark, span, &claims) else {
        claims.idle_at = looked_at;
        return None;
    };
    plan.claim(&mut claims);
    let split = Arc::new(Split::new(plan, tree.options.compaction_part_bytes));
    let part = split.take()?;
    claims.splits.push(split.clone());
    work(&split, part)
}

impl Job {
    /// What kind of work it is.
    pub fn kind(&self) -> JobKind {
        match &self.work {
            Work::Flush(_) => JobKind::Flush,
            Work::Compact(_) => JobKind::Compaction,
            Work::Clean(_) => JobKind::Cleaning,
        }
    }

    /// Bytes it has to read or write, roughly; 0 for cleaning and moves.
    pub fn bytes(&self) -> u64 {
        match &self.work {
            Work::Flush(work) => work.memtable.bytes(),
            Work::Compact(work) if work.split.plan.is_move => 0,
            Work::Compact(work) => work.split.part_bytes(),
            Work::Clean(_) => 0,
        }
    }

    /// Does the work. Waits for the disk.
    ///
    /// # Errors
    /// [`Error::NoSpace`](crate::Error::NoSpace): nothing changed, wait for space before asking
    /// for jobs again. If [`is_fatal`](crate::Error::is_fatal) the process must stop.
    pub fn run(mut self) -> Result<()> {
        match &mut self.work {
            Work::Flush(work) => flush::run(&self.tree, work),
            Work::Compact(work) => {
                work.was_run = true;
                compact::run(&self.tree, work)
            }
            Work::Clean(graves) => clean(&self.tree, graves),
        }
    }
}

/// Deletes what it can; what failed stays for a later job.
fn clean(tree: &Tree, graves: &mut Vec<Grave>) -> Result<()> {
    while let Some(grave) = graves.last() {
        grave.clear(tree.home.disk.as_ref(), &tree.home.shared)?;
        graves.pop();
    }
    Ok(())
}

impl Drop for Job {
    fn drop(&mut self) {
        self.tree.counters.running_jobs.fetch_sub(1, Ordering::Relaxed);
        match &mut self.work {
            Work::Flush(work) => work.generation.claims.lock().is_flushing = false,
            Work::Compact(CompactWork { generation, split, part, was_run }) => {
                split.leave(*part, *was_run, generation);
            }
            Work::Clean(graves) => {
                for grave in graves.drain(..) {
                    self.tree.home.graveyard.bury(grave);
                }
            }
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("kind", &self.kind()).finish_non_exhaustive()
    }
}
