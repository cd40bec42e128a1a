//! A node that has missed more than the log keeps: it is sent a snapshot, over a line so thin that
//! something can happen while the files arrive.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use holdfast_client::{Client, ReadLevel};

use super::disk::{damage, files};
use super::{Field, Kind, Nemesis, Proof};

/// Values that are written while the node is away: several times what the log keeps.
const VALUES: usize = 48;
/// Length of each.
const VALUE_BYTES: usize = 128 << 10;
/// What of a snapshot may arrive in a second.
const BYTES_PER_SECOND: u32 = 1 << 20;
/// How long it may take until the log no longer has what the node needs, and until it has
/// caught up, other faults' traces included.
const LIMIT: Duration = Duration::from_secs(60);
/// How long files may take to arrive.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);
/// What requests are given.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) fn of(kind: Kind) -> Box<dyn Nemesis> {
    Box::new(Snapshot {
        is_damage: kind == Kind::CorruptSnapshot,
        node: 0,
        seen: 0,
        range: 0,
        written: 0,
        client: None,
    })
}

struct Snapshot {
    /// Whether a file is damaged as it arrives; else the node is killed then.
    is_damage: bool,
    node: usize,
    /// The last entry it had.
    seen: u64,
    range: u64,
    written: usize,
    /// In a keyspace of its own.
    client: Option<Client>,
}

fn value(random: u64) -> Bytes {
    // Nothing that compresses: as much travels as was written.
    let words =
        (0..VALUE_BYTES as u64 / 8).map(|n| (n ^ random).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_le_bytes).collect()
}

impl Snapshot {
    fn client(&self) -> Result<&Client> {
        self.client.as_ref().context("it was installed")
    }

    async fn last_index(&self, field: &Field<'_>, i: usize) -> Result<u64> {
        let replicas = field.cluster.status(i).await?.replicas;
        let own = replicas.into_iter().find(|replica| replica.range_id == self.range);
        Ok(own.context("no replica there")?.last_log_index)
    }

    /// Up to where the log of the range is gone wherever it may come from.
    async fn purged(&self, field: &Field<'_>) -> Result<u64> {
        let leader = field.cluster.leader(self.range).await?;
        let text = crate::http_get(&field.cluster.node(leader).http, "/metrics")?.body;
        let label = format!("range=\"{}\"", self.range);
        let is_it =
            |line: &&str| line.starts_with("holdfast_range_purged_index") && line.contains(&label);
        let line = text.lines().find(is_it).context("the range tells nothing of its log")?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    }

    /// Files of the snapshot that have begun to arrive.
    fn arriving(&self, field: &Field<'_>) -> Vec<PathBuf> {
        let ranges = field.cluster.node(self.node).data().join("ranges");
        // They come and go while one looks.
        let all = files(&ranges).unwrap_or_default();
        let is_staged = |path: &PathBuf| {
            let mut parts = path.strip_prefix(&ranges).into_iter().flatten();
            let first = parts.next().map(|part| part.to_string_lossy().into_owned());
            first.is_some_and(|first| {
                first.starts_with(&format!("{}-", self.range)) && first.contains(".staging")
            })
        };
        let has_some = |path: &PathBuf| fs::metadata(path).is_ok_and(|about| about.len() > 0);
        all.into_iter().filter(is_staged).filter(has_some).collect()
    }

    fn cap(&self, field: &Field<'_>, rate: Option<u32>) {
        let others = (1..=field.cluster.size()).filter(|i| *i != self.node);
        others.for_each(|i| {
            field.cluster.links().change(i, self.node, |rule| rule.bytes_per_second = rate);
        });
    }

    /// Strikes when something has arrived; what it struck.
    async fn strike(&self, field: &mut Field<'_>) -> Result<String> {
        let arrived = crate::eventually(ARRIVAL_LIMIT, async || {
            let files = self.arriving(field);
            ensure!(!files.is_empty(), "nothing of a snapshot arrives at node {}", self.node);
            Ok(files)
        });
        let files = arrived.await?;
        if !self.is_damage {
            field.cluster.node_mut(self.node).kill()?;
            field.cluster.node_mut(self.node).start()?;
            return Ok(format!("killed with {} files staged", files.len()));
        }
        for file in &files {
            if damage(file, &mut field.random)? {
                return Ok("a staged file was damaged".to_owned());
            }
        }
        anyhow::bail!("nothing was damaged of {files:?}")
    }

    /// Waits until the node itself shows everything.
    async fn catches_up(&self, field: &Field<'_>) -> Result<()> {
        let name = self.client()?.keyspace_name().to_owned();
        let endpoint = field.cluster.node(self.node).client.clone();
        let direct = Client::builder([endpoint]).direct(true).connect().await?.keyspace(&name);
        crate::eventually(LIMIT, async || {
            for n in 0..self.written {
                let get = direct.get(format!("k{n}")).level(ReadLevel::Linearizable);
                let entry = get.send().await?.entry.with_context(|| format!("k{n} is missing"))?;
                ensure!(entry.value == value(n as u64), "k{n} is another one");
            }
            Ok(())
        })
        .await
    }
}

#[async_trait(?Send)]
impl Nemesis for Snapshot {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        let name = format!("snapshot-{:x}", field.random.u64());
        let admin = field.client.with_deadline(LIMIT)?;
        let replicas = u32::try_from(field.cluster.size())?;
        admin.cluster().create_keyspace(&name, 1, replicas, None).await?;
        let client = admin.keyspace(&name).with_deadline(DEADLINE)?;
        let (leader, range) = field.cluster.leader_of(&client, "k0").await?;
        let away = field.free().into_iter().find(|node| *node != leader);
        let away = away.context("no follower is free")?;
        ensure!(field.take_this(away), "node {away} is not free");
        (self.node, self.range) = (away, range);
        self.seen = self.last_index(field, away).await?;
        field.cluster.node_mut(away).kill()?;
        for n in 0..VALUES {
            client.put(format!("k{n}"), value(n as u64)).await?;
            self.written += 1;
        }
        self.client = Some(client);
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        let is_gone = crate::eventually(LIMIT, async || {
            let purged = self.purged(field).await?;
            ensure!(purged > self.seen, "purged up to {purged}, the node has {}", self.seen);
            Ok(purged)
        });
        let purged = is_gone.await?;
        self.cap(field, Some(BYTES_PER_SECOND));
        field.cluster.node_mut(self.node).start()?;
        let struck = self.strike(field).await;
        self.cap(field, None);
        let struck = struck?;
        field.cluster.answers(self.node).await?;
        self.catches_up(field).await.context("after a snapshot")?;
        field.give_back(&[self.node]);
        let admin = field.client.with_deadline(LIMIT)?;
        admin.cluster().drop_keyspace(self.client()?.keyspace_name()).await?;
        let words = format!(
            "node {} had {}, the log was gone up to {purged}; {struck}; it has all {} values",
            self.node, self.seen, self.written
        );
        Ok(Proof::of(purged > self.seen && self.written > 0, words))
    }
}
