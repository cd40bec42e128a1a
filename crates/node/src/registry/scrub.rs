//! Reads the files of all engines again, one engine after another, at a byte rate.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use holdfast_env::Clock;
use holdfast_journal::GroupId;
use holdfast_lsm::{Engine, Error, Scrubber};
use parking_lot::Mutex;

/// A step reads what the rate allows in this time.
const STEP: Duration = Duration::from_millis(200);

/// The engines of the node.
pub(super) type Engines = Mutex<BTreeMap<GroupId, Arc<Engine>>>;

/// See the module.
pub(super) struct Scrub {
    bytes_per_second: u64,
    clock: Arc<dyn Clock>,
    // Held while a step reads: one thread scrubs, the others pass.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    at: Option<GroupId>,
    scrubber: Option<Scrubber>,
    /// No step before this moment.
    next: Duration,
}

impl Scrub {
    /// Reads `bytes_per_second`; nothing if that is 0.
    pub(super) fn new(bytes_per_second: u64, clock: Arc<dyn Clock>) -> Self {
        Self { bytes_per_second, clock, state: Mutex::default() }
    }

    /// Reads on, if it is time to. Returns an engine whose files are not what was written.
    pub(super) fn step(&self, engines: &Engines) -> Option<(GroupId, Error)> {
        if self.bytes_per_second == 0 {
            return None;
        }
        let mut state = self.state.try_lock()?;
        let now = self.clock.monotonic();
        if now < state.next {
            return None;
        }
        state.next = now + STEP;
        if state.scrubber.is_none() {
            let (group, engine) = following(&engines.lock(), state.at)?;
            (state.at, state.scrubber) = (Some(group), Some(engine.scrubber()));
        }
        let bytes = self.bytes_per_second.saturating_mul(STEP.as_millis() as u64) / 1_000;
        let outcome = state.scrubber.as_mut()?.step(bytes);
        if !outcome.as_ref().is_ok_and(|step| !step.is_round_done) {
            state.scrubber = None;
        }
        // An engine that was destroyed meanwhile, or a disk that failed: both show elsewhere.
        let error = outcome.err().filter(Error::is_corruption)?;
        state.at.map(|group| (group, error))
    }
}

/// The engine behind `at`, round and round.
fn following(
    engines: &BTreeMap<GroupId, Arc<Engine>>,
    at: Option<GroupId>,
) -> Option<(GroupId, Arc<Engine>)> {
    let behind = at.map_or(Bound::Unbounded, Bound::Excluded);
    let mut later = engines.range((behind, Bound::Unbounded));
    let (group, engine) = later.next().or_else(|| engines.first_key_value())?;
    Some((*group, engine.clone()))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use bytes::Bytes;
    use holdfast_env::Disk;
    use holdfast_env::sim::{SimClock, SimDisk, SimEntropy};
    use holdfast_lsm::{Batch, EngineOptions, Family, ReadPoint, Shared, SharedOptions};
    use holdfast_model::{LogIndex, RangeId, ReplicaId, Revision};

    use super::*;

    fn group(number: u64) -> GroupId {
        GroupId { range: RangeId(number), replica: ReplicaId(number) }
    }

    fn engine(disk: &SimDisk, number: u64) -> (GroupId, Arc<Engine>) {
        let engine = Engine::open(
            Arc::new(disk.clone()),
            Arc::new(SimEntropy::new(number)),
            &dir(number),
            Arc::new(Shared::new(SharedOptions::default()).unwrap()),
            Arc::new(|| u64::MAX),
            EngineOptions::default(),
        )
        .unwrap();
        let mut batch = Batch::new();
        for n in 0..1_000u64 {
            batch.put(Family::Data, Bytes::from(format!("{n:08}")), n + 1, 0, Bytes::from("v"));
        }
        let point = ReadPoint { revision: Revision(1_000), index: LogIndex(1), clock_ms: 0 };
        engine.write(batch, point, 0).unwrap();
        engine.seal();
        while let Some(job) = engine.next_job() {
            job.run().unwrap();
        }
        (group(number), Arc::new(engine))
    }

    fn dir(number: u64) -> PathBuf {
        PathBuf::from(format!("/data/{number}"))
    }

    #[test]
    fn engines_take_turns_at_the_rate_and_damage_of_one_is_told() {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/data")).unwrap();
        let engines: Engines = Mutex::new((1..=3).map(|n| engine(&disk, n)).collect());
        let clock = Arc::new(SimClock::default());
        let scrub = Scrub::new(10_000, clock.clone());
        let read = || engines.lock().values().map(|e| e.stats().scrubbed_bytes).sum::<u64>();
        for _ in 0..10 {
            assert!(scrub.step(&engines).is_none());
        }
        assert_eq!(read(), 2_000, "one step, for the clock stands still");
        for _ in 0..200 {
            clock.advance(STEP);
            assert!(scrub.step(&engines).is_none());
        }
        assert!(read() <= 201 * 2_000);
        assert!(engines.lock().values().all(|e| e.stats().scrub_rounds > 0));
        let table = disk.files(&dir(2)).unwrap().into_keys();
        let table = table.into_iter().find(|p| p.extension().is_some_and(|e| e == "tbl")).unwrap();
        disk.flip_bit(&table, 100, 1).unwrap();
        let told = (0..200).find_map(|_| {
            clock.advance(STEP);
            scrub.step(&engines)
        });
        assert_eq!(told.map(|(group, _)| group), Some(group(2)));
    }

    #[test]
    fn rate_of_zero_reads_nothing() {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/data")).unwrap();
        let engines: Engines = Mutex::new([engine(&disk, 1)].into());
        assert!(Scrub::new(0, Arc::new(SimClock::default())).step(&engines).is_none());
        assert_eq!(engines.lock()[&group(1)].stats().scrubbed_bytes, 0);
    }
}
