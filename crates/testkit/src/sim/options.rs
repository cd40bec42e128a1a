//! What one run is like: everything of it follows from the seed.

use std::time::Duration;

use holdfast_env::sim::Random;

use super::faults::FaultKind;
use crate::workload::Kind;

/// Simulated time under faults, unless said otherwise.
const STORM: Duration = Duration::from_secs(30);

/// One of so many seeds is for snapshots …
const SNAPSHOTS_EVERY: u64 = 5;
/// … those with this remainder.
const SNAPSHOTS_AT: u64 = 3;
/// One of so many seeds is for power cuts in the middle of large writes, and another one, among
/// those for snapshots, for transfers that break off …
const AIMED_EVERY: u64 = 10;
/// … the first with this remainder …
const TORN_WRITES_AT: u64 = 4;
/// … the second with this one.
const SNAPSHOT_CUTS_AT: u64 = 8;

/// The configuration of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes, 3 to 7.
    pub nodes: usize,
    /// Ranges of the keyspace, a power of two, 1 to 16.
    pub ranges: u32,
    /// Clients at work, each on a machine of its own.
    pub clients: usize,
    /// What they do.
    pub workloads: Vec<Kind>,
    /// Processes of each kind of work, spread over the clients.
    pub processes: u32,
    /// Keys of each kind of work.
    pub keys: u32,
    /// Longest pause of a process between two calls.
    pub pause_max: Duration,
    /// Faults are drawn from these.
    pub faults: Vec<FaultKind>,
    /// How long faults go on.
    pub storm: Duration,
    /// Longest pause between the beginnings of two faults.
    pub calm_max: Duration,
    /// Most faults at once.
    pub overlap_max: usize,
    /// A segment takes at least 1 ms and at most this on the network.
    pub network_latency_max: Duration,
    /// A piece of work on a disk takes at most this.
    pub disk_latency_max: Duration,
    /// A memtable is sealed at this size.
    pub memtable_bytes: u64,
    /// Size of one segment of the journal.
    pub segment_bytes: u64,
    /// Log kept for followers that are down, per range.
    pub retention_bytes: u64,
    /// Rate of a node's outgoing snapshots.
    pub snapshot_bytes_per_second: u64,
    /// Least bytes of a value, where values may be of any size.
    pub value_bytes: usize,
    /// Whether the trace's hash covers the network's segments.
    pub is_deep: bool,
}

impl Options {
    /// What `seed` says: a random configuration, a random subset of the work and of the faults
    /// (swarm).
    pub fn of(seed: u64) -> Self {
        let options = Self::drawn(seed);
        let is_for_snapshots = seed % SNAPSHOTS_EVERY == SNAPSHOTS_AT;
        let options = if is_for_snapshots { options.with_snapshots() } else { options };
        match seed % AIMED_EVERY {
            TORN_WRITES_AT => options.with_large_writes(),
            SNAPSHOT_CUTS_AT => options.with_slow_snapshots(),
            _ => options,
        }
    }

    /// Writes of the journal span many sectors, and the power goes during some of them.
    fn with_large_writes(self) -> Self {
        Self {
            workloads: vec![Kind::Registers, Kind::Batches],
            pause_max: Duration::from_millis(20),
            value_bytes: 4 << 10,
            ..self.aimed(FaultKind::TornWrite)
        }
    }

    /// The log outgrows what is kept of it within seconds; snapshots take about as long, and some
    /// are interrupted. Few large values: the files of a snapshot outlive the interruption.
    fn with_slow_snapshots(self) -> Self {
        Self {
            ranges: 1,
            processes: 1,
            pause_max: Duration::from_millis(200),
            memtable_bytes: 256 << 10,
            // An entry takes a quarter of a segment at most, and a batch has up to eight values.
            segment_bytes: 1 << 20,
            snapshot_bytes_per_second: 512 << 10,
            value_bytes: 16 << 10,
            ..self.aimed(FaultKind::SnapshotCut)
        }
    }

    /// About one fault of two is of `kind`.
    fn aimed(mut self, kind: FaultKind) -> Self {
        self.faults.extend(vec![kind; self.faults.len()]);
        self
    }

    /// Much is written to few ranges, and little of the log is kept: who was away gets a snapshot.
    fn with_snapshots(self) -> Self {
        Self {
            ranges: self.ranges.min(2),
            workloads: vec![Kind::Registers, Kind::Counters, Kind::Batches],
            processes: 3,
            pause_max: Duration::from_millis(20),
            memtable_bytes: 16 << 10,
            segment_bytes: 256 << 10,
            retention_bytes: 16 << 10,
            value_bytes: 2 << 10,
            ..self
        }
    }

    fn drawn(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x0b71_0e55);
        let nodes = [3, 3, 3, 3, 5, 5, 4, 7][random.below(8) as usize];
        Self {
            nodes,
            ranges: 1 << random.below(5),
            clients: 2 + random.below(3) as usize,
            workloads: with_traffic(subset(&mut random, &Kind::ALL)),
            processes: 1 + random.below(3) as u32,
            keys: 1 + random.below(8) as u32,
            pause_max: Duration::from_millis(20 << random.below(4)),
            faults: subset(&mut random, &usual_faults()),
            storm: STORM,
            calm_max: Duration::from_millis(500 + random.below(4_000)),
            overlap_max: 1 + random.below(4) as usize,
            network_latency_max: Duration::from_millis(2 + random.below(20)),
            disk_latency_max: Duration::from_millis(1 + random.below(8)),
            memtable_bytes: 16 << (10 + random.below(6)),
            segment_bytes: 256 << (10 + random.below(4)),
            retention_bytes: 16 << (10 + random.below(8)),
            snapshot_bytes_per_second: 64 << 20,
            value_bytes: 4 << random.below(8),
            is_deep: false,
        }
    }

    /// What `seed` says, with faults in quick succession: for short runs.
    pub fn brisk(seed: u64) -> Self {
        let mut options = Self::of(seed);
        // Whoever needs a snapshot was away for longer than a short run takes.
        options.faults.retain(|kind| *kind != FaultKind::SnapshotCut);
        let calm_max = options.calm_max.min(Duration::from_millis(1_000));
        Self { calm_max, ..options }
    }

    /// No faults, three nodes, every kind of work.
    pub fn calm(seed: u64) -> Self {
        Self {
            nodes: 3,
            workloads: Kind::ALL.to_vec(),
            faults: Vec::new(),
            storm: Duration::from_secs(5),
            ..Self::of(seed)
        }
    }

    /// Whether reads may rest on clocks: not where clocks may stop.
    pub fn trusts_clocks(&self) -> bool {
        !self.faults.contains(&FaultKind::ClockFreeze)
    }
}

/// Some kinds of work have little to tell where much goes wrong: one that asks all the time is
/// always among them.
fn with_traffic(mut kinds: Vec<Kind>) -> Vec<Kind> {
    let asks_often = |kind: &Kind| matches!(kind, Kind::Registers | Kind::Counters | Kind::Batches);
    if !kinds.iter().any(asks_often) {
        kinds.push(Kind::Registers);
    }
    kinds
}

/// Kinds of faults that any run may have.
fn usual_faults() -> Vec<FaultKind> {
    FaultKind::ALL.iter().copied().filter(|kind| !kind.is_aimed()).collect()
}

/// Each of `all` with one chance in two; all of them rather than none.
fn subset<T: Copy>(random: &mut Random, all: &[T]) -> Vec<T> {
    let drawn: Vec<T> = all.iter().copied().filter(|_| random.chance(50)).collect();
    if drawn.is_empty() { all.to_vec() } else { drawn }
}
