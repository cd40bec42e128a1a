//! A node alone on a directory and a port of its own, and clients of the etcd API.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use holdfast_env::real::{RealClock, RealDisk, RealEntropy};
use holdfast_etcd::Options;
use holdfast_node::config::{Config, Sources};
use holdfast_node::registry::Doors;
use holdfast_node::{Node, World};
use holdfast_runtime::net::RealNet;
use holdfast_runtime::{Deadline, Workers, sleep, timeout};
use holdfast_wire::etcd::etcdserverpb::kv_client::KvClient;
use holdfast_wire::etcd::etcdserverpb::lease_client::LeaseClient;
use holdfast_wire::etcd::etcdserverpb::watch_client::WatchClient;
use holdfast_wire::etcd::etcdserverpb::{
    DeleteRangeRequest, PutRequest, PutResponse, RangeRequest, RangeResponse,
};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// How long anything here may take before the test gives up.
pub const PATIENCE: Duration = Duration::from_secs(60);
const CLIENT_PORT: u16 = 17_501;
const PEER_PORT: u16 = 17_511;

/// A node that ends with the test.
pub struct Running {
    pub node: Node,
    host: String,
    _dir: TempDir,
}

impl Running {
    /// A node alone, founded and serving.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with settings of its own.
    pub async fn start_with(sets: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let host = next_host();
        let mut all = vec![
            format!("node.data_dir={}", dir.path().join("data").display()),
            format!("listen.client={host}:{CLIENT_PORT}"),
            format!("listen.peer={host}:{PEER_PORT}"),
            "listen.http=".to_owned(),
            "runtime.reactors=1".to_owned(),
        ];
        all.extend(sets.iter().map(|set| set.replace("HOST", &host)));
        let others = Options::defaults();
        let config = Config::load(&Sources { sets: all, others, ..Sources::default() }).unwrap();
        let options = Options::of(&config.others).unwrap();
        let world = World {
            doors: Doors {
                disk: Arc::new(RealDisk),
                clock: Arc::new(RealClock),
                entropy: Arc::new(RealEntropy),
            },
            net: Arc::new(RealNet),
            workers: Workers::Threads,
            fatal: Arc::new(|reason: &str| panic!("fatal: {reason}")),
            adapters: vec![holdfast_etcd::adapter(&options)],
            more_doors: options.doors(),
            users: options.users(),
        };
        let node = Node::start(config, world, true).await.unwrap();
        let running = Self { node, host, _dir: dir };
        let deadline = Deadline::after(PATIENCE);
        while let Err(missing) = running.node.readiness() {
            assert!(!deadline.has_passed(), "{missing}");
            sleep(Duration::from_millis(20)).await;
        }
        running
    }

    pub async fn channel(&self) -> Channel {
        self.channel_at(CLIENT_PORT).await
    }

    pub async fn channel_at(&self, port: u16) -> Channel {
        let address = format!("http://{}:{port}", self.host);
        Endpoint::from_shared(address).unwrap().connect().await.unwrap()
    }

    pub async fn kv(&self) -> Kv {
        KvClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    pub async fn leases(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel().await)
    }

    pub async fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel().await)
    }

    pub async fn stop(self) {
        self.node.shutdown(Duration::from_secs(2)).await;
    }
}

/// A client of the service `KV`.
pub type Kv = KvClient<Channel>;

/// A loopback address that no other node of this or another test process uses.
fn next_host() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id() % 250 + 1;
    format!("127.45.{process}.{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// What comes of `future`, which must not take for ever.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it took too long")
}

pub fn put_request(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

pub async fn put(kv: &mut Kv, key: &str, value: &str) -> PutResponse {
    soon(kv.put(put_request(key, value))).await.unwrap().into_inner()
}

pub async fn delete(kv: &mut Kv, key: &str) -> i64 {
    let request = DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
    soon(kv.delete_range(request)).await.unwrap().into_inner().deleted
}

pub fn one(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..Default::default() }
}

pub fn all() -> RangeRequest {
    RangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() }
}

pub async fn range(kv: &mut Kv, request: RangeRequest) -> RangeResponse {
    soon(kv.range(request)).await.unwrap().into_inner()
}

/// The keys of an answer.
pub fn keys(answer: &RangeResponse) -> Vec<String> {
    answer.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}
