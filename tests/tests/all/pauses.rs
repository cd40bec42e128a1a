//! Nodes are stopped with SIGSTOP and go on with SIGCONT, without knowing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use holdfast_client::{Client, ReadLevel};
use holdfast_tests::{Load, Options, Read, Seen, Workload, scenario};
use tokio::task::JoinSet;

const LEVELS: [ReadLevel; 3] = [ReadLevel::Linearizable, ReadLevel::Lease, ReadLevel::Follower];

/// Reads `key` of the node at `address` itself; `None` if it refused.
async fn read_there(address: String, key: String, level: ReadLevel) -> Result<Option<Read>> {
    let client = Client::builder([address]).direct(true).deadline(Duration::from_secs(20));
    let client = client.connect().await?;
    let start = Instant::now();
    let Ok(answer) = client.get(key.clone()).level(level).send().await else { return Ok(None) };
    let end = Instant::now();
    let seen = answer.entry.map(|entry| {
        let value = String::from_utf8_lossy(&entry.value).parse();
        value.map(|value| Seen { revision: entry.revision.0, value })
    });
    let bound = answer.staleness.map(|staleness| staleness.bound);
    Ok(Some(Read { key, level, start, end, seen: seen.transpose()?, bound }))
}

/// Sends reads of all levels to the node at `address`, for `time`.
fn read_all_the_time(reads: &mut JoinSet<Result<Option<Read>>>, address: &str, keys: u64) {
    for n in 0..60 {
        for level in LEVELS {
            let (address, key) = (address.to_owned(), format!("load/k{}", n % keys));
            reads.spawn(async move {
                tokio::time::sleep(Duration::from_millis(50 * n)).await;
                read_there(address, key, level).await
            });
        }
    }
}

#[test]
fn no_read_is_stale_while_a_leader_is_paused_or_when_it_wakes() {
    scenario(Options::nodes(3), async |cluster| {
        let client = cluster.client().await?;
        let mut load = Load::writes("load");
        load.keys = 8;
        load.readers = LEVELS.into_iter().chain([ReadLevel::Follower]).collect();
        let workload = Workload::start(&client, load)?;
        workload.acknowledges(200).await?;
        let mut answered = [0; 3];
        let mut extra = Vec::new();
        for _ in 0..2 {
            let (leader, _) = cluster.leader_of(&client, "load/k0").await?;
            // These reach the leader before, while and after it sleeps: what waits in its sockets
            // is answered in the moment in which it wakes and believes that nothing has happened.
            let mut reads = JoinSet::new();
            read_all_the_time(&mut reads, &cluster.node(leader).client, 8);
            tokio::time::sleep(Duration::from_millis(300)).await;
            cluster.node(leader).pause()?;
            workload.acknowledges(300).await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            cluster.node(leader).resume()?;
            while let Some(read) = reads.join_next().await {
                let Some(read) = read?? else { continue };
                answered[LEVELS.iter().position(|level| *level == read.level).unwrap()] += 1;
                extra.push(read);
            }
            cluster.healthy().await?;
        }
        let (mut history, failures) = workload.stop_and_read_back().await?;
        ensure!(failures.is_empty(), "calls failed: {failures:?}");
        history.reads.extend(extra);
        println!("answered by the sleeper itself (linearizable, lease, follower): {answered:?}");
        ensure!(answered.iter().all(|count| *count > 0), "no evidence: {answered:?}");
        for level in LEVELS {
            let count = history.reads_at(level);
            ensure!(count > 100, "no evidence: {count} reads at {level:?}");
        }
        history.check()
    });
}
