//! Nodes in this process, each on a directory and ports of its own, and clients of the wire.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use holdfast_env::real::{RealClock, RealDisk, RealEntropy};
use holdfast_node::config::{Config, Sources};
use holdfast_node::registry::Doors;
use holdfast_node::users::Settings;
use holdfast_node::{Node, World};
use holdfast_runtime::net::RealNet;
use holdfast_runtime::{Deadline, Workers, sleep};
use holdfast_wire::v1;
use tempfile::TempDir;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// How long anything here may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const CLIENT_PORT: u16 = 17_401;
const PEER_PORT: u16 = 17_411;

/// A node that ends with the test.
pub struct Running {
    pub node: Node,
    host: String,
    seeds: Vec<String>,
    _dir: TempDir,
}

impl Running {
    /// A node alone, founded and serving.
    pub async fn single() -> Self {
        let running = Self::start(true).await;
        running.ready().await;
        running
    }

    /// A node that belongs to no cluster.
    pub async fn empty() -> Self {
        Self::start(false).await
    }

    /// Nodes that belong to no cluster and know of each other as seeds.
    pub async fn seeded(count: usize) -> Vec<Self> {
        let hosts: Vec<String> = (0..count).map(|_| next_host()).collect();
        let seeds: Vec<String> = hosts.iter().map(|host| format!("{host}:{PEER_PORT}")).collect();
        let mut nodes = Vec::new();
        for host in hosts {
            let dir = tempfile::tempdir().unwrap();
            let node = start(dir.path(), &host, &seeds, false).await;
            nodes.push(Self { node, host, seeds: seeds.clone(), _dir: dir });
        }
        nodes
    }

    async fn start(single: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = next_host();
        let node = start(dir.path(), &host, &[], single).await;
        Self { node, host, seeds: Vec::new(), _dir: dir }
    }

    /// Where other nodes reach it.
    pub fn peer_address(&self) -> String {
        format!("{}:{PEER_PORT}", self.host)
    }

    /// Waits until every range here is led.
    pub async fn ready(&self) {
        eventually("the node is ready", || async { self.node.readiness().is_ok() }).await;
    }

    pub async fn channel(&self) -> Channel {
        let address = format!("http://{}", self.node.client_address());
        Endpoint::from_shared(address).unwrap().connect().await.unwrap()
    }

    pub async fn kv(&self) -> Kv {
        const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
        v1::kv_client::KvClient::new(self.channel().await)
            .max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// The same node, stopped and started again.
    pub async fn restarted(self) -> Self {
        let running = self.stopped().await.start(true).await;
        running.ready().await;
        running
    }

    /// What is left of it once it has stopped.
    pub async fn stopped(self) -> Stopped {
        let Self { node, host, seeds, _dir: dir } = self;
        node.shutdown(Duration::from_secs(2)).await;
        Stopped { host, seeds, dir }
    }

    /// The node on the same addresses, after its data was lost.
    pub async fn wiped(self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Stopped { dir, ..self.stopped().await }.start(false).await
    }

    pub async fn stop(self) {
        self.node.shutdown(Duration::from_secs(2)).await;
    }
}

/// A node that was stopped and may come back.
pub struct Stopped {
    host: String,
    seeds: Vec<String>,
    dir: TempDir,
}

impl Stopped {
    /// The node again, before it is ready; `single` where it is a cluster by itself.
    pub async fn start(self, single: bool) -> Running {
        let Self { host, seeds, dir } = self;
        let node = start(dir.path(), &host, &seeds, single).await;
        Running { node, host, seeds, _dir: dir }
    }
}

/// A client of the service `Kv`.
pub type Kv = v1::kv_client::KvClient<Channel>;

/// A loopback address that no other node of this or another test process uses.
fn next_host() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id() % 250 + 1;
    format!("127.43.{process}.{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn start(dir: &Path, host: &str, seeds: &[String], single: bool) -> Node {
    let sets = vec![
        format!("node.data_dir={}", dir.join("data").display()),
        format!("listen.client={host}:{CLIENT_PORT}"),
        format!("listen.peer={host}:{PEER_PORT}"),
        "listen.http=".to_owned(),
        format!("cluster.seeds={seeds:?}"),
        "runtime.reactors=1".to_owned(),
    ];
    let config = Config::load(&Sources { sets, ..Sources::default() }).unwrap();
    let doors = Doors {
        disk: Arc::new(RealDisk),
        clock: Arc::new(RealClock),
        entropy: Arc::new(RealEntropy),
    };
    let fatal = Arc::new(|reason: &str| panic!("fatal: {reason}"));
    let world = World {
        doors,
        net: Arc::new(RealNet),
        workers: Workers::Threads,
        fatal,
        adapters: Vec::new(),
        more_doors: Vec::new(),
        users: Settings { bcrypt_cost: 4, ..Settings::default() },
    };
    Node::start(config, world, single).await.unwrap()
}

/// Waits until `holds` does.
pub async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let deadline = Deadline::after(PATIENCE);
    while !holds().await {
        assert!(!deadline.has_passed(), "it never came true that {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A put of `value` under `key`.
pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> v1::PutRequest {
    v1::PutRequest { key: key.into(), value: value.into(), ..Default::default() }
}

/// A linearizable get.
pub fn get(key: impl Into<Bytes>) -> v1::GetRequest {
    v1::GetRequest { key: key.into(), ..Default::default() }
}

/// Read options of a level.
pub fn level(level: v1::ReadLevel) -> Option<v1::ReadOptions> {
    Some(v1::ReadOptions { level: level.into(), ..Default::default() })
}

/// Asserts that `status` is `code` with the typed detail `info`; gives the detail.
#[track_caller]
pub fn refused(status: &Status, code: Code, info: v1::ErrorCode) -> v1::ErrorInfo {
    assert_eq!(status.code(), code, "{status:?}");
    let detail = holdfast_wire::error_info(status).expect("every error has a typed detail");
    assert_eq!(detail.code(), info, "{detail:?}");
    assert_eq!(detail.message, status.message());
    detail
}

/// Calls `method` with bytes that need not be a message.
pub async fn raw_call(
    channel: Channel,
    method: &'static str,
    body: Bytes,
) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(method);
    let answer = grpc.unary(tonic::Request::new(body), path, RawCodec).await?;
    Ok(answer.into_inner())
}

/// Sends bytes as they are.
#[derive(Clone, Copy, Debug)]
struct RawCodec;

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
