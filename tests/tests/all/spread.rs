//! Where ranges and leaders are.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_client::{Client, Error};
use holdfast_tests::{Cluster, Options, eventually, scenario, shared};

/// How many ranges each node leads, of `keyspace` or of all.
async fn led(cluster: &Cluster, keyspace: Option<&str>) -> Result<BTreeMap<usize, usize>> {
    let mut led = BTreeMap::new();
    for i in 1..=cluster.size() {
        let replicas = cluster.status(i).await?.replicas;
        let is_asked = |name: &str| keyspace.is_none_or(|keyspace| keyspace == name);
        let own = replicas.iter().filter(|r| r.role == "leader" && is_asked(&r.keyspace));
        led.insert(i, own.count());
    }
    Ok(led)
}

#[test]
fn leaders_of_64_ranges_are_spread_evenly_also_after_a_node_was_away() {
    scenario(Options::nodes(3), async |cluster| {
        let created = cluster.cli().run("keyspace create wide --ranges 64")?;
        created.expect_code(0)?;
        let client = cluster.client().await?.keyspace("wide");
        for n in 0..200 {
            client.put(format!("k{n}"), n.to_string()).await?;
        }
        let limit = Duration::from_secs(60);
        let is_even = async |cluster: &Cluster| {
            let wide = led(cluster, Some("wide")).await?;
            ensure!(wide.values().sum::<usize>() == 64, "not all of 64 are led: {wide:?}");
            let all = led(cluster, None).await?;
            let (least, most) = (all.values().min(), all.values().max());
            let difference = most.unwrap_or(&0) - least.unwrap_or(&0);
            ensure!(difference <= 1, "uneven: {all:?}, of these in `wide` {wide:?}");
            Ok(all)
        };
        println!(
            "leaders by node: {:?}",
            eventually(limit, async || is_even(cluster).await).await?
        );
        cluster.node_mut(3).kill()?;
        for n in 0..200 {
            let entry = client.get(format!("k{n}")).await?;
            ensure!(entry.is_some_and(|e| e.value == n.to_string()), "k{n} is gone");
        }
        cluster.node_mut(3).start()?;
        cluster.healthy().await?;
        println!("again: {:?}", eventually(limit, async || is_even(cluster).await).await?);
        Ok(())
    });
}

#[test]
fn keyspaces_are_created_changed_and_dropped_while_the_cluster_runs() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        let admin = client.cluster();
        let created = admin.create_keyspace("spread-a", 4, 0, None).await?;
        ensure!(created.ranges == 4 && created.name == "spread-a", "{created:?}");
        let again = admin.create_keyspace("spread-a", 4, 0, None).await;
        ensure!(matches!(again, Err(Error::AlreadyExists(_))), "{again:?}");
        for ranges in [3, 257, 512] {
            let refused = admin.create_keyspace("spread-b", ranges, 0, None).await;
            ensure!(
                matches!(refused, Err(Error::Invalid(_) | Error::TooLarge { .. })),
                "{refused:?}"
            );
        }
        for name in ["Spread", ".spread", "sp read", "sys", &"s".repeat(256)] {
            let refused = admin.create_keyspace(name, 1, 0, None).await;
            ensure!(refused.is_err_and(|e| e.is_callers()), "{name:?} was created");
        }
        let (inside, outside) = (client.keyspace("spread-a"), client.keyspace("default"));
        inside.put("spread/k", "inside").await?;
        ensure!(outside.get("spread/k").await?.is_none(), "keyspaces share keys");
        admin.drop_keyspace("spread-a").await?;
        for i in 1..=cluster.size() {
            let there = Client::connect([cluster.node(i).client.clone()]).await?;
            let answer = there.keyspace("spread-a").get("spread/k").await;
            ensure!(matches!(answer, Err(Error::UnknownKeyspace(_))), "node {i}: {answer:?}");
        }
        let answer = inside.get("spread/k").await;
        ensure!(matches!(answer, Err(Error::UnknownKeyspace(_))), "{answer:?}");
        let again = admin.create_keyspace("spread-a", 1, 0, None).await?;
        ensure!(again.id != created.id, "an id was used again");
        let empty = inside.get("spread/k").await?;
        ensure!(empty.is_none(), "a dropped keyspace came back with its keys");
        Ok(())
    });
}

#[test]
fn a_leadership_goes_where_it_is_sent() {
    shared(async |cluster| {
        let client = cluster.client().await?;
        client.cluster().create_keyspace("sent", 1, 0, None).await?;
        let map = client.cluster().map().await?;
        let range = map.lookup("sent", 0)?.id;
        for (id, _) in map.nodes.clone() {
            let limit = Duration::from_secs(20);
            let there = eventually(limit, async || {
                let leader = client.cluster().transfer_leader(range, Some(id)).await?;
                ensure!(leader == id, "{leader} leads instead of {id}");
                Ok(())
            });
            there.await?;
        }
        let space = client.keyspace("sent");
        space.put("k", "v").await?;
        client.cluster().drop_keyspace("sent").await?;
        Ok(())
    });
}
