//! `/metrics`: every figure is documented, and every figure moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_client::{Client, ReadLevel};
use holdfast_tests::{Cluster, Options, eventually, http_get, scenario, shared};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

const DOCUMENT: &str = include_str!("../../../config/metrics.md");
/// What says how things are set up; it must not be 0, and does not move.
const CONSTANT: [&str; 3] =
    ["holdfast_build", "holdfast_disk_total_bytes", "holdfast_journal_limit_bytes"];
/// Most time the figures of one phase are given to move.
const PATIENCE: Duration = Duration::from_secs(100);
/// Keys that are overwritten again and again, and how large their values are.
const HEAVY_KEYS: usize = 6;
const HEAVY_BYTES: usize = 4 << 20;
/// Life of the keys that expire together, in such numbers that their due times are cut as a span.
const BRIEF: Duration = Duration::from_secs(1);

/// One page: the type of every family, and the value of every series with its family.
#[derive(Debug, Default)]
struct Page {
    types: BTreeMap<String, String>,
    series: BTreeMap<String, (String, f64)>,
}

impl Page {
    fn parse(text: &str) -> Result<Self> {
        let mut page = Self::default();
        let mut family = String::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(declared) = line.strip_prefix("# TYPE ") {
                let (name, kind) = declared.split_once(' ').context("a type without a name")?;
                name.clone_into(&mut family);
                page.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (series, value) = line.rsplit_once(' ').context("a sample without a value")?;
                ensure!(series.starts_with(&family), "{series} stands under {family}");
                page.series.insert(series.to_owned(), (family.clone(), value.parse()?));
            }
        }
        Ok(page)
    }

    fn of(address: &str) -> Result<Self> {
        let answer = http_get(address, "/metrics")?;
        ensure!(answer.status == 200, "{answer:?}");
        ensure!(answer.body.trim_end().ends_with("# EOF"), "not a whole page");
        Self::parse(&answer.body)
    }
}

/// The rows of the document: metric, type, unit, meaning.
fn documented() -> Result<BTreeMap<String, String>> {
    let mut rows = BTreeMap::new();
    for line in DOCUMENT.lines().filter(|line| line.starts_with("| `holdfast_")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, unit, meaning, _] = cells.as_slice() else {
            anyhow::bail!("a row of other columns: {line}");
        };
        ensure!(!meaning.is_empty() && (!unit.is_empty() || *kind == "info"), "{line}");
        rows.insert(name.trim_matches('`').to_owned(), (*kind).to_owned());
    }
    Ok(rows)
}

#[test]
fn the_document_lists_every_metric_with_its_type_and_no_other() {
    shared(async |cluster| {
        // The family of errors has no series before the first error.
        cluster.cli_at(1).run("--direct --keyspace missing get k")?.expect_code(2)?;
        let page = Page::of(&cluster.node(1).http)?;
        let documented = documented()?;
        for (name, kind) in &page.types {
            let row = documented.get(name);
            ensure!(row == Some(kind), "{name} is a {kind}; the document has {row:?}");
        }
        let unknown: Vec<_> =
            documented.keys().filter(|name| !page.types.contains_key(*name)).collect();
        ensure!(unknown.is_empty(), "documented and not there: {unknown:?}");
        Ok(())
    });
}

/// What has been seen to move, over all pages of all nodes.
#[derive(Debug, Default)]
struct Moved {
    /// The first value of every series, by node.
    first: BTreeMap<String, BTreeMap<String, f64>>,
    families: BTreeSet<String>,
    moved: BTreeSet<String>,
}

impl Moved {
    fn see(&mut self, node: &str, page: Page) {
        self.families.extend(page.types.into_keys());
        let is_first = !self.first.contains_key(node);
        let seen = self.first.entry(node.to_owned()).or_default();
        for (series, (family, value)) in page.series {
            // A series that was not there stood at 0.
            let first = *seen.entry(series).or_insert(if is_first { value } else { 0.0 });
            let is_set_up = CONSTANT.contains(&family.as_str()) && value > 0.0;
            if is_set_up || value.to_bits() != first.to_bits() {
                self.moved.insert(family);
            }
        }
    }

    /// Reads the pages of all nodes that answer.
    fn look(&mut self, cluster: &Cluster, nodes: usize) {
        for i in 1..=nodes {
            let address = &cluster.node(i).http;
            if let Ok(page) = Page::of(address) {
                self.see(address, page);
            }
        }
    }

    fn missing(&self) -> Vec<&String> {
        self.families.difference(&self.moved).collect()
    }

    fn has(&self, families: &[&str]) -> bool {
        families.iter().all(|family| self.moved.contains(*family))
    }
}

/// Overwrites large values and reads small ones that lie in tables, from many tasks at once,
/// until told to stop: memtables fill, are flushed and compacted, the journal turns over.
fn load(client: &Client, stop: &Arc<AtomicBool>) -> JoinSet<Result<()>> {
    let mut tasks = JoinSet::new();
    for n in 0..HEAVY_KEYS {
        let (client, stop) = (client.clone(), stop.clone());
        tasks.spawn(async move {
            let value = bytes::Bytes::from(vec![b'v'; HEAVY_BYTES]);
            while !stop.load(Ordering::Relaxed) {
                client.put(format!("heavy/{n}"), value.clone()).await?;
            }
            Ok(())
        });
    }
    for n in 0..64 {
        let (client, stop) = (client.clone(), stop.clone());
        tasks.spawn(async move {
            let mut i = n;
            while !stop.load(Ordering::Relaxed) {
                client.put(format!("light/{}", i % 2_000), "x".repeat(500)).await?;
                client.get(format!("light/{}", (i * 7) % 2_000)).await?;
                client.get(format!("light/{i}/missing")).level(ReadLevel::Follower).await?;
                client.put(format!("brief/{i}"), "x").ttl(BRIEF).await?;
                i += 64;
            }
            Ok(())
        });
    }
    tasks
}

/// What only a node with much to do shows.
const STORAGE: [&str; 32] = [
    "holdfast_blocking_queue",
    "holdfast_in_flight_bytes",
    "holdfast_disk_available_bytes",
    "holdfast_range_purged_index",
    "holdfast_journal_usage_bytes",
    "holdfast_journal_segments",
    "holdfast_journal_spare_segments",
    "holdfast_journal_freed_segments",
    "holdfast_journal_queued_bytes",
    "holdfast_journal_rewritten_records",
    "holdfast_journal_rewritten_bytes",
    "holdfast_memtable_bytes",
    "holdfast_block_cache_bytes",
    "holdfast_open_table_files",
    "holdfast_blocks_read",
    "holdfast_table_bytes",
    "holdfast_tiered_replicas",
    "holdfast_table_records",
    "holdfast_table_garbage_records",
    "holdfast_flush_queue",
    "holdfast_compaction_debt_bytes",
    "holdfast_filter_bytes",
    "holdfast_index_bytes",
    "holdfast_filter_checks",
    "holdfast_filter_useful",
    "holdfast_flushes",
    "holdfast_flushed_bytes",
    "holdfast_compactions",
    "holdfast_compaction_parts",
    "holdfast_range_tombstones",
    "holdfast_compacted_in_bytes",
    "holdfast_dropped_records",
];

/// A node under load, then one whose disk counts as full.
async fn move_storage(cluster: &mut Cluster, moved: &mut Moved) -> Result<()> {
    let client = cluster.client().await?.with_deadline(Duration::from_secs(30))?;
    let create = cluster.cli().run("keyspace create load --ranges 1 --history latest")?;
    create.expect_code(0)?;
    moved.look(cluster, 1);
    let create = cluster.cli().run("keyspace create runs --ranges 1 --compaction tiered")?;
    create.expect_code(0)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = load(&client.keyspace("load"), &stop);
    let end = Instant::now() + PATIENCE;
    while !moved.has(&STORAGE) && Instant::now() < end {
        moved.look(cluster, 1);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    let still: Vec<_> = STORAGE.iter().filter(|name| !moved.moved.contains(**name)).collect();
    ensure!(still.is_empty(), "never moved under load: {still:?}");
    let node = cluster.node_mut(1);
    node.stop().await?;
    let full = ["--set", "disk.read_only_below_bytes=1000000000000000"];
    let good = ["--set", "disk.recover_above_bytes=2000000000000000"];
    node.set_arguments(full.into_iter().chain(good).map(str::to_owned).collect());
    node.start()?;
    cluster.answers(1).await?;
    eventually(PATIENCE, async || {
        moved.look(cluster, 1);
        ensure!(moved.has(&["holdfast_disk_full"]), "a full disk is not said");
        Ok(())
    })
    .await
}

/// Inverts every byte of the tables of range 8 on node 3.
fn damage(cluster: &Cluster) -> Result<()> {
    let mut damaged = 0;
    for replica in std::fs::read_dir(cluster.node(3).data().join("ranges"))? {
        let replica = replica?;
        if !replica.file_name().to_string_lossy().starts_with("8-") {
            continue;
        }
        for file in std::fs::read_dir(replica.path().join("gen-0000000001"))? {
            let path = file?.path();
            if path.extension().is_some_and(|kind| kind == "tbl") {
                let bytes = std::fs::read(&path)?;
                std::fs::write(&path, bytes.iter().map(|byte| !byte).collect::<Vec<u8>>())?;
                damaged += 1;
            }
        }
    }
    ensure!(damaged > 0, "range 8 has no table");
    Ok(())
}

/// Three nodes that are damaged and lost one after another.
async fn move_cluster(cluster: &mut Cluster, moved: &mut Moved) -> Result<()> {
    let client = cluster.client().await?;
    moved.look(cluster, 3);
    let watch = client.watch_prefix("metrics/").start().await?;
    cluster.cli_at(1).run("--direct --keyspace missing get k")?.expect_code(2)?;
    moved.look(cluster, 3);
    drop(watch);
    cluster.node_mut(3).stop().await?;
    damage(cluster)?;
    cluster.node_mut(3).start()?;
    cluster.answers(3).await?;
    eventually(PATIENCE, async || {
        moved.look(cluster, 3);
        ensure!(moved.has(&["holdfast_replica_failed"]), "a damaged replica is not said");
        Ok(())
    })
    .await?;
    cluster.node_mut(3).kill()?;
    let cluster = &*cluster;
    let moved = Mutex::new(moved);
    eventually(PATIENCE, async || {
        client.put("metrics/k", "v").await?;
        let mut moved = moved.lock().await;
        moved.look(cluster, 2);
        let lost = ["holdfast_connected_nodes", "holdfast_replication_lag_entries"];
        ensure!(moved.has(&lost), "a lost node is not said");
        Ok(())
    })
    .await
}

#[test]
fn every_metric_moves() {
    let mut moved = Moved::default();
    let small = Options::single()
        .set("engine.memtable_bytes=1048576")
        .set("engine.memtable_budget_bytes=8388608")
        .set("engine.cache_bytes=1048576")
        .set("journal.retention_range_bytes=1048576")
        .set("disk.check_interval_ms=50");
    scenario(small, async |cluster| move_storage(cluster, &mut moved).await);
    scenario(Options::nodes(3), async |cluster| {
        move_cluster(cluster, &mut moved).await?;
        cluster.node_mut(2).kill()?;
        eventually(PATIENCE, async || {
            moved.look(cluster, 1);
            let missing = moved.missing();
            ensure!(missing.is_empty(), "never moved: {missing:?}");
            Ok(())
        })
        .await
    });
}

/// Every metric a text names, without the endings of samples.
fn named(text: &str) -> BTreeSet<&str> {
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let names = text.split(|c| !is_name(c)).filter(|word| word.starts_with("holdfast_"));
    let endings = ["_total", "_bucket", "_count", "_sum"];
    names
        .map(|name| endings.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name))
        .collect()
}

#[test]
fn alerts_and_dashboard_name_no_metric_that_does_not_exist() -> Result<()> {
    let documented = documented()?;
    let alerts = include_str!("../../../config/alerts.yml");
    let dashboard = include_str!("../../../config/grafana.json");
    let parsed: serde_json::Value = serde_json::from_str(dashboard)?;
    ensure!(parsed["panels"].as_array().is_some_and(|panels| !panels.is_empty()));
    for (file, text) in [("alerts.yml", alerts), ("grafana.json", dashboard)] {
        let named = named(text);
        ensure!(named.len() > 5, "{file} names only {named:?}");
        let unknown: Vec<_> =
            named.into_iter().filter(|name| !documented.contains_key(*name)).collect();
        ensure!(unknown.is_empty(), "{file} names {unknown:?}");
    }
    Ok(())
}
