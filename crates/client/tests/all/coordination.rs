//! Locks and leases.

use std::time::Duration;

use bytes::Bytes;
use holdfast_client::{Error, LeaseId};
use holdfast_wire::v1::{self, ErrorCode};

use crate::mock::{Call, Cluster, Reply, refusal, unknown};

fn released(cluster: &Cluster) -> Vec<Bytes> {
    let released = cluster.asked(|call| match call {
        Call::Release(release) => Some(release.owner.clone()),
        _ => None,
    });
    released.into_iter().map(|(_, owner)| owner).collect()
}

fn owners(cluster: &Cluster) -> Vec<Bytes> {
    let asked = cluster.asked(|call| match call {
        Call::Acquire(acquire) => Some(acquire.owner.clone()),
        _ => None,
    });
    asked.into_iter().map(|(_, owner)| owner).collect()
}

async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        match look() {
            Some(found) => return found,
            None => holdfast_runtime::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[tokio::test]
async fn an_acquirer_asks_again_under_the_same_name() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::Acquire(_), 0) => unknown(),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let guard = client.lock("l").acquire().await.unwrap();
    assert_eq!(guard.fencing_token(), 9);
    let owners = owners(&cluster);
    assert!(owners.len() == 2 && owners[0] == owners[1]);
    guard.release().await.unwrap();
    assert_eq!(released(&cluster), owners[..1]);
}

#[tokio::test]
async fn two_acquirers_of_one_client_are_two_owners() {
    let cluster = Cluster::start(|_, _, _| Reply::Usual).await;
    let client = cluster.client().await;
    let _one = client.lock("l").acquire().await.unwrap();
    let _two = client.lock("l").acquire().await.unwrap();
    let owners = owners(&cluster);
    assert_ne!(owners[0], owners[1]);
}

#[tokio::test]
async fn a_lock_that_is_taken_says_who_has_it() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Acquire(_) => {
            let state = v1::LockState { held: true, value: "bob".into(), ..Default::default() };
            Reply::Acquire(v1::LockAcquireResponse { state: Some(state), ..Default::default() })
        }
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let state = client.lock("l").try_acquire().await.unwrap().unwrap_err();
    assert!(state.held && state.value == "bob");
}

#[tokio::test]
async fn a_dropped_guard_gives_the_lock_back() {
    let cluster = Cluster::start(|_, _, _| Reply::Usual).await;
    let client = cluster.client().await;
    drop(client.lock("l").acquire().await.unwrap());
    let owner = until(|| released(&cluster).pop()).await;
    assert_eq!(owner, owners(&cluster)[0]);
}

#[tokio::test]
async fn a_waiter_that_goes_away_leaves_the_queue() {
    let cluster = Cluster::start(|_, call, _| match call {
        Call::Acquire(_) => Reply::Silence,
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let waiting = client.lock("l").deadline(Duration::from_millis(100)).acquire().await;
    assert!(waiting.is_err());
    let owner = until(|| released(&cluster).pop()).await;
    assert_eq!(owner, owners(&cluster)[0]);
}

#[tokio::test]
async fn a_holder_learns_that_its_lock_is_lost() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::LockAlive(_), 0) => refusal(ErrorCode::NotLeader, 0),
        (Call::LockAlive(_), _) => refusal(ErrorCode::LockNotHeld, 0),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let guard = client.lock("l").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    assert!(!guard.is_lost());
    guard.lost().await;
    assert!(guard.is_lost());
}

#[tokio::test]
async fn a_holder_cut_off_takes_its_lock_for_lost_when_its_time_is_over() {
    let cluster = Cluster::start(|_, _, _| Reply::Usual).await;
    let client = cluster.client().await;
    let guard = client.lock("l").ttl(Duration::from_secs(1)).acquire().await.unwrap();
    for node in 1..=3 {
        cluster.kill(node);
    }
    guard.lost().await;
}

#[tokio::test]
async fn a_lease_that_has_ended_is_not_renewed() {
    let cluster = Cluster::start(|_, call, before| match (call, before) {
        (Call::LeaseAlive(_), 0) => refusal(ErrorCode::NotLeader, 0),
        (Call::LeaseAlive(renew), 1) => {
            let answer = v1::LeaseKeepAliveResponse {
                lease_id: renew.lease_id,
                ttl_ms: 7_000,
                ..Default::default()
            };
            Reply::LeaseAlive(answer)
        }
        (Call::LeaseAlive(_), _) => Reply::LeaseAlive(v1::LeaseKeepAliveResponse::default()),
        _ => Reply::Usual,
    })
    .await;
    let client = cluster.client().await;
    let lease = client.lease(LeaseId::new(5 << 60, 1));
    assert_eq!(lease.renew().await.unwrap(), Duration::from_secs(7));
    assert!(matches!(lease.renew().await, Err(Error::LeaseNotFound(_))));
    let alive = lease.keep_alive();
    alive.lost().await;
    assert!(alive.is_lost());
}
