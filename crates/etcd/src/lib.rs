//! The etcd v3 API as a translation onto `node::api`.
//!
//! Owns: etcd's messages in both directions, the order of its checks, its error texts and codes.
//! Must never know: Raft, storage, which node has what.
//! Invariants:
//! * A text of [`EtcdError`] is etcd's to the byte: its clients look errors up by it.
//! * What etcd refuses before it proposes is refused here, in its order.
//! * A keyspace of one range is one etcd cluster: its revisions are dense and order everything.
//! Source: etcd 3.7.1, `api/v3rpc`, `etcdserver/txn`, `rpctypes`.

mod answer;
mod call;
mod error;
mod kv;
mod request;

pub use answer::{Answers, key_value};
pub use call::Service;
pub use error::{EtcdError, error_of};
pub use request::{delete_range, put, range, txn};
