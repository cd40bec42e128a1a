//! turmoil's network behind the door of `runtime`.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use holdfast_runtime::net::{BoxFuture, Ends, Listener, Net, Stream};
use turmoil::net::{TcpListener, TcpStream};

/// The network of the simulation the caller runs in. Everybody listens on all addresses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SimNet;

struct SimListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl std::fmt::Debug for SimListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimListener({})", self.address)
    }
}

fn stream(stream: TcpStream) -> io::Result<Stream> {
    let ends = Ends { local: stream.local_addr()?, remote: stream.peer_addr()? };
    Ok(Stream::other(stream, ends))
}

impl Net for SimNet {
    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            let listener = TcpListener::bind(any).await?;
            let address = listener.local_addr()?;
            Ok(Box::new(SimListener { listener, address }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let address: SocketAddr =
                address.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            stream(TcpStream::connect(address).await?)
        })
    }
}

impl Listener for SimListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async move { stream(self.listener.accept().await?.0) })
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}
