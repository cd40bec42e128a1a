//! What one run is like: everything of it follows from the seed.

use std::time::Duration;

use holdfast_env::sim::Random;

use super::faults::FaultKind;

/// Simulated time under faults, unless said otherwise.
const STORM: Duration = Duration::from_secs(30);

/// The configuration of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes, 3 to 7.
    pub nodes: usize,
    /// Ranges of the keyspace, a power of two, 1 to 16.
    pub ranges: u32,
    /// Clients at work.
    pub clients: usize,
    /// Keys they share.
    pub keys: u64,
    /// Faults are drawn from these.
    pub faults: Vec<FaultKind>,
    /// How long faults go on.
    pub storm: Duration,
    /// Longest pause between two faults.
    pub calm_max: Duration,
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
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Whether the trace's hash covers the network's segments.
    pub is_deep: bool,
}

impl Options {
    /// What `seed` says: a random configuration and a random subset of the faults (swarm).
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x0b71_0e55);
        let nodes = [3, 3, 3, 3, 5, 5, 4, 7][random.below(8) as usize];
        let faults = FaultKind::ALL.into_iter().filter(|_| random.chance(50)).collect::<Vec<_>>();
        Self {
            nodes,
            ranges: 1 << random.below(5),
            clients: 2 + random.below(3) as usize,
            keys: 4 + random.below(28),
            faults: if faults.is_empty() { FaultKind::ALL.to_vec() } else { faults },
            storm: STORM,
            calm_max: Duration::from_millis(500 + random.below(4_000)),
            network_latency_max: Duration::from_millis(2 + random.below(20)),
            disk_latency_max: Duration::from_millis(1 + random.below(8)),
            memtable_bytes: 64 << (10 + random.below(5)),
            segment_bytes: 256 << (10 + random.below(4)),
            retention_bytes: 64 << (10 + random.below(6)),
            value_bytes: 16 << random.below(8),
            is_deep: false,
        }
    }

    /// No faults, three nodes.
    pub fn calm(seed: u64) -> Self {
        Self { nodes: 3, faults: Vec::new(), storm: Duration::from_secs(5), ..Self::of(seed) }
    }
}
