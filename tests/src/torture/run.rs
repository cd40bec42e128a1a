//! One run: a load of every kind, and some strikes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_client::Client;
use holdfast_testkit::Random;
use holdfast_testkit::check::{Quota, Verdict};
use holdfast_testkit::workload::Plan;
use tokio::time::{Instant, sleep};

use super::hashes;
use super::sum::Figures;
use crate::cluster::Cluster;
use crate::load::{DEMANDED, Load, fault, keep_history};
use crate::nemesis::{Field, Kind, Nemesis};

/// Ranges the load is spread over.
const RANGES: u32 = 4;
/// What each request is given.
const DEADLINE: Duration = Duration::from_secs(10);
/// What creating and dropping keyspaces is given.
const ADMIN_DEADLINE: Duration = Duration::from_secs(60);
/// Work before the first strike, and after the last.
const CALM: Duration = Duration::from_millis(1_500);
/// Nemeses go on so often.
const STEP: Duration = Duration::from_millis(250);
/// Of a strike the second nemesis comes so much later.
const STAGGER: Duration = Duration::from_millis(400);
/// Operations that clients must have been answered in every run.
const ANSWERED_MIN: usize = 300;

/// One nemesis, or two at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Which.
    pub kinds: Vec<Kind>,
}

impl Strike {
    /// Whether a node's data is lost by it for good.
    pub fn is_destructive(&self) -> bool {
        self.kinds.iter().any(|kind| kind.is_destructive())
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.kinds.iter().map(ToString::to_string).collect();
        write!(f, "{}", names.join(" + "))
    }
}

/// A load like that of a busy service, of everything that the checkers can judge.
fn plan(seed: u64) -> Plan {
    Plan {
        operations: 2_000,
        watchers: 15,
        keys: 6,
        pause_max: Duration::from_millis(25),
        ..Plan::new(seed, "t/")
    }
}

/// Lets clients work on `cluster`, in a keyspace of their own, while `strikes` come one after the
/// other, each for `stand`; then everything is judged.
///
/// # Errors
/// What a checker found, a nemesis that was not proven, or a cluster that does not recover.
pub async fn run(
    cluster: &mut Cluster,
    seed: u64,
    strikes: &[Strike],
    stand: Duration,
) -> Result<Figures> {
    let keyspace = format!("torture-{seed:x}");
    let admin = cluster.client().await?.with_deadline(ADMIN_DEADLINE)?;
    // A replica on every node, so that a majority of nodes is one of replicas.
    let replicas = u32::try_from(cluster.size())?;
    admin.cluster().create_keyspace(&keyspace, RANGES, replicas, None).await?;
    let client = admin.keyspace(&keyspace).with_deadline(DEADLINE)?;
    let load = Load::start(&client, plan(seed));
    let (recorder, workload) = (load.recorder().clone(), load.workload().clone());
    let figures = match stricken(cluster, &client, load, strikes, stand).await {
        Ok(figures) => figures,
        Err(error) => {
            // Nobody goes on with it while the next cluster is tortured.
            workload.finish();
            workload.stop();
            let place = keep_history(&recorder).map_or_else(
                |why| format!("no history: {why}"),
                |path| format!("history: {}", path.display()),
            );
            return Err(error.context(place));
        }
    };
    admin.cluster().drop_keyspace(&keyspace).await.context("dropping the keyspace")?;
    Ok(figures)
}

/// The run itself, on a keyspace that is there for it alone.
async fn stricken(
    cluster: &mut Cluster,
    client: &Client,
    load: Load,
    strikes: &[Strike],
    stand: Duration,
) -> Result<Figures> {
    let seed = load.seed();
    let mut field = Field::new(cluster, client.clone(), Random::new(seed));
    let mut proofs = Vec::new();
    for strike in strikes {
        sleep(CALM).await;
        proofs.extend(struck(&mut field, &load, strike, stand).await.context(strike.to_string())?);
        let lost = field.is_weak_lost.then_some(field.weak);
        field.cluster.healthy_but_for(lost).await.with_context(|| format!("after {strike}"))?;
    }
    sleep(CALM).await;
    let lost = field.is_weak_lost.then_some(field.weak);
    let seen = load.stop().await?;
    let hashes = hashes::take(cluster, client.keyspace_name(), seen.recorder(), lost).await;
    let hashes = hashes.context("hashes of replicas")?;
    ensure!(hashes >= RANGES as usize * 2, "no evidence: {hashes} hashes of {RANGES} ranges");
    let quota = quota(proofs.len());
    // Off the reactor: searches take their time.
    let judged = tokio::task::spawn_blocking(move || -> Result<_> {
        let report = seen.judge(quota, &DEMANDED)?;
        Ok((seen.history()?, report))
    });
    let (history, report) = judged.await??;
    let facts = |(name, verdict): &(&'static str, Verdict)| Some((*name, *verdict.as_ref().ok()?));
    let judged: BTreeMap<&'static str, usize> = report.verdicts.iter().filter_map(facts).collect();
    let pairs = judged.get("hashes").copied().unwrap_or(0);
    ensure!(pairs >= RANGES as usize, "no evidence: {pairs} pairs of replicas compared");
    Ok(Figures {
        operations: history.operations().filter(|o| o.answer().is_some()).count(),
        events: history.batches().map(|batch| batch.events.len()).sum(),
        proofs,
        judged,
    })
}

/// What a run of so many nemeses has to show.
fn quota(nemeses: usize) -> Quota {
    Quota {
        answered_min: ANSWERED_MIN,
        // Clients of a cluster without a majority fail at once, and ask again at once.
        answered_percent_min: 20,
        faults_min: nemeses,
        events_min: ANSWERED_MIN,
        ..Quota::default()
    }
}

/// One strike, from its beginning until everything of it is taken away.
async fn struck(
    field: &mut Field<'_>,
    load: &Load,
    strike: &Strike,
    stand: Duration,
) -> Result<Vec<String>> {
    let mut standing: Vec<(Kind, u64, Box<dyn Nemesis>)> = Vec::new();
    field.is_weak_reserved = strike.is_destructive();
    let mut kinds = strike.kinds.clone();
    kinds.sort_by_key(|kind| std::cmp::Reverse(kind.family()));
    for kind in kinds {
        if !standing.is_empty() {
            sleep(STAGGER).await;
        }
        let (from, mut nemesis) = (load.recorder().now(), kind.nemesis());
        nemesis.install(field).await.with_context(|| format!("{kind} cannot be installed"))?;
        standing.push((kind, from, nemesis));
    }
    let end = Instant::now() + stand;
    while Instant::now() < end {
        sleep(STEP).await;
        for (kind, _, nemesis) in &mut standing {
            nemesis.step(field).await.with_context(|| format!("{kind} does not go on"))?;
        }
    }
    let mut proofs = Vec::new();
    for (kind, from, mut nemesis) in standing.into_iter().rev() {
        let proof = nemesis.heal(field).await.with_context(|| format!("{kind} does not heal"))?;
        fault(load.recorder(), kind.to_string(), from, proof.installed);
        proofs.push(format!("{kind}: {}", proof.words));
    }
    Ok(proofs)
}
