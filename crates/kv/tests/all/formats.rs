//! Bytes that other builds must be able to read: commands in the log, records in the engine.

use std::fmt::Write;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use holdfast_env::Disk;
use holdfast_env::real::RealDisk;
use holdfast_kv::command::*;
use holdfast_kv::{AuthAnswer, Kind, Operation, Outcome};
use holdfast_lsm::Family;
use holdfast_model::{ClientId, History, Span};
use prost::Message;

use crate::world::{World, configure};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with a golden file; with `BLESS=1` in the environment writes it.
fn compare(name: &str, text: &str) {
    let path = golden(name);
    if std::env::var_os("BLESS").is_some() {
        RealDisk.create_dir_all(path.parent().expect("a directory")).expect("directory");
        RealDisk.replace(&path, text.as_bytes()).expect("bless");
        return;
    }
    let expected = String::from_utf8(RealDisk.read(&path).expect("golden file")).expect("UTF-8");
    assert_eq!(expected, text, "the bytes of {name} have changed: old logs could not be read");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string");
        text
    })
}

/// One operation of every kind, every field set.
fn operations() -> Vec<(&'static str, Operation)> {
    let bytes = Bytes::from_static;
    let put = Put {
        key: bytes(b"key"),
        value: bytes(b"value"),
        ttl_ms: 5_000,
        lease: 7,
        return_previous: true,
        condition: Some(Condition::IfRevision(9)),
    };
    let delete = Delete {
        key: bytes(b"key"),
        return_previous: true,
        condition: Some(Condition::IfValue(bytes(b"old"))),
    };
    let delete_range = DeleteRange { start: bytes(b"a"), end: bytes(b"b"), return_previous: true };
    let increment = Increment { key: bytes(b"n"), delta: -3, ttl_ms: 1_000 };
    let txn = transaction(&put, &delete, &delete_range, &increment);
    let client = Bytes::copy_from_slice(&ClientId(0x0102_0304).to_bytes());
    let lock = LockAcquire {
        name: bytes(b"lock"),
        owner: bytes(b"me"),
        ttl_ms: 2_000,
        lease: 3,
        wait: true,
        value: bytes(b"text"),
    };
    let span = Span { start: 1 << 60, end: 1 << 62 };
    let history = History::Revisions(12);
    vec![
        ("put", put.into()),
        ("delete", delete.into()),
        ("delete_range", delete_range.into()),
        ("increment", increment.into()),
        ("txn", txn.into()),
        ("lease_grant", LeaseGrant { id: 1, ttl_ms: 2 }.into()),
        ("renew", Renew { leases: vec![1, 2] }.into()),
        ("lease_revoke", LeaseRevoke { id: 1 }.into()),
        ("lock_acquire", lock.into()),
        (
            "lock_keep_alive",
            LockKeepAlive { name: bytes(b"l"), owner: bytes(b"o"), token: 5 }.into(),
        ),
        (
            "lock_release",
            LockRelease { name: bytes(b"l"), owner: bytes(b"o"), token: 5, queue_only: true }
                .into(),
        ),
        ("session_open", SessionOpen { client: client.clone() }.into()),
        ("session_keep_alive", SessionKeepAlive { client: client.clone(), watermark: 4 }.into()),
        ("session_close", SessionClose { client }.into()),
        ("expire", Expire { keys_max: 100 }.into()),
        ("compact", Compact { revision: 77 }.into()),
        ("configure", configure(span, 3, history).into()),
        ("noop", Operation::Noop(())),
        ("etcd", etcd_transaction().into()),
        ("etcd_alarm", alarm().into()),
    ]
    .into_iter()
    .chain(auth().into_iter().map(|(name, change)| (name, EtcdAuth::from(change).into())))
    .collect()
}

/// Every operation on users, every field set.
fn auth() -> Vec<(&'static str, EtcdAuthChange)> {
    let bytes = Bytes::from_static;
    let name = || AuthName { name: "ann".into() };
    let role = || "r".to_owned();
    let pair = || AuthUserRole { user: "ann".into(), role: role() };
    let (key, range_end) = (bytes(b"k"), bytes(b"l"));
    let grant = AuthPermission { verb: 2, key: key.clone(), range_end: range_end.clone() };
    let add = AuthUserAdd { name: "ann".into(), password_hash: bytes(b"hash"), no_password: true };
    let password = AuthUserChangePassword { name: "ann".into(), password_hash: bytes(b"other") };
    vec![
        ("auth_enable", EtcdAuthChange::Enable(AuthEnable { token_key: bytes(&[7; 32]) })),
        ("auth_disable", EtcdAuthChange::Disable(())),
        ("auth_status", EtcdAuthChange::Status(())),
        ("auth_user_add", EtcdAuthChange::UserAdd(add)),
        ("auth_user_get", EtcdAuthChange::UserGet(name())),
        ("auth_user_list", EtcdAuthChange::UserList(())),
        ("auth_user_delete", EtcdAuthChange::UserDelete(name())),
        ("auth_user_change_password", EtcdAuthChange::UserChangePassword(password)),
        ("auth_user_grant_role", EtcdAuthChange::UserGrantRole(pair())),
        ("auth_user_revoke_role", EtcdAuthChange::UserRevokeRole(pair())),
        ("auth_role_add", EtcdAuthChange::RoleAdd(name())),
        ("auth_role_get", EtcdAuthChange::RoleGet(name())),
        ("auth_role_list", EtcdAuthChange::RoleList(())),
        ("auth_role_delete", EtcdAuthChange::RoleDelete(name())),
        (
            "auth_role_grant_permission",
            EtcdAuthChange::RoleGrantPermission(AuthRoleGrant {
                role: role(),
                permission: Some(grant),
            }),
        ),
        (
            "auth_role_revoke_permission",
            EtcdAuthChange::RoleRevokePermission(AuthRoleRevoke { role: role(), key, range_end }),
        ),
    ]
}

/// Users of every kind, who are asked for in the end.
fn add_users(world: &mut World) {
    let change = |world: &mut World, change: EtcdAuthChange| {
        let done = Outcome::EtcdAuth(AuthAnswer::Done);
        assert_eq!(world.one(EtcdAuth::from(change)), done);
    };
    for (name, no_password) in [("root", false), ("ann", true)] {
        let password_hash = Bytes::from_static(b"hash");
        let add = AuthUserAdd { name: name.into(), password_hash, no_password };
        change(world, EtcdAuthChange::UserAdd(add));
    }
    change(world, EtcdAuthChange::RoleAdd(AuthName { name: "r".into() }));
    for (user, role) in [("root", "root"), ("ann", "r")] {
        let pair = AuthUserRole { user: user.into(), role: role.into() };
        change(world, EtcdAuthChange::UserGrantRole(pair));
    }
    let permission = Some(AuthPermission { verb: 2, key: "a".into(), range_end: "\0".into() });
    let grant = AuthRoleGrant { role: "r".into(), permission };
    change(world, EtcdAuthChange::RoleGrantPermission(grant));
    let token_key = Bytes::from_static(&[7; AUTH_TOKEN_KEY_BYTES]);
    change(world, EtcdAuthChange::Enable(AuthEnable { token_key }));
}

/// An etcd transaction with every target and every step.
fn etcd_transaction() -> EtcdTxn {
    let bytes = Bytes::from_static;
    let compare = |target| EtcdCompare {
        key: bytes(b"k"),
        range_end: bytes(b"l"),
        comparison: Comparison::Less.into(),
        target: Some(target),
    };
    let range = EtcdRange {
        key: bytes(b"a"),
        range_end: bytes(b"b"),
        limit: 9,
        revision: 8,
        order: EtcdOrder::Descend.into(),
        sort: EtcdSort::Mod.into(),
        keys_only: true,
        count_only: true,
        min_mod_revision: 1,
        max_mod_revision: 2,
        min_create_revision: 3,
        max_create_revision: 4,
        part_bytes: 5,
    };
    let put = EtcdPut {
        key: bytes(b"k"),
        value: bytes(b"v"),
        lease: 7,
        return_previous: true,
        ignore_value: true,
        ignore_lease: true,
    };
    let delete = EtcdDelete { key: bytes(b"a"), range_end: bytes(b"\0"), return_previous: true };
    EtcdTxn {
        compares: vec![
            compare(EtcdTarget::Version(1)),
            compare(EtcdTarget::CreateRevision(2)),
            compare(EtcdTarget::ModRevision(3)),
            compare(EtcdTarget::Value(bytes(b"v"))),
            compare(EtcdTarget::Lease(-1)),
        ],
        success: vec![EtcdOperation::Range(range).into(), EtcdOperation::Put(put).into()],
        failure: vec![
            EtcdOperation::DeleteRange(delete).into(),
            EtcdOperation::Txn(EtcdTxn::default()).into(),
        ],
    }
}

/// A transaction with every compare and every step.
fn transaction(put: &Put, delete: &Delete, delete_range: &DeleteRange, add: &Increment) -> Txn {
    let bytes = Bytes::from_static;
    let compare = |target| Compare {
        key: bytes(b"k"),
        end: bytes(b"l"),
        comparison: Comparison::Less.into(),
        target: Some(target),
    };
    let plain = Put { condition: Some(Condition::IfAbsent(())), ..put.clone() };
    Txn {
        compares: vec![
            compare(CompareTarget::Revision(1)),
            compare(CompareTarget::CreateRevision(2)),
            compare(CompareTarget::Version(3)),
            compare(CompareTarget::Lease(4)),
            compare(CompareTarget::Value(bytes(b"v"))),
            compare(CompareTarget::Exists(true)),
        ],
        success: vec![
            TxnOperation::Get(Get { key: bytes(b"k") }).into(),
            TxnOperation::Range(RangeRead {
                start: bytes(b"a"),
                end: bytes(b"b"),
                limit: 9,
                keys_only: true,
            })
            .into(),
            TxnOperation::Put(plain).into(),
            TxnOperation::Delete(delete.clone()).into(),
        ],
        failure: vec![
            TxnOperation::DeleteRange(delete_range.clone()).into(),
            TxnOperation::Increment(add.clone()).into(),
            TxnOperation::Txn(Txn::default()).into(),
        ],
    }
}

#[test]
fn commands_keep_their_bytes() {
    let mut text = String::new();
    for (name, operation) in operations() {
        let mut command = Command::single(operation).in_session(ClientId(9), 1, 2);
        command.user = Some(User { name: "ann".into(), auth_revision: 6 });
        let envelope = Envelope { apply_version: 1, stamp_ms: 1_234, commands: vec![command] };
        let bytes = envelope.encode_to_vec();
        assert_eq!(Envelope::decode(bytes.as_slice()), Ok(envelope), "{name}");
        writeln!(text, "{name} {}", hex(&bytes)).expect("a string");
    }
    compare("commands-v1.txt", &text);
}

/// A state with a record of every kind, and every optional field in some record.
fn state() -> World {
    let mut world = World::bare();
    world.append(Kind::Membership("members".into()));
    let entry = world.log.clone();
    world.machine.apply(&entry, 0).expect("apply");
    let history = History::Duration(std::time::Duration::from_secs(64));
    world.one(configure(Span::ALL, 1, history));
    let client = ClientId(5);
    let mut open = Command::single(SessionOpen { client: client.to_bytes().to_vec().into() });
    open.user = Some(User { name: "ann".into(), auth_revision: 6 });
    world.command(open);
    world.one(LeaseGrant { id: 1 << 40, ttl_ms: 60_000 });
    for (key, ttl_ms, lease) in [("a", 0, 0), ("b", 5_000, 0), ("c", 0, 1 << 40), ("d", 0, 0)] {
        let value = Bytes::from_static(b"value");
        let mut command =
            Command::single(Put { key: key.into(), value, ttl_ms, lease, ..Put::default() });
        command.user = Some(User { name: "ann".into(), auth_revision: 6 });
        let seq = u64::from(key.as_bytes()[0]);
        world.command(command.in_session(client, seq - 1, seq));
    }
    world.clock_ms += 2_500;
    world.one(Delete { key: "d".into(), ..Delete::default() });
    for (owner, ttl_ms, lease) in [("me", 9_000, 0), ("you", 0, 1 << 40)] {
        let (name, owner, value) = ("lock".into(), owner.into(), "text".into());
        world.one(LockAcquire { name, owner, ttl_ms, lease, wait: true, value });
    }
    world.one(Compact { revision: 3 });
    world
}

#[test]
fn records_keep_their_bytes() {
    let mut world = state();
    let mut lines = Family::ALL.map(|family| records(&world, family)).concat();
    // Only an etcd keyspace has these.
    world.one(alarm());
    add_users(&mut world);
    let meta = records(&world, Family::Meta);
    lines.extend(meta.into_iter().filter(|line| line.starts_with("Meta etcd/")));
    compare("records-v1.txt", &lines.concat());
}

fn records(world: &World, family: Family) -> Vec<String> {
    let (engine, all) = (world.machine.engine(), (Bound::Unbounded, Bound::Unbounded));
    let scan = engine.scan(family, all, engine.read_point(), false).expect("scan");
    let line = |found: holdfast_lsm::Result<(Bytes, holdfast_lsm::Record)>| {
        let (key, record) = found.expect("record");
        format!("{family:?} {} = {}\n", key.escape_ascii(), hex(&record.value))
    };
    scan.map(line).collect()
}

fn alarm() -> EtcdAlarm {
    EtcdAlarm { action: 1, member: 9, kind: 2 }
}

#[test]
fn the_state_hash_covers_what_the_log_says_and_stays_what_it_is() {
    let mut world = state();
    let hash = world.reader().state_hash().expect("hash");
    world.one(alarm());
    let with_alarm = world.reader().state_hash().expect("hash");
    add_users(&mut world);
    let with_users = world.reader().state_hash().expect("hash");
    let hashes = [hash, with_alarm, with_users].map(|hash| format!("{hash:016x}\n"));
    compare("state-hash-v1.txt", &hashes.concat());
}
