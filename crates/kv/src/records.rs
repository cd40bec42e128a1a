//! How the state of a range is laid out in the engine's internal families.
//!
//! Keys (integers big-endian, so that bytes sort like numbers; `‖` is concatenation):
//! ```text
//! family   key                                    value
//! session  client 16                              SessionRecord
//! session  client 16 ‖ log index 8                ChunkRecord: the answers that entry gave
//! expiry   class 1 ‖ due ms 8 ‖ kind 1 ‖ subject  empty; a key with a lease: lease 8; see `Due`
//! lease    lease 8                                LeaseRecord
//! lease    lease 8 ‖ 1 ‖ key                      empty: the key is attached
//! lease    lease 8 ‖ 2 ‖ lock name                empty: a holder or waiter lives by the lease
//! lock     lock name                              LockRecord
//! meta     "applied"                              AppliedRecord
//! meta     "membership"                           MembershipRecord
//! meta     "truth"                                `command::Configure`
//! meta     "compacted"                            CompactedRecord
//! meta     "marks"                                MarksRecord
//! meta     "etcd/alarms"                          AlarmsRecord
//! meta     "etcd/auth"                            AuthRecord: absent before the first change
//! meta     "etcd/auth/role/" ‖ name               AuthRoleRecord
//! meta     "etcd/auth/user/" ‖ name               AuthUserRecord
//! ```
//! Every value that is not empty is one byte of record format (1) and the protobuf of the struct.
//! Records of the `data` family are drawn in `entry.rs`. The engine keeps checksums.

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_lsm::Family;
use holdfast_model::{ClientId, LeaseId};
use prost::Message;

use crate::auth::{AuthPart, AuthRole, AuthStore, AuthUser};
use crate::command::{AuthPermission, EtcdAlarmKind};
use crate::{Alarm, Error, Result};

const FORMAT: u8 = 1;

/// `meta`: how far the state has come.
pub(crate) const APPLIED: Bytes = Bytes::from_static(b"applied");
/// `meta`: the last membership.
pub(crate) const MEMBERSHIP: Bytes = Bytes::from_static(b"membership");
/// `meta`: the range's truth.
pub(crate) const TRUTH: Bytes = Bytes::from_static(b"truth");
/// `meta`: the compacted revision.
pub(crate) const COMPACTED: Bytes = Bytes::from_static(b"compacted");
/// `meta`: the marks of history.
pub(crate) const MARKS: Bytes = Bytes::from_static(b"marks");
/// `meta`: alarms of an etcd keyspace.
pub(crate) const ALARMS: Bytes = Bytes::from_static(b"etcd/alarms");
/// `meta`: users of an etcd keyspace, as a whole.
pub(crate) const AUTH: Bytes = Bytes::from_static(b"etcd/auth");
const AUTH_USER: &[u8] = b"etcd/auth/user/";
const AUTH_ROLE: &[u8] = b"etcd/auth/role/";

/// Encodes a record.
pub(crate) fn seal(record: &impl Message) -> Bytes {
    let mut buffer = BytesMut::with_capacity(1 + record.encoded_len());
    buffer.put_u8(FORMAT);
    record.encode_raw(&mut buffer);
    buffer.freeze()
}

/// Decodes a record of `family`.
pub(crate) fn unseal<M: Message + Default>(family: &'static str, mut value: Bytes) -> Result<M> {
    if value.first() != Some(&FORMAT) {
        return Err(Error::MalformedRecord { family, what: "unknown format" });
    }
    let body = value.split_off(1);
    M::decode(body).map_err(|_| Error::MalformedRecord { family, what: "not a record" })
}

/// The name of a family, for messages.
pub(crate) fn family_name(family: Family) -> &'static str {
    match family {
        Family::Data => "data",
        Family::Session => "session",
        Family::Expiry => "expiry",
        Family::Lease => "lease",
        Family::Lock => "lock",
        Family::Meta => "meta",
    }
}

/// How far the state has come.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AppliedRecord {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub leader: u64,
    #[prost(uint64, tag = "3")]
    pub index: u64,
    #[prost(uint64, tag = "4")]
    pub revision: u64,
    #[prost(uint64, tag = "5")]
    pub clock_ms: u64,
}

/// The last membership and where it stands.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MembershipRecord {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub leader: u64,
    #[prost(uint64, tag = "3")]
    pub index: u64,
    #[prost(bytes = "bytes", tag = "4")]
    pub membership: Bytes,
}

/// The compacted revision.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct CompactedRecord {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
}

/// Which revision was current at which range time, ascending.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MarksRecord {
    #[prost(message, repeated, tag = "1")]
    pub marks: Vec<Mark>,
}

/// At range time `clock_ms` the revision was `revision`: every later one was made after it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Mark {
    #[prost(uint64, tag = "1")]
    pub clock_ms: u64,
    #[prost(uint64, tag = "2")]
    pub revision: u64,
}

/// The alarms that are raised, by kind and member.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AlarmsRecord {
    #[prost(message, repeated, tag = "1")]
    pub alarms: Vec<AlarmRecord>,
}

/// An alarm.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct AlarmRecord {
    #[prost(enumeration = "EtcdAlarmKind", tag = "1")]
    pub kind: i32,
    #[prost(uint64, tag = "2")]
    pub member: u64,
}

impl AlarmsRecord {
    /// The record of alarms.
    pub fn of(alarms: &[Alarm]) -> Self {
        let record = |alarm: &Alarm| AlarmRecord { kind: alarm.kind.into(), member: alarm.member };
        Self { alarms: alarms.iter().map(record).collect() }
    }

    /// The alarms of a record.
    pub fn alarms(&self) -> Result<Vec<Alarm>> {
        let bad = |_| Error::MalformedRecord { family: "meta", what: "kind of an alarm" };
        let alarm = |record: &AlarmRecord| {
            let kind = EtcdAlarmKind::try_from(record.kind).map_err(bad)?;
            Ok(Alarm { kind, member: record.member })
        };
        self.alarms.iter().map(alarm).collect()
    }
}

/// The users of an etcd keyspace as a whole.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AuthRecord {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// Only while users are asked for.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub token_key: Option<Bytes>,
}

/// A user.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AuthUserRecord {
    #[prost(bytes = "bytes", tag = "1")]
    pub password_hash: Bytes,
    #[prost(bool, tag = "2")]
    pub no_password: bool,
    #[prost(string, repeated, tag = "3")]
    pub roles: Vec<String>,
    #[prost(uint64, tag = "4")]
    pub tokens_from: u64,
}

/// A role.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct AuthRoleRecord {
    /// By key and range end.
    #[prost(message, repeated, tag = "1")]
    pub permissions: Vec<AuthPermission>,
}

impl AuthRecord {
    /// The record of a store.
    pub fn of(auth: &AuthStore) -> Self {
        let token_key = auth.token_key().map(|key| Bytes::copy_from_slice(key));
        Self { revision: auth.revision(), token_key }
    }

    /// A store without users and roles.
    pub fn store(self) -> Result<AuthStore> {
        const BAD: Error = Error::MalformedRecord { family: "meta", what: "key of tokens" };
        let key = self.token_key.map(|key| key.as_ref().try_into().map_err(|_| BAD));
        let token_key = key.transpose()?;
        Ok(AuthStore::new(self.revision, token_key))
    }
}

impl AuthUserRecord {
    /// The record of a user.
    pub fn of(user: &AuthUser) -> Self {
        let AuthUser { password_hash, no_password, roles, tokens_from } = user.clone();
        Self { password_hash, no_password, roles, tokens_from }
    }

    /// The user of a record.
    pub fn user(self) -> AuthUser {
        let Self { password_hash, no_password, roles, tokens_from } = self;
        AuthUser { password_hash, no_password, roles, tokens_from }
    }
}

impl AuthRoleRecord {
    /// The record of a role.
    pub fn of(role: &AuthRole) -> Self {
        Self { permissions: role.permissions.clone() }
    }
}

/// The key of a user's record.
pub(crate) fn auth_user_key(name: &str) -> Bytes {
    [AUTH_USER, name.as_bytes()].concat().into()
}

/// The key of a role's record.
pub(crate) fn auth_role_key(name: &str) -> Bytes {
    [AUTH_ROLE, name.as_bytes()].concat().into()
}

/// The interval of the records of users and roles.
pub(crate) fn auth_parts() -> (Bytes, Bytes) {
    (Bytes::from_static(b"etcd/auth/"), Bytes::from_static(b"etcd/auth0"))
}

/// Reads the key of the record of a user or role.
pub(crate) fn auth_part_from_key(key: &Bytes) -> Result<AuthPart> {
    const BAD: Error = Error::MalformedRecord { family: "meta", what: "not a user or role" };
    let name = |name: &[u8]| std::str::from_utf8(name).map(str::to_owned).map_err(|_| BAD);
    match (key.strip_prefix(AUTH_USER), key.strip_prefix(AUTH_ROLE)) {
        (Some(user), _) => Ok(AuthPart::User(name(user)?)),
        (None, Some(role)) => Ok(AuthPart::Role(name(role)?)),
        (None, None) => Err(BAD),
    }
}

/// A lease.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseRecord {
    #[prost(uint64, tag = "1")]
    pub ttl_ms: u64,
    #[prost(uint64, tag = "2")]
    pub expires_at_ms: u64,
    /// Where the expiry index holds it: at or before `expires_at_ms`, so that a renewal need not
    /// move it.
    #[prost(uint64, tag = "3")]
    pub indexed_ms: u64,
    /// How many keys and locks are attached.
    #[prost(uint64, tag = "4")]
    pub attached: u64,
}

/// A lock with its queue. Exists only while somebody holds the lock.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct LockRecord {
    #[prost(message, optional, tag = "1")]
    pub holder: Option<Party>,
    /// First come, first served.
    #[prost(message, repeated, tag = "2")]
    pub waiters: Vec<Party>,
    /// Where the expiry index holds the lock; 0 where it does not.
    #[prost(uint64, tag = "3")]
    pub indexed_ms: u64,
}

/// Who holds a lock or waits for it.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Party {
    #[prost(bytes = "bytes", tag = "1")]
    pub owner: Bytes,
    /// Revision of the grant; 0 while waiting.
    #[prost(uint64, tag = "2")]
    pub token: u64,
    /// 0 where it lives by a lease.
    #[prost(uint64, tag = "3")]
    pub ttl_ms: u64,
    /// 0 where it lives by a lease.
    #[prost(uint64, tag = "4")]
    pub expires_at_ms: u64,
    /// 0 where it lives by a TTL.
    #[prost(fixed64, tag = "5")]
    pub lease: u64,
    #[prost(bytes = "bytes", tag = "6")]
    pub value: Bytes,
}

/// A session without its answers.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SessionRecord {
    /// The user it is bound to; none where the cluster has no users.
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub user: Option<Bytes>,
    #[prost(uint64, tag = "2")]
    pub watermark: u64,
    #[prost(uint64, tag = "3")]
    pub active_at_ms: u64,
    /// Where the expiry index holds it.
    #[prost(uint64, tag = "4")]
    pub indexed_ms: u64,
    /// It has ended; the record keeps its id from being opened again.
    #[prost(bool, tag = "5")]
    pub ended: bool,
}

/// The answers one entry gave to one session.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ChunkRecord {
    #[prost(message, repeated, tag = "1")]
    pub answers: Vec<Remembered>,
}

/// One remembered answer.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Remembered {
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// xxh3 of the operation's bytes.
    #[prost(fixed64, tag = "2")]
    pub payload: u64,
    #[prost(message, required, tag = "3")]
    pub answer: Answer,
}

/// What is needed to give an outcome again; values are read from history.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct Answer {
    /// Which outcome; see `session::answer`.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// Revision after the operation.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// Range time at the operation.
    #[prost(uint64, tag = "3")]
    pub clock_ms: u64,
    #[prost(uint64, tag = "4")]
    pub create_revision: u64,
    #[prost(uint64, tag = "5")]
    pub version: u64,
    #[prost(uint64, tag = "6")]
    pub count: u64,
    #[prost(sint64, tag = "7")]
    pub number: i64,
    #[prost(bool, tag = "8")]
    pub flag: bool,
    /// Whether `revision` was made by the operation.
    #[prost(bool, tag = "9")]
    pub changed: bool,
    #[prost(uint64, tag = "10")]
    pub detail: u64,
}

/// What the expiry index can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Key(Bytes),
    Lease(LeaseId),
    Lock(Bytes),
    Session(ClientId),
}

/// The index is walked class by class: a lock somebody waits for is not held up by many keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Leases, locks, sessions: few, and waited for.
    Urgent,
    /// Keys.
    Keys,
}

impl Class {
    /// In the order they are walked.
    pub const ALL: [Self; 2] = [Self::Urgent, Self::Keys];

    fn byte(self) -> u8 {
        match self {
            Self::Urgent => 0,
            Self::Keys => 1,
        }
    }

    /// The interval of what is due in `[from_ms, to_ms)`.
    pub fn interval(self, from_ms: u64, to_ms: u64) -> (Bytes, Bytes) {
        (self.first_key(from_ms), self.first_key(to_ms))
    }

    /// The smallest key of the class that is due at `at_ms`.
    pub fn first_key(self, at_ms: u64) -> Bytes {
        let mut buffer = BytesMut::with_capacity(9);
        buffer.put_u8(self.byte());
        buffer.put_u64(at_ms);
        buffer.freeze()
    }
}

/// Range times before which nothing of a class is in the index: it holds many tombstones there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Floors {
    urgent_ms: u64,
    keys_ms: u64,
}

impl Floors {
    pub fn of(&self, class: Class) -> u64 {
        match class {
            Class::Urgent => self.urgent_ms,
            Class::Keys => self.keys_ms,
        }
    }

    pub fn set(&mut self, class: Class, at_ms: u64) {
        match class {
            Class::Urgent => self.urgent_ms = at_ms,
            Class::Keys => self.keys_ms = at_ms,
        }
    }
}

/// One entry of the expiry index: a key's is there exactly while its newest version expires then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub at_ms: u64,
    pub subject: Subject,
}

impl Due {
    pub fn new(at_ms: u64, subject: Subject) -> Self {
        Self { at_ms, subject }
    }

    /// Where it is walked.
    pub fn class(&self) -> Class {
        if matches!(self.subject, Subject::Key(_)) { Class::Keys } else { Class::Urgent }
    }

    /// What the index holds for a key that is attached to `lease`.
    pub fn value(lease: LeaseId) -> Bytes {
        if lease.0 == 0 { Bytes::new() } else { Bytes::copy_from_slice(&lease.0.to_be_bytes()) }
    }

    /// Reads what [`Due::value`] made.
    pub fn lease(value: &[u8]) -> Result<LeaseId> {
        const BAD: Error = Error::MalformedRecord { family: "expiry", what: "not a lease" };
        match value {
            [] => Ok(LeaseId(0)),
            id => Ok(LeaseId(u64::from_be_bytes(id.try_into().map_err(|_| BAD)?))),
        }
    }

    /// Its key in the `expiry` family.
    pub fn key(&self) -> Bytes {
        let number;
        let id;
        let (kind, subject): (u8, &[u8]) = match &self.subject {
            Subject::Key(key) => (1, key),
            Subject::Lease(lease) => {
                number = lease.0.to_be_bytes();
                (2, &number)
            }
            Subject::Lock(name) => (3, name),
            Subject::Session(client) => {
                id = client.to_bytes();
                (4, &id)
            }
        };
        let mut buffer = BytesMut::with_capacity(10 + subject.len());
        buffer.put_u8(self.class().byte());
        buffer.put_u64(self.at_ms);
        buffer.put_u8(kind);
        buffer.put_slice(subject);
        buffer.freeze()
    }

    /// Reads a key of the `expiry` family.
    pub fn from_key(key: &Bytes) -> Result<Self> {
        const BAD: Error = Error::MalformedRecord { family: "expiry", what: "not an index key" };
        let class = *key.first().ok_or(BAD)?;
        let at_ms = key.get(1..9).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        let (at_ms, kind) = (at_ms.ok_or(BAD)?, *key.get(9).ok_or(BAD)?);
        let rest = key.slice(10..);
        let subject = match kind {
            1 => Subject::Key(rest),
            2 => Subject::Lease(LeaseId(u64::from_be_bytes(
                rest.as_ref().try_into().map_err(|_| BAD)?,
            ))),
            3 => Subject::Lock(rest),
            4 => Subject::Session(ClientId::from_bytes(&rest).ok_or(BAD)?),
            _ => return Err(BAD),
        };
        let due = Self { at_ms, subject };
        if due.class().byte() == class { Ok(due) } else { Err(BAD) }
    }
}

/// What can be attached to a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attachment {
    Key(Bytes),
    Lock(Bytes),
}

/// The key of a lease's record.
pub(crate) fn lease_key(lease: LeaseId) -> Bytes {
    Bytes::copy_from_slice(&lease.0.to_be_bytes())
}

/// The key of an attachment.
pub(crate) fn attachment_key(lease: LeaseId, attachment: &Attachment) -> Bytes {
    let (kind, subject) = match attachment {
        Attachment::Key(key) => (1, key),
        Attachment::Lock(name) => (2, name),
    };
    let mut buffer = BytesMut::with_capacity(9 + subject.len());
    buffer.put_u64(lease.0);
    buffer.put_u8(kind);
    buffer.put_slice(subject);
    buffer.freeze()
}

/// The interval of a lease's attachments: from the first, to the first key after the last.
pub(crate) fn attachments_of(lease: LeaseId) -> (Bytes, Bytes) {
    let with = |byte: u8| {
        let mut buffer = BytesMut::with_capacity(9);
        buffer.put_u64(lease.0);
        buffer.put_u8(byte);
        buffer.freeze()
    };
    (with(0), with(u8::MAX))
}

/// Reads the key of an attachment.
pub(crate) fn attachment_from_key(key: &Bytes) -> Result<Attachment> {
    match key.get(8) {
        Some(1) => Ok(Attachment::Key(key.slice(9..))),
        Some(2) => Ok(Attachment::Lock(key.slice(9..))),
        _ => Err(Error::MalformedRecord { family: "lease", what: "not an attachment key" }),
    }
}

/// The key of a session's record.
pub(crate) fn session_key(client: ClientId) -> Bytes {
    Bytes::copy_from_slice(&client.to_bytes())
}

/// The key of the answers entry `index` gave to a session.
pub(crate) fn chunk_key(client: ClientId, index: u64) -> Bytes {
    let mut buffer = BytesMut::with_capacity(24);
    buffer.put_slice(&client.to_bytes());
    buffer.put_u64(index);
    buffer.freeze()
}

/// Reads a key of the `session` family: the client, and the index where it is a chunk.
pub(crate) fn session_from_key(key: &Bytes) -> Result<(ClientId, Option<u64>)> {
    const BAD: Error = Error::MalformedRecord { family: "session", what: "not a session key" };
    let client = key.get(..16).and_then(ClientId::from_bytes).ok_or(BAD)?;
    match key.get(16..) {
        Some([]) => Ok((client, None)),
        Some(index) => {
            let index = index.try_into().map_err(|_| BAD)?;
            Ok((client, Some(u64::from_be_bytes(index))))
        }
        None => Err(BAD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_keys_sort_by_class_and_time_and_come_back() {
        let urgent =
            [Subject::Lease(LeaseId(7)), Subject::Lock("l".into()), Subject::Session(ClientId(9))];
        let mut last = Bytes::new();
        for subjects in [urgent.as_slice(), &[Subject::Key("k".into())]] {
            for at_ms in [0, 1, 255, 256, u64::MAX] {
                for subject in subjects {
                    let due = Due::new(at_ms, subject.clone());
                    assert_eq!(Due::from_key(&due.key()).unwrap(), due);
                    assert!(last < due.key());
                    assert!(due.class().first_key(at_ms) <= due.key());
                    last = due.key();
                }
            }
        }
        let of_another_class = [&[0][..], &[0; 8], &[1], b"k"].concat();
        for bad in [&b"\x0012345678"[..], b"\x0012345678\x09x", &of_another_class] {
            assert!(Due::from_key(&Bytes::copy_from_slice(bad)).is_err());
        }
    }

    #[test]
    fn an_index_entry_tells_the_lease_of_its_key() {
        for lease in [LeaseId(0), LeaseId(1), LeaseId(u64::MAX)] {
            assert_eq!(Due::lease(&Due::value(lease)).unwrap(), lease);
        }
        assert!(Due::lease(b"1234567").is_err());
    }

    #[test]
    fn attachments_lie_between_a_lease_and_the_next() {
        let lease = LeaseId(0xff);
        let (first, last) = attachments_of(lease);
        for attachment in [Attachment::Key("".into()), Attachment::Lock(vec![255; 9].into())] {
            let key = attachment_key(lease, &attachment);
            assert!(lease_key(lease) < first && first <= key && key < last);
            assert!(last < lease_key(LeaseId(0x100)));
            assert_eq!(attachment_from_key(&key).unwrap(), attachment);
        }
    }
}
