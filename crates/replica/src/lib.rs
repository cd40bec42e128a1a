//! One Raft group: the only crate that names openraft.
//!
//! Owns: how openraft is set up and bound to `journal`, `lsm` and `kv`; proposing, reading,
//! watching, snapshots, membership, leadership of one range; the port to its peers ([`Peers`]).
//! Must never know: tonic servers, sockets, other ranges, placement.
//! Invariants:
//! * What is answered as committed is in the journals of a quorum.
//! * A read joins a round that starts after it arrived, never one under way.
//! * Nothing that may have been appended is ever reported as certainly not done.
//! * openraft's types do not leave this crate, nor reach a disk or a wire in its own encoding.
//!
//! Source: Ongaro, Consensus: Bridging Theory and Practice, §3, §4.2, §6.3, §6.4, §9.6.

mod admission;
mod deps;
mod elections;
mod error;
mod gather;
mod health;
mod inbound;
mod keeper;
mod leadership;
mod membership;
mod options;
mod peers;
mod proposer;
mod raft;
mod range_time;
mod read;
mod reads;
mod renewals;
mod replica;
mod status;
mod watch;
mod watch_filter;

pub use admission::{Admission, Permit};
pub use deps::{Deps, FatalHook};
pub use error::{Error, ProposeError, ReadError, Result, WatchError};
pub use health::Failure;
pub use inbound::SnapshotReceiver;
pub use leadership::{LeaderInfo, Role};
pub use membership::MembershipInfo;
pub use options::{
    ENTRIES_IN_FLIGHT_MAX, ENTRY_BYTES_MAX, PROPOSALS_WAITING_MAX, READS_WAITING_MAX,
    ReplicaOptions, Timings,
};
pub use peers::{
    PeerAddress, PeerError, Peers, SESSION_REQUESTS_MAX, SESSION_RESPONSES_MAX, Session,
    SnapshotSource,
};
pub use proposer::Committed;
pub use read::{Bound, ReadLevel, ReadRequest, ReadView};
pub use renewals::Renewed;
pub use replica::Replica;
pub use status::Status;
pub use watch::{LockWaiter, WatchItem, WatchStream};
pub use watch_filter::WatchFilter;
