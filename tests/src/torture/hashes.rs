//! What each replica holds, told by itself: a hash of its whole state when it has applied what
//! every other one has.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_testkit::history::{Record, Recorder, StateHash};
use holdfast_wire::v1::StateHashRequest;

use crate::cluster::Cluster;
use crate::wait::eventually;

/// How long replicas may take until they have applied the same.
const LIMIT: Duration = Duration::from_secs(60);

/// Takes down the hash of every replica of every range of `keyspace` at an index that all of them
/// have applied, and says how many there were; the node `lost` has none. Nobody may write to the
/// keyspace any more.
pub(super) async fn take(
    cluster: &Cluster,
    keyspace: &str,
    recorder: &Recorder,
    lost: Option<usize>,
) -> Result<usize> {
    let hashes = eventually(LIMIT, async || {
        let mut all = Vec::new();
        let mut indexes = BTreeMap::new();
        for i in (1..=cluster.size()).filter(|i| Some(*i) != lost) {
            for hash in told(cluster, i, keyspace).await? {
                let index = *indexes.entry(hash.range).or_insert(hash.index);
                ensure!(index == hash.index, "at {index} or not: {hash:?} of node {i}");
                all.push(hash);
            }
        }
        Ok(all)
    });
    let hashes = hashes.await?;
    let count = hashes.len();
    hashes.into_iter().for_each(|hash| recorder.push(Record::StateHash(hash)));
    Ok(count)
}

/// What node `i` tells of its replicas.
async fn told(cluster: &Cluster, i: usize, keyspace: &str) -> Result<Vec<StateHash>> {
    let replicas = cluster.status(i).await?.replicas;
    let mut rpc = cluster.rpc(i).await?.cluster();
    let mut hashes = Vec::new();
    for replica in replicas.into_iter().filter(|replica| replica.keyspace == keyspace) {
        let range = replica.range_id;
        let told = rpc.state_hash(StateHashRequest { range_id: range }).await?.into_inner();
        let (index, hash) = (told.applied_index, told.hash);
        hashes.push(StateHash { range, replica: told.replica_id, index, hash });
    }
    Ok(hashes)
}
