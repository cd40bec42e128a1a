//! Services `Cluster` and `Maintenance`: what operators look at.

use holdfast_wire::etcd::etcdserverpb::cluster_client::ClusterClient;
use holdfast_wire::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use holdfast_wire::etcd::etcdserverpb::{
    AlarmRequest, CompactionRequest, DefragmentRequest, HashKvRequest, MemberAddRequest,
    MemberListRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
    MoveLeaderRequest, StatusRequest,
};
use tonic::Code;

use super::harness::{Running, put, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_are_nodes_and_are_not_changed_through_a_keyspace() {
    let running = Running::start().await;
    let mut cluster = ClusterClient::new(running.channel().await);
    let list = MemberListRequest { linearizable: true };
    let listed = soon(cluster.member_list(list)).await.unwrap().into_inner();
    let [member] = listed.members.as_slice() else { panic!("one node: {listed:?}") };
    let header = listed.header.unwrap();
    assert_eq!((member.id, member.is_learner), (header.member_id, false));
    assert_eq!(member.client_ur_ls, [format!("http://{}", running.node.client_address())]);
    let add = MemberAddRequest { peer_ur_ls: vec!["http://h:1".into()], is_learner: false };
    let refused = soon(cluster.member_add(add)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let unknown = soon(cluster.member_remove(MemberRemoveRequest { id: 99 })).await.unwrap_err();
    assert_eq!(unknown.message(), "etcdserver: member not found");
    let bad = MemberAddRequest { peer_ur_ls: vec!["h:1".into()], is_learner: false };
    let refused = soon(cluster.member_add(bad)).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: given member URLs are invalid");
    let (id, peer_ur_ls) = (member.id, member.peer_ur_ls.clone());
    let update = async |cluster: &mut ClusterClient<_>, peer_ur_ls| {
        soon(cluster.member_update(MemberUpdateRequest { id, peer_ur_ls })).await
    };
    assert!(update(&mut cluster, peer_ur_ls).await.is_ok(), "it is so already");
    let moved = update(&mut cluster, vec!["http://h:1".into()]).await.unwrap_err();
    assert_eq!(moved.code(), Code::FailedPrecondition);
    let promote = MemberPromoteRequest { id: member.id };
    let voter = soon(cluster.member_promote(promote)).await.unwrap_err();
    assert_eq!(voter.message(), "etcdserver: can only promote a learner member");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_tells_its_version_its_leader_and_that_nothing_is_wrong() {
    let running = Running::start_with(&["etcd.version=3.6.11"]).await;
    let mut kv = running.kv().await;
    put(&mut kv, "a", "1").await;
    let mut maintenance = MaintenanceClient::new(running.channel().await);
    let status = soon(maintenance.status(StatusRequest {})).await.unwrap().into_inner();
    let header = status.header.unwrap();
    assert_eq!((status.version.as_str(), status.storage_version.as_str()), ("3.6.11", "3.6.0"));
    assert_eq!((status.leader, header.revision), (header.member_id, 2));
    assert!(status.raft_term > 0 && status.raft_applied_index > 0, "{status:?}");
    assert!(status.errors.is_empty() && !status.is_learner, "{status:?}");
    let alarms = soon(maintenance.alarm(AlarmRequest::default())).await.unwrap().into_inner();
    assert!(alarms.alarms.is_empty(), "{alarms:?}");
    assert!(soon(maintenance.defragment(DefragmentRequest {})).await.is_ok());
    let other = MoveLeaderRequest { target_id: 99 };
    let refused = soon(maintenance.move_leader(other)).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: bad leader transferee");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hash_is_that_of_the_keys_at_its_revision() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    for n in 0..30 {
        put(&mut kv, &format!("k{n}"), &"x".repeat(100_000)).await;
    }
    let mut client = MaintenanceClient::new(running.channel().await);
    let mut hash = async |revision| {
        let hashed = soon(client.hash_kv(HashKvRequest { revision })).await;
        hashed.map(tonic::Response::into_inner)
    };
    let before = hash(0).await.unwrap();
    assert_eq!((before.hash_revision, before.compact_revision), (31, -1));
    put(&mut kv, "k3", "y").await;
    let after = hash(0).await.unwrap();
    assert_eq!(after.hash_revision, 32);
    assert_ne!(after.hash, before.hash);
    assert_eq!(hash(31).await.unwrap().hash, before.hash, "history has not changed");
    let compact = CompactionRequest { revision: 32, physical: true };
    soon(kv.compact(compact)).await.unwrap();
    let kept = hash(32).await.unwrap();
    assert_eq!((kept.hash_revision, kept.compact_revision), (32, 32));
    assert_ne!(kept.hash, after.hash, "what is given up no longer counts");
    let gone = hash(31).await.unwrap_err();
    assert_eq!(gone.message(), "etcdserver: mvcc: required revision has been compacted");
    running.stop().await;
}
