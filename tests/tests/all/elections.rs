//! Elections.

use std::time::Duration;

use anyhow::{Context, ensure};
use holdfast_tests::{Options, scenario, shared};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn one_of_many_candidates_leads_and_another_follows_when_it_resigns() {
    shared(async |cluster| {
        let mut leaders = Vec::new();
        let mut candidates = tokio::task::JoinSet::new();
        for n in 0..3 {
            let client = cluster.client().await?.with_deadline(Duration::from_secs(30))?;
            candidates.spawn(async move {
                let guard = client.election("elections/office").campaign(format!("c{n}")).await?;
                let token = guard.fencing_token();
                let leader = client.election("elections/office").leader().await?;
                tokio::time::sleep(Duration::from_millis(200)).await;
                guard.release().await?;
                anyhow::Ok((n, token, leader))
            });
        }
        while let Some(candidate) = candidates.join_next().await {
            let (n, token, leader) = candidate??;
            let leader = leader.context("nobody leads while one does")?;
            ensure!(leader.value == format!("c{n}"), "{leader:?} instead of c{n}");
            ensure!(leader.fencing_token == token, "{leader:?}, token {token}");
            leaders.push(token);
        }
        ensure!(leaders.is_sorted() && leaders.len() == 3, "{leaders:?}");
        Ok(())
    });
}

#[test]
fn an_onlooker_is_told_of_every_leader_also_of_those_that_came_and_went_meanwhile() {
    shared(async |cluster| {
        let client = cluster.client().await?.with_deadline(PATIENCE)?;
        let election = client.election("elections/seen");
        let mut leaders = cluster.client().await?.election("elections/seen").observe();
        ensure!(leaders.next().await?.is_none(), "someone leads before anyone stood");
        let mut tokens = Vec::new();
        for name in ["ann", "bob", "cyd"] {
            let leadership = election.campaign(name).await?;
            tokens.push(leadership.fencing_token());
            leadership.release().await?;
        }
        for (name, token) in ["ann", "bob", "cyd"].into_iter().zip(tokens) {
            let leader = timeout(PATIENCE, leaders.next()).await??.context("nobody led")?;
            ensure!(leader.value == name && leader.fencing_token == token, "{leader:?}, {name}");
            let vacancy = timeout(PATIENCE, leaders.next()).await??;
            ensure!(vacancy.is_none(), "{vacancy:?} leads after {name}");
        }
        Ok(())
    });
}

#[test]
fn an_onlooker_learns_of_the_next_leader_and_not_of_the_one_it_knows() {
    shared(async |cluster| {
        let client = cluster.client().await?.with_deadline(PATIENCE)?;
        let election = client.election("elections/next");
        let first = election.campaign("ann").await?;
        let known = election.changed(0).await?;
        ensure!(known.fencing_token == first.fencing_token(), "{known:?}");
        let unchanged = timeout(Duration::from_millis(500), election.changed(known.fencing_token));
        ensure!(unchanged.await.is_err(), "the leader it knows was reported as another");
        let candidate = client.election("elections/next");
        let next = tokio::spawn(async move { candidate.campaign("bob").await });
        first.release().await?;
        let leader = timeout(PATIENCE, election.changed(known.fencing_token)).await??;
        ensure!(leader.value == "bob" && leader.fencing_token > known.fencing_token, "{leader:?}");
        next.await??.release().await?;
        Ok(())
    });
}

#[test]
fn an_onlooker_misses_no_leader_when_the_node_it_asks_dies() {
    scenario(Options::nodes(3), async |cluster| {
        let client = cluster.client().await?.with_deadline(PATIENCE)?;
        let election = client.election("office");
        let mut leaders =
            cluster.client().await?.with_deadline(PATIENCE)?.election("office").observe();
        ensure!(leaders.next().await?.is_none());
        let first = election.campaign("ann").await?;
        let seen = timeout(PATIENCE, leaders.next()).await??.context("nobody led")?;
        ensure!(seen.fencing_token == first.fencing_token(), "{seen:?}");
        let (leader, _) = cluster.leader_of(&client, "election/{office}/").await?;
        cluster.node_mut(leader).kill()?;
        first.release().await?;
        let second = election.campaign("bob").await?;
        ensure!(timeout(PATIENCE, leaders.next()).await??.is_none(), "the vacancy was missed");
        let seen = timeout(PATIENCE, leaders.next()).await??.context("nobody led")?;
        ensure!(seen.fencing_token == second.fencing_token() && seen.value == "bob", "{seen:?}");
        Ok(())
    });
}
