//! The public messages as they are, past the SDK and its checks.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Buf, BufMut, Bytes};
use holdfast_wire::v1;
use holdfast_wire::v1::cluster_client::ClusterClient;
use holdfast_wire::v1::kv_client::KvClient;
use holdfast_wire::v1::lock_client::LockClient;
use holdfast_wire::v1::session_client::SessionClient;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Larger than anything a server takes, so that it is the server that refuses.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A connection to one node.
#[derive(Clone, Debug)]
pub struct Rpc {
    channel: Channel,
}

impl Rpc {
    /// Connects to `address`.
    ///
    /// # Errors
    /// If nobody listens.
    pub async fn connect(address: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT);
        let channel = endpoint.connect().await.with_context(|| address.to_owned())?;
        Ok(Self { channel })
    }

    /// Service `Cluster`.
    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Service `Kv`.
    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Service `Lock`.
    pub fn lock(&self) -> LockClient<Channel> {
        LockClient::new(self.channel.clone())
    }

    /// Service `Session`.
    pub fn session(&self) -> SessionClient<Channel> {
        SessionClient::new(self.channel.clone())
    }

    /// Sends `bytes` as the request of the unary method `path`, whatever they mean.
    ///
    /// # Errors
    /// The status it was answered with.
    pub async fn unary(&self, path: &'static str, bytes: Bytes) -> Result<Bytes, Status> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
        let answer = client.unary(Request::new(bytes), path, RawCodec).await?;
        Ok(answer.into_inner())
    }
}

/// The typed detail of a refusal; every refusal must have one.
///
/// # Errors
/// If the call succeeded, or the status carries no detail.
pub fn refusal<T>(answer: std::result::Result<T, Status>) -> Result<(tonic::Code, v1::ErrorInfo)> {
    let Err(status) = answer else { bail!("was not refused") };
    let info = holdfast_wire::error_info(&status);
    let info = info.with_context(|| format!("a status without a typed detail: {status:?}"))?;
    Ok((status.code(), info))
}

/// Frames without a meaning.
#[derive(Clone, Copy, Debug)]
pub struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
