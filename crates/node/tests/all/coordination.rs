//! Leases and locks.

use std::time::Duration;

use bytes::Bytes;
use holdfast_runtime::{sleep, spawn};
use holdfast_wire::v1::{self, ErrorCode, lease_client::LeaseClient, lock_client::LockClient};
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::harness::{Running, eventually, get, put, refused};

fn acquire(name: &'static str, owner: u8, ttl_ms: u64, wait: bool) -> v1::LockAcquireRequest {
    v1::LockAcquireRequest {
        name: name.into(),
        owner: vec![owner; 16].into(),
        ttl_ms,
        wait,
        value: Bytes::from(vec![owner]),
        ..Default::default()
    }
}

fn release(name: &'static str, owner: u8, fencing_token: u64) -> v1::LockReleaseRequest {
    v1::LockReleaseRequest {
        name: name.into(),
        owner: vec![owner; 16].into(),
        fencing_token,
        ..Default::default()
    }
}

async fn waiters(lock: &mut LockClient<Channel>, name: &'static str) -> u64 {
    let request = v1::LockInspectRequest { name: name.into(), ..Default::default() };
    lock.inspect(request).await.unwrap().into_inner().state.unwrap().waiters
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_keeps_its_keys_while_it_is_renewed_and_takes_them_along() {
    let running = Running::single().await;
    let mut kv = running.kv().await;
    let mut lease = LeaseClient::new(running.channel().await);
    let grant = v1::LeaseGrantRequest { ttl_ms: 4_000, key: "{t}a".into(), ..Default::default() };
    let id = lease.grant(grant).await.unwrap().into_inner().lease_id;
    let bound = v1::PutRequest { lease_id: id, ..put("{t}a", "x") };
    kv.put(bound.clone()).await.unwrap();
    let look = v1::LeaseTimeToLiveRequest { lease_id: id, keys: true, ..Default::default() };
    let state = lease.time_to_live(look.clone()).await.unwrap().into_inner();
    assert!(state.found && state.granted_ttl_ms == 4_000 && state.keys == ["{t}a"]);
    for _ in 0..3 {
        sleep(Duration::from_millis(1_500)).await;
        let renew = v1::LeaseKeepAliveRequest { lease_id: id, ..Default::default() };
        let mut answers = lease.keep_alive(tokio_stream::once(renew)).await.unwrap().into_inner();
        let answer = answers.message().await.unwrap().unwrap();
        assert!(answer.ttl_ms > 2_000 && answer.error.is_none(), "{answer:?}");
    }
    assert!(kv.get(get("{t}a")).await.unwrap().into_inner().found);
    let revoke = v1::LeaseRevokeRequest { lease_id: id, ..Default::default() };
    assert_eq!(lease.revoke(revoke.clone()).await.unwrap().into_inner().deleted, 1);
    assert!(!kv.get(get("{t}a")).await.unwrap().into_inner().found);
    assert!(!lease.time_to_live(look).await.unwrap().into_inner().found);
    let error = lease.revoke(revoke).await.unwrap_err();
    refused(&error, Code::NotFound, ErrorCode::LeaseNotFound);
    let error = kv.put(bound).await.unwrap_err();
    refused(&error, Code::NotFound, ErrorCode::LeaseNotFound);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_in_a_keyspace_of_many_ranges_needs_a_key_to_be_placed_with() {
    let running = Running::single().await;
    let mut lease = LeaseClient::new(running.channel().await);
    let grant = v1::LeaseGrantRequest { ttl_ms: 5_000, ..Default::default() };
    let error = lease.grant(grant.clone()).await.unwrap_err();
    refused(&error, Code::InvalidArgument, ErrorCode::Invalid);
    let single = v1::LeaseGrantRequest { keyspace: "etcd".into(), lease_id: 77, ..grant };
    assert_eq!(lease.grant(single.clone()).await.unwrap().into_inner().lease_id, 77);
    let error = lease.grant(single).await.unwrap_err();
    refused(&error, Code::FailedPrecondition, ErrorCode::AlreadyExists);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_excludes_a_second_holder_and_hands_over_on_release_with_a_larger_token() {
    let running = Running::single().await;
    let mut lock = LockClient::new(running.channel().await);
    let first = lock.acquire(acquire("l", 1, 10_000, false)).await.unwrap().into_inner();
    assert!(first.acquired && first.fencing_token != 0);
    let again = lock.acquire(acquire("l", 1, 10_000, false)).await.unwrap().into_inner();
    assert_eq!(again.fencing_token, first.fencing_token);
    let other = lock.acquire(acquire("l", 2, 10_000, false)).await.unwrap().into_inner();
    assert!(!other.acquired && other.state.unwrap().owner == vec![1; 16]);
    let mut second = lock.clone();
    let waiting = spawn(async move { second.acquire(acquire("l", 2, 1_000, true)).await });
    let inspected = lock.clone();
    eventually("the second waits", || {
        let mut lock = inspected.clone();
        async move { waiters(&mut lock, "l").await == 1 }
    })
    .await;
    // Longer than the waiter's TTL: its node keeps the place alive.
    sleep(Duration::from_millis(1_500)).await;
    assert_eq!(waiters(&mut lock, "l").await, 1);
    let released = lock.release(release("l", 1, first.fencing_token)).await.unwrap().into_inner();
    assert!(released.released);
    let granted = waiting.await.unwrap().unwrap().into_inner();
    assert!(granted.acquired && granted.fencing_token > first.fencing_token);
    let stale = v1::LockKeepAliveRequest {
        name: "l".into(),
        owner: vec![1; 16].into(),
        fencing_token: first.fencing_token,
        ..Default::default()
    };
    let error = lock.keep_alive(stale).await.unwrap_err();
    refused(&error, Code::FailedPrecondition, ErrorCode::LockNotHeld);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_that_goes_away_leaves_the_queue_long_before_its_ttl() {
    let running = Running::single().await;
    let mut lock = LockClient::new(running.channel().await);
    lock.acquire(acquire("l", 1, 60_000, false)).await.unwrap();
    let mut second = LockClient::new(running.channel().await);
    let waiting = spawn(async move { second.acquire(acquire("l", 2, 60_000, true)).await });
    let inspected = lock.clone();
    let count = |wanted: u64| {
        let lock = inspected.clone();
        move || {
            let mut lock = lock.clone();
            async move { waiters(&mut lock, "l").await == wanted }
        }
    };
    eventually("the second waits", count(1)).await;
    waiting.abort();
    eventually("the second is gone from the queue", count(0)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_with_the_deadline_and_gives_the_place_up() {
    let running = Running::single().await;
    let mut lock = LockClient::new(running.channel().await);
    lock.acquire(acquire("l", 1, 60_000, false)).await.unwrap();
    let mut request = Request::new(acquire("l", 2, 60_000, true));
    request.set_timeout(Duration::from_millis(800));
    let answer = lock.acquire(request).await.unwrap().into_inner();
    assert!(!answer.acquired && answer.state.unwrap().owner == vec![1; 16]);
    assert_eq!(waiters(&mut lock, "l").await, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_lock_goes_to_the_waiter() {
    let running = Running::single().await;
    let mut lock = LockClient::new(running.channel().await);
    let first = lock.acquire(acquire("l", 1, 1_000, false)).await.unwrap().into_inner();
    let second = lock.acquire(acquire("l", 2, 5_000, true)).await.unwrap().into_inner();
    assert!(second.acquired && second.fencing_token > first.fencing_token);
    running.stop().await;
}
