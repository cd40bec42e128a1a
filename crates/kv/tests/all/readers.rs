//! Readers beside the machine: read points, pages, hiding, what is cached.

use bytes::Bytes;
use holdfast_kv::command::{Command, Compact, Expire, LeaseGrant, Put};
use holdfast_kv::{At, Cached, Error, Operation, ScanRequest};
use holdfast_model::{LeaseId, Revision};

use crate::world::World;

fn put(world: &mut World, key: &str, value: &str, ttl_ms: u64) {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    world.one(Put { key, value, ttl_ms, ..Put::default() });
}

fn keys(world: &World, request: &ScanRequest) -> Vec<String> {
    let page = world.reader().scan(request).expect("scan");
    page.entries.iter().map(|entry| entry.key.escape_ascii().to_string()).collect()
}

#[test]
fn a_read_point_sees_neither_later_writes_nor_later_expiry() {
    let mut world = World::new();
    put(&mut world, "a", "1", 5_000);
    put(&mut world, "b", "1", 0);
    let point = world.reader().point();
    world.clock_ms += 5_000;
    put(&mut world, "b", "2", 0);
    put(&mut world, "c", "2", 0);
    world.one(Expire { keys_max: 10 });
    let then = ScanRequest { at: At::Point(point), ..ScanRequest::new("", "") };
    assert_eq!(keys(&world, &then), ["a", "b"]);
    assert_eq!(keys(&world, &ScanRequest::new("", "")), ["b", "c"]);
    let then = world.reader().get(&"b".into(), At::Point(point)).unwrap().unwrap();
    assert_eq!(then.value, "1");
}

#[test]
fn a_point_that_was_not_reached_is_refused() {
    let mut world = World::new();
    put(&mut world, "a", "1", 0);
    let reader = world.reader();
    let mut point = reader.point();
    point.clock_ms += 1;
    let error = reader.get(&"a".into(), At::Point(point)).unwrap_err();
    assert!(matches!(error, Error::Future { newest: Revision(2) }), "{error}");
    let error = reader.get(&"a".into(), At::Revision(Revision(3))).unwrap_err();
    assert!(error.is_deterministic());
    world.clock_ms += 1;
    world.one(Operation::Noop(()));
    assert!(reader.get(&"a".into(), At::Point(point)).unwrap().is_some());
}

#[test]
fn pages_of_one_point_join_up_whatever_is_written_between() {
    let mut world = World::new();
    for at in 0..10 {
        put(&mut world, &format!("k{at}"), "v", 0);
    }
    let mut request = ScanRequest { limit: 3, ..ScanRequest::new("", "") };
    let mut seen = Vec::new();
    loop {
        let page = world.reader().scan(&request).unwrap();
        seen.extend(page.entries.iter().map(|entry| entry.key.clone()));
        put(&mut world, &format!("k{}x", seen.len()), "new", 0);
        request.at = At::Point(page.point);
        match page.resume {
            Some(key) => request.start = key,
            None => break,
        }
    }
    let expected: Vec<Bytes> = (0..10).map(|at| format!("k{at}").into()).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_page_is_cut_at_its_bytes_but_holds_one_entry() {
    let mut world = World::new();
    let value = "v".repeat(1_000);
    for key in ["a", "b", "c"] {
        put(&mut world, key, &value, 0);
    }
    let cut = |bytes_max| ScanRequest { bytes_max, ..ScanRequest::new("", "") };
    assert_eq!(keys(&world, &cut(1)), ["a"]);
    assert_eq!(keys(&world, &cut(2_500)), ["a", "b"]);
    assert_eq!(keys(&world, &cut(0)), ["a", "b", "c"]);
}

#[test]
fn a_page_over_many_hidden_keys_ends_with_a_place_to_go_on() {
    let mut world = World::new();
    for from in (0..12_000).step_by(1_000) {
        world.command(Command::batch((from..from + 1_000).map(|at| {
            let key = format!("k{at:05}").into();
            Operation::Put(Put { key, ttl_ms: 1_000, ..Put::default() })
        })));
    }
    put(&mut world, "z", "v", 0);
    world.clock_ms += 1_000;
    world.one(Operation::Noop(()));
    let mut request = ScanRequest::new("", "");
    let first = world.reader().scan(&request).unwrap();
    assert!(first.entries.is_empty());
    request.start = first.resume.expect("a place to go on");
    let second = world.reader().scan(&request).unwrap();
    assert_eq!((second.entries.len(), second.resume), (1, None));
}

#[test]
fn cached_reads_answer_from_memory_and_say_when_they_cannot() {
    let mut world = World::new();
    put(&mut world, "a", "1", 0);
    let read = |world: &World| world.reader().get_cached(&"a".into(), At::Current).unwrap();
    assert!(matches!(read(&world), Cached::Answer(Some(_))));
    world.flush();
    let world = world.after_power_cut(1);
    assert_eq!(read(&world), Cached::NeedsIo);
    let entry = world.reader().get(&"a".into(), At::Current).unwrap();
    assert_eq!(read(&world), Cached::Answer(entry));
}

#[test]
fn keys_of_a_lease_come_in_pages() {
    let mut world = World::new();
    world.one(LeaseGrant { id: 1, ttl_ms: 60_000 });
    world.one(LeaseGrant { id: 2, ttl_ms: 60_000 });
    for key in ["a", "b", "c"] {
        world.one(Put { key: key.into(), lease: 1, ..Put::default() });
    }
    world.one(Put { key: "d".into(), lease: 2, ..Put::default() });
    let reader = world.reader();
    let page = |after: &'static str| reader.lease_keys(LeaseId(1), &after.into(), 2).unwrap();
    assert_eq!(page(""), ["a", "b"]);
    assert_eq!(page("b"), ["c"]);
    assert!(page("c").is_empty());
    let leases = reader.leases(LeaseId(1), 10).unwrap();
    assert_eq!(leases.iter().map(|lease| lease.id.0).collect::<Vec<_>>(), [2]);
}

#[test]
fn the_next_due_time_is_found_behind_many_replaced_ones() {
    let mut world = World::new();
    for round in 0..6 {
        world.clock_ms += 10;
        world.command(Command::batch((0..1_000).map(|at| {
            let key = format!("k{at}").into();
            Operation::Put(Put { key, ttl_ms: 5_000, ..Put::default() })
        })));
        let due = world.reader().next_due_ms().unwrap();
        assert_eq!(due, Some(world.clock_ms + 5_000), "round {round}");
    }
    put(&mut world, "early", "v", 1_000);
    assert_eq!(world.reader().next_due_ms().unwrap(), Some(world.clock_ms + 1_000));
}

#[test]
fn what_is_waited_for_is_told_apart_from_keys_that_are_due() {
    let mut world = World::new();
    let operations: [Operation; 2] = [
        LeaseGrant { id: 1, ttl_ms: 9_000 }.into(),
        Put { key: "k".into(), ttl_ms: 4_000, ..Put::default() }.into(),
    ];
    let envelope = world.envelope(vec![Command::batch(operations)]);
    let result = world.apply(vec![envelope]);
    let (key_ms, lease_ms) = (world.clock_ms + 4_000, world.clock_ms + 9_000);
    assert_eq!((result.due_ms, result.urgent_due_ms), (Some(key_ms), Some(lease_ms)));
    let reader = world.reader();
    let due = (reader.next_due_ms().unwrap(), reader.next_urgent_due_ms().unwrap());
    assert_eq!(due, (result.due_ms, result.urgent_due_ms));
    let put = Command::single(Put { key: "l".into(), ttl_ms: 1_000, ..Put::default() });
    let envelope = world.envelope(vec![put]);
    assert_eq!(world.apply(vec![envelope]).urgent_due_ms, None);
}

#[test]
fn many_keys_are_read_at_one_state() {
    let mut world = World::new();
    put(&mut world, "a", "1", 1_000);
    put(&mut world, "b", "1", 0);
    world.clock_ms += 1_000;
    world.one(Operation::Noop(()));
    let asked = ["b", "a", "x", "b"].map(Bytes::from);
    let found = world.reader().multi_get(&asked, At::Current).unwrap();
    let found: Vec<bool> = found.iter().map(Option::is_some).collect();
    assert_eq!(found, [true, false, false, true]);
    let found = world.reader().multi_get(&asked, At::Current).unwrap();
    let cached = world.reader().multi_get_cached(&asked, At::Current).unwrap();
    let in_memory: Vec<_> = found.into_iter().map(Cached::Answer).collect();
    assert_eq!(cached, in_memory, "nothing was flushed");
}

#[test]
fn a_history_has_one_hash_whatever_compaction_has_dropped() {
    let fill = |world: &mut World| {
        for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")] {
            put(world, key, value, 0);
        }
    };
    let (mut one, mut other) = (World::new(), World::new());
    fill(&mut one);
    fill(&mut other);
    other.flush();
    let hash = |world: &World, revision| world.reader().history_hash(Revision(revision)).unwrap();
    assert_eq!(hash(&one, 0), hash(&other, 0));
    assert_eq!(hash(&one, 0), hash(&one, 5));
    assert_ne!(hash(&one, 4).hash, hash(&one, 5).hash);
    let older = hash(&one, 4);
    put(&mut one, "d", "1", 0);
    assert_eq!(hash(&one, 4), older, "what comes later is not covered");
    for world in [&mut one, &mut other] {
        world.one(Compact { revision: 4 });
    }
    other.flush();
    assert_eq!(hash(&one, 5), hash(&other, 5));
    assert_eq!(hash(&one, 5).compacted, Revision(4));
    let error = one.reader().history_hash(Revision(3)).unwrap_err();
    assert!(matches!(error, Error::Compacted { oldest: Revision(4) }), "{error}");
    let error = one.reader().history_hash(Revision(7)).unwrap_err();
    assert!(matches!(error, Error::Future { newest: Revision(6) }), "{error}");
}
