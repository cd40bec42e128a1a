//! The deterministic state machine of one range, on an `lsm` engine.
//!
//! Owns: the commands of a range and their bytes, revisions, conditions and transactions, TTL by
//! range time, leases, locks with fencing tokens, client sessions, history and its marks, watch
//! events, users and what they may, and how all of it is laid out in the engine's families.
//! Must never know: openraft, tonic, a wall clock, randomness, floating point, the network.
//! Invariants:
//! * The state after an entry depends on the entries up to it alone: not on how they were cut
//!   into `apply` calls, not on what is cached, not on what compaction has dropped.
//! * Everything one `apply` call changes is one atomic engine batch.
//! * The revision grows by one for every transaction that changes something, and never otherwise.
//! * Range time never goes back; nothing expires except by the time entries carry.
//! * A mutation tagged with a session is executed at most once, and its outcome is remembered
//!   until the session's watermark passes it.
//! * A range that was never configured, or a key outside its span, is never served.
//! Source: the exactly-once table follows Raft thesis §6.3; revisions follow etcd's data model.

mod apply;
pub mod auth;
pub mod command;
mod decode;
mod entry;
mod error;
mod event;
mod hash;
mod log;
mod machine;
mod outcome;
mod prefetch;
mod progress;
mod reader;
mod records;
mod sessions;
mod truth;
mod validate;
mod working;

pub use auth::{AuthAccess, AuthAnswer, AuthRefusal, AuthStore, AuthUser};
pub use command::{Command, Envelope, Item, Operation};
pub use entry::{Entry, record_expires_at_ms};
pub use error::Error;
pub use event::{Event, EventKind, Previous, RevisionEvents};
pub use holdfast_lsm::{Cached, ReadPoint};
pub use log::{Applied, ApplyResult, Kind, LogEntry, LogPosition};
pub use machine::StateMachine;
pub use outcome::{
    Alarm, EtcdOutcome, EtcdResult, LeaseOutcome, LockGrant, LockOutcome, LockStanding, LockState,
    Mutation, Outcome, Refusal, Renewal, TxnOutcome, TxnResult,
};
pub use prefetch::{ColdPart, Prepared, Warmed};
pub use reader::{
    At, ChangesPage, CountPage, HistoryHash, LeaseInfo, Page, Reader, ScanRequest, SessionStats,
};
pub use sessions::SESSION_TABLE_BYTES_MAX;
pub use truth::Truth;
pub use validate::{Invalid, Limits, RENEW_LEASES_MAX, TXN_DEPTH_MAX, validate};

/// The result of a call of this crate.
pub type Result<T> = std::result::Result<T, Error>;
