//! Keyspaces: each is an etcd of its own, and takes nothing that an etcd does not have.

use holdfast_wire::v1;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use super::harness::{Running, all, keys, put, put_request, range, soon};

async fn create(running: &Running, name: &str) {
    let mut cluster = v1::cluster_client::ClusterClient::new(running.channel().await);
    let (name, kind) = (name.to_owned(), v1::KeyspaceKind::Etcd.into());
    let request = v1::CreateKeyspaceRequest { name, kind, ..Default::default() };
    let created = soon(cluster.create_keyspace(request)).await.unwrap().into_inner();
    let keyspace = created.keyspace.unwrap();
    assert_eq!((keyspace.ranges, keyspace.kind()), (1, v1::KeyspaceKind::Etcd));
}

fn within<T>(keyspace: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let keyspace: MetadataValue<_> = keyspace.parse().unwrap();
    request.metadata_mut().insert("holdfast-keyspace", keyspace);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_names_its_keyspace_and_each_is_a_cluster_of_its_own() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    create(&running, "other").await;
    let here = put(&mut kv, "a", "1").await.header.unwrap();
    let there = soon(kv.put(within("other", put_request("b", "2")))).await.unwrap().into_inner();
    let there = there.header.unwrap();
    assert_eq!((here.revision, there.revision), (2, 2));
    assert_ne!(here.cluster_id, there.cluster_id);
    let found = soon(kv.range(within("other", all()))).await.unwrap().into_inner();
    assert_eq!(keys(&found), ["b"]);
    assert_eq!(keys(&range(&mut kv, all()).await), ["a"]);
    let native = soon(kv.put(within("default", put_request("a", "1")))).await.unwrap_err();
    assert_eq!(native.code(), Code::FailedPrecondition);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_has_a_keyspace_of_its_own() {
    let set = "etcd.listen=[{ address = 'HOST:17521', keyspace = 'other' }]";
    let running = Running::start_with(&[set]).await;
    create(&running, "other").await;
    let mut there = super::harness::Kv::new(running.channel_at(17_521).await);
    put(&mut there, "b", "2").await;
    let mut here = running.kv().await;
    assert!(range(&mut here, all()).await.kvs.is_empty());
    let found = soon(here.range(within("other", all()))).await.unwrap().into_inner();
    assert_eq!(keys(&found), ["b"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyspace_of_etcds_kind_takes_neither_ttls_nor_native_locks() {
    let running = Running::start().await;
    let mut native = v1::kv_client::KvClient::new(running.channel().await);
    let put = v1::PutRequest {
        keyspace: "etcd".into(),
        key: "a".into(),
        value: "1".into(),
        ..Default::default()
    };
    let with_ttl = v1::PutRequest { ttl_ms: Some(5_000), ..put.clone() };
    let status = soon(native.put(with_ttl)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    assert!(soon(native.put(put)).await.is_ok());
    let mut locks = v1::lock_client::LockClient::new(running.channel().await);
    let acquire = v1::LockAcquireRequest {
        keyspace: "etcd".into(),
        name: "l".into(),
        owner: "sixteen bytes id".into(),
        ttl_ms: 5_000,
        ..Default::default()
    };
    let status = soon(locks.acquire(acquire)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let found = range(&mut running.kv().await, all()).await;
    assert_eq!((keys(&found), found.header.unwrap().revision), (vec!["a".to_owned()], 2));
    running.stop().await;
}
