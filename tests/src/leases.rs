//! Thousands of leases: none may end early, and those that end must not stay.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use holdfast_testkit::check::{Checker, Lifetimes, Witness};
use holdfast_testkit::history::{Level, Record, Recorder, Request, RunClock, Told};
use holdfast_testkit::kv::ClientKv;
use holdfast_testkit::workload::Actor;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::cluster::{Cluster, Options};
use crate::load::{Load, PUNCTUALITY, fault, keep_history};

/// Who grants, at once.
const HOLDERS: u32 = 200;
/// Time of a lease.
const TTL_MS: u64 = 2_000;
/// Reads of the key of each lease, spread over one and a half of its times.
const READS: u32 = 6;
/// What each request is given.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two deaths of a leader.
const KILL_EVERY: Duration = Duration::from_secs(12);
/// Most records.
const RECORDS_MAX: usize = 1_000_000;

/// What was granted and judged.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    /// Leases that were granted.
    pub grants: usize,
    /// Sightings that were judged.
    pub judged: usize,
    /// Leaders that were killed meanwhile.
    pub kills: usize,
}

async fn hold(mut actor: Actor, rounds: u32) {
    for round in 0..rounds {
        let key = format!("{{h{}}}/{round}", actor.process());
        let grant = Request::Grant { key: key.clone(), ttl_ms: TTL_MS };
        let Some(granted) = actor.answer(grant).await else { continue };
        let Told::Granted { lease, .. } = granted.told else { continue };
        let (lease, value) = (Some(lease), actor.value());
        actor.ask(Request::Put { key: key.clone(), value, when: None, ttl_ms: None, lease }).await;
        if let (Some(lease), true) = (lease, round % 3 == 0) {
            sleep(Duration::from_millis(TTL_MS / 2)).await;
            actor.ask(Request::Renew { lease }).await;
        }
        for _ in 0..READS {
            let level = if actor.random().chance(50) { Level::Lease } else { Level::Linearizable };
            actor.ask(Request::Get { key: key.clone(), level }).await;
            sleep(Duration::from_millis(TTL_MS * 3 / 2) / READS).await;
        }
    }
}

/// Grants at least `grants` leases on three nodes, one of whose leaders is killed now and then.
///
/// # Errors
/// A lease that ended early or late, or too few of them.
pub async fn grant(grants: usize, seed: u64) -> Result<Granted> {
    let mut cluster = Cluster::start(&Options::nodes(3)).await?;
    let client = cluster.client().await?.with_deadline(Duration::from_secs(60))?;
    let client = Load::keyspace(&client, "leases", 8).await?.with_deadline(DEADLINE)?;
    let recorder = Recorder::new(seed, Arc::new(RunClock::begin()), RECORDS_MAX);
    let kv = Arc::new(ClientKv::new(client.clone()));
    // A few of a hundred may fail while nobody leads.
    let rounds = u32::try_from(grants * 11 / 10)?.div_ceil(HOLDERS);
    let mut holders = JoinSet::new();
    for holder in 0..HOLDERS {
        let seed = seed.wrapping_mul(1_009).wrapping_add(holder.into());
        let actor = Actor::new(kv.clone(), recorder.clone(), holder, seed, Duration::ZERO);
        holders.spawn(hold(actor, rounds));
    }
    let mut kills = 0;
    while !holders.is_empty() {
        let pause = sleep(KILL_EVERY);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                ended = holders.join_next() => match ended {
                    Some(ended) => ended?,
                    None => break,
                },
            }
        }
        if holders.is_empty() {
            break;
        }
        let (leader, _) = cluster.leader_of(&client, "{h0}/0").await?;
        let from = recorder.now();
        cluster.node_mut(leader).kill()?;
        sleep(Duration::from_secs(2)).await;
        let is_dead = !cluster.node_mut(leader).is_running();
        fault(&recorder, "kill".to_owned(), from, is_dead);
        cluster.node_mut(leader).start()?;
        cluster.healthy().await?;
        kills += usize::from(is_dead);
    }
    tokio::task::spawn_blocking(move || judged(&recorder, grants, kills)).await?
}

fn judged(recorder: &Recorder, grants: usize, kills: usize) -> Result<Granted> {
    let history = recorder.history().map_err(|dropped| anyhow!("{dropped} records dropped"))?;
    let given = history.operations().filter(|operation| {
        operation.answer().is_some_and(|answer| matches!(answer.told, Told::Granted { .. }))
    });
    let given = given.count();
    let is_fault = |record: &&Record| matches!(record, Record::Fault(fault) if fault.installed);
    ensure!(history.records.iter().filter(is_fault).count() == kills, "a kill is not proven");
    ensure!(given >= grants, "no evidence: {given} leases of {grants}");
    Witness.check(&history).context("witness")?;
    match Lifetimes(PUNCTUALITY).check(&history) {
        Ok(judged) if judged >= given => Ok(Granted { grants: given, judged, kills }),
        Ok(judged) => bail!("no evidence: {judged} sightings of {given} leases"),
        Err(finding) => {
            bail!("{finding}\nhistory: {}", keep_history(recorder)?.display())
        }
    }
}
