//! Leaders come and go: failover, votes after a restart, handing over, parked tickers.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use holdfast_env::Clock;
use holdfast_env::sim::SimDisk;
use holdfast_kv::Command;
use holdfast_kv::command::Put;
use holdfast_model::{NodeId, ReplicaId};
use holdfast_replica::{Error, ReadLevel, Role};
use holdfast_runtime::{sleep, spawn, timeout};
use holdfast_wire::peer::v1 as peer;

use crate::cluster::{Cluster, deadline, put, read};

fn vote(term: u64, candidate: ReplicaId, pre_vote: bool, transfer: bool) -> peer::VoteRequest {
    peer::VoteRequest {
        vote: Some(peer::Vote { term, node: candidate.0, committed: false }),
        last_log_id: Some(peer::LogId { term: u64::MAX, leader: u64::MAX, index: u64::MAX }),
        leadership_transfer: transfer,
        pre_vote,
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_leader_dies_the_others_elect_one_soon_and_lose_nothing() {
    let mut cluster = Cluster::start(3).await;
    for i in 0..20 {
        cluster.put(&format!("k{i}"), "v").await;
    }
    let old = cluster.leader().await.id();
    cluster.crash(old, 0).await;
    let began = cluster.clock.monotonic();
    cluster.report_lost(old);
    cluster.put("after", "v").await;
    let took = cluster.clock.monotonic() - began;
    assert!(took < Duration::from_millis(1_200), "no write for {took:?}");
    let leader = cluster.leader().await;
    assert_eq!(read(leader, "k19", ReadLevel::Linearizable).await, Ok(Some("v".into())));
}

#[tokio::test(start_paused = true)]
async fn without_the_hint_an_ordinary_election_takes_the_dead_leaders_place() {
    let mut cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let old = cluster.leader().await.id();
    cluster.crash(old, 0).await;
    let began = cluster.clock.monotonic();
    cluster.put("after", "v").await;
    let took = cluster.clock.monotonic() - began;
    assert!(took < Duration::from_millis(2_500), "no write for {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_heard_but_hears_nobody_is_replaced() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let old = cluster.leader().await.id();
    cluster.net.deafen(old);
    let began = cluster.clock.monotonic();
    cluster.propose_without(old, &put("after", "v")).await;
    let took = cluster.clock.monotonic() - began;
    assert!(took < Duration::from_millis(2_500), "no write for {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_to_a_living_leader_deposes_nobody() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let before = leader.replica.leader();
    for _ in 0..10 {
        cluster.report_lost(leader.id());
        sleep(Duration::from_millis(300)).await;
        for node in cluster.nodes.values() {
            node.replica.peer_back(leader.id());
        }
    }
    assert_eq!(cluster.leader().await.replica.leader(), before);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_voter_keeps_its_vote_until_old_leases_have_run_out() {
    let mut cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let follower = cluster.follower().await;
    let (id, candidate) = (follower.id(), ReplicaId(4_711));
    let (replica, disk) = cluster.crash(id, 0).await;
    // Nobody speaks to it after its restart: only its own memory could keep the lease.
    for other in [1, 2, 3].map(NodeId) {
        cluster.net.set_link(id, other, false);
    }
    cluster.boot(id, replica, disk).await.unwrap();
    let restarted = &cluster.nodes[&id].replica;
    for pre_vote in [true, false] {
        let refused = restarted.handle_vote(vote(50, candidate, pre_vote, false)).await;
        assert!(matches!(refused, Err(Error::Stopped(_))), "{refused:?}");
    }
    sleep(restarted.options().timings.boot_delay()).await;
    sleep(Duration::from_millis(10)).await;
    let granted = restarted.handle_vote(vote(50, candidate, false, false)).await.unwrap();
    assert!(granted.granted, "{granted:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handing_over_of_leadership_does_not_wait_for_the_boot_delay() {
    let mut cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let follower = cluster.follower().await;
    let id = follower.id();
    let (replica, disk) = cluster.crash(id, 0).await;
    cluster.boot(id, replica, disk).await.unwrap();
    let restarted = &cluster.nodes[&id].replica;
    let granted = restarted.handle_vote(vote(50, ReplicaId(4_711), false, true)).await.unwrap();
    assert!(granted.granted, "{granted:?}");
}

/// The cut-off leader `old` must serve no read once another has replaced what it knows.
async fn serves_nothing_after_it_was_replaced(cluster: &Cluster, old: NodeId) {
    serves_nothing_after(cluster, old, &[ReadLevel::Lease, ReadLevel::Linearizable]).await;
}

/// The same for reads at `levels` alone.
async fn serves_nothing_after(cluster: &Cluster, old: NodeId, levels: &[ReadLevel]) {
    let mut replaced = false;
    for _ in 0..400 {
        let new = cluster.nodes.values().find(|n| n.is_leader() && n.id() != old);
        if let Some(new) = new.filter(|_| !replaced) {
            replaced = new.replica.propose(&put("k", "new"), deadline()).await.is_ok();
        }
        if replaced {
            let soon = holdfast_runtime::Deadline::after(Duration::from_millis(1));
            for level in levels {
                let request = holdfast_replica::ReadRequest::new(*level, soon);
                let served = cluster.nodes[&old].replica.read(&request).await.is_ok();
                assert!(!served, "the old leader serves {level:?} after it was replaced");
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
    assert!(replaced, "the other two went on");
}

#[tokio::test(start_paused = true)]
async fn no_read_is_stale_while_a_voter_restarts_beside_a_cut_off_leader() {
    let mut cluster = Cluster::start(3).await;
    cluster.put("k", "old").await;
    let old = cluster.leader().await.id();
    let restarting = cluster.follower().await.id();
    // The leader has just been answered by the voter that now forgets its lease.
    let (replica, disk) = cluster.crash(restarting, 0).await;
    cluster.isolate(old, true);
    cluster.net.set_link(old, restarting, false);
    cluster.boot(restarting, replica, disk).await.unwrap();
    cluster.report_lost(old);
    serves_nothing_after_it_was_replaced(&cluster, old).await;
}

/// A cluster that is led by a node with a slow clock; those of the others are fast.
async fn led_by_the_slow() -> (Cluster, NodeId) {
    let cluster = Cluster::start_on_clocks([90, 110, 110]).await;
    cluster.put("k", "old").await;
    let slow = NodeId(1);
    let leader = cluster.leader().await;
    if leader.id() != slow {
        leader.replica.transfer_leader(Some(slow)).await.unwrap();
    }
    cluster.put("k", "old").await;
    sleep(Duration::from_secs(2)).await;
    assert!(cluster.nodes[&slow].is_leader());
    (cluster, slow)
}

#[tokio::test(start_paused = true)]
async fn no_read_is_stale_while_the_voter_that_alone_heard_the_leader_restarts() {
    let (mut cluster, slow) = led_by_the_slow().await;
    let [deaf, restarting] = [2, 3].map(NodeId);
    // The deaf one would vote for anybody; whom the leader has its lease from, is the other.
    cluster.net.set_link(slow, deaf, false);
    sleep(Duration::from_secs(3)).await;
    assert!(cluster.nodes[&slow].is_leader());
    let (replica, disk) = cluster.crash(restarting, 0).await;
    cluster.net.set_link(slow, restarting, false);
    cluster.boot(restarting, replica, disk).await.unwrap();
    cluster.report_lost(slow);
    serves_nothing_after_it_was_replaced(&cluster, slow).await;
}

#[tokio::test(start_paused = true)]
async fn no_read_is_stale_while_the_leaders_clock_is_slow_and_the_others_fast() {
    let (cluster, slow) = led_by_the_slow().await;
    cluster.isolate(slow, true);
    cluster.report_lost(slow);
    serves_nothing_after_it_was_replaced(&cluster, slow).await;
}

#[tokio::test(start_paused = true)]
async fn no_linearizable_read_is_stale_where_a_leaders_clock_stands_still() {
    let cluster = Cluster::start_on_clocks([100, 100, 100]).await;
    cluster.put("k", "old").await;
    let old = cluster.leader().await.id();
    cluster.isolate(old, true);
    // By this clock it has just heard from everybody, whenever it looks.
    cluster.clocks[&old].freeze();
    cluster.report_lost(old);
    serves_nothing_after(&cluster, old, &[ReadLevel::Linearizable]).await;
}

#[tokio::test(start_paused = true)]
async fn no_vote_is_taken_back_wherever_the_power_goes() {
    let mut granted_first = 0;
    for cut in 1..12 {
        let mut cluster = Cluster::start(3).await;
        cluster.put("k", "v").await;
        let id = cluster.follower().await.id();
        for other in [1, 2, 3].map(NodeId) {
            cluster.net.set_link(id, other, false);
        }
        // Its lease ends, and what it had to write is written.
        sleep(Duration::from_secs(2)).await;
        let node = &cluster.nodes[&id];
        node.disk.cut_power_at(Some(node.disk.counters().mutations + cut));
        let asked = node.replica.handle_vote(vote(50, ReplicaId(4_712), false, false));
        let answer = timeout(Duration::from_secs(1), asked).await;
        let first = answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.granted));
        granted_first += u32::from(first);
        let (replica, disk) = cluster.crash(id, 0).await;
        cluster.boot(id, replica, disk).await.unwrap();
        let restarted = &cluster.nodes[&id].replica;
        sleep(restarted.options().timings.boot_delay() * 2).await;
        // Votes are ordered by term, then by candidate: this one is lower.
        let answer = restarted.handle_vote(vote(50, ReplicaId(4_711), false, false)).await;
        let second = answer.unwrap().granted;
        assert!(!(first && second), "it has forgotten its vote, power cut at write {cut}");
        cluster.end().await;
    }
    assert!(granted_first > 0, "no vote was given before the power went");
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_does_not_hear_the_leader_deposes_nobody() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let (leader, deaf) = (cluster.leader().await.id(), cluster.follower().await.id());
    let before = cluster.nodes[&leader].replica.leader();
    cluster.net.set_link(leader, deaf, false);
    for _ in 0..10 {
        sleep(Duration::from_millis(500)).await;
        cluster.put("k", "w").await;
    }
    cluster.net.set_link(leader, deaf, true);
    sleep(Duration::from_secs(3)).await;
    cluster.settle().await;
    assert_eq!(cluster.leader().await.replica.leader(), before);
}

#[tokio::test(start_paused = true)]
async fn leadership_goes_where_it_is_sent() {
    let cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    for target in [2, 3, 1].map(NodeId) {
        let leader = cluster.leader().await;
        if leader.id() == target {
            continue;
        }
        let began = cluster.clock.monotonic();
        let new = leader.replica.transfer_leader(Some(target)).await.unwrap();
        assert_eq!(new, cluster.nodes[&target].replica_id());
        cluster.put("k", &format!("{target}")).await;
        let stalled = cluster.clock.monotonic() - began;
        assert!(stalled < Duration::from_millis(500), "no write for {stalled:?}");
        assert_eq!(cluster.leader().await.id(), target);
    }
}

#[tokio::test(start_paused = true)]
async fn leadership_is_not_sent_to_who_cannot_take_it() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let nobody = leader.replica.transfer_leader(Some(NodeId(9))).await;
    assert!(matches!(nobody, Err(Error::Membership(_))), "{nobody:?}");
    let follower = cluster.follower().await;
    let not_leading = follower.replica.transfer_leader(None).await;
    assert!(matches!(not_leading, Err(Error::NotLeader { .. })), "{not_leading:?}");
    cluster.put("k", "v").await;
}

#[tokio::test(start_paused = true)]
async fn parked_followers_stay_followers_and_wake_when_the_leader_falls_silent() {
    let mut cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let leader = cluster.leader().await.id();
    for _ in 0..30 {
        cluster.nodes.values().for_each(|node| node.replica.tend());
        sleep(Duration::from_millis(100)).await;
    }
    for node in cluster.nodes.values() {
        assert_eq!(node.replica.status().parked, node.id() != leader, "{}", node.id());
    }
    assert_eq!(cluster.leader().await.id(), leader);
    cluster.crash(leader, 0).await;
    let mut elected = false;
    for _ in 0..40 {
        cluster.nodes.values().for_each(|node| node.replica.tend());
        elected |= cluster.nodes.values().any(|node| node.is_leader());
        sleep(Duration::from_millis(100)).await;
    }
    assert!(elected);
}

#[tokio::test(start_paused = true)]
async fn all_nodes_lose_power_at_once_and_everything_acknowledged_is_there() {
    let mut cluster = Cluster::start(3).await;
    for i in 0..100 {
        cluster.put(&format!("k{i}"), &format!("v{i}")).await;
    }
    let ids: Vec<_> = cluster.nodes.keys().copied().collect();
    let mut images = Vec::new();
    for id in ids {
        let (replica, disk) = cluster.crash(id, 0).await;
        images.push((id, replica, disk));
    }
    for (id, replica, disk) in images {
        cluster.boot(id, replica, disk).await.unwrap();
    }
    let leader = cluster.leader().await;
    assert_eq!(read(leader, "k0", ReadLevel::Linearizable).await, Ok(Some("v0".into())));
    for i in 0..100 {
        assert_eq!(leader.peek(&format!("k{i}")), Some(format!("v{i}").into()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_with_a_time_to_live_is_gone_soon_after_it_without_any_traffic() {
    let cluster = Cluster::start(3).await;
    let with_ttl = Put { key: "k".into(), value: "v".into(), ttl_ms: 2_000, ..Put::default() };
    cluster.propose(&Command::single(with_ttl)).await;
    sleep(Duration::from_millis(1_900)).await;
    let leader = cluster.leader().await;
    assert_eq!(read(leader, "k", ReadLevel::Linearizable).await, Ok(Some("v".into())));
    sleep(Duration::from_millis(210)).await;
    for node in cluster.nodes.values() {
        assert_eq!(read(node, "k", ReadLevel::Linearizable).await, Ok(None), "{}", node.id());
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_of_the_leaders_wall_clock_ends_no_time_to_live() {
    let mut cluster = Cluster::start_on_clocks([100, 100, 100]).await;
    let with_ttl = Put { key: "k".into(), value: "v".into(), ttl_ms: 20_000, ..Put::default() };
    cluster.propose(&Command::single(with_ttl)).await;
    let leader = cluster.leader().await.id();
    cluster.clocks[&leader].set_ahead(Duration::from_secs(3_600));
    cluster.put("other", "v").await;
    sleep(Duration::from_secs(1)).await;
    for node in cluster.nodes.values() {
        let found = read(node, "k", ReadLevel::Linearizable).await;
        assert_eq!(found, Ok(Some("v".into())), "{}", node.id());
    }
    // The next leader goes on from the range's own time.
    cluster.crash(leader, 0).await;
    cluster.report_lost(leader);
    cluster.put("other", "w").await;
    let leader = cluster.leader().await;
    assert_eq!(read(leader, "k", ReadLevel::Linearizable).await, Ok(Some("v".into())));
}

#[tokio::test(start_paused = true)]
async fn range_time_never_goes_back_across_leaders() {
    let mut cluster = Cluster::start(3).await;
    let mut last = 0;
    for round in 0..4 {
        for i in 0..5 {
            let clock_ms = cluster.put(&format!("{round}-{i}"), "v").await.point.clock_ms;
            assert!(clock_ms >= last, "{clock_ms} after {last}");
            last = clock_ms;
            sleep(Duration::from_millis(300)).await;
        }
        let id = cluster.leader().await.id();
        let (replica, disk) = cluster.crash(id, 0).await;
        cluster.report_lost(id);
        cluster.boot(id, replica, disk).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_learner_becomes_a_voter_and_a_stale_plan_is_refused() {
    let mut cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    let (node, replica) = (NodeId(4), ReplicaId(1_004));
    cluster.boot(node, replica, SimDisk::new()).await.unwrap();
    let leader = cluster.leader().await;
    let planned = leader.replica.membership().position.unwrap();
    let voters: BTreeSet<_> = [1_001, 1_002, 1_004].map(ReplicaId).into();
    let stranger = leader.replica.change_voters(voters.clone(), planned).await;
    assert!(matches!(stranger, Err(Error::Membership(_))), "{stranger:?}");
    leader.replica.add_learner(replica, node, planned).await.unwrap();
    let stale = leader.replica.add_learner(ReplicaId(1_005), NodeId(5), planned).await;
    assert!(matches!(stale, Err(Error::Membership(_))), "{stale:?}");
    cluster.settle().await;
    sleep(Duration::from_millis(500)).await;
    let stale = leader.replica.change_voters(voters.clone(), planned).await;
    assert!(matches!(stale, Err(Error::Membership(_))), "{stale:?}");
    let planned = leader.replica.membership().position.unwrap();
    leader.replica.change_voters(voters.clone(), planned).await.unwrap();
    let info = cluster.leader().await.replica.membership();
    assert_eq!((info.voters, info.committed), (vec![voters], true));
    cluster.put("k", "w").await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(cluster.nodes[&node].peek("k"), Some(Bytes::from("w")));
    assert!(cluster.nodes[&node].replica.leader().role != Role::Learner);
}

#[tokio::test(start_paused = true)]
async fn a_learner_that_lags_does_not_become_a_voter() {
    let mut cluster = Cluster::start(3).await;
    let (node, replica) = (NodeId(4), ReplicaId(1_004));
    cluster.boot(node, replica, SimDisk::new()).await.unwrap();
    cluster.isolate(node, true);
    let leader = cluster.leader().await;
    let planned = leader.replica.membership().position.unwrap();
    leader.replica.add_learner(replica, node, planned).await.unwrap();
    for i in 0..600 {
        cluster.put(&format!("k{i}"), "v").await;
    }
    let planned = leader.replica.membership().position.unwrap();
    let voters: BTreeSet<_> = [1_001, 1_002, 1_003, 1_004].map(ReplicaId).into();
    let early = leader.replica.change_voters(voters.clone(), planned).await;
    assert!(matches!(early, Err(Error::Membership(_))), "{early:?}");
    cluster.isolate(node, false);
    cluster.settle().await;
    sleep(Duration::from_millis(500)).await;
    leader.replica.change_voters(voters, planned).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_a_deposed_leader_says_keeps_nobody_from_campaigning() {
    let mut cluster = Cluster::start(3).await;
    cluster.put("k", "v").await;
    cluster.settle().await;
    let leader = cluster.leader().await.id();
    let follower = cluster.follower().await.id();
    let term = cluster.nodes[&follower].replica.leader().term.0;
    cluster.crash(leader, 0).await;
    // Somebody who led before the crashed one goes on and on.
    let replica = cluster.nodes[&follower].replica.clone();
    let speaking = spawn(async move {
        loop {
            let vote = Some(peer::Vote { term: term - 1, node: 1_009, committed: true });
            let append = peer::AppendRequest { vote, ..Default::default() };
            let answer = replica.handle_heartbeat(append).await.unwrap();
            assert_eq!(answer.kind(), peer::append_response::Kind::HigherVote);
            replica.tend();
            sleep(Duration::from_millis(50)).await;
        }
    });
    sleep(Duration::from_millis(450)).await;
    assert!(!cluster.nodes[&follower].replica.status().parked, "its own leader is silent");
    cluster.leader_among(|id| id != leader).await;
    speaking.abort();
}
