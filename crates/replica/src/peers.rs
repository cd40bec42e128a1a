//! The port to other nodes: what a replica says to its peers, and how.
//!
//! `node` implements [`Peers`] and multiplexes everything onto one long-lived stream per node
//! pair, thread pair and class. The replica never connects, never resolves an address.

use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_model::{ClusterId, NodeId, RangeId, ReplicaId};
use holdfast_wire::peer::v1 as peer;
use tokio::sync::mpsc;

/// Appends a session may have handed over without the transport having taken them.
pub const SESSION_REQUESTS_MAX: usize = 32;
/// Answers of a session that may wait to be taken.
pub const SESSION_RESPONSES_MAX: usize = 64;

/// Who speaks to whom; every message to a peer carries it, and the receiver refuses a mismatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// The cluster both belong to.
    pub cluster: ClusterId,
    /// The range both replicate.
    pub range: RangeId,
    /// The speaking replica.
    pub from: ReplicaId,
    /// The replica spoken to.
    pub to: ReplicaId,
    /// The node that hosts it.
    pub node: NodeId,
}

/// A pipelined replication session: requests go out in order, answers come back in order.
#[derive(Debug)]
pub struct Session {
    /// Appends on their way out; at most [`SESSION_REQUESTS_MAX`] wait here. Dropping the sender
    /// ends the session: the transport then sends an end marker.
    pub requests: mpsc::Sender<peer::AppendRequest>,
    /// One answer per request. Ends after the end marker was answered, or with an error.
    pub responses: mpsc::Receiver<Result<peer::AppendResponse, PeerError>>,
}

/// The peers of a range, as a replica reaches them.
///
/// Implementations keep order within a session, never deliver a message to another replica than
/// the one addressed, and bound every wait: an answer that does not come is an error in the end.
pub trait Peers: Send + Sync + 'static {
    /// Begins a replication session with `to`.
    ///
    /// # Errors
    /// [`PeerError::Unreachable`] if there is no connection now; the caller backs off.
    fn open_session(&self, to: &PeerAddress) -> Result<Session, PeerError>;

    /// One append without entries and its answer. Waits up to 20 ms for company of other ranges,
    /// or goes out at once where `urgent` says that a read waits for it.
    fn heartbeat(
        &self,
        to: &PeerAddress,
        request: peer::AppendRequest,
        urgent: bool,
    ) -> BoxFuture<'static, Result<peer::AppendResponse, PeerError>>;

    /// Asks for a vote or pre-vote (`request.pre_vote`).
    fn vote(
        &self,
        to: &PeerAddress,
        request: peer::VoteRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<peer::VoteResponse, PeerError>>;

    /// Tells a peer that leadership is handed to `request.to_replica`.
    fn transfer(
        &self,
        to: &PeerAddress,
        request: peer::TransferLeader,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<peer::TransferResponse, PeerError>>;

    /// Asks the leader for a read index of a round that starts after the request arrived there.
    /// Requests of many ranges to one node travel together.
    fn read_index(
        &self,
        to: &PeerAddress,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<peer::ReadIndexResponse, PeerError>>;

    /// Sends a snapshot: offers the header, tells `source` what the receiver has of it already,
    /// then sends the header and chunks taken from `source` (on a thread that may wait for a disk),
    /// rate-limited, few at a time. Dropping the future cancels the transfer; the next one goes on
    /// where it ended.
    fn send_snapshot(
        &self,
        to: &PeerAddress,
        header: peer::SnapshotHeader,
        source: Box<dyn SnapshotSource>,
    ) -> BoxFuture<'static, Result<peer::SnapshotResult, PeerError>>;

    /// How far the wall clock of `node` is ahead of this node's, milliseconds, as measured on its
    /// connection; `None` if it is not connected, or that could not be measured well enough.
    fn wall_offset_ms(&self, node: NodeId) -> Option<i64>;
}

/// The files of a snapshot, read chunk by chunk. Waits for the disk: not for a reactor thread.
pub trait SnapshotSource: Send {
    /// Leaves out what the receiver says it has. To be called before the first chunk is taken.
    fn resume(&mut self, staged: Vec<peer::StagedFile>);

    /// The next chunk, at most about `bytes_max` bytes; `None` after the last one.
    ///
    /// # Errors
    /// The snapshot cannot be read; the transfer fails and is begun again later.
    fn next_chunk(&mut self, bytes_max: usize) -> std::io::Result<Option<peer::SnapshotData>>;
}

/// Why a peer did not answer as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No connection: nothing was delivered. Back off.
    #[error("peer is unreachable: {0}")]
    Unreachable(String),
    /// No answer in time; the message may or may not have been delivered.
    #[error("peer did not answer in time")]
    Timeout,
    /// The peer is there but does not serve the message (unknown replica, stopping, busy).
    #[error("peer refused: {0}")]
    Refused(String),
    /// The stream broke; the message may or may not have been delivered.
    #[error("stream to the peer broke: {0}")]
    Broken(String),
}
