//! Nodes are stopped with SIGSTOP and go on with SIGCONT, without knowing.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_client::Client;
use holdfast_testkit::check::Quota;
use holdfast_testkit::history::{Level, Recorder};
use holdfast_tests::{Load, Options, busy, failures, fault, gets_at, read_beside, scenario};
use tokio::task::JoinSet;

/// The levels of reads, without a bound.
const LEVELS: [Level; 3] =
    [Level::Linearizable, Level::Lease, Level::Follower { age_max_ms: None }];
/// What calls are given that must not fail.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads `key` of the node at `address` itself; whether it answered.
async fn read_there(
    address: String,
    recorder: Recorder,
    key: String,
    level: Level,
) -> Result<bool> {
    let client = Client::builder([address]).direct(true).deadline(Duration::from_secs(20));
    let client = client.connect().await?.keyspace("load");
    Ok(read_beside(client, &recorder, key, level).await)
}

/// Sends reads of all levels to the node at `address`, for three seconds.
fn read_all_the_time(
    reads: &mut JoinSet<Result<(usize, bool)>>,
    recorder: &Recorder,
    address: &str,
) {
    for n in 0..60 {
        for (number, level) in LEVELS.into_iter().enumerate() {
            let (address, key) = (address.to_owned(), format!("load/reg/{}", n % 4));
            let recorder = recorder.clone();
            reads.spawn(async move {
                tokio::time::sleep(Duration::from_millis(50 * n)).await;
                Ok((number, read_there(address, recorder, key, level).await?))
            });
        }
    }
}

#[test]
fn no_read_is_stale_while_a_leader_is_paused_or_when_it_wakes() {
    scenario(Options::nodes(3), async |cluster| {
        let client = cluster.client().await?.with_deadline(PATIENCE)?;
        let load = Load::start(&Load::keyspace(&client, "load", 4).await?, busy(1));
        load.acknowledges(200).await?;
        let mut answered = [0; 3];
        for _ in 0..2 {
            let (leader, _) = cluster.leader_of(load.client(), "load/reg/0").await?;
            // These reach the leader before, while and after it sleeps: what waits in its sockets
            // is answered in the moment in which it wakes and believes that nothing has happened.
            let mut reads = JoinSet::new();
            read_all_the_time(&mut reads, load.recorder(), &cluster.node(leader).client);
            tokio::time::sleep(Duration::from_millis(300)).await;
            let from = load.recorder().now();
            cluster.node(leader).pause()?;
            load.acknowledges(300).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let is_stopped = cluster.node(leader).is_paused()?;
            fault(load.recorder(), "pause".to_owned(), from, is_stopped);
            cluster.node(leader).resume()?;
            while let Some(read) = reads.join_next().await {
                let (number, is_answered) = read??;
                answered[number] += usize::from(is_answered);
            }
            cluster.healthy().await?;
        }
        let seen = load.stop().await?;
        println!("answered by the sleeper itself (linearizable, lease, follower): {answered:?}");
        ensure!(answered.iter().all(|count| *count > 0), "no evidence: {answered:?}");
        let history = seen.history()?;
        let failed = failures(&history);
        ensure!(failed.is_empty(), "calls failed: {failed:?}");
        let counts = [
            gets_at(&history, |level| level == Level::Linearizable),
            gets_at(&history, |level| level == Level::Lease),
            gets_at(&history, |level| !level.is_current()),
        ];
        ensure!(counts.iter().all(|count| *count > 100), "no evidence: {counts:?} reads");
        let quota = Quota { answered_per_fault_min: 300, faults_min: 2, ..Quota::default() };
        seen.judge(quota, &["witness", "linearizable", "lost", "staleness"])?;
        Ok(())
    });
}
