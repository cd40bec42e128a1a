//! Figures that are read when a scrape asks for them, so that keeping them costs nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_env::{Clock, Disk};
use holdfast_journal::{SYNC_TIMES, SyncTimes};
use holdfast_lsm::CompactionStyle;
use holdfast_replica::Role;
use holdfast_runtime::Pool;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use tokio::sync::Semaphore;

use crate::peers::Transport;
use crate::registry::{Registry, role_name};

/// Three elections: a range that shows no sign of life for so long has no leader here.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// Where the figures come from.
#[derive(Clone)]
pub struct Sources {
    /// Replicas, journal, engines.
    pub registry: Registry,
    /// Connections.
    pub transport: Transport,
    /// Free space.
    pub disk: Arc<dyn Disk>,
    /// Of which directory.
    pub data_dir: PathBuf,
    /// Uptime.
    pub clock: Arc<dyn Clock>,
    /// When the node started, on the monotonic clock.
    pub started: Duration,
    /// Threads for calls that block.
    pub pool: Pool,
    /// Free places for client connections.
    pub places: Arc<Semaphore>,
    /// All of them.
    pub places_max: usize,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

type Encoded = Result<(), fmt::Error>;

/// Writes figures one after another.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> Encoded {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn times(&mut self, name: &str, help: &str, times: &SyncTimes) -> Encoded {
        let bounds = SYNC_TIMES.iter().map(Duration::as_secs_f64).chain([f64::MAX]);
        let buckets: Vec<_> = bounds.zip(times.counts).collect();
        let count = times.counts.iter().sum();
        let sum = times.total.as_secs_f64();
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Encoded {
        self.gauge_of(name, help, None, &value)
    }

    fn gauge_of(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: &impl EncodeGaugeValue,
    ) -> Encoded {
        let mut encoder = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        encoder.encode_gauge(value)
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> Encoded {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            encoder.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

impl Collector for Sources {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Encoded {
        let mut page = Page(encoder);
        self.node(&mut page)?;
        self.ranges(&mut page)?;
        self.journal(&mut page)?;
        self.engines(&mut page)
    }
}

impl Sources {
    fn node(&self, page: &mut Page<'_>) -> Encoded {
        let uptime = self.clock.monotonic().saturating_sub(self.started);
        page.gauge("uptime_seconds", "Time since the node started", uptime.as_secs())?;
        let connected = self.transport.connected().len() as u64;
        page.gauge("connected_nodes", "Other nodes that answer now", connected)?;
        let connections = self.places_max.saturating_sub(self.places.available_permits()) as u64;
        page.gauge("client_connections", "Connections of clients", connections)?;
        let queued = self.pool.queued() as u64;
        page.gauge("blocking_queue", "Reads of files and the like that wait for a thread", queued)?;
        let usage = self.registry.usage();
        page.gauge("in_flight_bytes", "Proposals under way", usage.in_flight_bytes)?;
        let full = u64::from(usage.is_disk_full);
        page.gauge("disk_full", "1 while growth is refused for want of space", full)?;
        if let Ok(space) = self.disk.space(&self.data_dir) {
            page.gauge("disk_total_bytes", "Size of the file system", space.total_bytes)?;
            page.gauge("disk_available_bytes", "Free for this process", space.available_bytes)?;
        }
        Ok(())
    }

    fn ranges(&self, page: &mut Page<'_>) -> Encoded {
        let hosted = self.registry.hosted();
        let mut roles: BTreeMap<&'static str, u64> =
            [Role::Leader, Role::Follower, Role::Candidate, Role::Learner, Role::Stopped]
                .into_iter()
                .map(|role| (role_name(role), 0))
                .collect();
        let (mut lags, mut purged) = (Vec::new(), Vec::new());
        let (mut applied, mut revisions) = (Vec::new(), Vec::new());
        let mut unled = 0;
        for hosted in hosted.values() {
            let status = hosted.replica.status();
            *roles.entry(role_name(status.role)).or_insert(0) += 1;
            let is_led = status.leader.is_some() && status.silence <= SILENCE_MAX;
            unled += u64::from(!is_led);
            let range = hosted.group.range.0;
            let last = status.last_log.map_or(0, |index| index.0);
            for (replica, matched) in &status.followers {
                let lag = last.saturating_sub(matched.map_or(0, |index| index.0));
                lags.push(([("range", range), ("replica", replica.0)], lag));
            }
            purged.push(([("range", range)], status.purged.map_or(0, |index| index.0)));
            applied.push(([("range", range)], status.point.index.0));
            revisions.push(([("range", range)], status.point.revision.0));
        }
        let broken = self.registry.broken();
        *roles.entry(role_name(Role::Stopped)).or_insert(0) += broken.len() as u64;
        let failed = broken.keys().map(|g| ([("range", g.range.0), ("replica", g.replica.0)], 1));
        let roles = roles.into_iter().map(|(role, count)| ([("role", role)], count));
        page.gauges("replicas", "Replicas of this node by role", roles)?;
        page.gauges("replica_failed", "1 for a replica that is damaged or cannot run", failed)?;
        page.gauge("ranges_without_leader", "Replicas that hear of no leader", unled)?;
        page.gauges(
            "replication_lag_entries",
            "How far a member is behind the leader, as the leader knows",
            lags,
        )?;
        page.gauges("range_purged_index", "Up to where the log is gone from here", purged)?;
        page.gauges("range_applied_index", "Last log index applied here", applied)?;
        page.gauges("range_revision", "Revision of the range here", revisions)
    }

    fn journal(&self, page: &mut Page<'_>) -> Encoded {
        let journal = self.registry.journal();
        let stats = journal.stats();
        page.gauge("journal_usage_bytes", "Segments in use", journal.usage())?;
        page.gauge("journal_limit_bytes", "What segments may use", journal.limit())?;
        page.gauge("journal_segments", "Segment files in use", stats.segments_used)?;
        page.gauge("journal_spare_segments", "Segment files prepared", stats.segments_spare)?;
        page.gauge("journal_groups", "Replicas with a log", stats.groups)?;
        page.gauge("journal_live_bytes", "Records that are still needed", stats.live_bytes)?;
        page.gauge("journal_queued_bytes", "Records that wait for the disk", stats.queued_bytes)?;
        page.gauge("journal_cached_bytes", "Payloads kept in memory", stats.cached_bytes)?;
        page.counter("journal_records", "Records written", stats.records_written)?;
        page.counter("journal_batches", "Batches written", stats.batches_written)?;
        page.counter("journal_written_bytes", "Bytes written", stats.bytes_written)?;
        page.counter("journal_syncs", "Syncs of segments", stats.syncs)?;
        page.times("journal_sync_duration_seconds", "Time a sync takes", &stats.sync_times)?;
        page.counter("journal_marks", "Marks written after bursts", stats.marks_written)?;
        page.counter("journal_freed_segments", "Segments freed", stats.segments_freed)?;
        page.counter("journal_rewritten_records", "Live records moved", stats.rewritten_records)?;
        page.counter("journal_rewritten_bytes", "Bytes of them", stats.rewritten_bytes)
    }

    fn engines(&self, page: &mut Page<'_>) -> Encoded {
        let memory = self.registry.memory().stats();
        page.gauge("memtable_bytes", "Memory of all memtables", memory.memtable_bytes)?;
        page.gauge("block_cache_bytes", "Memory of the block cache", memory.cache_bytes)?;
        page.gauge("open_table_files", "Table files held open", memory.open_files)?;
        page.counter(
            "blocks_read",
            "Blocks read because they were not cached",
            memory.blocks_read,
        )?;
        let mut total = holdfast_lsm::Stats::default();
        let (mut table_bytes, mut tiered) = (0, 0u64);
        for hosted in self.registry.hosted().values() {
            let stats = hosted.engine.stats();
            let style = hosted.engine.options().compaction_style;
            tiered += u64::from(style == CompactionStyle::Tiered);
            table_bytes += stats.level_bytes.iter().sum::<u64>() + stats.blob_bytes;
            total.sealed_memtables += stats.sealed_memtables;
            total.records += stats.records;
            total.garbage_records += stats.garbage_records;
            total.range_tombstones += stats.range_tombstones;
            total.debt_bytes += stats.debt_bytes;
            total.filter_bytes += stats.filter_bytes;
            total.index_bytes += stats.index_bytes;
            total.filter_checks += stats.filter_checks;
            total.filter_useful += stats.filter_useful;
            total.flushes += stats.flushes;
            total.flushed_bytes += stats.flushed_bytes;
            total.compactions += stats.compactions;
            total.compaction_parts += stats.compaction_parts;
            total.compacted_bytes_in += stats.compacted_bytes_in;
            total.compacted_bytes_out += stats.compacted_bytes_out;
            total.dropped_records += stats.dropped_records;
        }
        page.gauge("table_bytes", "Size of all tables", table_bytes)?;
        page.gauge("tiered_replicas", "Replicas with tiered tables", tiered)?;
        page.gauge("table_records", "Records in all tables", total.records)?;
        page.gauge("table_garbage_records", "Records nobody reads", total.garbage_records)?;
        page.gauge("range_tombstones", "Pieces in all tables", total.range_tombstones)?;
        page.gauge("flush_queue", "Memtables that wait for a flush", total.sealed_memtables)?;
        page.gauge("compaction_debt_bytes", "Bytes still to be compacted", total.debt_bytes)?;
        page.gauge("filter_bytes", "Memory of filters", total.filter_bytes)?;
        page.gauge("index_bytes", "Memory of indexes", total.index_bytes)?;
        page.counter("filter_checks", "Times a filter was asked", total.filter_checks)?;
        page.counter("filter_useful", "Times it spared a look", total.filter_useful)?;
        page.counter("flushes", "Memtables flushed", total.flushes)?;
        page.counter("flushed_bytes", "Bytes flushes wrote", total.flushed_bytes)?;
        page.counter("compactions", "Compactions done", total.compactions)?;
        page.counter("compaction_parts", "Jobs these were cut into", total.compaction_parts)?;
        page.counter("compacted_in_bytes", "Bytes compactions read", total.compacted_bytes_in)?;
        page.counter("compacted_out_bytes", "Bytes compactions wrote", total.compacted_bytes_out)?;
        page.counter("dropped_records", "Records left out for good", total.dropped_records)
    }
}
