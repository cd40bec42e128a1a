//! Streams between two nodes, on a network that breaks when told to.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use holdfast_model::{ClusterId, NodeId};
use holdfast_node::peers::{ForwardError, ForwardSender, Standing};
use holdfast_replica::{PeerError, Peers, SnapshotSource};
use holdfast_wire::peer::v1::{
    AppendRequest, ForwardRequest, SnapshotData, SnapshotHeader, StagedFile, VoteRequest,
    forward_request::Work,
};

use crate::net::{TestNet, Weather};
use crate::rig::{Person, Side, append, pair, replica};

const LIMIT: Duration = Duration::from_secs(1);
const WHILE: Duration = Duration::from_secs(10);

#[tokio::test(start_paused = true)]
async fn appends_of_many_ranges_are_answered_in_order_without_further_connections() {
    let net = TestNet::new();
    let (one, _two) = pair(&net).await;
    // The second class may still be connecting.
    one.transport.vote(&replica(0), VoteRequest::default(), LIMIT).await.unwrap();
    let mut sessions = Vec::new();
    for range in 0..32 {
        match one.transport.open_session(&replica(range)) {
            Ok(session) => sessions.push(session),
            Err(_) => {
                holdfast_runtime::sleep(LIMIT).await;
                sessions.push(one.transport.open_session(&replica(range)).unwrap());
            }
        }
    }
    let connections = net.connections();
    for index in 0..200 {
        for session in &sessions {
            session.requests.send(append(index, 100)).await.unwrap();
        }
        for session in &mut sessions {
            let answer = session.responses.recv().await.unwrap().unwrap();
            assert_eq!(answer.log_id.unwrap().index, index);
        }
    }
    assert_eq!(net.connections(), connections);
    // A session ends when its sender does, and its end comes back.
    let mut session = sessions.pop().unwrap();
    drop(session.requests);
    assert_eq!(session.responses.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn an_append_of_sixteen_mebibytes_arrives() {
    let net = TestNet::new();
    let (one, _two) = pair(&net).await;
    holdfast_runtime::sleep(LIMIT).await;
    let mut session = one.transport.open_session(&replica(1)).unwrap();
    session.requests.send(append(5, 16 << 20)).await.unwrap();
    assert_eq!(session.responses.recv().await.unwrap().unwrap().log_id.unwrap().index, 5);
}

#[tokio::test(start_paused = true)]
async fn a_session_of_a_replica_that_is_not_there_is_refused() {
    let net = TestNet::new();
    let (one, _two) = pair(&net).await;
    holdfast_runtime::sleep(LIMIT).await;
    let mut session = one.transport.open_session(&replica(100)).unwrap();
    let answer = session.responses.recv().await.unwrap();
    assert!(matches!(answer, Err(PeerError::Refused(_))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn an_urgent_heartbeat_does_not_wait_and_others_wait_no_longer_than_the_window() {
    let net = TestNet::new();
    let (one, _two) = pair(&net).await;
    for (urgent, limit_ms) in [(true, 5), (false, 25)] {
        let started = tokio::time::Instant::now();
        let beat = one.transport.heartbeat(&replica(1), AppendRequest::default(), urgent);
        beat.await.unwrap();
        let waited = started.elapsed();
        assert!(waited <= Duration::from_millis(limit_ms), "urgent {urgent}: {waited:?}");
        assert_eq!(urgent, waited < Duration::from_millis(20), "urgent {urgent}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_reported_at_once_and_mended_when_it_can_be() {
    let net = TestNet::new();
    let (mut one, _two) = pair(&net).await;
    holdfast_runtime::sleep(LIMIT).await;
    let mut session = one.transport.open_session(&replica(1)).unwrap();
    let vote = one.transport.vote(&replica(99), VoteRequest::default(), WHILE);
    let started = tokio::time::Instant::now();
    net.set(Weather::Cut);
    one.until(2, false).await;
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    assert!(matches!(vote.await, Err(PeerError::Broken(_))));
    assert!(matches!(session.responses.recv().await, Some(Err(PeerError::Broken(_)))));
    assert!(matches!(one.transport.open_session(&replica(1)), Err(PeerError::Unreachable(_))));
    net.set(Weather::Fine);
    one.until(2, true).await;
    one.transport.vote(&replica(2), VoteRequest::default(), LIMIT).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_is_lost_after_three_heartbeats() {
    let net = TestNet::new();
    let (mut one, _two) = pair(&net).await;
    holdfast_runtime::sleep(WHILE).await;
    assert_eq!(one.transport.connected(), [NodeId(2)], "an idle node is not lost");
    let started = tokio::time::Instant::now();
    net.set(Weather::Frozen);
    one.until(2, false).await;
    let waited = started.elapsed();
    assert!((500..1100).contains(&waited.as_millis()), "{waited:?}");
    net.set(Weather::Fine);
    one.until(2, true).await;
}

#[tokio::test(start_paused = true)]
async fn a_step_of_the_own_wall_clock_shows_before_clocks_are_compared_again() {
    let net = TestNet::new();
    let (one, _two) = pair(&net).await;
    assert_eq!(one.transport.wall_offset_ms(NodeId(2)), Some(0));
    one.wall_step_ms.store(60_000, Ordering::Relaxed);
    assert_eq!(one.transport.wall_offset_ms(NodeId(2)), Some(-60_000));
    holdfast_runtime::sleep(3 * WHILE).await;
    assert_eq!(one.transport.wall_offset_ms(NodeId(2)), Some(-60_000));
}

#[tokio::test(start_paused = true)]
async fn a_node_of_another_cluster_is_not_spoken_to() {
    let net = TestNet::new();
    let one = Side::start(&net, Person::node(1)).await;
    let _two = Side::start(&net, Person { cluster: ClusterId(8), ..Person::node(2) }).await;
    one.know(&[2]);
    holdfast_runtime::sleep(WHILE).await;
    assert_eq!(one.transport.connected(), []);
}

/// Lets node 2 be known to node 1, stops it, and starts it again as `second`, which calls node 1
/// itself or is only called. Gives node 1's connections and what node 2 knows of its standing.
async fn restarted_as(first: Person, second: Person, calls: bool) -> (Vec<NodeId>, Standing) {
    let net = TestNet::new();
    let mut one = Side::start(&net, Person::node(1)).await;
    let two = Side::start(&net, first).await;
    one.know(&[2]);
    two.know(&[1]);
    one.until(2, true).await;
    two.transport.stop(LIMIT).await;
    two.tasks.stop(LIMIT).await.unwrap();
    net.set(Weather::Cut);
    one.until(2, false).await;
    net.set(Weather::Fine);
    let two = Side::start(&net, second).await;
    if calls {
        two.know(&[1]);
    }
    holdfast_runtime::sleep(WHILE).await;
    let seen = one.transport.connected();
    if calls {
        // Neither side speaks: it is refused where it calls as well as where it is called.
        assert_eq!(two.transport.connected().len(), seen.len());
    }
    let standing = two.transport.standing().borrow().clone();
    (seen, standing)
}

#[tokio::test(start_paused = true)]
async fn a_node_that_restarts_on_its_own_directory_is_welcome() {
    let (first, second) = (Person::node(2), Person { boots: 5, ..Person::node(2) });
    let (seen, standing) = restarted_as(Person { boots: 3, ..first }, second, true).await;
    assert_eq!((seen, standing), (vec![NodeId(2)], Standing::Accepted));
}

/// Node 2 must have been refused by node 1, with `words`, and know it.
async fn refused(first: Person, second: Person, words: &str) {
    for calls in [true, false] {
        let (seen, standing) = restarted_as(first, second, calls).await;
        assert_eq!(seen, [], "it calls: {calls}");
        let Standing::Refused(reason) = standing else { panic!("it calls: {calls}: {standing:?}") };
        assert!(reason.starts_with("n1 refuses") && reason.contains(words), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_disk_was_rolled_back_is_told_so_whoever_calls_first() {
    let first = Person { boots: 3, ..Person::node(2) };
    refused(first, Person { boots: 1, ..first }, "rolled back").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_with_another_directory_under_an_old_id_is_told_so_whoever_calls_first() {
    let first = Person::node(2);
    refused(first, Person { seed: 77, boots: 9, ..first }, "another data directory").await;
}

#[tokio::test(start_paused = true)]
async fn a_node_exchanges_nothing_before_it_was_introduced() {
    let net = TestNet::new();
    let one = Side::start(&net, Person::node(1)).await;
    let two = Side::unintroduced(&net, Person::node(2)).await;
    one.know(&[2]);
    two.know(&[1]);
    holdfast_runtime::sleep(WHILE).await;
    assert_eq!((one.transport.connected(), two.transport.connected()), (vec![], vec![]));
    // Node 9 never answers; node 1 does: the silent one is waited for so long and no longer.
    let nodes = [1, 9].map(|id| (NodeId(id), crate::rig::address(id))).into();
    let started = tokio::time::Instant::now();
    two.transport.introduce(&nodes, LIMIT).await;
    assert_eq!(started.elapsed().as_secs(), LIMIT.as_secs());
    holdfast_runtime::sleep(WHILE).await;
    let connected = (one.transport.connected(), two.transport.connected());
    assert_eq!(connected, (vec![NodeId(2)], vec![NodeId(1)]));
}

fn command(range_id: u64) -> ForwardRequest {
    command_of(range_id, 7)
}

fn command_of(range_id: u64, bytes: usize) -> ForwardRequest {
    let work = Some(Work::Command(Bytes::from(vec![7; bytes])));
    ForwardRequest { range_id, work, ..ForwardRequest::default() }
}

/// Travels by a call of its own.
const LARGE_BYTES: usize = 300 * 1024;

#[tokio::test(start_paused = true)]
async fn short_operations_share_a_stream_and_a_large_one_has_a_call_of_its_own() {
    let net = TestNet::new();
    let (one, _two) = pair(&net).await;
    holdfast_runtime::sleep(LIMIT).await;
    let connections = net.connections();
    let calls = (1..200).map(|range| one.transport.forward(NodeId(2), command(range % 50), LIMIT));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap().resume_key.unwrap().len(), 7);
    }
    assert_eq!(net.connections(), connections);
    let large = one.transport.forward(NodeId(2), command_of(1, LARGE_BYTES), LIMIT).await;
    assert_eq!(large.unwrap().resume_key.unwrap().len(), LARGE_BYTES);
    assert!(net.connections() > connections);
}

#[tokio::test(start_paused = true)]
async fn a_forwarded_operation_tells_never_sent_from_unknown() {
    for bytes in [7, LARGE_BYTES] {
        let net = TestNet::new();
        let (mut one, _two) = pair(&net).await;
        holdfast_runtime::sleep(LIMIT).await;
        let ask = |node, range, limit| {
            one.transport.forward(NodeId(node), command_of(range, bytes), limit)
        };
        let answer = ask(2, 1, LIMIT).await.unwrap();
        assert_eq!(answer.resume_key.unwrap().len(), bytes);
        let unknown_node = ask(9, 1, LIMIT).await;
        assert!(matches!(unknown_node, Err(ForwardError::NotSent(NodeId(9), _))));
        let slow = ask(2, 99, LIMIT).await;
        assert!(matches!(slow, Err(ForwardError::Unknown(NodeId(2), _))));
        let cut = holdfast_runtime::spawn(ask(2, 99, WHILE));
        holdfast_runtime::sleep(Duration::from_millis(10)).await;
        net.set(Weather::Cut);
        let cut = cut.await.unwrap();
        assert!(matches!(cut, Err(ForwardError::Unknown(NodeId(2), _))), "{cut:?}");
        one.until(2, false).await;
        let gone = one.transport.forward(NodeId(2), command_of(1, bytes), LIMIT).await;
        assert!(matches!(gone, Err(ForwardError::NotSent(NodeId(2), _))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_forwarded_operation_does_not_wait_for_a_node_that_fell_silent() {
    let net = TestNet::new();
    let (mut one, _two) = pair(&net).await;
    for _ in 0..2 {
        let asked = holdfast_runtime::spawn(one.transport.forward(NodeId(2), command(99), WHILE));
        holdfast_runtime::sleep(LIMIT).await;
        let started = tokio::time::Instant::now();
        net.set(Weather::Frozen);
        let answer = asked.await.unwrap();
        assert!(matches!(answer, Err(ForwardError::Unknown(NodeId(2), _))), "{answer:?}");
        assert!(started.elapsed() < Duration::from_millis(1_100), "{:?}", started.elapsed());
        net.set(Weather::Fine);
        one.until(2, true).await;
        let answer = one.transport.forward(NodeId(2), command(1), LIMIT).await.unwrap();
        assert_eq!(answer.resume_key.unwrap().len(), 7);
    }
}

struct Content {
    chunks: usize,
    sent: u64,
}

impl SnapshotSource for Content {
    fn resume(&mut self, staged: Vec<StagedFile>) {
        self.sent = staged.iter().map(|file| file.bytes).sum();
        let chunks = usize::try_from(self.sent).unwrap() / (256 * 1024);
        self.chunks -= chunks;
    }

    fn next_chunk(&mut self, bytes_max: usize) -> std::io::Result<Option<SnapshotData>> {
        if self.chunks == 0 {
            return Ok(None);
        }
        self.chunks -= 1;
        let bytes = Bytes::from(vec![7; bytes_max]);
        let offset = self.sent;
        self.sent += bytes.len() as u64;
        Ok(Some(SnapshotData { file: "a".into(), offset, bytes, checksum: 0 }))
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_arrives_whole_and_no_faster_than_allowed() {
    let net = TestNet::new();
    let (one, two) = pair(&net).await;
    let started = tokio::time::Instant::now();
    let source = Box::new(Content { chunks: 12, sent: 0 });
    let sent = one.transport.send_snapshot(&replica(1), SnapshotHeader::default(), source);
    let result = sent.await.unwrap();
    let bytes = two.heard.snapshot.lock().len();
    assert_eq!(bytes as u64, result.received_bytes);
    assert_eq!(bytes, 12 * 256 * 1024);
    assert_eq!(*two.heard.finished.lock(), 1);
    // 3 MiB at 1 MiB per second; the last chunk is not waited for.
    assert!(started.elapsed() >= Duration::from_millis(2_700), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_whose_connection_broke_goes_on_where_it_ended() {
    let net = TestNet::new();
    let (mut one, two) = pair(&net).await;
    let source = Box::new(Content { chunks: 12, sent: 0 });
    let sent = one.transport.send_snapshot(&replica(1), SnapshotHeader::default(), source);
    let sent = holdfast_runtime::spawn(sent);
    holdfast_runtime::sleep(Duration::from_millis(1_600)).await;
    net.set(Weather::Cut);
    sent.await.unwrap().unwrap_err();
    one.until(2, false).await;
    let before = two.heard.snapshot.lock().len();
    assert!((4 << 18..12 << 18).contains(&before), "{before} bytes have arrived");
    net.set(Weather::Fine);
    one.until(2, true).await;
    let source = Box::new(Content { chunks: 12, sent: 0 });
    let sent = one.transport.send_snapshot(&replica(1), SnapshotHeader::default(), source);
    // The receiver refuses any byte it has: `offset` would not be where it stands.
    assert_eq!(sent.await.unwrap().received_bytes, 12 * 256 * 1024);
    assert_eq!(*two.heard.finished.lock(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_given_up_is_not_installed() {
    let net = TestNet::new();
    let (one, two) = pair(&net).await;
    let source = Box::new(Content { chunks: 1_000, sent: 0 });
    let sent = one.transport.send_snapshot(&replica(1), SnapshotHeader::default(), source);
    assert!(holdfast_runtime::timeout(LIMIT, sent).await.is_err());
    holdfast_runtime::sleep(WHILE).await;
    assert_eq!(*two.heard.finished.lock(), 0);
}
