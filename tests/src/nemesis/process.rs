//! Processes that end, sleep, or come and go.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;

use super::{Field, Kind, Nemesis, Proof};

/// Pauses before a node that recovers is killed once more.
const RECOVERY_MS: [u64; 5] = [5, 30, 120, 300, 700];
/// Longest jump of a clock, forward; backward it cannot go before the start of the machine.
const JUMP_MAX: Duration = Duration::from_secs(10 * 86_400);
/// How long a node may take to end after it was told to.
pub(super) const STOP_LIMIT: Duration = Duration::from_secs(30);

pub(super) fn of(kind: Kind) -> Box<dyn Nemesis> {
    match kind {
        Kind::Pause => Box::new(Pause { is_majority: false, paused: Vec::new() }),
        Kind::PauseMajority => Box::new(Pause { is_majority: true, paused: Vec::new() }),
        Kind::GracefulStop => Box::new(Stop::default()),
        Kind::RollingRestart => Box::new(Rolling::default()),
        Kind::ClockJump => Box::new(Jump::default()),
        Kind::KillAll => Box::new(Kill { whom: Whom::All, killed: Vec::new() }),
        Kind::KillSome => Box::new(Kill { whom: Whom::Some, killed: Vec::new() }),
        Kind::KillInRecovery => Box::new(Kill { whom: Whom::Recovering, killed: Vec::new() }),
        _ => Box::new(Kill { whom: Whom::Leader, killed: Vec::new() }),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whom {
    Leader,
    Some,
    All,
    Recovering,
}

/// SIGKILL. Whoever was killed is started again when it heals.
struct Kill {
    whom: Whom,
    /// Nodes, and their processes before.
    killed: Vec<(usize, u32)>,
}

#[async_trait(?Send)]
impl Nemesis for Kill {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        let size = field.cluster.size();
        let nodes = match self.whom {
            Whom::Leader | Whom::Recovering => vec![field.take_leader().await?],
            Whom::All => field.take(size),
            Whom::Some => {
                let count = 1 + field.random.below(size as u64) as usize;
                field.take(count)
            }
        };
        for node in nodes {
            let process = field.cluster.node(node).pid().context("it ran")?;
            field.cluster.node_mut(node).kill()?;
            self.killed.push((node, process));
        }
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        let mut times = 0;
        for (node, _) in &self.killed {
            if self.whom == Whom::Recovering {
                for pause in RECOVERY_MS {
                    field.cluster.node_mut(*node).start()?;
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                    let is_running = field.cluster.node_mut(*node).is_running();
                    ensure!(is_running, "node {node} ended by itself within {pause} ms");
                    field.cluster.node_mut(*node).kill()?;
                    times += 1;
                }
            }
            field.cluster.node_mut(*node).start()?;
        }
        let mut is_there = !self.killed.is_empty();
        for (node, before) in &self.killed {
            field.cluster.answers(*node).await?;
            let now = field.cluster.node(*node).pid();
            is_there &= now.is_some_and(|now| now != *before);
        }
        let nodes: Vec<usize> = self.killed.iter().map(|(node, _)| *node).collect();
        field.give_back(&nodes);
        let words = format!("nodes {nodes:?} are other processes, {times} killed in recovery");
        Ok(Proof::of(is_there, words))
    }
}

/// SIGSTOP, then SIGCONT.
struct Pause {
    is_majority: bool,
    paused: Vec<usize>,
}

#[async_trait(?Send)]
impl Nemesis for Pause {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        self.paused = vec![field.take_leader().await?];
        if self.is_majority {
            let more = field.minority();
            self.paused.extend(field.take(more));
        }
        self.paused.iter().try_for_each(|node| field.cluster.node(*node).pause())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        let mut is_there = !self.paused.is_empty();
        for node in &self.paused {
            is_there &= field.cluster.node(*node).is_paused()?;
            field.cluster.node(*node).resume()?;
        }
        field.give_back(&self.paused);
        Ok(Proof::of(is_there, format!("nodes {:?} stood in state T", self.paused)))
    }
}

/// SIGTERM; the node hands over what it leads.
#[derive(Default)]
struct Stop {
    node: usize,
    is_orderly: bool,
}

#[async_trait(?Send)]
impl Nemesis for Stop {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        self.node = field.take_leader().await?;
        field.cluster.node(self.node).terminate()?;
        self.is_orderly = field.cluster.node_mut(self.node).ended(STOP_LIMIT).await?.success();
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        field.cluster.node_mut(self.node).start()?;
        field.cluster.answers(self.node).await?;
        field.give_back(&[self.node]);
        let words = format!("node {} ended, in order: {}", self.node, self.is_orderly);
        Ok(Proof::of(self.is_orderly, words))
    }
}

/// One node after the other is stopped in order and started again.
#[derive(Default)]
struct Rolling {
    restarted: Vec<usize>,
}

#[async_trait(?Send)]
impl Nemesis for Rolling {
    async fn install(&mut self, _field: &mut Field<'_>) -> Result<()> {
        Ok(())
    }

    async fn step(&mut self, field: &mut Field<'_>) -> Result<()> {
        let left = field.free().into_iter().find(|node| !self.restarted.contains(node));
        let Some(node) = left.filter(|node| field.take_this(*node)) else { return Ok(()) };
        field.cluster.node(node).terminate()?;
        let status = field.cluster.node_mut(node).ended(STOP_LIMIT).await?;
        ensure!(status.success(), "node {node} ended with {status}");
        field.cluster.node_mut(node).start()?;
        field.cluster.answers(node).await?;
        field.give_back(&[node]);
        self.restarted.push(node);
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        let size = field.cluster.size();
        while self.restarted.len() < size {
            let before = self.restarted.len();
            self.step(field).await?;
            if self.restarted.len() == before {
                break;
            }
        }
        let words = format!("nodes {:?} restarted in order", self.restarted);
        Ok(Proof::of(self.restarted.len() > 1, words))
    }
}

/// A leader is killed, and comes back with a clock that is off by hours or days; when it heals it
/// is killed again, and comes back with the clock everybody has.
#[derive(Default)]
struct Jump {
    node: usize,
    seconds: i64,
}

#[async_trait(?Send)]
impl Nemesis for Jump {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        self.node = field.take_leader().await?;
        let back = std::fs::read_to_string("/proc/uptime")?;
        let back: f64 = back.split(' ').next().context("an uptime")?.parse()?;
        let limit = if field.random.chance(50) { JUMP_MAX.as_secs() } else { back as u64 / 2 };
        let seconds = i64::try_from(1 + limit / 2 + field.random.below(limit / 2 + 1))?;
        self.seconds = if limit == JUMP_MAX.as_secs() { seconds } else { -seconds };
        field.cluster.node_mut(self.node).kill()?;
        field.cluster.node_mut(self.node).set_clock_offset(self.seconds);
        field.cluster.node_mut(self.node).start()
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        field.cluster.answers(self.node).await?;
        let told = field.cluster.node(self.node).clock_offset()?;
        field.cluster.node_mut(self.node).kill()?;
        field.cluster.node_mut(self.node).set_clock_offset(0);
        field.cluster.node_mut(self.node).start()?;
        field.cluster.answers(self.node).await?;
        field.give_back(&[self.node]);
        let words = format!("the clock of node {} was {told} s off", self.node);
        Ok(Proof::of(told == self.seconds && told != 0, words))
    }
}
