use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use holdfast_runtime::net::{BoxFuture, Ends, Listener, Net, RealNet, Stream, channel, incoming};
use holdfast_runtime::spawn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::transport::Endpoint;
use tower::ServiceExt;

/// An address of these tests alone; port 0 is replaced by a free one.
const ADDRESS: &str = "127.41.7.1:0";

#[tokio::test]
async fn bytes_travel_both_ways_and_each_end_knows_the_other() {
    let listener = RealNet.bind(ADDRESS.parse().unwrap()).await.unwrap();
    let address = listener.local_address();
    let server = spawn(async move {
        let mut stream = listener.accept().await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.ends()
    });
    let mut client = RealNet.connect(&address.to_string()).await.unwrap();
    client.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    client.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
    let ends = server.await.unwrap();
    assert_eq!(ends, Ends { local: client.ends().remote, remote: client.ends().local });
    assert_eq!(client.ends().remote, address);
}

#[tokio::test]
async fn an_address_is_bound_once() {
    let listener = RealNet.bind(ADDRESS.parse().unwrap()).await.unwrap();
    let again = RealNet.bind(listener.local_address()).await.unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
}

const CONNECT_MAX: Duration = Duration::from_secs(5);

fn endpoint() -> Endpoint {
    Endpoint::from_static("http://unreachable.invalid:1")
}

/// A network without sockets: connecting to it hands the far end to its listener.
#[derive(Debug)]
struct PipeNet {
    far_ends: tokio::sync::mpsc::Sender<Stream>,
}

#[derive(Debug)]
struct PipeListener(tokio::sync::Mutex<tokio::sync::mpsc::Receiver<Stream>>);

const ENDS: &str = "127.41.7.2:9";

fn ends() -> Ends {
    Ends { local: ENDS.parse().unwrap(), remote: ENDS.parse().unwrap() }
}

impl Net for PipeNet {
    fn bind(&self, _: std::net::SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn connect<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        let (near, far) = tokio::io::duplex(4_096);
        Box::pin(async move {
            let sent = self.far_ends.send(Stream::other(far, ends())).await;
            sent.map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(Stream::other(near, ends()))
        })
    }
}

impl Listener for PipeListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async {
            let stream = self.0.lock().await.recv().await;
            stream.ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
        })
    }

    fn local_address(&self) -> std::net::SocketAddr {
        ENDS.parse().unwrap()
    }
}

#[tokio::test]
async fn a_tonic_channel_connects_through_the_given_network() {
    let (far_ends, accepted) = tokio::sync::mpsc::channel(1);
    let listener = PipeListener(tokio::sync::Mutex::new(accepted));
    let mut connections = Box::pin(incoming(Box::new(listener)));
    let channel = channel(Arc::new(PipeNet { far_ends }), &endpoint(), CONNECT_MAX);
    let request = spawn(channel.oneshot(Request::new(Body::empty())));
    let mut server = connections.next().await.unwrap().unwrap();
    let mut preface = [0; 24];
    server.read_exact(&mut preface).await.unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    request.abort();
}

#[tokio::test(start_paused = true)]
async fn an_attempt_to_connect_ends_after_its_time() {
    let (far_ends, _nobody_takes_them) = tokio::sync::mpsc::channel(1);
    far_ends.send(Stream::other(tokio::io::duplex(1).0, ends())).await.unwrap();
    let channel = channel(Arc::new(PipeNet { far_ends }), &endpoint(), CONNECT_MAX);
    let start = tokio::time::Instant::now();
    let answer = channel.oneshot(Request::new(Body::empty())).await;
    assert!(answer.is_err());
    assert_eq!(start.elapsed().as_secs(), CONNECT_MAX.as_secs());
}
