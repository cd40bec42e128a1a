//! Leases: keys that live as long as somebody renews.

use holdfast_wire::etcd::etcdserverpb::request_op::Request as Step;
use holdfast_wire::etcd::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest, TxnRequest,
};
use tonic::Code;

use super::harness::{Running, all, keys, put, put_request, range, soon};
use super::watches::Watching;

fn grant(ttl: i64, id: i64) -> LeaseGrantRequest {
    LeaseGrantRequest { ttl, id }
}

fn bound(key: &str, lease: i64) -> PutRequest {
    PutRequest { lease, ..put_request(key, "x") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_has_the_id_it_is_asked_for_or_a_positive_one_and_two_seconds_at_least() {
    let running = Running::start().await;
    let mut leases = running.leases().await;
    let granted = soon(leases.lease_grant(grant(1, 0))).await.unwrap().into_inner();
    assert!(granted.id > 0, "{granted:?}");
    assert_eq!((granted.ttl, granted.header.unwrap().revision), (2, 1));
    let named = soon(leases.lease_grant(grant(60, 7))).await.unwrap().into_inner();
    assert_eq!((named.id, named.ttl), (7, 60));
    let taken = soon(leases.lease_grant(grant(60, 7))).await.unwrap_err();
    assert_eq!(taken.code(), Code::FailedPrecondition);
    assert_eq!(taken.message(), "etcdserver: lease already exists");
    let longest = soon(leases.lease_grant(grant(9_000_000_000, 8))).await.unwrap().into_inner();
    assert_eq!(longest.ttl, 9_000_000_000);
    let longer = soon(leases.lease_grant(grant(9_000_000_001, 9))).await.unwrap_err();
    assert_eq!(
        (longer.code(), longer.message()),
        (Code::OutOfRange, "etcdserver: too large lease TTL")
    );
    let list = soon(leases.lease_leases(LeaseLeasesRequest {})).await.unwrap().into_inner();
    let ids: Vec<_> = list.leases.iter().map(|lease| lease.id).collect();
    assert_eq!(ids, [granted.id, 7, 8], "in the order in which they end");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_lease_takes_its_keys_along_at_one_revision() {
    let running = Running::start().await;
    let (mut leases, mut kv) = (running.leases().await, running.kv().await);
    soon(leases.lease_grant(grant(60, 7))).await.unwrap();
    for key in ["a", "b"] {
        soon(kv.put(bound(key, 7))).await.unwrap();
    }
    put(&mut kv, "c", "x").await;
    let look = |keys| LeaseTimeToLiveRequest { id: 7, keys };
    let state = soon(leases.lease_time_to_live(look(true))).await.unwrap().into_inner();
    assert_eq!((state.granted_ttl, state.keys), (60, vec!["a".into(), "b".into()]));
    assert!((50..=60).contains(&state.ttl), "{}", state.ttl);
    let revoke = LeaseRevokeRequest { id: 7 };
    let revoked = soon(leases.lease_revoke(revoke)).await.unwrap().into_inner();
    assert_eq!(revoked.header.unwrap().revision, 5);
    assert_eq!(keys(&range(&mut kv, all()).await), ["c"]);
    let again = soon(leases.lease_revoke(revoke)).await.unwrap_err();
    assert_eq!(again.message(), "etcdserver: requested lease not found");
    let gone = soon(leases.lease_time_to_live(look(false))).await.unwrap().into_inner();
    assert_eq!((gone.ttl, gone.granted_ttl, gone.id), (-1, 0, 7));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_tells_the_life_that_was_granted_and_none_for_an_unknown_lease() {
    let running = Running::start().await;
    let mut leases = running.leases().await;
    soon(leases.lease_grant(grant(60, 7))).await.unwrap();
    let asked = [7, 8, 7].map(|id| LeaseKeepAliveRequest { id });
    let stream = tokio_stream::iter(asked);
    let mut answers = soon(leases.lease_keep_alive(stream)).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(answer) = soon(answers.message()).await.unwrap() {
        assert!(answer.header.is_some());
        told.push((answer.id, answer.ttl));
    }
    assert_eq!(told, [(7, 60), (8, 0), (7, 60)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_a_lease_that_nobody_renews_go_together() {
    let running = Running::start().await;
    let (mut leases, mut kv) = (running.leases().await, running.kv().await);
    soon(leases.lease_grant(grant(2, 7))).await.unwrap();
    let mut watching = Watching::begin(&running).await;
    watching.create(super::watches::everything()).await;
    for key in ["a", "b"] {
        soon(kv.put(bound(key, 7))).await.unwrap();
    }
    let puts = watching.events(2).await;
    let removals = watching.events(2).await;
    let at = |events: &[super::watches::Seen]| -> Vec<_> {
        events.iter().map(|event| (event.key.clone(), event.is_put, event.revision)).collect()
    };
    assert_eq!(at(&puts), [("a".to_owned(), true, 2), ("b".to_owned(), true, 3)]);
    assert_eq!(at(&removals), [("a".to_owned(), false, 4), ("b".to_owned(), false, 4)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_lease_ends_in_one_revision_and_one_message() {
    const KEYS: usize = 1_000;
    let running = Running::start().await;
    let (mut leases, mut kv) = (running.leases().await, running.kv().await);
    soon(leases.lease_grant(grant(5, 7))).await.unwrap();
    let names: Vec<String> = (0..KEYS).map(|n| format!("k{n:04}")).collect();
    for part in names.chunks(100) {
        let puts = part.iter().map(|key| super::keys::step(Step::RequestPut(bound(key, 7))));
        soon(kv.txn(TxnRequest { success: puts.collect(), ..Default::default() })).await.unwrap();
    }
    let mut watching = Watching::begin(&running).await;
    watching.create(super::watches::everything()).await;
    let ended = watching.answer().await;
    assert_eq!((ended.events.len(), ended.fragment), (KEYS, false));
    let mut gone: Vec<_> = ended.events.into_iter().map(|event| event.kv.unwrap()).collect();
    gone.sort_by(|a, b| a.key.cmp(&b.key));
    for (kv, name) in gone.iter().zip(&names) {
        assert_eq!((kv.key.as_ref(), kv.mod_revision), (name.as_bytes(), 12));
    }
    running.stop().await;
}
