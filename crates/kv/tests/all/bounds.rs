//! What is bounded says so, and nothing beyond the bound happens.

use bytes::Bytes;
use holdfast_kv::command::*;
use holdfast_kv::{Operation, Outcome, Refusal};
use holdfast_model::ClientId;
use holdfast_model::limits::{
    BATCH_OPERATIONS_MAX, RANGE_DELETE_KEYS_MAX, SESSION_UNANSWERED_MAX, SESSIONS_PER_RANGE_MAX,
};

use crate::world::World;

/// Runs `count` operations, as many to a command as a batch may have.
fn run(world: &mut World, count: usize, operation: impl Fn(usize) -> Operation) {
    for from in (0..count).step_by(BATCH_OPERATIONS_MAX) {
        let to = count.min(from + BATCH_OPERATIONS_MAX);
        let outcomes = world.command(Command::batch((from..to).map(&operation)));
        assert!(outcomes.iter().all(|o| !matches!(o, Outcome::Refused(_))), "{:?}", outcomes[0]);
    }
}

fn key(at: usize) -> Bytes {
    format!("k{at:06}").into()
}

#[test]
fn a_range_delete_stops_at_its_bound_and_one_in_a_transaction_is_refused() {
    let mut world = World::new();
    let limit = RANGE_DELETE_KEYS_MAX as u64;
    run(&mut world, RANGE_DELETE_KEYS_MAX + 1, |at| {
        Operation::Put(Put { key: key(at), ..Put::default() })
    });
    let all = DeleteRange::default();
    let success = vec![TxnOperation::DeleteRange(all.clone()).into()];
    let refused = world.one(Txn { success, ..Txn::default() });
    assert_eq!(refused, Outcome::Refused(Refusal::TooManyKeys { limit }));
    let before = world.reader().point().revision;
    let Outcome::Applied(first) = world.one(all.clone()) else { panic!("not applied") };
    assert_eq!((first.count, first.more, first.revision.0), (limit, true, before.0 + 1));
    let Outcome::Applied(second) = world.one(all) else { panic!("not applied") };
    assert_eq!((second.count, second.more, second.revision.0), (1, false, before.0 + 2));
}

#[test]
fn a_lease_takes_no_more_keys_than_a_revoke_removes() {
    let mut world = World::new();
    world.one(LeaseGrant { id: 1, ttl_ms: 60_000 });
    let put = |at| Put { key: key(at), lease: 1, ..Put::default() };
    run(&mut world, RANGE_DELETE_KEYS_MAX, |at| Operation::Put(put(at)));
    let limit = RANGE_DELETE_KEYS_MAX as u64;
    let full = Outcome::Refused(Refusal::LeaseFull { limit });
    assert_eq!(world.one(put(RANGE_DELETE_KEYS_MAX)), full);
    assert!(matches!(world.one(put(0)), Outcome::Applied(_)), "it is attached already");
    let Outcome::Lease(ended) = world.one(LeaseRevoke { id: 1 }) else { panic!("not revoked") };
    assert_eq!(ended.keys_removed, limit);
}

#[test]
fn a_session_has_a_bounded_number_of_unanswered_operations() {
    let mut world = World::new();
    let client = ClientId(1);
    world.one(SessionOpen { client: Bytes::copy_from_slice(&client.to_bytes()) });
    let put = |at: u64| {
        let key = Bytes::from(format!("k{at}"));
        Command::single(Put { key, ..Put::default() })
    };
    for seq in 1..=SESSION_UNANSWERED_MAX as u64 {
        let outcome = world.command(put(seq).in_session(client, 1, seq)).remove(0);
        assert!(matches!(outcome, Outcome::Applied(_)));
    }
    let limit = SESSION_UNANSWERED_MAX as u64;
    let next = limit + 1;
    let refused = world.command(put(next).in_session(client, 1, next)).remove(0);
    assert_eq!(refused, Outcome::Refused(Refusal::SessionUnanswered { limit }));
    let retried = world.command(put(7).in_session(client, 1, 7)).remove(0);
    assert!(matches!(retried, Outcome::Applied(_)), "a retry needs no room");
    let admitted = world.command(put(next).in_session(client, 2, next)).remove(0);
    assert!(matches!(admitted, Outcome::Applied(_)), "a raised watermark makes room");
}

#[test]
fn a_full_session_table_refuses_open_and_keeps_the_living() {
    let mut world = World::new();
    let client = |at: usize| Bytes::copy_from_slice(&ClientId(at as u128).to_bytes());
    run(&mut world, SESSIONS_PER_RANGE_MAX, |at| {
        Operation::SessionOpen(SessionOpen { client: client(at) })
    });
    let limit = SESSIONS_PER_RANGE_MAX as u64;
    let refused = world.one(SessionOpen { client: client(SESSIONS_PER_RANGE_MAX) });
    assert_eq!(refused, Outcome::Refused(Refusal::SessionTableFull { limit }));
    let first = world.one(SessionKeepAlive { client: client(0), watermark: 0 });
    assert!(matches!(first, Outcome::Session { .. }));
}

#[test]
fn a_lock_has_a_bounded_queue_from_which_the_dead_are_dropped() {
    let mut world = World::new();
    let acquire = |owner: String, ttl_ms| LockAcquire {
        name: "l".into(),
        owner: owner.into(),
        ttl_ms,
        wait: true,
        ..LockAcquire::default()
    };
    world.one(acquire("holder".into(), 60_000));
    run(&mut world, LOCK_WAITERS_MAX, |at| {
        Operation::LockAcquire(acquire(at.to_string(), if at == 5 { 1_000 } else { 30_000 }))
    });
    let limit = LOCK_WAITERS_MAX as u64;
    let full = Outcome::Refused(Refusal::LockQueueFull { limit });
    assert_eq!(world.one(acquire("late".into(), 30_000)), full);
    world.clock_ms += 1_000;
    assert!(matches!(world.one(acquire("late".into(), 30_000)), Outcome::Lock(_)));
    assert_eq!(world.one(acquire("later".into(), 30_000)), full);
}

#[test]
fn results_of_a_transaction_are_bounded_in_bytes() {
    let mut world = World::new();
    let value = Bytes::from(vec![7; 10 << 20]);
    for name in ["a", "b"] {
        world.one(Put { key: name.into(), value: value.clone(), ..Put::default() });
    }
    let get = |key: &'static str| TxnOperation::Get(Get { key: key.into() }).into();
    let one = world.one(Txn { success: vec![get("a")], ..Txn::default() });
    assert!(matches!(one, Outcome::Txn(_)));
    let both = world.one(Txn { success: vec![get("a"), get("b")], ..Txn::default() });
    assert!(matches!(both, Outcome::Refused(Refusal::ResultTooLarge { .. })));
}

#[test]
fn one_expire_handles_no_more_than_it_may() {
    let mut world = World::new();
    run(&mut world, 2_500, |at| {
        Operation::Put(Put { key: key(at), ttl_ms: 1_000, ..Put::default() })
    });
    world.clock_ms += 1_000;
    let mut left = 2_500;
    while left > 0 {
        let keys = left.min(1_000);
        left -= keys;
        let outcome = world.one(Expire { keys_max: 1_000 });
        assert_eq!(outcome, Outcome::Expired { keys, more: left > 0 });
    }
    assert_eq!(world.reader().next_due_ms().unwrap(), None);
}
