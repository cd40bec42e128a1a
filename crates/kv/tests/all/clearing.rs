//! Much that goes at once leaves little behind; what the engine has dropped makes no difference.

use holdfast_kv::command::{Compact, Expire, LeaseGrant, LeaseRevoke, Put};
use holdfast_kv::{At, Command, Outcome};
use holdfast_lsm::Family;
use holdfast_model::{History, Revision, Span};

use crate::world::{World, configure, open, open_tiny, run_jobs};

fn put(key: String, lease: u64, ttl_ms: u64) -> Put {
    Put { key: key.into(), value: vec![b'v'; 100].into(), lease, ttl_ms, ..Put::default() }
}

/// Puts `keys` keys, in entries of a hundred.
fn fill(world: &mut World, keys: u32, lease: u64, ttl_ms: u64) {
    for first in (0..keys).step_by(100) {
        let puts = (first..keys.min(first + 100)).map(|n| {
            let put = put(format!("key-{n:06}"), lease, ttl_ms);
            Command::single(put)
        });
        let envelope = world.envelope(puts.collect());
        world.apply(vec![envelope]);
    }
}

/// Expires what is due as the leader does: step by step.
fn expire(world: &mut World, keys_max: u32) -> u64 {
    let mut expired = 0;
    loop {
        match world.one(Expire { keys_max }) {
            Outcome::Expired { keys, more } => {
                expired += keys;
                if !more {
                    return expired;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

fn live(world: &World, family: Family) -> usize {
    let engine = world.machine.engine();
    let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    engine.scan(family, all, engine.read_point(), false).expect("scan").count()
}

fn used_bytes(world: &World) -> u64 {
    world.machine.engine().stats().level_bytes.iter().sum()
}

#[test]
fn index_of_expired_keys_is_one_interval_and_what_is_not_due_stays() {
    let mut world = World::new();
    fill(&mut world, 2_000, 0, 10_000);
    world.clock_ms += 5_000;
    world.one(put("later".into(), 0, 10_000));
    world.flush();
    world.clock_ms += 6_000;
    assert_eq!(expire(&mut world, 256), 2_000);
    assert_eq!(live(&world, Family::Expiry), 1);
    world.flush();
    let stats = world.machine.engine().stats();
    assert!(stats.range_tombstones <= 1, "{stats:?}");
    world.clock_ms += 5_000;
    assert_eq!(expire(&mut world, 256), 1);
    assert_eq!(live(&world, Family::Expiry), 0);
    let hash = world.reader().state_hash().expect("hash");
    let world = world.after_power_cut(7);
    assert_eq!(world.reader().state_hash().expect("hash"), hash);
}

#[test]
fn attachments_of_a_lease_are_one_interval_and_those_of_others_stay() {
    let mut world = World::new();
    for id in [7, 8, 9] {
        world.one(LeaseGrant { id, ttl_ms: 60_000 });
        for n in 0..200 {
            world.one(put(format!("{id}-{n:03}"), id, 0));
        }
    }
    world.flush();
    let outcome = world.one(LeaseRevoke { id: 8 });
    assert!(matches!(outcome, Outcome::Lease(lease) if lease.keys_removed == 200));
    assert_eq!(live(&world, Family::Lease), 2 * 201);
    // The lease of the same id begins with nothing.
    world.one(LeaseGrant { id: 8, ttl_ms: 60_000 });
    world.one(put("8-new".into(), 8, 0));
    assert_eq!(live(&world, Family::Lease), 2 * 201 + 2);
    world.flush();
    let outcome = world.one(LeaseRevoke { id: 8 });
    assert!(matches!(outcome, Outcome::Lease(lease) if lease.keys_removed == 1));
    let hash = world.reader().state_hash().expect("hash");
    let world = world.after_power_cut(3);
    assert_eq!(world.reader().state_hash().expect("hash"), hash);
}

#[test]
fn lease_that_ends_and_begins_again_within_one_call_keeps_what_it_got_since() {
    let mut world = World::new();
    let grant = LeaseGrant { id: 5, ttl_ms: 60_000 };
    world.one(grant.clone());
    for n in 0..100 {
        world.one(put(format!("old-{n:03}"), 5, 0));
    }
    let commands = vec![
        Command::single(LeaseRevoke { id: 5 }),
        Command::single(grant),
        Command::single(put("old-003".into(), 5, 0)),
        Command::single(put("new".into(), 5, 0)),
    ];
    let envelope = world.envelope(commands);
    world.apply(vec![envelope]);
    assert_eq!(live(&world, Family::Lease), 3);
    let outcome = world.one(LeaseRevoke { id: 5 });
    assert!(matches!(outcome, Outcome::Lease(lease) if lease.keys_removed == 2));
    assert_eq!((live(&world, Family::Lease), live(&world, Family::Data)), (0, 0));
}

#[test]
fn space_of_expired_keys_comes_back_when_history_moves_on_and_nobody_writes() {
    let mut world = World::bare();
    world.machine = open_tiny(&world.disk);
    world.one(configure(Span::ALL, 1, History::Latest));
    fill(&mut world, 10_000, 0, 10_000);
    world.flush();
    let full = used_bytes(&world);
    world.clock_ms += 11_000;
    assert_eq!(expire(&mut world, 256), 10_000);
    run_jobs(&world.machine);
    let newest = world.reader().point().revision;
    assert!(used_bytes(&world) * 2 > full, "history is still kept");
    world.one(Compact { revision: newest.0 });
    run_jobs(&world.machine);
    let left = used_bytes(&world);
    assert!(left * 50 < full, "{left} of {full} bytes: {:?}", world.machine.engine().stats());
    assert_eq!(world.reader().get(&"key-000001".into(), At::Current).expect("get"), None);
}

/// A range that gives up the upper half of the ring, with keys of both halves that expire or live
/// by a lease.
fn halved(drop_foreign: bool) -> World {
    let mut world = World::new();
    let lower = Span::new(0, 1 << 63).expect("span");
    world.one(LeaseGrant { id: 3, ttl_ms: 20_000 });
    fill(&mut world, 300, 0, 10_000);
    for n in 0..300 {
        world.one(put(format!("leased-{n:03}"), 3, 0));
    }
    world.flush();
    world.one(configure(lower, 2, History::Manual));
    if drop_foreign {
        world.flush();
    }
    world
}

#[test]
fn keys_that_moved_away_leave_the_engine_and_replicas_that_still_have_them_do_the_same() {
    let mut worlds = [halved(false), halved(true)];
    let stored = worlds.each_ref().map(|world| live(world, Family::Data));
    assert_eq!(stored[0], 600);
    assert!((200..400).contains(&stored[1]), "{stored:?}");
    let outcomes = worlds.each_mut().map(|world| {
        world.clock_ms += 30_000;
        let expired = expire(world, 100);
        let revoked = world.one(LeaseRevoke { id: 3 });
        (expired, format!("{revoked:?}"), world.reader().point().revision)
    });
    assert_eq!(outcomes[0], outcomes[1]);
    assert!(outcomes[0].2 > Revision(600));
    let hashes = worlds.each_ref().map(|world| world.reader().state_hash().expect("hash"));
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn engine_is_told_of_the_span_again_after_a_power_cut_before_or_after_it_is_durable() {
    let world = halved(true);
    let hash = world.reader().state_hash().expect("hash");
    let kept = live(&world, Family::Data);
    let world = world.after_power_cut(1);
    world.flush();
    assert_eq!(live(&world, Family::Data), kept);
    assert_eq!(world.reader().state_hash().expect("hash"), hash);
    // Without the flush the durable state does not know of the change yet: nothing may go.
    let world = halved(false);
    run_jobs(&world.machine);
    assert_eq!(live(&world, Family::Data), 600);
    assert_eq!(live_after_crash(&world), 600);
    let world = world.after_power_cut(1);
    world.flush();
    assert_eq!(live(&world, Family::Data), kept);
    assert_eq!(world.reader().state_hash().expect("hash"), hash);
}

/// Data keys a machine finds that opens the durable state and applies nothing.
fn live_after_crash(world: &World) -> usize {
    let disk = world.disk.crash(0, 7);
    let machine = open(&disk);
    live(&World { machine, disk, log: Vec::new(), clock_ms: 0 }, Family::Data)
}
