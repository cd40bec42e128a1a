//! What is durable, what is applied again, and what is refused before anything is applied.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use holdfast_kv::command::{Command, Envelope, Increment, Put, SessionOpen};
use holdfast_kv::{Applied, At, Error, Kind, LogEntry, LogPosition};
use holdfast_lsm::Staging;
use holdfast_model::{ClientId, LogIndex, ReplicaId, Term};
use prost::Message;

use crate::world::{World, open, position};

fn put(world: &mut World, key: &'static str) {
    world.one(Put { key: key.into(), value: "v".into(), ..Put::default() });
}

#[test]
fn a_fresh_replica_has_applied_nothing() {
    let world = World::bare();
    assert_eq!(world.machine.applied().position, None);
    assert_eq!(world.machine.applied().membership, None);
    assert_eq!(world.machine.durable_applied(), world.machine.applied());
    assert_eq!(world.machine.applied().point.revision.0, 1);
}

#[test]
fn what_was_flushed_is_durable_and_nothing_else() {
    let mut world = World::new();
    put(&mut world, "a");
    assert_eq!(world.machine.durable_applied().position, None);
    world.flush();
    let flushed = world.machine.applied();
    assert_eq!(world.machine.durable_applied(), flushed);
    put(&mut world, "b");
    assert_eq!(world.machine.durable_applied(), flushed);
    assert_ne!(world.machine.applied(), flushed);
    world.log.truncate(2);
    let world = world.after_power_cut(1);
    assert_eq!(world.machine.applied(), flushed);
    assert_eq!(world.machine.durable_applied(), flushed);
}

#[test]
fn terms_and_memberships_survive_with_their_positions() {
    let mut world = World::bare();
    let at = |term, leader, index| LogPosition {
        term: Term(term),
        leader: ReplicaId(leader),
        index: LogIndex(index),
    };
    let member =
        |position, text: &'static str| LogEntry { position, kind: Kind::Membership(text.into()) };
    let blank = |position| LogEntry { position, kind: Kind::Blank };
    let entries = [member(at(0, 0, 0), "founders"), blank(at(1, 7, 1)), blank(at(1, 7, 2))];
    world.machine.apply(&entries, 0).unwrap();
    world.flush();
    let later = [member(at(2, 8, 3), "grown"), blank(at(2, 8, 4))];
    world.machine.apply(&later, 0).unwrap();
    let founders = Some((at(0, 0, 0), Bytes::from("founders")));
    let durable = world.machine.durable_applied();
    assert_eq!((durable.position, durable.membership), (Some(at(1, 7, 2)), founders.clone()));
    let applied = world.machine.applied();
    let grown = Some((at(2, 8, 3), Bytes::from("grown")));
    assert_eq!((applied.position, applied.membership), (Some(at(2, 8, 4)), grown));
    let machine = open(&world.disk.crash(0, 3));
    let Applied { position, membership, .. } = machine.applied();
    assert_eq!((position, membership), (Some(at(1, 7, 2)), founders));
}

#[test]
fn an_entry_that_does_not_continue_the_log_is_refused() {
    let mut world = World::new();
    for index in [0, 1, 3] {
        let entry = LogEntry { position: position(index), kind: Kind::Blank };
        let error = world.machine.apply(&[entry], 0).unwrap_err();
        let expected = LogIndex(2);
        assert!(
            matches!(error, Error::OutOfOrder { expected: e, given } if e == expected
                && given == LogIndex(index)),
            "{error}"
        );
    }
    put(&mut world, "a");
}

#[test]
fn an_entry_this_build_does_not_know_stops_the_call_before_anything_is_applied() {
    let mut world = World::new();
    let fine = world
        .envelope(vec![holdfast_kv::Command::single(Put { key: "a".into(), ..Put::default() })]);
    let newer = Envelope { apply_version: 2, ..fine.clone() }.encode_to_vec();
    // An envelope of one command of one item with the unknown field 127.
    let unknown = vec![0x08, 0x01, 0x1a, 0x05, 0x12, 0x03, 0xfa, 0x07, 0x00];
    // The same of an etcd transaction with a step of the unknown field 127.
    let unknown_step =
        vec![0x08, 0x01, 0x1a, 0x0a, 0x12, 0x08, 0xa2, 0x01, 0x05, 0x12, 0x03, 0xfa, 0x07, 0x00];
    let torn = vec![0x1a, 0xff];
    for (bad, expected) in [
        (newer, "entry needs apply version 2"),
        (unknown, "an operation this build does not know"),
        (unknown_step, "an operation this build does not know"),
        (torn, "cannot be decoded"),
    ] {
        let before = (world.machine.applied(), world.reader().state_hash().unwrap());
        let entries = [fine.encode_to_vec(), bad].map(Bytes::from);
        let entries = [2, 3].into_iter().zip(entries).map(|(index, payload)| LogEntry {
            position: position(index),
            kind: Kind::Normal(payload),
        });
        let error = world.machine.apply(&entries.collect::<Vec<_>>(), 0).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!error.is_deterministic() && !error.is_fatal());
        let after = (world.machine.applied(), world.reader().state_hash().unwrap());
        assert_eq!(before, after);
    }
}

/// Has `receiver` install what `sender` holds.
#[allow(clippy::unwrap_used)] // Clippy does not see that this is test code.
fn take_over(receiver: &mut World, sender: &mut World) {
    sender.flush();
    let snapshot = sender.machine.engine().pin();
    let disk = Arc::new(receiver.disk.clone());
    let staging = Staging::create(disk, Path::new("/staged"), snapshot.manifest()).unwrap();
    for (at, file) in snapshot.files().iter().enumerate() {
        let bytes = snapshot.read_chunk(at, 0, 1 << 16).unwrap();
        staging.write(&file.name, 0, &bytes).unwrap();
    }
    let staged = staging.finish().unwrap();
    receiver.machine.install(&staged, 0).unwrap();
    receiver.log = sender.log.clone();
}

#[test]
fn a_replica_that_takes_a_snapshot_goes_on_as_its_sender() {
    let (mut sender, mut receiver) = (World::new(), World::new());
    for key in ["a", "b", "c"] {
        put(&mut sender, key);
    }
    put(&mut receiver, "stale");
    let reader = receiver.reader();
    take_over(&mut receiver, &mut sender);
    assert_eq!(receiver.machine.applied(), sender.machine.applied());
    assert_eq!(receiver.machine.durable_applied(), sender.machine.applied());
    assert_eq!(reader.state_hash().unwrap(), sender.reader().state_hash().unwrap());
    put(&mut sender, "d");
    put(&mut receiver, "d");
    assert_eq!(reader.state_hash().unwrap(), sender.reader().state_hash().unwrap());
}

#[test]
fn no_state_is_told_while_a_snapshot_takes_its_place() {
    let mut world = World::new();
    put(&mut world, "a");
    let (reader, before) = (world.reader(), world.reader().state_hash().unwrap());
    world.machine.withdraw();
    assert!(matches!(reader.state_hash(), Err(Error::Unsettled)));
    world.machine.replaced().unwrap();
    assert_eq!(reader.state_hash().unwrap(), before);
}

#[test]
fn a_replica_that_takes_a_snapshot_answers_the_retries_of_what_its_sender_did() {
    let (mut sender, mut receiver) = (World::new(), World::new());
    let increment = || {
        let once = Command::single(Increment { key: "n".into(), delta: 1, ..Increment::default() });
        once.in_session(ClientId(1), 1, 1)
    };
    sender.one(SessionOpen { client: Bytes::copy_from_slice(&ClientId(1).to_bytes()) });
    let first = sender.command(increment());
    take_over(&mut receiver, &mut sender);
    assert_eq!(receiver.command(increment()), first);
    let entry = receiver.reader().get(&"n".into(), At::Current).unwrap().unwrap();
    assert_eq!(entry.value, "1");
}

#[test]
fn a_damaged_snapshot_leaves_the_replica_as_it_was() {
    let mut world = World::new();
    put(&mut world, "a");
    let before = world.reader().state_hash().unwrap();
    let error = world.machine.install(Path::new("/nowhere"), 0).unwrap_err();
    assert!(!error.is_deterministic(), "{error}");
    assert_eq!(world.reader().state_hash().unwrap(), before);
    put(&mut world, "b");
}
