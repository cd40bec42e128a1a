//! A mutation inside a session happens once, whatever is sent twice, late or after a crash.

use holdfast_kv::command::{Command, Increment, LockAcquire, SessionOpen, Txn, TxnOperation};
use holdfast_kv::{Operation, Outcome, Refusal};
use holdfast_model::ClientId;
use proptest::prelude::*;
use std::collections::BTreeMap;

use crate::stream::cases;
use crate::world::World;

fn open(world: &mut World, client: u128) {
    let client = bytes::Bytes::copy_from_slice(&ClientId(client).to_bytes());
    assert!(matches!(world.one(SessionOpen { client }), Outcome::Session { .. }));
}

fn increment() -> Increment {
    Increment { key: "n".into(), delta: 1, ttl_ms: 0 }
}

/// What a client sends under number `seq`.
fn operation(seq: u64) -> Operation {
    match seq % 3 {
        0 => Operation::Increment(increment()),
        1 => {
            let success = vec![TxnOperation::Increment(increment()).into()];
            Operation::Txn(Txn { success, ..Txn::default() })
        }
        _ => Operation::LockAcquire(LockAcquire {
            name: "l".into(),
            owner: seq.to_string().into(),
            ttl_ms: 1_000,
            wait: true,
            ..LockAcquire::default()
        }),
    }
}

/// How much an outcome says was added.
fn added(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Applied(_) | Outcome::Txn(_) => 1,
        _ => 0,
    }
}

/// The part of an outcome that must not differ between attempts.
fn fixed(outcome: &Outcome) -> Outcome {
    match outcome.clone() {
        // The lock is shown as it is now; the standing is the one of the first attempt.
        Outcome::Lock(mut lock) => {
            lock.state = Default::default();
            Outcome::Lock(lock)
        }
        other => other,
    }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn attempts_of_one_number_run_once_and_answer_alike(
        attempts in prop::collection::vec((1..3u128, 1..15u64, 0..8u64), 1..60),
        crash_every in 5..20usize,
    ) {
        let mut world = World::new();
        open(&mut world, 1);
        open(&mut world, 2);
        let mut first: BTreeMap<(u128, u64), Outcome> = BTreeMap::new();
        let mut watermarks: BTreeMap<u128, u64> = BTreeMap::new();
        let mut expected = 0;
        for (at, (client, seq, watermark)) in attempts.into_iter().enumerate() {
            let command = Command::single(operation(seq));
            let outcome = world
                .command(command.in_session(ClientId(client), watermark, seq))
                .remove(0);
            let known = watermarks.entry(client).or_default();
            *known = watermark.max(*known);
            if seq < *known {
                let watermark = *known;
                prop_assert_eq!(outcome, Outcome::Refused(Refusal::SessionStale { watermark }));
            } else if let Some(before) = first.get(&(client, seq)) {
                prop_assert_eq!(fixed(&outcome), fixed(before));
            } else {
                expected += added(&outcome);
                first.insert((client, seq), outcome);
            }
            if at % crash_every == crash_every - 1 {
                world.flush();
            }
            if at % crash_every == crash_every / 2 {
                world = world.after_power_cut(2);
            }
        }
        let number = world.reader().get(&"n".into(), holdfast_kv::At::Current).unwrap();
        let number = number.map_or("0".into(), |entry| entry.value);
        prop_assert_eq!(number, bytes::Bytes::from(expected.to_string()));
    }
}

#[test]
fn without_a_session_the_same_command_runs_again() {
    let mut world = World::new();
    world.one(increment());
    world.one(increment());
    let entry = world.reader().get(&"n".into(), holdfast_kv::At::Current).unwrap().unwrap();
    assert_eq!(entry.value, "2");
}

#[test]
fn a_retry_in_the_same_call_is_answered_from_memory() {
    let mut world = World::new();
    open(&mut world, 1);
    let command = Command::single(increment()).in_session(ClientId(1), 1, 1);
    let envelope = world.envelope(vec![command.clone(), command.clone()]);
    let result = world.apply(vec![envelope.clone(), envelope]);
    let outcomes: Vec<&Outcome> = result.outcomes.iter().flatten().flatten().collect();
    assert_eq!(outcomes.len(), 4);
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
    assert_eq!(result.events.len(), 1);
}
