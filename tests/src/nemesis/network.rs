//! The network between nodes. Clients reach every node all the time, also one that no other node
//! can reach: it is the one that might answer what it must not.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;

use super::{Field, Kind, Nemesis, Proof};
use crate::link::{Break, Count, Rule};

/// How long something may take to show, where others have kept nodes from speaking.
const SHOW_LIMIT: Duration = Duration::from_secs(3);
/// Steps between two changes of a link that flaps.
const FLAP_STEPS: u32 = 3;
/// Connections are broken so often once more, where no break has shown.
const MORE_BREAKS: u32 = 8;
/// How long each of these may take to show.
const BREAK_SHOW_LIMIT: Duration = Duration::from_secs(1);

pub(super) fn of(kind: Kind) -> Box<dyn Nemesis> {
    match kind {
        Kind::Loss => Box::new(Poor::of(Rule { lost_permille: 100, ..Rule::default() })),
        Kind::Delay => Box::new(Poor::of(Rule {
            delay: Duration::from_millis(60),
            jitter: Duration::from_millis(90),
            ..Rule::default()
        })),
        Kind::Bandwidth => {
            Box::new(Poor::of(Rule { bytes_per_second: Some(192 << 10), ..Rule::default() }))
        }
        Kind::Reset => Box::new(Broken { how: Break::Reset, before: Vec::new() }),
        Kind::HalfOpen => Box::new(Broken { how: Break::HalfOpen, before: Vec::new() }),
        _ => Box::new(Cut { kind, pairs: BTreeSet::new(), before: Vec::new(), step: 0 }),
    }
}

/// All directed pairs of `size` nodes.
fn pairs(size: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..=size).flat_map(move |a| (1..=size).map(move |b| (a, b))).filter(|(a, b)| a != b)
}

fn counts(field: &Field<'_>, pairs: impl Iterator<Item = (usize, usize)>) -> Vec<Count> {
    pairs.map(|(a, b)| field.cluster.links().counted(a, b)).collect()
}

/// How much `what` grew over all pairs.
fn grown(before: &[Count], after: &[Count], what: impl Fn(&Count) -> u64) -> u64 {
    after.iter().map(&what).sum::<u64>() - before.iter().map(&what).sum::<u64>()
}

/// Waits until `count` of the counts of `pairs` has grown, or it must be said that it has not;
/// whether it has.
async fn shows(
    field: &Field<'_>,
    limit: Duration,
    pairs: &[(usize, usize)],
    before: &[Count],
    what: impl Fn(&Count) -> u64,
) -> bool {
    let shown = crate::eventually(limit, async || {
        let after = counts(field, pairs.iter().copied());
        anyhow::ensure!(grown(before, &after, &what) > 0, "nothing shows");
        Ok(())
    });
    shown.await.is_ok()
}

/// Some pairs hear nothing of each other.
struct Cut {
    kind: Kind,
    /// Bytes from the first to the second do not arrive.
    pairs: BTreeSet<(usize, usize)>,
    before: Vec<Count>,
    step: u32,
}

impl Cut {
    /// Which pairs of `nodes`, in an order by chance, are cut.
    fn plan(kind: Kind, nodes: &[usize]) -> BTreeSet<(usize, usize)> {
        let size = nodes.len();
        let half = size / 2;
        let is_cut = |a: usize, b: usize| match kind {
            // The first is alone.
            Kind::Isolate | Kind::IsolateLeader | Kind::Flapping => a == 0 || b == 0,
            Kind::Halves => (a < half) != (b < half),
            // Each sees its neighbours: with five nodes a majority, but another one for each.
            Kind::MajorityRing => (a + size - b) % size != 1 && (b + size - a) % size != 1,
            // Only the first sees both sides.
            Kind::Bridge => a != 0 && b != 0 && (a <= half) != (b <= half),
            // The first can be heard, and hears nothing.
            _ => b == 0,
        };
        let all = pairs(size).map(|(a, b)| (a - 1, b - 1));
        all.filter(|(a, b)| is_cut(*a, *b)).map(|(a, b)| (nodes[a], nodes[b])).collect()
    }

    fn set(&self, field: &Field<'_>, is_cut: bool) {
        for (a, b) in &self.pairs {
            field.cluster.links().change(*a, *b, |rule| rule.cut = is_cut);
        }
    }
}

#[async_trait(?Send)]
impl Nemesis for Cut {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        let size = field.cluster.size();
        let mut nodes: Vec<usize> = (1..=size).collect();
        for at in (1..size).rev() {
            nodes.swap(at, field.random.below(at as u64 + 1) as usize);
        }
        if matches!(self.kind, Kind::IsolateLeader | Kind::OneWay | Kind::Flapping) {
            let range = field.ranges()?[0];
            if let Ok(leader) = field.cluster.leader(range).await {
                nodes.retain(|node| *node != leader);
                nodes.insert(0, leader);
            }
        }
        // Of three nodes each sees both others: there is no ring, and a bridge is its like.
        let is_small = self.kind == Kind::MajorityRing && size < 5;
        self.pairs = Self::plan(if is_small { Kind::Bridge } else { self.kind }, &nodes);
        self.before = counts(field, self.pairs.iter().copied());
        self.set(field, true);
        Ok(())
    }

    async fn step(&mut self, field: &mut Field<'_>) -> Result<()> {
        self.step += 1;
        if self.kind == Kind::Flapping && self.step.is_multiple_of(FLAP_STEPS) {
            self.set(field, (self.step / FLAP_STEPS).is_multiple_of(2));
        }
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        let cut: Vec<(usize, usize)> = self.pairs.iter().copied().collect();
        self.set(field, true);
        shows(field, SHOW_LIMIT, &cut, &self.before, |count| count.held + count.unanswered).await;
        let after = counts(field, self.pairs.iter().copied());
        self.set(field, false);
        let held = grown(&self.before, &after, |count| count.held);
        let unanswered = grown(&self.before, &after, |count| count.unanswered);
        let words = format!(
            "{} pairs cut, {held} bytes held back, {unanswered} dials unanswered",
            self.pairs.len()
        );
        Ok(Proof::of(held + unanswered > 0, words))
    }
}

/// Everything arrives, but late.
struct Poor {
    rule: Rule,
    before: Vec<Count>,
}

impl Poor {
    fn of(rule: Rule) -> Self {
        Self { rule, before: Vec::new() }
    }
}

#[async_trait(?Send)]
impl Nemesis for Poor {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        let size = field.cluster.size();
        self.before = counts(field, pairs(size));
        pairs(size).for_each(|(a, b)| field.cluster.links().set(a, b, self.rule));
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        let size = field.cluster.size();
        let all: Vec<(usize, usize)> = pairs(size).collect();
        let is_lossy = self.rule.lost_permille > 0;
        let what = |count: &Count| if is_lossy { count.resent } else { count.delayed };
        shows(field, SHOW_LIMIT, &all, &self.before, what).await;
        let after = counts(field, pairs(size));
        pairs(size).for_each(|(a, b)| field.cluster.links().set(a, b, Rule::default()));
        let delayed = grown(&self.before, &after, |count| count.delayed);
        let resent = grown(&self.before, &after, |count| count.resent);
        let is_there = if is_lossy { resent } else { delayed } > 0;
        Ok(Proof::of(is_there, format!("{delayed} pieces late, {resent} times sent again")))
    }
}

/// Connections break off, again and again.
struct Broken {
    how: Break,
    before: Vec<Count>,
}

#[async_trait(?Send)]
impl Nemesis for Broken {
    async fn install(&mut self, field: &mut Field<'_>) -> Result<()> {
        self.before = counts(field, pairs(field.cluster.size()));
        self.step(field).await
    }

    async fn step(&mut self, field: &mut Field<'_>) -> Result<()> {
        let all: Vec<(usize, usize)> = pairs(field.cluster.size()).collect();
        let (a, b) = all[field.random.below(all.len() as u64) as usize];
        field.cluster.links().sever(a, b, self.how);
        Ok(())
    }

    async fn heal(&mut self, field: &mut Field<'_>) -> Result<Proof> {
        let all: Vec<(usize, usize)> = pairs(field.cluster.size()).collect();
        let is_reset = self.how == Break::Reset;
        let what = |count: &Count| if is_reset { count.resets } else { count.left_open };
        let mut is_shown = shows(field, SHOW_LIMIT, &all, &self.before, what).await;
        // Those that chance chose had no connection, or an end that gave up by itself.
        for _ in 0..MORE_BREAKS {
            if is_shown {
                break;
            }
            self.step(field).await?;
            is_shown = shows(field, BREAK_SHOW_LIMIT, &all, &self.before, what).await;
        }
        let after = counts(field, all.iter().copied());
        let resets = grown(&self.before, &after, |count| count.resets);
        let left_open = grown(&self.before, &after, |count| count.left_open);
        let swallowed = grown(&self.before, &after, |count| count.swallowed);
        // Those that are still half open are closed: nobody may wait for them.
        all.into_iter().for_each(|(a, b)| field.cluster.links().sever(a, b, Break::Reset));
        let words = format!(
            "{resets} connections broken, {left_open} of them at one end only, {swallowed} bytes \
             swallowed"
        );
        Ok(Proof::of(resets > 0 && (is_reset || left_open > 0), words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whom each of five nodes still hears, besides itself.
    fn heard(kind: Kind) -> Vec<usize> {
        let cut = Cut::plan(kind, &[1, 2, 3, 4, 5]);
        (1..=5).map(|to| pairs(5).filter(|p| p.1 == to && !cut.contains(p)).count()).collect()
    }

    #[test]
    fn each_partition_leaves_the_links_it_is_named_for() {
        assert_eq!(heard(Kind::Isolate), [0, 3, 3, 3, 3]);
        assert_eq!(heard(Kind::Halves), [1, 1, 2, 2, 2]);
        assert_eq!(heard(Kind::MajorityRing), [2, 2, 2, 2, 2]);
        assert_eq!(heard(Kind::Bridge), [4, 2, 2, 2, 2]);
        assert_eq!(heard(Kind::OneWay), [0, 4, 4, 4, 4]);
    }
}
