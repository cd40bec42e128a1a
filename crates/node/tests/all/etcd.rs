//! Transactions as etcd means them, through the gateway that adapters work on.

use std::time::Duration;

use holdfast_kv::command::{
    Compact, Comparison, EtcdAlarm, EtcdAlarmAction, EtcdAlarmKind, EtcdCompare, EtcdDelete,
    EtcdOperation, EtcdPut, EtcdRange, EtcdStep, EtcdTarget, EtcdTxn,
};
use holdfast_kv::{Alarm, EtcdOutcome, EtcdResult, Operation, Outcome};
use holdfast_model::Revision;
use holdfast_node::api::{ApiError, Call, EtcdRead, Write};
use holdfast_node::auth::Identity;
use holdfast_runtime::Deadline;

use super::harness::Running;

fn call() -> Call {
    let deadline = Deadline::after(Duration::from_secs(10));
    Call { identity: Identity::ANONYMOUS, deadline, direct: false }
}

fn put(key: &'static str, value: &'static str) -> EtcdStep {
    let (key, value) = (key.into(), value.into());
    EtcdOperation::Put(EtcdPut { key, value, ..EtcdPut::default() }).into()
}

fn all() -> EtcdStep {
    let (key, range_end) = ("\0".into(), "\0".into());
    EtcdOperation::Range(EtcdRange { key, range_end, ..EtcdRange::default() }).into()
}

fn steps(success: Vec<EtcdStep>) -> EtcdTxn {
    EtcdTxn { success, ..EtcdTxn::default() }
}

async fn write(
    running: &Running,
    keyspace: &str,
    operation: impl Into<Operation>,
) -> Result<Outcome, ApiError> {
    let (keyspace, operation) = (keyspace.to_owned(), operation.into());
    let request = Write { keyspace, operation, session: None };
    Ok(running.node.gateway().write(&call(), request).await?.value)
}

async fn read(running: &Running, txn: EtcdTxn) -> Result<EtcdOutcome, ApiError> {
    let request = EtcdRead { keyspace: "etcd".into(), txn, ..EtcdRead::default() };
    let answer = running.node.gateway().etcd_read(&call(), request).await?;
    assert_eq!(answer.header.revision, answer.value.revision);
    Ok(answer.value)
}

fn keys(result: &EtcdResult) -> Vec<String> {
    let EtcdResult::Range { entries, .. } = result else { panic!("{result:?}") };
    entries.iter().map(|entry| String::from_utf8(entry.key.to_vec()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_transaction_wrote_is_read_at_its_revision() {
    let running = Running::single().await;
    let written = write(&running, "etcd", steps(vec![put("a", "1"), put("b", "2")])).await;
    let Outcome::Etcd(written) = written.unwrap() else { panic!("not carried out") };
    assert_eq!((written.revision, written.changed), (Revision(2), true));
    let found = read(&running, steps(vec![all()])).await.unwrap();
    assert_eq!(
        (found.revision, keys(&found.results[0])),
        (Revision(2), vec!["a".into(), "b".into()])
    );
    let compares = vec![EtcdCompare {
        key: "a".into(),
        comparison: Comparison::Equal.into(),
        target: Some(EtcdTarget::ModRevision(2)),
        ..EtcdCompare::default()
    }];
    let (key, range_end) = ("a".into(), "\0".into());
    let delete = EtcdDelete { key, range_end, return_previous: true };
    let success = vec![EtcdOperation::DeleteRange(delete).into()];
    let txn = EtcdTxn { compares, success, failure: vec![put("a", "never")] };
    let Outcome::Etcd(deleted) = write(&running, "etcd", txn).await.unwrap() else {
        panic!("not carried out");
    };
    let EtcdResult::DeleteRange { count, previous, .. } = &deleted.results[0] else {
        panic!("{deleted:?}");
    };
    assert_eq!((*count, previous.len(), deleted.revision), (2, 2, Revision(3)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compacted_revision_is_refused_with_the_oldest_one() {
    let running = Running::single().await;
    for value in ["1", "2", "3"] {
        write(&running, "etcd", steps(vec![put("a", value)])).await.unwrap();
    }
    write(&running, "etcd", Compact { revision: 3 }).await.unwrap();
    let at = |revision| {
        let range = EtcdRange { key: "a".into(), revision, ..EtcdRange::default() };
        steps(vec![EtcdOperation::Range(range).into()])
    };
    assert_eq!(read(&running, at(2)).await, Err(ApiError::Compacted { oldest: 3 }));
    assert_eq!(read(&running, at(9)).await, Err(ApiError::FutureRevision { newest: 4 }));
    assert_eq!(keys(&read(&running, at(3)).await.unwrap().results[0]), ["a"]);
    let again = write(&running, "etcd", Compact { revision: 3 }).await;
    assert_eq!(again, Err(ApiError::Compacted { oldest: 3 }));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_keyspace_of_etcds_kind_has_etcd_transactions() {
    let running = Running::single().await;
    let refused = write(&running, "default", steps(vec![put("a", "1")])).await;
    assert!(matches!(refused, Err(ApiError::FailedPrecondition(_))), "{refused:?}");
    let refused = write(&running, "default", Compact { revision: 2 }).await;
    assert!(matches!(refused, Err(ApiError::Invalid(_))), "{refused:?}");
    let refused = read(&running, steps(vec![put("a", "1")])).await;
    assert!(matches!(refused, Err(ApiError::Invalid(_))), "{refused:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hash_of_a_history_is_told_for_every_revision_that_can_be_read() {
    let running = Running::single().await;
    let gateway = running.node.gateway();
    write(&running, "etcd", steps(vec![put("a", "1")])).await.unwrap();
    let call = call();
    let hash = async |revision| gateway.history_hash(&call, "etcd", Revision(revision)).await;
    let before = hash(0).await.unwrap();
    assert_eq!((before.value.revision, before.header.revision), (Revision(2), Revision(2)));
    write(&running, "etcd", steps(vec![put("a", "2")])).await.unwrap();
    assert_eq!(hash(2).await.unwrap().value, before.value);
    assert_ne!(hash(3).await.unwrap().value.hash, before.value.hash);
    assert_eq!(hash(4).await, Err(ApiError::FutureRevision { newest: 3 }));
    write(&running, "etcd", Compact { revision: 3 }).await.unwrap();
    assert_eq!(hash(2).await, Err(ApiError::Compacted { oldest: 3 }));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_an_alarm_calls_corrupt_is_neither_read_nor_written() {
    let running = Running::single().await;
    let alarm = |action: EtcdAlarmAction| {
        let kind = EtcdAlarmKind::Corrupt.into();
        EtcdAlarm { action: action.into(), member: 1, kind }
    };
    let told = vec![Alarm { kind: EtcdAlarmKind::Corrupt, member: 1 }];
    let raised = write(&running, "etcd", alarm(EtcdAlarmAction::Raise)).await.unwrap();
    assert_eq!(raised, Outcome::Alarms(told.clone()));
    let written = write(&running, "etcd", steps(vec![put("a", "1")])).await;
    assert_eq!(written, Err(ApiError::Corrupt));
    assert_eq!(read(&running, steps(vec![all()])).await, Err(ApiError::Corrupt));
    assert_eq!(running.node.gateway().standing("etcd").alarms, told);
    write(&running, "etcd", alarm(EtcdAlarmAction::Clear)).await.unwrap();
    assert!(read(&running, steps(vec![all()])).await.is_ok());
    running.stop().await;
}
