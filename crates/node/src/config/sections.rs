//! One struct per section: units in the names, defaults, bounds.

use std::time::Duration;

use holdfast_model::limits::PEER_MESSAGE_BYTES_MAX;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Most reactors of a node.
pub const REACTORS_MAX: usize = 8;
const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;
const TIB: u64 = 1024 * GIB;

fn within<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: T,
    least: T,
    most: T,
) -> Result<(), ConfigError> {
    if value >= least && value <= most {
        return Ok(());
    }
    Err(ConfigError::invalid(key, format!("between {least} and {most}, given {value}")))
}

/// Identity of the process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSection {
    /// Data directory; created with mode 0700.
    pub data_dir: String,
    /// Failure zone; replicas of a range go to different zones while zones remain.
    pub zone: String,
    /// Share of the ring; 1.0 is usual, 0 takes no replicas.
    pub weight: f64,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self { data_dir: "holdfast-data".into(), zone: String::new(), weight: 1.0 }
    }
}

impl NodeSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        if self.data_dir.is_empty() {
            return Err(ConfigError::invalid("node.data_dir", "must not be empty"));
        }
        within("node.zone", self.zone.len(), 0, 255)?;
        within("node.weight", self.weight, 0.0, 100.0)
    }

    /// The weight in thousandths.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn weight_milli(&self) -> u32 {
        (self.weight * 1000.0).round() as u32
    }
}

/// Addresses it binds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenSection {
    /// Client port (gRPC).
    pub client: String,
    /// Port for other nodes.
    pub peer: String,
    /// HTTP port (metrics, health); empty = off.
    pub http: String,
    /// Allows unencrypted connections on addresses that are not loopback.
    pub insecure: bool,
    /// Most client connections at once.
    pub connections_max: usize,
}

impl Default for ListenSection {
    fn default() -> Self {
        Self {
            client: "127.0.0.1:7401".into(),
            peer: "127.0.0.1:7411".into(),
            http: "127.0.0.1:7421".into(),
            insecure: false,
            connections_max: 10_000,
        }
    }
}

/// Addresses it tells others; empty = the one it listens on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdvertiseSection {
    /// Client port.
    pub client: String,
    /// Peer port.
    pub peer: String,
    /// HTTP port.
    pub http: String,
}

/// The cluster it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSection {
    /// Peer addresses of other nodes, asked where they are known by no other way.
    pub seeds: Vec<String>,
    /// Largest difference of wall clocks assumed between nodes.
    pub max_clock_offset_ms: u64,
    /// Spread leaders over the nodes.
    pub balance_leaders: bool,
}

impl Default for ClusterSection {
    fn default() -> Self {
        Self { seeds: Vec::new(), max_clock_offset_ms: 500, balance_leaders: true }
    }
}

impl ClusterSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("cluster.seeds", self.seeds.len(), 0, 1_000)?;
        within("cluster.max_clock_offset_ms", self.max_clock_offset_ms, 1, 60_000)
    }
}

/// Threads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeSection {
    /// Single-threaded reactors the replicas are spread over; 0 = half the cores, rounded up.
    pub reactors: usize,
    /// Threads for flushes and compactions; 0 = half the cores, rounded up.
    pub job_threads: usize,
}

impl RuntimeSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("runtime.reactors", self.reactors, 0, REACTORS_MAX)?;
        within("runtime.job_threads", self.job_threads, 0, 64)
    }

    /// How many reactors to start on this machine.
    pub fn reactor_count(&self) -> usize {
        let half = half_of_cores();
        if self.reactors == 0 { half.min(REACTORS_MAX) } else { self.reactors }
    }

    /// How many job threads to start on this machine.
    pub fn job_thread_count(&self) -> usize {
        if self.job_threads == 0 { half_of_cores() } else { self.job_threads }
    }
}

fn half_of_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2)
}

/// Consensus timing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftSection {
    /// Interval of a leader's heartbeats.
    pub heartbeat_ms: u64,
    /// Shortest election timeout; also the leader lease.
    pub election_min_ms: u64,
    /// Longest election timeout.
    pub election_max_ms: u64,
}

impl Default for RaftSection {
    fn default() -> Self {
        Self { heartbeat_ms: 250, election_min_ms: 500, election_max_ms: 700 }
    }
}

impl RaftSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("raft.heartbeat_ms", self.heartbeat_ms, 10, 10_000)?;
        within("raft.election_min_ms", self.election_min_ms, 2 * self.heartbeat_ms, 60_000)?;
        within("raft.election_max_ms", self.election_max_ms, self.election_min_ms + 1, 120_000)
    }
}

/// Connections between nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeersSection {
    /// Heartbeats of all ranges to one node wait this long for each other.
    pub heartbeat_batch_ms: u64,
    /// A connection attempt takes at most this long.
    pub connect_timeout_ms: u64,
    /// Longest wait before the next attempt to connect.
    pub reconnect_max_ms: u64,
    /// Rate of all outgoing snapshots together.
    pub snapshot_bytes_per_second: u64,
    /// Snapshots sent at once.
    pub snapshots_out_max: usize,
    /// Snapshots received at once.
    pub snapshots_in_max: usize,
}

impl Default for PeersSection {
    fn default() -> Self {
        Self {
            heartbeat_batch_ms: 20,
            connect_timeout_ms: 1_000,
            reconnect_max_ms: 1_000,
            snapshot_bytes_per_second: 64 * MIB,
            snapshots_out_max: 2,
            snapshots_in_max: 2,
        }
    }
}

impl PeersSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("peers.heartbeat_batch_ms", self.heartbeat_batch_ms, 0, 1_000)?;
        within("peers.connect_timeout_ms", self.connect_timeout_ms, 10, 60_000)?;
        within("peers.reconnect_max_ms", self.reconnect_max_ms, 50, 60_000)?;
        within("peers.snapshot_bytes_per_second", self.snapshot_bytes_per_second, MIB, 100 * GIB)?;
        within("peers.snapshots_out_max", self.snapshots_out_max, 1, 64)?;
        within("peers.snapshots_in_max", self.snapshots_in_max, 1, 64)
    }

    /// [`Self::heartbeat_batch_ms`] as a duration.
    pub fn heartbeat_batch(&self) -> Duration {
        Duration::from_millis(self.heartbeat_batch_ms)
    }
}

/// The shared log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalSection {
    /// Size of one segment file.
    pub segment_bytes: u64,
    /// All segments together.
    pub limit_bytes: u64,
    /// Recent entries kept in memory.
    pub cache_bytes: u64,
    /// Log of one range kept for followers that are down; beyond it they get a snapshot.
    pub retention_range_bytes: u64,
}

impl Default for JournalSection {
    fn default() -> Self {
        Self {
            segment_bytes: 128 * MIB,
            limit_bytes: 4 * GIB,
            cache_bytes: 64 * MIB,
            retention_range_bytes: 64 * MIB,
        }
    }
}

impl JournalSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        // An entry takes a quarter of a segment at most, and every request must fit.
        let segment_least = 4 * PEER_MESSAGE_BYTES_MAX as u64;
        within("journal.segment_bytes", self.segment_bytes, segment_least, GIB)?;
        within("journal.limit_bytes", self.limit_bytes, 4 * self.segment_bytes, 1024 * GIB)?;
        within("journal.cache_bytes", self.cache_bytes, MIB, 64 * GIB)?;
        within(
            "journal.retention_range_bytes",
            self.retention_range_bytes,
            MIB,
            self.limit_bytes / 4,
        )
    }
}

/// The LSM trees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineSection {
    /// A memtable of one tree is sealed at this size.
    pub memtable_bytes: u64,
    /// All memtables of the node together; above it the tree that pins the oldest log is sealed.
    pub memtable_budget_bytes: u64,
    /// Block cache of the node.
    pub cache_bytes: u64,
    /// Filters and indexes kept outside the block cache: about 2.5 bytes per key. What is beyond
    /// goes through the block cache.
    pub index_bytes: u64,
    /// Open table files of the node.
    pub open_files_max: usize,
    /// Bytes flushes may write and compactions may read and write per second, 0 for no limit.
    pub write_bytes_per_second: u64,
    /// Bytes read again per second only to be checked, 0 for none.
    pub scrub_bytes_per_second: u64,
}

impl Default for EngineSection {
    fn default() -> Self {
        Self {
            memtable_bytes: 64 * MIB,
            memtable_budget_bytes: 128 * MIB,
            cache_bytes: 256 * MIB,
            index_bytes: 256 * MIB,
            open_files_max: 1_000,
            write_bytes_per_second: 0,
            scrub_bytes_per_second: 2 * MIB,
        }
    }
}

impl EngineSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("engine.memtable_bytes", self.memtable_bytes, MIB, GIB)?;
        within(
            "engine.memtable_budget_bytes",
            self.memtable_budget_bytes,
            self.memtable_bytes,
            1024 * GIB,
        )?;
        within("engine.cache_bytes", self.cache_bytes, MIB, 1024 * GIB)?;
        within("engine.index_bytes", self.index_bytes, 0, 1024 * GIB)?;
        within("engine.open_files_max", self.open_files_max, 64, 1_000_000)?;
        if self.write_bytes_per_second > 0 {
            let rate = self.write_bytes_per_second;
            within("engine.write_bytes_per_second", rate, MIB, 1024 * GIB)?;
        }
        within("engine.scrub_bytes_per_second", self.scrub_bytes_per_second, 0, GIB)
    }
}

/// Back-pressure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdmissionSection {
    /// Bytes of proposals of all ranges of the node that may be under way.
    pub node_bytes_max: u64,
    /// Bytes of proposals of one range that may be under way.
    pub range_bytes_max: u64,
}

impl Default for AdmissionSection {
    fn default() -> Self {
        Self { node_bytes_max: 256 * MIB, range_bytes_max: 64 * MIB }
    }
}

impl AdmissionSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("admission.range_bytes_max", self.range_bytes_max, 17 * MIB, GIB)?;
        within("admission.node_bytes_max", self.node_bytes_max, self.range_bytes_max, 64 * GIB)
    }
}

/// Free-space watcher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiskSection {
    /// Below this much free space the node refuses growth.
    pub read_only_below_bytes: u64,
    /// Above this much it accepts growth again.
    pub recover_above_bytes: u64,
    /// How often it looks.
    pub check_interval_ms: u64,
}

impl Default for DiskSection {
    fn default() -> Self {
        Self {
            read_only_below_bytes: 512 * MIB,
            recover_above_bytes: 768 * MIB,
            check_interval_ms: 1_000,
        }
    }
}

impl DiskSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("disk.read_only_below_bytes", self.read_only_below_bytes, MIB, 1024 * TIB)?;
        within(
            "disk.recover_above_bytes",
            self.recover_above_bytes,
            self.read_only_below_bytes,
            2048 * TIB,
        )?;
        within("disk.check_interval_ms", self.check_interval_ms, 10, 60_000)
    }
}

/// Logging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// `error`, `warn`, `info` or `debug`, or a list like `info,holdfast_node=debug`.
    pub level: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { level: "info".into() }
    }
}

impl LogSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let known = |part: &str| LEVELS.contains(&part.rsplit('=').next().unwrap_or(part).trim());
        if self.level.split(',').all(known) {
            return Ok(());
        }
        Err(ConfigError::invalid("log.level", format!("no level is called {:?}", self.level)))
    }
}

/// Orderly stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownSection {
    /// Handing over leaders, answering what is under way and flushing take at most this long.
    pub deadline_ms: u64,
}

impl Default for ShutdownSection {
    fn default() -> Self {
        Self { deadline_ms: 10_000 }
    }
}

impl ShutdownSection {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        within("shutdown.deadline_ms", self.deadline_ms, 100, 600_000)
    }
}
