//! Streams of random commands over few keys, clients, leases and locks, so that they meet.

use bytes::Bytes;
use holdfast_kv::Operation;
use holdfast_kv::command::*;
use holdfast_model::ClientId;
use proptest::prelude::*;

use crate::etcd;

/// One command and how much range time passes before it.
#[derive(Clone, Debug)]
pub struct Step {
    pub pause_ms: u64,
    pub command: Command,
}

/// How many cases a property is tried on.
pub fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Up to `most` steps.
pub fn stream(most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..most)
}

fn step() -> impl Strategy<Value = Step> {
    let pause = prop_oneof![4 => Just(0), 3 => 1..1_500u64, 1 => 1_500..20_000u64];
    let tag = (1..3u128, 0..6u64, 0..12u64);
    let operations = prop::collection::vec(operation(), 1..4);
    let (tag, user) = (prop::option::weighted(0.4, tag), prop::option::weighted(0.3, user()));
    (pause, operations, tag, user).prop_map(|(pause_ms, operations, tag, user)| {
        let command = Command { user, ..Command::batch(operations) };
        let command = match tag {
            Some((client, watermark, seq)) => {
                command.in_session(ClientId(client), watermark, watermark + seq)
            }
            None => command,
        };
        Step { pause_ms, command }
    })
}

/// Somebody, admitted under a revision that is mostly young enough.
fn user() -> impl Strategy<Value = User> {
    let name = prop_oneof![4 => Just("root"), 3 => Just("ann"), 1 => Just("")];
    let revision = prop_oneof![3 => Just(u64::MAX), 1 => 1..20u64];
    (name, revision).prop_map(|(name, auth_revision)| User { name: name.into(), auth_revision })
}

fn operation() -> impl Strategy<Value = Operation> {
    let id = 1..4u64;
    prop_oneof![
        8 => put().prop_map(Operation::Put),
        3 => (key(), condition()).prop_map(|(key, condition)| {
            Operation::Delete(Delete { key, return_previous: true, condition })
        }),
        1 => (key(), key()).prop_map(|(start, end)| {
            Operation::DeleteRange(DeleteRange { start, end, return_previous: false })
        }),
        4 => increment().prop_map(Operation::Increment),
        4 => txn().prop_map(Operation::Txn),
        4 => etcd::txn(&[0, 0, 0, 1, 2, 3]).prop_map(Operation::Etcd),
        2 => (id.clone(), ttl()).prop_map(|(id, ttl_ms)| {
            Operation::LeaseGrant(LeaseGrant { id, ttl_ms })
        }),
        1 => Just(Operation::Renew(Renew { leases: vec![1, 2, 3] })),
        1 => id.prop_map(|id| Operation::LeaseRevoke(LeaseRevoke { id })),
        3 => lock().prop_map(Operation::LockAcquire),
        1 => (name(), name()).prop_map(|(name, owner)| {
            Operation::LockKeepAlive(LockKeepAlive { name, owner, token: 0 })
        }),
        2 => (name(), name(), any::<bool>()).prop_map(|(name, owner, queue_only)| {
            Operation::LockRelease(LockRelease { name, owner, token: 0, queue_only })
        }),
        2 => client().prop_map(|client| Operation::SessionOpen(SessionOpen { client })),
        1 => client().prop_map(|client| Operation::SessionClose(SessionClose { client })),
        3 => (1..5u32).prop_map(|keys_max| Operation::Expire(Expire { keys_max })),
        1 => (1..60u64).prop_map(|revision| Operation::Compact(Compact { revision })),
        1 => (0..3, 1..3u64, 0..3).prop_map(|(action, member, kind)| {
            Operation::EtcdAlarm(EtcdAlarm { action, member, kind })
        }),
        4 => auth().prop_map(|change| Operation::EtcdAuth(change.into())),
    ]
}

/// Changes of users; now and then they are asked for.
fn auth() -> impl Strategy<Value = EtcdAuthChange> {
    let user = || prop_oneof![3 => Just("root"), 2 => Just("ann"), 1 => Just("bob")];
    let role = || prop_oneof![3 => Just("root"), 2 => Just("r"), 1 => Just("s")];
    let name = |name: &str| AuthName { name: name.into() };
    let pair = |(user, role): (&str, &str)| AuthUserRole { user: user.into(), role: role.into() };
    let token_key = Bytes::from_static(&[7; AUTH_TOKEN_KEY_BYTES]);
    prop_oneof![
        1 => Just(EtcdAuthChange::Enable(AuthEnable { token_key })),
        1 => Just(EtcdAuthChange::Disable(())),
        1 => Just(EtcdAuthChange::UserList(())),
        3 => user().prop_map(|user| EtcdAuthChange::UserAdd(AuthUserAdd {
            name: user.into(),
            ..AuthUserAdd::default()
        })),
        1 => user().prop_map(move |user| EtcdAuthChange::UserDelete(name(user))),
        3 => (user(), role()).prop_map(move |both| EtcdAuthChange::UserGrantRole(pair(both))),
        1 => (user(), role()).prop_map(move |both| EtcdAuthChange::UserRevokeRole(pair(both))),
        2 => role().prop_map(move |role| EtcdAuthChange::RoleAdd(name(role))),
        1 => role().prop_map(move |role| EtcdAuthChange::RoleDelete(name(role))),
        3 => (role(), 0..3, key(), key()).prop_map(|(role, verb, key, range_end)| {
            let permission = Some(AuthPermission { verb, key, range_end });
            EtcdAuthChange::RoleGrantPermission(AuthRoleGrant { role: role.into(), permission })
        }),
    ]
}

fn put() -> impl Strategy<Value = Put> {
    let lease = prop_oneof![3 => Just(0), 1 => 1..4u64];
    let ttl_ms = prop_oneof![2 => Just(0), 1 => ttl()];
    (key(), 0..20u8, ttl_ms, lease, condition()).prop_map(
        |(key, value, ttl_ms, lease, condition)| {
            let value = Bytes::from(value.to_string());
            let ttl_ms = if lease == 0 { ttl_ms } else { 0 };
            Put { key, value, ttl_ms, lease, return_previous: true, condition }
        },
    )
}

fn increment() -> impl Strategy<Value = Increment> {
    let ttl_ms = prop_oneof![2 => Just(0), 1 => ttl()];
    (key(), -3..3i64, ttl_ms).prop_map(|(key, delta, ttl_ms)| Increment { key, delta, ttl_ms })
}

fn txn() -> impl Strategy<Value = Txn> {
    let steps = || prop::collection::vec(txn_step(), 0..4);
    (key(), 0..3u64, steps(), steps()).prop_map(|(key, version, success, failure)| {
        let target = Some(CompareTarget::Version(version));
        let comparison = Comparison::Equal.into();
        let compares = vec![Compare { key, end: Bytes::new(), comparison, target }];
        Txn { compares, success, failure }
    })
}

fn txn_step() -> impl Strategy<Value = TxnStep> {
    let plain = put().prop_map(|put| Put { condition: None, ..put });
    prop_oneof![
        key().prop_map(|key| TxnOperation::Get(Get { key })),
        (key(), key()).prop_map(|(start, end)| {
            TxnOperation::Range(RangeRead { start, end, limit: 3, keys_only: false })
        }),
        plain.prop_map(TxnOperation::Put),
        key().prop_map(|key| {
            TxnOperation::Delete(Delete { key, return_previous: true, condition: None })
        }),
        (key(), key()).prop_map(|(start, end)| {
            TxnOperation::DeleteRange(DeleteRange { start, end, return_previous: true })
        }),
        increment().prop_map(TxnOperation::Increment),
    ]
    .prop_map(TxnStep::from)
}

fn lock() -> impl Strategy<Value = LockAcquire> {
    let life = prop_oneof![ttl().prop_map(|ttl_ms| (ttl_ms, 0)), (1..4u64).prop_map(|id| (0, id))];
    (name(), name(), life, any::<bool>()).prop_map(|(name, owner, (ttl_ms, lease), wait)| {
        LockAcquire { name, owner, ttl_ms, lease, wait, value: Bytes::new() }
    })
}

fn condition() -> impl Strategy<Value = Option<Condition>> {
    prop_oneof![
        5 => Just(None),
        1 => Just(Some(Condition::IfAbsent(()))),
        1 => (0..30u64).prop_map(|revision| Some(Condition::IfRevision(revision))),
        1 => (0..20u8).prop_map(|v| Some(Condition::IfValue(Bytes::from(v.to_string())))),
    ]
}

fn ttl() -> impl Strategy<Value = u64> {
    1_000..8_000u64
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "b", "c", "d", "e", "f"]).prop_map(Bytes::from)
}

fn name() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["l", "m", "n"]).prop_map(Bytes::from)
}

fn client() -> impl Strategy<Value = Bytes> {
    (1..3u128).prop_map(|id| Bytes::copy_from_slice(&ClientId(id).to_bytes()))
}
