//! A network in memory whose connections can be cut and frozen.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_runtime::net::{BoxFuture, Ends, Listener, Net, Stream};
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};

/// Bytes a connection holds in each direction.
const BUFFER_BYTES: usize = 1 << 20;
/// Connections that may wait to be accepted.
const BACKLOG: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Fine,
    /// Nothing moves, nothing breaks.
    Frozen,
    /// Every connection of before is broken; new ones are refused.
    Cut,
}

#[derive(Debug)]
pub struct TestNet {
    listeners: Mutex<BTreeMap<SocketAddr, mpsc::Sender<Stream>>>,
    weather: watch::Sender<Weather>,
    connections: AtomicUsize,
}

impl TestNet {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            listeners: Mutex::default(),
            weather: watch::Sender::new(Weather::Fine),
            connections: AtomicUsize::new(0),
        })
    }

    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn pair(&self, address: SocketAddr) -> (Stream, Stream) {
        let (near, near_end) = tokio::io::duplex(BUFFER_BYTES);
        let (far, far_end) = tokio::io::duplex(BUFFER_BYTES);
        holdfast_runtime::spawn(relay(near_end, far_end, self.weather.subscribe()));
        let ends = Ends { local: address, remote: address };
        (Stream::other(near, ends), Stream::other(far, ends))
    }
}

async fn relay(mut a: DuplexStream, mut b: DuplexStream, mut weather: watch::Receiver<Weather>) {
    let copy = tokio::io::copy_bidirectional(&mut a, &mut b);
    tokio::pin!(copy);
    loop {
        let now = *weather.borrow_and_update();
        tokio::select! {
            _ = &mut copy, if now == Weather::Fine => return,
            changed = weather.changed() => {
                if changed.is_err() || *weather.borrow() == Weather::Cut {
                    return;
                }
            }
        }
    }
}

#[derive(Debug)]
struct TestListener {
    address: SocketAddr,
    streams: tokio::sync::Mutex<mpsc::Receiver<Stream>>,
}

impl Listener for TestListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async {
            let stream = self.streams.lock().await.recv().await;
            stream.ok_or_else(|| io::ErrorKind::NotConnected.into())
        })
    }

    fn local_address(&self) -> SocketAddr {
        self.address
    }
}

impl Net for TestNet {
    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let (sender, streams) = mpsc::channel(BACKLOG);
            self.listeners.lock().insert(address, sender);
            let streams = tokio::sync::Mutex::new(streams);
            Ok(Box::new(TestListener { address, streams }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            if *self.weather.borrow() == Weather::Cut {
                return Err(refused());
            }
            let address: SocketAddr = address.parse().map_err(|_| refused())?;
            let listener = self.listeners.lock().get(&address).cloned().ok_or_else(refused)?;
            let (near, far) = self.pair(address);
            listener.send(far).await.map_err(|_| refused())?;
            self.connections.fetch_add(1, Ordering::Relaxed);
            Ok(near)
        })
    }
}
