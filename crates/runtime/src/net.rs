//! The door to the network, and what tonic needs to pass through it.
//!
//! [`Net`] is object safe, so that a simulated network can stand behind the same servers and
//! clients: [`RealNet`] is the machine's TCP; anything that gives [`Stream`]s will do.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::held::Held;
use crate::{Elapsed, sleep, timeout};

/// How long accepting rests after it failed for want of descriptors or memory.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// A boxed future, as object-safe traits return them.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A network.
pub trait Net: Send + Sync + Debug {
    /// Listens on `address`; port 0 picks a free one.
    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;

    /// Connects to `address`, `host:port`. Takes as long as the network likes: limit it.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>>;
}

/// A bound address.
pub trait Listener: Send + Sync + Debug {
    /// Waits for the next connection. Cancel safe.
    fn accept(&self) -> BoxFuture<'_, io::Result<Stream>>;

    /// Where it listens, with the port that was picked.
    fn local_address(&self) -> SocketAddr;
}

/// Bytes both ways, over whatever a simulated network uses.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin + Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + Debug> Transport for T {}

#[derive(Debug)]
enum Carrier {
    Tcp(TcpStream),
    Other(Box<dyn Transport>),
}

/// A connection. Real TCP is not boxed: the hot path has no virtual call.
///
/// What is written may stay here until it is flushed, 16 KiB at most.
#[derive(Debug)]
pub struct Stream {
    carrier: Carrier,
    held: Held,
    ends: Ends,
}

/// The two ends of a connection; tonic hands it to services as an extension of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Ours.
    pub local: SocketAddr,
    /// Theirs.
    pub remote: SocketAddr,
}

impl Stream {
    /// A connection over something else than the machine's TCP.
    pub fn other(transport: impl Transport + 'static, ends: Ends) -> Self {
        Self { carrier: Carrier::Other(Box::new(transport)), held: Held::default(), ends }
    }

    /// Its two ends.
    pub fn ends(&self) -> Ends {
        self.ends
    }

    fn tcp(stream: TcpStream) -> io::Result<Self> {
        // Requests are small and answered one by one: Nagle's delay would be their latency.
        stream.set_nodelay(true)?;
        let ends = Ends { local: stream.local_addr()?, remote: stream.peer_addr()? };
        Ok(Self { carrier: Carrier::Tcp(stream), held: Held::default(), ends })
    }
}

/// Calls `$call` with whatever carries the stream, and what is held of it.
macro_rules! carried {
    ($self:ident, $carrier:ident, $held:ident => $call:expr) => {{
        let Stream { carrier, held: $held, .. } = $self.get_mut();
        match carrier {
            Carrier::Tcp($carrier) => $call,
            Carrier::Other($carrier) => $call,
        }
    }};
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        carried!(self, carrier, _held => Pin::new(carrier).poll_read(context, buffer))
    }
}

// One slice at a time, on purpose: see `Held`.
impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        carried!(self, carrier, held => held.poll_write(carrier, context, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        carried!(self, carrier, held => {
            ready!(held.poll_flush(carrier, context))?;
            Pin::new(carrier).poll_flush(context)
        })
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        carried!(self, carrier, held => {
            ready!(held.poll_flush(carrier, context))?;
            Pin::new(carrier).poll_shutdown(context)
        })
    }
}

impl Connected for Stream {
    type ConnectInfo = Ends;

    fn connect_info(&self) -> Ends {
        self.ends
    }
}

/// The machine's TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealNet;

#[derive(Debug)]
struct RealListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Net for RealNet {
    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Box::new(RealListener { listener, address }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move { Stream::tcp(TcpStream::connect(address).await?) })
    }
}

impl Listener for RealListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async move { Stream::tcp(self.listener.accept().await?.0) })
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}

/// The connections of `listener`, as `serve_with_incoming_shutdown` of tonic takes them. Never
/// ends and never fails: a connection that broke before it was accepted is skipped, and where the
/// process is out of descriptors it rests a moment, since failing would end the server.
pub fn incoming(
    listener: Box<dyn Listener>,
) -> impl futures_util::Stream<Item = io::Result<Stream>> + Send {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok(stream) => return Some((Ok(stream), listener)),
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => sleep(ACCEPT_REST).await,
            }
        }
    })
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::Interrupted
    )
}

/// A channel to the address in `endpoint`'s URI that connects through `net` when first used, and
/// again after every break; an attempt takes `connect_max` at most.
pub fn channel(net: Arc<dyn Net>, endpoint: &Endpoint, connect_max: Duration) -> Channel {
    endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
        let net = net.clone();
        async move {
            let address = address_of(&uri)?;
            match timeout(connect_max, net.connect(&address)).await {
                Ok(stream) => stream.map(TokioIo::new),
                Err(Elapsed) => Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }))
}

fn address_of(uri: &Uri) -> io::Result<String> {
    let host = uri.host().ok_or(io::ErrorKind::InvalidInput)?;
    let port = uri.port_u16().ok_or(io::ErrorKind::InvalidInput)?;
    Ok(format!("{host}:{port}"))
}
