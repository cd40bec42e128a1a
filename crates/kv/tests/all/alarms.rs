//! Alarms of an etcd keyspace: raised, listed, cleared, and what they stand against.

use holdfast_kv::command::{
    Command, Compact, Delete, EtcdAlarm, EtcdAlarmAction, EtcdAlarmKind, EtcdDelete, EtcdOperation,
    EtcdPut, EtcdRange, EtcdTxn, LeaseGrant, Put, SessionOpen,
};
use holdfast_kv::{Alarm, Operation, Outcome, Refusal};
use holdfast_model::ClientId;

use crate::world::World;

fn alarm(world: &mut World, action: EtcdAlarmAction, member: u64, kind: EtcdAlarmKind) -> Outcome {
    world.one(EtcdAlarm { action: action.into(), member, kind: kind.into() })
}

fn raise(world: &mut World, member: u64, kind: EtcdAlarmKind) -> Outcome {
    alarm(world, EtcdAlarmAction::Raise, member, kind)
}

fn clear(world: &mut World, member: u64, kind: EtcdAlarmKind) -> Outcome {
    alarm(world, EtcdAlarmAction::Clear, member, kind)
}

fn put(key: &'static str) -> Operation {
    Put { key: key.into(), value: "v".into(), ..Put::default() }.into()
}

fn etcd(operation: EtcdOperation) -> Operation {
    EtcdTxn { failure: vec![operation.into()], ..EtcdTxn::default() }.into()
}

const NO_SPACE: EtcdAlarmKind = EtcdAlarmKind::NoSpace;
const CORRUPT: EtcdAlarmKind = EtcdAlarmKind::Corrupt;

#[test]
fn alarms_are_listed_by_kind_until_they_are_cleared() {
    let mut world = World::new();
    let alarms = [(1, CORRUPT), (2, NO_SPACE), (1, NO_SPACE)];
    for (member, kind) in alarms {
        let expected = Outcome::Alarms(vec![Alarm { kind, member }]);
        assert_eq!(raise(&mut world, member, kind), expected);
        assert_eq!(raise(&mut world, member, kind), expected, "raised twice is raised once");
    }
    let mut list = |kind| match alarm(&mut world, EtcdAlarmAction::List, 0, kind) {
        Outcome::Alarms(alarms) => alarms.into_iter().map(|a| (a.member, a.kind)).collect(),
        other => panic!("{other:?}"),
    };
    let all: Vec<_> = list(EtcdAlarmKind::None);
    assert_eq!(all, [(1, NO_SPACE), (2, NO_SPACE), (1, CORRUPT)]);
    assert_eq!(list(CORRUPT), [(1, CORRUPT)]);
    let cleared = Outcome::Alarms(vec![Alarm { kind: NO_SPACE, member: 2 }]);
    assert_eq!(clear(&mut world, 2, NO_SPACE), cleared);
    assert_eq!(clear(&mut world, 2, NO_SPACE), Outcome::Alarms(Vec::new()));
    assert_eq!(raise(&mut world, 3, EtcdAlarmKind::None), Outcome::Alarms(Vec::new()));
    assert_eq!(world.reader().alarms().len(), 2);
}

#[test]
fn without_space_nothing_is_stored_but_everything_can_be_removed() {
    let mut world = World::new();
    world.one(put("a"));
    raise(&mut world, 1, NO_SPACE);
    let store = EtcdPut { key: "b".into(), ..EtcdPut::default() };
    let grant = LeaseGrant { id: 7, ttl_ms: 5_000 };
    for operation in [put("b"), etcd(EtcdOperation::Put(store)), grant.into()] {
        assert_eq!(world.one(operation), Outcome::Refused(Refusal::NoSpace));
    }
    let range = EtcdRange { key: "a".into(), ..EtcdRange::default() };
    let delete = EtcdDelete { key: "a".into(), ..EtcdDelete::default() };
    for step in [EtcdOperation::Range(range), EtcdOperation::DeleteRange(delete)] {
        assert!(matches!(world.one(etcd(step)), Outcome::Etcd(_)));
    }
    assert!(matches!(world.one(Compact { revision: 2 }), Outcome::Compacted { .. }));
    clear(&mut world, 1, NO_SPACE);
    assert!(matches!(world.one(put("b")), Outcome::Applied(_)));
}

#[test]
fn corrupt_data_are_neither_changed_nor_read() {
    let mut world = World::new();
    world.one(put("a"));
    raise(&mut world, 1, NO_SPACE);
    raise(&mut world, 2, CORRUPT);
    let range = EtcdRange { key: "a".into(), ..EtcdRange::default() };
    let delete = Delete { key: "a".into(), ..Delete::default() };
    for operation in [put("a"), delete.into(), etcd(EtcdOperation::Range(range))] {
        assert_eq!(world.one(operation), Outcome::Refused(Refusal::Corrupt));
    }
    assert_eq!(world.one(Compact { revision: 2 }), Outcome::Refused(Refusal::Corrupt));
    assert!(world.reader().is_corrupt());
    clear(&mut world, 2, CORRUPT);
    assert!(!world.reader().is_corrupt());
    assert_eq!(world.one(put("a")), Outcome::Refused(Refusal::NoSpace));
}

#[test]
fn a_session_remembers_that_an_alarm_stood_against_its_operation() {
    let mut world = World::new();
    let client = ClientId(5);
    world.command(Command::single(SessionOpen { client: client.to_bytes().to_vec().into() }));
    raise(&mut world, 1, NO_SPACE);
    let tagged = || Command::single(put("a")).in_session(client, 1, 1);
    let refused = vec![Outcome::Refused(Refusal::NoSpace)];
    assert_eq!(world.command(tagged()), refused);
    clear(&mut world, 1, NO_SPACE);
    assert_eq!(world.command(tagged()), refused);
}

#[test]
fn alarms_survive_a_power_cut_and_are_part_of_the_state() {
    let mut world = World::new();
    world.one(put("a"));
    let before = world.reader().state_hash().unwrap();
    raise(&mut world, 1, NO_SPACE);
    let raised = world.reader().state_hash().unwrap();
    world.flush();
    let mut world = world.after_power_cut(3);
    assert_eq!(world.reader().alarms(), [Alarm { kind: NO_SPACE, member: 1 }]);
    assert_eq!(world.reader().state_hash().unwrap(), raised);
    assert_eq!(world.one(put("a")), Outcome::Refused(Refusal::NoSpace));
    assert_ne!(raised, before);
}

#[test]
fn no_more_alarms_are_raised_than_can_be() {
    let mut world = World::new();
    let full = (0..).find_map(|member| match raise(&mut world, member, NO_SPACE) {
        Outcome::Refused(refusal) => Some((member, refusal)),
        _ => None,
    });
    assert_eq!(full, Some((1_024, Refusal::TooManyAlarms { limit: 1_024 })));
}
