//! How clusters come to be, and who may not join them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_tests::{Cluster, Options, Running, binary, eventually, refusal, scenario};
use holdfast_wire::v1::{ErrorCode, InitRequest};

#[test]
fn empty_nodes_become_a_cluster_only_when_told_and_only_once() {
    scenario(Options::nodes(3).left_empty(), async |cluster| {
        for i in 1..=3 {
            cluster.node_mut(i).start()?;
        }
        for i in 1..=3 {
            let status = cluster.answers(i).await?;
            ensure!(status.state == "empty", "node {i} is {}", status.state);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        for i in 1..=3 {
            let state = cluster.status(i).await?.state;
            ensure!(state == "empty", "nobody founded it, yet node {i} is {state}");
        }
        cluster.cli().run("--timeout 1s put k v")?.expect_code(3)?;
        let founded = cluster.found().await?;
        ensure!(!founded.already && founded.nodes.len() == 3, "{founded:?}");
        cluster.healthy().await?;
        let again = cluster.found().await?;
        ensure!(again.already && again.cluster_id == founded.cluster_id, "{again:?}");
        // Half of a cluster cannot be founded anew.
        let peers = vec![cluster.node(2).peer.clone(), cluster.node(3).peer.clone()];
        let request = InitRequest { peer_addresses: peers, replication_factor: 0 };
        let answer = cluster.rpc(2).await?.cluster().init(request).await;
        let (_, info) = refusal(answer)?;
        ensure!(info.code() == ErrorCode::FailedPrecondition, "{info:?}");
        cluster.cli().run("put k v")?.expect_code(0)?;
        Ok(())
    });
}

/// Starts node `i` and waits for the moment at which its log has one of `words`, running or not.
async fn says(cluster: &mut Cluster, i: usize, words: &[&str]) -> Result<()> {
    cluster.node_mut(i).start()?;
    let limit = Duration::from_secs(20);
    let said = eventually(limit, async || {
        let log = cluster.node(i).log().to_lowercase();
        ensure!(words.iter().any(|word| log.contains(word)), "nothing about {words:?} in its log");
        Ok(())
    });
    said.await
}

/// Node `i`, which runs, must take part in nothing.
async fn takes_no_part(cluster: &mut Cluster, i: usize) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(2)).await;
    for other in (1..=cluster.size()).filter(|other| *other != i) {
        let connected = cluster.status(other).await?.connected_node_ids;
        ensure!(connected.len() == cluster.size() - 2, "node {other} speaks to {connected:?}");
    }
    let status = cluster.status(i).await?;
    ensure!(status.state == "empty", "node {i} is {}", status.state);
    ensure!(status.replicas.is_empty(), "node {i} hosts {:?}", status.replicas);
    for line in ["put k outside", "get k", "get k --read follower"] {
        let direct = cluster.cli_at(i).run(&format!("--direct --timeout 1s {line}"))?;
        ensure!(direct.code == 3, "node {i} answered: {direct:?}");
    }
    Ok(())
}

#[test]
fn a_wiped_node_is_refused_under_its_old_id_and_cannot_found_a_second_cluster() {
    scenario(Options::nodes(3), async |cluster| {
        cluster.cli().run("put k v")?.expect_code(0)?;
        cluster.node_mut(2).kill()?;
        std::fs::remove_dir_all(cluster.node(2).data())?;
        says(cluster, 2, &["data is lost"]).await?;
        takes_no_part(cluster, 2).await?;
        let peers = vec![cluster.node(2).peer.clone()];
        let request = InitRequest { peer_addresses: peers, replication_factor: 0 };
        let answer = cluster.rpc(2).await?.cluster().init(request).await;
        ensure!(answer.is_err(), "it founded a cluster of its own");
        let answer = cluster.cli().run("-o raw get k")?.expect_code(0)?;
        ensure!(answer.stdout == b"v", "{answer:?}");
        Ok(())
    });
}

/// Replaces the directory `to` by a copy of `from`.
fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(copied.success(), "copying {}", from.display());
    Ok(())
}

/// Starts node `i`, which must end with code 1 because its disk was rolled back, before it has
/// exchanged anything with anybody.
async fn is_refused(cluster: &mut Cluster, i: usize) -> Result<()> {
    let log_before = cluster.node(i).log().len();
    cluster.node_mut(i).start()?;
    let status = cluster.node_mut(i).ended(Duration::from_secs(20)).await?;
    ensure!(status.code() == Some(1), "it ended with {status}");
    let log = cluster.node(i).log().split_off(log_before);
    ensure!(log.contains("rolled back"), "it does not say why it ended");
    for sign in ["connected", "serving"] {
        ensure!(!log.contains(sign), "it took part: {sign}");
    }
    Ok(())
}

#[test]
fn a_node_whose_disk_was_rolled_back_is_refused_for_ever() {
    scenario(Options::nodes(3), async |cluster| {
        cluster.node_mut(2).stop().await?;
        let (data, old) = (cluster.node(2).data(), cluster.node(2).folder().join("old"));
        copy(&data, &old)?;
        cluster.node_mut(2).start()?;
        cluster.answers(2).await?;
        cluster.healthy().await?;
        cluster.cli().run("put k v")?.expect_code(0)?;
        cluster.node_mut(2).kill()?;
        copy(&old, &data)?;
        is_refused(cluster, 2).await?;
        // Once is enough: it needs nobody's word for the second time.
        for i in [1, 3] {
            cluster.node_mut(i).kill()?;
        }
        is_refused(cluster, 2).await?;
        for i in [1, 3] {
            cluster.node_mut(i).start()?;
        }
        let answer = cluster.cli().run("--timeout 20s -o raw get k")?.expect_code(0)?;
        ensure!(answer.stdout == b"v", "{answer:?}");
        Ok(())
    });
}

#[test]
fn a_rolled_back_node_is_refused_by_one_that_only_heard_of_its_latest_start() {
    scenario(Options::nodes(3), async |cluster| {
        cluster.node_mut(2).stop().await?;
        let (data, old) = (cluster.node(2).data(), cluster.node(2).folder().join("old"));
        copy(&data, &old)?;
        // Only node 1 is there when node 2 starts again and acknowledges a write.
        cluster.node_mut(3).kill()?;
        cluster.node_mut(2).start()?;
        cluster.cli().run("--timeout 20s put k v")?.expect_code(0)?;
        cluster.node_mut(2).kill()?;
        cluster.node_mut(3).start()?;
        cluster.cli().run("--timeout 20s put other v")?.expect_code(0)?;
        // Now only node 3 is there, and has itself been started again since.
        cluster.node_mut(1).kill()?;
        cluster.node_mut(3).kill()?;
        cluster.node_mut(3).start()?;
        copy(&old, &data)?;
        is_refused(cluster, 2).await?;
        cluster.node_mut(1).start()?;
        let answer = cluster.cli().run("--timeout 20s -o raw get k")?.expect_code(0)?;
        ensure!(answer.stdout == b"v", "{answer:?}");
        Ok(())
    });
}

#[test]
fn a_rolled_back_node_that_found_nobody_ends_when_another_comes() {
    scenario(Options::nodes(3), async |cluster| {
        cluster.node_mut(2).stop().await?;
        let (data, old) = (cluster.node(2).data(), cluster.node(2).folder().join("old"));
        copy(&data, &old)?;
        cluster.node_mut(2).start()?;
        cluster.answers(2).await?;
        cluster.healthy().await?;
        cluster.cli().run("put k v")?.expect_code(0)?;
        for i in 1..=3 {
            cluster.node_mut(i).kill()?;
        }
        copy(&old, &data)?;
        cluster.node_mut(2).start()?;
        cluster.answers(2).await?;
        let alone = cluster.cli_at(2).run("--timeout 1s put k outside")?;
        ensure!(alone.code == 3 || alone.code == 4, "one of three took a write: {alone:?}");
        let log_before = cluster.node(2).log().len();
        cluster.node_mut(1).start()?;
        let status = cluster.node_mut(2).ended(Duration::from_secs(20)).await?;
        ensure!(status.code() == Some(1), "it ended with {status}");
        let log = cluster.node(2).log().split_off(log_before);
        ensure!(log.contains("rolled back"), "it does not say why it ended");
        ensure!(!log.contains("connected node"), "it exchanged something");
        cluster.node_mut(3).start()?;
        let answer = cluster.cli().run("--timeout 20s -o raw get k")?.expect_code(0)?;
        ensure!(answer.stdout == b"v", "{answer:?}");
        Ok(())
    });
}

#[test]
fn a_single_node_serves_keeps_its_data_and_refuses_seeds() {
    scenario(Options::single(), async |cluster| {
        let client = cluster.client().await?;
        client.put("k", "v").await?;
        cluster.node_mut(1).kill()?;
        cluster.node_mut(1).start()?;
        cluster.answers(1).await?;
        cluster.healthy().await?;
        let entry = client.get("k").await?.context("lost")?;
        ensure!(entry.value == "v" && entry.version == 1, "{entry:?}");
        let status = cluster.node_mut(1).stop().await?;
        ensure!(status.success(), "it ended with {status}");
        let mut command = Command::new(binary("holdfastd"));
        command.arg("--single").arg("--config").arg(cluster.node(1).config());
        command.args(["--set", "cluster.seeds=[\"127.0.0.1:1\"]"]);
        let refused = Running::start(command, b"")?.finish()?;
        ensure!(refused.code != 0, "it started with seeds: {refused:?}");
        ensure!(refused.stderr.contains("seeds"), "{refused:?}");
        Ok(())
    });
}

#[test]
fn data_of_a_cluster_cannot_be_served_by_a_single_node() {
    scenario(Options::nodes(3), async |cluster| {
        for i in 1..=3 {
            cluster.node_mut(i).stop().await?;
        }
        let mut command = Command::new(binary("holdfastd"));
        command.arg("--single").arg("--config").arg(cluster.node(1).config());
        command.args(["--set", "cluster.seeds=[]"]);
        let refused = Running::start(command, b"")?.finish()?;
        ensure!(refused.code != 0 && !refused.stderr.is_empty(), "{refused:?}");
        Ok(())
    });
}
