//! A range that lies idle does not keep the node's log from being used again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use holdfast_tests::{Cluster, Options, eventually, http_get, scenario};

const SEGMENT_BYTES: u64 = 68 << 20;
const LIMIT_BYTES: u64 = 8 * SEGMENT_BYTES;
const VALUE_BYTES: usize = 4 << 20;
/// How long flush and purge may take once the log is more than half full.
const LIMIT: Duration = Duration::from_secs(60);

/// The value of the series of node 1 that begins with `name`.
fn figure(cluster: &Cluster, name: &str) -> Result<f64> {
    let page = http_get(&cluster.node(1).http, "/metrics")?.body;
    let line = page.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.rsplit(' ').next());
    Ok(value.with_context(|| format!("no series {name}"))?.parse()?)
}

#[test]
fn an_idle_range_that_pins_the_oldest_segment_is_flushed_and_purged_not_moved() {
    let options = Options::single()
        .set(format!("journal.segment_bytes={SEGMENT_BYTES}"))
        .set(format!("journal.limit_bytes={LIMIT_BYTES}"))
        .set(format!("journal.retention_range_bytes={}", 16 << 20))
        .set("engine.memtable_budget_bytes=2147483648");
    scenario(options, async |cluster| {
        let client = cluster.client().await?.with_deadline(Duration::from_secs(60))?;
        for keyspace in ["idle", "busy"] {
            let create = format!("keyspace create {keyspace} --ranges 1 --history latest");
            cluster.cli().run(&create)?.expect_code(0)?;
        }
        let idle = client.keyspace("idle");
        let value = Bytes::from(vec![b'v'; VALUE_BYTES]);
        for n in 0..4 {
            idle.put(format!("idle/{n}"), value.clone()).await?;
        }
        let range = idle.map().lookup("idle", holdfast_model::position(b"idle/0"))?.id.0;
        let purged = format!("holdfast_range_purged_index{{range=\"{range}\"}}");
        let before = figure(cluster, &purged)?;
        // More than the limit goes through the log, as fast as it is emptied.
        let busy = client.keyspace("busy");
        for n in 0..LIMIT_BYTES * 3 / 2 / VALUE_BYTES as u64 {
            let room = async || {
                let usage = figure(cluster, "holdfast_journal_usage_bytes")?;
                ensure!(usage <= 0.6 * LIMIT_BYTES as f64, "{usage} bytes are in use");
                Ok(())
            };
            eventually(LIMIT, room).await?;
            busy.put(format!("busy/{}", n % 5), value.clone()).await?;
        }
        let now = figure(cluster, &purged)?;
        ensure!(now >= before + 4.0, "range {range} was purged up to {now}, before {before}");
        let freed = figure(cluster, "holdfast_journal_freed_segments_total")?;
        ensure!(freed >= 8.0, "{freed} segments came free");
        let moved = figure(cluster, "holdfast_journal_rewritten_bytes_total")?;
        ensure!(moved < VALUE_BYTES as f64, "{moved} bytes were moved instead");
        for n in 0..4 {
            let found = idle.get(format!("idle/{n}")).await?;
            ensure!(found.is_some_and(|entry| entry.value == value), "value {n} is lost");
        }
        Ok(())
    });
}
