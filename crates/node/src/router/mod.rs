//! From a key to the replica that can answer: the way of every call.
//!
//! key → hash position → range (cached map) → a replica of this node, or another node's through
//! the peer port. The receiver of a forwarded operation serves it or refuses; only the origin
//! looks again, and it repeats only what certainly changed nothing.
//! Invariants:
//! * A mutation is sent a second time only after an answer that proves that it was not appended.
//! * A `direct` call never leaves this node.
//! * The map only says where to ask; whether the range owns the key is checked in its own state.

mod allow;
mod attempt;
mod backoff;
mod cluster;
mod coordination;
mod etcd;
mod forwarded;
mod interval;
mod lock_wait;
mod outcome;
mod read;
mod scan;
mod serve;
mod token;
mod told;
mod users;
mod watch;
mod write;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use holdfast_env::{Clock, Entropy};
use holdfast_kv as kv;
use holdfast_model::{
    ClusterMap, KeyspaceDescriptor, MapError, NodeId, RangeDescriptor, RangeId, SYSTEM_KEYSPACE,
};
use holdfast_replica::Replica;
use holdfast_runtime::Pool;

use crate::api::{ApiError, Call, ClusterAdmin, Header, Observer, Operation, ReadLevel};
use crate::auth::{Access, Authorizer, Keys, Verb};
use crate::errors::LeaderHint;
use crate::limits::Limits;
use crate::peers::ForwardSender;
use crate::system::MapCache;
use crate::users::{Settings, Users};
use told::Told;

pub(crate) use attempt::answer_by;
pub(crate) use coordination::unexpected;
pub(crate) use outcome::item_status;

/// What the router asks of the node around it.
pub trait Host: Send + Sync + Debug + 'static {
    /// This node; id 0 before it belongs to a cluster.
    fn node(&self) -> NodeId;

    /// This node's replica of `range`, if it hosts one. Asked on every call: a look-up in memory.
    fn replica(&self, range: RangeId) -> Option<Replica>;

    /// Whether the node takes requests now.
    ///
    /// # Errors
    /// [`ApiError::NotReady`] while it starts, is empty, or drains.
    fn admit(&self) -> Result<(), ApiError>;
}

/// What a [`Gateway`] is made of.
#[derive(Clone)]
pub struct GatewayParts {
    /// The node around it.
    pub host: Arc<dyn Host>,
    /// The node's copy of the cluster map.
    pub map: Arc<MapCache>,
    /// The way to other nodes.
    pub forward: Arc<dyn ForwardSender>,
    /// Founding, keyspaces, leadership.
    pub admin: Arc<dyn ClusterAdmin>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
    /// Who counts calls.
    pub observer: Arc<dyn Observer>,
    /// What a request may ask for; validated.
    pub limits: Limits,
    /// Of the users that keyspaces have.
    pub users: Settings,
    /// Threads that may wait for a disk.
    pub pool: Pool,
    /// Time, to measure calls with.
    pub clock: Arc<dyn Clock>,
    /// Randomness, for lease ids and jitter.
    pub entropy: Arc<dyn Entropy>,
}

/// The API of a node: implements every trait of [`crate::api`]. Clones share everything.
#[derive(Clone)]
pub struct Gateway {
    parts: Arc<GatewayParts>,
    /// The rules of single operations, taken out of the limits once.
    rules: Arc<kv::Limits>,
    users: Arc<Users>,
    told: Arc<Told>,
}

impl Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("host", &self.parts.host).finish_non_exhaustive()
    }
}

/// Where an operation belongs, as the caller named it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// At a point of the ring.
    Position {
        /// Keyspace; empty = `default`.
        keyspace: &'a str,
        /// The point.
        position: u64,
    },
    /// In a range that was named.
    Range {
        /// Keyspace it must belong to; empty = `default`.
        keyspace: &'a str,
        /// The range.
        range: RangeId,
    },
}

/// What the map says about the range an operation belongs to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub range: RangeId,
    pub leader: Option<NodeId>,
}

impl Gateway {
    /// A gateway of `parts`.
    pub fn new(parts: GatewayParts) -> Self {
        let rules = Arc::new(parts.limits.operations());
        let users = Arc::new(Users::new(parts.users));
        Self { parts: Arc::new(parts), rules, users, told: Arc::default() }
    }

    /// The limits requests are held to.
    pub fn limits(&self) -> &Limits {
        &self.parts.limits
    }

    /// This node; id 0 before it belongs to a cluster.
    pub(crate) fn node(&self) -> NodeId {
        self.parts.host.node()
    }

    /// Time since an arbitrary start, for [`Gateway::finished`].
    pub fn now(&self) -> Duration {
        self.parts.clock.monotonic()
    }

    /// Who is told how calls go.
    pub fn observer(&self) -> &Arc<dyn Observer> {
        &self.parts.observer
    }

    /// Tells metrics and the slow-request log how a call went.
    pub fn finished(
        &self,
        operation: Operation,
        level: Option<ReadLevel>,
        error: Option<&ApiError>,
        started: Duration,
    ) {
        let elapsed = self.now().saturating_sub(started);
        let code = error.map_or(tonic::Code::Ok, ApiError::grpc_code);
        self.parts.observer.finished(operation, level, code, elapsed);
        let slow = Duration::from_millis(self.parts.limits.slow_request_ms);
        // A lock is waited for as long as the caller likes.
        if !slow.is_zero() && elapsed >= slow && operation != Operation::Lock {
            let (operation, ms) = (operation.name(), elapsed.as_millis());
            let outcome = error.map(ToString::to_string).unwrap_or_else(|| "ok".into());
            tracing::warn!(operation, elapsed_ms = ms, outcome, "slow request");
        }
    }

    /// Lets a call on `keyspace` in. Where this node's copy of the map does not name the keyspace,
    /// range 0 is asked first: nobody is refused because of a copy that lags.
    pub(crate) async fn enter(&self, call: &Call, keyspace: &str) -> Result<(), ApiError> {
        self.parts.host.admit()?;
        let is_known = {
            let map = self.parts.map.peek();
            // Before it belongs to a cluster a node has nobody to ask; that of range 0 is what it
            // would ask.
            map.cluster.0 == 0 || keyspace == SYSTEM_KEYSPACE || map.keyspace(keyspace).is_ok()
        };
        // A name that no keyspace can have is looked for nowhere.
        if is_known || call.direct || cluster::keyspace_name(keyspace).is_err() {
            return Ok(());
        }
        self.parts.admin.look_for_keyspace(call, keyspace).await.map_err(|error| {
            ApiError::NotReady(format!("whether keyspace {keyspace:?} exists: {error}"))
        })
    }

    fn allow(
        &self,
        call: &Call,
        verb: Verb,
        keyspace: &str,
        keys: Keys<'_>,
    ) -> Result<(), ApiError> {
        self.parts.authorizer.authorize(&call.identity, Access { verb, keyspace, keys })
    }

    fn validate(&self, command: &kv::Command) -> Result<(), ApiError> {
        kv::validate(command, &self.rules).map_err(invalid)
    }

    /// The range an operation belongs to, by the map as it is now.
    fn resolve(&self, place: Place<'_>) -> Result<Target, ApiError> {
        let map = self.parts.map.peek();
        let range = match place {
            Place::Position { keyspace, position } => {
                map.lookup(keyspace, position).map_err(|error| no_range(&map, error))?
            }
            Place::Range { keyspace, range } => range_of(&map, keyspace, range)?,
        };
        Ok(Target { range: range.id, leader: range.leader })
    }

    /// The header of an answer that no single range formed.
    pub fn plain_header(&self) -> Header {
        let map = self.parts.map.peek();
        Header { cluster: map.cluster, node: self.parts.host.node(), ..Header::default() }
    }

    /// The error of a node that does not lead, with the way to the one that does.
    fn not_leader(&self, range: RangeId, leader: Option<NodeId>) -> ApiError {
        let map = self.parts.map.peek();
        let address = leader.and_then(|node| map.nodes.get(&node));
        let address = address.map(|node| node.client_address.clone()).unwrap_or_default();
        let leader = LeaderHint { node: leader, address };
        ApiError::NotLeader { range: format!("range {}", range.0), leader }
    }
}

/// A named range, if it belongs to the keyspace.
fn range_of<'a>(
    map: &'a ClusterMap,
    keyspace: &str,
    range: RangeId,
) -> Result<&'a RangeDescriptor, ApiError> {
    let space = keyspace_of(map, keyspace)?;
    let found = map.ranges.get(&range).filter(|found| found.keyspace == space.id);
    found.ok_or_else(|| {
        let text = format!("range {} is not part of keyspace {:?}", range.0, space.name);
        ApiError::NotHere(text)
    })
}

fn keyspace_of<'a>(map: &'a ClusterMap, name: &str) -> Result<&'a KeyspaceDescriptor, ApiError> {
    map.keyspace(name).map_err(|error| no_range(map, error))
}

/// What a failed look-up means: an unknown keyspace is the caller's mistake only where this node
/// has a map to know it by.
fn no_range(map: &ClusterMap, error: MapError) -> ApiError {
    match error {
        _ if map.cluster.0 == 0 => {
            ApiError::NotReady("this node does not belong to a cluster yet".into())
        }
        MapError::UnknownKeyspace(name) => ApiError::UnknownKeyspace(name),
        MapError::NoRange(..) => ApiError::NotHere(error.to_string()),
    }
}

/// A broken rule of an operation, as the caller reads it.
fn invalid(invalid: kv::Invalid) -> ApiError {
    match invalid {
        kv::Invalid::TooLarge { what, limit, given } => {
            ApiError::TooLarge { what: what.into(), limit, given }
        }
        kv::Invalid::DuplicateKey => ApiError::DuplicateKey,
        kv::Invalid::TooSmall { .. } | kv::Invalid::Rule(_) => {
            ApiError::Invalid(invalid.to_string())
        }
    }
}
