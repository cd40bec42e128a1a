//! The seam between the transport and the router: operations on ranges led elsewhere.
//!
//! The origin's router sends, the other node's handler executes and never sends on.

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use holdfast_model::NodeId;
use holdfast_wire::peer::v1::{
    ForwardRequest, ForwardResponse, ForwardWatchRequest, ForwardWatchResponse,
};

/// Executes what other nodes forward; implemented by `node::api`.
pub trait ForwardHandler: Send + Sync + 'static {
    /// Executes one operation on a replica of this node; refusals travel in `error`.
    fn forward(&self, request: ForwardRequest) -> BoxFuture<'static, ForwardResponse>;

    /// Serves one watch from a replica of this node. Dropping the stream ends the watch.
    fn watch(&self, request: ForwardWatchRequest) -> BoxStream<'static, ForwardWatchResponse>;
}

/// Sends operations to other nodes; implemented by the transport.
pub trait ForwardSender: Send + Sync + 'static {
    /// Sends `request` to `to` and waits at most `timeout` for the answer, no longer than until the
    /// node falls silent.
    ///
    /// The transport fills in `cluster_id` and `from_node`.
    fn forward(
        &self,
        to: NodeId,
        request: ForwardRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<ForwardResponse, ForwardError>>;

    /// Opens a watch at `to`. The stream ends when the connection does.
    fn watch(
        &self,
        to: NodeId,
        request: ForwardWatchRequest,
    ) -> BoxFuture<'static, Result<BoxStream<'static, ForwardWatchResponse>, ForwardError>>;
}

/// Why a forwarded operation has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// It never left this node: safe to send elsewhere.
    #[error("{0} was not reached: {1}")]
    NotSent(NodeId, String),
    /// It left; whether it was executed is unknown.
    #[error("{0} did not answer: {1}")]
    Unknown(NodeId, String),
}
