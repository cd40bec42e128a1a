//! How long a range takes no linearizable write when something happens to its leader.
//!
//! Four clients write to one range without a pause. What is measured is the longest time between
//! two acknowledgements, by whichever client, from the event on until writes flow again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use holdfast_client::Client;
use holdfast_model::RangeId;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cluster::{Cluster, Options};
use crate::link::Links;
use crate::load::Load;

/// Clients that write.
const WRITERS: u64 = 4;
/// What each write is given.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long writes must flow before the next event.
const CALM: Duration = Duration::from_millis(300);
/// How long an event lasts, or until writes flow again.
const EVENT_MIN: Duration = Duration::from_millis(1_500);
/// Longest wait for writes to flow again.
const EVENT_MAX: Duration = Duration::from_secs(15);
/// A pause between acknowledgements that counts as none.
const FLOWING: Duration = Duration::from_millis(100);

/// What happens to a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SIGKILL.
    Kill,
    /// SIGSTOP.
    Pause,
    /// No other node hears it, nor it them.
    Isolate,
    /// It is asked to hand over, and does.
    Transfer,
    /// SIGTERM.
    Stop,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Kill, Self::Pause, Self::Isolate, Self::Transfer, Self::Stop];

    /// What half, and what 99 of 100 of these events may take at most.
    pub fn target(self) -> (Option<Duration>, Option<Duration>) {
        match self {
            Self::Kill => (Some(Duration::from_secs(1)), Some(Duration::from_millis(2_500))),
            // Whoever falls silent is no worse than who dies.
            Self::Pause | Self::Isolate => (None, Some(Duration::from_millis(2_500))),
            Self::Transfer | Self::Stop => (None, Some(Duration::from_millis(500))),
        }
    }
}

/// When writes were acknowledged.
#[derive(Clone, Debug)]
struct Writes {
    began: Instant,
    /// Microseconds since the beginning.
    last: Arc<AtomicU64>,
    /// From when to when nothing was acknowledged, those of some length.
    gaps: Arc<Mutex<Vec<(u64, u64)>>>,
    is_over: Arc<AtomicBool>,
}

impl Writes {
    fn start(client: &Client, key: &str) -> Result<(Self, JoinSet<Result<()>>)> {
        let writes = Self {
            began: Instant::now(),
            last: Arc::default(),
            gaps: Arc::default(),
            is_over: Arc::default(),
        };
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (client, writes) = (client.with_deadline(DEADLINE)?, writes.clone());
            let key = format!("{{{key}}}{writer}");
            writers.spawn(async move { writes.write(client, key).await });
        }
        Ok((writes, writers))
    }

    async fn write(self, client: Client, key: String) -> Result<()> {
        for n in 0_u64.. {
            if self.is_over.load(Ordering::Relaxed) {
                break;
            }
            client.put(key.clone(), n.to_string()).await?;
            self.acknowledged();
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn acknowledged(&self) {
        let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        let before = self.last.swap(now, Ordering::Relaxed);
        if now.saturating_sub(before) > 1_000 {
            gaps.push((before, now));
        }
    }

    /// How long nothing has been acknowledged.
    fn quiet(&self) -> Duration {
        let last = self.last.load(Ordering::Relaxed);
        Duration::from_micros(self.now().saturating_sub(last))
    }

    /// The longest time without an acknowledgement that ended after `moment`.
    fn longest_since(&self, moment: u64) -> Duration {
        let gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        let since = gaps.iter().filter(|(_, end)| *end >= moment);
        Duration::from_micros(since.map(|(begin, end)| end - begin).max().unwrap_or(1_000))
    }
}

/// The distribution of one kind of event.
#[derive(Clone, Debug)]
pub struct Distribution {
    /// Which.
    pub event: Event,
    /// Sorted.
    pub gaps: Vec<Duration>,
}

impl Distribution {
    /// What so many of a hundred did not exceed, by the nearest rank.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.gaps.len() * percent).div_ceil(100).max(1);
        self.gaps.get(rank - 1).copied().unwrap_or_default()
    }

    /// Whether the targets are met.
    pub fn is_met(&self) -> bool {
        let (half, most) = self.event.target();
        let is_below = |target: Option<Duration>, percent| {
            target.is_none_or(|target| self.percentile(percent) <= target)
        };
        !self.gaps.is_empty() && is_below(half, 50) && is_below(most, 99)
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let (half, most) = self.event.target();
        let target = |target: Option<Duration>| target.map_or("–".into(), |t| format!("{t:?}"));
        format!(
            "{:?}: {} events, p50 {:?} (target {}), p99 {:?} (target {}), max {:?}, {}",
            self.event,
            self.gaps.len(),
            self.percentile(50),
            target(half),
            self.percentile(99),
            target(most),
            self.percentile(100),
            if self.is_met() { "met" } else { "MISSED" },
        )
    }
}

/// Cuts or mends node `node` off from all others.
fn set_cut(links: &Links, size: usize, node: usize, is_cut: bool) {
    for other in (1..=size).filter(|other| *other != node) {
        links.change(node, other, |rule| rule.cut = is_cut);
        links.change(other, node, |rule| rule.cut = is_cut);
    }
}

/// Lets `event` happen `count` times on three nodes with the configuration that users have.
///
/// # Errors
/// If the cluster does not start or recover, or an event did not take place.
pub async fn measure(event: Event, count: usize) -> Result<Distribution> {
    let mut cluster = Cluster::start(&Options::nodes(3).linked()).await?;
    let client = cluster.client().await?.with_deadline(Duration::from_secs(60))?;
    let client = Load::keyspace(&client, "availability", 1).await?;
    let (writes, mut writers) = Writes::start(&client, "w")?;
    let mut gaps = Vec::new();
    for _ in 0..count {
        cluster.healthy().await?;
        flows(&writes).await?;
        gaps.push(happens(&mut cluster, &client, &writes, event).await?);
    }
    writes.is_over.store(true, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer?.context("a write failed")?;
    }
    gaps.sort_unstable();
    Ok(Distribution { event, gaps })
}

/// Waits until writes have flowed for a moment.
async fn flows(writes: &Writes) -> Result<()> {
    let end = Instant::now() + EVENT_MAX;
    while Instant::now() < end {
        let begin = writes.now();
        sleep(CALM).await;
        if writes.quiet() < FLOWING && writes.longest_since(begin) < FLOWING {
            return Ok(());
        }
    }
    bail!("writes do not flow")
}

/// One event; how long nothing was acknowledged.
async fn happens(
    cluster: &mut Cluster,
    client: &Client,
    writes: &Writes,
    event: Event,
) -> Result<Duration> {
    let (leader, range) = cluster.leader_of(client, "{w}0").await?;
    let size = cluster.size();
    let begin = writes.now();
    match event {
        Event::Kill => cluster.node_mut(leader).kill()?,
        Event::Pause => cluster.node(leader).pause()?,
        Event::Isolate => set_cut(cluster.links(), size, leader, true),
        Event::Transfer => {
            let other = cluster.status(leader % size + 1).await?.node_id;
            let to = holdfast_model::NodeId(other);
            // Whoever spreads leaders may soon move it again.
            let leads = client.cluster().transfer_leader(RangeId(range), Some(to)).await?;
            ensure!(leads == to, "{leads} leads, not {to}");
        }
        Event::Stop => cluster.node(leader).terminate()?,
    }
    sleep(EVENT_MIN).await;
    let end = Instant::now() + EVENT_MAX;
    while writes.quiet() > FLOWING {
        ensure!(Instant::now() < end, "no write for {:?} after {event:?}", writes.quiet());
        sleep(Duration::from_millis(10)).await;
    }
    let gap = writes.longest_since(begin);
    match event {
        Event::Kill => cluster.node_mut(leader).start()?,
        Event::Pause => {
            ensure!(cluster.node(leader).is_paused()?, "node {leader} was not paused");
            cluster.node(leader).resume()?;
        }
        Event::Isolate => {
            let held = cluster.links().counted(leader, leader % size + 1).held;
            set_cut(cluster.links(), size, leader, false);
            ensure!(held > 0, "nothing was held back: node {leader} was not isolated");
        }
        Event::Transfer => {}
        Event::Stop => {
            let status = cluster.node_mut(leader).ended(DEADLINE).await?;
            ensure!(status.success(), "node {leader} ended with {status}");
            cluster.node_mut(leader).start()?;
        }
    }
    cluster.answers(leader).await?;
    Ok(gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_value_that_so_many_do_not_exceed() {
        let gaps = (1..=30).map(Duration::from_millis).collect();
        let of = Distribution { event: Event::Transfer, gaps };
        assert_eq!(of.percentile(50), Duration::from_millis(15));
        assert_eq!(of.percentile(99), Duration::from_millis(30));
        assert!(of.is_met());
        let slow = Distribution { event: Event::Stop, gaps: vec![Duration::from_millis(501)] };
        assert!(!slow.is_met());
        assert!(!Distribution { event: Event::Pause, gaps: Vec::new() }.is_met());
    }
}
