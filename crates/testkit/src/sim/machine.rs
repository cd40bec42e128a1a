//! One machine: its disk, its clock, and the node that runs on it, boot after boot.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use holdfast_env::sim::{SimClock, SimDisk, SimEntropy, SimTime};
use holdfast_node::api::{Call, Cluster};
use holdfast_node::auth::Identity;
use holdfast_node::config::{Config, Sources};
use holdfast_node::registry::Doors;
use holdfast_node::{Node, World};
use holdfast_runtime::{Deadline, Workers};
use holdfast_wire::v1::TransferLeaderRequest;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::brakes::Brakes;
use super::clock::HostClock;
use super::net::SimNet;
use super::options::Options;
use super::trace::Trace;

/// Port for clients, on every machine.
pub(super) const CLIENT_PORT: u16 = 7401;
/// Port for other nodes, on every machine.
pub(super) const PEER_PORT: u16 = 7411;
/// An orderly stop may take this long.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// A leader that was asked to hand over answers within this time.
const TRANSFER_MAX: Duration = Duration::from_secs(3);
/// Segments of a journal.
const SEGMENTS_MAX: u64 = 32;
const MIB: u64 = 1 << 20;

/// What a machine is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing runs.
    Down,
    /// The node recovers or introduces itself.
    Starting,
    /// The node runs.
    Up,
    /// The node gave up by itself, and why.
    Ended(String),
}

/// The process of a machine, as what runs beside the node sees it.
#[derive(Clone)]
pub(super) struct Process {
    /// The machine's name.
    pub(super) name: String,
    /// The node.
    pub(super) node: Arc<Node>,
    /// Whoever pauses the process pauses what asks the brakes.
    pub(super) brakes: Arc<Brakes>,
}

/// What runs beside a node, in its process, from when it is up to its end.
pub(super) type Companion = Arc<dyn Fn(Process) -> BoxFuture<'static, ()> + Send + Sync>;

struct State {
    disk: SimDisk,
    clock: Arc<SimClock>,
    boots: u64,
    standing: Standing,
    node: Weak<Node>,
    companion: Option<Companion>,
}

/// See the module.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) address: String,
    options: Options,
    seed: u64,
    time: Arc<SimTime>,
    trace: Trace,
    stop: Notify,
    hand_over: Notify,
    pub(super) brakes: Arc<Brakes>,
    // Shared between the machine's tasks and the nemesis, which never run at the same time.
    state: Mutex<State>,
}

impl Machine {
    pub(super) fn new(
        name: String,
        address: String,
        seed: u64,
        options: &Options,
        time: &Arc<SimTime>,
        trace: &Trace,
    ) -> Arc<Self> {
        let state = State {
            disk: SimDisk::new(),
            clock: Arc::new(SimClock::new(time.clone())),
            boots: 0,
            standing: Standing::Starting,
            node: Weak::new(),
            companion: None,
        };
        Arc::new(Self {
            name,
            address,
            options: options.clone(),
            seed,
            time: time.clone(),
            trace: trace.clone(),
            brakes: Arc::new(Brakes::new(time.clone())),
            stop: Notify::new(),
            hand_over: Notify::new(),
            state: Mutex::new(state),
        })
    }

    pub(super) fn client_address(&self) -> String {
        format!("{}:{CLIENT_PORT}", self.address)
    }

    pub(super) fn peer_address(&self) -> String {
        format!("{}:{PEER_PORT}", self.address)
    }

    pub(super) fn standing(&self) -> Standing {
        self.state.lock().standing.clone()
    }

    /// How often it was started.
    pub(super) fn boots(&self) -> u64 {
        self.state.lock().boots
    }

    pub(super) fn clock(&self) -> Arc<SimClock> {
        self.state.lock().clock.clone()
    }

    pub(super) fn disk(&self) -> SimDisk {
        self.state.lock().disk.clone()
    }

    /// The node, while it runs.
    pub(super) fn node(&self) -> Option<Arc<Node>> {
        self.state.lock().node.upgrade()
    }

    /// Has `companion` run beside the node from its next start on.
    pub(super) fn set_companion(&self, companion: Companion) {
        self.state.lock().companion = Some(companion);
    }

    /// Asks the node to stop in order.
    pub(super) fn ask_to_stop(&self) {
        self.stop.notify_one();
    }

    /// Asks the node to hand over a range it leads.
    pub(super) fn ask_to_hand_over(&self) {
        self.hand_over.notify_one();
    }

    /// The process is stopped for `duration`, then must be told to [`go on`](Self::resume).
    pub(super) fn pause(&self, duration: Duration) {
        self.brakes.pause(duration);
        self.state.lock().clock.pause();
    }

    /// The process goes on.
    pub(super) fn resume(&self) {
        self.state.lock().clock.resume();
        self.brakes.resume();
    }

    /// The disk is taken out and an empty one put in; nothing may run meanwhile.
    pub(super) fn wiped(&self) {
        self.state.lock().disk = SimDisk::new();
    }

    /// The process ends at once; what it wrote stays.
    pub(super) fn killed(&self) {
        self.resume();
        let mut state = self.state.lock();
        state.disk = state.disk.kill();
        state.standing = Standing::Down;
    }

    /// The power goes: of what was not synced, each block stays with `keep_percent`.
    pub(super) fn lost_power(&self, keep_percent: u8, seed: u64) {
        self.resume();
        let mut state = self.state.lock();
        state.disk = state.disk.crash(keep_percent, seed);
        state.clock = Arc::new(SimClock::new(self.time.clone()));
        state.standing = Standing::Down;
    }

    /// The machine's life from one start to one end.
    pub(super) async fn live(self: Arc<Self>) -> turmoil::Result {
        let (boot, disk, clock) = {
            let mut state = self.state.lock();
            state.boots += 1;
            state.standing = Standing::Starting;
            (state.boots, state.disk.clone(), state.clock.clone())
        };
        let entropy =
            Arc::new(SimEntropy::new(self.seed.wrapping_mul(1_000_003).wrapping_add(boot)));
        let world = World {
            workers: self.workers(&entropy),
            doors: Doors {
                disk: Arc::new(disk.clone()),
                clock: Arc::new(HostClock { time: self.time.clone(), clock }),
                entropy,
            },
            net: Arc::new(SimNet { brakes: self.brakes.clone(), trace: self.trace.clone() }),
            fatal: self.clone().fatal(disk),
            adapters: Vec::new(),
            more_doors: Vec::new(),
            users: holdfast_node::users::Settings::default(),
        };
        self.trace.say(&self.name, format_args!("starts, boot {boot}"));
        match Node::start(self.config(), world, false).await {
            Ok(node) => self.run(Arc::new(node)).await,
            Err(error) => self.end(&format!("does not start: {error}")),
        }
        Ok(())
    }

    async fn run(&self, node: Arc<Node>) {
        self.trace.say(&self.name, "is up");
        {
            let mut state = self.state.lock();
            state.standing = Standing::Up;
            state.node = Arc::downgrade(&node);
        }
        tokio::select! {
            biased;
            reason = node.refused() => self.end(&format!("refused: {reason}")),
            () = self.stop.notified() => {
                node.shutdown(STOP_PATIENCE).await;
                self.trace.say(&self.name, "has stopped in order");
                self.state.lock().standing = Standing::Down;
            }
            never = self.hand_over_when_asked(&node) => match never {},
            never = self.accompany(&node) => match never {},
        }
    }

    async fn accompany(&self, node: &Arc<Node>) -> std::convert::Infallible {
        let companion = self.state.lock().companion.clone();
        if let Some(companion) = companion {
            let (name, brakes) = (self.name.clone(), self.brakes.clone());
            companion(Process { name, node: node.clone(), brakes }).await;
        }
        std::future::pending().await
    }

    async fn hand_over_when_asked(&self, node: &Node) -> std::convert::Infallible {
        loop {
            self.hand_over.notified().await;
            let status = node.status();
            let led = status.replicas.iter().find(|replica| replica.role == "leader");
            let Some(range_id) = led.map(|replica| replica.range_id) else { continue };
            let call = Call {
                identity: Identity::system(),
                deadline: Deadline::after(TRANSFER_MAX),
                direct: true,
            };
            let request = TransferLeaderRequest { range_id, to_node_id: 0 };
            let answer = match node.gateway().transfer_leader(&call, request).await {
                Ok(answer) => format!("n{} leads range {range_id}", answer.leader_node_id),
                Err(error) => format!("range {range_id} stays: {error}"),
            };
            self.trace.say(&self.name, answer);
        }
    }

    fn end(&self, reason: &str) {
        self.trace.say(&self.name, format_args!("has ended: {reason}"));
        self.state.lock().standing = Standing::Ended(reason.to_owned());
    }

    /// What ends the process: its disk refuses everything from then on, so nothing it does until
    /// the machine is taken away can last, and nothing that needs the disk is acknowledged.
    fn fatal(self: Arc<Self>, disk: SimDisk) -> holdfast_node::registry::Fatal {
        Arc::new(move |reason| {
            // A node without power complains to nobody.
            if !disk.is_cut() {
                disk.cut_power();
                self.end(&format!("aborted: {reason}"));
            }
        })
    }

    /// Work takes as long as the disk does: up to the run's latency, drawn anew each time.
    fn workers(&self, entropy: &SimEntropy) -> Workers {
        let (random, max) = (entropy.fork(), self.options.disk_latency_max);
        let brakes = self.brakes.clone();
        Workers::Tasks(Arc::new(move || brakes.latency(&random, max)))
    }

    fn config(&self) -> Config {
        let sets = vec![
            format!("listen.client=0.0.0.0:{CLIENT_PORT}"),
            format!("listen.peer=0.0.0.0:{PEER_PORT}"),
            "listen.http=".to_owned(),
            "listen.insecure=true".to_owned(),
            format!("advertise.client={}", self.client_address()),
            format!("advertise.peer={}", self.peer_address()),
            "node.data_dir=/data".to_owned(),
            "runtime.reactors=1".to_owned(),
            "runtime.job_threads=1".to_owned(),
        ];
        let sources = Sources { sets, ..Sources::default() };
        let mut config = Config::load(&sources).expect("these settings are valid");
        // Below what users may set: tables, compactions and snapshots come within seconds.
        config.engine.memtable_bytes = self.options.memtable_bytes;
        config.engine.memtable_budget_bytes = 8 * self.options.memtable_bytes;
        config.engine.cache_bytes = MIB;
        config.engine.index_bytes = MIB;
        config.journal.segment_bytes = self.options.segment_bytes;
        config.journal.limit_bytes = SEGMENTS_MAX * self.options.segment_bytes;
        config.journal.cache_bytes = MIB;
        config.journal.retention_range_bytes = self.options.retention_bytes;
        config.peers.snapshot_bytes_per_second = self.options.snapshot_bytes_per_second;
        config
    }
}
