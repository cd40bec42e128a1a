//! Operations on sessions. They carry the client's id themselves and stand outside any session.

use bytes::Bytes;
use prost::Message;

/// Opens a session, bound to the command's user; opening an open one changes nothing.
#[derive(Clone, PartialEq, Message)]
pub struct SessionOpen {
    /// The client's id, exactly 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub client: Bytes,
}

/// Keeps an idle session from ending.
#[derive(Clone, PartialEq, Message)]
pub struct SessionKeepAlive {
    /// The client's id, exactly 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub client: Bytes,
    /// The lowest seq among the client's unanswered operations in this range; 0 says nothing.
    #[prost(uint64, tag = "2")]
    pub watermark: u64,
}

/// Ends a session; its id is never opened again.
#[derive(Clone, PartialEq, Message)]
pub struct SessionClose {
    /// The client's id, exactly 16 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub client: Bytes,
}
