//! What the closed loop does against a cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use holdfast_client::{Client, Operation, ReadLevel};
use holdfast_model::{History, Revision};
use holdfast_wire::v1;

use crate::admin;
use crate::args::{BenchArgs, Workload};
use crate::bench::driver::{self, Outcome, Random};

/// How many fills are under way at once.
const FILL_CONCURRENCY: usize = 64;
/// Keys of one batch of a bulk fill, and how many batches are under way at once.
const BULK_KEYS: u64 = 1_000;
const BULK_CONCURRENCY: usize = 16;
/// Longest a batch of a bulk fill may take, pushed back by the nodes as they need.
const BULK_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for a keyspace to be created.
const CREATE_LIMIT: Duration = Duration::from_secs(60);

/// Different beginnings of a value.
const NOISE_BYTES: usize = 64 << 10;

/// Bytes of which every second four are random.
fn noise(bytes: usize) -> Bytes {
    let mut random = Random::new(1);
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        noise.extend_from_slice(&random.next().to_le_bytes()[..4]);
        noise.extend_from_slice(b"abcd");
    }
    noise.into()
}

/// Name of a workload in tables.
pub fn name(workload: Workload) -> &'static str {
    match workload {
        Workload::Put => "put",
        Workload::Get => "get linearizable",
        Workload::GetLease => "get lease",
        Workload::GetFollower => "get follower",
        Workload::Mixed => "mixed 90/10",
        Workload::Cas => "cas",
        Workload::Suite => "suite",
        Workload::Restart => "restart",
        Workload::Expiry => "expiry",
    }
}

/// Creates a keyspace and waits until it serves.
///
/// # Errors
/// Those of the cluster.
pub async fn create_keyspace(
    endpoints: &[String],
    name: &str,
    ranges: u32,
    history: History,
) -> Result<()> {
    let first = endpoints.first().ok_or_else(|| anyhow!("no endpoint"))?;
    let mut client = admin::connect(first, CREATE_LIMIT).await?;
    let (name, history) = (name.to_owned(), Some(history.into()));
    let request =
        v1::CreateKeyspaceRequest { name: name.clone(), ranges, history, ..Default::default() };
    client
        .create_keyspace(admin::within(CREATE_LIMIT, request))
        .await
        .map_err(|s| anyhow!("{name}: {}", s.message()))?;
    healthy(endpoints, &name).await
}

/// Drops a keyspace and waits until its replicas are gone.
///
/// # Errors
/// Those of the cluster.
pub async fn drop_keyspace(endpoints: &[String], name: &str) -> Result<()> {
    let first = endpoints.first().ok_or_else(|| anyhow!("no endpoint"))?;
    let mut client = admin::connect(first, CREATE_LIMIT).await?;
    let request = v1::DropKeyspaceRequest { name: name.to_owned() };
    client
        .drop_keyspace(admin::within(CREATE_LIMIT, request))
        .await
        .map_err(|s| anyhow!("{name}: {}", s.message()))?;
    healthy(endpoints, name).await
}

/// Waits until every range is led and followed after a change of the keyspace `name`.
async fn healthy(endpoints: &[String], name: &str) -> Result<()> {
    let end = std::time::Instant::now() + CREATE_LIMIT;
    loop {
        let health = admin::health(endpoints, Duration::from_secs(2)).await;
        if health.problems.is_empty() {
            return Ok(());
        }
        if std::time::Instant::now() >= end {
            bail!("not healthy after a change of {name}: {}", health.problems.join("; "));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The keys, values and clients of a measurement.
#[derive(Clone)]
pub struct Plan {
    client: Client,
    clients: u32,
    keys: u64,
    key_bytes: usize,
    value: Bytes,
    /// Half of it compresses, half does not; values of a bulk fill are parts of it.
    noise: Bytes,
    seed: Arc<AtomicU64>,
}

impl Plan {
    /// Connects to `keyspace`.
    ///
    /// # Errors
    /// No endpoint answers.
    pub async fn new(endpoints: &[String], keyspace: &str, arguments: &BenchArgs) -> Result<Self> {
        let client = Client::builder(endpoints.iter().cloned())
            .keyspace(keyspace)
            .deadline(Duration::from_secs(10))
            .connect()
            .await?;
        Ok(Self {
            client,
            clients: arguments.clients,
            keys: arguments.keys,
            key_bytes: arguments.key_bytes as usize,
            value: Bytes::from(vec![b'v'; arguments.value_bytes as usize]),
            noise: noise(NOISE_BYTES + arguments.value_bytes as usize),
            seed: Arc::new(AtomicU64::new(1)),
        })
    }

    /// The client it works with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// How many different keys there are.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// The `i`-th key: `bench-` and digits, as long as asked for.
    pub fn key(&self, i: u64) -> Bytes {
        let width = self.key_bytes.saturating_sub(6);
        Bytes::from(format!("bench-{i:0width$}"))
    }

    /// Writes every key once, so that reads find what they ask for.
    ///
    /// # Errors
    /// A write that fails.
    pub async fn fill(&self) -> Result<()> {
        let mut writes = futures_util::stream::iter(0..self.keys)
            .map(|i| self.client.put(self.key(i), self.value.clone()).send())
            .buffer_unordered(FILL_CONCURRENCY);
        while let Some(answer) = writes.next().await {
            answer?;
        }
        Ok(())
    }

    fn bulk_value(&self, i: u64) -> Bytes {
        let start = Random::new(i).below(NOISE_BYTES as u64) as usize;
        self.noise.slice(start..start + self.value.len())
    }

    /// [`Plan::fill`] in batches, with values as real data has them; `ttl` says how long the
    /// `i`-th key lives, `None`: for ever.
    ///
    /// # Errors
    /// A write that fails.
    pub async fn fill_in_bulk(&self, ttl: impl Fn(u64) -> Option<Duration>) -> Result<()> {
        let starts = (0..self.keys).step_by(BULK_KEYS as usize);
        let batches = starts.map(|start| {
            let mut batch = self.client.batch();
            for i in start..self.keys.min(start + BULK_KEYS) {
                let put = Operation::put(self.key(i), self.bulk_value(i));
                batch = batch.push(match ttl(i) {
                    Some(ttl) => put.ttl(ttl),
                    None => put,
                });
            }
            batch.deadline(BULK_LIMIT).send()
        });
        let mut batches = futures_util::stream::iter(batches).buffer_unordered(BULK_CONCURRENCY);
        while let Some(answers) = batches.next().await {
            answers?.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        Ok(())
    }

    /// Runs `workload` for `duration`.
    ///
    /// # Errors
    /// A loop that could not run; failed operations are counted, not returned.
    pub async fn run(&self, workload: Workload, duration: Duration) -> Result<Outcome> {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed) << 16;
        driver::run(name(workload), self.clients, duration, |i| {
            let plan = self.clone();
            let mut random = Random::new(seed + u64::from(i));
            let own = OwnKey {
                key: Bytes::from(format!("bench-cas-{i:010}")),
                revision: Arc::new(AtomicU64::new(0)),
            };
            move || {
                let (plan, own) = (plan.clone(), own.clone());
                let (number, write) = (random.below(plan.keys), random.below(10) == 0);
                async move { plan.operation(workload, number, write, &own).await }
            }
        })
        .await
    }

    async fn operation(
        &self,
        workload: Workload,
        number: u64,
        write: bool,
        own: &OwnKey,
    ) -> Result<()> {
        let level = match workload {
            Workload::Put => return self.put(number).await,
            Workload::Mixed if write => return self.put(number).await,
            Workload::Cas => return own.swap(&self.client, &self.value).await,
            Workload::GetLease => ReadLevel::Lease,
            Workload::GetFollower => ReadLevel::Follower,
            _ => ReadLevel::Linearizable,
        };
        let answer = self.client.get(self.key(number)).level(level).send().await?;
        match answer.entry {
            Some(_) => Ok(()),
            None => bail!("a key that was written is missing"),
        }
    }

    /// Writes a key unconditionally.
    ///
    /// # Errors
    /// Those of the cluster.
    pub async fn put(&self, number: u64) -> Result<()> {
        let answer = self.client.put(self.key(number), self.value.clone()).send().await?;
        if answer.applied { Ok(()) } else { bail!("a put without condition was not applied") }
    }
}

/// The key one client compares and swaps, and the revision it last gave it.
#[derive(Clone)]
struct OwnKey {
    key: Bytes,
    revision: Arc<AtomicU64>,
}

impl OwnKey {
    async fn swap(&self, client: &Client, value: &Bytes) -> Result<()> {
        let known = self.revision.load(Ordering::Relaxed);
        let put = client.put(self.key.clone(), value.clone());
        let put = if known == 0 { put } else { put.if_revision(Revision(known)) };
        let answer = put.send().await?;
        if !answer.applied {
            let current = answer.current.map_or(0, |entry| entry.revision.0);
            self.revision.store(current, Ordering::Relaxed);
            bail!("a compare-and-swap of a key of its own lost");
        }
        self.revision.store(answer.revision.0, Ordering::Relaxed);
        Ok(())
    }
}
