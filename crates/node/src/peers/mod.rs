//! The transport between nodes.
//!
//! Owns: one long-lived stream per node pair, reactor and class that multiplexes all ranges, the
//! introduction of nodes to each other, forwarding, snapshots, and the news that a node is lost.
//! Must never know: openraft, what an entry or a command means, placement.
//! Invariants:
//! * No connection is made per call; what is ready together travels together.
//! * Nothing is exchanged with a node of another cluster, a wiped or a rolled-back one, nor by this
//!   node before it was introduced ([`Standing`]).
//! * A replica that does not take its requests holds up no other replica's.
//! * Every wait ends: by an answer, a limit, or the break of its stream.
//!
//! A stream is a request-answer multiplex: each node opens its own streams for what it asks, the
//! answers come back on the same stream. Its reactor is that of the replicas it carries; with the
//! same number of reactors on both sides that makes one stream per thread pair.

mod conn;
mod credits;
mod forward;
mod host;
mod introduce;
mod link;
mod outbox;
mod serve;
mod service;
mod snapshot;
mod transport;
mod walls;

pub use forward::{ForwardError, ForwardHandler, ForwardSender};
pub use host::{Host, HostSession, Route, SnapshotSink, busy, unknown_replica};
pub use introduce::Standing;
pub(crate) use service::SharedListener;
pub use service::{PeerService, SystemHandler};
pub use transport::{Transport, TransportDeps, TransportOptions, reactor_of};
