//! What a batch asks for is read before it is applied, and only before.

use bytes::Bytes;
use holdfast_env::sim::{Effect, Fault, Operation as DiskOperation};
use holdfast_kv::command::{
    Compare, Comparison, Delete, DeleteRange, EtcdCompare, EtcdDelete, EtcdOperation, EtcdPut,
    EtcdRange, EtcdTarget, EtcdTxn, Expire, Get, Increment, LeaseGrant, LeaseRevoke, LockAcquire,
    LockRelease, Put, RangeRead, Renew, Txn, TxnOperation, TxnStep,
};
use holdfast_kv::{Command, Kind, Operation, Outcome};
use prost::Message;

use crate::world::World;

const LEASES: u64 = 8;

fn key(kind: &str, i: u64) -> Bytes {
    format!("{kind}/{i:04}").into()
}

fn put(key: Bytes, lease: u64, ttl_ms: u64) -> Operation {
    // Nothing that packs well, so that there are many blocks.
    let value: Vec<u8> = (0..600_u32).map(|i| (i * i % 251) as u8 ^ key[key.len() - 1]).collect();
    Operation::Put(Put { key, value: value.into(), lease, ttl_ms, ..Put::default() })
}

fn acquire(name: Bytes, owner: &'static str, lease: u64) -> Operation {
    let ttl_ms = if lease == 0 { 60_000 } else { 0 };
    let owner = owner.into();
    Operation::LockAcquire(LockAcquire {
        name,
        owner,
        ttl_ms,
        lease,
        wait: true,
        ..LockAcquire::default()
    })
}

fn step(operation: TxnOperation) -> TxnStep {
    TxnStep { operation: Some(operation) }
}

/// Applies operations as one entry.
fn all(world: &mut World, operations: impl IntoIterator<Item = Operation>) {
    let envelope = world.envelope(operations.into_iter().map(Command::single).collect());
    world.apply(vec![envelope]);
}

/// A state of which nothing is in memory.
fn cold_world() -> World {
    let mut world = World::new();
    let grants = (1..=LEASES).map(|id| Operation::LeaseGrant(LeaseGrant { id, ttl_ms: 600_000 }));
    all(&mut world, grants);
    let puts = (0..200).flat_map(|i| {
        [
            put(key("plain", i), 0, 0),
            put(key("leased", i), i % LEASES + 1, 0),
            put(key("mortal", i), 0, 5_000),
        ]
    });
    all(&mut world, puts);
    let numbers = (0..50).map(|i| {
        Operation::Increment(Increment { key: key("number", i), delta: 1, ..Increment::default() })
    });
    all(&mut world, numbers);
    let locks = (0..50).flat_map(|i| {
        [acquire(key("lock", i), "a", i % LEASES + 1), acquire(key("lock", i), "b", 0)]
    });
    all(&mut world, locks);
    world.flush();
    world.after_power_cut(7)
}

/// A batch that asks for something of every kind.
fn batch() -> Vec<Operation> {
    let nested = Txn {
        compares: vec![Compare { key: key("plain", 101), ..exists() }],
        success: vec![
            step(TxnOperation::Get(Get { key: key("plain", 111) })),
            step(TxnOperation::Delete(Delete { key: key("leased", 121), ..Delete::default() })),
        ],
        failure: Vec::new(),
    };
    let range =
        RangeRead { start: key("plain", 130), end: key("plain", 140), ..RangeRead::default() };
    let txn = Txn {
        compares: vec![Compare { key: key("plain", 150), end: key("plain", 160), ..exists() }],
        success: vec![step(TxnOperation::Txn(nested)), step(TxnOperation::Range(range))],
        failure: vec![step(TxnOperation::Get(Get { key: key("plain", 170) }))],
    };
    let delete_range =
        DeleteRange { start: key("leased", 20), end: key("leased", 40), ..DeleteRange::default() };
    vec![
        put(key("plain", 3), 0, 0),
        put(key("leased", 9), 3, 0),
        put(key("fresh", 1), 4, 0),
        Operation::Delete(Delete { key: key("leased", 13), ..Delete::default() }),
        Operation::Increment(Increment { key: key("number", 7), delta: 5, ..Increment::default() }),
        Operation::DeleteRange(delete_range),
        Operation::Txn(txn),
        Operation::Etcd(etcd()),
        Operation::Renew(Renew { leases: vec![5, 6, 99] }),
        Operation::LeaseRevoke(LeaseRevoke { id: 7 }),
        acquire(key("lock", 11), "c", 2),
        Operation::LockRelease(LockRelease {
            name: key("lock", 12),
            owner: "a".into(),
            ..LockRelease::default()
        }),
        Operation::Expire(Expire { keys_max: 1_000 }),
    ]
}

/// An etcd transaction that asks about an interval and a key, reads, stores and removes.
fn etcd() -> EtcdTxn {
    let exists = |key, range_end| EtcdCompare {
        key,
        range_end,
        comparison: Comparison::Greater.into(),
        target: Some(EtcdTarget::Version(0)),
    };
    let range =
        EtcdRange { key: key("plain", 70), range_end: key("plain", 75), ..EtcdRange::default() };
    let put =
        EtcdPut { key: key("leased", 61), lease: 5, return_previous: true, ..EtcdPut::default() };
    let delete =
        EtcdDelete { key: key("leased", 64), range_end: key("leased", 66), return_previous: true };
    EtcdTxn {
        compares: vec![
            exists(key("plain", 60), key("plain", 64)),
            exists(key("plain", 180), Bytes::new()),
        ],
        success: vec![
            EtcdOperation::Range(range).into(),
            EtcdOperation::Put(put).into(),
            EtcdOperation::DeleteRange(delete).into(),
        ],
        failure: Vec::new(),
    }
}

fn exists() -> Compare {
    use holdfast_kv::command::CompareTarget;
    Compare {
        comparison: Comparison::Greater.into(),
        target: Some(CompareTarget::Version(0)),
        ..Compare::default()
    }
}

/// Puts an entry of `operations` at the end of the log.
fn append(world: &mut World, operations: Vec<Operation>) {
    world.clock_ms += 10_000;
    let envelope = world.envelope(operations.into_iter().map(Command::single).collect());
    world.append(Kind::Normal(envelope.encode_to_vec().into()));
}

#[test]
fn apply_reads_nothing_from_the_disk_once_what_is_cold_was_read() {
    let mut world = cold_world();
    append(&mut world, batch());
    let entries = &world.log[world.log.len() - 1..];
    let mut prepared = world.machine.prepare(entries).unwrap();
    let parts = prepared.take_cold(4);
    assert_eq!(parts.len(), 4, "much is cold, and shared among so many");
    for part in parts {
        prepared.warm(part.read().unwrap());
    }
    let any_read = Fault::new(DiskOperation::Read, Effect::Eio).forever();
    let fault = world.disk.inject(any_read);
    let result = world.machine.apply_prepared(prepared, 0).unwrap();
    assert_eq!(world.disk.fault_struck(fault), 0);
    let outcomes: Vec<Outcome> = result.outcomes.into_iter().flatten().flatten().collect();
    let refused = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Refused(_)));
    assert_eq!(refused.count(), 0, "{outcomes:?}");
    assert!(matches!(outcomes.last(), Some(Outcome::Expired { keys: 200, more: false })));
}

#[test]
fn a_batch_comes_out_the_same_whatever_was_read_before_it() {
    let mut hashes = Vec::new();
    for share in [0, 1, 2, 100] {
        let mut world = cold_world();
        append(&mut world, batch());
        let entries = &world.log[world.log.len() - 1..];
        let mut prepared = world.machine.prepare(entries).unwrap();
        for part in prepared.take_cold(4).into_iter().take(share) {
            prepared.warm(part.read().unwrap());
        }
        let result = world.machine.apply_prepared(prepared, 0).unwrap();
        hashes.push((world.reader().state_hash().unwrap(), format!("{:?}", result.outcomes)));
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
}

#[test]
fn a_batch_whose_keys_are_in_memory_has_nothing_to_read() {
    let mut world = World::new();
    all(&mut world, (0..10).map(|i| put(key("plain", i), 0, 0)));
    append(&mut world, vec![put(key("plain", 3), 0, 0), put(key("plain", 99), 0, 0)]);
    let entries = &world.log[world.log.len() - 1..];
    let mut prepared = world.machine.prepare(entries).unwrap();
    assert!(prepared.take_cold(4).is_empty());
}
