//! Service `Lock`.

use holdfast_wire::etcd::etcdserverpb::LeaseGrantRequest;
use holdfast_wire::etcd::v3lockpb::lock_client::LockClient;
use holdfast_wire::etcd::v3lockpb::{LockRequest, LockResponse, UnlockRequest};
use tonic::Code;
use tonic::transport::Channel;

use super::harness::{Running, all, keys, range, soon};

async fn grant(running: &Running, id: i64) {
    let grant = LeaseGrantRequest { ttl: 60, id };
    soon(running.leases().await.lease_grant(grant)).await.unwrap();
}

async fn lock(mut client: LockClient<Channel>, lease: i64) -> LockResponse {
    let request = LockRequest { name: "door".into(), lease };
    soon(client.lock(request)).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_goes_from_one_owner_to_the_next_in_the_order_of_their_asking() {
    let running = Running::start().await;
    let client = LockClient::new(running.channel().await);
    for id in [10, 11, 12] {
        grant(&running, id).await;
    }
    let first = lock(client.clone(), 10).await;
    assert_eq!(first.key.as_ref(), b"door/a");
    assert_eq!(lock(client.clone(), 10).await.key, first.key, "it holds it already");
    let mut waiting = Vec::new();
    for id in [11, 12] {
        waiting.push(tokio::spawn(lock(client.clone(), id)));
        let mut kv = running.kv().await;
        let queued = format!("door/{id:x}");
        soon(async {
            while !keys(&range(&mut kv, all()).await).contains(&queued) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let mut key = first.key;
    for next in waiting {
        assert!(!next.is_finished());
        let request = UnlockRequest { key };
        soon(client.clone().unlock(request)).await.unwrap();
        key = soon(next).await.unwrap().key;
    }
    assert_eq!(key.as_ref(), b"door/c");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_stops_waiting_leaves_the_queue() {
    let running = Running::start().await;
    let client = LockClient::new(running.channel().await);
    grant(&running, 10).await;
    grant(&running, 11).await;
    lock(client.clone(), 10).await;
    let waiting = tokio::spawn(lock(client.clone(), 11));
    let mut kv = running.kv().await;
    soon(async {
        while range(&mut kv, all()).await.kvs.len() < 2 {
            tokio::task::yield_now().await;
        }
        waiting.abort();
        while range(&mut kv, all()).await.kvs.len() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(keys(&range(&mut kv, all()).await), ["door/a"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_bound_to_a_lease_that_is_granted_where_none_is_brought() {
    let running = Running::start().await;
    let client = LockClient::new(running.channel().await);
    let held = lock(client.clone(), 0).await;
    let mut kv = running.kv().await;
    let entry = range(&mut kv, all()).await.kvs.remove(0);
    assert_eq!(entry.key, held.key);
    assert!(entry.lease > 0);
    assert_eq!(held.key, format!("door/{:x}", entry.lease).as_bytes());
    let request = LockRequest { name: "door".into(), lease: 77 };
    let unknown = soon(client.clone().lock(request)).await.unwrap_err();
    assert_eq!(unknown.message(), "etcdserver: requested lease not found");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_has_no_code_of_its_own() {
    let running = Running::start().await;
    let mut client = LockClient::new(running.channel().await);
    let request = LockRequest { name: "door".into(), lease: 4_711 };
    let unleased = soon(client.lock(request)).await.unwrap_err();
    let request = UnlockRequest { key: bytes::Bytes::new() };
    let keyless = soon(client.unlock(request)).await.unwrap_err();
    for (refused, text) in
        [(unleased, "requested lease not found"), (keyless, "key is not provided")]
    {
        assert_eq!(refused.code(), Code::Unknown);
        assert_eq!(refused.message(), format!("etcdserver: {text}"));
    }
    running.stop().await;
}
