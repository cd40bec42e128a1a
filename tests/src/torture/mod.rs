//! Clusters of real processes under every workload and a seeded sequence of nemeses, judged by
//! every checker.
//!
//! ```text
//!  clusters of 3 or 5 ── run: load ── strikes (one nemesis, or two) ── settle ── hashes ── judge
//! ```
//!
//! Owns: the order of runs and nemeses, the sum of what was found.
//! Must never know: how a nemesis works, what a checker looks for.
//! Invariants:
//! * What is drawn follows from the seed: the same seed, the same nemeses on the same nodes.
//! * A run whose nemesis is not proven, or that has too little to judge, has failed.
//! * The history of a run that failed is kept, and what its nodes said.

mod hashes;
mod run;
mod sum;

use std::time::{Duration, Instant};

use anyhow::Result;
use holdfast_testkit::Random;

use crate::cluster::{Cluster, Options};
use crate::nemesis::Kind;

pub use run::{Strike, run};
pub use sum::{Figures, Sum};

/// Runs on one cluster before there is another.
const RUNS_PER_CLUSTER: usize = 5;
/// Size of the small disk of one node.
const SMALL_DISK_BYTES: u64 = 768 << 20;

/// What a torture is to be.
#[derive(Clone, Debug)]
pub struct Torture {
    /// Decides everything that is drawn by chance.
    pub seed: u64,
    /// No run begins after this time.
    pub time: Duration,
    /// Nemeses that are wanted; empty: all.
    pub kinds: Vec<Kind>,
    /// How long each strike stands.
    pub stand: Duration,
    /// Strikes of a run.
    pub strikes: usize,
}

/// Options of a cluster that can be tortured.
pub fn options(nodes: usize) -> Options {
    Options::nodes(nodes)
        .linked()
        .small_disk(nodes, SMALL_DISK_BYTES)
        .set("disk.read_only_below_bytes=33554432")
        .set("disk.recover_above_bytes=67108864")
        .set("disk.check_interval_ms=100")
        // Small, so that tables, flushes and snapshots take part.
        .set("engine.memtable_bytes=1048576")
        .set("journal.retention_range_bytes=1048576")
}

/// The nemeses of a torture in their order: every one alone, then pairs for ever.
struct Order {
    kinds: Vec<Kind>,
    next: usize,
}

impl Order {
    /// Which come first, where there is no time for all, is up to chance.
    fn of(mut kinds: Vec<Kind>, random: &mut Random) -> Self {
        for at in (1..kinds.len()).rev() {
            kinds.swap(at, random.below(at as u64 + 1) as usize);
        }
        Self { kinds, next: 0 }
    }

    fn strike(&mut self, random: &mut Random) -> Strike {
        let first = self.kinds[self.next % self.kinds.len()];
        let is_alone = self.next < self.kinds.len();
        self.next += 1;
        let partners: Vec<Kind> =
            self.kinds.iter().copied().filter(|kind| kind.goes_with(first)).collect();
        if is_alone || partners.is_empty() {
            return Strike { kinds: vec![first] };
        }
        Strike { kinds: vec![first, partners[random.below(partners.len() as u64) as usize]] }
    }
}

impl Torture {
    /// Tortures; every run tells `say` what it came to.
    ///
    /// # Errors
    /// If a cluster cannot be started, which says nothing about it.
    pub async fn go(&self, mut say: impl FnMut(&str)) -> Result<Sum> {
        let began = Instant::now();
        let mut random = Random::new(self.seed);
        let kinds = if self.kinds.is_empty() { Kind::ALL.to_vec() } else { self.kinds.clone() };
        let mut order = Order::of(kinds, &mut random);
        let mut sum = Sum::new(self.seed);
        let mut number = 0;
        for clusters in 0.. {
            if began.elapsed() >= self.time {
                break;
            }
            let nodes = if clusters % 2 == 0 { 3 } else { 5 };
            let mut cluster = Cluster::start(&options(nodes)).await?;
            for _ in 0..RUNS_PER_CLUSTER {
                if number > 0 && began.elapsed() >= self.time {
                    break;
                }
                number += 1;
                let strikes = self.strikes_on(&cluster, &mut order, &mut random, &mut sum);
                let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(number);
                let is_last = strikes.iter().any(Strike::is_destructive);
                let names: Vec<String> = strikes.iter().map(ToString::to_string).collect();
                let names = names.join(", ");
                let done = run(&mut cluster, seed, &strikes, self.stand).await;
                let is_good = done.is_ok();
                say(&sum.add(seed, nodes, &names, done));
                if !is_good {
                    cluster.keep_logs(seed)?.iter().for_each(|path| say(path));
                }
                if is_last || !is_good {
                    break;
                }
            }
        }
        Ok(sum)
    }

    /// The strikes of one run; nothing comes after one that destroys.
    fn strikes_on(
        &self,
        cluster: &Cluster,
        order: &mut Order,
        random: &mut Random,
        sum: &mut Sum,
    ) -> Vec<Strike> {
        let mut strikes: Vec<Strike> = Vec::new();
        // Bounded: of all kinds some can always be brought about.
        for _ in 0..order.kinds.len() + self.strikes {
            if strikes.len() >= self.strikes || strikes.iter().any(Strike::is_destructive) {
                break;
            }
            let mut strike = order.strike(random);
            strike.kinds.retain(|kind| match kind.obstacle(cluster) {
                Some(why) => {
                    sum.skip(*kind, why);
                    false
                }
                None => true,
            });
            if !strike.kinds.is_empty() {
                strikes.push(strike);
            }
        }
        strikes
    }
}
