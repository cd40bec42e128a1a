//! Nodes whose copy of the cluster map is older than the cluster: what they do not know, they do
//! not deny.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_tests::{Cluster, Options, refusal, scenario};
use holdfast_wire::v1;
use tonic::Request;

/// The node that is cut off.
const ALONE: usize = 3;
/// What calls are given.
const PATIENCE: Duration = Duration::from_secs(20);
/// A keyspace that is created meanwhile.
const YOUNG: &str = "young";

fn cut(cluster: &Cluster, is_cut: bool) {
    for other in (1..=cluster.size()).filter(|other| *other != ALONE) {
        for (from, to) in [(ALONE, other), (other, ALONE)] {
            cluster.links().change(from, to, |rule| rule.cut = is_cut);
        }
    }
}

fn put(keyspace: &str) -> Request<v1::PutRequest> {
    let request = v1::PutRequest {
        keyspace: keyspace.to_owned(),
        key: "k".into(),
        value: "v".into(),
        ..Default::default()
    };
    let mut request = Request::new(request);
    request.set_timeout(PATIENCE);
    request
}

/// How a scan of `keyspace` at the lonely node ends.
async fn scan(cluster: &Cluster, keyspace: &str) -> Result<Vec<v1::Entry>, tonic::Status> {
    let request = v1::ScanRequest { keyspace: keyspace.to_owned(), ..Default::default() };
    let mut request = Request::new(request);
    request.set_timeout(PATIENCE);
    let rpc = cluster.rpc(ALONE).await.map_err(|why| tonic::Status::unknown(why.to_string()))?;
    let mut pages = rpc.kv().scan(request).await?.into_inner();
    let mut entries = Vec::new();
    while let Some(page) = pages.message().await? {
        entries.extend(page.entries);
    }
    Ok(entries)
}

#[test]
fn a_node_that_is_cut_off_does_not_deny_a_keyspace_that_was_created_meanwhile() {
    scenario(Options::nodes(3).linked(), async |cluster| {
        cut(cluster, true);
        let client = holdfast_client::Client::connect([cluster.node(1).client.clone()]).await?;
        let client = client.with_deadline(PATIENCE)?;
        client.cluster().create_keyspace(YOUNG, 2, 0, None).await?;
        let map = cluster.rpc(ALONE).await?.cluster().map(v1::MapRequest {}).await?.into_inner();
        let is_late = map.keyspaces.iter().all(|keyspace| keyspace.name != YOUNG);
        ensure!(is_late, "node {ALONE} has heard of it: this shows nothing");
        let (_, info) = refusal(cluster.rpc(ALONE).await?.kv().put(put(YOUNG)).await)?;
        ensure!(info.code() != v1::ErrorCode::UnknownKeyspace, "a put was denied: {info:?}");
        let (_, info) = refusal(scan(cluster, YOUNG).await)?;
        ensure!(info.code() != v1::ErrorCode::UnknownKeyspace, "a scan was denied: {info:?}");
        // The network is mended while calls wait: they learn of the keyspace and are carried out.
        let kv = cluster.rpc(ALONE).await?.kv();
        let waits = tokio::spawn(async move { kv.clone().put(put(YOUNG)).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        cut(cluster, false);
        if let Err(status) = waits.await? {
            let (_, info) = refusal::<()>(Err(status))?;
            ensure!(info.code() == v1::ErrorCode::NotReady, "{info:?}");
        }
        cluster.rpc(ALONE).await?.kv().put(put(YOUNG)).await.context("the cluster is whole")?;
        let entries = scan(cluster, YOUNG).await.context("the cluster is whole")?;
        ensure!(entries.len() == 1, "{entries:?}");
        // What nobody created is still the caller's mistake.
        let (_, info) = refusal(cluster.rpc(ALONE).await?.kv().put(put("none")).await)?;
        ensure!(info.code() == v1::ErrorCode::UnknownKeyspace, "{info:?}");
        Ok(())
    });
}
