//! Clusters to which happens what is written here.

use std::time::Duration;

use holdfast_testkit::sim::{Cluster, Options, Violation, scheduled};

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
fn a_node_that_restarts_alone_keeps_every_replica_until_the_others_are_back() {
    assert_holds(|cluster| {
        let before = hosted(cluster, 2);
        assert!(before > 1, "it hosts range 0 and others: {before}");
        for machine in 0..3 {
            cluster.kill(machine);
        }
        cluster.start(2);
        let is_whole = move |cluster: &Cluster| hosted(cluster, 2) == before;
        cluster.run_until("it runs with all it had", HEALING_MAX, is_whole)?;
        // Nobody tells it what range 0 holds: what it knows of it is nothing.
        for _ in 0..30 {
            cluster.run_for(Duration::from_secs(1))?;
            let now = hosted(cluster, 2);
            if now != before {
                return Err(Violation(format!("of {before} replicas {now} are left")));
            }
        }
        for machine in 0..2 {
            cluster.start(machine);
        }
        cluster.run_until("all serve", HEALING_MAX, |cluster| {
            (0..3).all(|m| cluster.node(m).is_some_and(|node| node.readiness().is_ok()))
        })
    });
}
