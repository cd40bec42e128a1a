//! What a range can be told to do, and the bytes it is told with.
//!
//! Owns: the payload of a Raft entry ([`Envelope`]), its commands, items and operations.
//! Must never know: how an operation is carried out, what a client sent to cause it.
//! Invariants:
//! * The bytes of an envelope are protobuf of the structs below; tags are never reused. Golden
//!   bytes under `tests/golden` hold them still.
//! * Byte fields decode without copying, as slices of the entry.
//! * A replica that meets an operation it does not know stops before applying. A field added later,
//!   or a changed meaning, comes with a raised [`APPLY_VERSION`], which does the same.

mod alarm;
mod auth;
mod data;
mod etcd;
mod lease;
mod lock;
mod range;
mod session;
mod transaction;

use bytes::{BufMut, Bytes, BytesMut};
use holdfast_model::ClientId;
use prost::Message;

pub use alarm::{EtcdAlarm, EtcdAlarmAction, EtcdAlarmKind};
pub use auth::{
    AUTH_TOKEN_KEY_BYTES, AuthEnable, AuthName, AuthPermission, AuthRoleGrant, AuthRoleRevoke,
    AuthUserAdd, AuthUserChangePassword, AuthUserRole, AuthVerb, EtcdAuth, EtcdAuthChange,
};
pub use data::{Condition, Delete, DeleteRange, Increment, Put};
pub use etcd::{
    ETCD_DEPTH_MAX, EtcdCompare, EtcdDelete, EtcdKeys, EtcdOperation, EtcdOrder, EtcdPut,
    EtcdRange, EtcdSort, EtcdStep, EtcdTarget, EtcdTxn,
};
pub use lease::{LeaseGrant, LeaseRevoke, Renew};
pub use lock::{
    LOCK_OWNER_BYTES_MAX, LOCK_VALUE_BYTES_MAX, LOCK_WAITERS_MAX, LockAcquire, LockKeepAlive,
    LockRelease,
};
pub use range::{Compact, Configure, Expire, HistorySetting};
pub use session::{SessionClose, SessionKeepAlive, SessionOpen};
pub use transaction::{
    Compare, CompareTarget, Comparison, Get, RangeRead, Txn, TxnOperation, TxnStep,
};

/// The newest apply behaviour this build knows, and the one it stamps envelopes with.
pub const APPLY_VERSION: u32 = 1;

/// Bytes a command is counted with on top of its encoding when admission weighs it: what apply
/// keeps per item besides the payload (outcome, event, session answer).
const ITEM_OVERHEAD_BYTES: usize = 256;

/// Field 3 of [`Envelope`], length-delimited: the tag byte [`Envelope::pack`] writes.
const COMMANDS_TAG: u8 = (3 << 3) | 2;

/// The payload of one Raft entry: all commands that waited at the leader when it was proposed.
#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    /// The apply behaviour the leader proposed with; see [`APPLY_VERSION`].
    #[prost(uint32, tag = "1")]
    pub apply_version: u32,
    /// Range time at the leader when it proposed the entry, milliseconds.
    #[prost(uint64, tag = "2")]
    pub stamp_ms: u64,
    /// The commands, in the order in which they are applied.
    #[prost(message, repeated, tag = "3")]
    pub commands: Vec<Command>,
}

impl Envelope {
    /// Builds the bytes of an envelope around commands that are encoded already.
    ///
    /// Equal, byte for byte, to encoding an [`Envelope`] of the decoded commands. Cost: one
    /// allocation and one copy.
    pub fn pack(stamp_ms: u64, commands: &[Bytes]) -> Bytes {
        let head = Self { apply_version: APPLY_VERSION, stamp_ms, commands: Vec::new() };
        let payload: usize = commands.iter().map(|c| c.len() + 11).sum();
        let mut buffer = BytesMut::with_capacity(head.encoded_len() + payload);
        head.encode_raw(&mut buffer);
        for command in commands {
            buffer.put_u8(COMMANDS_TAG);
            prost::encoding::encode_varint(command.len() as u64, &mut buffer);
            buffer.extend_from_slice(command);
        }
        buffer.freeze()
    }
}

/// What one caller asked for in one request: independent items under one session and one user.
#[derive(Clone, PartialEq, Message)]
pub struct Command {
    /// The session the items are exactly-once in; none means at-most-once.
    #[prost(message, optional, tag = "1")]
    pub session: Option<SessionTag>,
    /// The operations, one revision and one outcome each.
    #[prost(message, repeated, tag = "2")]
    pub items: Vec<Item>,
    /// Who asked; none where the cluster has no users, and of what the range does by itself.
    #[prost(message, optional, tag = "3")]
    pub user: Option<User>,
}

impl Command {
    /// A command of one operation, outside any session.
    pub fn single(operation: impl Into<Operation>) -> Self {
        Self {
            session: None,
            items: vec![Item { seq: 0, operation: Some(operation.into()) }],
            user: None,
        }
    }

    /// A command of independent operations, outside any session.
    pub fn batch(operations: impl IntoIterator<Item = Operation>) -> Self {
        let items =
            operations.into_iter().map(|o| Item { seq: 0, operation: Some(o) }).collect::<Vec<_>>();
        Self { session: None, items, user: None }
    }

    /// The same command inside a session; items are numbered from `first_seq` up.
    #[must_use]
    pub fn in_session(mut self, client: ClientId, watermark: u64, first_seq: u64) -> Self {
        self.session = Some(SessionTag::new(client, watermark));
        for (seq, item) in (first_seq..).zip(&mut self.items) {
            item.seq = seq;
        }
        self
    }

    /// The bytes of the command, as [`Envelope::pack`] takes them.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from(self.encode_to_vec())
    }

    /// How heavy the command weighs in byte-based admission: its encoding and what apply keeps.
    pub fn weight(&self) -> usize {
        self.encoded_len() + self.items.len() * ITEM_OVERHEAD_BYTES
    }
}

/// Which session a command belongs to.
#[derive(Clone, PartialEq, Message)]
pub struct SessionTag {
    /// The client's id, exactly 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub client: Bytes,
    /// The lowest seq among the client's unanswered operations in this range.
    #[prost(uint64, tag = "2")]
    pub watermark: u64,
}

impl SessionTag {
    /// The tag of `client` with its watermark.
    pub fn new(client: ClientId, watermark: u64) -> Self {
        Self { client: Bytes::copy_from_slice(&client.to_bytes()), watermark }
    }

    /// The client's id; `None` where the bytes are not an id.
    pub fn client_id(&self) -> Option<ClientId> {
        ClientId::from_bytes(&self.client)
    }
}

/// Who asked for a command.
#[derive(Clone, PartialEq, Message)]
pub struct User {
    /// The user's name; sessions are bound to it. An empty one is nobody's.
    #[prost(bytes = "bytes", tag = "1")]
    pub name: Bytes,
    /// Revision of the authorization rules under which the command was admitted.
    #[prost(uint64, tag = "2")]
    pub auth_revision: u64,
}

/// One operation of a command.
#[derive(Clone, PartialEq, Message)]
pub struct Item {
    /// Number of the operation, unique per client; 0 outside sessions.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// What to do. Decodes to `None` where this build does not know the operation.
    #[prost(
        oneof = "Operation",
        tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22"
    )]
    pub operation: Option<Operation>,
}

/// What a range can be told to do.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Operation {
    /// Stores a value.
    #[prost(message, tag = "2")]
    Put(Put),
    /// Removes a key.
    #[prost(message, tag = "3")]
    Delete(Delete),
    /// Removes all keys of an interval in one revision.
    #[prost(message, tag = "4")]
    DeleteRange(DeleteRange),
    /// Adds to a decimal number.
    #[prost(message, tag = "5")]
    Increment(Increment),
    /// Compares, then one of two lists of steps, in one revision.
    #[prost(message, tag = "6")]
    Txn(Txn),
    /// Creates a lease.
    #[prost(message, tag = "7")]
    LeaseGrant(LeaseGrant),
    /// Extends leases.
    #[prost(message, tag = "8")]
    Renew(Renew),
    /// Ends a lease and removes its keys in one revision.
    #[prost(message, tag = "9")]
    LeaseRevoke(LeaseRevoke),
    /// Takes a lock or queues for it.
    #[prost(message, tag = "10")]
    LockAcquire(LockAcquire),
    /// Extends a held lock or a place in its queue.
    #[prost(message, tag = "11")]
    LockKeepAlive(LockKeepAlive),
    /// Gives a lock back, or leaves its queue.
    #[prost(message, tag = "12")]
    LockRelease(LockRelease),
    /// Opens a session.
    #[prost(message, tag = "13")]
    SessionOpen(SessionOpen),
    /// Keeps an idle session from ending.
    #[prost(message, tag = "14")]
    SessionKeepAlive(SessionKeepAlive),
    /// Ends a session.
    #[prost(message, tag = "15")]
    SessionClose(SessionClose),
    /// Removes what is due.
    #[prost(message, tag = "16")]
    Expire(Expire),
    /// Moves the compacted revision.
    #[prost(message, tag = "17")]
    Compact(Compact),
    /// Sets the range's own truth: span, epoch, keyspace, history.
    #[prost(message, tag = "18")]
    Configure(Configure),
    /// Does nothing but carry the stamp.
    #[prost(message, tag = "19")]
    Noop(()),
    /// A transaction as etcd means it.
    #[prost(message, tag = "20")]
    Etcd(EtcdTxn),
    /// Changes or tells users, roles and permissions of an etcd keyspace.
    #[prost(message, tag = "21")]
    EtcdAuth(EtcdAuth),
    /// Lists, raises or clears alarms of an etcd keyspace.
    #[prost(message, tag = "22")]
    EtcdAlarm(EtcdAlarm),
}

impl From<EtcdTxn> for Operation {
    fn from(txn: EtcdTxn) -> Self {
        Self::Etcd(txn)
    }
}

macro_rules! operation_from {
    ($($name:ident),* $(,)?) => {
        $(impl From<$name> for Operation {
            fn from(value: $name) -> Self {
                Self::$name(value)
            }
        })*
    };
}

operation_from!(
    Put,
    Delete,
    DeleteRange,
    Increment,
    Txn,
    LeaseGrant,
    Renew,
    LeaseRevoke,
    LockAcquire,
    LockKeepAlive,
    LockRelease,
    SessionOpen,
    SessionKeepAlive,
    SessionClose,
    Expire,
    Compact,
    Configure,
    EtcdAuth,
    EtcdAlarm,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_encoded_commands_equals_encoding_the_envelope() {
        let put = Put { key: "a".into(), value: vec![7; 300].into(), ..Put::default() };
        let commands = vec![
            Command::single(put).in_session(ClientId(9), 3, 4),
            Command::single(Operation::Noop(())),
            Command::default(),
        ];
        let encoded: Vec<Bytes> = commands.iter().map(Command::to_bytes).collect();
        let whole = Envelope { apply_version: APPLY_VERSION, stamp_ms: 1 << 40, commands };
        assert_eq!(Envelope::pack(1 << 40, &encoded), whole.encode_to_vec());
        assert_eq!(Envelope::decode(Envelope::pack(1 << 40, &encoded)), Ok(whole));
    }

    #[test]
    fn an_operation_of_a_later_version_decodes_to_none() {
        let bytes: &[u8] = &[0xfa, 0x07, 0x00]; // field 127, length-delimited, empty
        assert_eq!(Item::decode(bytes).map(|i| i.operation), Ok(None));
    }
}
