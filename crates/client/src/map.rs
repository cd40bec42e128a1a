//! The cached cluster map, made ready for routing.
//!
//! A copy may be old: it only decides who is asked first. What a node answers (its leader hint,
//! its term) corrects the copy at once; the map's own stream corrects it soon after.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use holdfast_model::{ClusterId, ClusterMap, DEFAULT_KEYSPACE, NodeId, RangeDescriptor, RangeId};
use holdfast_runtime::{Deadline, Elapsed, Stop, sleep, timeout};
use holdfast_wire::v1;
use parking_lot::Mutex;

use crate::doors::Doors;
use crate::error::Error;
use crate::method;
use crate::session::RangeSession;
use crate::transport::{Connection, Failure};

/// One node is given this long to send the map before the next is asked.
const MAP_PATIENCE: Duration = Duration::from_secs(1);
/// A client that lives shorter than this never opens a map stream.
const WATCH_DELAY: Duration = Duration::from_secs(1);
/// Pause between map streams that broke: from …
const WATCH_PAUSE_MIN: Duration = Duration::from_millis(50);
/// … doubling to this.
const WATCH_PAUSE_MAX: Duration = Duration::from_secs(2);

/// What is known of a range beyond the map, kept over map changes.
#[derive(Debug, Default)]
pub(crate) struct RangeState {
    /// Node that leads, as last heard; 0 = unknown.
    leader: AtomicU64,
    /// Term that was heard in.
    term: AtomicU64,
    /// This client's session there.
    pub(crate) session: ArcSwapOption<RangeSession>,
}

/// One range with the connections to its replicas.
#[derive(Debug)]
pub(crate) struct Range {
    pub(crate) descriptor: RangeDescriptor,
    pub(crate) replicas: Vec<Peer>,
    pub(crate) state: Arc<RangeState>,
}

/// A node and the connection to it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) connection: Arc<Connection>,
}

impl Range {
    pub(crate) fn id(&self) -> RangeId {
        self.descriptor.id
    }

    /// The leader's replica, if it is known and in the map.
    pub(crate) fn leader(&self) -> Option<&Peer> {
        let leader = self.state.leader.load(Ordering::Relaxed);
        self.replicas.iter().find(|peer| peer.node.0 == leader)
    }

    /// Takes over what an answer says about the leader, unless an answer of a later term came.
    pub(crate) fn learn(&self, header: &v1::Header) {
        if header.leader_node_id == 0 || header.range_id != self.id().0 {
            return;
        }
        if self.state.leader.load(Ordering::Relaxed) == header.leader_node_id {
            return;
        }
        // Two answers may race here; the loser costs one extra hop, never a wrong result.
        if header.term >= self.state.term.load(Ordering::Relaxed) {
            self.state.term.store(header.term, Ordering::Relaxed);
            self.state.leader.store(header.leader_node_id, Ordering::Relaxed);
        }
    }

    /// Takes over a hint; 0 forgets the leader.
    pub(crate) fn hint(&self, leader: u64) {
        self.state.leader.store(leader, Ordering::Relaxed);
    }
}

/// One copy of the map.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(crate) map: ClusterMap,
    /// Ranges by keyspace name, in ring order.
    spaces: BTreeMap<String, Vec<Arc<Range>>>,
    by_id: BTreeMap<RangeId, Arc<Range>>,
    pub(crate) nodes: Vec<Peer>,
}

/// Why a place could not be found in this copy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Keyspace,
    Range,
}

impl Routes {
    pub(crate) fn is_empty(&self) -> bool {
        self.map.cluster == ClusterId::default()
    }

    /// The ranges of `keyspace` (empty = `default`), in ring order.
    pub(crate) fn ranges(&self, keyspace: &str) -> Option<&[Arc<Range>]> {
        let name = if keyspace.is_empty() { DEFAULT_KEYSPACE } else { keyspace };
        self.spaces.get(name).map(Vec::as_slice)
    }

    pub(crate) fn range_at(&self, keyspace: &str, position: u64) -> Result<&Arc<Range>, Missing> {
        let ranges = self.ranges(keyspace).ok_or(Missing::Keyspace)?;
        let after = ranges.partition_point(|range| range.descriptor.span.start <= position);
        after
            .checked_sub(1)
            .and_then(|index| ranges.get(index))
            .filter(|range| range.descriptor.span.contains(position))
            .ok_or(Missing::Range)
    }

    pub(crate) fn range(&self, id: RangeId) -> Option<&Arc<Range>> {
        self.by_id.get(&id)
    }

    pub(crate) fn all_ranges(&self) -> impl Iterator<Item = &Arc<Range>> {
        self.by_id.values()
    }
}

/// All connections of a client, by address.
#[derive(Debug)]
pub(crate) struct Pool {
    doors: Doors,
    connect_timeout: Duration,
    seeds: Vec<Arc<Connection>>,
    by_address: Mutex<BTreeMap<String, Arc<Connection>>>,
    turn: AtomicUsize,
}

impl Pool {
    pub(crate) fn new(endpoints: &[String], doors: Doors, connect_timeout: Duration) -> Self {
        let mut by_address = BTreeMap::new();
        let mut seeds: Vec<Arc<Connection>> = Vec::new();
        for address in endpoints {
            let connection = by_address
                .entry(address.clone())
                .or_insert_with(|| Connection::new(address, doors.clone(), connect_timeout));
            seeds.push(connection.clone());
        }
        let turn = usize::try_from(doors.entropy.u64() & 0xffff).unwrap_or(0);
        let by_address = Mutex::new(by_address);
        Self { doors, connect_timeout, seeds, by_address, turn: AtomicUsize::new(turn) }
    }

    pub(crate) fn first_seed(&self) -> Option<&Arc<Connection>> {
        self.seeds.first()
    }

    /// The connection to `address`, the same for every caller.
    pub(crate) fn get(&self, address: &str) -> Arc<Connection> {
        let make = || Connection::new(address, self.doors.clone(), self.connect_timeout);
        self.by_address.lock().entry(address.to_owned()).or_insert_with(make).clone()
    }

    /// Drops the connections to nodes that left; seeds stay.
    fn retain(&self, nodes: &[Peer]) {
        let is_wanted = |c: &Arc<Connection>| {
            self.seeds.iter().any(|seed| Arc::ptr_eq(seed, c))
                || nodes.iter().any(|peer| Arc::ptr_eq(&peer.connection, c))
        };
        self.by_address.lock().retain(|_, connection| is_wanted(connection));
    }

    /// A number that goes up with every call, to take turns by.
    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// Every known connection, healthy ones first, beginning with another one each time.
    fn rotation(&self, nodes: &[Peer]) -> Vec<Arc<Connection>> {
        let mut all: Vec<Arc<Connection>> =
            nodes.iter().map(|peer| peer.connection.clone()).collect();
        for seed in &self.seeds {
            if !all.iter().any(|known| Arc::ptr_eq(known, seed)) {
                all.push(seed.clone());
            }
        }
        if !all.is_empty() {
            let turn = self.next_turn() % all.len();
            all.rotate_left(turn);
        }
        all.sort_by_key(|connection| connection.is_suspect());
        all
    }
}

/// The newest copy of the map and the ways to a newer one.
#[derive(Debug)]
pub(crate) struct MapCache {
    routes: ArcSwap<Routes>,
    pub(crate) pool: Pool,
    installed: AtomicU64,
    refreshing: tokio::sync::Mutex<()>,
}

impl MapCache {
    pub(crate) fn new(pool: Pool) -> Self {
        Self {
            routes: ArcSwap::default(),
            pool,
            installed: AtomicU64::new(0),
            refreshing: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn routes(&self) -> Guard<Arc<Routes>> {
        self.routes.load()
    }

    /// Every known connection, healthy ones first.
    pub(crate) fn rotation(&self) -> Vec<Arc<Connection>> {
        self.pool.rotation(&self.routes.load().nodes)
    }

    /// Takes over `map` unless it is older than what is known or of another cluster.
    pub(crate) fn install(&self, map: ClusterMap) -> bool {
        let old = self.routes.load();
        if !old.is_empty() && old.map.cluster != map.cluster {
            tracing::warn!(ours = %old.map.cluster, theirs = %map.cluster, "another cluster");
            return false;
        }
        if !old.is_empty() && map.revision < old.map.revision {
            return false;
        }
        let routes = build(map, &old, &self.pool);
        self.pool.retain(&routes.nodes);
        self.routes.store(Arc::new(routes));
        self.installed.fetch_add(1, Ordering::Release);
        true
    }

    /// How many copies were installed so far; see [`MapCache::refresh`].
    pub(crate) fn version(&self) -> u64 {
        self.installed.load(Ordering::Acquire)
    }

    /// Asks the nodes in turn for the map, until one gives it. Callers that come together share
    /// one answer: nothing is asked if a copy newer than `seen` has been installed meanwhile.
    ///
    /// # Errors
    /// [`Error::Unavailable`] after every node was asked once; [`Error::FailedPrecondition`] if
    /// the cluster has not been founded.
    pub(crate) async fn refresh(&self, seen: u64, deadline: Deadline) -> Result<(), Error> {
        let _turn = deadline
            .limit(self.refreshing.lock())
            .await
            .map_err(|Elapsed| Error::Unavailable("the map was not answered in time".to_owned()))?;
        if self.version() > seen {
            return Ok(());
        }
        let mut last = Error::Unavailable("no endpoint is configured".to_owned());
        for connection in self.rotation() {
            let patience = deadline.remaining().min(MAP_PATIENCE);
            if patience.is_zero() {
                break;
            }
            match self.ask(&connection, patience).await {
                Ok(map) => {
                    self.install(map);
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn ask(&self, connection: &Connection, patience: Duration) -> Result<ClusterMap, Error> {
        let path = method::CLUSTER_MAP.path;
        let answer: v1::MapResponse = connection
            .unary(path, &v1::MapRequest {}, patience)
            .await
            .map_err(|failure| map_error(connection, &failure))?;
        let map = ClusterMap::try_from(answer).map_err(|e| Error::Malformed(e.to_string()))?;
        if map.cluster == ClusterId::default() {
            return Err(Error::FailedPrecondition("the cluster has not been founded".to_owned()));
        }
        Ok(map)
    }

    /// Follows the map's changes until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, stop: Stop) {
        let mut pause = WATCH_PAUSE_MIN;
        let mut wait = WATCH_DELAY;
        while stop.or(sleep(wait)).await.is_some() {
            let Some(connection) = self.rotation().into_iter().next() else { return };
            match stop.or(self.follow_one(&connection)).await {
                None => return,
                Some(0) => pause = (pause * 2).min(WATCH_PAUSE_MAX),
                Some(_) => pause = WATCH_PAUSE_MIN,
            }
            wait = pause;
        }
    }

    /// Follows one node's stream to its end; answers how many maps it sent.
    async fn follow_one(&self, connection: &Connection) -> usize {
        let opened = timeout(MAP_PATIENCE, connection.streams());
        let Ok(Ok(mut grpc)) = opened.await else { return 0 };
        let path = http::uri::PathAndQuery::from_static(method::WATCH_MAP);
        let codec = holdfast_wire::Codec::<v1::MapRequest, v1::MapResponse>::default();
        let request = tonic::Request::new(v1::MapRequest {});
        let Ok(Ok(answer)) =
            timeout(MAP_PATIENCE, grpc.server_streaming(request, path, codec)).await
        else {
            connection.suspect();
            return 0;
        };
        let mut stream = answer.into_inner();
        let mut received = 0;
        while let Ok(Some(message)) = stream.message().await {
            match ClusterMap::try_from(message) {
                Ok(map) => {
                    received += 1;
                    self.install(map);
                }
                Err(error) => tracing::warn!(%error, "a map that makes no sense was skipped"),
            }
        }
        received
    }
}

fn map_error(connection: &Connection, failure: &Failure) -> Error {
    match failure {
        Failure::Status(status) => match holdfast_wire::error_info(status) {
            Some(info) => crate::error::error_of_info(&info),
            None => crate::error::error_of_status(status),
        },
        Failure::NotSent(why) | Failure::Broken(why) => Error::Unavailable(why.clone()),
        Failure::TimedOut => Error::Unavailable(format!("{}: {failure}", connection.address())),
    }
}

/// Prepares `map` for routing; what is known of a range beyond the map is carried over.
fn build(map: ClusterMap, old: &Routes, pool: &Pool) -> Routes {
    let nodes: Vec<Peer> = map
        .nodes
        .values()
        .filter(|node| !node.client_address.is_empty())
        .map(|node| Peer { node: node.id, connection: pool.get(&node.client_address) })
        .collect();
    let peers = |range: &RangeDescriptor| {
        let hosted = nodes.iter().filter(|peer| range.replica_on(peer.node).is_some());
        hosted.cloned().collect::<Vec<_>>()
    };
    let mut by_id = BTreeMap::new();
    for descriptor in map.ranges.values() {
        let known = old.by_id.get(&descriptor.id);
        let state = known.map(|range| range.state.clone()).unwrap_or_default();
        let news = known.is_none_or(|range| range.descriptor.leader != descriptor.leader);
        if let (true, Some(leader)) = (news, descriptor.leader) {
            state.leader.store(leader.0, Ordering::Relaxed);
        }
        let replicas = peers(descriptor);
        let range = Arc::new(Range { descriptor: descriptor.clone(), replicas, state });
        by_id.insert(descriptor.id, range);
    }
    let mut spaces = BTreeMap::new();
    for keyspace in map.keyspaces.values() {
        let of_it = by_id.values().filter(|range| range.descriptor.keyspace == keyspace.id);
        let mut ranges: Vec<Arc<Range>> = of_it.cloned().collect();
        ranges.sort_by_key(|range| range.descriptor.span.start);
        spaces.insert(keyspace.name.clone(), ranges);
    }
    Routes { map, spaces, by_id, nodes }
}

#[cfg(test)]
mod tests {
    use holdfast_model::{
        History, KeyspaceDescriptor, KeyspaceId, NodeDescriptor, RangeEpoch, ReplicaDescriptor,
        ReplicaId, ReplicaRole, Revision, Span,
    };

    use super::*;

    fn map(revision: u64, leader: u64) -> ClusterMap {
        let mut map = ClusterMap::new(ClusterId(1), Revision(revision));
        for id in 1..=3 {
            let node = NodeDescriptor {
                id: NodeId(id),
                client_address: format!("127.0.0.{id}:1"),
                peer_address: String::new(),
                http_address: String::new(),
                zone: String::new(),
                weight_milli: 1000,
            };
            map.nodes.insert(node.id, node);
        }
        let space = KeyspaceDescriptor {
            id: KeyspaceId(1),
            name: "default".to_owned(),
            ranges: 4,
            replication_factor: 2,
            history: History::default(),
            compaction: Default::default(),
            kind: Default::default(),
        };
        map.keyspaces.insert(space.name.clone(), space);
        for (index, span) in Span::split_ring(4).into_iter().enumerate() {
            let replica = |node| ReplicaDescriptor {
                id: ReplicaId(1000 + node),
                node: NodeId(node),
                role: ReplicaRole::Voter,
            };
            map.put_range(RangeDescriptor {
                id: RangeId(index as u64 + 1),
                keyspace: KeyspaceId(1),
                span,
                epoch: RangeEpoch(1),
                membership_log: (1, 1),
                replicas: vec![replica(1), replica(2)],
                leader: Some(NodeId(leader)),
            });
        }
        map
    }

    fn cache() -> MapCache {
        let pool = Pool::new(&["127.0.0.1:1".to_owned()], Doors::default(), MAP_PATIENCE);
        MapCache::new(pool)
    }

    fn leader_of(cache: &MapCache, position: u64) -> u64 {
        let routes = cache.routes();
        let range = routes.range_at("", position).unwrap();
        range.leader().unwrap().node.0
    }

    #[test]
    fn every_position_is_routed_to_the_range_that_contains_it() {
        let cache = cache();
        assert_eq!(cache.routes().range_at("", 0).unwrap_err(), Missing::Keyspace);
        assert!(cache.install(map(1, 1)));
        for position in [0, 1, u64::MAX / 4, u64::MAX / 2 + 1, u64::MAX] {
            let routes = cache.routes();
            let range = routes.range_at("default", position).unwrap();
            assert!(range.descriptor.span.contains(position));
            assert_eq!(range.replicas.len(), 2);
        }
    }

    #[test]
    fn a_learned_leader_outlives_a_map_that_says_nothing_about_it() {
        let cache = cache();
        cache.install(map(1, 1));
        assert_eq!(leader_of(&cache, 0), 1);
        let range_id = cache.routes().range_at("", 0).unwrap().id().0;
        let header = |term, leader_node_id| v1::Header {
            range_id,
            term,
            leader_node_id,
            ..Default::default()
        };
        cache.routes().range_at("", 0).unwrap().learn(&header(5, 2));
        assert_eq!(leader_of(&cache, 0), 2);
        cache.install(map(2, 1));
        assert_eq!(leader_of(&cache, 0), 2, "the map did not change its mind");
        cache.routes().range_at("", 0).unwrap().learn(&header(4, 1));
        assert_eq!(leader_of(&cache, 0), 2, "an answer of an older term");
        cache.install(map(3, 2));
        cache.install(map(4, 1));
        assert_eq!(leader_of(&cache, 0), 1, "the map changed its mind");
    }

    #[test]
    fn an_older_map_and_another_clusters_map_are_refused() {
        let cache = cache();
        assert!(cache.install(map(5, 1)));
        assert!(!cache.install(map(4, 2)));
        let mut foreign = map(9, 2);
        foreign.cluster = ClusterId(2);
        assert!(!cache.install(foreign));
        assert_eq!(leader_of(&cache, 0), 1);
    }

    #[test]
    fn a_seed_that_is_a_node_shares_its_connection() {
        let cache = cache();
        cache.install(map(1, 1));
        assert_eq!(cache.rotation().len(), 3);
    }
}
