//! Service `Maintenance`: alarms, snapshots, versions.

use bytes::Bytes;
use holdfast_etcd::archive::Archive;
use holdfast_wire::etcd::etcdserverpb::alarm_request::AlarmAction;
use holdfast_wire::etcd::etcdserverpb::downgrade_request::DowngradeAction;
use holdfast_wire::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use holdfast_wire::etcd::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, DowngradeRequest, HashRequest, LeaseGrantRequest,
    PutRequest, SnapshotRequest, StatusRequest,
};
use sha2::{Digest, Sha256};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::harness::{Running, one, put, put_request, range, soon};

type Client = MaintenanceClient<Channel>;

async fn alarm(
    client: &mut Client,
    action: AlarmAction,
    member_id: u64,
    alarm: AlarmType,
) -> Vec<AlarmMember> {
    let request = AlarmRequest { action: action.into(), member_id, alarm: alarm.into() };
    soon(client.alarm(request)).await.unwrap().into_inner().alarms
}

fn raised(member_id: u64, alarm: AlarmType) -> AlarmMember {
    AlarmMember { member_id, alarm: alarm.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_alarm_says_is_so_until_it_is_cleared() {
    let running = Running::start().await;
    let mut client = MaintenanceClient::new(running.channel().await);
    let mut kv = running.kv().await;
    put(&mut kv, "a", "1").await;
    assert!(alarm(&mut client, AlarmAction::Get, 0, AlarmType::None).await.is_empty());
    let full = raised(9, AlarmType::Nospace);
    assert_eq!(alarm(&mut client, AlarmAction::Activate, 9, AlarmType::Nospace).await, [full]);
    let refused = soon(kv.put(put_request("a", "2"))).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded");
    assert_eq!(range(&mut kv, one("a")).await.count, 1);
    alarm(&mut client, AlarmAction::Activate, 9, AlarmType::Corrupt).await;
    let refused = soon(kv.range(one("a"))).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::DataLoss, "etcdserver: corrupt cluster")
    );
    let status = soon(client.status(StatusRequest {})).await.unwrap().into_inner();
    assert!(status.db_size_quota > status.db_size, "there is room on the disk");
    assert_eq!(status.errors, ["memberID:9 alarm:NOSPACE", "memberID:9 alarm:CORRUPT"]);
    let listed = alarm(&mut client, AlarmAction::Get, 0, AlarmType::None).await;
    assert_eq!(listed, [full, raised(9, AlarmType::Corrupt)]);
    for found in listed {
        let (member, kind) = (found.member_id, found.alarm());
        assert_eq!(alarm(&mut client, AlarmAction::Deactivate, member, kind).await, [found]);
        assert!(alarm(&mut client, AlarmAction::Deactivate, member, kind).await.is_empty());
    }
    put(&mut kv, "a", "2").await;
    running.stop().await;
}

/// What a snapshot sends, and the SHA-256 behind it.
async fn snapshot(client: &mut Client) -> Result<(Bytes, Bytes), Status> {
    let mut stream = soon(client.snapshot(SnapshotRequest {})).await?.into_inner();
    let (mut all, mut remaining) = (Vec::new(), Vec::new());
    while let Some(part) = soon(stream.message()).await? {
        assert!(part.blob.len() <= 32 * 1_024 && part.header.is_none());
        all.extend_from_slice(&part.blob);
        remaining.push(part.remaining_bytes);
    }
    assert_eq!(remaining.pop(), Some(0));
    assert!(!remaining.contains(&0), "what comes was not announced");
    // As etcd's clients tell that there is a hash.
    assert_eq!(all.len() % 512, 32);
    let mut all = Bytes::from(all);
    let sum = all.split_off(all.len() - 32);
    Ok((all, sum))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_holds_every_key_and_lease_and_the_hash_of_itself() {
    let running = Running::start().await;
    let mut kv = running.kv().await;
    let grant = LeaseGrantRequest { ttl: 600, id: 77 };
    soon(running.leases().await.lease_grant(grant)).await.unwrap();
    // More than is read at once.
    for n in 0..30 {
        put(&mut kv, &format!("k{n:02}"), &"x".repeat(100_000)).await;
    }
    let leased = PutRequest { lease: 77, ..put_request("leased", "y") };
    soon(kv.put(leased)).await.unwrap();
    put(&mut kv, "k00", "again").await;
    let mut client = MaintenanceClient::new(running.channel().await);
    let (bytes, sum) = snapshot(&mut client).await.unwrap();
    assert_eq!(Sha256::digest(&bytes).as_slice(), sum.as_ref());
    let archive = Archive::read(bytes).unwrap();
    assert_eq!((archive.head.keyspace.as_str(), archive.head.revision), ("etcd", 33));
    let all = range(&mut kv, super::harness::all()).await;
    assert_eq!(archive.entries, all.kvs);
    assert_eq!(all.count, 31);
    let leases: Vec<_> = archive.leases.iter().map(|one| (one.id, one.ttl_ms)).collect();
    assert_eq!(leases, [(77, 600_000)]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_keyspace_has_a_snapshot_too() {
    let running = Running::start().await;
    let mut client = MaintenanceClient::new(running.channel().await);
    let (bytes, sum) = snapshot(&mut client).await.unwrap();
    assert_eq!(Sha256::digest(&bytes).as_slice(), sum.as_ref());
    let archive = Archive::read(bytes).unwrap();
    assert!(archive.entries.is_empty() && archive.leases.is_empty());
    assert_eq!(archive.head.revision, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_state_has_a_hash_that_leases_change_too() {
    let running = Running::start().await;
    let mut client = MaintenanceClient::new(running.channel().await);
    let mut hash = async || {
        let answer = soon(client.hash(HashRequest {})).await.unwrap().into_inner();
        (answer.hash, answer.header.unwrap().revision)
    };
    let (before, revision) = hash().await;
    let grant = LeaseGrantRequest { ttl: 600, id: 77 };
    soon(running.leases().await.lease_grant(grant)).await.unwrap();
    let (after, same) = hash().await;
    assert_ne!(before, after);
    assert_eq!((revision, same), (1, 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_way_to_an_older_version() {
    let running = Running::start_with(&["etcd.version=3.6.11"]).await;
    let mut client = MaintenanceClient::new(running.channel().await);
    let mut ask = async |action: DowngradeAction, version: &str| {
        let request = DowngradeRequest { action: action.into(), version: version.to_owned() };
        soon(client.downgrade(request)).await.map(tonic::Response::into_inner)
    };
    let message = |answer: Result<_, Status>| match answer {
        Err(status) => status.message().to_owned(),
        Ok(answer) => panic!("{answer:?}"),
    };
    let bad = ask(DowngradeAction::Validate, "three").await;
    assert_eq!(message(bad), "etcdserver: wrong downgrade target version format");
    let far = ask(DowngradeAction::Enable, "3.4").await;
    assert_eq!(message(far), "etcdserver: invalid downgrade target version");
    let next = ask(DowngradeAction::Enable, "3.5.0").await.unwrap_err();
    assert_eq!(next.code(), Code::FailedPrecondition);
    assert_eq!(ask(DowngradeAction::Validate, "3.5").await.unwrap().version, "3.6");
    assert_eq!(ask(DowngradeAction::Cancel, "").await.unwrap().version, "3.6");
    running.stop().await;
}
