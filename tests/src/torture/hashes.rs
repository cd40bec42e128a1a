//! What each replica holds, told by itself: a hash of all entries that it shows, with everything
//! an entry carries, when it has applied what every other one has.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_client::{Client, ReadLevel};
use holdfast_testkit::history::{Record, Recorder, StateHash};

use crate::cluster::Cluster;
use crate::wait::eventually;

/// How long replicas may take until they have applied the same.
const LIMIT: Duration = Duration::from_secs(60);

/// FNV-1a; no adversary is about.
fn hash(bytes: &[u8], from: u64) -> u64 {
    bytes.iter().fold(from, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// Where a replica stands: revision and applied index.
type Places = BTreeMap<u64, (u64, u64)>;

/// Replicas of node `i` in `keyspace`, by range.
async fn places(cluster: &Cluster, i: usize, keyspace: &str) -> Result<(u64, Places)> {
    let status = cluster.status(i).await?;
    let replicas = status.replicas.iter().filter(|replica| replica.keyspace == keyspace);
    let places = replicas.map(|r| (r.range_id, (r.revision, r.applied_index)));
    Ok((status.node_id, places.collect()))
}

/// Takes down the hash of every replica of the keyspace of `client` at an index that all of them
/// have applied; `lost` has none. Nobody may write to the keyspace any more.
pub(super) async fn take(
    cluster: &Cluster,
    client: &Client,
    recorder: &Recorder,
    lost: Option<usize>,
) -> Result<usize> {
    let keyspace = client.keyspace_name();
    let nodes: Vec<usize> = (1..=cluster.size()).filter(|i| Some(*i) != lost).collect();
    let hashes = eventually(LIMIT, async || {
        let mut all = Vec::new();
        let mut known: Places = BTreeMap::new();
        for i in &nodes {
            let (node, before) = places(cluster, *i, keyspace).await?;
            let held = held(cluster, *i, keyspace, before.keys().copied()).await?;
            let (_, after) = places(cluster, *i, keyspace).await?;
            ensure!(before == after, "node {i} still applies");
            for (range, place) in after {
                let first = *known.entry(range).or_insert(place);
                ensure!(first.1 == place.1, "range {range}: {first:?} and {place:?}");
                let hash = held.get(&range).copied().unwrap_or_default() ^ place.0;
                all.push(StateHash { range, replica: node, index: place.1, hash });
            }
        }
        Ok(all)
    });
    let hashes = hashes.await?;
    let count = hashes.len();
    hashes.into_iter().for_each(|hash| recorder.push(Record::StateHash(hash)));
    Ok(count)
}

/// The hash of what node `i` itself shows, range by range.
async fn held(
    cluster: &Cluster,
    i: usize,
    keyspace: &str,
    ranges: impl Iterator<Item = u64>,
) -> Result<BTreeMap<u64, u64>> {
    let direct = Client::builder([cluster.node(i).client.clone()]).direct(true).connect().await?;
    let direct = direct.keyspace(keyspace);
    let mut hashes = BTreeMap::new();
    for range in ranges {
        let scan = direct.scan("").level(ReadLevel::Follower);
        let entries = scan.range_id(holdfast_model::RangeId(range)).collect().await?;
        let sum = entries.iter().fold(0xcbf2_9ce4_8422_2325, |sum, entry| {
            let text = format!(
                "{} {} {} {:?} {:?}",
                entry.revision.0,
                entry.create_revision.0,
                entry.version,
                entry.lease,
                entry.expires_at_ms
            );
            hash(text.as_bytes(), hash(&entry.value, hash(&entry.key, sum)))
        });
        hashes.insert(range, sum);
    }
    direct.close().await;
    Ok(hashes)
}
