//! The power goes at every disk operation of a short workload over journal, engine and replica.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_env::sim::{SimDisk, SimEntropy};
use holdfast_model::{ClusterId, NodeId, ReplicaId};
use holdfast_replica::{ReadLevel, ReplicaOptions};
use holdfast_runtime::{sleep, timeout};

use crate::cluster::{Cluster, RANGE, deadline, halt, put, read};
use crate::cluster::{Node, VirtualClock, open_node};
use crate::net::{End, Net};

const WRITES: usize = 24;
/// Large enough that the log outgrows what is kept and is purged in the middle of the run.
const VALUE_BYTES: usize = 70 << 10;
const SEGMENT_BYTES: u64 = 512 << 10;

/// What one run acknowledged before the power went.
#[derive(Debug, Default)]
struct Acknowledged {
    configured: bool,
    writes: usize,
}

async fn open(disk: SimDisk, clock: &Arc<VirtualClock>) -> holdfast_replica::Result<Node> {
    let net: Arc<Net> = Arc::default();
    let peers = Arc::new(End::of(&net, NodeId(1)));
    let options = ReplicaOptions::new(
        ClusterId(9),
        NodeId(1),
        RANGE,
        ReplicaId(1_001),
        "/node/replica".into(),
    );
    let entropy = Arc::new(SimEntropy::new(3));
    open_node(options, disk, SEGMENT_BYTES, clock.clone(), entropy, peers).await
}

fn voters() -> BTreeMap<ReplicaId, NodeId> {
    [(ReplicaId(1_001), NodeId(1))].into()
}

fn value(i: usize) -> String {
    format!("{i}-{}", "x".repeat(VALUE_BYTES))
}

/// Writes, flushes and purges until it is done or the power is gone.
async fn work(node: &Node, acknowledged: &mut Acknowledged) -> Option<()> {
    node.replica.initialize(voters()).await.ok()?;
    propose(node, &crate::cluster::configure()).await?;
    acknowledged.configured = true;
    for i in 0..WRITES {
        propose(node, &put(&format!("k{}", i % 5), &value(i))).await?;
        acknowledged.writes = i + 1;
        if i % 8 == 7 {
            node.engine.seal();
            // The keeper looks every two seconds.
            sleep(Duration::from_millis(2_100)).await;
        }
    }
    Some(())
}

/// Proposes, waiting for leadership; `None` once the disk is gone.
async fn propose(node: &Node, command: &holdfast_kv::Command) -> Option<()> {
    loop {
        if node.disk.is_cut() {
            return None;
        }
        let attempt = node.replica.propose(command, deadline());
        match timeout(Duration::from_secs(2), attempt).await {
            Ok(Ok(_)) => return Some(()),
            Ok(Err(error)) if error.is_definite() => sleep(Duration::from_millis(10)).await,
            Ok(Err(_)) | Err(_) => return None,
        }
    }
}

/// Runs on a disk whose power goes at the `cut`-th mutation. Returns what was acknowledged and
/// the mutations there were.
async fn run(cut: Option<u64>, clock: &Arc<VirtualClock>) -> (SimDisk, Acknowledged, u64) {
    let disk = SimDisk::new();
    disk.cut_power_at(cut);
    let mut acknowledged = Acknowledged::default();
    let mut purged = false;
    if let Ok(Ok(node)) = timeout(Duration::from_secs(5), open(disk.clone(), clock)).await {
        let _ = timeout(Duration::from_secs(60), work(&node, &mut acknowledged)).await;
        purged = node.replica.status().purged.is_some();
        halt(&node).await;
    }
    assert!(purged || cut.is_some(), "the whole run purges its log");
    let mutations = disk.counters().mutations;
    (disk, acknowledged, mutations)
}

/// Opens what the disk kept and checks that everything acknowledged is there.
async fn check(image: SimDisk, acknowledged: &Acknowledged, clock: &Arc<VirtualClock>) {
    let node = open(image, clock).await.expect("what a power failure leaves can be opened");
    // Founding may be asked for again; it has to be where its entry was not durable yet.
    node.replica.initialize(voters()).await.expect("founding goes on");
    let ready = async {
        while !node.is_leader() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let led = timeout(Duration::from_secs(10), ready).await;
    led.unwrap_or_else(|_| panic!("the only voter leads: {:?}", node.replica.status()));
    for key in 0..5 {
        let name = format!("k{key}");
        let last = (0..acknowledged.writes).rev().find(|i| i % 5 == key);
        let Some(last) = last else { continue };
        let found = read(&node, &name, ReadLevel::Linearizable).await.unwrap();
        let found = found.expect("an acknowledged key is there");
        // The write under way when the power went may have happened as well.
        let mut allowed = vec![value(last)];
        if acknowledged.writes % 5 == key {
            allowed.push(value(acknowledged.writes));
        }
        assert!(allowed.iter().any(|v| v.as_bytes() == &found[..]), "{name} at {acknowledged:?}");
    }
    if acknowledged.configured {
        propose(&node, &put("after", "v")).await.expect("the range goes on");
    }
    assert!(!node.fatal.load(std::sync::atomic::Ordering::Acquire));
    halt(&node).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_acknowledged_is_lost_wherever_the_power_goes() {
    let clock = Arc::new(VirtualClock::start());
    let (_, complete, mutations) = run(None, &clock).await;
    assert_eq!(complete.writes, WRITES);
    let (mut cuts, mut partial) = (0, 0);
    for cut in 1..=mutations {
        let (disk, acknowledged, _) = run(Some(cut), &clock).await;
        cuts += u64::from(disk.is_cut());
        partial += u64::from(acknowledged.writes > 0 && acknowledged.writes < WRITES);
        for keep in [0, if cut % 2 == 0 { 50 } else { 100 }] {
            check(disk.crash(keep, cut), &acknowledged, &clock).await;
        }
    }
    assert!(cuts + 5 >= mutations, "{cuts} of {mutations} cuts struck");
    assert!(partial > 20, "only {partial} cuts struck in the middle of the writes");
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_of_the_journal_ends_the_process_and_acknowledges_nothing_more() {
    use holdfast_env::sim::{Effect, Fault, Operation};
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.put("before", "v").await;
    let in_journal = |path: &std::path::Path| path.starts_with("/node/journal");
    let fault = Fault::new(Operation::Sync, Effect::SyncFails).on(in_journal);
    let id = leader.disk.inject(fault);
    let soon = holdfast_runtime::Deadline::after(Duration::from_secs(1));
    let _ = leader.replica.propose(&put("k", "v"), soon).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(leader.disk.fault_struck(id), 1);
    assert!(leader.fatal.load(std::sync::atomic::Ordering::Acquire));
    assert!(leader.replica.propose(&put("k", "v"), soon).await.is_err());
}
