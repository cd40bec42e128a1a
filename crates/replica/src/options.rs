//! What a replica is and how it behaves, validated before use.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_env::defect;
use holdfast_model::{ClusterId, NodeId, RangeId, ReplicaId};
use openraft::SnapshotPolicy;

use crate::error::{Error, Result};

/// Payload of one Raft entry or one append at most, bytes; a larger command goes alone.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Entries of one range that may be proposed and not yet applied.
///
/// What waits meanwhile becomes one entry, so that batches grow with the load by themselves. One
/// entry would leave the disk idle while the other half of a round is on the network; more than
/// a few only split what one entry, one append and one sync could carry.
pub const ENTRIES_IN_FLIGHT_MAX: usize = 2;
/// Commands that may wait to be packed, per range.
pub const PROPOSALS_WAITING_MAX: usize = 4_096;
/// Reads that may wait for a round, per range.
pub const READS_WAITING_MAX: usize = 16_384;
/// How much longer than the longest election timeout a restarted voter keeps its vote, percent.
const BOOT_DELAY_MARGIN_PERCENT: u32 = 20;

/// Timings of the Raft group. All replicas of a range must use the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timings {
    /// How often a leader makes itself heard.
    pub heartbeat: Duration,
    /// A follower that has answered an append within this time gets no extra heartbeat.
    pub heartbeat_min: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout; also the leader's lease.
    pub election_max: Duration,
    /// How far apart wall clocks may be and still count as agreeing.
    pub clock_offset_max: Duration,
    /// A replication session without an answer for this long is given up.
    pub session_idle_max: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            heartbeat_min: Duration::from_millis(125),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(700),
            clock_offset_max: Duration::from_millis(500),
            session_idle_max: Duration::from_secs(3),
        }
    }
}

impl Timings {
    /// How long a restarted voter neither votes nor campaigns: it has forgotten what lease it
    /// granted, so it waits until any lease has run out.
    pub fn boot_delay(&self) -> Duration {
        self.election_max * (100 + BOOT_DELAY_MARGIN_PERCENT) / 100
    }

    /// The age of a quorum's answer up to which lease reads are served: three quarters of the
    /// lease, so that clocks may drift apart by 10 % and more.
    pub fn lease_ack_age_max(&self) -> Duration {
        if defect!(LEASE_WITHOUT_DRIFT_MARGIN) {
            return self.election_max;
        }
        self.election_max * 3 / 4
    }
}

/// Options of one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaOptions {
    /// The cluster.
    pub cluster: ClusterId,
    /// This node.
    pub node: NodeId,
    /// The range.
    pub range: RangeId,
    /// This replica; also the journal's group, which must exist.
    pub replica: ReplicaId,
    /// Directory of the engine; snapshots are staged in `staging` beside its files.
    pub dir: PathBuf,
    /// Timings.
    pub timings: Timings,
    /// Bytes of commands of this range that may be under way.
    pub in_flight_bytes_max: u64,
    /// Log kept for followers that are down or behind, bytes; beyond it they get a snapshot.
    pub retention_bytes: u64,
    /// Watches on this replica.
    pub watches_max: usize,
    /// Events buffered for one watch before it falls back to reading history, bytes.
    pub watch_buffer_bytes: usize,
    /// Events buffered for all watches of this replica together, bytes; beyond it a watch gets
    /// what happens live only while its own buffer is empty.
    pub watch_total_bytes: usize,
}

impl ReplicaOptions {
    /// Options of `replica` of `range` on `node`, with defaults for everything else.
    pub fn new(
        cluster: ClusterId,
        node: NodeId,
        range: RangeId,
        replica: ReplicaId,
        dir: PathBuf,
    ) -> Self {
        Self {
            cluster,
            node,
            range,
            replica,
            dir,
            timings: Timings::default(),
            in_flight_bytes_max: 32 << 20,
            retention_bytes: 64 << 20,
            watches_max: 10_000,
            watch_buffer_bytes: 1 << 20,
            watch_total_bytes: 32 << 20,
        }
    }

    /// Checks every option against its bounds.
    ///
    /// # Errors
    /// [`Error::Option`] names the first one that is out of its bounds.
    pub fn validate(&self) -> Result<()> {
        let t = &self.timings;
        let tick = t.heartbeat * 13 / 64;
        let checks = [
            (self.replica.0 != 0, "replica", "not 0"),
            (self.node.0 != 0, "node", "not 0"),
            (t.heartbeat >= Duration::from_millis(10), "heartbeat", "at least 10 ms"),
            (
                t.heartbeat + t.heartbeat_min + tick < t.election_min,
                "election_min",
                "more than heartbeat and heartbeat_min together, with a fifth to spare",
            ),
            (t.election_max > t.election_min, "election_max", "more than election_min"),
            (t.session_idle_max >= t.election_max, "session_idle_max", "at least election_max"),
            (self.in_flight_bytes_max >= 64 << 10, "in_flight_bytes_max", "at least 64 KiB"),
            (self.watches_max > 0, "watches_max", "more than 0"),
            (self.watch_buffer_bytes >= 4 << 10, "watch_buffer_bytes", "at least 4 KiB"),
            (
                self.watch_total_bytes >= self.watch_buffer_bytes,
                "watch_total_bytes",
                "at least watch_buffer_bytes",
            ),
        ];
        for (holds, option, reason) in checks {
            if !holds {
                return Err(Error::Option { option, reason });
            }
        }
        Ok(())
    }

    /// openraft's configuration.
    pub(crate) fn to_raft(&self) -> Result<Arc<openraft::Config>> {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let t = &self.timings;
        let config = openraft::Config {
            cluster_name: format!("{}/{}", self.range, self.replica),
            heartbeat_interval: ms(t.heartbeat),
            heartbeat_min_interval: Some(ms(t.heartbeat_min)),
            election_timeout_min: ms(t.election_min),
            election_timeout_max: ms(t.election_max),
            // Elections wait until the leases of before the start have certainly run out.
            enable_elect: false,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(false),
            allow_log_reversion: None,
            // A leader that is heard, and hears nobody, falls silent for so long that the others
            // elect: its own lease and theirs have run out by then.
            quorum_loss_probe_interval: Some(2 * ms(t.election_max)),
            max_payload_entries: 1_024,
            max_append_entries: Some(1_024),
            replication_lag_threshold: 500,
            // Snapshots and purges happen when the keeper says so, never by openraft's own rule.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX / 2,
            purge_batch_size: 1,
            api_channel_size: Some(4_096),
            api_batch_capacity: 1_024,
            api_batch_linger_ms: 0,
            notification_channel_size: Some(4_096),
            state_machine_channel_size: Some(256),
            install_snapshot_timeout: 600_000,
            ..Default::default()
        };
        let reason = "openraft refuses the timings";
        config.validate().map(Arc::new).map_err(|_| Error::Option { option: "timings", reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ReplicaOptions {
        let (range, replica) = (RangeId(3), ReplicaId(1000));
        ReplicaOptions::new(ClusterId(1), NodeId(1), range, replica, PathBuf::from("x"))
    }

    #[test]
    fn the_defaults_are_valid_for_us_and_for_openraft() {
        options().validate().unwrap();
        options().to_raft().unwrap();
    }

    #[test]
    fn the_boot_delay_outlives_every_lease() {
        let timings = Timings::default();
        assert!(timings.boot_delay() > timings.election_max);
        assert!(timings.lease_ack_age_max() < timings.election_max);
    }

    #[test]
    fn timings_under_which_a_healthy_leader_is_deposed_are_refused() {
        let mut options = options();
        options.timings.heartbeat = Duration::from_millis(400);
        let error = options.validate().unwrap_err();
        assert!(matches!(error, Error::Option { option: "election_min", .. }));
    }
}
