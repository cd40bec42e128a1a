//! turmoil's network behind the door of `runtime`, through the brakes of the machine.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use holdfast_runtime::net::{BoxFuture, Ends, Listener, Net, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use super::brakes::Brakes;
use super::trace::Trace;

/// The network of the simulation the caller runs in. Everybody listens on all addresses.
#[derive(Clone, Debug)]
pub(super) struct SimNet {
    pub(super) brakes: Arc<Brakes>,
    pub(super) trace: Trace,
}

struct SimListener {
    listener: TcpListener,
    address: SocketAddr,
    net: SimNet,
}

impl std::fmt::Debug for SimListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimListener({})", self.address)
    }
}

/// A connection of a process that may be paused: what arrives meanwhile waits for it.
struct Braked {
    stream: TcpStream,
    brakes: Arc<Brakes>,
    trace: Trace,
}

impl std::fmt::Debug for Braked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Braked({:?})", self.brakes)
    }
}

impl AsyncRead for Braked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.brakes.poll(context));
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.trace.hear(&buffer.filled()[before..]);
        polled
    }
}

impl AsyncWrite for Braked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.brakes.poll(context));
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.brakes.poll(context));
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.brakes.poll(context));
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

fn stream(stream: TcpStream, SimNet { brakes, trace }: SimNet) -> io::Result<Stream> {
    let ends = Ends { local: stream.local_addr()?, remote: stream.peer_addr()? };
    Ok(Stream::other(Braked { stream, brakes, trace }, ends))
}

impl Net for SimNet {
    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            let listener = TcpListener::bind(any).await?;
            let (address, net) = (listener.local_addr()?, self.clone());
            Ok(Box::new(SimListener { listener, address, net }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let address: SocketAddr =
                address.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            self.brakes.pass().await;
            let connected = TcpStream::connect(address).await?;
            self.brakes.pass().await;
            stream(connected, self.clone())
        })
    }
}

impl Listener for SimListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async move {
            self.net.brakes.pass().await;
            let (accepted, _) = self.listener.accept().await?;
            self.net.brakes.pass().await;
            stream(accepted, self.net.clone())
        })
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}
