//! Clocks that run wrong.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;

use super::process::STOP_LIMIT;
use super::{Field, Nemesis, Proof};
use crate::node::WrongClock;

/// A right clock.
const RIGHT_PERMILLE: u32 = 1_000;
/// Clocks are wrong by at least this much, so that it can be told, …
const WRONG_MIN_PERMILLE: u32 = 50;
/// … and by at most this much, which is what leases bear.
const WRONG_MAX_PERMILLE: u32 = 100;
/// How far wall clocks are off at most, milliseconds.
const WALL_OFF_MAX_MS: u64 = 3_600_000;
/// How often one looks whether a clock is seen to be wrong: the longer ago it began, the surer.
const LOOKS_MAX: usize = 60;
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Every node that is free lives by a clock of its own, which is too fast or too slow, and an hour
/// off at most: one after the other is stopped in order and comes back with it, and, when it heals,
/// with the clock everybody has.
#[derive(Default)]
pub(super) struct Wrong {
    bent: Vec<Bent>,
}

struct Bent {
    node: usize,
    process: u32,
    clock: WrongClock,
    start: Sighting,
}

/// How long a node said it was up, and between which moments it said so.
struct Sighting {
    uptime: Duration,
    asked: Instant,
    answered: Instant,
}

impl Sighting {
    async fn of(field: &mut Field<'_>, node: usize) -> Result<Self> {
        // The first answer of all may have taken long to come.
        field.cluster.answers(node).await?;
        let asked = Instant::now();
        let status = field.cluster.status(node).await?;
        let uptime = Duration::from_millis(status.uptime_ms);
        Ok(Self { uptime, asked, answered: Instant::now() })
    }

    /// The lowest and highest rate that the clock can have had from this sighting to `later`.
    fn rates_permille(&self, later: &Self) -> (u128, u128) {
        // Told in whole milliseconds, either is up to one more.
        let passed = later.uptime.saturating_sub(self.uptime).as_micros();
        let rate = |passed: u128, real: Duration| passed * 1_000 / real.as_micros().max(1);
        let longest = later.answered.saturating_duration_since(self.asked);
        let shortest = later.asked.saturating_duration_since(self.answered);
        (rate(passed.saturating_sub(1_000), longest), rate(passed + 1_000, shortest) + 1)
    }
}

fn drawn(field: &mut Field<'_>) -> WrongClock {
    let spread = u64::from(WRONG_MAX_PERMILLE - WRONG_MIN_PERMILLE);
    let wrong = WRONG_MIN_PERMILLE + field.random.below(spread + 1) as u32;
    let is_fast = field.random.chance(50);
    let rate_permille = if is_fast { RIGHT_PERMILLE + wrong } else { RIGHT_PERMILLE - wrong };
    let off_ms = field.random.below(WALL_OFF_MAX_MS) as i64;
    let wall_ahead_ms = if field.random.chance(50) { off_ms } else { -off_ms };
    WrongClock { rate_permille, wall_ahead_ms }
}

/// Stops `node` in order and starts it with `clock`.
async fn restart(field: &mut Field<'_>, node: usize, clock: Option<WrongClock>) -> Result<()> {
    field.cluster.node(node).terminate()?;
    let status = field.cluster.node_mut(node).ended(STOP_LIMIT).await?;
    ensure!(status.success(), "node {node} ended with {status}");
    field.cluster.node_mut(node).set_wrong_clock(clock);
    field.cluster.node_mut(node).start()?;
    field.cluster.answers(node).await?;
    Ok(())
}

impl Bent {
    /// Between which rates its clock has run, once that is known well enough to tell it from a
    /// right one.
    async fn rates_permille(&self, field: &mut Field<'_>) -> Result<(u128, u128)> {
        let mut rates = (0, u128::MAX);
        for _ in 0..LOOKS_MAX {
            ensure!(field.cluster.node(self.node).pid() == Some(self.process), "another process");
            let (lowest, highest) =
                self.start.rates_permille(&Sighting::of(field, self.node).await?);
            rates = (rates.0.max(lowest), rates.1.min(highest));
            if !(rates.0..=rates.1).contains(&RIGHT_PERMILLE.into()) {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(rates)
    }
}

#[async_trait(?Send)]
impl Nemesis for Wrong {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        for node in field.free() {
            ensure!(field.take_this(node), "node {node} is not free");
            let clock = drawn(field);
            restart(field, node, Some(clock)).await?;
            let start = Sighting::of(field, node).await?;
            let process = field.cluster.node(node).pid().context("it runs")?;
            self.bent.push(Bent { node, process, clock, start });
        }
        ensure!(!self.bent.is_empty(), "no node is free");
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        let (mut is_there, mut words) = (true, Vec::new());
        for bent in std::mem::take(&mut self.bent) {
            let (lowest, highest) = bent.rates_permille(field).await?;
            let rates = lowest..=highest;
            is_there &= rates.contains(&bent.clock.rate_permille.into())
                && !rates.contains(&RIGHT_PERMILLE.into());
            words.push(format!(
                "the clock of node {} ran at {lowest} to {highest} per mille (wanted {})",
                bent.node, bent.clock.rate_permille
            ));
            restart(field, bent.node, None).await?;
            field.give_back(&[bent.node]);
        }
        Ok(Proof::of(is_there, words.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(uptime_ms: u64, begin: Instant, asked_ms: u64, answered_ms: u64) -> Sighting {
        Sighting {
            uptime: Duration::from_millis(uptime_ms),
            asked: begin + Duration::from_millis(asked_ms),
            answered: begin + Duration::from_millis(answered_ms),
        }
    }

    #[test]
    fn rates_lie_between_what_the_shortest_and_the_longest_time_allow() {
        let begin = Instant::now();
        let first = sighting(500, begin, 0, 10);
        let later = sighting(500 + 3_600, begin, 4_000, 4_020);
        let (lowest, highest) = first.rates_permille(&later);
        assert_eq!((lowest, highest), (3_599_000 * 1_000 / 4_020_000, 3_601_000 / 3_990 + 1));
        assert!((lowest..=highest).contains(&900) && !(lowest..=highest).contains(&1_000));
    }

    #[test]
    fn too_short_a_time_tells_nothing() {
        let begin = Instant::now();
        let (lowest, highest) =
            sighting(10, begin, 0, 5).rates_permille(&sighting(20, begin, 6, 18));
        assert!((lowest..=highest).contains(&1_000), "{lowest} to {highest}");
    }
}
