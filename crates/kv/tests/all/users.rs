//! Users of an etcd keyspace, beyond what the scripts under `scripts/auth` tell.

use bytes::Bytes;
use holdfast_kv::command::*;
use holdfast_kv::{AuthAccess, AuthAnswer, AuthRefusal, Error, Limits, Outcome, validate};

use crate::world::World;

const DONE: Outcome = Outcome::EtcdAuth(AuthAnswer::Done);

fn change(world: &mut World, change: EtcdAuthChange) -> Outcome {
    let mut command = Command::single(EtcdAuth::from(change));
    command.user = Some(User { name: "root".into(), auth_revision: u64::MAX });
    world.command(command).remove(0)
}

fn name(name: &str) -> AuthName {
    AuthName { name: name.into() }
}

fn pair(user: &str, role: &str) -> AuthUserRole {
    AuthUserRole { user: user.into(), role: role.into() }
}

fn add(name: &str) -> EtcdAuthChange {
    let password_hash = Bytes::from_static(b"hash");
    EtcdAuthChange::UserAdd(AuthUserAdd { name: name.into(), password_hash, no_password: false })
}

fn grant(range_end: Bytes) -> EtcdAuthChange {
    let verb = AuthVerb::ReadWrite.into();
    let permission = Some(AuthPermission { verb, key: "a".into(), range_end });
    EtcdAuthChange::RoleGrantPermission(AuthRoleGrant { role: "r".into(), permission })
}

fn enable() -> EtcdAuthChange {
    EtcdAuthChange::Enable(AuthEnable { token_key: vec![7; AUTH_TOKEN_KEY_BYTES].into() })
}

/// A range whose user `ann` may touch the keys from `a` to `z`, with users being asked for.
fn world() -> World {
    let mut world = World::new();
    let changes = [
        add("root"),
        EtcdAuthChange::UserGrantRole(pair("root", "root")),
        add("ann"),
        EtcdAuthChange::RoleAdd(name("r")),
        grant("z".into()),
        EtcdAuthChange::UserGrantRole(pair("ann", "r")),
        enable(),
    ];
    for asked in changes {
        assert_eq!(change(&mut world, asked), DONE);
    }
    world
}

#[test]
fn users_are_read_from_tables_and_are_part_of_the_state() {
    let fresh = World::new().reader().state_hash().unwrap();
    let world = world();
    let (before, hash) = (world.reader().auth().unwrap(), world.reader().state_hash().unwrap());
    assert_ne!(hash, fresh);
    world.flush();
    let mut world = world.after_power_cut(3);
    assert_eq!(world.reader().auth().unwrap(), before);
    assert_eq!(world.reader().state_hash().unwrap(), hash);
    assert_eq!(before.token_key(), Some(&[7; AUTH_TOKEN_KEY_BYTES]));
    assert_eq!(before.user("ann").unwrap().password_hash, "hash");
    assert_eq!(change(&mut world, EtcdAuthChange::UserDelete(name("ann"))), DONE);
    assert_eq!(change(&mut world, EtcdAuthChange::RoleDelete(name("r"))), DONE);
    world.flush();
    let world = world.after_power_cut(3);
    let after = world.reader().auth().unwrap();
    assert_eq!((after.user("ann"), after.revision()), (None, before.revision() + 2));
    assert_ne!(world.reader().state_hash().unwrap(), hash);
}

#[test]
fn a_reader_keeps_the_users_it_was_given() {
    let mut world = world();
    let before = world.reader().auth().unwrap();
    assert_eq!(change(&mut world, EtcdAuthChange::Disable(())), DONE);
    let after = world.reader().auth().unwrap();
    assert!(before.is_enabled() && !after.is_enabled());
    assert_eq!((after.token_key(), after.revision()), (None, before.revision() + 1));
    assert_eq!(after.check("", &AuthAccess::Admin), Ok(()));
    assert_eq!(before.check("", &AuthAccess::Admin), Err(AuthRefusal::UserEmpty));
}

#[test]
fn nothing_is_known_of_users_while_a_snapshot_takes_their_place() {
    let unknown = |world: &World| matches!(world.reader().auth(), Err(Error::WrongSpan { .. }));
    assert!(unknown(&World::bare()));
    let mut world = world();
    world.machine.withdraw();
    assert!(unknown(&world), "or everybody would pass for a moment");
    world.machine.replaced().unwrap();
    assert!(world.reader().auth().unwrap().is_enabled());
}

#[test]
fn neither_keys_nor_hashes_are_shown() {
    let world = world();
    let auth = world.reader().auth().unwrap();
    let secret = Bytes::from_static(b"secret");
    let password = AuthUserChangePassword { name: "ann".into(), password_hash: secret.clone() };
    let added = AuthUserAdd { name: "ann".into(), password_hash: secret, no_password: false };
    let shown = [
        format!("{auth:?} {:?}", auth.user("ann")),
        format!("{:?} {:?}", Command::single(EtcdAuth::from(enable())), add("ann")),
        format!("{added:?} {:?}", EtcdAuthChange::UserChangePassword(password)),
    ]
    .concat();
    for secret in ["hash", "secret", "7, 7", "\\u{7}", "\\x07", "\\a"] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

#[test]
fn names_keys_and_hashes_have_bounds() {
    let check = |change: EtcdAuthChange| {
        let command = Command::single(EtcdAuth::from(change));
        validate(&command, &Limits::default()).map_err(|invalid| invalid.to_string())
    };
    let short = AuthEnable { token_key: vec![7; 31].into() };
    let long_hash =
        AuthUserChangePassword { name: "ann".into(), password_hash: vec![0; 257].into() };
    let unknown = AuthPermission { verb: 3, key: "a".into(), range_end: Bytes::new() };
    let unknown = AuthRoleGrant { role: "r".into(), permission: Some(unknown) };
    let long = "n".repeat(256);
    let refused = [
        (EtcdAuthChange::Enable(short), "key of tokens"),
        (EtcdAuthChange::UserChangePassword(long_hash), "hash"),
        (EtcdAuthChange::RoleGrantPermission(unknown), "to read, to write or both"),
        (grant(vec![b'z'; 4_097].into()), "bytes of a key"),
        (add(&long), "name"),
        (EtcdAuthChange::UserGrantRole(pair("ann", &long)), "name"),
        (EtcdAuthChange::RoleDelete(name(&long)), "name"),
    ];
    for (change, what) in refused {
        let text = check(change).expect_err(what);
        assert!(text.contains(what), "{text}");
    }
    for change in [enable(), add(""), add(&long[1..]), grant(vec![b'z'; 4_096].into())] {
        assert_eq!(check(change), Ok(()));
    }
    let nothing = Command::single(EtcdAuth { change: None });
    assert!(validate(&nothing, &Limits::default()).is_err());
}
