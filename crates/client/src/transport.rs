//! One HTTP/2 connection per node, shared by all calls to it.
//!
//! Unary calls are framed here by hand (one buffer out, one body in), because they are what the
//! put and get paths are made of; streams go through tonic. What tells this transport from a
//! ready-made channel is that it knows whether a request that failed was ever sent: that decides
//! whether a mutation without a session may be tried again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::{BufMut, Bytes, BytesMut};
use holdfast_model::limits::PEER_MESSAGE_BYTES_MAX;
use holdfast_runtime::{Elapsed, spawn, timeout};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Uri, header};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::sync::Mutex;
use tonic::{Code, Status};

use crate::doors::Doors;

/// Streams of one connection may hold this much unread data each.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// All streams of one connection together.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Most of an attempt's time that is kept for the way of its answer.
const ANSWER_TRAVEL_MAX: Duration = Duration::from_millis(50);
/// A connection with calls under way is probed this often …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// … and given up when a probe stays unanswered this long.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// After a failed connect, calls fail at once for this long instead of connecting again.
const CONNECT_PAUSE: Duration = Duration::from_millis(50);
/// A node that failed is avoided this long where another can serve.
const SUSPECT_PERIOD: Duration = Duration::from_millis(500);
/// Bytes before a gRPC message: compression flag and length.
const PREFIX_BYTES: usize = 5;
/// Largest answer accepted.
const ANSWER_BYTES_MAX: usize = PEER_MESSAGE_BYTES_MAX;

/// Why an attempt gave no answer, as far as the transport can tell.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was sent: the node cannot have seen the request.
    NotSent(String),
    /// The request may have been seen and served.
    Broken(String),
    /// The time of the attempt ran out; as [`Failure::Broken`].
    TimedOut,
    /// The node answered with an error.
    Status(Status),
}

/// A request body: one framed message, or a stream tonic frames.
pub(crate) enum Body {
    Once(Option<Bytes>),
    Stream(tonic::body::Body),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.get_mut() {
            Self::Once(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Once(bytes) => bytes.is_none(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }
}

type Sender = http2::SendRequest<Body>;

/// The connection to one node: made when first needed, made again when it broke.
pub(crate) struct Connection {
    address: String,
    authority: Option<Authority>,
    doors: Doors,
    connect_timeout: Duration,
    sender: ArcSwapOption<Sender>,
    /// Held while connecting; when and why the last connect failed.
    connecting: Mutex<Option<(Duration, String)>>,
    /// Monotonic milliseconds until which the node is avoided; 0 = healthy.
    suspect_until_ms: AtomicU64,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(address: &str, doors: Doors, connect_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            address: address.to_owned(),
            authority: address.parse().ok(),
            doors,
            connect_timeout,
            sender: ArcSwapOption::empty(),
            connecting: Mutex::new(None),
            suspect_until_ms: AtomicU64::new(0),
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Whether the node failed a moment ago. Costs a clock reading only when it did.
    pub(crate) fn is_suspect(&self) -> bool {
        let until = self.suspect_until_ms.load(Ordering::Relaxed);
        until != 0 && crate::types::millis(self.doors.clock.monotonic()) < until
    }

    pub(crate) fn suspect(&self) {
        let until = self.doors.clock.monotonic() + SUSPECT_PERIOD;
        self.suspect_until_ms.store(crate::types::millis(until), Ordering::Relaxed);
    }

    fn trust(&self) {
        if self.suspect_until_ms.load(Ordering::Relaxed) != 0 {
            self.suspect_until_ms.store(0, Ordering::Relaxed);
        }
    }

    /// One request, one answer, within `patience`.
    pub(crate) async fn unary<Q: Message, S: Message + Default>(
        &self,
        path: &'static str,
        request: &Q,
        patience: Duration,
    ) -> Result<S, Failure> {
        match timeout(patience, self.exchange(path, request, patience)).await {
            Ok(Ok(bytes)) => {
                self.trust();
                S::decode(bytes)
                    .map_err(|e| Failure::Status(Status::data_loss(format!("answer: {e}"))))
            }
            Ok(Err(Failure::Status(status))) if is_silence(&status) => {
                self.suspect();
                Err(Failure::TimedOut)
            }
            Ok(Err(failure)) => {
                match &failure {
                    Failure::NotSent(_) | Failure::Broken(_) => self.suspect(),
                    Failure::TimedOut | Failure::Status(_) => self.trust(),
                }
                Err(failure)
            }
            Err(Elapsed) => {
                self.suspect();
                Err(Failure::TimedOut)
            }
        }
    }

    async fn exchange<Q: Message>(
        &self,
        path: &'static str,
        request: &Q,
        patience: Duration,
    ) -> Result<Bytes, Failure> {
        let mut sender = self.sender().await?;
        let mut http = http::Request::new(Body::Once(Some(frame(request))));
        *http.method_mut() = http::Method::POST;
        *http.uri_mut() = self.uri(Some(PathAndQuery::from_static(path)));
        let headers = http.headers_mut();
        headers.reserve(3);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-timeout", grpc_timeout(told(patience)));
        match sender.try_send_request(http).await {
            Ok(response) => read_answer(response).await,
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                let text = format!("{}: {}", self.address, error.into_error());
                Err(if unsent { Failure::NotSent(text) } else { Failure::Broken(text) })
            }
        }
    }

    /// A tonic client over this connection, for streams.
    pub(crate) async fn streams(&self) -> Result<tonic::client::Grpc<StreamService>, Failure> {
        let sender = self.sender().await?;
        let service = StreamService { sender };
        let grpc = tonic::client::Grpc::with_origin(service, self.uri(None));
        Ok(grpc.max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    fn uri(&self, path: Option<PathAndQuery>) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority.clone_from(&self.authority);
        parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        Uri::from_parts(parts).unwrap_or_default()
    }

    async fn sender(&self) -> Result<Sender, Failure> {
        if let Some(sender) = self.sender.load().as_deref()
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        self.connect().await.map_err(Failure::NotSent)
    }

    /// Connects unless another caller just did or just failed to.
    async fn connect(&self) -> Result<Sender, String> {
        let mut last_failure = self.connecting.lock().await;
        if let Some(sender) = self.sender.load().as_deref()
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        let now = self.doors.clock.monotonic();
        if let Some((at, why)) = last_failure.as_ref()
            && now < *at + CONNECT_PAUSE
        {
            return Err(why.clone());
        }
        let late = |Elapsed| Err(format!("no connection within {:?}", self.connect_timeout));
        match timeout(self.connect_timeout, self.handshake()).await.unwrap_or_else(late) {
            Ok(sender) => {
                *last_failure = None;
                self.sender.store(Some(Arc::new(sender.clone())));
                Ok(sender)
            }
            Err(why) => {
                let why = format!("{}: {why}", self.address);
                *last_failure = Some((self.doors.clock.monotonic(), why.clone()));
                Err(why)
            }
        }
    }

    async fn handshake(&self) -> Result<Sender, String> {
        if self.authority.is_none() {
            return Err("the address is not host:port".to_owned());
        }
        let stream = self.doors.net.connect(&self.address).await.map_err(|e| e.to_string())?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        let address = self.address.clone();
        spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "connection ended");
            }
        });
        Ok(sender)
    }
}

/// The framed bytes of `message`, encoded into one exact buffer.
fn frame<Q: Message>(message: &Q) -> Bytes {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + length);
    buffer.put_u8(0);
    // A message longer than u32 is refused by the server's limit long before.
    buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut buffer);
    buffer.freeze()
}

/// The header that tells the server how long the caller waits: at most eight digits and a unit.
fn grpc_timeout(timeout: Duration) -> HeaderValue {
    let text = match timeout.as_micros() {
        micros @ 0..=99_999_999 => format!("{micros}u"),
        _ => format!("{}m", timeout.as_millis().min(99_999_999)),
    };
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("1S"))
}

/// What the server is told of `patience`: a little less, so that what it has to say at the end
/// (nothing was proposed, how stale a replica is) arrives while someone still listens.
fn told(patience: Duration) -> Duration {
    patience.saturating_sub((patience / 10).min(ANSWER_TRAVEL_MAX))
}

/// Whether the server's library ended the call for want of an answer by the time it was told:
/// nobody who knows anything has spoken.
fn is_silence(status: &Status) -> bool {
    matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded)
        && holdfast_wire::error_info(status).is_none()
}

/// Reads the single message of a unary answer.
async fn read_answer(response: http::Response<Incoming>) -> Result<Bytes, Failure> {
    let (head, mut body) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers)
        && status.code() != Code::Ok
    {
        return Err(Failure::Status(status));
    }
    if head.status != http::StatusCode::OK {
        return Err(Failure::Broken(format!("HTTP status {}", head.status)));
    }
    let mut answer = Answer::default();
    let mut trailers = None;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|e| Failure::Broken(e.to_string()))?;
        match frame.into_data() {
            Ok(data) => answer.push(data)?,
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    // The body is read to its end even when the message is complete: only the trailers say that
    // the call succeeded.
    let status = trailers.as_ref().and_then(Status::from_header_map);
    match status.or_else(|| Status::from_header_map(&head.headers)) {
        Some(status) if status.code() == Code::Ok => answer.finish(),
        Some(status) => Err(Failure::Status(status)),
        None => Err(Failure::Broken("the answer ended without a status".to_owned())),
    }
}

/// The data of an answer: one piece as a rule, joined where it came in several.
#[derive(Default)]
struct Answer {
    first: Bytes,
    joined: BytesMut,
}

impl Answer {
    fn push(&mut self, data: Bytes) -> Result<(), Failure> {
        if self.first.len() + self.joined.len() + data.len() > ANSWER_BYTES_MAX {
            return Err(malformed("longer than any answer may be"));
        }
        if self.first.is_empty() && self.joined.is_empty() {
            self.first = data;
            return Ok(());
        }
        if self.joined.is_empty() {
            let wanted = message_length(&self.first).unwrap_or(0).min(ANSWER_BYTES_MAX);
            self.joined.reserve(PREFIX_BYTES + wanted);
            self.joined.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.joined.extend_from_slice(&data);
        Ok(())
    }

    fn finish(self) -> Result<Bytes, Failure> {
        let mut bytes = if self.joined.is_empty() { self.first } else { self.joined.freeze() };
        let length = message_length(&bytes).ok_or_else(|| malformed("no message"))?;
        if bytes.first() != Some(&0) {
            return Err(malformed("compressed, which was not asked for"));
        }
        if bytes.len() != PREFIX_BYTES + length {
            return Err(malformed("not exactly one message"));
        }
        Ok(bytes.split_off(PREFIX_BYTES))
    }
}

fn message_length(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(1..PREFIX_BYTES)?;
    usize::try_from(u32::from_be_bytes(length.try_into().ok()?)).ok()
}

fn malformed(what: &str) -> Failure {
    Failure::Status(Status::data_loss(format!("answer: {what}")))
}

/// The service tonic's streaming calls run on.
#[derive(Clone)]
pub(crate) struct StreamService {
    sender: Sender,
}

/// A transport error of a stream; tonic keeps it as the source of its status.
#[derive(Debug, thiserror::Error)]
#[error("connection: {0}")]
pub(crate) struct StreamBroken(#[from] hyper::Error);

impl tower::Service<http::Request<tonic::body::Body>> for StreamService {
    type Response = http::Response<Incoming>;
    type Error = StreamBroken;
    type Future =
        Pin<Box<dyn Future<Output = Result<http::Response<Incoming>, StreamBroken>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamBroken>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let response = self.sender.send_request(request.map(Body::Stream));
        Box::pin(async move { Ok(response.await?) })
    }
}

/// Keeps [`Failure`] readable as the `last` of a deadline error.
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotSent(why) | Self::Broken(why) => f.write_str(why),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Status(status) => write!(f, "{:?}: {}", status.code(), status.message()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_pieces_is_the_answer_in_one() {
        let framed = frame(&"a message long enough to cut".to_owned());
        for cut in 0..framed.len() {
            let mut answer = Answer::default();
            let mut rest = framed.clone();
            for piece in [rest.split_to(cut), rest] {
                answer.push(piece).unwrap();
            }
            let bytes = answer.finish().unwrap();
            assert_eq!(String::decode(bytes).unwrap(), "a message long enough to cut");
        }
    }

    #[test]
    fn a_cut_answer_is_refused() {
        let framed = frame(&"whole".to_owned());
        for cut in 0..framed.len() {
            let mut answer = Answer::default();
            answer.push(framed.slice(..cut)).unwrap();
            assert!(answer.finish().is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn the_timeout_header_has_at_most_eight_digits() {
        assert_eq!(grpc_timeout(Duration::from_millis(5)), "5000u");
        assert_eq!(grpc_timeout(Duration::from_secs(3600)), "3600000m");
        assert_eq!(grpc_timeout(Duration::from_secs(u32::MAX.into())), "99999999m");
    }
}
