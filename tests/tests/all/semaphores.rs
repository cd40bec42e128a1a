//! Semaphores.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_client::{Client, Error, SemaphoreState};
use holdfast_tests::{Cluster, Options, eventually, scenario, shared};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(30);

async fn patient(cluster: &Cluster) -> Result<Client> {
    Ok(cluster.client().await?.with_deadline(PATIENCE)?)
}

/// Waits until `found` holds of the semaphore `name`.
async fn once(
    client: &Client,
    name: &'static str,
    found: impl Fn(&SemaphoreState) -> bool,
) -> Result<SemaphoreState> {
    let state = eventually(PATIENCE, async || {
        let state = client.semaphore(name, 1).inspect().await?;
        ensure!(found(&state), "{state:?}");
        Ok(state)
    });
    state.await
}

/// What resources behind the slots of a semaphore see.
#[derive(Default)]
struct Slots {
    held: BTreeMap<u32, u64>,
    held_max: usize,
    /// The highest token each slot has seen.
    tokens: BTreeMap<u32, u64>,
    grants: Vec<u64>,
}

#[test]
fn no_more_than_its_permits_are_ever_held_and_the_tokens_of_every_slot_grow() {
    const NAME: &str = "semaphores/many";
    shared(async |cluster| {
        let slots = Arc::new(Mutex::new(Slots::default()));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (client, slots) = (patient(cluster).await?, slots.clone());
            workers.spawn(async move {
                for _ in 0..3 {
                    let permit = client.semaphore(NAME, 3).acquire().await?;
                    let (slot, token) = (permit.slot(), permit.fencing_token());
                    {
                        let mut slots = slots.lock().expect("no worker panics");
                        let other = slots.held.insert(slot, token);
                        ensure!(other.is_none(), "slot {slot} is held twice");
                        let before = slots.tokens.insert(slot, token).unwrap_or_default();
                        ensure!(token > before, "slot {slot}: {token} after {before}");
                        slots.held_max = slots.held_max.max(slots.held.len());
                        slots.grants.push(token);
                    }
                    sleep(Duration::from_millis(50)).await;
                    slots.lock().expect("no worker panics").held.remove(&slot);
                    permit.release().await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(worker) = workers.join_next().await {
            worker??;
        }
        let mut slots = std::mem::take(&mut *slots.lock().expect("no worker panics"));
        ensure!(slots.tokens.keys().eq([0, 1, 2].iter()), "slots {:?}", slots.tokens);
        ensure!(slots.held_max == 3, "{} of 3 permits were held at once", slots.held_max);
        slots.grants.sort_unstable();
        slots.grants.dedup();
        ensure!(slots.grants.len() == 24, "{} tokens for 24 grants", slots.grants.len());
        let left = patient(cluster).await?.scan("semaphore/{semaphores/many}").collect().await?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    });
}

#[test]
fn permits_are_given_in_the_order_in_which_they_were_asked_for() {
    const NAME: &str = "semaphores/order";
    shared(async |cluster| {
        let client = patient(cluster).await?;
        let first = client.semaphore(NAME, 1).acquire().await?;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiters = tokio::task::JoinSet::new();
        for n in 0..4 {
            let (waiter, order) = (patient(cluster).await?, order.clone());
            waiters.spawn(async move {
                let permit = waiter.semaphore(NAME, 1).acquire().await?;
                order.lock().expect("no waiter panics").push((n, permit.fencing_token()));
                permit.release().await
            });
            once(&client, NAME, |state| state.waiters == n + 1).await?;
        }
        let refused = client.semaphore(NAME, 1).try_acquire().await?;
        let state = refused.err().context("two hold one permit")?;
        ensure!(state.holders.len() == 1 && state.waiters == 4, "{state:?}");
        first.release().await?;
        while let Some(waiter) = waiters.join_next().await {
            waiter??;
        }
        let order = std::mem::take(&mut *order.lock().expect("no waiter panics"));
        ensure!(order.iter().map(|(n, _)| *n).eq(0..4), "{order:?}");
        ensure!(order.is_sorted_by(|a, b| a.1 < b.1), "{order:?}");
        Ok(())
    });
}

#[test]
fn the_permit_of_a_killed_holder_comes_back_after_its_ttl_and_not_before() {
    const NAME: &str = "semaphores/killed";
    shared(async |cluster| {
        let (client, cli) = (patient(cluster).await?, cluster.cli());
        let hold = ["lock", NAME, "--permits", "2", "--ttl", "2s", "--", "sleep", "9"];
        let mut doomed = cli.start(hold)?;
        let state = once(&client, NAME, |state| state.holders.len() == 1).await?;
        let (slot, token) = (state.holders[0].slot, state.holders[0].fencing_token);
        let other = cli.start(hold)?;
        once(&client, NAME, |state| state.holders.len() == 2).await?;
        let show = "echo $HOLDFAST_SLOT $HOLDFAST_FENCING_TOKEN";
        let next = ["lock", NAME, "--permits", "2", "--ttl", "2s", "--", "sh", "-c", show];
        let next = cli.start(next)?;
        once(&client, NAME, |state| state.waiters == 1).await?;
        doomed.kill()?;
        let killed = Instant::now();
        let finished = tokio::task::spawn_blocking(move || next.finish()).await??;
        let waited = killed.elapsed();
        // It was renewed at most a third of its TTL before.
        ensure!(waited >= Duration::from_millis(1_200), "granted {waited:?} after the kill");
        ensure!(waited < Duration::from_secs(6), "granted {waited:?} after the kill");
        let printed = finished.expect_code(0)?.text();
        let (new_slot, new_token) = printed.trim().split_once(' ').context("slot and token")?;
        ensure!(new_slot == slot.to_string(), "slot {new_slot}, not {slot}");
        ensure!(new_token.parse::<u64>()? > token, "{new_token} after {token}");
        drop(other);
        Ok(())
    });
}

#[test]
fn a_holder_whose_lease_has_ended_is_told() {
    const NAME: &str = "semaphores/lost";
    shared(async |cluster| {
        let client = patient(cluster).await?;
        let permit = client.semaphore(NAME, 2).ttl(Duration::from_secs(2)).acquire().await?;
        ensure!(!permit.is_lost());
        let slot = client.get("semaphore/{semaphores/lost}/slots/0").await?;
        let lease = slot.and_then(|slot| slot.lease).context("a slot is bound to a lease")?;
        client.lease(lease).revoke().await?;
        timeout(PATIENCE, permit.lost()).await?;
        ensure!(permit.is_lost());
        let next = client.semaphore(NAME, 2).acquire().await?;
        ensure!(next.fencing_token() > permit.fencing_token());
        // There is nothing left to give back, and the next one's is not touched.
        permit.release().await?;
        ensure!(client.semaphore(NAME, 2).inspect().await?.holders.len() == 1);
        Ok(())
    });
}

#[test]
fn another_number_of_permits_is_refused_while_anyone_holds_one() {
    const NAME: &str = "semaphores/number";
    shared(async |cluster| {
        let client = patient(cluster).await?;
        let permit = client.semaphore(NAME, 2).acquire().await?;
        let refused = client.semaphore(NAME, 5).acquire().await;
        ensure!(matches!(refused, Err(Error::FailedPrecondition(_))), "{refused:?}");
        ensure!(client.semaphore(NAME, 2).inspect().await?.permits == 2);
        permit.release().await?;
        let permits = client.semaphore(NAME, 5).acquire().await?;
        ensure!(client.semaphore(NAME, 5).inspect().await?.permits == 5);
        drop(permits);
        for permits in [0, 1_001] {
            let invalid = client.semaphore(NAME, permits).acquire().await;
            ensure!(matches!(invalid, Err(Error::Invalid(_))), "{invalid:?}");
        }
        Ok(())
    });
}

#[test]
fn who_gives_up_waiting_has_left_the_queue() {
    const NAME: &str = "semaphores/given-up";
    shared(async |cluster| {
        let (client, cli) = (patient(cluster).await?, cluster.cli());
        let permit = client.semaphore(NAME, 1).value("ann").acquire().await?;
        let words = "--timeout 500ms lock semaphores/given-up --permits 1 -- true";
        let refused = cli.run(words)?.expect_code(1)?;
        ensure!(refused.stderr.contains("ann"), "{}", refused.stderr);
        let state = client.semaphore(NAME, 1).inspect().await?;
        ensure!(state.waiters == 0, "{state:?}");
        let mut waiting = cli.start(["lock", NAME, "--permits", "1", "--", "true"])?;
        once(&client, NAME, |state| state.waiters == 1).await?;
        ensure!(waiting.is_running());
        waiting.interrupt()?;
        waiting.finish()?.expect_code(130)?;
        let state = client.semaphore(NAME, 1).inspect().await?;
        ensure!(state.waiters == 0, "{state:?}");
        permit.release().await?;
        Ok(())
    });
}

#[test]
fn holders_and_waiters_outlive_the_leader_of_their_range() {
    const NAME: &str = "semaphores/leader";
    scenario(Options::nodes(3), async |cluster| {
        let client = patient(cluster).await?;
        let first = client.semaphore(NAME, 1).acquire().await?;
        let waiter = patient(cluster).await?;
        let waiting = tokio::spawn(async move { waiter.semaphore(NAME, 1).acquire().await });
        once(&client, NAME, |state| state.waiters == 1).await?;
        let (leader, _) = cluster.leader_of(&client, "semaphore/{semaphores/leader}/").await?;
        cluster.node_mut(leader).kill()?;
        let state = client.semaphore(NAME, 1).inspect().await?;
        ensure!(state.holders.len() == 1 && state.waiters == 1, "{state:?}");
        ensure!(state.holders[0].fencing_token == first.fencing_token(), "{state:?}");
        sleep(Duration::from_secs(1)).await;
        ensure!(!waiting.is_finished() && !first.is_lost(), "the permit was handed on");
        let token = first.fencing_token();
        first.release().await?;
        let next = waiting.await??;
        ensure!(next.fencing_token() > token, "{} after {token}", next.fencing_token());
        Ok(())
    });
}
