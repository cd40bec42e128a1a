//! Clusters to which happens what is written here.

use std::time::Duration;

use holdfast_testkit::sim::{Cluster, LinkState, Options, Standing, Violation, scheduled};

/// How long a client tries one call.
const CALL_MAX: Duration = Duration::from_secs(10);
/// Everything works again within this time.
const HEALING_MAX: Duration = Duration::from_secs(60);

#[track_caller]
fn assert_holds(schedule: impl FnOnce(&mut Cluster) -> Result<(), Violation> + Send + 'static) {
    let (outcome, trace) = scheduled(1, Options::calm(1), schedule);
    let lines = trace.lines();
    let tail = &lines[lines.len().saturating_sub(40)..];
    assert_eq!(outcome, Ok(()), "ends in {tail:#?}");
}

/// How many replicas a machine's node hosts.
fn hosted(cluster: &Cluster, machine: usize) -> usize {
    cluster.node(machine).map_or(0, |node| node.registry().hosted().len())
}

#[test]
fn a_node_cut_off_while_the_cluster_is_founded_keeps_its_replicas() {
    assert_holds(|cluster| {
        cluster.run_until("all nodes are up", HEALING_MAX, |cluster| {
            (0..3).all(|machine| cluster.standing(machine) == Standing::Up)
        })?;
        let peers = cluster.peer_addresses();
        cluster.run_client("founder", CALL_MAX, move |client| async move {
            while client.cluster().init(&peers, 0).await.is_err() {
                holdfast_runtime::sleep(Duration::from_secs(1)).await;
            }
        });
        cluster.run_until("it has replicas", HEALING_MAX, |cluster| hosted(cluster, 2) > 0)?;
        cluster.set_links(&[2], &[0, 1], LinkState::Cut);
        // Its copy of range 0 is empty, names no replica, and nobody tells it more.
        let mut most = 0;
        for _ in 0..30 {
            cluster.run_for(Duration::from_secs(1))?;
            let now = hosted(cluster, 2);
            if now < most {
                return Err(Violation(format!("of {most} replicas {now} are left")));
            }
            most = now;
        }
        cluster.repair_links();
        cluster.run_until("everybody has all and serves", HEALING_MAX, |cluster| {
            let is_ready = |m| cluster.node(m).is_some_and(|node| node.readiness().is_ok());
            (0..3).all(|m| is_ready(m) && hosted(cluster, m) == hosted(cluster, 0))
        })
    });
}
